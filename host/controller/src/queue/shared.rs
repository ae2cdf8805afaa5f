//! The queue behind a lock, for the one who waits for it; counts what it is given, under the names of
//! controller-runtime.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use tholepin_core::{ObjectKey, PluginName};
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
    /// What is told to the keys in flight when they are marked as urgent.
    urgent: Mutex<HashMap<ObjectKey, CancellationToken>>,
    /// Told at each mark; who waits looks again.
    marked: Notify,
}

impl SharedQueue {
    /// An empty queue with a jitter of its own; `backoff_max` is the longest pause after failures.
    #[must_use]
    pub fn new(backoff_max: Duration) -> Self {
        Self {
            queue: Mutex::new(WorkQueue::new(backoff_max, rand::random())),
            urgent: Mutex::default(),
            marked: Notify::new(),
        }
    }

    /// Marks a key as due now.
    pub fn add(&self, key: &ObjectKey, priority: QueuePriority, cause: &str) {
        count_added(&key.plugin);
        let mut queue = self.lock();
        queue.add(key, priority, cause, Instant::now());
        if priority == QueuePriority::Urgent
            && let Some(in_flight) = self.urgent().get(key)
        {
            in_flight.cancel();
        }
        drop(queue);
        self.marked.notify_one();
    }

    /// Marks a key as due after a time.
    pub fn add_after(&self, key: &ObjectKey, delay: Duration) {
        self.lock().add_after(key, delay, Instant::now());
        self.marked.notify_one();
    }

    /// Makes the keys due that failed and wait to be tried again.
    pub fn hurry(&self) {
        self.lock().hurry(Instant::now());
        self.marked.notify_one();
    }

    /// Waits until a key may be due. One waits at a time; [`take`](Self::take) then takes the most urgent
    /// of that moment, if there still is one.
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
                    () = self.marked.notified() => {}
                    () = sleep_until(due) => {}
                },
                None => self.marked.notified().await,
            }
        }
    }

    /// Takes the next key that is due. `urgent` is cancelled if the key is marked as urgent before it is
    /// [`done`](Self::done).
    pub fn take(&self, urgent: &CancellationToken) -> Option<DequeuedKey> {
        // One lock after the other, in this order everywhere: a mark meets the key waiting or in flight.
        let mut queue = self.lock();
        let taken = queue.take(Instant::now())?;
        self.urgent().insert(taken.key.clone(), urgent.clone());
        Some(taken)
    }

    /// Tells that a key has run.
    pub fn done(&self, key: &ObjectKey, done: KeyCompletion) {
        if done == KeyCompletion::Retry {
            count_retried(&key.plugin);
        }
        let mut queue = self.lock();
        queue.done(key, done, Instant::now());
        self.urgent().remove(key);
        drop(queue);
        self.marked.notify_one();
    }

    /// Looks at the queue itself.
    pub fn inspect<T>(&self, look: impl FnOnce(&WorkQueue) -> T) -> T {
        look(&self.lock())
    }

    /// Notes that the object of an overdue key says so.
    pub fn mark_reported(&self, key: &ObjectKey) {
        self.lock().mark_reported(key);
    }

    fn urgent(&self) -> MutexGuard<'_, HashMap<ObjectKey, CancellationToken>> {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A poisoned lock is taken as it is: no operation of the queue leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, WorkQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key was marked.
fn count_added(plugin: &PluginName) {
    counter!("workqueue_adds_total", "name" => plugin.to_string(), "controller" => plugin.to_string())
        .increment(1);
}

/// A key was given back as failed.
fn count_retried(plugin: &PluginName) {
    let name = plugin.to_string();
    counter!("workqueue_retries_total", "name" => name.clone(), "controller" => name).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_schema::manifest::KindName;

    #[tokio::test]
    async fn it_is_waited_for_a_mark_and_for_a_time() {
        let queue = SharedQueue::new(Duration::from_secs(1));
        let kind = KindName { api_version: "v1".into(), kind: "K".into() };
        let key = ObjectKey {
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
    fn an_urgent_mark_reaches_the_key_in_flight_and_no_other() {
        let queue = SharedQueue::new(Duration::from_secs(1));
        let [a, b] = ["a", "b"].map(|name| crate::testing::key("p", name));
        let [of_a, of_b] = [CancellationToken::new(), CancellationToken::new()];
        for (key, urgent) in [(&a, &of_a), (&b, &of_b)] {
            queue.add(key, QueuePriority::Urgent, "");
            assert_eq!(queue.take(urgent).unwrap().key, *key);
            assert!(!urgent.is_cancelled(), "what it was taken for is no interruption");
        }
        queue.add(&a, QueuePriority::Event, "");
        assert!(!of_a.is_cancelled());
        queue.add(&a, QueuePriority::Urgent, "");
        assert!(of_a.is_cancelled() && !of_b.is_cancelled());
        queue.done(&b, KeyCompletion::AwaitChange);
        queue.add(&b, QueuePriority::Urgent, "");
        assert!(!of_b.is_cancelled(), "it is in flight no more");
    }
}
