//! Counts the faults of plugins, and says when an object, or a whole revision, had enough.
//!
//! Pure. A fault counts against one revision and one object: others never notice.
//!
//! Invariants:
//! - Two faults in a row quarantine an object for a revision.
//! - A success, a new generation of the object, a new object of the name, or a new revision gives a
//!   clean record.
//! - A revision is reported for roll-back at most once.

use std::collections::{BTreeMap, BTreeSet};

use tholepin_core::{ObjectKey, PluginName, RevisionDigest};

/// Faults in a row until an object is quarantined.
const STRIKES_MAX: u32 = 2;
/// Fewer quarantined objects than this say nothing about the revision.
const ROLL_BACK_OBJECTS_MIN: usize = 3;
/// Records of this many revisions are kept per plugin.
const REVISIONS_MAX: usize = 4;

/// A state of an object, as far as strikes care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again, after the backoff.
    Retry,
    /// Leave the object alone until it or the plugin changes.
    Quarantine,
}

/// A revision fails on so many objects that the one before should come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollBack {
    /// The plugin.
    pub plugin: PluginName,
    /// The revision that fails.
    pub revision: RevisionDigest,
    /// How many objects are quarantined on it.
    pub quarantined: usize,
    /// On how many objects it was called.
    pub called: usize,
}

/// The records of all plugins.
#[derive(Default)]
pub struct Strikes {
    records: BTreeMap<PluginName, BTreeMap<RevisionDigest, Record>>,
    /// Counts uses, to tell which revision was used last.
    uses: u64,
}

#[derive(Default)]
struct Record {
    used: u64,
    called: BTreeSet<ObjectKey>,
    struck: BTreeMap<ObjectKey, Struck>,
    reported: bool,
}

struct Struck {
    state: ObjectState,
    in_a_row: u32,
}

impl Strikes {
    /// Whether the object is quarantined on this revision, in this state.
    #[must_use]
    pub fn is_quarantined(
        &self,
        revision: &RevisionDigest,
        key: &ObjectKey,
        state: &ObjectState,
    ) -> bool {
        let record = self.records.get(&key.plugin).and_then(|records| records.get(revision));
        let struck = record.and_then(|record| record.struck.get(key));
        struck.is_some_and(|struck| struck.state == *state && struck.in_a_row >= STRIKES_MAX)
    }

    /// The revision answered for this object.
    pub fn succeeded(&mut self, revision: &RevisionDigest, key: &ObjectKey) {
        let record = self.record(revision, &key.plugin);
        record.called.insert(key.clone());
        record.struck.remove(key);
    }

    /// The revision failed on this object by its own fault.
    pub fn struck(
        &mut self,
        revision: &RevisionDigest,
        key: &ObjectKey,
        state: ObjectState,
    ) -> (Verdict, Option<RollBack>) {
        let record = self.record(revision, &key.plugin);
        record.called.insert(key.clone());
        let fresh = || Struck { state: state.clone(), in_a_row: 0 };
        let struck = record.struck.entry(key.clone()).or_insert_with(fresh);
        if struck.state != state {
            *struck = fresh();
        }
        struck.in_a_row = struck.in_a_row.saturating_add(1);
        if struck.in_a_row < STRIKES_MAX {
            return (Verdict::Retry, None);
        }
        (Verdict::Quarantine, record.roll_back(&key.plugin, revision))
    }

    /// The object is gone.
    pub fn forget(&mut self, key: &ObjectKey) {
        for record in self.records.get_mut(&key.plugin).into_iter().flat_map(BTreeMap::values_mut) {
            record.called.remove(key);
            record.struck.remove(key);
        }
    }

    /// How many objects of a plugin are quarantined, on any revision kept.
    #[must_use]
    pub fn quarantined(&self, plugin: &PluginName) -> usize {
        let records = self.records.get(plugin).into_iter().flat_map(BTreeMap::values);
        records.map(Record::quarantined).sum()
    }

