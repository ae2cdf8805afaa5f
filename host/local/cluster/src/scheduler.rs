//! Binds each Pod to a node, or reports on the Pod why no node suits and tries again when something changes.
//!
//! The pure function [`decide()`] chooses the node. Pods are scheduled one at a time, and a binding counts
//! immediately, before the watch delivers it: two Pods never take the same room. The scheduler never moves or
//! evicts a bound Pod.

mod affinity;
mod decide;
mod fit;
mod snapshot;
mod spread;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use decide::{SchedulingDecision, decide};
pub(crate) use fit::claims_of;
pub use snapshot::SchedulerSnapshot;

use crate::api_writer::{ApiRequestError, ApiWriteError, ApiWriter};
use crate::events::{EventRecorder, EventSeverity};
use crate::reflector::{NamespacedName, Reflector, ReflectorObjectChange};
use crate::reflectors::LocalClusterReflectors;
use crate::worker::{ControllerPanicError, DirtyKeys, Requeue, WorkLoop};

/// The name of this scheduler. It ignores Pods that name another one.
const NAME: &str = "default-scheduler";

/// How long a new Pod may wait for its volumes before the wait is reported on it.
const VOLUME_PATIENCE: Duration = Duration::from_secs(2);

/// Why a Pod could not be scheduled.
#[derive(Debug, thiserror::Error)]
enum PodSchedulingError {
    #[error("cannot bind the Pod to node `{node}`")]
    Bind { node: String, source: ApiRequestError },
    #[error(transparent)]
    Report(#[from] ApiWriteError),
}

/// The scheduler.
#[derive(Clone)]
pub struct PodScheduler {
    client: Client,
    reflectors: LocalClusterReflectors,
    dirty_keys: Arc<DirtyKeys<NamespacedName>>,
    events: EventRecorder,
}

impl PodScheduler {
    /// Registers listeners at the reflectors, which must not have been started yet.
    pub fn new(client: Client, reflectors: &LocalClusterReflectors) -> Self {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let (on_pod, pods) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.pods));
        reflectors.pods.listen(move |change: &ReflectorObjectChange<'_, Pod>| {
            if let Some(pod) = change.after.filter(|pod| is_waiting(pod)) {
                on_pod.enqueue(NamespacedName::of(pod));
            } else if may_free_room(change) {
                enqueue_waiting(&pods, &on_pod);
            }
        });
        let retry = || {
            let (dirty_keys, pods) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.pods));
            move || enqueue_waiting(&pods, &dirty_keys)
        };
        let enqueue = retry();
        reflectors.nodes.listen(move |change: &ReflectorObjectChange<'_, Node>| {
            if change.before.is_none() || has_changed(change, node_facts) {
                enqueue();
            }
        });
        let enqueue = retry();
        reflectors
            .claims
            .listen(move |_: &ReflectorObjectChange<'_, PersistentVolumeClaim>| enqueue());
        let enqueue = retry();
        reflectors.volumes.listen(move |_: &ReflectorObjectChange<'_, PersistentVolume>| enqueue());
        let enqueue = retry();
        reflectors.namespaces.listen(move |_: &ReflectorObjectChange<'_, Namespace>| enqueue());
        let events = EventRecorder::new(client.clone(), NAME);
        Self { client, reflectors: reflectors.clone(), dirty_keys, events }
    }

    /// Schedules Pods until it is told to stop.
    ///
    /// # Errors
    ///
    /// Returns an error if a reconcile panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ControllerPanicError> {
        let dirty_keys = Arc::clone(&self.dirty_keys);
        // One at a time, because each decision counts on the binding before it.
        let worker = WorkLoop { name: NAME, dirty_keys, concurrency: 1, stop };
        worker
            .run(|key| {
                let this = self.clone();
                async move { this.schedule(&key).await }
            })
            .await
    }

    async fn schedule(&self, key: &NamespacedName) -> Result<Requeue, PodSchedulingError> {
        let Some(pod) = self.reflectors.pods.get(key).filter(|pod| is_waiting(pod)) else {
            return Ok(Requeue::AwaitChange);
        };
        match decide(&pod, &self.snapshot()) {
            SchedulingDecision::Bind { node } => self.bind(&pod, node).await?,
            // The volume controller is about to create the volume, so a warning would be premature.
            SchedulingDecision::AwaitVolumes { .. } if is_new(&pod, Timestamp::now()) => {
                return Ok(Requeue::After(VOLUME_PATIENCE));
            }
            SchedulingDecision::AwaitVolumes { message }
            | SchedulingDecision::Unschedulable { message } => {
                self.report(&pod, &message).await?;
            }
        }
        Ok(Requeue::AwaitChange)
    }

    fn snapshot(&self) -> SchedulerSnapshot {
        let LocalClusterReflectors { nodes, pods, claims, volumes, namespaces, .. } =
            &self.reflectors;
        let claims = claims.all().into_iter().map(|claim| (NamespacedName::of(&*claim), claim));
        let volumes =
            volumes.all().into_iter().map(|volume| (NamespacedName::of(&*volume).name, volume));
        let labels = |namespace: Arc<Namespace>| {
            (
                NamespacedName::of(&*namespace).name,
                namespace.metadata.labels.clone().unwrap_or_default(),
            )
        };
        SchedulerSnapshot {
            nodes: nodes.all(),
            pods: pods.all(),
            claims: claims.collect(),
            volumes: volumes.collect(),
            namespaces: namespaces.all().into_iter().map(labels).collect(),
        }
    }

    async fn bind(&self, pod: &Pod, node: String) -> Result<(), PodSchedulingError> {
        let key = NamespacedName::of(pod);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        let bound: kube::Result<serde_json::Value> =
            api.create_subresource("binding", &key.name, &params, &binding).await;
        match bound {
            Ok(_) => {}
            // The Pod was deleted, or an earlier reconcile bound it and the watch has not delivered that yet.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                return Ok(());
            }
            Err(source) => return Err(PodSchedulingError::Bind { node, source: source.into() }),
        }
        let mut assumed = pod.clone();
        assumed.spec.get_or_insert_default().node_name = Some(node.clone());
        self.reflectors.pods.assume(assumed);
        let message = format!("Successfully assigned {key} to {node}");
        self.events.record(pod, EventSeverity::Normal, "Scheduled", &message).await;
        Ok(())
    }

    async fn report(&self, pod: &Pod, message: &str) -> Result<(), PodSchedulingError> {
        let key = NamespacedName::of(pod);
        let Some(condition) = unschedulable_condition(pod, message, Timestamp::now()) else {
            return Ok(());
        };
        let intent = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": key.namespace, "name": key.name},
            "status": {"conditions": [condition]},
        });
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        ApiWriter::new(api, NAME).apply_status(&key.name, &intent).await?;
        self.events.record(pod, EventSeverity::Warning, "FailedScheduling", message).await;
        Ok(())
    }
}

