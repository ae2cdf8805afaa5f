//! Keeps the reports of the last reconciles, for `tholepin calls`. In memory only, and bounded by reports and bytes per
//! object and by bytes in all. The reports of a deleted object are kept for ten minutes within a smaller bound, to show
//! what its deletion did.
//!
//! Invariants:
//! - The reports take no more memory than the limits, whatever plugins do. They are kept as JSON text, because a parsed
//!   report takes many times the memory.
//! - Evicts reconciles without writes first, so that many idle reconciles do not evict the last repair.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tholepin_core::{ObjectRef, ReconcileKey, ReconcileReport, ReconcileResult};

use crate::mapper::reference_of;

/// The limits of a history.
#[derive(Clone, Copy, Debug)]
struct HistoryLimits {
    /// Reports of one object.
    reports: usize,
    /// Bytes of JSON of one object's reports.
    object_bytes: usize,
    /// Bytes of JSON of all reports.
    all_bytes: usize,
    /// Bytes of JSON of one report; a larger one is kept without its calls, or without its steps as well.
    report_bytes: usize,
    /// Bytes of JSON of the reports of all deleted objects.
    deleted_bytes: usize,
    /// How many milliseconds the reports of a deleted object are kept.
    deleted_ms: u64,
}

const LIMITS: HistoryLimits = HistoryLimits {
    reports: 32,
    object_bytes: 256 * 1024,
    all_bytes: 8 * 1024 * 1024,
    report_bytes: 96 * 1024,
    deleted_bytes: 512 * 1024,
    deleted_ms: 10 * 60 * 1000,
};

/// The reports of the last reconciles of all objects.
#[derive(Debug)]
pub(crate) struct ReconcileHistory {
    ring: Mutex<ReportRing>,
}

impl Default for ReconcileHistory {
    fn default() -> Self {
        Self { ring: Mutex::new(ReportRing::new(LIMITS)) }
    }
}

impl ReconcileHistory {
    /// Keeps a report, if there is one.
    pub(crate) fn extend(&self, report: Option<ReconcileReport>) {
        if let Some(report) = report {
            self.ring().add(report);
        }
    }

    /// Returns the reports of an object, the oldest first.
    pub(crate) fn of(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        self.ring().of(object)
    }

    /// Marks an object as deleted.
    pub(crate) fn deleted(&self, object: &ReconcileKey, now_ms: u64) {
        self.ring().delete(object, now_ms);
    }

    fn ring(&self) -> MutexGuard<'_, ReportRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct ReportRing {
    limits: HistoryLimits,
    /// By number, which grows: the first is the oldest.
    reports: BTreeMap<u64, StoredReconcileReport>,
    /// The numbers of the reconciles without writes.
    quiet: BTreeSet<u64>,
    objects: HashMap<ReconcileKey, ReportRingObjectEntry>,
    /// The deleted objects that still have reports here, by the time of their deletion.
    deleted: BTreeSet<(u64, ReconcileKey)>,
    bytes: usize,
    last_number: u64,
}

#[derive(Debug)]
struct StoredReconcileReport {
    object: ReconcileKey,
    /// The report as JSON.
    text: Box<[u8]>,
    /// The end, if the plugin was not called.
    not_called: Option<ReconcileResult>,
}

/// The reports of one object in the ring.
#[derive(Debug, Default)]
struct ReportRingObjectEntry {
    numbers: BTreeSet<u64>,
    bytes: usize,
    deleted_at_ms: Option<u64>,
}

