//! Remembers what the last passes did, for `tholepin calls`. In memory only, and bounded: by passes and
//! bytes per object, and by bytes over all.
//!
//! Invariants:
//! - What is kept weighs no more than the limits, whatever plugins do.
//! - A pass that did nothing goes before one that did something: an idle night does not drive out the
//!   last repair.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tholepin_core::{ObjectKey, ObjectRef, PassEnd, PassReport};

use crate::mapper::reference_of;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Passes of one object.
    passes: usize,
    /// Bytes of JSON of one object's passes.
    object_bytes: usize,
    /// Bytes of JSON of all passes.
    all_bytes: usize,
    /// Bytes of JSON of one pass; what is larger is kept without its calls, or without its steps.
    pass_bytes: usize,
}

const LIMITS: Limits = Limits {
    passes: 32,
    object_bytes: 256 * 1024,
    all_bytes: 8 * 1024 * 1024,
    pass_bytes: 96 * 1024,
};

/// The last passes of all objects.
#[derive(Debug)]
pub(crate) struct History {
    ring: Mutex<Ring>,
}

impl Default for History {
    fn default() -> Self {
        Self { ring: Mutex::new(Ring::new(LIMITS)) }
    }
}

impl History {
    /// Keeps a pass, if there is one to keep.
    pub(crate) fn extend(&self, report: Option<PassReport>) {
        if let Some(report) = report {
            self.ring().add(report);
        }
    }

    /// The passes of an object that are kept, the oldest first.
    pub(crate) fn of(&self, object: &ObjectRef) -> Vec<Arc<PassReport>> {
        self.ring().of(object)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Ring {
    limits: Limits,
    /// By number, which grows: the first is the oldest.
    passes: BTreeMap<u64, Kept>,
    /// The numbers of passes that did nothing.
    quiet: BTreeSet<u64>,
    objects: HashMap<ObjectKey, Weighed>,
    bytes: usize,
    last_number: u64,
}

#[derive(Debug)]
struct Kept {
    report: Arc<PassReport>,
    bytes: usize,
}

/// What one object has in the ring.
#[derive(Debug, Default)]
struct Weighed {
    numbers: BTreeSet<u64>,
    bytes: usize,
}

impl Ring {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            passes: BTreeMap::new(),
            quiet: BTreeSet::new(),
            objects: HashMap::new(),
            bytes: 0,
            last_number: 0,
        }
    }

    fn of(&self, object: &ObjectRef) -> Vec<Arc<PassReport>> {
        let of_object = self.objects.iter().filter(|(key, _)| reference_of(key) == *object);
        let numbers: BTreeSet<u64> =
            of_object.flat_map(|(_, weighed)| &weighed.numbers).copied().collect();
        numbers.iter().filter_map(|number| Some(self.passes.get(number)?.report.clone())).collect()
    }

    fn add(&mut self, mut report: PassReport) {
        if self.is_repeated(&report) {
            return;
        }
        self.last_number = self.last_number.saturating_add(1);
        let number = self.last_number;
        report.number = number;
        let (report, bytes) = fitted(report, self.limits.pass_bytes);
        let weighed = self.objects.entry(report.object.clone()).or_default();
        weighed.numbers.insert(number);
        weighed.bytes = weighed.bytes.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        if report.is_quiet() {
            self.quiet.insert(number);
        }
        let key = report.object.clone();
        self.passes.insert(number, Kept { report: Arc::new(report), bytes });
        while let Some(oldest) = self.too_much_of(&key, number) {
            self.remove(oldest);
        }
        while self.limits.all_bytes < self.bytes {
            let quiet = self.quiet.first().copied();
            let Some(oldest) = quiet.or_else(|| self.passes.keys().next().copied()) else { return };
            self.remove(oldest);
        }
    }

    /// Whether it only says once more that the plugin was not called, such as for a paused object.
    fn is_repeated(&self, report: &PassReport) -> bool {
        let last = self.objects.get(&report.object).and_then(|weighed| weighed.numbers.last());
        let last = last.and_then(|number| self.passes.get(number));
        let is_call = !matches!(report.end, PassEnd::NotCalled { .. });
        !is_call && report.is_quiet() && last.is_some_and(|last| last.report.end == report.end)
    }

