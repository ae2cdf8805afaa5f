//! Runs a controller: reconciles the keys that changed, one reconcile per key at a time, and retries failed
//! ones with a back-off.
//!
//! ```text
//! reflectors ─► DirtyKeys (a set: deduplicated, bounded by the number of objects) ─► Worker ─► reconcile(key)
//! ```
//!
//! The worker knows nothing about what a reconcile does. It never runs two reconciles of one key
//! concurrently, and never drops a key: a key that is enqueued during its reconcile is reconciled again
//! afterwards.
//!
//! It is hand-made, because the keys of kube's `Controller` are objects of one kind: here a key can stand for
//! a claim or a volume, or for the routes of all Services.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tholepin_agent::{error_chain, retry_pause};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The pause after the first failure of a key. It doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The longest pause between two attempts at a key.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The number of failures from which a key is reported at `warn`: one or two are races that a retry resolves.
const FAILURES_QUIET: u32 = 3;
/// How long one reconcile may take, with all its API calls.
const RECONCILE_DEADLINE: Duration = Duration::from_secs(30);
/// How long running reconciles may continue once the controller is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// The keys to reconcile. They are a set, so that a key enqueued several times is reconciled once.
#[derive(Debug)]
pub struct DirtyKeys<K> {
    keys: Mutex<BTreeSet<K>>,
    wake: Notify,
}

impl<K> Default for DirtyKeys<K> {
    fn default() -> Self {
        Self { keys: Mutex::default(), wake: Notify::new() }
    }
}

impl<K: Ord> DirtyKeys<K> {
    /// Enqueues `key` for a reconcile.
    pub fn enqueue(&self, key: K) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.wake.notify_one();
    }

    /// Takes all keys.
    pub fn take(&self) -> BTreeSet<K> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a key may have been enqueued since the last [`take`](Self::take).
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

/// When a key is reconciled again although nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Only when the key is enqueued.
    AwaitChange,
    /// After this time, or earlier if the key is enqueued.
    After(Duration),
}

/// The settings of one controller's work loop.
#[derive(Debug)]
pub struct WorkLoop<K> {
    /// The controller's name, for log lines.
    pub name: &'static str,
    /// The queue of keys to reconcile.
    pub dirty_keys: Arc<DirtyKeys<K>>,
    /// How many keys are reconciled concurrently; at least 1.
    pub concurrency: usize,
    /// Ends the work loop.
    pub stop: CancellationToken,
}

/// Why a controller ended without being told to stop.
#[derive(Debug, thiserror::Error)]
#[error("the controller `{controller}` panicked")]
pub struct ControllerPanicError {
    controller: &'static str,
    source: tokio::task::JoinError,
}

impl<K: Ord + Clone + Display + Send + 'static> WorkLoop<K> {
    /// Reconciles the enqueued keys until it is told to stop. A key that fails is retried after growing
    /// pauses.
    ///
    /// # Errors
    ///
    /// Returns an error if a reconcile panics, because the state that it left is unknown.
    pub async fn run<F, E>(self, reconcile: impl Fn(K) -> F) -> Result<(), ControllerPanicError>
    where
        F: Future<Output = Result<Requeue, E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let mut schedule = WorkLoopQueue::default();
        let mut running = JoinSet::new();
        loop {
            for key in self.dirty_keys.take() {
                schedule.make_due(key);
            }
            while running.len() < self.concurrency.max(1)
                && let Some(key) = schedule.start(Instant::now())
            {
                let reconciling = reconcile(key.clone());
                running.spawn(async move {
                    let result = timeout(RECONCILE_DEADLINE, reconciling).await;
                    (key, result.map(|result| result.map_err(|error| error_chain(&error))))
                });
            }
            let timer = schedule.next_timer();
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.dirty_keys.changed() => {}
                Some(ended) = running.join_next() => {
                    let (key, result) =
                        ended.map_err(|source| ControllerPanicError { controller: self.name, source })?;
                    let result = result.unwrap_or_else(|_| Err(format!("no result within {RECONCILE_DEADLINE:?}")));
                    self.settle(&mut schedule, key, result);
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
            }
        }
        let drain = async { while running.join_next().await.is_some() {} };
        if timeout(STOP_DEADLINE, drain).await.is_err() {
            running.shutdown().await;
        }
        Ok(())
    }

    fn settle(&self, schedule: &mut WorkLoopQueue<K>, key: K, result: Result<Requeue, String>) {
        match result {
            Ok(next) => schedule.succeeded(&key, next, Instant::now()),
            Err(error) => {
                let failures = schedule.failed(&key, Instant::now());
                if FAILURES_QUIET <= failures {
                    warn!(controller = self.name, %key, failures, %error, "reconcile failed");
                } else {
                    debug!(controller = self.name, %key, failures, %error, "reconcile failed");
                }
            }
        }
    }
}