impl ReportRing {
    fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            reports: BTreeMap::new(),
            quiet: BTreeSet::new(),
            objects: HashMap::new(),
            deleted: BTreeSet::new(),
            bytes: 0,
            last_number: 0,
        }
    }

    fn of(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        let of_object = self.objects.iter().filter(|(key, _)| reference_of(key) == *object);
        let numbers: BTreeSet<u64> =
            of_object.flat_map(|(_, usage)| &usage.numbers).copied().collect();
        let kept = numbers.iter().filter_map(|number| self.reports.get(number));
        // The text was written from a report, so it parses.
        kept.filter_map(|kept| Some(Arc::new(serde_json::from_slice(&kept.text).ok()?))).collect()
    }

    fn add(&mut self, mut report: ReconcileReport) {
        let now_ms = report.started_at_ms.saturating_add(report.took_ms);
        self.expire(now_ms);
        if self.is_repeated(&report) {
            return;
        }
        self.last_number = self.last_number.saturating_add(1);
        let number = self.last_number;
        report.number = number;
        let (report, text) = limit_size(report, self.limits.report_bytes);
        let key = report.object.clone();
        let usage = self.objects.entry(key.clone()).or_default();
        usage.numbers.insert(number);
        usage.bytes = usage.bytes.saturating_add(text.len());
        if let Some(deleted_at_ms) = usage.deleted_at_ms.take() {
            self.deleted.remove(&(deleted_at_ms, key.clone()));
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if report.is_quiet() {
            self.quiet.insert(number);
        }
        let is_call = !matches!(report.end, ReconcileResult::NotCalled { .. });
        let not_called = (!is_call && report.is_quiet()).then_some(report.end);
        self.reports
            .insert(number, StoredReconcileReport { object: key.clone(), text, not_called });
        while let Some(oldest) = self.excess_of(&key, number) {
            self.remove(oldest);
        }
        while self.limits.all_bytes < self.bytes {
            let quiet = self.quiet.first().copied();
            let Some(oldest) = quiet.or_else(|| self.reports.keys().next().copied()) else {
                return;
            };
            self.remove(oldest);
        }
    }

    /// Marks an object as deleted. Evicts the objects that were deleted first if the limit is exceeded.
    fn delete(&mut self, object: &ReconcileKey, now_ms: u64) {
        self.expire(now_ms);
        let Some(usage) = self.objects.get_mut(object) else { return };
        if usage.deleted_at_ms.is_none() {
            usage.deleted_at_ms = Some(now_ms);
            self.deleted.insert((now_ms, object.clone()));
        }
        while self.limits.deleted_bytes < self.deleted_bytes() {
            self.evict_first_deleted();
        }
    }

    fn deleted_bytes(&self) -> usize {
        let deleted = self.deleted.iter().filter_map(|(_, object)| self.objects.get(object));
        deleted.map(|usage| usage.bytes).sum()
    }

    /// Evicts the objects that were deleted longer ago than the limit.
    fn expire(&mut self, now_ms: u64) {
        let deleted_ms = self.limits.deleted_ms;
        let is_old = |(at_ms, _): &(u64, ReconcileKey)| at_ms.saturating_add(deleted_ms) <= now_ms;
        while self.deleted.first().is_some_and(is_old) {
            self.evict_first_deleted();
        }
    }

    fn evict_first_deleted(&mut self) {
        let Some((_, object)) = self.deleted.pop_first() else { return };
        let usage = self.objects.get(&object);
        for number in usage.map(|usage| usage.numbers.clone()).unwrap_or_default() {
            self.remove(number);
        }
    }

    /// Returns true if the last report of the object had the same end without a call, such as for a paused object.
    fn is_repeated(&self, report: &ReconcileReport) -> bool {
        let last = self.objects.get(&report.object).and_then(|usage| usage.numbers.last());
        let last = last.and_then(|number| self.reports.get(number));
        let last = last.and_then(|last| last.not_called.as_ref());
        report.is_quiet() && last == Some(&report.end)
    }

    /// Returns the report of an object to evict, if the object exceeds its limits.
    fn excess_of(&self, key: &ReconcileKey, newest: u64) -> Option<u64> {
        let ReportRingObjectEntry { numbers, bytes, deleted_at_ms: _ } = self.objects.get(key)?;
        if numbers.len() <= self.limits.reports && *bytes <= self.limits.object_bytes {
            return None;
        }
        let mut older = numbers.iter().copied().filter(|number| *number != newest);
        let quiet = older.clone().find(|number| self.quiet.contains(number));
        quiet.or_else(|| older.next())
    }

    fn remove(&mut self, number: u64) {
        self.quiet.remove(&number);
        let Some(StoredReconcileReport { object, text, .. }) = self.reports.remove(&number) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(text.len());
        let Some(usage) = self.objects.get_mut(&object) else { return };
        usage.numbers.remove(&number);
        usage.bytes = usage.bytes.saturating_sub(text.len());
        if usage.numbers.is_empty() {
            if let Some(deleted_at_ms) = usage.deleted_at_ms {
                self.deleted.remove(&(deleted_at_ms, object.clone()));
            }
            self.objects.remove(&object);
        }
    }
}

/// Returns a report within `bytes_max` with its text. Drops the calls of a larger report, and its steps if that is not
/// enough.
fn limit_size(mut report: ReconcileReport, bytes_max: usize) -> (ReconcileReport, Box<[u8]>) {
    let whole = text(&report);
    if whole.len() <= bytes_max {
        return (report, whole);
    }
    let bytes = whole.len();
    report.calls_left_out = report.calls_left_out.saturating_add(report.calls.len());
    report.calls.clear();
    report.remarks.push(format!("{bytes} bytes are too much to keep: the calls were left out"));
    let without_calls = text(&report);
    if without_calls.len() <= bytes_max {
        return (report, without_calls);
    }
    let count = report.steps.len();
    report.steps.clear();
    report.remarks.push(format!("{count} steps were left out too"));
    let without_steps = text(&report);
    (report, without_steps)
}