    fn record(&mut self, revision: &RevisionDigest, plugin: &PluginName) -> &mut Record {
        self.uses += 1;
        let records = self.records.entry(plugin.clone()).or_default();
        if records.len() >= REVISIONS_MAX && !records.contains_key(revision) {
            let oldest = records.iter().min_by_key(|(_, record)| record.used);
            if let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) {
                records.remove(&oldest);
            }
        }
        let record = records.entry(revision.clone()).or_default();
        record.used = self.uses;
        record
    }
}

impl Record {
    fn quarantined(&self) -> usize {
        self.struck.values().filter(|struck| struck.in_a_row >= STRIKES_MAX).count()
    }

    fn roll_back(&mut self, plugin: &PluginName, revision: &RevisionDigest) -> Option<RollBack> {
        let (quarantined, called) = (self.quarantined(), self.called.len());
        let many = quarantined >= ROLL_BACK_OBJECTS_MIN && 2 * quarantined >= called;
        if !many || std::mem::replace(&mut self.reported, true) {
            return None;
        }
        let (plugin, revision) = (plugin.clone(), revision.clone());
        Some(RollBack { plugin, revision, quarantined, called })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn state(generation: i64) -> ObjectState {
        ObjectState { uid: "u".to_owned(), generation: Some(generation) }
    }

    fn revision(name: &str) -> RevisionDigest {
        RevisionDigest(name.to_owned())
    }

    #[test]
    fn two_in_a_row_quarantine_and_any_change_clears() {
        let (one, two, x) = (revision("one"), revision("two"), key("p", "x"));
        let mut strikes = Strikes::default();
        assert_eq!(strikes.struck(&one, &x, state(1)), (Verdict::Retry, None));
        strikes.succeeded(&one, &x);
        assert_eq!(strikes.struck(&one, &x, state(1)).0, Verdict::Retry, "not in a row");
        assert_eq!(strikes.struck(&one, &x, state(1)).0, Verdict::Quarantine);
        assert!(strikes.is_quarantined(&one, &x, &state(1)));
        assert!(!strikes.is_quarantined(&one, &x, &state(2)), "a new generation");
        assert!(!strikes.is_quarantined(&two, &x, &state(1)), "a new revision");
        assert!(!strikes.is_quarantined(&one, &key("p", "y"), &state(1)), "another object");
        assert_eq!(strikes.struck(&one, &x, state(2)).0, Verdict::Retry);
        assert_eq!(strikes.quarantined(&x.plugin), 0);
    }

    #[test]
    fn a_revision_is_reported_once_when_it_fails_on_half_of_at_least_three() {
        let one = revision("one");
        let mut strikes = Strikes::default();
        for name in ["a", "b", "c", "d"] {
            strikes.succeeded(&one, &key("p", name));
        }
        let mut fail = |name: &str| {
            strikes.struck(&one, &key("p", name), state(1));
            strikes
                .struck(&one, &key("p", name), state(1))
                .1
                .map(|said| (said.quarantined, said.called))
        };
        assert_eq!(fail("a"), None);
        assert_eq!(fail("b"), None, "two say nothing");
        assert_eq!(fail("c"), Some((3, 4)));
        assert_eq!(fail("d"), None, "said once");
    }

    #[test]
    fn few_of_many_are_no_reason_to_roll_back() {
        let one = revision("one");
        let mut strikes = Strikes::default();
        for number in 0..20 {
            strikes.succeeded(&one, &key("p", &number.to_string()));
        }
        for number in 0..9 {
            let x = key("p", &number.to_string());
            strikes.struck(&one, &x, state(1));
            assert_eq!(strikes.struck(&one, &x, state(1)), (Verdict::Quarantine, None), "{number}");
        }
    }

    #[test]
    fn records_of_old_revisions_and_gone_objects_go() {
        let mut strikes = Strikes::default();
        for number in 0..10 {
            strikes.succeeded(&revision(&number.to_string()), &key("p", "x"));
        }
        let plugin = key("p", "x").plugin;
        assert_eq!(strikes.records[&plugin].len(), REVISIONS_MAX);
        strikes.forget(&key("p", "x"));
        assert!(strikes.records[&plugin].values().all(|record| record.called.is_empty()));
    }
}