/// Returns the condition that reports why a Pod waits; `None` if the Pod has it already.
fn unschedulable_condition(pod: &Pod, message: &str, now: Timestamp) -> Option<PodCondition> {
    let conditions = || pod.status.as_ref()?.conditions.as_deref();
    let mut scheduled = conditions()
        .unwrap_or_default()
        .iter()
        .filter(|condition| condition.type_ == "PodScheduled");
    let before = scheduled.next().filter(|before| before.status == "False");
    if before.is_some_and(|before| before.message.as_deref() == Some(message)) {
        return None;
    }
    let since = before.and_then(|before| before.last_transition_time.clone());
    Some(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    })
}

/// Returns true if the Pod was created a moment ago.
fn is_new(pod: &Pod, now: Timestamp) -> bool {
    let age = pod.metadata.creation_timestamp.as_ref().map(|created| now.duration_since(created.0));
    age.and_then(|age| Duration::try_from(age).ok()).is_some_and(|age| age < VOLUME_PATIENCE)
}

/// Returns true if this scheduler must find a node for the Pod.
fn is_waiting(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    fit::node_of(pod).is_none()
        && pod.metadata.deletion_timestamp.is_none()
        && !fit::is_finished(pod)
        && gates.is_empty()
        && spec.scheduler_name.as_deref().is_none_or(|name| name == NAME)
}

/// Returns true if a Pod that did not fit may fit after this change: a Pod ended, was deleted, or has other
/// labels. A newly bound Pod counts too, because another Pod may have an affinity to it.
fn may_free_room(change: &ReflectorObjectChange<'_, Pod>) -> bool {
    let facts = |pod: &Pod| {
        let node = fit::node_of(pod).map(str::to_owned);
        (node, fit::is_finished(pod), pod.metadata.labels.clone())
    };
    change.after.is_none() || has_changed(change, facts)
}

/// Returns the facts of a node on which decisions depend. The heartbeat is not one of them.
fn node_facts(node: &Node) -> impl PartialEq + use<> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    (node.metadata.labels.clone(), spec.taints, spec.unschedulable, status.allocatable)
}

fn has_changed<K, F: PartialEq>(
    change: &ReflectorObjectChange<'_, K>,
    facts: impl Fn(&K) -> F,
) -> bool {
    change.before.map(&facts) != change.after.map(&facts)
}

fn enqueue_waiting(pods: &Reflector<Pod>, dirty_keys: &DirtyKeys<NamespacedName>) {
    pods.all()
        .iter()
        .filter(|pod| is_waiting(pod))
        .for_each(|pod| dirty_keys.enqueue(NamespacedName::of(&**pod)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_unbound_pods_of_this_scheduler_wait() {
        let cases = [
            (json!({"spec": {}}), true),
            (json!({"spec": {"schedulerName": "default-scheduler"}}), true),
            (json!({"spec": {"schedulerName": "other"}}), false),
            (json!({"spec": {"nodeName": "n1"}}), false),
            (json!({"spec": {"nodeName": ""}}), true),
            (json!({"spec": {"schedulingGates": [{"name": "g"}]}}), false),
            (json!({"spec": {}, "status": {"phase": "Failed"}}), false),
            (json!({"spec": {}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false),
        ];
        for (value, expected) in cases {
            assert_eq!(is_waiting(&pod(value.clone())), expected, "{value}");
        }
    }

    #[test]
    fn a_reason_is_reported_once_and_keeps_its_transition_time() {
        let early = Timestamp::UNIX_EPOCH;
        let fresh = pod(json!({"spec": {}}));
        let condition = unschedulable_condition(&fresh, "no room", early).unwrap();
        let reported = pod(json!({"spec": {}, "status": {"conditions": [condition]}}));
        assert_eq!(unschedulable_condition(&reported, "no room", Timestamp::now()), None);
        let other = unschedulable_condition(&reported, "no node", Timestamp::now()).unwrap();
        assert_eq!(other.last_transition_time, Some(Time(early)));
    }
}
