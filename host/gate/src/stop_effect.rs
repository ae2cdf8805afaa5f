//! Determines which Pods a write to Kubernetes stops and which volumes it drops. Pure.
//!
//! The result depends on the effect and not on the call: a deletion, an apply and a patch with the same
//! effect give the same result.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{ObjectRef, port::WatchedStoreView};
use tholepin_schema::manifest::KindName;

use crate::{
    instance::{pod_kind, uid},
    ownership::{self, descendants, text},
};

/// The state of an object after a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObjectAfterPluginWrite<'a> {
    /// It is deleted.
    Deleted,
    /// It is stored like this.
    Is(&'a Value),
}

/// What a write does to Pods and volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WriteEffectOnPods {
    /// Pods that end, or that lose the controller that would replace them.
    pub(crate) pods: Vec<Arc<Value>>,
    /// The names of PersistentVolumeClaims that are deleted.
    pub(crate) claims: Vec<String>,
}

impl WriteEffectOnPods {
    /// Returns true if the write stops and drops nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.claims.is_empty()
    }
}

/// Returns true if an apply may stop a Pod, judged by its intent without asking the server. If this
/// returns false, the caller need not ask the server for the result of the apply.
///
/// Returns false if the object is neither a Pod nor an autoscaler and has no Pods below it, or if the intent
/// names at least as many replicas as before and leaves restarts to others (`OnDelete`).
pub(crate) fn may_stop(view: &dyn WatchedStoreView, before: &Value, intent: &Value) -> bool {
    match text(before, "/kind") {
        "Pod" => true,
        "PersistentVolumeClaim" => false,
        "HorizontalPodAutoscaler" => true,
        _ if pods_below(view, before).is_empty() => false,
        _ => {
            let named = intent.pointer("/spec/replicas").and_then(Value::as_u64);
            let keeps = named.is_some_and(|requested| replicas(before) <= requested);
            !keeps || text(intent, STRATEGY) != ON_DELETE || !is_on_delete(before)
        }
    }
}

const STRATEGY: &str = "/spec/updateStrategy/type";
const ON_DELETE: &str = "OnDelete";

/// Returns the effect of creating an object.
pub(crate) fn begins(view: &dyn WatchedStoreView, intent: &Value) -> WriteEffectOnPods {
    match text(intent, "/kind") {
        "HorizontalPodAutoscaler" => scaled(view, intent),
        _ => WriteEffectOnPods::default(),
    }
}

/// Returns the effect of a write on an object that exists.
pub(crate) fn stops(
    view: &dyn WatchedStoreView,
    before: &Value,
    after: ObjectAfterPluginWrite<'_>,
) -> WriteEffectOnPods {
    match (text(before, "/kind"), after) {
        ("Pod", _) => {
            let ends = match after {
                ObjectAfterPluginWrite::Deleted => true,
                ObjectAfterPluginWrite::Is(after) => is_let_go(view, before, after),
            };
            let pods = ends.then(|| Arc::new(before.clone()));
            WriteEffectOnPods { pods: pods.into_iter().collect(), claims: Vec::new() }
        }
        ("PersistentVolumeClaim", ObjectAfterPluginWrite::Deleted) => WriteEffectOnPods {
            pods: Vec::new(),
            claims: vec![text(before, "/metadata/name").to_owned()],
        },
        ("HorizontalPodAutoscaler", ObjectAfterPluginWrite::Is(after)) => scaled(view, after),
        (_, ObjectAfterPluginWrite::Deleted) => {
            let pods = pods_below(view, before);
            let drops = text(before, RETENTION_DELETED) == "Delete";
            let claims = if drops { claims_of(&pods) } else { Vec::new() };
            WriteEffectOnPods { pods, claims }
        }
        (_, ObjectAfterPluginWrite::Is(after)) => changed(view, before, after),
    }
}

const RETENTION_DELETED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";
const RETENTION_SCALED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenScaled";

/// Returns the effect of changing a workload.
fn changed(view: &dyn WatchedStoreView, before: &Value, after: &Value) -> WriteEffectOnPods {
    let pods = pods_below(view, before);
    if pods.is_empty() {
        return WriteEffectOnPods::default();
    }
    let is_released = controller_uid(before) != controller_uid(after);
    let is_suspended = |object: &Value| object.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let restarts = restarts_by_itself(before, after);
    if is_released || restarts || (is_suspended(after) && !is_suspended(before)) {
        return WriteEffectOnPods { pods, claims: Vec::new() };
    }
    let (previous, requested) = (replicas(before), replicas(after));
    if previous <= requested {
        return WriteEffectOnPods::default();
    }
    let first = after.pointer("/spec/ordinals/start").and_then(Value::as_u64).unwrap_or(0);
    let ends = |pod: &Arc<Value>| match ordinal(before, pod) {
        Some(ordinal) => first.saturating_add(requested) <= ordinal,
        // The controller chooses which Pod ends, so it may be any.
        None => true,
    };
    let pods: Vec<Arc<Value>> = pods.into_iter().filter(ends).collect();
    let drops = text(after, RETENTION_SCALED) == "Delete";
    let claims = if drops { claims_of(&pods) } else { Vec::new() };
    WriteEffectOnPods { pods, claims }
}

