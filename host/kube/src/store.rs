//! The local copy of everything that is watched.
//!
//! ```text
//! watches ─► Store ─► view(): one revision, in O(1) ─► gate, controller
//!              └────► changes, one per object ───────► controller
//! ```
//!
//! Invariants:
//! - Only watches and answers to our own writes change the store; an older state never replaces a
//!   newer one, and an answer never brings back what a watch saw deleted.
//! - An object stays as long as at least one watch sees it.
//! - A view never changes.
//! - No Secret value is in it: fingerprints are made before an object comes here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use kube::core::SelectorExt;
use tholepin_core::{
    ObjectRef, StoredObject,
    port::{StoreChange, StoreSubscription, StoreView, WatchScope},
};
use tholepin_schema::manifest::KindName;

use crate::{
    apply_cache::ApplyCache,
    selector,
    subscriptions::{ChangeBroadcaster, lock},
    view::{StoreSnapshot, StoreTables},
};

/// How many deleted objects are remembered, so that a late answer does not bring one back.
const GRAVES_MAX: usize = 4096;

/// Names one watch to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WatchId(pub(crate) u64);

/// The store.
#[derive(Default)]
pub(crate) struct ObjectStore {
    inner: Mutex<Inner>,
    readers: ChangeBroadcaster,
    /// What was applied to the objects of the store; it goes with them.
    pub(crate) applied: ApplyCache,
}

#[derive(Default)]
struct Inner {
    tables: StoreTables,
    /// Which watches see an object.
    seen_by: HashMap<ObjectRef, BTreeSet<WatchId>>,
    /// What a watch that lists anew has met so far.
    relisting: HashMap<WatchId, HashSet<ObjectRef>>,
    /// Watches that have been listed.
    following: BTreeMap<WatchId, WatchScope>,
    graves: DeletedUids,
}

impl ObjectStore {
    /// The store as it is now.
    pub(crate) fn view(&self) -> Arc<dyn StoreView> {
        Arc::new(StoreSnapshot::new(lock(&self.inner).tables.clone()))
    }

    /// One object as it is now, unparsed.
    pub(crate) fn get(&self, object: &ObjectRef) -> Option<StoredObject> {
        lock(&self.inner).tables.get(object).cloned()
    }

    /// Whether an object is known to be gone: a watch that has been listed would see it, and does not.
    pub(crate) fn is_gone(&self, object: &ObjectRef) -> bool {
        let inner = lock(&self.inner);
        let sees_all = |scope: &WatchScope| {
            scope.kind == object.kind
                && (scope.namespace.is_empty() || scope.namespace == object.namespace)
                && scope.selector.is_empty()
        };
        inner.tables.get(object).is_none() && inner.following.values().any(sees_all)
    }

    /// Begins to read changes.
    pub(crate) fn changes(&self) -> Box<dyn StoreSubscription> {
        self.readers.subscribe()
    }

    /// A watch that had failed follows again.
    pub(crate) fn resumed(&self) {
        self.readers.resume();
    }

    /// Ends all readers of changes.
    pub(crate) fn end(&self) {
        self.readers.end();
    }

    /// A watch begins to list.
    pub(crate) fn list_begins(&self, watch: WatchId) {
        lock(&self.inner).relisting.insert(watch, HashSet::new());
    }

    /// A watch has listed everything: what it saw before and did not meet again is gone.
    pub(crate) fn list_ends(&self, watch: WatchId, scope: &WatchScope) {
        let mut inner = lock(&self.inner);
        let met = inner.relisting.remove(&watch).unwrap_or_default();
        let gone = inner.seen(watch).filter(|object| !met.contains(object));
        for object in gone.collect::<Vec<_>>() {
            self.unsee(&mut inner, watch, &object);
        }
        inner.following.insert(watch, scope.clone());
        inner.cover();
    }

    /// A watch saw an object.
    pub(crate) fn saw(&self, watch: WatchId, object: StoredObject) {
        let mut inner = lock(&self.inner);
        let reference = object.meta().object.clone();
        inner.see(watch, reference);
        self.put(&mut inner, object);
    }

    /// A watch saw an object go, or leave its selector.
    pub(crate) fn saw_go(&self, watch: WatchId, object: &StoredObject) {
        let mut inner = lock(&self.inner);
        let reference = &object.meta().object;
        let same = |known: &StoredObject| known.meta().uid == object.meta().uid;
        if inner.tables.get(reference).is_some_and(same) {
            self.unsee(&mut inner, watch, reference);
        }
    }

