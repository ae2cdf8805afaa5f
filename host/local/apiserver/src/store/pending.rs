//! The queue of the garbage collector.
//!
//! An object or a namespace is queued at most once, so the number of objects limits the queue.

use std::collections::BTreeSet;

use super::{NamespacedName, ObjectLocation};

/// The objects and namespaces that the collector must check.
#[derive(Default)]
pub(super) struct GarbageCollectionQueue {
    orphans: BTreeSet<ObjectLocation>,
    namespaces: BTreeSet<NamespacedName>,
}

impl GarbageCollectionQueue {
    /// Queues an object with an owner that does not exist.
    pub(super) fn orphan(&mut self, location: ObjectLocation) {
        self.orphans.insert(location);
    }

    /// Queues a namespace that changed, or in which an object was deleted.
    pub(super) fn namespace(&mut self, key: NamespacedName) {
        self.namespaces.insert(key);
    }

    /// Takes all entries.
    pub(super) fn take(&mut self) -> (Vec<ObjectLocation>, Vec<NamespacedName>) {
        let orphans = std::mem::take(&mut self.orphans).into_iter().collect();
        let namespaces = std::mem::take(&mut self.namespaces).into_iter().collect();
        (orphans, namespaces)
    }
}
