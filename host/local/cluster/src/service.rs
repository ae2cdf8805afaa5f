//! Maintains the EndpointSlices of Services: which Pods serve, at which address, in which state.
//!
//! The pure module `slices` decides which slices must exist. This controller does not allocate addresses of
//! Services (the API server does) and forwards no connections ([`crate::service_proxy`] does).

pub(crate) mod slices;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api_writer::{ApiWriteError, ApiWriter};
use crate::labels::{Labels, selects_equal};
use crate::reflector::{NamespacedName, ReflectorObjectChange};
use crate::reflectors::LocalClusterReflectors;
use crate::worker::{ControllerPanicError, DirtyKeys, Requeue, WorkLoop};

/// The name of this controller.
const NAME: &str = "endpointslice-controller";
/// How many Services are reconciled concurrently.
const CONCURRENCY: usize = 8;

/// The controller.
#[derive(Clone)]
pub struct EndpointSliceController {
    client: Client,
    reflectors: LocalClusterReflectors,
    dirty_keys: Arc<DirtyKeys<NamespacedName>>,
}

impl EndpointSliceController {
    /// Registers listeners at the reflectors, which must not have been started yet.
    pub fn new(client: Client, reflectors: &LocalClusterReflectors) -> Self {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let on_service = Arc::clone(&dirty_keys);
        reflectors.services.listen(move |change: &ReflectorObjectChange<'_, Service>| {
            change.states().for_each(|service| on_service.enqueue(NamespacedName::of(service)));
        });
        let (on_pod, services) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.services));
        reflectors.pods.listen(move |change: &ReflectorObjectChange<'_, Pod>| {
            let namespace =
                change.states().next().and_then(|object| object.metadata.namespace.clone());
            for service in services.in_namespace(&namespace.unwrap_or_default()) {
                if change.states().any(|pod| is_selected(&service, pod)) {
                    on_pod.enqueue(NamespacedName::of(&*service));
                }
            }
        });
        let on_slice = Arc::clone(&dirty_keys);
        reflectors.slices.listen(move |change: &ReflectorObjectChange<'_, EndpointSlice>| {
            for slice in change.states() {
                let labels = slice.metadata.labels.as_ref();
                let service = labels.and_then(|labels| labels.get(slices::SERVICE_NAME));
                let namespace = slice.metadata.namespace.clone().unwrap_or_default();
                service
                    .into_iter()
                    .for_each(|name| on_slice.enqueue(NamespacedName::new(&*namespace, name)));
            }
        });
        // The zone of a node is part of the endpoints on it.
        let (on_node, services) = (Arc::clone(&dirty_keys), Arc::clone(&reflectors.services));
        reflectors.nodes.listen(move |change: &ReflectorObjectChange<'_, Node>| {
            let labels = |node: &Node| node.metadata.labels.clone();
            if change.before.map(labels) != change.after.map(labels) {
                services
                    .all()
                    .iter()
                    .for_each(|service| on_node.enqueue(NamespacedName::of(&**service)));
            }
        });
        Self { client, reflectors: reflectors.clone(), dirty_keys }
    }

    /// Reconciles Services until it is told to stop.
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
        // Garbage collection deletes the slices of a deleted Service.
        let Some(service) = self.reflectors.services.get(key) else {
            return Ok(Requeue::AwaitChange);
        };
        let pods = self.reflectors.pods.in_namespace(&key.namespace);
        let desired = slices::slices(&service, &pods, &self.reflectors.nodes.all());
        let existing = self.reflectors.slices.in_namespace(&key.namespace);
        let writes = slices::slice_writes(&key.name, desired, &existing);
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        let writer = ApiWriter::new(api, NAME);
        for slice in writes.apply {
            let name = slice.metadata.name.clone().unwrap_or_default();
            let mut intent = json!(slice);
            if let Some(fields) = intent.as_object_mut() {
                fields.insert("apiVersion".to_owned(), json!("discovery.k8s.io/v1"));
                fields.insert("kind".to_owned(), json!("EndpointSlice"));
            }
            let applied = writer.apply(&name, &intent).await?;
            applied.into_iter().for_each(|applied| self.reflectors.slices.learn(applied));
        }
        for name in writes.delete {
            writer.delete(&name, None).await?;
        }
        Ok(Requeue::AwaitChange)
    }
}

fn is_selected(service: &Service, pod: &Pod) -> bool {
    let empty = Labels::new();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    selects_equal(selector.unwrap_or(&empty), labels)
}
