//! Counts the faults of plugins. Decides when an object is quarantined, and when a revision is rolled back.
//!
//! Pure. A fault counts against one revision and one object, and against no other. A quarantine has no time limit: a
//! retry would fail again, and a change of the object or of the plugin ends it.
//!
//! Invariants:
//! - Two faults in a row quarantine an object for a revision.
//! - A call that the revision answers clears the record, also with a failure or an invalid spec; so does a new
//!   generation of the object, a new object of the name, or a new revision.
//! - A fault of the host neither counts nor clears the record.

use std::{collections::BTreeMap, time::Duration};

use tholepin_core::{PluginName, ReconcileKey, RevisionDigest};
use tokio::time::Instant;

/// Faults in a row until an object is quarantined. Two, because a single fault may be transient.
const STRIKES_MAX: u32 = 2;
/// A revision is rolled back when this many of its objects are quarantined within [`ROLLBACK_WINDOW`], or all of them
/// if there are fewer.
const ROLLBACK_OBJECTS: usize = 3;
const ROLLBACK_WINDOW: Duration = Duration::from_secs(60);

/// A version of an object that strikes count against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StrikedObjectVersion {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
}

/// The consequence of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrikeDecision {
    /// The object is retried after the backoff.
    Retry,
    /// The plugin is not called for the object until either changes.
    Quarantine,
}

/// The records of all objects. In memory only: a restarted host has none.
#[derive(Debug, Default)]
pub(crate) struct StrikeTracker {
    records: BTreeMap<ReconcileKey, ObjectStrikeRecord>,
}

/// The faults on one object. One revision is active at a time, so one record per object is enough.
#[derive(Debug)]
struct ObjectStrikeRecord {
    revision: RevisionDigest,
    version: StrikedObjectVersion,
    in_a_row: u32,
    /// When the last strike was counted.
    at: Instant,
}

impl ObjectStrikeRecord {
    fn is_about(&self, revision: &RevisionDigest, version: &StrikedObjectVersion) -> bool {
        self.revision == *revision && self.version == *version
    }
}

impl StrikeTracker {
    /// Returns true if the object is quarantined for this revision in this version.
    pub(crate) fn is_quarantined(
        &self,
        revision: &RevisionDigest,
        key: &ReconcileKey,
        version: &StrikedObjectVersion,
    ) -> bool {
        let record = self.records.get(key).filter(|record| record.is_about(revision, version));
        record.is_some_and(|record| STRIKES_MAX <= record.in_a_row)
    }

    /// Returns how many objects of a plugin are quarantined, including those that changed and were not called
    /// since.
    pub(crate) fn quarantined(&self, plugin: &PluginName) -> usize {
        let of_plugin = self.records.iter().filter(|(key, _)| key.plugin == *plugin);
        of_plugin.filter(|(_, record)| STRIKES_MAX <= record.in_a_row).count()
    }

    /// Returns the quarantined objects because of which a revision with this many `objects` is rolled back. Returns
    /// none if they are too few: then the objects may be the cause and not the revision.
    pub(crate) fn rollback_candidates(
        &self,
        revision: &RevisionDigest,
        objects: usize,
        now: Instant,
    ) -> Vec<&ReconcileKey> {
        let is_recent = |record: &ObjectStrikeRecord| {
            STRIKES_MAX <= record.in_a_row && now - record.at <= ROLLBACK_WINDOW
        };
        let of_revision = self.records.iter().filter(|(_, record)| record.revision == *revision);
        let quarantined: Vec<_> =
            of_revision.filter(|(_, record)| is_recent(record)).map(|(key, _)| key).collect();
        let enough = ROLLBACK_OBJECTS.min(objects).max(1);
        if enough <= quarantined.len() { quarantined } else { Vec::new() }
    }

    /// Clears the record of an object: the revision answered for it, or it was deleted.
    pub(crate) fn clear(&mut self, key: &ReconcileKey) {
        self.records.remove(key);
    }

