//! Maintains the Pods, claims and revisions of StatefulSets according to their specs.
//!
//! The pure function [`plan()`] decides what to do. This module performs the writes and passes the replies to
//! the reflectors, so that the next reconcile reads its own writes. It runs no containers and binds no Pods
//! to nodes.

mod claims;
mod plan;
mod pods;
mod revision;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use plan::{
    OwnerReferenceAdoption, StatefulSetPlan, StatefulSetPlanInput, StatefulSetWrite, plan,
};

use crate::api_writer::{ApiWriteError, ApiWriter};
use crate::events::{EventRecorder, EventSeverity};
use crate::reflector::{NamespacedName, Reflector, ReflectorObjectChange};
use crate::reflectors::LocalClusterReflectors;
use crate::worker::{ControllerPanicError, DirtyKeys, Requeue, WorkLoop};

/// The name of this controller: as field manager, in events and in log lines.
const NAME: &str = "statefulset-controller";
/// How many sets are reconciled concurrently.
const CONCURRENCY: usize = 8;

/// The controller.
#[derive(Clone)]
pub struct StatefulSets {
    client: Client,
    reflectors: LocalClusterReflectors,
    dirty_keys: Arc<DirtyKeys<NamespacedName>>,
    events: EventRecorder,
}

impl StatefulSets {
    /// Registers listeners at the reflectors, which must not have been started yet.
    pub fn new(client: Client, reflectors: &LocalClusterReflectors) -> Self {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let on_set = Arc::clone(&dirty_keys);
        reflectors.sets.listen(move |change: &ReflectorObjectChange<'_, StatefulSet>| {
            change.states().for_each(|set| on_set.enqueue(NamespacedName::of(set)));
        });
        enqueue_owner(&reflectors.pods, &dirty_keys);
        enqueue_owner(&reflectors.revisions, &dirty_keys);
        // A retained claim has no owner, so a change of any claim concerns all sets of its namespace.
        let (on_claim, sets) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.sets));
        reflectors.claims.listen(
            move |change: &ReflectorObjectChange<'_, PersistentVolumeClaim>| {
                let namespace =
                    change.states().next().and_then(|object| object.metadata.namespace.clone());
                for set in sets.in_namespace(&namespace.unwrap_or_default()) {
                    on_claim.enqueue(NamespacedName::of(&*set));
                }
            },
        );
        let events = EventRecorder::new(client.clone(), NAME);
        Self { client, reflectors: reflectors.clone(), dirty_keys, events }
    }

    /// Reconciles StatefulSets until it is told to stop.
    ///
    /// # Errors
    ///
    /// Returns an error if a reconcile panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ControllerPanicError> {
        let dirty_keys = Arc::clone(&self.dirty_keys);
        let worker = WorkLoop { name: NAME, dirty_keys, concurrency: CONCURRENCY, stop };
        worker
            .run(|key| {
                let this = self.clone();
                async move { this.reconcile(&key).await }
            })
            .await
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Requeue, ApiWriteError> {
        let Some(set) = self.reflectors.sets.get(key) else { return Ok(Requeue::AwaitChange) };
        let now = Timestamp::now();
        let StatefulSetPlan { writes, requeue_at } = plan(&StatefulSetPlanInput {
            set: &set,
            pods: &self.reflectors.pods.in_namespace(&key.namespace),
            claims: &self.reflectors.claims.in_namespace(&key.namespace),
            revisions: &self.reflectors.revisions.in_namespace(&key.namespace),
            now,
        });
        for write in writes {
            self.perform(&set, write).await?;
        }
        Ok(requeue_at.map_or(Requeue::AwaitChange, |at| {
            Requeue::After(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        }))
    }

    async fn perform(
        &self,
        set: &StatefulSet,
        write: StatefulSetWrite,
    ) -> Result<(), ApiWriteError> {
        match write {
            StatefulSetWrite::CreateRevision(revision) => {
                let created = self.writer::<ControllerRevision>(set).create(&revision).await?;
                created.into_iter().for_each(|created| self.reflectors.revisions.learn(created));
            }
            StatefulSetWrite::RaiseRevision { name, revision } => {
                let patch = json!({ "revision": revision });
                let raised = self.writer::<ControllerRevision>(set).merge(&name, &patch).await?;
                raised.into_iter().for_each(|raised| self.reflectors.revisions.learn(raised));
            }
            StatefulSetWrite::DeleteRevision { name } => {
                self.writer::<ControllerRevision>(set).delete(&name, None).await?;
            }
            StatefulSetWrite::CreateClaim(claim) => {
                let created = self.writer::<PersistentVolumeClaim>(set).create(&claim).await?;
                created.into_iter().for_each(|created| self.reflectors.claims.learn(created));
            }
            StatefulSetWrite::SetClaimOwners { name, resource_version, owners } => {
                let owned = OwnerReferenceAdoption { name, resource_version, owners };
                let changed = adopt(&self.writer::<PersistentVolumeClaim>(set), &owned).await?;
                changed.into_iter().for_each(|changed| self.reflectors.claims.learn(changed));
            }
            StatefulSetWrite::AdoptPod(_) | StatefulSetWrite::AdoptRevision(_)
                if !self.may_adopt(set).await? => {}
            StatefulSetWrite::AdoptPod(adoption) => {
                let adopted = adopt(&self.writer::<Pod>(set), &adoption).await?;
                adopted.into_iter().for_each(|adopted| self.reflectors.pods.learn(adopted));
            }
            StatefulSetWrite::AdoptRevision(adoption) => {
                let adopted = adopt(&self.writer::<ControllerRevision>(set), &adoption).await?;
                adopted.into_iter().for_each(|adopted| self.reflectors.revisions.learn(adopted));
            }
            StatefulSetWrite::CreatePod(pod) => self.create_pod(set, &pod).await?,
            StatefulSetWrite::DeletePod { name, uid } => {
                self.writer::<Pod>(set).delete(&name, uid.as_deref()).await?;
                let set_name = set.metadata.name.as_deref().unwrap_or_default();
                let message = format!("delete Pod {name} in StatefulSet {set_name} successful");
                self.events.record(set, EventSeverity::Normal, "SuccessfulDelete", &message).await;
            }
            StatefulSetWrite::SetStatus(status) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let patch = json!({ "status": status });
                let changed = self.writer::<StatefulSet>(set).merge_status(name, &patch).await?;
                changed.into_iter().for_each(|changed| self.reflectors.sets.learn(changed));
            }
        }
        Ok(())
    }

    async fn create_pod(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ApiWriteError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        match self.writer::<Pod>(set).create(pod).await {
            Ok(created) => {
                created.into_iter().for_each(|created| self.reflectors.pods.learn(created));
                let message = format!("create Pod {name} in StatefulSet {set_name} successful");
                self.events.record(set, EventSeverity::Normal, "SuccessfulCreate", &message).await;
                Ok(())
            }
            Err(error) => {
                let cause = error.cause();
                let message =
                    format!("create Pod {name} in StatefulSet {set_name} failed error: {cause}");
                self.events.record(set, EventSeverity::Warning, "FailedCreate", &message).await;
                Err(error)
            }
        }
    }

    /// Returns true if the set still exists and is not being deleted. The set is read from the API server: a
    /// reflector may not have received its deletion yet, and objects adopted then would be garbage-collected
    /// with it.
    async fn may_adopt(&self, set: &StatefulSet) -> Result<bool, ApiWriteError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let now = self.writer::<StatefulSet>(set).get(name).await?;
        Ok(now.is_some_and(|now| {
            now.metadata.uid == set.metadata.uid && now.metadata.deletion_timestamp.is_none()
        }))
    }

    fn writer<K>(&self, set: &StatefulSet) -> ApiWriter<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        ApiWriter::new(Api::namespaced(self.client.clone(), namespace), NAME)
    }
}

