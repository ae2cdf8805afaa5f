//! Counts the faults of plugins, and says when an object had enough, and when a revision is bad for many.
//!
//! Pure. A fault counts against one revision and one object: others never notice. Without a time limit,
//! because a retry would fail again and a change is the signal.
//!
//! Invariants:
//! - Two faults in a row quarantine an object for a revision.
//! - A call that the revision answers, an understood failure and an invalid spec included, gives a clean
//!   record; so does a new generation of the object, a new object of the name, or a new revision.
//! - A fault of the host neither counts nor gives a clean record.

use std::{collections::BTreeMap, time::Duration};

use tholepin_core::{ObjectKey, PluginName, RevisionDigest};
use tokio::time::Instant;

/// Faults in a row until an object is quarantined. Two, because one may be a passing fault.
const STRIKES_MAX: u32 = 2;
/// So many objects that a revision quarantines within this time condemn it; all of them, if it has fewer.
const CONDEMNING: usize = 3;
const CONDEMNING_WITHIN: Duration = Duration::from_secs(60);

/// A state of an object, as far as strikes care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectVersion {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrikeDecision {
    /// Try again, after the backoff.
    Retry,
    /// Leave the object alone until it or the plugin changes.
    Quarantine,
}

/// The records of all objects. In memory only: a new host begins anew.
#[derive(Debug, Default)]
pub(crate) struct StrikeTracker {
    struck: BTreeMap<ObjectKey, StrikeRecord>,
}

/// An object that has faults against it. One revision serves it at a time, so one record is enough.
#[derive(Debug)]
struct StrikeRecord {
    revision: RevisionDigest,
    state: ObjectVersion,
    in_a_row: u32,
    /// When it was struck last.
    at: Instant,
}

impl StrikeRecord {
    fn is_about(&self, revision: &RevisionDigest, state: &ObjectVersion) -> bool {
        self.revision == *revision && self.state == *state
    }
}

impl StrikeTracker {
    /// Whether the object is quarantined on this revision, in this state.
    pub(crate) fn is_quarantined(
        &self,
        revision: &RevisionDigest,
        key: &ObjectKey,
        state: &ObjectVersion,
    ) -> bool {
        let struck = self.struck.get(key).filter(|struck| struck.is_about(revision, state));
        struck.is_some_and(|struck| STRIKES_MAX <= struck.in_a_row)
    }

    /// How many objects of a plugin are quarantined, those included that changed and were not called
    /// since.
    pub(crate) fn quarantined(&self, plugin: &PluginName) -> usize {
        let theirs = self.struck.iter().filter(|(key, _)| key.plugin == *plugin);
        theirs.filter(|(_, struck)| STRIKES_MAX <= struck.in_a_row).count()
    }

    /// The objects whose quarantine within a short time condemns a revision that has so many `objects`: it
    /// is the revision that is wrong, and not they. None while it may be they.
    pub(crate) fn condemning(
        &self,
        revision: &RevisionDigest,
        objects: usize,
        now: Instant,
    ) -> Vec<&ObjectKey> {
        let is_new = |struck: &StrikeRecord| {
            STRIKES_MAX <= struck.in_a_row && now - struck.at <= CONDEMNING_WITHIN
        };
        let theirs = self.struck.iter().filter(|(_, struck)| struck.revision == *revision);
        let struck: Vec<_> =
            theirs.filter(|(_, struck)| is_new(struck)).map(|(key, _)| key).collect();
        let enough = CONDEMNING.min(objects).max(1);
        if enough <= struck.len() { struck } else { Vec::new() }
    }

    /// The revision answered for this object, well or with a failure, or the object is gone: its record is
    /// clean.
    pub(crate) fn clear(&mut self, key: &ObjectKey) {
        self.struck.remove(key);
    }

