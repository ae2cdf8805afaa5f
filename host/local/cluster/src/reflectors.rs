//! The reflectors of all kinds that the controllers read: one watch per kind, shared by all controllers.

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;

use crate::reflector::Reflector;

/// One reflector per kind. Clones share the reflectors.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the reflector of the kind that it names")]
pub struct LocalClusterReflectors {
    pub namespaces: Arc<Reflector<Namespace>>,
    pub nodes: Arc<Reflector<Node>>,
    pub pods: Arc<Reflector<Pod>>,
    pub claims: Arc<Reflector<PersistentVolumeClaim>>,
    pub volumes: Arc<Reflector<PersistentVolume>>,
    pub classes: Arc<Reflector<StorageClass>>,
    pub services: Arc<Reflector<Service>>,
    pub slices: Arc<Reflector<EndpointSlice>>,
    pub sets: Arc<Reflector<StatefulSet>>,
    pub revisions: Arc<Reflector<ControllerRevision>>,
}

impl LocalClusterReflectors {
    /// Watches the API until the future is dropped. Listeners must be registered before.
    pub async fn follow(self, client: Client) -> Infallible {
        let of = || client.clone();
        tokio::join!(
            self.namespaces.follow(of()),
            self.nodes.follow(of()),
            self.pods.follow(of()),
            self.claims.follow(of()),
            self.volumes.follow(of()),
            self.classes.follow(of()),
            self.services.follow(of()),
            self.slices.follow(of()),
            self.sets.follow(of()),
            self.revisions.follow(of()),
        );
        std::future::pending().await
    }

    /// Waits until the first full list of every kind has arrived. Before that, an object that is missing here
    /// may exist.
    pub async fn wait_synced(&self) {
        tokio::join!(
            self.namespaces.wait_synced(),
            self.nodes.wait_synced(),
            self.pods.wait_synced(),
            self.claims.wait_synced(),
            self.volumes.wait_synced(),
            self.classes.wait_synced(),
            self.services.wait_synced(),
            self.slices.wait_synced(),
            self.sets.wait_synced(),
            self.revisions.wait_synced(),
        );
    }
}
