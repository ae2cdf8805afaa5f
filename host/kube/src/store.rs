//! The local copy of all watched objects.
//!
//! ```text
//! watches ─► ObjectStore ─► view(): one revision, in O(1) ─► gate, controller
//!                   └─────► changes(), one per object ─────► controller
//! ```
//!
//! Invariants:
//! - Only watches and the replies to the host's own writes change the store. An older state never replaces a
//!   newer one, and a reply never restores an object that a watch reported as deleted.
//! - An object stays while at least one watch sees it.
//! - A view never changes.
//! - The store has no Secret values: they are replaced by fingerprints before an object is stored.
//!
//! Not `kube::runtime::reflector::Store`: it holds one kind, has no revision over several kinds, and does not
//! accept the replies to own writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use kube::core::SelectorExt;
use tholepin_core::{
    ObjectRef, WatchedStoreObject,
    port::{StoreSubscription, WatchScope, WatchedStoreChange, WatchedStoreView},
};
use tholepin_schema::manifest::KindName;

use crate::{
    apply_cache::ApplyCache,
    lock::lock,
    selector,
    subscriptions::StoreChangeBroadcaster,
    view::{WatchedObjectTables, WatchedStoreSnapshot},
};

/// How many deleted objects are remembered, so that a late reply to a write does not restore one.
const DELETED_MAX: usize = 4096;

/// Identifies one watch in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WatchId(pub(crate) u64);

/// The local copy of all watched objects, with the readers of its changes.
#[derive(Default)]
pub(crate) struct WatchedObjectStore {
    inner: Mutex<WatchedStoreState>,
    readers: StoreChangeBroadcaster,
    /// The last applies to objects of the store. The entries of an object are removed with it.
    pub(crate) applied: ApplyCache,
}

#[derive(Default)]
struct WatchedStoreState {
    tables: WatchedObjectTables,
    /// The watches that see each object.
    watchers: HashMap<ObjectRef, BTreeSet<WatchId>>,
    /// The objects that were listed so far, for each watch that is listing.
    listing: HashMap<WatchId, HashSet<ObjectRef>>,
    /// The watches that have listed their objects.
    listed_watches: BTreeMap<WatchId, WatchScope>,
    deleted: StoreDeletedUids,
}

impl WatchedObjectStore {
    /// Returns the current revision of the store.
    pub(crate) fn view(&self) -> Arc<dyn WatchedStoreView> {
        Arc::new(WatchedStoreSnapshot::new(lock(&self.inner).tables.clone()))
    }

    /// Returns one object of the current revision, unparsed.
    pub(crate) fn get(&self, object: &ObjectRef) -> Option<WatchedStoreObject> {
        lock(&self.inner).tables.get(object).cloned()
    }

    /// Returns true if an object is known not to exist: a watch that has listed would see it, and does not.
    pub(crate) fn is_known_missing(&self, object: &ObjectRef) -> bool {
        let inner = lock(&self.inner);
        let sees_all = |scope: &WatchScope| {
            scope.kind == object.kind
                && (scope.namespace.is_empty() || scope.namespace == object.namespace)
                && scope.selector.is_empty()
        };
        inner.tables.get(object).is_none() && inner.listed_watches.values().any(sees_all)
    }

    /// Subscribes to the changes of the store.
    pub(crate) fn changes(&self) -> Box<dyn StoreSubscription> {
        self.readers.subscribe()
    }

    /// Notifies the readers that a watch that had failed follows again.
    pub(crate) fn notify_resumed(&self) {
        self.readers.resume();
    }

    /// Ends the subscriptions of all readers.
    pub(crate) fn end(&self) {
        self.readers.end();
    }

    /// Records that a watch begins to list.
    pub(crate) fn begin_list(&self, watch: WatchId) {
        lock(&self.inner).listing.insert(watch, HashSet::new());
    }

    /// Records that a watch has listed all its objects, and removes those that it saw before and that are not
    /// in the list.
    pub(crate) fn end_list(&self, watch: WatchId, scope: &WatchScope) {
        let mut inner = lock(&self.inner);
        let listed = inner.listing.remove(&watch).unwrap_or_default();
        let unlisted = inner.objects_of(watch).filter(|object| !listed.contains(object));
        for object in unlisted.collect::<Vec<_>>() {
            self.remove_watcher(&mut inner, watch, &object);
        }
        inner.listed_watches.insert(watch, scope.clone());
        inner.update_covered();
    }

    /// Stores an object that a watch reported.
    pub(crate) fn put_watched(&self, watch: WatchId, object: WatchedStoreObject) {
        let mut inner = lock(&self.inner);
        let reference = object.meta().object.clone();
        inner.add_watcher(watch, reference);
        self.put(&mut inner, object);
    }

    /// Removes an object that a watch reported as deleted, which is also how it reports an object that no
    /// longer matches its selector. Does nothing if the store has another object of this name.
    pub(crate) fn remove_watched(&self, watch: WatchId, object: &WatchedStoreObject) {
        let mut inner = lock(&self.inner);
        let reference = &object.meta().object;
        let is_same = |known: &WatchedStoreObject| known.meta().uid == object.meta().uid;
        if inner.tables.get(reference).is_some_and(is_same) {
            self.remove_watcher(&mut inner, watch, reference);
        }
    }

