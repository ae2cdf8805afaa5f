//! Remembers what a change may have left to collect. It never collects anything itself.
//!
//! Both sets hold each thing once, so they are bounded by the number of objects.

use std::collections::BTreeSet;

use super::{ObjectKey, ObjectLocation};

/// What the collector must look at.
#[derive(Default)]
pub(super) struct GarbageCollectionQueue {
    orphans: BTreeSet<ObjectLocation>,
    namespaces: BTreeSet<ObjectKey>,
}

impl GarbageCollectionQueue {
    /// An owner of this object is absent.
    pub(super) fn orphan(&mut self, location: ObjectLocation) {
        self.orphans.insert(location);
    }

    /// Something changed in this namespace, or the namespace itself did.
    pub(super) fn namespace(&mut self, key: ObjectKey) {
        self.namespaces.insert(key);
    }

    /// Hands everything over and forgets it.
    pub(super) fn take(&mut self) -> (Vec<ObjectLocation>, Vec<ObjectKey>) {
        let orphans = std::mem::take(&mut self.orphans).into_iter().collect();
        let namespaces = std::mem::take(&mut self.namespaces).into_iter().collect();
        (orphans, namespaces)
    }
}
