//! The queue behind a lock, for the one who waits for it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tholepin_core::ObjectKey;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::metrics;

use super::{Done, Priority, Queue, Taken};

/// A [`Queue`] that several tasks share.
#[derive(Debug, Default)]
pub struct SharedQueue {
    queue: Mutex<Queue>,
    /// Told at each mark; who waits looks again.
    marked: Notify,
}

impl SharedQueue {
    /// Marks a key as due now.
    pub fn add(&self, key: &ObjectKey, priority: Priority, cause: &str) {
        metrics::added(&key.plugin);
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

    /// Takes the next key that is due.
    pub fn take(&self) -> Option<Taken> {
        self.lock().take(Instant::now())
    }

    /// Tells that a key has run.
    pub fn done(&self, key: &ObjectKey, done: Done) {
        if done == Done::Retry {
            metrics::retried(&key.plugin);
        }
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
    async fn it_is_waited_for_a_mark_and_for_a_time() {
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
        queue.due().await;
        assert_eq!(queue.take().unwrap().key, key);
        assert!(wait <= start.elapsed(), "{:?}", start.elapsed());
        tokio::join!(queue.due(), async {
            queue.done(&key, Done::AwaitChange);
            queue.add(&key, Priority::Event, "");
        });
        assert_eq!(queue.take().unwrap().key, key);
    }
}
