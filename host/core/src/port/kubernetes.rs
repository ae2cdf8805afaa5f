//! The port to Kubernetes.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tholepin_schema::manifest::KindName;

use crate::{BoxedFuture, CallError, EventType, ObjectMeta, ObjectRef, PluginName};

/// One revision of the store: reads from it agree with each other however long a pass takes.
pub trait StoreView: Send + Sync {
    /// One object, with `apiVersion` and `kind`, without `managedFields`.
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>>;

    /// The objects of a kind, ordered by namespace and name. An empty namespace means all.
    ///
    /// # Errors
    ///
    /// Fails if the selector cannot be parsed.
    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError>;

    /// The metadata of one object, which costs less than the whole.
    fn meta(&self, object: &ObjectRef) -> Option<Arc<ObjectMeta>> {
        self.get(object).and_then(|object| ObjectMeta::of(&object).ok()).map(Arc::new)
    }

    /// Which objects of a kind there are, ordered by namespace and name. An empty namespace means all.
    fn references(&self, kind: &KindName, namespace: &str) -> Vec<ObjectRef> {
        let objects = self.list(kind, namespace, "").unwrap_or_default();
        let metas = objects.iter().filter_map(|object| ObjectMeta::of(object).ok());
        metas.map(|meta| meta.object).collect()
    }

    /// The metadata of the objects whose controller reference (`controller: true`) names this uid.
    fn owned_by(&self, uid: &str) -> Vec<Arc<ObjectMeta>>;

    /// Whether the kind is watched and has been listed at least once.
    fn covers(&self, kind: &KindName) -> bool;

    /// This view with one object put in its place: how a pass sees its own writes. The store itself
    /// does not change.
    fn with(&self, object: Value) -> Arc<dyn StoreView>;

    /// This view without one object.
    fn without(&self, object: &ObjectRef) -> Arc<dyn StoreView>;
}

/// Server-side apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyRequest {
    /// Who owns the fields.
    pub field_manager: String,
    /// The intent.
    pub object: Value,
    /// Take fields from other managers.
    pub force: bool,
    /// Apply to the status subresource.
    pub status: bool,
    /// Let the server check and answer, but keep nothing.
    pub dry_run: bool,
}

/// Deletion of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which object.
    pub object: ObjectRef,
    /// Only if it still has this uid.
    pub uid: Option<String>,
    /// Only if it still has this resource version.
    pub resource_version: Option<String>,
    /// Seconds until it is killed.
    pub grace_seconds: Option<u32>,
    /// Let the server check, but keep everything.
    pub dry_run: bool,
}

/// An event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The component that reports: `tholepin` or `tholepin:<plugin>`.
    pub reporter: String,
    /// What it is about.
    pub regarding: ObjectRef,
    /// Its uid.
    pub regarding_uid: String,
    /// Ordinary or not.
    pub event_type: EventType,
    /// A stable CamelCase name.
    pub reason: String,
    /// One line for people.
    pub message: String,
}

/// The most warnings about an object that are read.
pub const WARNINGS_MAX: usize = 20;

/// A warning that somebody has published about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// A CamelCase name.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// How often it was published.
    pub count: u64,
    /// When it was published last (RFC 3339).
    pub last_seen: String,
}

/// Kubernetes as the gate and the controller see it. Secret values never leave the port except
/// through [`secret_value`](Self::secret_value), which only the gate calls.
pub trait Kubernetes: Send + Sync {
    /// The same port, whose requests name this plugin to the API server.
    fn on_behalf_of(self: Arc<Self>, plugin: &PluginName) -> Arc<dyn Kubernetes>;

    /// The store as it is now.
    fn view(&self) -> Arc<dyn StoreView>;

    /// Reads one object from the API server. Values in a Secret are fingerprints.
    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Reads the objects of a kind from the API server.
    fn list(
        &self,
        kind: KindName,
        namespace: String,
        selector: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>>;

    /// Applies an object and returns it as stored. An apply that would change nothing is not sent
    /// (`design.md` section 5 has the rule).
    fn apply(&self, request: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Sends a merge patch under a field manager and returns the object as stored.
    fn merge_patch(
        &self,
        object: ObjectRef,
        patch: Value,
        field_manager: String,
        dry_run: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Creates an object, for what the host itself keeps, and returns it as stored.
    ///
    /// Fails with `Conflict` if there is one of this name already.
    fn create(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Puts an object in the place of the one that has this object's `metadata.resourceVersion`, for
    /// what the host itself keeps, and returns it as stored.
    ///
    /// Fails with `Conflict` if it has another version by now, and with `NotFound` if it is gone.
    fn replace(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Deletes an object.
    fn delete(&self, request: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Publishes an event; repeats within ten minutes become a count.
    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>>;

    /// The warnings about an object that the API server keeps, the newest first and [`WARNINGS_MAX`] at
    /// most.
    fn warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Vec<Warning>, CallError>>;

    /// The clear value of a Secret's key, for the host's own connections.
    fn secret_value(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>>;
}
