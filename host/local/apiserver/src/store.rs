//! The in-memory store of all objects, with one revision counter.
//!
//! One mutex guards all kinds, so each operation sees a consistent state of all of them. The store tracks identity
//! (resource, namespace, name, uid), owner references and history. It does not default, validate or authorise: the
//! verbs do that on a copy, and then commit it with the object that they read.
//!
//! Invariants:
//! - Every change to an object of any kind increments the revision by one, and has a revision of its own.
//! - A stored object has `metadata.uid` and `metadata.resourceVersion`, and is never changed in place, because readers
//!   share it.
//! - The history is limited by number, memory and age. A reader whose revision is older than the history gets an
//!   error; a reader never blocks a writer.

mod history;
mod location;
mod page;
mod pending;
mod retention;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::object::text;
use history::ResourceHistory;
pub(crate) use history::{ApiStoreChangeType, StoreEvent};
pub(crate) use location::{GroupResource, NamespacedName, ObjectLocation};
pub(crate) use page::{ListPage, ListVersion, StoreListError, StoreListRequest};
pub(crate) use retention::ApiStoreHistoryLimits;
use weight::weight;

/// The error of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StoreCommitError {
    /// An object of this name exists already.
    Exists,
    /// The object does not exist.
    Missing,
    /// The object was changed or replaced since it was read.
    Changed,
    /// The namespace does not exist.
    NamespaceMissing,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The store holds the maximum number of objects.
    Full,
}

/// The most objects over all kinds: a limit against runaway loops, far above the needs of a local cluster.
const OBJECTS_MAX: usize = 200_000;

/// The number of objects and their memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreSize {
    /// The number of objects.
    pub(crate) objects: usize,
    /// Their estimated memory in bytes.
    pub(crate) bytes: usize,
}

/// All objects of all kinds.
pub(crate) struct ObjectStore {
    state: Mutex<StoreState>,
    work: Notify,
}

struct StoreState {
    revision: u64,
    objects: usize,
    retention: ApiStoreHistoryLimits,
    /// The estimated memory of the history in bytes, as the sum over all resources.
    history_bytes: usize,
    tables: BTreeMap<GroupResource, StoredResourceObjects>,
    by_uid: BTreeMap<String, ObjectLocation>,
    dependents: BTreeMap<String, BTreeSet<ObjectLocation>>,
    pending: pending::GarbageCollectionQueue,
}

struct StoredResourceObjects {
    objects: BTreeMap<NamespacedName, Arc<Value>>,
    /// The estimated memory of the objects in bytes.
    bytes: usize,
    history: ResourceHistory,
    latest: watch::Sender<u64>,
}

impl StoredResourceObjects {
    fn new(revision: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            bytes: 0,
            history: ResourceHistory::default(),
            latest: watch::Sender::new(revision),
        }
    }
}

