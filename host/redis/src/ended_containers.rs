//! The containers that have ended, and a wait for the end of one.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::watch;

use crate::lock::locked;

/// The number of ended containers that are remembered. Each start has a new container id, so an old id can only
/// come from a list of members that was read before the end.
const REMEMBERED: usize = 4096;

/// The containers that have ended.
#[derive(Debug)]
pub(crate) struct EndedRedisContainers {
    recent: Mutex<VecDeque<String>>,
    count: watch::Sender<u64>,
}

impl EndedRedisContainers {
    pub(crate) fn new() -> Self {
        Self { recent: Mutex::default(), count: watch::Sender::new(0) }
    }

    /// Records that a container has ended.
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

    /// Waits until [`add`](Self::add) records this container.
    pub(crate) async fn wait(&self, container_id: &str) {
        let mut count = self.count.subscribe();
        while !self.contains(container_id) {
            if count.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