/// The keys that wait, that are being reconciled, or that are due later.
struct WorkLoopQueue<K> {
    waiting: BTreeSet<K>,
    running: BTreeSet<K>,
    due: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for WorkLoopQueue<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> WorkLoopQueue<K> {
    /// Makes a key due immediately. A change overrides a back-off, because the cause of the failure may be
    /// gone.
    fn make_due(&mut self, key: K) {
        self.due.remove(&key);
        self.waiting.insert(key);
    }

    /// Returns a key that waits and is not being reconciled, and marks it as being reconciled.
    fn start(&mut self, now: Instant) -> Option<K> {
        let due: Vec<K> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.make_due(key);
        }
        let key = self.waiting.iter().find(|key| !self.running.contains(*key))?.clone();
        self.waiting.remove(&key);
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn succeeded(&mut self, key: &K, next: Requeue, now: Instant) {
        self.running.remove(key);
        self.failures.remove(key);
        if let Requeue::After(pause) = next {
            self.due.insert(key.clone(), now + pause);
        }
    }

    fn failed(&mut self, key: &K, now: Instant) -> u32 {
        self.running.remove(key);
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let pause = retry_pause(RETRY_MIN, RETRY_MAX, *failures);
        *failures = failures.saturating_add(1);
        self.due.insert(key.clone(), now + pause);
        *failures
    }

    fn next_timer(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_mark_during_a_run_leads_to_another_run() {
        let now = Instant::now();
        let mut schedule = WorkLoopQueue::default();
        schedule.make_due("a");
        assert_eq!(schedule.start(now), Some("a"));
        schedule.make_due("a");
        assert_eq!(schedule.start(now), None, "one run of a key at a time");
        schedule.succeeded(&"a", Requeue::AwaitChange, now);
        assert_eq!(schedule.start(now), Some("a"));
    }

    #[test]
    fn pauses_grow_and_a_success_resets_them() {
        let now = Instant::now();
        let mut schedule = WorkLoopQueue::default();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            schedule.make_due("a");
            schedule.start(now);
            schedule.failed(&"a", now);
            pauses.push(schedule.next_timer().unwrap() - now);
        }
        assert_eq!(pauses, [RETRY_MIN, RETRY_MIN * 2, RETRY_MIN * 4]);
        schedule.make_due("a");
        schedule.start(now);
        schedule.succeeded(&"a", Requeue::AwaitChange, now);
        assert_eq!((schedule.next_timer(), schedule.failures.len()), (None, 0));
    }

    #[tokio::test]
    async fn a_failing_key_is_tried_again_and_stop_ends_the_work() {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let stop = CancellationToken::new();
        let attempts = Arc::new(AtomicUsize::new(0));
        dirty_keys.enqueue("a");
        let worker = WorkLoop { name: "test", dirty_keys, concurrency: 2, stop: stop.clone() };
        let count = Arc::clone(&attempts);
        let run = worker.run(move |_| {
            let (count, stop) = (Arc::clone(&count), stop.clone());
            async move {
                if count.fetch_add(1, Ordering::Relaxed) < 2 {
                    return Err(std::io::Error::other("not yet"));
                }
                stop.cancel();
                Ok(Requeue::AwaitChange)
            }
        });
        timeout(Duration::from_secs(60), run).await.unwrap().unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 3);
    }
}
