//! Decides who owns the claims of a StatefulSet, and so what ends them: `persistentVolumeClaimRetentionPolicy`.
//!
//! Pure. A claim without owner stays for ever; one that its set owns goes with the set; one that its
//! Pod owns goes with the Pod, which is set only when the Pod is no longer wanted. The garbage
//! collection does the rest.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::pods::{claim_names, owner_reference, pod_name};

/// VolumeClaims by name.
pub(super) type VolumeClaims<'a> = BTreeMap<&'a str, &'a PersistentVolumeClaim>;

/// The owners of a claim that is made for a wanted Pod.
pub(super) fn owners_at_creation(set: &StatefulSet) -> Vec<OwnerReference> {
    if deletes_with_set(set) { vec![claim_owner(set)] } else { Vec::new() }
}

/// The claims of one ordinal whose owners are not as the policy wants them, with the right owners.
pub(super) fn claim_owners<'a>(
    set: &StatefulSet,
    ordinal: i32,
    is_wanted: bool,
    pod: Option<&Pod>,
    claims: &VolumeClaims<'a>,
) -> Vec<(&'a PersistentVolumeClaim, Vec<OwnerReference>)> {
    let goes_with_pod = deletes_when_scaled(set) && !is_wanted;
    let set_owner = (deletes_with_set(set) && !goes_with_pod).then(|| claim_owner(set));
    let pod_owner = pod.filter(|_| goes_with_pod).map(pod_reference);
    let wanted: Vec<OwnerReference> = set_owner.into_iter().chain(pod_owner).collect();
    let of_ordinal = claim_names(set, ordinal).into_iter();
    of_ordinal
        .filter_map(|(_, name)| claims.get(name.as_str()).copied())
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
        .filter_map(|claim| {
            let found = claim.metadata.owner_references.as_deref().unwrap_or_default();
            let foreign = found.iter().filter(|owner| !is_ours(set, ordinal, owner)).cloned();
            let owners: Vec<OwnerReference> = foreign.chain(wanted.iter().cloned()).collect();
            (owners != found).then_some((claim, owners))
        })
        .collect()
}

/// Tells whether a claim of a Pod that does not exist is about to go: it is being deleted, or is
/// owned by the Pod's predecessor. Its successor must not be bound to it.
pub(super) fn are_in_the_way(set: &StatefulSet, ordinal: i32, claims: &VolumeClaims<'_>) -> bool {
    let pod = pod_name(set, ordinal);
    claim_names(set, ordinal).iter().any(|(_, name)| {
        claims.get(name.as_str()).is_some_and(|claim| {
            let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
            claim.metadata.deletion_timestamp.is_some()
                || owners.iter().any(|owner| owner.kind == "Pod" && owner.name == pod)
        })
    })
}

fn is_ours(set: &StatefulSet, ordinal: i32, owner: &OwnerReference) -> bool {
    let is_set = owner.kind == "StatefulSet" && Some(&owner.uid) == set.metadata.uid.as_ref();
    is_set || (owner.kind == "Pod" && owner.name == pod_name(set, ordinal))
}

fn deletes_with_set(set: &StatefulSet) -> bool {
    policy(set, |when_deleted, _| when_deleted)
}

fn deletes_when_scaled(set: &StatefulSet) -> bool {
    policy(set, |_, when_scaled| when_scaled)
}

fn policy(set: &StatefulSet, pick: impl Fn(bool, bool) -> bool) -> bool {
    let policy =
        set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| {
        let deletes = |when: &Option<String>| when.as_deref() == Some("Delete");
        pick(deletes(&policy.when_deleted), deletes(&policy.when_scaled))
    })
}

/// The set owns the claim without controlling it, as Kubernetes has it.
fn claim_owner(set: &StatefulSet) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..owner_reference(set) }
}

fn pod_reference(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}
