//! The work queue behind a lock, with waiting and with the counters of controller-runtime.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use tholepin_core::{PluginName, ReconcileKey};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{DequeuedKey, KeyCompletion, QueuePriority, WorkQueue};

/// A [`WorkQueue`] that several tasks share.
#[derive(Debug)]
pub struct SharedQueue {
    queue: Mutex<WorkQueue>,
    /// The tokens of the running keys, cancelled when a key is added as urgent.
    urgent: Mutex<HashMap<ReconcileKey, CancellationToken>>,
    /// Notified at each change of the queue.
    changed: Notify,
}

impl SharedQueue {
    /// Creates an empty queue with a random seed for the jitter; `backoff_max` is the longest pause after failures.
    #[must_use]
    pub fn new(backoff_max: Duration) -> Self {
        Self {
            queue: Mutex::new(WorkQueue::new(backoff_max, rand::random())),
            urgent: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Makes a key due now.
    pub fn add(&self, key: &ReconcileKey, priority: QueuePriority, cause: &str) {
        count_added(&key.plugin);
        let mut queue = self.lock();
        queue.add(key, priority, cause, Instant::now());
        if priority == QueuePriority::Urgent
            && let Some(running) = self.urgent().get(key)
        {
            running.cancel();
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Makes a key due after a delay.
    pub fn add_after(&self, key: &ReconcileKey, delay: Duration) {
        self.lock().add_after(key, delay, Instant::now());
        self.changed.notify_one();
    }

    /// Makes the keys due that failed and wait for their backoff.
    pub fn retry_failed_now(&self) {
        self.lock().retry_failed_now(Instant::now());
        self.changed.notify_one();
    }

    /// Waits until a key may be due; one task waits at a time. [`take`](Self::take) then returns the most urgent key of
    /// that moment, if one is still due.
    pub async fn due(&self) {
        loop {
            let due = {
                let mut queue = self.lock();
                if queue.is_due(Instant::now()) {
                    return;
                }
                queue.next_due()
            };
            match due {
                Some(due) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(due) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Takes the next key that is due. `urgent` is cancelled if the key is added as urgent before it is
    /// [`done`](Self::done).
    pub fn take(&self, urgent: &CancellationToken) -> Option<DequeuedKey> {
        // Both locks are taken in this order everywhere, so that an urgent key is found either waiting or running.
        let mut queue = self.lock();
        let taken = queue.take(Instant::now())?;
        self.urgent().insert(taken.key.clone(), urgent.clone());
        Some(taken)
    }

    /// Completes a taken key.
    pub fn done(&self, key: &ReconcileKey, completion: KeyCompletion) {
        if completion == KeyCompletion::Retry {
            count_retried(&key.plugin);
        }
        let mut queue = self.lock();
        queue.done(key, completion, Instant::now());
        self.urgent().remove(key);
        drop(queue);
        self.changed.notify_one();
    }

    /// Reads the queue.
    pub fn inspect<T>(&self, read: impl FnOnce(&WorkQueue) -> T) -> T {
        read(&self.lock())
    }

    /// Records that the object of an overdue key has the condition.
    pub fn mark_reported(&self, key: &ReconcileKey) {
        self.lock().mark_reported(key);
    }

    fn urgent(&self) -> MutexGuard<'_, HashMap<ReconcileKey, CancellationToken>> {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ignores poisoning: no operation of the queue leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, WorkQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an added key.
fn count_added(plugin: &PluginName) {
    counter!("workqueue_adds_total", "name" => plugin.to_string(), "controller" => plugin.to_string())
        .increment(1);
}

/// Counts a key that failed.
fn count_retried(plugin: &PluginName) {
    let name = plugin.to_string();
    counter!("workqueue_retries_total", "name" => name.clone(), "controller" => name).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_schema::manifest::KindName;

    #[tokio::test]
    async fn due_waits_for_an_added_key_and_for_a_delay() {
        let queue = SharedQueue::new(Duration::from_secs(1));
        let kind = KindName { api_version: "v1".into(), kind: "K".into() };
        let key = ReconcileKey {
            plugin: "p".parse().unwrap(),
            kind,
            namespace: String::new(),
            name: "a".into(),
        };
        let start = Instant::now();
        let wait = Duration::from_millis(30);
        queue.add_after(&key, wait);
        queue.due().await;
        assert_eq!(queue.take(&CancellationToken::new()).unwrap().key, key);
        assert!(wait <= start.elapsed(), "{:?}", start.elapsed());
        tokio::join!(queue.due(), async {
            queue.done(&key, KeyCompletion::AwaitChange);
            queue.add(&key, QueuePriority::Event, "");
        });
        assert_eq!(queue.take(&CancellationToken::new()).unwrap().key, key);
    }

    #[test]
    fn an_urgent_key_cancels_its_running_reconcile_and_no_other() {
        let queue = SharedQueue::new(Duration::from_secs(1));
        let [a, b] = ["a", "b"].map(|name| crate::testing::key("p", name));
        let [of_a, of_b] = [CancellationToken::new(), CancellationToken::new()];
        for (key, urgent) in [(&a, &of_a), (&b, &of_b)] {
            queue.add(key, QueuePriority::Urgent, "");
            assert_eq!(queue.take(urgent).unwrap().key, *key);
            assert!(
                !urgent.is_cancelled(),
                "the cause for which it was taken does not interrupt it"
            );
        }
        queue.add(&a, QueuePriority::Event, "");
        assert!(!of_a.is_cancelled());
        queue.add(&a, QueuePriority::Urgent, "");
        assert!(of_a.is_cancelled() && !of_b.is_cancelled());
        queue.done(&b, KeyCompletion::AwaitChange);
        queue.add(&b, QueuePriority::Urgent, "");
        assert!(!of_b.is_cancelled(), "it does not run any more");
    }
}
