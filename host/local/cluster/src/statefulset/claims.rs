//! Decides which object owns the claims of a StatefulSet, and so with which they are deleted:
//! `persistentVolumeClaimRetentionPolicy`.
//!
//! This module is pure. A claim without an owner stays forever. A claim that its set owns is deleted with the
//! set. A claim that its Pod owns is deleted with the Pod; the Pod becomes the owner only when it is no
//! longer desired. Garbage collection deletes the claims.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::pods::{claim_names, owner_reference, pod_name};

/// Claims by name.
pub(super) type VolumeClaims<'a> = BTreeMap<&'a str, &'a PersistentVolumeClaim>;

/// Returns the owners of a claim that is created for a desired Pod.
pub(super) fn owners_at_creation(set: &StatefulSet) -> Vec<OwnerReference> {
    if deletes_with_set(set) { vec![claim_owner(set)] } else { Vec::new() }
}

/// Returns the claims of one ordinal whose owners differ from those of the policy, with the correct owners.
pub(super) fn claim_owners<'a>(
    set: &StatefulSet,
    ordinal: i32,
    is_desired: bool,
    pod: Option<&Pod>,
    claims: &VolumeClaims<'a>,
) -> Vec<(&'a PersistentVolumeClaim, Vec<OwnerReference>)> {
    let is_deleted_with_pod = deletes_when_scaled(set) && !is_desired;
    let set_owner = (deletes_with_set(set) && !is_deleted_with_pod).then(|| claim_owner(set));
    let pod_owner = pod.filter(|_| is_deleted_with_pod).map(pod_reference);
    let desired: Vec<OwnerReference> = set_owner.into_iter().chain(pod_owner).collect();
    let of_ordinal = claim_names(set, ordinal).into_iter();
    of_ordinal
        .filter_map(|(_, name)| claims.get(name.as_str()).copied())
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
        .filter_map(|claim| {
            let found = claim.metadata.owner_references.as_deref().unwrap_or_default();
            let foreign = found.iter().filter(|owner| !is_ours(set, ordinal, owner)).cloned();
            let owners: Vec<OwnerReference> = foreign.chain(desired.iter().cloned()).collect();
            (owners != found).then_some((claim, owners))
        })
        .collect()
}

/// Returns true if a claim for a Pod that does not exist is about to be deleted: it is being deleted already,
/// or the Pod's predecessor owns it. The successor must not be bound to it.
pub(super) fn are_being_deleted(
    set: &StatefulSet,
    ordinal: i32,
    claims: &VolumeClaims<'_>,
) -> bool {
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

/// The set owns the claim without being its controller, as in Kubernetes.
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
