//! Remembers what the last passes did, for `tholepin calls`. In memory only, and bounded: by passes and
//! bytes per object, and by bytes over all. Those of an object that is gone are kept for a while, to tell
//! how its deletion went, and within a smaller bound.
//!
//! Invariants:
//! - What is kept weighs no more than the limits, whatever plugins do. It is kept as text, because a
//!   parsed report takes many times the memory.
//! - A pass that did nothing goes before one that did something: an idle night does not drive out the
//!   last repair.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tholepin_core::{ObjectKey, ObjectRef, ReconcileReport, ReconcileResult};

use crate::mapper::reference_of;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct HistoryLimits {
    /// Passes of one object.
    passes: usize,
    /// Bytes of JSON of one object's passes.
    object_bytes: usize,
    /// Bytes of JSON of all passes.
    all_bytes: usize,
    /// Bytes of JSON of one pass; what is larger is kept without its calls, or without its steps.
    pass_bytes: usize,
    /// Bytes of JSON of the passes of all objects that are gone.
    gone_bytes: usize,
    /// How many milliseconds the passes of an object that is gone are kept.
    gone_ms: u64,
}

const LIMITS: HistoryLimits = HistoryLimits {
    passes: 32,
    object_bytes: 256 * 1024,
    all_bytes: 8 * 1024 * 1024,
    pass_bytes: 96 * 1024,
    gone_bytes: 512 * 1024,
    gone_ms: 10 * 60 * 1000,
};

/// The last passes of all objects.
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
    /// Keeps a pass, if there is one to keep.
    pub(crate) fn extend(&self, report: Option<ReconcileReport>) {
        if let Some(report) = report {
            self.ring().add(report);
        }
    }

    /// The passes of an object that are kept, the oldest first.
    pub(crate) fn of(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        self.ring().of(object)
    }

    /// An object is gone.
    pub(crate) fn gone(&self, object: &ObjectKey, now_ms: u64) {
        self.ring().gone(object, now_ms);
    }

    fn ring(&self) -> MutexGuard<'_, ReportRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct ReportRing {
    limits: HistoryLimits,
    /// By number, which grows: the first is the oldest.
    passes: BTreeMap<u64, RecordedReconcile>,
    /// The numbers of passes that did nothing.
    quiet: BTreeSet<u64>,
    objects: HashMap<ObjectKey, ObjectUsage>,
    /// The objects that are gone and still have passes here, by when they went.
    gone: BTreeSet<(u64, ObjectKey)>,
    bytes: usize,
    last_number: u64,
}

#[derive(Debug)]
struct RecordedReconcile {
    object: ObjectKey,
    /// The report as JSON.
    text: Box<[u8]>,
    /// How it ended, if the plugin was not called.
    not_called: Option<ReconcileResult>,
}

/// What one object has in the ring.
#[derive(Debug, Default)]
struct ObjectUsage {
    numbers: BTreeSet<u64>,
    bytes: usize,
    gone_at_ms: Option<u64>,
}

