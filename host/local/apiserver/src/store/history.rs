//! The latest changes of one resource, from which a watch can start in the past.
//!
//! Invariant: every change after the revision `complete_after` is kept, and no older one.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::NamespacedName;

/// The type of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiStoreChangeType {
    /// The object was created.
    Added,
    /// The object was changed.
    Modified,
    /// The object was deleted.
    Deleted,
}

/// One change of an object.
#[derive(Debug)]
pub(crate) struct StoreEvent {
    /// The revision of the change.
    pub(crate) revision: u64,
    /// The type of the change.
    pub(crate) change: ApiStoreChangeType,
    /// The object's namespace and name.
    pub(crate) key: NamespacedName,
    /// The object after the change; for a deletion its final state with the deletion's revision.
    pub(crate) object: Arc<Value>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Value>>,
}

impl StoreEvent {
    /// Returns the object before the change, with the change's revision. A watch whose selection the object has left
    /// sends it in a DELETED event.
    pub(crate) fn last_seen(&self) -> Arc<Value> {
        let mut object = self.previous.as_deref().unwrap_or(&self.object).clone();
        super::set_revision(&mut object, self.revision);
        Arc::new(object)
    }
}

/// The latest changes of one resource. A history without changes is complete from revision 0.
#[derive(Default)]
pub(super) struct ResourceHistory {
    kept: VecDeque<RetainedStoreEvent>,
    complete_after: u64,
}

/// A change in the history.
pub(super) struct RetainedStoreEvent {
    event: Arc<StoreEvent>,
    /// The time of the change.
    pub(super) at: Instant,
    /// The estimated memory in bytes of the object after the change. The object before it is not counted here, because
    /// it is counted for the earlier change as long as that one is kept.
    pub(super) bytes: usize,
}

impl RetainedStoreEvent {
    pub(super) fn revision(&self) -> u64 {
        self.event.revision
    }
}

impl ResourceHistory {
    /// Adds a change.
    pub(super) fn push(&mut self, event: StoreEvent, bytes: usize, at: Instant) {
        self.kept.push_back(RetainedStoreEvent { event: Arc::new(event), at, bytes });
    }

    /// Returns the number of changes.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns the oldest change.
    pub(super) fn oldest(&self) -> Option<&RetainedStoreEvent> {
        self.kept.front()
    }

    /// Drops the oldest change, and returns its estimated memory in bytes.
    pub(super) fn drop_oldest(&mut self) -> usize {
        let Some(dropped) = self.kept.pop_front() else { return 0 };
        self.complete_after = dropped.revision();
        dropped.bytes
    }

    /// Returns the changes after `revision`, oldest first, at most `limit`; `None` if some of them were dropped.
    pub(super) fn after(&self, revision: u64, limit: usize) -> Option<Vec<Arc<StoreEvent>>> {
        if revision < self.complete_after {
            return None;
        }
        let from = self.kept.partition_point(|kept| kept.revision() <= revision);
        let kept = self.kept.iter().skip(from).take(limit);
        Some(kept.map(|kept| Arc::clone(&kept.event)).collect())
    }
}

#[cfg(test)]
impl ResourceHistory {
    /// Returns the estimated memory in bytes of all changes.
    pub(super) fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn history(revisions: &[u64], max: usize) -> ResourceHistory {
        let mut history = ResourceHistory::default();
        for &revision in revisions {
            let event = StoreEvent {
                revision,
                change: ApiStoreChangeType::Added,
                key: NamespacedName::new("n", "a"),
                object: Arc::new(json!({})),
                previous: None,
            };
            history.push(event, 1, Instant::now());
            if max < history.len() {
                history.drop_oldest();
            }
        }
        history
    }

    fn check(history: &ResourceHistory, after: u64, expected: Option<&[u64]>) {
        let found = history.after(after, 10);
        let found = found.map(|events| events.iter().map(|e| e.revision).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "after {after}");
    }

    #[test]
    fn a_position_inside_the_history_is_served_and_an_older_one_is_not() {
        let history = history(&[3, 5, 8], 2);
        check(&history, 8, Some(&[]));
        check(&history, 6, Some(&[8]));
        check(&history, 3, Some(&[5, 8]));
        check(&history, 2, None);
    }

    #[test]
    fn a_complete_history_serves_every_revision() {
        check(&history(&[3, 5], 2), 0, Some(&[3, 5]));
    }
}