/// Returns true if the workload's controller restarts Pods by itself because of this change.
fn restarts_by_itself(before: &Value, after: &Value) -> bool {
    let same = |pointer: &str| before.pointer(pointer) == after.pointer(pointer);
    match text(after, "/kind") {
        "ReplicaSet" | "ReplicationController" | "Job" => false,
        "Deployment" => !same("/spec/template"),
        _ => !(is_on_delete(after) || same("/spec/template") && same(STRATEGY)),
    }
}

fn is_on_delete(workload: &Value) -> bool {
    text(workload, STRATEGY) == ON_DELETE
}

/// Returns the effect of an autoscaler. It ends Pods without asking the host, so it counts as ending all Pods
/// of its target.
fn scaled(view: &dyn WatchedStoreView, autoscaler: &Value) -> WriteEffectOnPods {
    let at = |field: &str| text(autoscaler, &format!("/spec/scaleTargetRef/{field}")).to_owned();
    let target = ObjectRef {
        kind: KindName { api_version: at("apiVersion"), kind: at("kind") },
        namespace: text(autoscaler, "/metadata/namespace").to_owned(),
        name: at("name"),
    };
    let pods = view.get(&target).map(|target| pods_below(view, &target)).unwrap_or_default();
    WriteEffectOnPods { pods, claims: Vec::new() }
}

/// Returns true if a change of a Pod ends its container, or releases it from its controller, which then
/// creates a replacement.
fn is_let_go(view: &dyn WatchedStoreView, before: &Value, after: &Value) -> bool {
    let differs = |pointer: &str| before.pointer(pointer) != after.pointer(pointer);
    if differs("/spec") || differs("/metadata/ownerReferences") {
        return true;
    }
    let labels = |object: &Value, name: &str| {
        object.pointer("/metadata/labels").and_then(|labels| labels.get(name)).cloned()
    };
    let Some(owner) = ownership::controller(before).and_then(|(owner, _)| view.get(&owner)) else {
        return differs("/metadata/labels");
    };
    selected_labels(&owner).iter().any(|name| labels(before, name) != labels(after, name))
}

/// Returns the labels by which a controller selects its Pods.
fn selected_labels(workload: &Value) -> Vec<String> {
    let matched = workload.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let expressions = workload.pointer("/spec/selector/matchExpressions").and_then(Value::as_array);
    let keys = expressions.into_iter().flatten().map(|expression| text(expression, "/key"));
    matched
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .chain(keys)
        .map(str::to_owned)
        .collect()
}

/// Returns the Pods whose chain of controllers contains an object.
fn pods_below(view: &dyn WatchedStoreView, object: &Value) -> Vec<Arc<Value>> {
    let below = descendants(view, uid(object));
    let pods = below.iter().filter(|meta| meta.object.kind == pod_kind());
    pods.filter_map(|meta| view.get(&meta.object)).collect()
}

/// Returns the number of Pods that a workload requests; one if it does not name a number.
fn replicas(workload: &Value) -> u64 {
    let field =
        if text(workload, "/kind") == "Job" { "/spec/parallelism" } else { "/spec/replicas" };
    workload.pointer(field).and_then(Value::as_u64).unwrap_or(1)
}

/// Returns the ordinal of a Pod of a StatefulSet.
fn ordinal(workload: &Value, pod: &Value) -> Option<u64> {
    if text(workload, "/kind") != "StatefulSet" {
        return None;
    }
    let name = text(pod, "/metadata/name");
    name.strip_prefix(text(workload, "/metadata/name"))?.strip_prefix('-')?.parse().ok()
}

fn controller_uid(object: &Value) -> Option<String> {
    ownership::controller(object).map(|(_, uid)| uid)
}

/// Returns the claims that these Pods mount.
fn claims_of(pods: &[Arc<Value>]) -> Vec<String> {
    pods.iter().flat_map(|pod| claims(pod)).collect()
}

/// Returns the claims that a Pod mounts.
pub(crate) fn claims(pod: &Value) -> Vec<String> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let claims = volumes.into_iter().flatten();
    let claims = claims.map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
    claims.filter(|claim| !claim.is_empty()).map(str::to_owned).collect()
}