    /// Counts a fault of the revision on this object.
    pub(crate) fn strike(
        &mut self,
        revision: &RevisionDigest,
        key: &ReconcileKey,
        version: StrikedObjectVersion,
        now: Instant,
    ) -> StrikeDecision {
        let earlier = self.records.get(key).filter(|record| record.is_about(revision, &version));
        let in_a_row = earlier.map_or(0, |record| record.in_a_row).saturating_add(1);
        let revision = revision.clone();
        self.records
            .insert(key.clone(), ObjectStrikeRecord { revision, version, in_a_row, at: now });
        if in_a_row < STRIKES_MAX { StrikeDecision::Retry } else { StrikeDecision::Quarantine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn version(generation: i64) -> StrikedObjectVersion {
        StrikedObjectVersion { uid: "u".to_owned(), generation: Some(generation) }
    }

    #[test]
    fn two_in_a_row_quarantine_and_any_change_clears() {
        let [one, two] = ["one", "two"].map(|name| RevisionDigest(name.to_owned()));
        let (x, y) = (key("p", "x"), key("p", "y"));
        let (mut strikes, now) = (StrikeTracker::default(), Instant::now());
        assert_eq!(strikes.strike(&one, &x, version(1), now), StrikeDecision::Retry);
        strikes.clear(&x);
        assert_eq!(
            strikes.strike(&one, &x, version(1), now),
            StrikeDecision::Retry,
            "not in a row"
        );
        assert_eq!(strikes.quarantined(&x.plugin), 0);
        assert_eq!(strikes.strike(&one, &x, version(1), now), StrikeDecision::Quarantine);
        assert_eq!(strikes.quarantined(&x.plugin), 1);
        assert_eq!(strikes.quarantined(&key("other", "x").plugin), 0);
        assert!(strikes.is_quarantined(&one, &x, &version(1)));
        assert!(!strikes.is_quarantined(&one, &x, &version(2)), "a new generation");
        assert!(!strikes.is_quarantined(&two, &x, &version(1)), "a new revision");
        assert!(!strikes.is_quarantined(&one, &y, &version(1)), "another object");
        let other = StrikedObjectVersion { uid: "v".to_owned(), ..version(1) };
        assert!(!strikes.is_quarantined(&one, &x, &other), "a new object of the name");
        assert_eq!(strikes.strike(&one, &x, version(2), now), StrikeDecision::Retry);
    }

    #[test]
    fn a_revision_is_rolled_back_for_many_objects_within_a_minute() {
        let one = RevisionDigest("one".to_owned());
        let (mut strikes, now) = (StrikeTracker::default(), Instant::now());
        let quarantine = |strikes: &mut StrikeTracker, name: &str, at: Instant| {
            for _ in 0..STRIKES_MAX {
                strikes.strike(&one, &key("p", name), version(1), at);
            }
        };
        strikes.strike(&one, &key("p", "a"), version(1), now);
        assert!(
            strikes.rollback_candidates(&one, 1, now).is_empty(),
            "one strike is no quarantine"
        );
        quarantine(&mut strikes, "a", now);
        assert_eq!(
            strikes.rollback_candidates(&one, 1, now),
            [&key("p", "a")],
            "it is the only object"
        );
        assert!(strikes.rollback_candidates(&one, 2, now).is_empty());
        quarantine(&mut strikes, "b", now);
        assert_eq!(strikes.rollback_candidates(&one, 2, now).len(), 2);
        assert!(strikes.rollback_candidates(&one, 9, now).is_empty());
        assert!(strikes.rollback_candidates(&RevisionDigest("two".to_owned()), 2, now).is_empty());
        let later = now + ROLLBACK_WINDOW + Duration::from_secs(1);
        quarantine(&mut strikes, "c", later);
        assert!(
            strikes.rollback_candidates(&one, 9, later).is_empty(),
            "the first two are too old"
        );
        quarantine(&mut strikes, "d", later);
        quarantine(&mut strikes, "e", later);
        assert_eq!(strikes.rollback_candidates(&one, 9, later).len(), 3);
        strikes.clear(&key("p", "e"));
        assert!(strikes.rollback_candidates(&one, 9, later).is_empty(), "one was cleared");
    }
}
