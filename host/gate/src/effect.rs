//! Finds out which Pods a write to Kubernetes stops, and which volumes it drops. Pure.
//!
//! What a write is called does not matter: a deletion, an apply and a patch that have the same effect
//! give the same answer.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{ObjectRef, port::StoreView};
use tholepin_schema::manifest::KindName;

use crate::{
    instance::{pod_kind, uid},
    ownership::{self, descendants, text},
};

/// What becomes of an object by a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObjectAfterWrite<'a> {
    /// It is deleted.
    Deleted,
    /// It becomes this.
    Is(&'a Value),
}

/// What a write does to Pods and volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StopEffect {
    /// Pods that end, or that nobody keeps any more.
    pub(crate) pods: Vec<Arc<Value>>,
    /// PersistentVolumeClaims that go, by name.
    pub(crate) claims: Vec<String>,
}

impl StopEffect {
    /// Whether nothing ends.
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.claims.is_empty()
    }
}

/// Whether an apply can stop a Pod at all, by what it says and without asking the server: if not, its
/// result need not be known.
///
/// It cannot if the object is no Pod and no volume, nobody is below it, or it names as many replicas as
/// before or more and leaves restarts to others.
pub(crate) fn may_stop(view: &dyn StoreView, before: &Value, intent: &Value) -> bool {
    match text(before, "/kind") {
        "Pod" => true,
        "PersistentVolumeClaim" => false,
        "HorizontalPodAutoscaler" => true,
        _ if pods_below(view, before).is_empty() => false,
        _ => {
            let named = intent.pointer("/spec/replicas").and_then(Value::as_u64);
            let keeps = named.is_some_and(|wanted| replicas(before) <= wanted);
            !keeps || text(intent, STRATEGY) != ON_DELETE || !is_on_delete(before)
        }
    }
}

const STRATEGY: &str = "/spec/updateStrategy/type";
const ON_DELETE: &str = "OnDelete";

/// What an object does that comes into being.
pub(crate) fn begins(view: &dyn StoreView, intent: &Value) -> StopEffect {
    match text(intent, "/kind") {
        "HorizontalPodAutoscaler" => scaled(view, intent),
        _ => StopEffect::default(),
    }
}

/// What the write does.
pub(crate) fn stops(
    view: &dyn StoreView,
    before: &Value,
    after: ObjectAfterWrite<'_>,
) -> StopEffect {
    match (text(before, "/kind"), after) {
        ("Pod", _) => {
            let ends = match after {
                ObjectAfterWrite::Deleted => true,
                ObjectAfterWrite::Is(after) => is_let_go(view, before, after),
            };
            let pods = ends.then(|| Arc::new(before.clone()));
            StopEffect { pods: pods.into_iter().collect(), claims: Vec::new() }
        }
        ("PersistentVolumeClaim", ObjectAfterWrite::Deleted) => {
            StopEffect { pods: Vec::new(), claims: vec![text(before, "/metadata/name").to_owned()] }
        }
        ("HorizontalPodAutoscaler", ObjectAfterWrite::Is(after)) => scaled(view, after),
        (_, ObjectAfterWrite::Deleted) => {
            let pods = pods_below(view, before);
            let drops = text(before, RETENTION_DELETED) == "Delete";
            let claims = if drops { claims_of(&pods) } else { Vec::new() };
            StopEffect { pods, claims }
        }
        (_, ObjectAfterWrite::Is(after)) => changed(view, before, after),
    }
}

const RETENTION_DELETED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";
const RETENTION_SCALED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenScaled";

/// A workload that becomes another.
fn changed(view: &dyn StoreView, before: &Value, after: &Value) -> StopEffect {
    let pods = pods_below(view, before);
    if pods.is_empty() {
        return StopEffect::default();
    }
    let is_released = controller_uid(before) != controller_uid(after);
    let is_suspended = |object: &Value| object.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let restarts = restarts_by_itself(before, after);
    if is_released || restarts || (is_suspended(after) && !is_suspended(before)) {
        return StopEffect { pods, claims: Vec::new() };
    }
    let (had, wanted) = (replicas(before), replicas(after));
    if had <= wanted {
        return StopEffect::default();
    }
    let first = after.pointer("/spec/ordinals/start").and_then(Value::as_u64).unwrap_or(0);
    let goes = |pod: &Arc<Value>| match ordinal(before, pod) {
        Some(ordinal) => first.saturating_add(wanted) <= ordinal,
        // Which one goes is the controller's choice: it may be any.
        None => true,
    };
    let pods: Vec<Arc<Value>> = pods.into_iter().filter(goes).collect();
    let drops = text(after, RETENTION_SCALED) == "Delete";
    let claims = if drops { claims_of(&pods) } else { Vec::new() };
    StopEffect { pods, claims }
}

/// Whether the workload's controller restarts Pods on its own account because of this change.
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

/// An autoscaler ends Pods without asking; one for a workload with Pods is taken for ending them all.
fn scaled(view: &dyn StoreView, autoscaler: &Value) -> StopEffect {
    let at = |field: &str| text(autoscaler, &format!("/spec/scaleTargetRef/{field}")).to_owned();
    let target = ObjectRef {
        kind: KindName { api_version: at("apiVersion"), kind: at("kind") },
        namespace: text(autoscaler, "/metadata/namespace").to_owned(),
        name: at("name"),
    };
    let pods = view.get(&target).map(|target| pods_below(view, &target)).unwrap_or_default();
    StopEffect { pods, claims: Vec::new() }
}

/// Whether a change of a Pod ends its container, or takes it from its controller, which then makes
/// another in its place.
fn is_let_go(view: &dyn StoreView, before: &Value, after: &Value) -> bool {
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

/// The labels by which a controller finds its Pods.
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

/// The Pods whose chain of controllers passes through an object.
fn pods_below(view: &dyn StoreView, object: &Value) -> Vec<Arc<Value>> {
    let below = descendants(view, uid(object));
    let pods = below.iter().filter(|meta| meta.object.kind == pod_kind());
    pods.filter_map(|meta| view.get(&meta.object)).collect()
}

/// How many Pods a workload wants: one if it does not say.
fn replicas(workload: &Value) -> u64 {
    let field =
        if text(workload, "/kind") == "Job" { "/spec/parallelism" } else { "/spec/replicas" };
    workload.pointer(field).and_then(Value::as_u64).unwrap_or(1)
}

/// The number of a Pod of a StatefulSet.
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

/// The claims that Pods mount.
fn claims_of(pods: &[Arc<Value>]) -> Vec<String> {
    pods.iter().flat_map(|pod| claims(pod)).collect()
}

/// The claims that a Pod mounts.
pub(crate) fn claims(pod: &Value) -> Vec<String> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let claims = volumes.into_iter().flatten();
    let claims = claims.map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
    claims.filter(|claim| !claim.is_empty()).map(str::to_owned).collect()
}
