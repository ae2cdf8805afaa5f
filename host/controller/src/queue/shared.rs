//! The queue behind a lock, for workers that wait.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tholepin_core::ObjectKey;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Done, Priority, Queue, Taken};

/// A [`Queue`] that several tasks share.
#[derive(Debug, Default)]
pub struct SharedQueue {
    queue: Mutex<Queue>,
    /// Told at each mark; a waiting worker looks again.
    marked: Notify,
}

impl SharedQueue {
    /// Marks a key as due now.
    pub fn add(&self, key: &ObjectKey, priority: Priority, cause: &str) {
        self.lock().add(key, priority, cause, Instant::now());
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

    /// Waits for a key that is due.
    pub async fn next(&self) -> Taken {
        loop {
            let due = {
                let mut queue = self.lock();
                if let Some(taken) = queue.take(Instant::now()) {
                    // One mark wakes one worker; there may be work for another.
                    self.marked.notify_one();
                    return taken;
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

    /// Tells that a key has run.
    pub fn done(&self, key: &ObjectKey, done: Done) {
        self.lock().done(key, done, Instant::now());
        self.marked.notify_one();
    }

    /// Looks at the queue itself.
    pub fn inspect<T>(&self, look: impl FnOnce(&Queue) -> T) -> T {
        look(&self.lock())
    }

    /// A poisoned lock is taken as it is: no operation of the queue leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_schema::manifest::KindName;

    #[tokio::test]
    async fn a_worker_waits_for_a_mark_and_for_a_time() {
        let queue = SharedQueue::default();
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
        assert_eq!(queue.next().await.key, key);
        assert!(wait <= start.elapsed(), "{:?}", start.elapsed());
        let (taken, ()) = tokio::join!(queue.next(), async {
            queue.done(&key, Done::AwaitChange);
            queue.add(&key, Priority::Event, "");
        });
        assert_eq!(taken.key, key);
    }
}
