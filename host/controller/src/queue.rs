//! The keyed work queue: decides which object is reconciled next.
//!
//! Pure: every method takes `now`, so that a test needs no clock. The caller takes a key with [`WorkQueue::take`],
//! reconciles it, and completes it with [`WorkQueue::done`].
//!
//! Invariants:
//! - A key runs at most once at a time. A key that is added while it runs runs again afterwards.
//! - A key waits at most once, at the highest priority it was added with.
//! - Within one priority, plugins take turns; within one plugin, first come, first served.
//! - Of several delays for one key the earliest counts; taking the key drops it.
//! - The queue holds no entry for a key that does not wait, run, have a delay or have failures.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tholepin_core::{PluginName, ReconcileKey};
use tokio::time::Instant;

mod shared;

pub use shared::SharedQueue;

/// The first pause after a failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// How many causes are kept per key; all others are kept as one, [`MORE_CAUSES`].
const CAUSES_MAX: usize = 16;
/// The cause in place of those beyond [`CAUSES_MAX`].
const MORE_CAUSES: &str = "more";

/// The priority of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueuePriority {
    /// Before everything else: a member's container ended, a pause began or ended, the plugin is missing.
    Urgent,
    /// Something changed.
    Event,
    /// Time has passed, or the plugin's revision changed.
    Resync,
}

impl QueuePriority {
    /// All priorities, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Event, Self::Resync];

    /// Returns the label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Event => "event",
            Self::Resync => "resync",
        }
    }
}

/// A key that was taken from the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DequeuedKey {
    /// The object.
    pub key: ReconcileKey,
    /// The causes for which it was added.
    pub causes: Vec<String>,
    /// How long it waited since it became due.
    pub waited: Duration,
    /// How often it failed in a row.
    pub failures: u32,
}

/// The completion of a key after its reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCompletion {
    /// Success: due again after this time, also without a change.
    After(Duration),
    /// Not due until something changes; earlier failures are forgotten.
    AwaitChange,
    /// Failure: due again after the backoff.
    Retry,
}

/// A key that is due and was not reconciled for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverdueKey {
    /// The object.
    pub key: ReconcileKey,
    /// The time since its last reconcile ended.
    pub not_reconciled_for: Duration,
    /// Whether a reconcile of it runs.
    pub is_running: bool,
}

/// Numbers for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Waiting keys, by plugin and priority.
    pub waiting: BTreeMap<(PluginName, QueuePriority), usize>,
    /// Keys with a delay.
    pub delayed: usize,
}

/// The work queue.
#[derive(Debug)]
pub struct WorkQueue {
    entries: HashMap<ReconcileKey, QueueEntry>,
    lanes: BTreeMap<QueuePriority, PriorityLane>,
    delays: BTreeMap<(Instant, u64), ReconcileKey>,
    /// The last sequence number of an entry in a lane or of a delay. It distinguishes the entries that one key had in
    /// the lanes: an outdated entry is skipped.
    last_sequence: u64,
    backoff_max: Duration,
    random: SmallRng,
}

#[derive(Debug, Default)]
struct QueueEntry {
    /// The lane in which it waits, the sequence number of its entry there, and since when it waits.
    waiting: Option<(QueuePriority, u64, Instant)>,
    running: bool,
    /// The priority with which it was added while it ran.
    again: Option<QueuePriority>,
    delay: Option<(Instant, u64)>,
    failures: u32,
    causes: BTreeSet<String>,
    /// Since when it is due.
    due: Option<Instant>,
    /// When its last reconcile ended.
    last_ended: Option<Instant>,
    /// Whether its object has the condition that it is overdue.
    is_reported: bool,
}

/// The keys of one priority: the plugins in turn, and the keys of each.
#[derive(Debug, Default)]
struct PriorityLane {
    turns: VecDeque<PluginName>,
    keys: HashMap<PluginName, VecDeque<(ReconcileKey, u64)>>,
    entries: usize,
}

impl PriorityLane {
    fn push(&mut self, key: ReconcileKey, sequence: u64) {
        let keys = self.keys.entry(key.plugin.clone()).or_default();
        if keys.is_empty() {
            self.turns.push_back(key.plugin.clone());
        }
        keys.push_back((key, sequence));
        self.entries += 1;
    }

