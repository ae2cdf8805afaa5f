//! The port to Kubernetes.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tholepin_schema::manifest::KindName;

use crate::{BoxedFuture, CallError, EventType, ObjectMeta, ObjectRef, PluginName};

/// One revision of the store: its reads are consistent with each other, however long a reconcile takes.
pub trait WatchedStoreView: Send + Sync {
    /// Returns one object, with `apiVersion` and `kind`, without `managedFields`.
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>>;

    /// Returns the objects of a kind, ordered by namespace and name. An empty namespace means all.
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

    /// Returns the metadata of one object, which costs less than the whole object.
    fn meta(&self, object: &ObjectRef) -> Option<Arc<ObjectMeta>> {
        self.get(object).and_then(|object| ObjectMeta::of(&object).ok()).map(Arc::new)
    }

    /// Returns the references of the objects of a kind, ordered by namespace and name. An empty namespace means all.
    fn references(&self, kind: &KindName, namespace: &str) -> Vec<ObjectRef> {
        let objects = self.list(kind, namespace, "").unwrap_or_default();
        let metas = objects.iter().filter_map(|object| ObjectMeta::of(object).ok());
        metas.map(|meta| meta.object).collect()
    }

    /// Returns the metadata of the objects whose controller reference (`controller: true`) names this uid.
    fn owned_by(&self, uid: &str) -> Vec<Arc<ObjectMeta>>;

    /// Returns true if the kind is watched and was listed at least once.
    fn covers(&self, kind: &KindName) -> bool;

    /// Returns this view with one object replaced or added: a reconcile sees its own writes by it. The store itself
    /// does not change.
    fn with(&self, object: Value) -> Arc<dyn WatchedStoreView>;

    /// Returns this view without one object.
    fn without(&self, object: &ObjectRef) -> Arc<dyn WatchedStoreView>;
}

/// A server-side apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyRequest {
    /// The manager that will own the fields.
    pub field_manager: String,
    /// The intent.
    pub object: Value,
    /// Takes fields from other managers.
    pub force: bool,
    /// Applies to the status subresource.
    pub status: bool,
    /// The server checks and answers, and stores nothing.
    pub dry_run: bool,
}

/// The deletion of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which object.
    pub object: ObjectRef,
    /// Deletes only an object with this uid.
    pub uid: Option<String>,
    /// Deletes only this resource version.
    pub resource_version: Option<String>,
    /// Seconds until a Pod is killed; its own grace period if absent.
    pub grace_seconds: Option<u32>,
    /// The server checks, and deletes nothing.
    pub dry_run: bool,
}

/// An event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The component that reports: `tholepin` or `tholepin:<plugin>`.
    pub reporter: String,
    /// The object that it is about.
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

/// A warning event about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WarningEvent {
    /// A CamelCase name.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// How often it was published.
    pub count: u64,
    /// When it was published last (RFC 3339).
    pub last_seen: String,
}

/// Kubernetes for the gate and the controller. Secret values leave the port only through
/// [`secret_value`](Self::secret_value), which only the gate calls.
pub trait Kubernetes: Send + Sync {
    /// Returns the same port with requests that name this plugin to the API server.
    fn on_behalf_of(self: Arc<Self>, plugin: &PluginName) -> Arc<dyn Kubernetes>;

    /// Returns the store's present revision.
    fn view(&self) -> Arc<dyn WatchedStoreView>;

    /// Reads one object from the API server. Values in a Secret are fingerprints.
    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Reads the objects of a kind from the API server.
    fn list(
        &self,
        kind: KindName,
        namespace: String,
        selector: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>>;

    /// Applies an object and returns it as stored. An apply is not sent if its intent, and the part of the server's
    /// answer that it can change, are the same as at the last one.
    fn apply(&self, request: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Sends a merge patch under a field manager and returns the object as stored.
    fn merge_patch(
        &self,
        object: ObjectRef,
        patch: Value,
        field_manager: String,
        dry_run: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Creates an object that the host itself keeps, and returns it as stored.
    ///
    /// Fails with `Conflict` if an object of this name exists.
    fn create(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Replaces the object that has this object's `metadata.resourceVersion`, for objects that the host itself
    /// keeps, and returns it as stored.
    ///
    /// Fails with `Conflict` if it has another version by now, and with `NotFound` if it was deleted.
    fn replace(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Deletes an object.
    fn delete(&self, request: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Publishes an event; repeats within ten minutes become a count.
    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Returns the warnings about an object that the API server keeps, the newest first and at most [`WARNINGS_MAX`].
    fn warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Vec<WarningEvent>, CallError>>;

    /// Returns the clear value of a Secret's key, for the host's own connections.
    fn secret_value(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>>;
}