impl ObjectStore {
    /// Returns an empty store with these limits on its history.
    pub(crate) fn new(retention: ApiStoreHistoryLimits) -> Self {
        Self {
            state: Mutex::new(StoreState {
                revision: 1,
                objects: 0,
                retention,
                history_bytes: 0,
                tables: BTreeMap::new(),
                by_uid: BTreeMap::new(),
                dependents: BTreeMap::new(),
                pending: pending::GarbageCollectionQueue::default(),
            }),
            work: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StoreState> {
        // No code panics in the middle of a commit while it holds the lock, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the revision of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Returns one object.
    pub(crate) fn get(&self, resource: &GroupResource, key: &NamespacedName) -> Option<Arc<Value>> {
        self.lock().tables.get(resource)?.objects.get(key).cloned()
    }

    /// Returns all objects of a resource, ordered by namespace and name.
    pub(crate) fn all(&self, resource: &GroupResource) -> Vec<Arc<Value>> {
        let state = self.lock();
        state
            .tables
            .get(resource)
            .map(|t| t.objects.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Returns the number of objects of a resource and their estimated memory.
    pub(crate) fn size(&self, resource: &GroupResource) -> StoreSize {
        let state = self.lock();
        let size = |table: &StoredResourceObjects| StoreSize {
            objects: table.objects.len(),
            bytes: table.bytes,
        };
        state.tables.get(resource).map(size).unwrap_or_default()
    }

    /// Returns all objects in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<(ObjectLocation, Arc<Value>)> {
        let state = self.lock();
        let mut found = Vec::new();
        for (resource, table) in &state.tables {
            for (key, object) in table.objects.range(NamespacedName::new(namespace, "")..) {
                if *key.namespace != *namespace {
                    break;
                }
                found.push(((resource.clone(), key.clone()), Arc::clone(object)));
            }
        }
        found
    }

    /// Stores a new object, and sets its resourceVersion to the revision of the change.
    ///
    /// # Errors
    ///
    /// Fails if the name exists, the namespace does not exist or is terminating, or the store is full.
    pub(crate) fn insert(
        &self,
        resource: &GroupResource,
        key: &NamespacedName,
        object: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, StoreCommitError> {
        let mut state = self.lock();
        if state.tables.get(resource).is_some_and(|table| table.objects.contains_key(key)) {
            return Err(StoreCommitError::Exists);
        }
        state.check_namespace(&key.namespace)?;
        if OBJECTS_MAX <= state.objects {
            return Err(StoreCommitError::Full);
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        let stored = state.put(resource, key, object, None);
        drop(state);
        self.work.notify_one();
        Ok(stored)
    }

    /// Replaces `read`, if it is still the stored object.
    ///
    /// # Errors
    ///
    /// Fails if the object was deleted or changed since it was read.
    pub(crate) fn replace(
        &self,
        resource: &GroupResource,
        key: &NamespacedName,
        read: &Arc<Value>,
        object: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, StoreCommitError> {
        let mut state = self.lock();
        state.check_unchanged(resource, key, read)?;
        if dry_run {
            return Ok(Arc::new(object));
        }
        let stored = state.put(resource, key, object, Some(Arc::clone(read)));
        drop(state);
        self.work.notify_one();
        Ok(stored)
    }

    /// Removes `read`, if it is still the stored object; `last` is its final state. The DELETED event has a revision of
    /// its own.
    ///
    /// # Errors
    ///
    /// Fails if the object was deleted or changed since it was read.
    pub(crate) fn remove(
        &self,
        resource: &GroupResource,
        key: &NamespacedName,
        read: &Arc<Value>,
        last: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, StoreCommitError> {
        let mut state = self.lock();
        state.check_unchanged(resource, key, read)?;
        if dry_run {
            return Ok(Arc::new(last));
        }
        let stored = state.take(resource, key, last, Arc::clone(read));
        drop(state);
        self.work.notify_one();
        Ok(stored)
    }

    /// Returns the changes of a resource after the revision `after`, at most `limit`, and the revision up to which they
    /// are complete. Returns `None` if the history no longer has all of these changes.
    pub(crate) fn changes(
        &self,
        resource: &GroupResource,
        after: u64,
        limit: usize,
    ) -> Option<(Vec<Arc<StoreEvent>>, u64)> {
        let state = self.lock();
        let Some(table) = state.tables.get(resource) else {
            return Some((Vec::new(), state.revision));
        };
        let events = table.history.after(after, limit)?;
        let complete = match events.last() {
            Some(last) if events.len() == limit => last.revision,
            _ => state.revision,
        };
        Some((events, complete))
    }

    /// Subscribes to changes of a resource: the receiver holds the revision of the latest change.
    pub(crate) fn subscribe(&self, resource: &GroupResource) -> watch::Receiver<u64> {
        let mut state = self.lock();
        let revision = state.revision;
        let table = state
            .tables
            .entry(resource.clone())
            .or_insert_with(|| StoredResourceObjects::new(revision));
        table.latest.subscribe()
    }

    /// Returns true if an object with this uid exists in `namespace` or in cluster scope.
    pub(crate) fn owner_is_present(&self, uid: &str, namespace: &str) -> bool {
        let state = self.lock();
        state
            .by_uid
            .get(uid)
            .is_some_and(|(_, key)| key.namespace.is_empty() || *key.namespace == *namespace)
    }

    /// Returns the locations of the objects that have `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<ObjectLocation> {
        let state = self.lock();
        state.dependents.get(uid).map(|found| found.iter().cloned().collect()).unwrap_or_default()
    }

    /// Drops history that is too old. Each change does this too; this call is needed when there are no changes.
    pub(crate) fn expire(&self, now: Instant) {
        self.lock().expire(now);
    }

    /// Waits until there was a change, after which the collector may have work.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// Takes the work of the collector: objects with an owner that does not exist, and namespaces to check.
    pub(crate) fn take_pending(&self) -> (Vec<ObjectLocation>, Vec<NamespacedName>) {
        self.lock().pending.take()
    }
}

impl StoreState {
    fn check_namespace(&self, namespace: &str) -> Result<(), StoreCommitError> {
        if namespace.is_empty() {
            return Ok(());
        }
        let table = self.tables.get(&GroupResource::new("", "namespaces"));
        let found = table.and_then(|table| table.objects.get(&NamespacedName::new("", namespace)));
        match found {
            None => Err(StoreCommitError::NamespaceMissing),
            Some(object) if object.pointer("/metadata/deletionTimestamp").is_some() => {
                Err(StoreCommitError::NamespaceTerminating)
            }
            Some(_) => Ok(()),
        }
    }

    fn check_unchanged(
        &self,
        resource: &GroupResource,
        key: &NamespacedName,
        read: &Arc<Value>,
    ) -> Result<(), StoreCommitError> {
        let stored = self.tables.get(resource).and_then(|table| table.objects.get(key));
        match stored {
            None => Err(StoreCommitError::Missing),
            Some(stored) if Arc::ptr_eq(stored, read) => Ok(()),
            Some(_) => Err(StoreCommitError::Changed),
        }
    }

    fn put(
        &mut self,
        resource: &GroupResource,
        key: &NamespacedName,
        mut object: Value,
        previous: Option<Arc<Value>>,
    ) -> Arc<Value> {
        self.revision += 1;
        set_revision(&mut object, self.revision);
        let object = Arc::new(object);
        let location = (resource.clone(), key.clone());
        if let Some(previous) = &previous {
            self.forget_owners(previous, &location);
        } else {
            self.objects += 1;
            if let Some(uid) = text(&object, "/metadata/uid") {
                self.by_uid.insert(uid.to_owned(), location.clone());
            }
        }
        for uid in owner_uids(&object) {
            let present = self
                .by_uid
                .get(uid)
                .is_some_and(|(_, k)| k.namespace.is_empty() || k.namespace == key.namespace);
            if !present {
                self.pending.orphan(location.clone());
            }
            self.dependents.entry(uid.to_owned()).or_default().insert(location.clone());
        }
        if resource.is_core("namespaces") {
            self.pending.namespace(key.clone());
        }
        let change = if previous.is_some() {
            ApiStoreChangeType::Modified
        } else {
            ApiStoreChangeType::Added
        };
        let event = StoreEvent {
            revision: self.revision,
            change,
            key: key.clone(),
            object: Arc::clone(&object),
            previous,
        };
        self.record(resource, event);
        object
    }

    fn take(
        &mut self,
        resource: &GroupResource,
        key: &NamespacedName,
        mut last: Value,
        previous: Arc<Value>,
    ) -> Arc<Value> {
        self.revision += 1;
        set_revision(&mut last, self.revision);
        let last = Arc::new(last);
        let location = (resource.clone(), key.clone());
        self.objects = self.objects.saturating_sub(1);
        self.forget_owners(&previous, &location);
        if let Some(uid) = text(&previous, "/metadata/uid") {
            self.by_uid.remove(uid);
            for dependent in self.dependents.get(uid).into_iter().flatten() {
                self.pending.orphan(dependent.clone());
            }
        }
        if !key.namespace.is_empty() {
            self.pending.namespace(NamespacedName {
                namespace: "".into(),
                name: Arc::clone(&key.namespace),
            });
        }
        let event = StoreEvent {
            revision: self.revision,
            change: ApiStoreChangeType::Deleted,
            key: key.clone(),
            object: Arc::clone(&last),
            previous: Some(previous),
        };
        self.record(resource, event);
        last
    }

    fn forget_owners(&mut self, object: &Value, location: &ObjectLocation) {
        for uid in owner_uids(object) {
            if let Some(set) = self.dependents.get_mut(uid) {
                set.remove(location);
                if set.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
    }

    fn record(&mut self, resource: &GroupResource, event: StoreEvent) {
        let (before, now) = (self.revision.saturating_sub(1), Instant::now());
        let table = self
            .tables
            .entry(resource.clone())
            .or_insert_with(|| StoredResourceObjects::new(before));
        let bytes = weight(&event.object);
        let replaced = match event.change {
            ApiStoreChangeType::Deleted => table.objects.remove(&event.key),
            ApiStoreChangeType::Added | ApiStoreChangeType::Modified => {
                table.bytes += bytes;
                table.objects.insert(event.key.clone(), Arc::clone(&event.object))
            }
        };
        table.bytes -= replaced.map_or(0, |replaced| weight(&replaced));
        table.history.push(event, bytes, now);
        self.history_bytes += bytes;
        table.latest.send_replace(self.revision);
        self.trim(resource, now);
    }
}

/// Returns the uids in `metadata.ownerReferences`.
pub(crate) fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().filter_map(|owner| owner.get("uid").and_then(Value::as_str))
}

fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), json!(revision.to_string()));
    }
}