    /// The pass of an object that must go, if it has too many.
    fn too_much_of(&self, key: &ObjectKey, newest: u64) -> Option<u64> {
        let Weighed { numbers, bytes } = self.objects.get(key)?;
        if numbers.len() <= self.limits.passes && *bytes <= self.limits.object_bytes {
            return None;
        }
        let mut older = numbers.iter().copied().filter(|number| *number != newest);
        let quiet = older.clone().find(|number| self.quiet.contains(number));
        quiet.or_else(|| older.next())
    }

    fn remove(&mut self, number: u64) {
        self.quiet.remove(&number);
        let Some(Kept { report, bytes }) = self.passes.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(bytes);
        let Some(weighed) = self.objects.get_mut(&report.object) else { return };
        weighed.numbers.remove(&number);
        weighed.bytes = weighed.bytes.saturating_sub(bytes);
        if weighed.numbers.is_empty() {
            self.objects.remove(&report.object);
        }
    }
}

/// A report that fits, with its weight: without its calls if it must be, or without its steps.
fn fitted(mut report: PassReport, bytes_max: usize) -> (PassReport, usize) {
    let bytes = weight(&report);
    if bytes <= bytes_max {
        return (report, bytes);
    }
    report.calls_left_out = report.calls_left_out.saturating_add(report.calls.len());
    report.calls.clear();
    report.remarks.push(format!("{bytes} bytes are too much to keep: the calls were left out"));
    let bytes = weight(&report);
    if bytes <= bytes_max {
        return (report, bytes);
    }
    let count = report.steps.len();
    report.steps.clear();
    report.remarks.push(format!("{count} steps were left out too"));
    let bytes = weight(&report);
    (report, bytes)
}

/// How many bytes of JSON it is, without writing them.
fn weight(report: &PassReport) -> usize {
    let mut count = Count(0);
    // Counting does not fail.
    serde_json::to_writer(&mut count, report).ok();
    count.0
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;
    use proptest::prelude::*;
    use tholepin_core::{
        Effect, Mode, PassHeader, Recording, RevisionDigest, Step, step::PodCommand,
    };

    fn report(name: &str, command: Option<usize>) -> PassReport {
        let header = PassHeader {
            mode: Mode::Live,
            object: key("p", name),
            revision: RevisionDigest("r".into()),
            started_at_ms: 1,
            causes: Vec::new(),
            remarks: Vec::new(),
        };
        let end = PassEnd::Answered { summary: String::new(), requeue_ms: None, finished: false };
        let mut report = PassReport::new(header, &Recording::default(), end, 1);
        report.steps.extend(command.map(|bytes| {
            let command = PodCommand { pod: "a".into(), command: "x".repeat(bytes) };
            Step::new(Effect::Commands { commands: vec![command] })
        }));
        report
    }

    fn kept(ring: &Ring, name: &str) -> Vec<u64> {
        ring.of(&reference_of(&key("p", name))).iter().map(|report| report.number).collect()
    }

    const SMALL: Limits =
        Limits { passes: 3, object_bytes: 20_000, all_bytes: 30_000, pass_bytes: 9_000 };

    #[test]
    fn what_did_nothing_goes_first() {
        let mut ring = Ring::new(SMALL);
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
        let mut ring = Ring::new(SMALL);
        ring.add(report("a", Some(50_000)));
        let kept = ring.of(&reference_of(&key("p", "a")));
        assert!(kept[0].steps.is_empty());
        assert!(kept[0].remarks[1].contains("1 steps"), "{:?}", kept[0].remarks);
    }

    #[test]
    fn a_pause_is_kept_once() {
        let mut ring = Ring::new(SMALL);
        let paused = || {
            let mut report = report("a", None);
            report.end = PassEnd::NotCalled { why: "paused".into() };
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_limit_is_ever_passed(
            passes in proptest::collection::vec((0..6_u8, 0..12_000_usize), 1..80),
        ) {
            let mut ring = Ring::new(SMALL);
            for (object, bytes) in passes {
                let command = Some(bytes).filter(|bytes| 6_000 < *bytes);
                ring.add(report(&object.to_string(), command));
                let sum: usize = ring.passes.values().map(|kept| kept.bytes).sum();
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
