//! Remembers which reconciled objects wait for a name that another owner's object has.
//!
//! An apply that is refused because of such an object cannot succeed before that object is deleted or gets
//! other owners. Its change wakes the reconciled object, which no owner reference leads to.
//!
//! Invariants:
//! - A key waits only for the names that its last reconcile was refused.
//! - A change that leaves uid and owners as they are wakes no key: the apply would be refused again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tholepin_core::{ObjectRef, ReconcileKey, WatchedStoreObject, port::WatchedStoreChange};

/// The most names that one key can wait for.
const NAMES_PER_KEY_MAX: usize = 64;

/// An object without the version of its kind: group, kind, namespace and name.
type NameConflictKey = (String, String, String, String);

/// The names that each key waits for.
#[derive(Default)]
pub(crate) struct NameConflictWaiters {
    waiting: Mutex<BTreeMap<ReconcileKey, BTreeSet<NameConflictKey>>>,
}

impl NameConflictWaiters {
    /// Registers that a key waits for a name.
    pub(crate) fn wait(&self, key: &ReconcileKey, object: &ObjectRef) {
        let mut waiting = self.waiting();
        let names = waiting.entry(key.clone()).or_default();
        if names.len() < NAMES_PER_KEY_MAX {
            names.insert(name(object));
        }
    }

    /// Ends the waits of a key except for these names.
    pub(crate) fn keep(&self, key: &ReconcileKey, objects: &BTreeSet<ObjectRef>) {
        let mut waiting = self.waiting();
        let Some(names) = waiting.get_mut(key) else { return };
        let kept: BTreeSet<NameConflictKey> = objects.iter().map(name).collect();
        names.retain(|name| kept.contains(name));
        if names.is_empty() {
            waiting.remove(key);
        }
    }

    /// Returns the keys that may get the name after this change.
    pub(crate) fn woken(&self, change: &WatchedStoreChange) -> Vec<ReconcileKey> {
        let whose = |state: &Option<WatchedStoreObject>| {
            let meta = state.as_ref().map(WatchedStoreObject::meta);
            meta.map(|meta| (meta.uid.clone(), meta.owners.clone()))
        };
        let waiting = self.waiting();
        if waiting.is_empty() || whose(&change.before) == whose(&change.after) {
            return Vec::new();
        }
        let changed = name(&change.object);
        let waits = waiting.iter().filter(|(_, names)| names.contains(&changed));
        waits.map(|(key, _)| key.clone()).collect()
    }

    /// Returns all keys that wait for a name.
    pub(crate) fn all(&self) -> Vec<ReconcileKey> {
        self.waiting().keys().cloned().collect()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<ReconcileKey, BTreeSet<NameConflictKey>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(object: &ObjectRef) -> NameConflictKey {
    let ObjectRef { kind, namespace, name } = object;
    (kind.group().to_owned(), kind.kind.clone(), namespace.clone(), name.clone())
}