/// Returns a report as JSON. All its keys are strings, so this cannot fail.
fn text(report: &ReconcileReport) -> Box<[u8]> {
    serde_json::to_vec(report).unwrap_or_default().into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;
    use proptest::prelude::*;
    use tholepin_core::{
        PlanStep, PlanStepEffect, ReconcileHeader, Recording, RevisionDigest, WriteMode,
        step::RedisCliCommand,
    };

    fn report(name: &str, command: Option<usize>) -> ReconcileReport {
        let header = ReconcileHeader {
            mode: WriteMode::Live,
            object: key("p", name),
            revision: RevisionDigest("r".into()),
            started_at_ms: 1,
            causes: Vec::new(),
            remarks: Vec::new(),
        };
        let end =
            ReconcileResult::Answered { summary: String::new(), requeue_ms: None, finished: false };
        let mut report = ReconcileReport::new(header, &Recording::default(), end, 1);
        report.steps.extend(command.map(|bytes| {
            let command = RedisCliCommand { pod: "a".into(), command: "x".repeat(bytes) };
            PlanStep::new(PlanStepEffect::Commands { commands: vec![command] })
        }));
        report
    }

    fn kept(ring: &ReportRing, name: &str) -> Vec<u64> {
        ring.of(&reference_of(&key("p", name))).iter().map(|report| report.number).collect()
    }

    const SMALL: HistoryLimits = HistoryLimits {
        reports: 3,
        object_bytes: 20_000,
        all_bytes: 30_000,
        report_bytes: 9_000,
        deleted_bytes: 10_000,
        deleted_ms: 60_000,
    };

    #[test]
    fn reconciles_without_writes_are_evicted_first() {
        let mut ring = ReportRing::new(SMALL);
        ring.add(report("a", Some(1)));
        for _ in 0..9 {
            ring.add(report("a", None));
        }
        assert_eq!(kept(&ring, "a"), [1, 9, 10]);
        for _ in 0..3 {
            ring.add(report("a", Some(1)));
        }
        assert_eq!(kept(&ring, "a"), [11, 12, 13]);
        assert!(kept(&ring, "b").is_empty());
    }

    #[test]
    fn a_large_report_is_kept_without_its_steps() {
        let mut ring = ReportRing::new(SMALL);
        ring.add(report("a", Some(50_000)));
        let kept = ring.of(&reference_of(&key("p", "a")));
        assert!(kept[0].steps.is_empty());
        assert!(kept[0].remarks[1].contains("1 steps"), "{:?}", kept[0].remarks);
    }

    #[test]
    fn a_pause_is_kept_once() {
        let mut ring = ReportRing::new(SMALL);
        let paused = || {
            let mut report = report("a", None);
            report.end = ReconcileResult::NotCalled { why: "paused".into() };
            report
        };
        for _ in 0..3 {
            ring.add(paused());
        }
        assert_eq!(kept(&ring, "a").len(), 1);
        ring.add(report("a", None));
        ring.add(paused());
        assert_eq!(kept(&ring, "a").len(), 3);
    }

    #[test]
    fn the_reports_of_a_deleted_object_expire() {
        let mut ring = ReportRing::new(SMALL);
        ring.add(report("a", Some(1)));
        ring.add(report("b", Some(1)));
        ring.delete(&key("p", "a"), 1_000);
        ring.delete(&key("p", "never"), 1_000);
        assert_eq!(kept(&ring, "a"), [1]);
        ring.expire(61_000);
        assert!(kept(&ring, "a").is_empty());
        assert_eq!(kept(&ring, "b"), [2], "it was not deleted");
        ring.delete(&key("p", "b"), 61_000);
        ring.add(report("b", Some(1)));
        ring.expire(200_000);
        assert_eq!(kept(&ring, "b"), [2, 3], "another object of the name appeared");
    }

    #[test]
    fn deleted_objects_stay_within_their_own_limit() {
        let mut ring = ReportRing::new(LIMITS);
        for number in 0..500_u64 {
            let name = number.to_string();
            for _ in 0..LIMITS.reports {
                ring.add(report(&name, Some(2_000)));
            }
            ring.delete(&key("p", &name), number);
        }
        assert!(ring.bytes <= LIMITS.deleted_bytes, "{}", ring.bytes);
        assert_eq!(kept(&ring, "499").len(), LIMITS.reports);
        assert!(ring.objects.len() < 10 && ring.deleted.len() < 10 && ring.reports.len() < 320);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_limit_is_ever_exceeded(
            reports in proptest::collection::vec((0..6_u8, 0..12_000_usize), 1..80),
        ) {
            let mut ring = ReportRing::new(SMALL);
            for (object, bytes) in reports {
                let command = Some(bytes).filter(|bytes| 6_000 < *bytes);
                ring.add(report(&object.to_string(), command));
                if bytes < 1_000 {
                    ring.delete(&key("p", &object.to_string()), 1);
                    prop_assert!(ring.deleted_bytes() <= SMALL.deleted_bytes);
                }
                for (at_ms, object) in &ring.deleted {
                    prop_assert_eq!(ring.objects[object].deleted_at_ms, Some(*at_ms));
                }
                let sum: usize = ring.reports.values().map(|kept| kept.text.len()).sum();
                prop_assert_eq!(sum, ring.bytes);
                prop_assert!(ring.bytes <= SMALL.all_bytes);
                for usage in ring.objects.values() {
                    prop_assert!(usage.numbers.len() <= SMALL.reports);
                    prop_assert!(usage.bytes <= SMALL.object_bytes);
                    prop_assert!(!usage.numbers.is_empty());
                }
                prop_assert!(ring.quiet.iter().all(|number| ring.reports.contains_key(number)));
            }
        }
    }
}