/// Writes the owners of an object. Returns `None` if it was deleted.
async fn adopt<K>(
    writer: &ApiWriter<K>,
    adoption: &OwnerReferenceAdoption,
) -> Result<Option<K>, ApiWriteError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let OwnerReferenceAdoption { name, resource_version, owners } = adoption;
    let metadata = json!({"resourceVersion": resource_version, "ownerReferences": owners});
    writer.merge(name, &json!({ "metadata": metadata })).await
}

/// Enqueues the set that controls a changed object, according to the object's owner references.
fn enqueue_owner<K>(reflector: &Reflector<K>, dirty_keys: &Arc<DirtyKeys<NamespacedName>>)
where
    K: Resource<DynamicType = ()>
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Clone
        + Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let dirty_keys = Arc::clone(dirty_keys);
    reflector.listen(move |change: &ReflectorObjectChange<'_, K>| {
        for object in change.states() {
            let meta = Resource::meta(object);
            let owners = meta.owner_references.as_deref().unwrap_or_default();
            let set = owners
                .iter()
                .find(|owner| owner.kind == "StatefulSet" && owner.controller == Some(true));
            if let Some(set) = set {
                dirty_keys.enqueue(NamespacedName::new(
                    meta.namespace.clone().unwrap_or_default(),
                    &*set.name,
                ));
            }
        }
    });
}