    /// The server answered a write with this object: it enters if a watch will follow it, and if it
    /// is newer.
    pub(crate) fn wrote(&self, object: StoredObject) {
        let mut inner = lock(&self.inner);
        if inner.graves.contains(&object.meta().uid) {
            return;
        }
        let Some(watch) = inner.follower(&object) else { return };
        inner.see(watch, object.meta().object.clone());
        self.put(&mut inner, object);
    }

    /// A watch has ended, or its kind is gone: what nobody else sees is gone.
    pub(crate) fn forget(&self, watch: WatchId) {
        let mut inner = lock(&self.inner);
        inner.relisting.remove(&watch);
        inner.following.remove(&watch);
        for object in inner.seen(watch).collect::<Vec<_>>() {
            self.unsee(&mut inner, watch, &object);
        }
        inner.cover();
    }

    fn put(&self, inner: &mut Inner, object: StoredObject) {
        let reference = object.meta().object.clone();
        let before = inner.tables.get(&reference).cloned();
        let version = &object.meta().resource_version;
        let is_older = |before: &StoredObject| !is_newer(version, &before.meta().resource_version);
        if before.as_ref().is_some_and(is_older) {
            return;
        }
        inner.tables.insert(object.clone());
        let after = Some(object);
        self.readers.publish(&StoreChange { object: reference, before, after });
    }

    fn unsee(&self, inner: &mut Inner, watch: WatchId, object: &ObjectRef) {
        if let Some(watches) = inner.seen_by.get_mut(object) {
            watches.remove(&watch);
            if !watches.is_empty() {
                return;
            }
        }
        inner.seen_by.remove(object);
        let Some(before) = inner.tables.remove(object) else { return };
        inner.graves.dig(before.meta().uid.clone());
        self.applied.forget_object(&before.meta().uid);
        let object = object.clone();
        self.readers.publish(&StoreChange { object, before: Some(before), after: None });
    }
}

impl Inner {
    fn see(&mut self, watch: WatchId, object: ObjectRef) {
        if let Some(met) = self.relisting.get_mut(&watch) {
            met.insert(object.clone());
        }
        self.seen_by.entry(object).or_default().insert(watch);
    }

    fn seen(&self, watch: WatchId) -> impl Iterator<Item = ObjectRef> {
        let sees = self.seen_by.iter().filter(move |(_, watches)| watches.contains(&watch));
        sees.map(|(object, _)| object.clone())
    }

    /// A listed watch whose scope this object is in.
    fn follower(&self, object: &StoredObject) -> Option<WatchId> {
        let meta = object.meta();
        let holds = |scope: &WatchScope| {
            scope.kind == meta.object.kind
                && (scope.namespace.is_empty() || scope.namespace == meta.object.namespace)
                && selector::parse(&scope.selector)
                    .is_ok_and(|selector| selector.matches(&meta.labels))
        };
        self.following.iter().find(|(_, scope)| holds(scope)).map(|(watch, _)| *watch)
    }

    /// Computes which kinds are watched whole.
    fn cover(&mut self) {
        let whole = |scope: &&WatchScope| scope.namespace.is_empty() && scope.selector.is_empty();
        let kinds: BTreeSet<KindName> =
            self.following.values().filter(whole).map(|scope| scope.kind.clone()).collect();
        self.tables.set_covered(kinds);
    }
}

/// Whether a resource version is newer than another of an object of the same name. They are numbers that
/// grow, over all objects of a kind (a promise of Kubernetes since 1.35, and true long before); where
/// one is none, what arrives later counts as newer.
pub(crate) fn is_newer(candidate: &str, known: &str) -> bool {
    match (candidate.parse::<u64>(), known.parse::<u64>()) {
        (Ok(candidate), Ok(known)) => candidate > known,
        _ => candidate != known,
    }
}

/// The uids deleted last.
#[derive(Default)]
struct DeletedUids {
    order: VecDeque<String>,
    uids: HashSet<String>,
}

impl DeletedUids {
    fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    fn dig(&mut self, uid: String) {
        if uid.is_empty() || !self.uids.insert(uid.clone()) {
            return;
        }
        self.order.push_back(uid);
        if self.order.len() > GRAVES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
