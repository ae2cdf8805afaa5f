//! The ports to the watches that feed the store, and to the marks that the host leaves on objects.

use serde_json::Value;
use tholepin_schema::manifest::KindName;

use crate::{
    AcceptedSpec, BoxedFuture, CallError, ObjectRef, StoredObject, condition::HostCondition,
};

/// What one watch covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchScope {
    /// Which kind.
    pub kind: KindName,
    /// In which namespace; empty for all, or for a cluster-scoped kind.
    pub namespace: String,
    /// A label selector as kubectl writes it; empty for all.
    pub selector: String,
}

impl WatchScope {
    /// All objects of a kind.
    #[must_use]
    pub const fn all(kind: KindName) -> Self {
        Self { kind, namespace: String::new(), selector: String::new() }
    }
}

/// How a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// It has not been listed yet.
    Starting,
    /// The server does not know the kind; asked again now and then.
    KindMissing,
    /// Listed, and following.
    Following,
    /// The last attempt failed for this reason; what was seen before stays.
    Failing(String),
}

/// One change of the store. Several changes of one object between two reads are one: `before` is what
/// the reader saw last.
#[derive(Clone, Debug)]
pub struct StoreChange {
    /// Which object.
    pub object: ObjectRef,
    /// As it was; absent if it was not there.
    pub before: Option<StoredObject>,
    /// As it is; absent if it is gone.
    pub after: Option<StoredObject>,
}

/// What a reader of changes gets.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// One object changed.
    Changed(Box<StoreChange>),
    /// The reader was so slow that changes were dropped: look at everything.
    Overflowed,
    /// A watch that had failed follows again: what failed for the same reason can be tried again.
    Resumed,
}

/// A reader of the store's changes. Dropping it ends the subscription.
pub trait StoreSubscription: Send {
    /// The next change; `None` when the store has ended.
    fn next(&mut self) -> BoxedFuture<'_, Option<StoreEvent>>;
}

/// Holds a watch: it goes on, or at least lingers, until every lease on it is dropped.
pub trait WatchLease: Send + Sync {
    /// How the watch stands now.
    fn state(&self) -> WatchState;

    /// Waits until the watch follows, which may be never: the caller sets the deadline.
    fn following(&self) -> BoxedFuture<'_, ()>;
}

/// The watches that feed the store.
pub trait WatchSource: Send + Sync {
    /// Asks for a watch, and starts it if nobody else has.
    fn lease(&self, scope: WatchScope) -> Box<dyn WatchLease>;

    /// Begins to read changes: those from now on.
    fn changes(&self) -> Box<dyn StoreSubscription>;
}

/// What the host itself leaves on a reconciled object. An object that is gone is no error: there is
/// nothing left to mark.
pub trait StatusWriter: Send + Sync {
    /// Makes these the conditions that the host owns on the object; others of its own go. Writes only
    /// if something changes; `lastTransitionTime` moves only with the status.
    ///
    /// A `Ready` among them is taken from the plugin by force. One that is no longer among them stays as
    /// it is until the plugin has written it again: without the host's fields it would be incomplete.
    fn set_conditions(
        &self,
        object: ObjectRef,
        conditions: Vec<HostCondition>,
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

    /// What the host kept for the object with this uid as accepted last, if it kept anything.
    fn accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Option<AcceptedSpec>, CallError>>;

    /// Keeps what a plugin accepted for the object with this uid, where another host finds it and no
    /// plugin reaches it. Writes only if something else is kept; what is kept of a newer generation
    /// stays.
    fn keep_accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> BoxedFuture<'_, Result<(), CallError>>;

    /// Whether the store shows that nothing is kept for the object with this uid, such as after somebody
    /// deleted it; `false` where the store does not cover it.
    fn lacks_accepted_spec(&self, object: &ObjectRef, uid: &str) -> bool;
}