impl ReportRing {
    fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            passes: BTreeMap::new(),
            quiet: BTreeSet::new(),
            objects: HashMap::new(),
            gone: BTreeSet::new(),
            bytes: 0,
            last_number: 0,
        }
    }

    fn of(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        let of_object = self.objects.iter().filter(|(key, _)| reference_of(key) == *object);
        let numbers: BTreeSet<u64> =
            of_object.flat_map(|(_, weighed)| &weighed.numbers).copied().collect();
        let kept = numbers.iter().filter_map(|number| self.passes.get(number));
        // What was written here can be read here.
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
        let (report, text) = fitted(report, self.limits.pass_bytes);
        let key = report.object.clone();
        let weighed = self.objects.entry(key.clone()).or_default();
        weighed.numbers.insert(number);
        weighed.bytes = weighed.bytes.saturating_add(text.len());
        if let Some(gone_at_ms) = weighed.gone_at_ms.take() {
            self.gone.remove(&(gone_at_ms, key.clone()));
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if report.is_quiet() {
            self.quiet.insert(number);
        }
        let is_call = !matches!(report.end, ReconcileResult::NotCalled { .. });
        let not_called = (!is_call && report.is_quiet()).then_some(report.end);
        self.passes.insert(number, RecordedReconcile { object: key.clone(), text, not_called });
        while let Some(oldest) = self.too_much_of(&key, number) {
            self.remove(oldest);
        }
        while self.limits.all_bytes < self.bytes {
            let quiet = self.quiet.first().copied();
            let Some(oldest) = quiet.or_else(|| self.passes.keys().next().copied()) else { return };
            self.remove(oldest);
        }
    }

    /// Marks an object as gone. Those that went first make room.
    fn gone(&mut self, object: &ObjectKey, now_ms: u64) {
        self.expire(now_ms);
        let Some(weighed) = self.objects.get_mut(object) else { return };
        if weighed.gone_at_ms.is_none() {
            weighed.gone_at_ms = Some(now_ms);
            self.gone.insert((now_ms, object.clone()));
        }
        while self.limits.gone_bytes < self.gone_bytes() {
            self.drop_first_gone();
        }
    }

    fn gone_bytes(&self) -> usize {
        let gone = self.gone.iter().filter_map(|(_, object)| self.objects.get(object));
        gone.map(|weighed| weighed.bytes).sum()
    }

    /// Drops the passes of the objects that went long ago.
    fn expire(&mut self, now_ms: u64) {
        let gone_ms = self.limits.gone_ms;
        let is_old = |(at_ms, _): &(u64, ObjectKey)| at_ms.saturating_add(gone_ms) <= now_ms;
        while self.gone.first().is_some_and(is_old) {
            self.drop_first_gone();
        }
    }

    fn drop_first_gone(&mut self) {
        let Some((_, object)) = self.gone.pop_first() else { return };
        let weighed = self.objects.get(&object);
        for number in weighed.map(|weighed| weighed.numbers.clone()).unwrap_or_default() {
            self.remove(number);
        }
    }

    /// Whether it only says once more that the plugin was not called, such as for a paused object.
    fn is_repeated(&self, report: &ReconcileReport) -> bool {
        let last = self.objects.get(&report.object).and_then(|weighed| weighed.numbers.last());
        let last = last.and_then(|number| self.passes.get(number));
        let last = last.and_then(|last| last.not_called.as_ref());
        report.is_quiet() && last == Some(&report.end)
    }

    /// The pass of an object that must go, if it has too many.
    fn too_much_of(&self, key: &ObjectKey, newest: u64) -> Option<u64> {
        let ObjectUsage { numbers, bytes, gone_at_ms: _ } = self.objects.get(key)?;
        if numbers.len() <= self.limits.passes && *bytes <= self.limits.object_bytes {
            return None;
        }
        let mut older = numbers.iter().copied().filter(|number| *number != newest);
        let quiet = older.clone().find(|number| self.quiet.contains(number));
        quiet.or_else(|| older.next())
    }

    fn remove(&mut self, number: u64) {
        self.quiet.remove(&number);
        let Some(RecordedReconcile { object, text, .. }) = self.passes.remove(&number) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(text.len());
        let Some(weighed) = self.objects.get_mut(&object) else { return };
        weighed.numbers.remove(&number);
        weighed.bytes = weighed.bytes.saturating_sub(text.len());
        if weighed.numbers.is_empty() {
            if let Some(gone_at_ms) = weighed.gone_at_ms {
                self.gone.remove(&(gone_at_ms, object.clone()));
            }
            self.objects.remove(&object);
        }
    }
}

