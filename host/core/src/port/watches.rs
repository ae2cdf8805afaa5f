//! The ports to the watches that feed the store, and to the host's own writes on reconciled objects.

use serde_json::Value;
use tholepin_schema::manifest::KindName;

use crate::{
    AcceptedSpec, BoxedFuture, CallError, ObjectRef, WatchedStoreObject,
    condition::HostWrittenCondition,
};

/// The scope of one watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchScope {
    /// The kind.
    pub kind: KindName,
    /// The namespace; empty for all, or for a cluster-scoped kind.
    pub namespace: String,
    /// A label selector as kubectl writes it; empty for all.
    pub selector: String,
}

impl WatchScope {
    /// Returns the scope of all objects of a kind.
    #[must_use]
    pub const fn all(kind: KindName) -> Self {
        Self { kind, namespace: String::new(), selector: String::new() }
    }
}

/// The state of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// It has not listed its objects yet.
    Starting,
    /// The server does not serve the kind; retried now and then.
    KindMissing,
    /// It has listed its objects and follows their changes.
    Following,
    /// The last attempt failed for this reason; the objects of before stay in the store.
    Failing(String),
}

/// One change of the store. Several changes of one object between two reads are merged: `before` is the state that the
/// reader saw last.
#[derive(Clone, Debug)]
pub struct WatchedStoreChange {
    /// Which object.
    pub object: ObjectRef,
    /// The state before; absent for a new object.
    pub before: Option<WatchedStoreObject>,
    /// The state after; absent for a deleted object.
    pub after: Option<WatchedStoreObject>,
}

/// An event for a reader of the store's changes.
#[derive(Clone, Debug)]
pub enum WatchedStoreEvent {
    /// One object changed.
    Changed(Box<WatchedStoreChange>),
    /// The reader was so slow that changes were dropped: it must read everything again.
    Overflowed,
    /// A watch that failed before follows again: operations that failed for the same reason can be retried.
    Resumed,
}

/// A reader of the store's changes. Dropping it ends the subscription.
pub trait StoreSubscription: Send {
    /// Returns the next event, or `None` when the store has ended.
    fn next(&mut self) -> BoxedFuture<'_, Option<WatchedStoreEvent>>;
}

/// A lease of a watch: the watch runs at least until every lease on it is dropped.
pub trait WatchLease: Send + Sync {
    /// Returns the state of the watch.
    fn state(&self) -> WatchState;

    /// Waits until the watch follows. That may never happen: the caller sets the deadline.
    fn following(&self) -> BoxedFuture<'_, ()>;
}

/// The watches that feed the store.
pub trait WatchSource: Send + Sync {
    /// Leases a watch, and starts it if it does not run.
    fn lease(&self, scope: WatchScope) -> Box<dyn WatchLease>;

    /// Subscribes to the changes from now on.
    fn changes(&self) -> Box<dyn StoreSubscription>;
}

/// Writes what the host itself keeps on reconciled objects: its conditions, the finalizers and the accepted specs. A
/// deleted object is no error.
///
/// It does not write the status that a plugin reports: that is a call of the plugin, `apply_status` in
/// `gate/src/kubernetes.rs`.
pub trait HostFieldsWriter: Send + Sync {
    /// Makes these the conditions that the host owns on the object, and removes its other ones. Writes only if
    /// something changes; `lastTransitionTime` changes only with the status.
    ///
    /// A `Ready` among them is taken from the plugin by force. A `Ready` that is no longer among them stays as it is
    /// until the plugin has written it again: without the host's fields it would be incomplete.
    fn set_conditions(
        &self,
        object: ObjectRef,
        conditions: Vec<HostWrittenCondition>,
    ) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Adds a finalizer, and returns the object as stored.
    fn add_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>>;

    /// Removes a finalizer.
    fn remove_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Returns the accepted spec that the host stored for the object with this uid, if there is one.
    fn accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Option<AcceptedSpec>, CallError>>;

    /// Stores the accepted spec for the object with this uid, where another host finds it and no plugin reaches it.
    /// Writes only if it differs from the stored one; a stored spec of a newer generation stays.
    fn keep_accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Returns true if the store shows that no accepted spec is stored for the object with this uid, such as after
    /// somebody deleted it; false if the store does not cover it.
    fn lacks_accepted_spec(&self, object: &ObjectRef, uid: &str) -> bool;
}
