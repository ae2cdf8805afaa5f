//! Keeps the last changes of one resource, so that a watch can begin in the past.
//!
//! Invariant: every change after `complete_after` is kept; nothing is known about older ones.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::ObjectKey;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeType {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Debug)]
pub(crate) struct StoreEvent {
    /// The revision of the change.
    pub(crate) revision: u64,
    /// What happened.
    pub(crate) change: ChangeType,
    /// The object's place.
    pub(crate) key: ObjectKey,
    /// The object after the change; for a deletion its last state with the deletion's revision.
    pub(crate) object: Arc<Value>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Value>>,
}

impl StoreEvent {
    /// The object before the change, with the change's revision: what a watch is told whose
    /// selection the object has left.
    pub(crate) fn last_seen(&self) -> Arc<Value> {
        let mut object = self.previous.as_deref().unwrap_or(&self.object).clone();
        super::set_revision(&mut object, self.revision);
        Arc::new(object)
    }
}

/// The last changes of one resource. One without any change is complete since the beginning.
#[derive(Default)]
pub(super) struct ResourceHistory {
    kept: VecDeque<RetainedEvent>,
    complete_after: u64,
}

/// A change that is kept.
pub(super) struct RetainedEvent {
    event: Arc<StoreEvent>,
    /// When it was made.
    pub(super) at: Instant,
    /// What it weighs. The state before it weighs nothing here: as long as the change that made that
    /// state is kept, it is counted there.
    pub(super) bytes: usize,
}

impl RetainedEvent {
    pub(super) fn revision(&self) -> u64 {
        self.event.revision
    }
}

impl ResourceHistory {
    /// Adds a change.
    pub(super) fn push(&mut self, event: StoreEvent, bytes: usize, at: Instant) {
        self.kept.push_back(RetainedEvent { event: Arc::new(event), at, bytes });
    }

    /// How many changes are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The oldest change that is kept.
    pub(super) fn oldest(&self) -> Option<&RetainedEvent> {
        self.kept.front()
    }

    /// Drops the oldest change, and gives what it weighed.
    pub(super) fn drop_oldest(&mut self) -> usize {
        let Some(dropped) = self.kept.pop_front() else { return 0 };
        self.complete_after = dropped.revision();
        dropped.bytes
    }

    /// Changes after `revision`, oldest first, at most `limit`; `None` where some are lost.
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
    /// What the changes that are kept weigh.
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
                change: ChangeType::Added,
                key: ObjectKey::new("n", "a"),
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
    fn a_history_that_lost_nothing_reaches_back_for_ever() {
        check(&history(&[3, 5], 2), 0, Some(&[3, 5]));
    }
}