    /// The revision failed on this object by its own fault.
    pub(crate) fn strike(
        &mut self,
        revision: &RevisionDigest,
        key: &ObjectKey,
        state: ObjectVersion,
        now: Instant,
    ) -> StrikeDecision {
        let earlier = self.struck.get(key).filter(|struck| struck.is_about(revision, &state));
        let in_a_row = earlier.map_or(0, |struck| struck.in_a_row).saturating_add(1);
        let revision = revision.clone();
        self.struck.insert(key.clone(), StrikeRecord { revision, state, in_a_row, at: now });
        if in_a_row < STRIKES_MAX { StrikeDecision::Retry } else { StrikeDecision::Quarantine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn state(generation: i64) -> ObjectVersion {
        ObjectVersion { uid: "u".to_owned(), generation: Some(generation) }
    }

    #[test]
    fn two_in_a_row_quarantine_and_any_change_clears() {
        let [one, two] = ["one", "two"].map(|name| RevisionDigest(name.to_owned()));
        let (x, y) = (key("p", "x"), key("p", "y"));
        let (mut strikes, now) = (StrikeTracker::default(), Instant::now());
        assert_eq!(strikes.strike(&one, &x, state(1), now), StrikeDecision::Retry);
        strikes.clear(&x);
        assert_eq!(strikes.strike(&one, &x, state(1), now), StrikeDecision::Retry, "not in a row");
        assert_eq!(strikes.quarantined(&x.plugin), 0);
        assert_eq!(strikes.strike(&one, &x, state(1), now), StrikeDecision::Quarantine);
        assert_eq!(strikes.quarantined(&x.plugin), 1);
        assert_eq!(strikes.quarantined(&key("other", "x").plugin), 0);
        assert!(strikes.is_quarantined(&one, &x, &state(1)));
        assert!(!strikes.is_quarantined(&one, &x, &state(2)), "a new generation");
        assert!(!strikes.is_quarantined(&two, &x, &state(1)), "a new revision");
        assert!(!strikes.is_quarantined(&one, &y, &state(1)), "another object");
        let other = ObjectVersion { uid: "v".to_owned(), ..state(1) };
        assert!(!strikes.is_quarantined(&one, &x, &other), "a new object of the name");
        assert_eq!(strikes.strike(&one, &x, state(2), now), StrikeDecision::Retry);
    }

    #[test]
    fn a_revision_is_condemned_by_many_objects_within_a_minute() {
        let one = RevisionDigest("one".to_owned());
        let (mut strikes, now) = (StrikeTracker::default(), Instant::now());
        let quarantine = |strikes: &mut StrikeTracker, name: &str, at: Instant| {
            for _ in 0..STRIKES_MAX {
                strikes.strike(&one, &key("p", name), state(1), at);
            }
        };
        strikes.strike(&one, &key("p", "a"), state(1), now);
        assert!(strikes.condemning(&one, 1, now).is_empty(), "one strike is none");
        quarantine(&mut strikes, "a", now);
        assert_eq!(strikes.condemning(&one, 1, now), [&key("p", "a")], "it is all there is");
        assert!(strikes.condemning(&one, 2, now).is_empty());
        quarantine(&mut strikes, "b", now);
        assert_eq!(strikes.condemning(&one, 2, now).len(), 2);
        assert!(strikes.condemning(&one, 9, now).is_empty());
        assert!(strikes.condemning(&RevisionDigest("two".to_owned()), 2, now).is_empty());
        let later = now + CONDEMNING_WITHIN + Duration::from_secs(1);
        quarantine(&mut strikes, "c", later);
        assert!(strikes.condemning(&one, 9, later).is_empty(), "the first were long ago");
        quarantine(&mut strikes, "d", later);
        quarantine(&mut strikes, "e", later);
        assert_eq!(strikes.condemning(&one, 9, later).len(), 3);
        strikes.clear(&key("p", "e"));
        assert!(strikes.condemning(&one, 9, later).is_empty(), "it was called well");
    }
}