    /// Drops the entries of keys that moved to a more urgent lane.
    fn remove_stale_entries(&mut self, is_current: impl Fn(&ReconcileKey, u64) -> bool) {
        self.keys.retain(|_, keys| {
            keys.retain(|(key, sequence)| is_current(key, *sequence));
            !keys.is_empty()
        });
        self.turns.retain(|plugin| self.keys.contains_key(plugin));
        self.entries = self.keys.values().map(VecDeque::len).sum();
    }

    /// Takes the next entry; its plugin becomes the last one in turn.
    fn pop(&mut self) -> Option<(ReconcileKey, u64)> {
        let plugin = self.turns.pop_front()?;
        let keys = self.keys.get_mut(&plugin)?;
        let next = keys.pop_front();
        self.entries = self.entries.saturating_sub(1);
        if keys.is_empty() {
            self.keys.remove(&plugin);
        } else {
            self.turns.push_back(plugin);
        }
        next
    }
}

impl WorkQueue {
    /// Creates an empty queue. `backoff_max` is the longest pause after failures; `seed` seeds the jitter.
    #[must_use]
    pub fn new(backoff_max: Duration, seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            lanes: QueuePriority::ALL
                .into_iter()
                .map(|priority| (priority, PriorityLane::default()))
                .collect(),
            delays: BTreeMap::new(),
            last_sequence: 0,
            backoff_max,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Makes a key due now.
    pub fn add(&mut self, key: &ReconcileKey, priority: QueuePriority, cause: &str, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.causes.len() < CAUSES_MAX {
            entry.causes.insert(cause.to_owned());
        } else if !entry.causes.contains(cause) {
            entry.causes.insert(MORE_CAUSES.to_owned());
        }
        if entry.running {
            entry.again = Some(entry.again.map_or(priority, |again| again.min(priority)));
        } else {
            self.enqueue(key, priority, now);
        }
    }

    /// Makes a key due after a delay, with the priority of a resync unless it is added otherwise before.
    pub fn add_after(&mut self, key: &ReconcileKey, delay: Duration, now: Instant) {
        let sequence = self.next_sequence();
        let at = now + delay;
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.delay {
            Some((known, _)) if known <= at => return,
            Some(known) => {
                self.delays.remove(&known);
            }
            None => {}
        }
        entry.delay = Some((at, sequence));
        self.delays.insert((at, sequence), key.clone());
    }

    /// Makes the keys due that failed and wait for their backoff, because the cause of the failures may be over. The
    /// count of failures stays, so that a key that fails again has the longer pause.
    pub fn retry_failed_now(&mut self, now: Instant) {
        let failed =
            |entry: &QueueEntry| 0 < entry.failures && entry.delay.is_some() && !entry.running;
        let failed = self.entries.iter().filter(|(_, entry)| failed(entry));
        for key in failed.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.add(&key, QueuePriority::Resync, "tried again", now);
        }
    }

    /// Takes the next key that is due.
    pub fn take(&mut self, now: Instant) -> Option<DequeuedKey> {
        self.wake(now);
        for lane in self.lanes.values_mut() {
            while let Some((key, sequence)) = lane.pop() {
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                let Some((_, current, since)) = entry.waiting else { continue };
                if current != sequence {
                    continue;
                }
                entry.waiting = None;
                entry.running = true;
                if let Some(delay) = entry.delay.take() {
                    self.delays.remove(&delay);
                }
                let causes = std::mem::take(&mut entry.causes).into_iter().collect();
                let waited = now.saturating_duration_since(since);
                return Some(DequeuedKey { key, causes, waited, failures: entry.failures });
            }
        }
        None
    }