    /// Stores the reply to a write if a watch follows the object and if it is newer than the stored state.
    pub(crate) fn put_written(&self, object: WatchedStoreObject) {
        let mut inner = lock(&self.inner);
        if inner.deleted.contains(&object.meta().uid) {
            return;
        }
        let Some(watch) = inner.listed_watch_of(&object) else { return };
        inner.add_watcher(watch, object.meta().object.clone());
        self.put(&mut inner, object);
    }

    /// Removes a watch that ended, or whose kind no longer exists, and the objects that no other watch sees.
    pub(crate) fn forget(&self, watch: WatchId) {
        let mut inner = lock(&self.inner);
        inner.listing.remove(&watch);
        inner.listed_watches.remove(&watch);
        for object in inner.objects_of(watch).collect::<Vec<_>>() {
            self.remove_watcher(&mut inner, watch, &object);
        }
        inner.update_covered();
    }

    /// Stores an object and publishes the change, unless the stored state is as new or newer.
    fn put(&self, inner: &mut WatchedStoreState, object: WatchedStoreObject) {
        let reference = object.meta().object.clone();
        let before = inner.tables.get(&reference).cloned();
        let version = &object.meta().resource_version;
        let is_older =
            |before: &WatchedStoreObject| !is_newer(version, &before.meta().resource_version);
        if before.as_ref().is_some_and(is_older) {
            return;
        }
        inner.tables.insert(object.clone());
        let after = Some(object);
        self.readers.publish(&WatchedStoreChange { object: reference, before, after });
    }

    /// Records that a watch no longer sees an object. If no other watch sees it, removes the object and publishes
    /// the change.
    fn remove_watcher(&self, inner: &mut WatchedStoreState, watch: WatchId, object: &ObjectRef) {
        if let Some(watches) = inner.watchers.get_mut(object) {
            watches.remove(&watch);
            if !watches.is_empty() {
                return;
            }
        }
        inner.watchers.remove(object);
        let Some(before) = inner.tables.remove(object) else { return };
        inner.deleted.insert(before.meta().uid.clone());
        self.applied.forget_object(&before.meta().uid);
        let object = object.clone();
        self.readers.publish(&WatchedStoreChange { object, before: Some(before), after: None });
    }
}

impl WatchedStoreState {
    /// Records that a watch sees an object.
    fn add_watcher(&mut self, watch: WatchId, object: ObjectRef) {
        if let Some(listed) = self.listing.get_mut(&watch) {
            listed.insert(object.clone());
        }
        self.watchers.entry(object).or_default().insert(watch);
    }

    /// Returns the objects that a watch sees.
    fn objects_of(&self, watch: WatchId) -> impl Iterator<Item = ObjectRef> {
        let sees = self.watchers.iter().filter(move |(_, watches)| watches.contains(&watch));
        sees.map(|(object, _)| object.clone())
    }

    /// Returns a watch that has listed and whose scope includes the object.
    fn listed_watch_of(&self, object: &WatchedStoreObject) -> Option<WatchId> {
        let meta = object.meta();
        let holds = |scope: &WatchScope| {
            scope.kind == meta.object.kind
                && (scope.namespace.is_empty() || scope.namespace == meta.object.namespace)
                && selector::parse(&scope.selector)
                    .is_ok_and(|selector| selector.matches(&meta.labels))
        };
        self.listed_watches.iter().find(|(_, scope)| holds(scope)).map(|(watch, _)| *watch)
    }

    /// Computes which kinds are watched in all namespaces and without a selector.
    fn update_covered(&mut self) {
        let is_whole =
            |scope: &&WatchScope| scope.namespace.is_empty() && scope.selector.is_empty();
        let kinds: BTreeSet<KindName> =
            self.listed_watches.values().filter(is_whole).map(|scope| scope.kind.clone()).collect();
        self.tables.set_covered(kinds);
    }
}

/// Returns true if a resource version is newer than another of an object of the same name. Resource versions
/// are numbers that grow over all objects of a kind (Kubernetes guarantees it since 1.35; it was true long
/// before). If one is not a number, the later arrival counts as newer.
pub(crate) fn is_newer(candidate: &str, known: &str) -> bool {
    match (candidate.parse::<u64>(), known.parse::<u64>()) {
        (Ok(candidate), Ok(known)) => candidate > known,
        _ => candidate != known,
    }
}

/// The uids of the objects deleted last, [`DELETED_MAX`] at most.
#[derive(Default)]
struct StoreDeletedUids {
    order: VecDeque<String>,
    uids: HashSet<String>,
}

impl StoreDeletedUids {
    fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    fn insert(&mut self, uid: String) {
        if uid.is_empty() || !self.uids.insert(uid.clone()) {
            return;
        }
        self.order.push_back(uid);
        if self.order.len() > DELETED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
