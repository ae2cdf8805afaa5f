//! The keyed queue: which object is looked at next.
//!
//! Pure: every method takes `now`, so that a test needs no clock. Whoever drives it takes a key with
//! [`WorkQueue::take`], works on it, and gives it back with [`WorkQueue::done`].
//!
//! Invariants:
//! - A key is in flight at most once. What is added meanwhile makes it run again afterwards.
//! - A key waits at most once, at the highest priority it was added with.
//! - Within one priority, plugins take turns; within one plugin, first come, first served.
//! - Of several delays for one key the earliest wins; taking the key drops it.
//! - It holds nothing about a key that neither waits, runs, is delayed nor has failed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tholepin_core::{ObjectKey, PluginName};
use tokio::time::Instant;

mod shared;

pub use shared::SharedQueue;

/// The first pause after a failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// How many causes are kept per key; more are counted as one.
const CAUSES_MAX: usize = 16;
/// What stands for the causes beyond [`CAUSES_MAX`].
const MORE_CAUSES: &str = "more";

/// How soon a key is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueuePriority {
    /// Before everything else: a member's container ended, a pause began or ended, the plugin is gone.
    Urgent,
    /// Something changed.
    Event,
    /// Time has passed, or the plugin's revision changed.
    Resync,
}

impl QueuePriority {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Event, Self::Resync];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Event => "event",
            Self::Resync => "resync",
        }
    }
}

/// A key that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DequeuedKey {
    /// Which object.
    pub key: ObjectKey,
    /// Why, as far as is known.
    pub causes: Vec<String>,
    /// How long it waited since it became due.
    pub waited: Duration,
    /// How often it failed in a row.
    pub failures: u32,
}

/// What becomes of a key after its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCompletion {
    /// Went well: again after this time, change or no change.
    After(Duration),
    /// Nothing more until something changes; earlier failures are forgotten.
    AwaitChange,
    /// Failed: again after the backoff.
    Retry,
}

/// A key that is due, and that nobody has looked at for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverdueKey {
    /// Which object.
    pub key: ObjectKey,
    /// For how long nobody has.
    pub unseen: Duration,
    /// Whether a pass has begun.
    pub is_running: bool,
}

/// Numbers for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Keys that wait, by plugin and priority.
    pub waiting: BTreeMap<(PluginName, QueuePriority), usize>,
    /// Keys with a delay.
    pub delayed: usize,
}

/// The queue.
#[derive(Debug)]
pub struct WorkQueue {
    entries: HashMap<ObjectKey, QueueEntry>,
    lanes: BTreeMap<QueuePriority, PriorityLane>,
    delays: BTreeMap<(Instant, u64), ObjectKey>,
    /// Tells apart the places that one key had in the lanes: an old place is skipped.
    last_ticket: u64,
    backoff_max: Duration,
    random: SmallRng,
}

#[derive(Debug, Default)]
struct QueueEntry {
    /// Where it waits, and since when.
    waiting: Option<(QueuePriority, u64, Instant)>,
    running: bool,
    /// Added while it ran.
    again: Option<QueuePriority>,
    delay: Option<(Instant, u64)>,
    failures: u32,
    causes: BTreeSet<String>,
    /// Since when it is due.
    due: Option<Instant>,
    /// When it was given back last.
    seen: Option<Instant>,
    /// Whether its object says that nobody has looked at it.
    is_told: bool,
}

/// The keys of one priority: plugins in turn, and the keys of each.
#[derive(Debug, Default)]
struct PriorityLane {
    turns: VecDeque<PluginName>,
    keys: HashMap<PluginName, VecDeque<(ObjectKey, u64)>>,
    places: usize,
}

impl PriorityLane {
    fn push(&mut self, key: ObjectKey, ticket: u64) {
        let keys = self.keys.entry(key.plugin.clone()).or_default();
        if keys.is_empty() {
            self.turns.push_back(key.plugin.clone());
        }
        keys.push_back((key, ticket));
        self.places += 1;
    }

    /// Drops the places that keys have left for a more urgent lane.
    fn sweep(&mut self, stands: impl Fn(&ObjectKey, u64) -> bool) {
        self.keys.retain(|_, keys| {
            keys.retain(|(key, ticket)| stands(key, *ticket));
            !keys.is_empty()
        });
        self.turns.retain(|plugin| self.keys.contains_key(plugin));
        self.places = self.keys.values().map(VecDeque::len).sum();
    }

    /// The next place; the plugin goes to the end of the line.
    fn pop(&mut self) -> Option<(ObjectKey, u64)> {
        let plugin = self.turns.pop_front()?;
        let keys = self.keys.get_mut(&plugin)?;
        let next = keys.pop_front();
        self.places = self.places.saturating_sub(1);
        if keys.is_empty() {
            self.keys.remove(&plugin);
        } else {
            self.turns.push_back(plugin);
        }
        next
    }
}

