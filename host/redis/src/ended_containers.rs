//! Remembers which containers have ended, and wakes the calls that wait for them.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::watch;

use crate::lock::locked;

/// How many ended containers are remembered. An id is new at each start, so that an old one can only
/// come from a list of members that was read before.
const REMEMBERED: usize = 4096;

/// The containers that have ended.
#[derive(Debug)]
pub(crate) struct EndedContainers {
    recent: Mutex<VecDeque<String>>,
    count: watch::Sender<u64>,
}

impl EndedContainers {
    pub(crate) fn new() -> Self {
        Self { recent: Mutex::default(), count: watch::Sender::new(0) }
    }

    /// Says that a container has ended.
    pub(crate) fn add(&self, container_id: &str) {
        if container_id.is_empty() || self.contains(container_id) {
            return;
        }
        {
            let mut recent = locked(&self.recent);
            recent.truncate(REMEMBERED - 1);
            recent.push_front(container_id.to_owned());
        }
        self.count.send_modify(|count| *count += 1);
    }

    fn contains(&self, container_id: &str) -> bool {
        locked(&self.recent).iter().any(|ended| ended == container_id)
    }

    /// Returns when this container has ended; never, if nobody says so.
    pub(crate) async fn wait(&self, container_id: &str) {
        let mut count = self.count.subscribe();
        while !self.contains(container_id) {
            if count.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
