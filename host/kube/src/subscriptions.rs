//! Publishes the changes of the store to its readers.
//!
//! Invariants:
//! - The backlog of a reader holds each object at most once: two changes of one object are merged.
//! - A backlog is bounded: a reader that is too far behind gets `WatchedStoreEvent::Overflowed`, after which it must
//!   read the whole store.
//! - The store never waits for a reader.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
};

use tholepin_core::{
    BoxedFuture, ObjectRef,
    port::{StoreSubscription, WatchedStoreChange, WatchedStoreEvent},
};
use tokio::sync::Notify;

use crate::lock::lock;

/// The most objects in the backlog of one reader.
const BACKLOG_MAX: usize = 65_536;

/// The writing end, which the store owns.
#[derive(Default)]
pub(crate) struct StoreChangeBroadcaster {
    readers: Mutex<Vec<Weak<UnreadStoreChanges>>>,
}

/// The changes that one reader has not read yet.
pub(crate) struct UnreadStoreChanges {
    pending: Mutex<UnreadChangeQueue>,
    notify: Notify,
    limit: usize,
}

#[derive(Default)]
struct UnreadChangeQueue {
    order: VecDeque<ObjectRef>,
    changes: HashMap<ObjectRef, WatchedStoreChange>,
    overflowed: bool,
    resumed: bool,
    ended: bool,
}

/// The reading end.
struct WatchedStoreReader(Arc<UnreadStoreChanges>);

impl StoreChangeBroadcaster {
    /// Adds a reader.
    pub(crate) fn subscribe(&self) -> Box<dyn StoreSubscription> {
        Box::new(WatchedStoreReader(self.backlog(BACKLOG_MAX)))
    }

    fn backlog(&self, limit: usize) -> Arc<UnreadStoreChanges> {
        let backlog = Arc::new(UnreadStoreChanges {
            pending: Mutex::default(),
            notify: Notify::new(),
            limit,
        });
        let mut readers = lock(&self.readers);
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&backlog));
        backlog
    }

    /// Adds a change to the backlog of every reader.
    pub(crate) fn publish(&self, change: &WatchedStoreChange) {
        for reader in lock(&self.readers).iter().filter_map(Weak::upgrade) {
            reader.push(change.clone());
        }
    }

    /// Notifies every reader that a watch that had failed follows again.
    pub(crate) fn resume(&self) {
        for reader in lock(&self.readers).iter().filter_map(Weak::upgrade) {
            lock(&reader.pending).resumed = true;
            reader.notify.notify_one();
        }
    }

    /// Ends the stream of every reader.
    pub(crate) fn end(&self) {
        for reader in lock(&self.readers).iter().filter_map(Weak::upgrade) {
            lock(&reader.pending).ended = true;
            reader.notify.notify_one();
        }
    }
}

impl UnreadStoreChanges {
    fn push(&self, change: WatchedStoreChange) {
        let mut pending = lock(&self.pending);
        if let Some(pending_change) = pending.changes.get_mut(&change.object) {
            pending_change.after = change.after;
        } else if pending.changes.len() >= self.limit {
            let resumed = pending.resumed;
            *pending =
                UnreadChangeQueue { overflowed: true, resumed, ..UnreadChangeQueue::default() };
        } else {
            pending.order.push_back(change.object.clone());
            pending.changes.insert(change.object.clone(), change);
        }
        drop(pending);
        self.notify.notify_one();
    }

    /// Takes the next event. `Err` means that there is none yet, or that the stream has ended.
    fn pop(&self) -> Result<WatchedStoreEvent, EmptyChangeBacklog> {
        let mut pending = lock(&self.pending);
        if std::mem::take(&mut pending.overflowed) {
            return Ok(WatchedStoreEvent::Overflowed);
        }
        while let Some(object) = pending.order.pop_front() {
            if let Some(change) = pending.changes.remove(&object) {
                return Ok(WatchedStoreEvent::Changed(Box::new(change)));
            }
        }
        // After the changes that the watch reported, so that retried calls see those changes.
        if std::mem::take(&mut pending.resumed) {
            return Ok(WatchedStoreEvent::Resumed);
        }
        Err(EmptyChangeBacklog(pending.ended))
    }
}

/// There is no event in the backlog; true if no event will follow.
struct EmptyChangeBacklog(bool);

impl StoreSubscription for WatchedStoreReader {
    fn next(&mut self) -> BoxedFuture<'_, Option<WatchedStoreEvent>> {
        Box::pin(async {
            loop {
                match self.0.pop() {
                    Ok(event) => return Some(event),
                    Err(EmptyChangeBacklog(true)) => return None,
                    Err(EmptyChangeBacklog(false)) => self.0.notify.notified().await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, stored};

    fn change(name: &str, before: Option<&str>, after: Option<&str>) -> WatchedStoreChange {
        let version = |version: Option<&str>| version.map(|v| stored(object(name, "u", v)));
        let object = stored(object(name, "u", "0")).meta().object.clone();
        WatchedStoreChange { object, before: version(before), after: version(after) }
    }

    fn version(object: &Option<tholepin_core::WatchedStoreObject>) -> Option<&str> {
        object.as_ref().map(|object| object.meta().resource_version.as_str())
    }

    #[tokio::test]
    async fn changes_of_one_object_are_merged_and_keep_the_order_of_objects() {
        let broadcaster = StoreChangeBroadcaster::default();
        let mut reader = broadcaster.subscribe();
        broadcaster.publish(&change("a", None, Some("1")));
        broadcaster.publish(&change("b", None, Some("2")));
        broadcaster.publish(&change("a", Some("1"), Some("3")));
        broadcaster.publish(&change("a", Some("3"), None));
        broadcaster.end();
        let mut seen = Vec::new();
        while let Some(WatchedStoreEvent::Changed(change)) = reader.next().await {
            let WatchedStoreChange { object, before, after } = &*change;
            seen.push(format!("{} {:?} {:?}", object.name, version(before), version(after)));
        }
        assert_eq!(seen, ["a None None", "b None Some(\"2\")"]);
    }

    #[tokio::test]
    async fn resumed_is_reported_once_and_after_the_changes_of_the_watch() {
        let broadcaster = StoreChangeBroadcaster::default();
        let mut reader = broadcaster.subscribe();
        broadcaster.resume();
        broadcaster.publish(&change("a", None, Some("1")));
        broadcaster.resume();
        broadcaster.end();
        assert!(matches!(reader.next().await, Some(WatchedStoreEvent::Changed(_))));
        assert!(matches!(reader.next().await, Some(WatchedStoreEvent::Resumed)));
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_too_far_behind_gets_overflowed() {
        let broadcaster = StoreChangeBroadcaster::default();
        let mut reader = WatchedStoreReader(broadcaster.backlog(2));
        for name in ["a", "b", "c", "d"] {
            broadcaster.publish(&change(name, None, Some("1")));
        }
        assert!(matches!(reader.next().await, Some(WatchedStoreEvent::Overflowed)));
        let Some(WatchedStoreEvent::Changed(change)) = reader.next().await else {
            panic!("a change")
        };
        assert_eq!(change.object.name, "d", "what came after the overflow is kept");
    }
}
