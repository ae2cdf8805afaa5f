//! Remembers what a change may have left to collect. It never collects anything itself.
//!
//! Both sets hold each thing once, so they are bounded by the number of objects.

use std::collections::BTreeSet;

use super::{Key, Location};

/// What the collector must look at.
#[derive(Default)]
pub(super) struct Pending {
    orphans: BTreeSet<Location>,
    namespaces: BTreeSet<Key>,
}

impl Pending {
    /// An owner of this object is absent.
    pub(super) fn orphan(&mut self, location: Location) {
        self.orphans.insert(location);
    }

    /// Something changed in this namespace, or the namespace itself did.
    pub(super) fn namespace(&mut self, key: Key) {
        self.namespaces.insert(key);
    }

    /// Hands everything over and forgets it.
    pub(super) fn take(&mut self) -> (Vec<Location>, Vec<Key>) {
        let orphans = std::mem::take(&mut self.orphans).into_iter().collect();
        let namespaces = std::mem::take(&mut self.namespaces).into_iter().collect();
        (orphans, namespaces)
    }
}