    /// Returns true if [`take`](Self::take) may return a key. If it returns none, this is false afterwards.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.wake(now);
        self.lanes.values().any(|lane| lane.entries != 0)
    }

    /// Completes a taken key.
    pub fn done(&mut self, key: &ReconcileKey, completion: KeyCompletion, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.running = false;
        entry.due = None;
        entry.last_ended = Some(now);
        // The host has written `Ready=Unknown` on it: the plugin is called once more to report its status.
        let is_reported = std::mem::take(&mut entry.is_reported);
        if is_reported && matches!(completion, KeyCompletion::After(_)) {
            entry.again.get_or_insert(QueuePriority::Resync);
        }
        let delay = match completion {
            KeyCompletion::After(delay) => {
                entry.failures = 0;
                Some(delay)
            }
            KeyCompletion::AwaitChange => {
                entry.failures = 0;
                None
            }
            KeyCompletion::Retry => {
                let pause = backoff(entry.failures, self.backoff_max);
                entry.failures = entry.failures.saturating_add(1);
                Some(pause.mul_f64(self.random.random_range(0.5..=1.0)))
            }
        };
        let again = entry.again.take();
        if let Some(delay) = delay {
            self.add_after(key, delay, now);
        }
        if let Some(priority) = again {
            self.enqueue(key, priority, now);
        }
        self.remove_if_unused(key);
    }

    /// Returns when the next delayed key becomes due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.delays.keys().next().map(|(at, _)| *at)
    }

    /// Returns the keys that have been due for `interval` and were not reconciled for twice as long, unless their
    /// objects have the condition already.
    #[must_use]
    pub fn overdue(&self, interval: Duration, now: Instant) -> Vec<OverdueKey> {
        let is_overdue = |(key, entry): (&ReconcileKey, &QueueEntry)| {
            let due = entry.due.filter(|due| *due + interval <= now && !entry.is_reported)?;
            let not_reconciled_for = now.saturating_duration_since(entry.last_ended.unwrap_or(due));
            let overdue =
                OverdueKey { key: key.clone(), not_reconciled_for, is_running: entry.running };
            (interval * 2 <= not_reconciled_for).then_some(overdue)
        };
        self.entries.iter().filter_map(is_overdue).collect()
    }

    /// Records that an overdue object has the condition.
    pub fn mark_reported(&mut self, key: &ReconcileKey) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.due.is_some()) {
            entry.is_reported = true;
        }
    }

    /// Returns the numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        let mut waiting = BTreeMap::new();
        for (key, entry) in &self.entries {
            if let Some((priority, ..)) = entry.waiting {
                *waiting.entry((key.plugin.clone(), priority)).or_default() += 1;
            }
        }
        QueueStats { waiting, delayed: self.delays.len() }
    }

    /// Moves the delayed keys that are due into the lane of resyncs.
    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.delays.first_entry() {
            let (at, _) = *first.key();
            if at > now {
                return;
            }
            let key = first.remove();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.delay = None;
            if entry.running {
                entry.again.get_or_insert(QueuePriority::Resync);
            } else {
                entry.causes.insert("requeue".to_owned());
                self.enqueue(&key, QueuePriority::Resync, at);
            }
        }
    }

    /// Puts a key into a lane, or moves it to a more urgent one.
    fn enqueue(&mut self, key: &ReconcileKey, priority: QueuePriority, now: Instant) {
        let sequence = self.next_sequence();
        let entry = self.entries.entry(key.clone()).or_default();
        let since = match entry.waiting {
            Some((known, ..)) if known <= priority => return,
            Some((_, _, since)) => since,
            None => now,
        };
        entry.waiting = Some((priority, sequence, since));
        entry.due.get_or_insert(since);
        let Some(lane) = self.lanes.get_mut(&priority) else { return };
        lane.push(key.clone(), sequence);
        if lane.entries > 2 * self.entries.len() + 64 {
            let waits = |key: &ReconcileKey| self.entries.get(key).and_then(|entry| entry.waiting);
            lane.remove_stale_entries(|key, sequence| {
                waits(key).is_some_and(|(_, current, _)| current == sequence)
            });
        }
    }

    /// Drops the entry of a key that does not wait, run, have a delay or have failures.
    fn remove_if_unused(&mut self, key: &ReconcileKey) {
        if let Some(entry) = self.entries.get(key)
            && entry.waiting.is_none()
            && entry.delay.is_none()
            && !entry.running
            && entry.failures == 0
        {
            self.entries.remove(key);
        }
    }

    const fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }
}

/// Returns the pause after `failures + 1` failures in a row: doubles from [`BACKOFF_FIRST`] up to `longest`.
fn backoff(failures: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    BACKOFF_FIRST.saturating_mul(factor).min(longest)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
