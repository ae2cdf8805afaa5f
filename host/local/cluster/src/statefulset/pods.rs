//! Builds the Pods and claims of a StatefulSet, and derives the state of existing Pods.
//!
//! This module is pure. The identity of a Pod is its name, `SET-ORDINAL`: its host name, labels and claims
//! are derived from it, and never from the node or the time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The label with the name of a Pod's revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Returns the owner reference of the objects that a StatefulSet creates.
pub(super) fn owner_reference(set: &StatefulSet) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "StatefulSet".to_owned(),
        name: set.metadata.name.clone().unwrap_or_default(),
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Returns the name of the Pod with that ordinal.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// Returns the ordinal in a Pod's name, if the name is one that this set gives.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &str) -> Option<i32> {
    let (name, ordinal) = pod.rsplit_once('-')?;
    let ordinal: i32 = ordinal.parse().ok()?;
    let is_ours = set.metadata.name.as_deref() == Some(name) && pod_name(set, ordinal) == pod;
    is_ours.then_some(ordinal)
}

/// Builds the Pod with that ordinal from `set`, whose template is that of the revision.
pub(super) fn new_pod(set: &StatefulSet, revision: &str, ordinal: i32) -> Pod {
    let name = pod_name(set, ordinal);
    let Some(spec) = &set.spec else { return Pod::default() };
    let template = spec.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());

    let mut pod_spec = spec.template.spec.clone().unwrap_or_default();
    pod_spec.hostname = Some(name.clone());
    pod_spec.subdomain.clone_from(&spec.service_name);
    let mut volumes = pod_spec.volumes.take().unwrap_or_default();
    for (template, claim) in claim_names(set, ordinal) {
        volumes.retain(|volume| volume.name != template);
        volumes.push(Volume {
            name: template,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim,
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    pod_spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());

    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: template.annotations,
            finalizers: template.finalizers,
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(pod_spec),
        status: None,
    }
}

/// Returns the claims of the Pod with that ordinal: template name and claim name.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<(String, String)> {
    let pod = pod_name(set, ordinal);
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref());
    let names = templates.unwrap_or_default().iter();
    names
        .filter_map(|template| template.metadata.name.clone())
        .map(|template| (template.clone(), format!("{template}-{pod}")))
        .collect()
}

/// Builds the claims of the Pod with that ordinal.
pub(super) fn new_claims(
    set: &StatefulSet,
    ordinal: i32,
    owners: &[OwnerReference],
) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let templates = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let names = claim_names(set, ordinal);
    let claim = |(template, (_, name)): (&PersistentVolumeClaim, (String, String))| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels).filter(|labels| !labels.is_empty()),
                annotations: template.metadata.annotations.clone(),
                owner_references: Some(owners.to_vec()).filter(|owners| !owners.is_empty()),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates.iter().zip(names).map(claim).collect()
}

/// The state of one Pod of a StatefulSet.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatefulSetPodState<'a> {
    /// The Pod.
    pub(super) pod: &'a Pod,
    /// The ordinal of the Pod in its set.
    pub(super) ordinal: i32,
    /// It runs, and its condition `Ready` is `True`.
    pub(super) is_ready: bool,
    /// It has been ready for `minReadySeconds`.
    pub(super) is_available: bool,
    /// It is being deleted.
    pub(super) is_terminating: bool,
    /// It has ended for good.
    pub(super) is_finished: bool,
    /// When a ready Pod becomes available, if it is not available yet.
    pub(super) available_at: Option<Timestamp>,
}

impl<'a> StatefulSetPodState<'a> {
    /// Derives the state of a Pod at `now`.
    pub(super) fn new(pod: &'a Pod, ordinal: i32, ready_seconds_min: i32, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions
            .iter()
            .find(|candidate| candidate.type_ == "Ready" && candidate.status == "True");
        let is_ready = phase == Some("Running") && ready.is_some();
        let since = ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
        let pause = jiff::SignedDuration::from_secs(i64::from(ready_seconds_min));
        let available_at = match since {
            _ if ready_seconds_min <= 0 => Some(Timestamp::MIN),
            Some(since) => since.checked_add(pause).ok(),
            None => None,
        };
        let is_available = is_ready && available_at.is_some_and(|at| at <= now);
        Self {
            pod,
            ordinal,
            is_ready,
            is_available,
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_finished: matches!(phase, Some("Succeeded" | "Failed")),
            available_at: available_at.filter(|_| is_ready && !is_available),
        }
    }

    /// Returns true if the Pod is available and is not being deleted.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_available && !self.is_terminating
    }

    /// Returns the name of the revision from which the Pod was created; empty if it has no such label.
    pub(super) fn revision(&self) -> &'a str {
        label(self.pod.metadata.labels.as_ref(), REVISION_LABEL)
    }
}

fn label<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> &'a str {
    labels.and_then(|labels| labels.get(key)).map_or("", String::as_str)
}