impl WorkQueue {
    /// An empty queue. `backoff_max` is the longest pause after failures; `seed` makes the jitter.
    #[must_use]
    pub fn new(backoff_max: Duration, seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            lanes: QueuePriority::ALL
                .into_iter()
                .map(|priority| (priority, PriorityLane::default()))
                .collect(),
            delays: BTreeMap::new(),
            last_ticket: 0,
            backoff_max,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Makes a key due now.
    pub fn add(&mut self, key: &ObjectKey, priority: QueuePriority, cause: &str, now: Instant) {
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

    /// Makes a key due after a time, at the priority of a resync unless something else adds it first.
    pub fn add_after(&mut self, key: &ObjectKey, delay: Duration, now: Instant) {
        let ticket = self.ticket();
        let at = now + delay;
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.delay {
            Some((known, _)) if known <= at => return,
            Some(known) => {
                self.delays.remove(&known);
            }
            None => {}
        }
        entry.delay = Some((at, ticket));
        self.delays.insert((at, ticket), key.clone());
    }

    /// Makes the keys due that failed and wait to be tried again: what they failed for may be over.
    /// How often they failed stays, so that whoever fails again waits on.
    pub fn hurry(&mut self, now: Instant) {
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
            while let Some((key, ticket)) = lane.pop() {
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                let Some((_, current, since)) = entry.waiting else { continue };
                if current != ticket {
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

    /// Whether [`take`](Self::take) may find a key. It may find none all the same, and then this is so no
    /// more.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.wake(now);
        self.lanes.values().any(|lane| lane.places != 0)
    }

    /// Gives a taken key back.
    pub fn done(&mut self, key: &ObjectKey, done: KeyCompletion, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.running = false;
        entry.due = None;
        entry.seen = Some(now);
        // The host has said `Unknown` on it: the plugin is called once more, to report what it knows.
        let is_told = std::mem::take(&mut entry.is_told);
        if is_told && matches!(done, KeyCompletion::After(_)) {
            entry.again.get_or_insert(QueuePriority::Resync);
        }
        let delay = match done {
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
        self.tidy(key);
    }

    /// Forgets a key that is not in flight: its object is gone.
    pub fn forget(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get(key)
            && !entry.running
        {
            if let Some(delay) = entry.delay {
                self.delays.remove(&delay);
            }
            self.entries.remove(key);
        }
    }

    /// When a delayed key becomes due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.delays.keys().next().map(|(at, _)| *at)
    }

    /// The keys that have been due for this time and that nobody has looked at for twice this time, as far
    /// as their objects do not say so.
    #[must_use]
    pub fn overdue(&self, interval: Duration, now: Instant) -> Vec<OverdueKey> {
        let is_overdue = |(key, entry): (&ObjectKey, &QueueEntry)| {
            let due = entry.due.filter(|due| *due + interval <= now && !entry.is_told)?;
            let unseen = now.saturating_duration_since(entry.seen.unwrap_or(due));
            let overdue = OverdueKey { key: key.clone(), unseen, is_running: entry.running };
            (interval * 2 <= unseen).then_some(overdue)
        };
        self.entries.iter().filter_map(is_overdue).collect()
    }

    /// Notes that an overdue object says so.
    pub fn mark_reported(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.due.is_some()) {
            entry.is_told = true;
        }
    }

    /// Numbers for metrics.
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

    /// Moves the delayed keys that are due into their lane.
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

    /// Puts a key in its lane, or moves it to a more urgent one.
    fn enqueue(&mut self, key: &ObjectKey, priority: QueuePriority, now: Instant) {
        let ticket = self.ticket();
        let entry = self.entries.entry(key.clone()).or_default();
        let since = match entry.waiting {
            Some((known, ..)) if known <= priority => return,
            Some((_, _, since)) => since,
            None => now,
        };
        entry.waiting = Some((priority, ticket, since));
        entry.due.get_or_insert(since);
        let Some(lane) = self.lanes.get_mut(&priority) else { return };
        lane.push(key.clone(), ticket);
        if lane.places > 2 * self.entries.len() + 64 {
            let waits = |key: &ObjectKey| self.entries.get(key).and_then(|entry| entry.waiting);
            lane.sweep(|key, ticket| waits(key).is_some_and(|(_, current, _)| current == ticket));
        }
    }

    /// Drops the entry of a key about which there is nothing to remember.
    fn tidy(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get(key)
            && entry.waiting.is_none()
            && entry.delay.is_none()
            && !entry.running
            && entry.failures == 0
        {
            self.entries.remove(key);
        }
    }

    const fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }
}

/// The pause after `failures` failures and one more: doubles from [`BACKOFF_FIRST`] to the longest.
fn backoff(failures: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    BACKOFF_FIRST.saturating_mul(factor).min(longest)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
