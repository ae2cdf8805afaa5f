//! Decides what a volume claim needs next: protection, a class, a volume, or the removal of its protection.
//!
//! This module is pure. It follows Kubernetes' persistent volume binder as far as a local host needs it:
//! volumes are created on demand and bound immediately. A claim is bound to a manually created volume only if
//! both refer to each other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{PROVISIONED_BY, PROVISIONER, data_directory};

/// The finalizer that keeps a claim while a Pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// All inputs of a decision about one claim.
#[derive(Clone, Debug)]
pub struct ObservedClaim<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The Pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// All storage classes.
    pub classes: &'a [Arc<StorageClass>],
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The directory in which volumes are created.
    pub directory: &'a Path,
}

/// One step for a claim. The steps of a decision are performed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeClaimStep {
    /// Merges this value into the claim.
    Change(Value),
    /// Creates the directory of the volume, then the volume.
    Provision(Box<PersistentVolume>),
    /// Merges this value into the status of the claim.
    Report(Value),
    /// Records an event with the reason why the claim cannot be bound.
    RecordWarning {
        /// The event's reason.
        reason: &'static str,
        /// The event's message.
        message: String,
    },
}

/// Decides what to do about one claim.
pub fn decide(observed: &ObservedClaim<'_>) -> Vec<VolumeClaimStep> {
    let claim = observed.claim;
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default();
    let is_protected = finalizers.iter().any(|finalizer| finalizer == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() {
        if !is_protected || is_used(claim, observed.pods) {
            return Vec::new();
        }
        let rest: Vec<&String> = finalizers.iter().filter(|item| *item != PROTECTION).collect();
        return vec![change_metadata(claim, &json!({ "finalizers": rest }))];
    }
    let mut steps = Vec::new();
    if !is_protected {
        let mut all = finalizers.to_vec();
        all.push(PROTECTION.to_owned());
        steps.push(VolumeClaimStep::Change(json!({"metadata": {"finalizers": all}})));
    }
    steps.extend(bind(observed));
    steps
}

/// Returns true if a Pod that is bound to a node, and has not ended, mounts the claim.
fn is_used(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> bool {
    pods.iter().any(|pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let names =
            spec.volumes.unwrap_or_default().into_iter().filter_map(|volume| {
                volume.persistent_volume_claim.map(|source| source.claim_name)
            });
        spec.node_name.is_some_and(|node| !node.is_empty())
            && !matches!(phase, Some("Succeeded" | "Failed"))
            && names.into_iter().any(|name| claim.metadata.name.as_ref() == Some(&name))
    })
}

fn change_metadata(claim: &PersistentVolumeClaim, change: &Value) -> VolumeClaimStep {
    let mut metadata = change.clone();
    if let Some(fields) = metadata.as_object_mut() {
        // The resourceVersion prevents that a finalizer added meanwhile is lost.
        fields.insert("resourceVersion".to_owned(), json!(claim.metadata.resource_version));
    }
    VolumeClaimStep::Change(json!({ "metadata": metadata }))
}

fn bind(observed: &ObservedClaim<'_>) -> Vec<VolumeClaimStep> {
    let claim = observed.claim;
    let Some(spec) = &claim.spec else { return Vec::new() };
    if let Some(name) = spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        return report_bound(claim, name, observed.volumes);
    }
    let (class, class_change) = match spec.storage_class_name.as_deref() {
        Some(class) => (class.to_owned(), None),
        None => match default_class(observed.classes) {
            Some(class) => {
                let change = VolumeClaimStep::Change(json!({"spec": {"storageClassName": class}}));
                (class, Some(change))
            }
            None => (String::new(), None),
        },
    };
    let mut steps: Vec<VolumeClaimStep> = class_change.into_iter().collect();
    if class.is_empty() {
        let message =
            "no persistent volumes available for this claim and no storage class is set".to_owned();
        steps.push(VolumeClaimStep::RecordWarning { reason: "FailedBinding", message });
        return steps;
    }
    let known = observed.classes.iter().find(|item| item.metadata.name.as_ref() == Some(&class));
    match known {
        None => {
            let message = format!(
                "storageclass.storage.k8s.io \"{class}\" not found; this local host creates volumes \
                 of class `{}`",
                super::CLASS
            );
            steps.push(VolumeClaimStep::RecordWarning { reason: "ProvisioningFailed", message });
        }
        Some(known) if known.provisioner != PROVISIONER => {
            let message = format!(
                "waiting for a volume to be created by the external provisioner '{}'",
                known.provisioner
            );
            steps.push(VolumeClaimStep::RecordWarning { reason: "ExternalProvisioning", message });
        }
        Some(known) => steps.extend(provision(observed, known)),
    }
    steps
}

fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.and_then(|item| item.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
    };
    classes.iter().find(is_default).and_then(|class| class.metadata.name.clone())
}

fn provision(observed: &ObservedClaim<'_>, class: &StorageClass) -> Vec<VolumeClaimStep> {
    let claim = observed.claim;
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let volume = new_volume(claim, class, &name, observed.directory);
    let mut steps = Vec::new();
    if !observed.volumes.iter().any(|volume| volume.metadata.name.as_ref() == Some(&name)) {
        steps.push(VolumeClaimStep::Provision(Box::new(volume.clone())));
    }
    let annotations = json!({
        "pv.kubernetes.io/bind-completed": "yes",
        "pv.kubernetes.io/bound-by-controller": "yes",
        "volume.kubernetes.io/storage-provisioner": PROVISIONER,
    });
    steps.push(VolumeClaimStep::Change(json!({
        "metadata": {"annotations": annotations},
        "spec": {"volumeName": name},
    })));
    steps.extend(report_bound(claim, &name, &[Arc::new(volume)]));
    steps
}

fn new_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    directory: &Path,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let annotations = BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())]);
    let capacity = spec.resources.and_then(|resources| resources.requests);
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity,
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: claim.metadata.namespace.clone(),
                name: claim.metadata.name.clone(),
                uid: claim.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
            host_path: Some(HostPathVolumeSource {
                path: data_directory(directory, name).display().to_string(),
                type_: Some("Directory".to_owned()),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Returns the status update for a claim that names a volume, if the status is not up to date.
fn report_bound(
    claim: &PersistentVolumeClaim,
    name: &str,
    volumes: &[Arc<PersistentVolume>],
) -> Vec<VolumeClaimStep> {
    let volume = volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
    let spec = volume.and_then(|volume| volume.spec.as_ref());
    let is_mutual = spec.and_then(|spec| spec.claim_ref.as_ref()).is_some_and(|reference| {
        reference.namespace == claim.metadata.namespace && reference.name == claim.metadata.name
    });
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    match spec {
        Some(spec) if is_mutual && phase != Some("Bound") => vec![VolumeClaimStep::Report(json!({
            "phase": "Bound",
            "accessModes": spec.access_modes,
            "capacity": spec.capacity,
        }))],
        None if phase == Some("Bound") => vec![VolumeClaimStep::Report(json!({"phase": "Lost"}))],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn merge(base: &mut Value, more: &Value) {
        match (base, more) {
            (Value::Object(base), Value::Object(more)) => {
                for (key, value) in more {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (base, more) => *base = more.clone(),
        }
    }

    fn claim(more: Value) -> Value {
        let mut claim = json!({
            "metadata": {"namespace": "a", "name": "c", "uid": "u1", "resourceVersion": "7"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"},
        });
        merge(&mut claim, &more);
        claim
    }

    fn class(name: &str, provisioner: &str, default: bool) -> Arc<StorageClass> {
        let annotations = json!({DEFAULT_CLASS: default.to_string()});
        Arc::new(parse(json!({"metadata": {"name": name, "annotations": annotations},
            "provisioner": provisioner, "reclaimPolicy": "Delete"})))
    }

    fn decide_for(
        claim: &Value,
        pods: &[Arc<Pod>],
        volumes: &[Arc<PersistentVolume>],
    ) -> Vec<VolumeClaimStep> {
        let classes =
            [class("local", PROVISIONER, true), class("far", "example.invalid/far", false)];
        let observed = ObservedClaim {
            claim: &parse(claim.clone()),
            pods,
            classes: &classes,
            volumes,
            directory: Path::new("/state/volumes"),
        };
        decide(&observed)
    }

    fn texts(steps: &[VolumeClaimStep]) -> Vec<String> {
        let text = |step: &VolumeClaimStep| match step {
            VolumeClaimStep::Change(_) => "change".to_owned(),
            VolumeClaimStep::Provision(volume) => {
                format!("provision {}", volume.metadata.name.as_ref().unwrap())
            }
            VolumeClaimStep::Report(status) => {
                format!("report {}", status["phase"].as_str().unwrap())
            }
            VolumeClaimStep::RecordWarning { reason, .. } => (*reason).to_owned(),
        };
        steps.iter().map(text).collect()
    }

    fn protected() -> Value {
        json!({"metadata": {"finalizers": [PROTECTION]}})
    }

    fn pod(phase: &str, node: &str) -> Arc<Pod> {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        Arc::new(parse(
            json!({"spec": {"nodeName": node, "volumes": volumes}, "status": {"phase": phase}}),
        ))
    }

    #[test]
    fn a_new_claim_is_protected_and_gets_a_volume_of_the_default_class() {
        let steps = decide_for(&claim(json!({})), &[], &[]);
        assert_eq!(
            texts(&steps),
            ["change", "change", "provision pvc-u1", "change", "report Bound"]
        );
        let VolumeClaimStep::Provision(volume) = &steps[2] else { panic!("{steps:?}") };
        let volume = serde_json::to_value(volume).unwrap();
        assert_eq!(volume["spec"]["hostPath"]["path"], "/state/volumes/pvc-u1/data");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "u1");
        assert_eq!(volume["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        assert_eq!(volume["spec"]["storageClassName"], "local");
    }

    #[test]
    fn an_interrupted_reconcile_is_continued() {
        let mut half_bound = claim(protected());
        merge(&mut half_bound, &json!({"spec": {"storageClassName": "local"}}));
        let steps = decide_for(&half_bound, &[], &[]);
        let VolumeClaimStep::Provision(volume) = &steps[0] else { panic!("{steps:?}") };
        let volumes = [Arc::new((**volume).clone())];
        assert_eq!(texts(&decide_for(&half_bound, &[], &volumes)), ["change", "report Bound"]);
        merge(&mut half_bound, &json!({"spec": {"volumeName": "pvc-u1"}}));
        assert_eq!(texts(&decide_for(&half_bound, &[], &volumes)), ["report Bound"]);
        merge(&mut half_bound, &json!({"status": {"phase": "Bound"}}));
        assert_eq!(texts(&decide_for(&half_bound, &[], &volumes)), [""; 0]);
        assert_eq!(texts(&decide_for(&half_bound, &[], &[])), ["report Lost"]);
    }

    #[test]
    fn a_claim_without_a_usable_class_gets_a_warning() {
        for (class, reason) in [
            ("", "FailedBinding"),
            ("unknown", "ProvisioningFailed"),
            ("far", "ExternalProvisioning"),
        ] {
            let mut claim = claim(protected());
            merge(&mut claim, &json!({"spec": {"storageClassName": class}}));
            assert_eq!(texts(&decide_for(&claim, &[], &[])), [reason], "{class}");
        }
    }

    #[test]
    fn a_deleted_claim_stays_while_a_pod_uses_it() {
        let mut deleted_claim =
            claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["other", PROTECTION]}}));
        for (pods, expected) in [
            (vec![pod("Running", "n1")], vec![]),
            (vec![pod("Pending", "n1")], vec![]),
            (vec![pod("Pending", "")], vec!["change"]),
            (vec![pod("Succeeded", "n1")], vec!["change"]),
            (vec![], vec!["change"]),
        ] {
            assert_eq!(texts(&decide_for(&deleted_claim, &pods, &[])), expected, "{pods:?}");
        }
        let steps = decide_for(&deleted_claim, &[], &[]);
        let rest = json!({"metadata": {"finalizers": ["other"], "resourceVersion": "7"}});
        assert_eq!(steps, [VolumeClaimStep::Change(rest)]);
        deleted_claim["metadata"]["finalizers"] = json!(["other"]);
        assert_eq!(texts(&decide_for(&deleted_claim, &[], &[])), [""; 0]);
    }
}