/// A report that fits, with its text: without its calls if it must be, or without its steps.
fn fitted(mut report: ReconcileReport, bytes_max: usize) -> (ReconcileReport, Box<[u8]>) {
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

/// A report's parts have text keys only, so that writing it cannot fail.
fn text(report: &ReconcileReport) -> Box<[u8]> {
    serde_json::to_vec(report).unwrap_or_default().into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;
    use proptest::prelude::*;
    use tholepin_core::{
        PlanStep, ReconcileHeader, Recording, RevisionDigest, StepEffect, WriteMode,
        step::MemberCommandLine,
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
            let command = MemberCommandLine { pod: "a".into(), command: "x".repeat(bytes) };
            PlanStep::new(StepEffect::Commands { commands: vec![command] })
        }));
        report
    }

    fn kept(ring: &ReportRing, name: &str) -> Vec<u64> {
        ring.of(&reference_of(&key("p", name))).iter().map(|report| report.number).collect()
    }

    const SMALL: HistoryLimits = HistoryLimits {
        passes: 3,
        object_bytes: 20_000,
        all_bytes: 30_000,
        pass_bytes: 9_000,
        gone_bytes: 10_000,
        gone_ms: 60_000,
    };

    #[test]
    fn what_did_nothing_goes_first() {
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
    fn a_large_pass_is_kept_without_what_makes_it_large() {
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
    fn passes_of_an_object_that_is_gone_go_after_a_while() {
        let mut ring = ReportRing::new(SMALL);
        ring.add(report("a", Some(1)));
        ring.add(report("b", Some(1)));
        ring.gone(&key("p", "a"), 1_000);
        ring.gone(&key("p", "never"), 1_000);
        assert_eq!(kept(&ring, "a"), [1]);
        ring.expire(61_000);
        assert!(kept(&ring, "a").is_empty());
        assert_eq!(kept(&ring, "b"), [2], "it is there");
        ring.gone(&key("p", "b"), 61_000);
        ring.add(report("b", Some(1)));
        ring.expire(200_000);
        assert_eq!(kept(&ring, "b"), [2, 3], "another object of the name appeared");
    }

    #[test]
    fn objects_that_are_gone_leave_little() {
        let mut ring = ReportRing::new(LIMITS);
        for number in 0..500_u64 {
            let name = number.to_string();
            for _ in 0..LIMITS.passes {
                ring.add(report(&name, Some(2_000)));
            }
            ring.gone(&key("p", &name), number);
        }
        assert!(ring.bytes <= LIMITS.gone_bytes, "{}", ring.bytes);
        assert_eq!(kept(&ring, "499").len(), LIMITS.passes);
        assert!(ring.objects.len() < 10 && ring.gone.len() < 10 && ring.passes.len() < 320);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_limit_is_ever_passed(
            passes in proptest::collection::vec((0..6_u8, 0..12_000_usize), 1..80),
        ) {
            let mut ring = ReportRing::new(SMALL);
            for (object, bytes) in passes {
                let command = Some(bytes).filter(|bytes| 6_000 < *bytes);
                ring.add(report(&object.to_string(), command));
                if bytes < 1_000 {
                    ring.gone(&key("p", &object.to_string()), 1);
                    prop_assert!(ring.gone_bytes() <= SMALL.gone_bytes);
                }
                for (at_ms, object) in &ring.gone {
                    prop_assert_eq!(ring.objects[object].gone_at_ms, Some(*at_ms));
                }
                let sum: usize = ring.passes.values().map(|kept| kept.text.len()).sum();
                prop_assert_eq!(sum, ring.bytes);
                prop_assert!(ring.bytes <= SMALL.all_bytes);
                for weighed in ring.objects.values() {
                    prop_assert!(weighed.numbers.len() <= SMALL.passes);
                    prop_assert!(weighed.bytes <= SMALL.object_bytes);
                    prop_assert!(!weighed.numbers.is_empty());
                }
                prop_assert!(ring.quiet.iter().all(|number| ring.passes.contains_key(number)));
            }
        }
    }
}
