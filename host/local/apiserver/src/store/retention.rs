//! The limits on the history: number, memory and age of changes.
//!
//! A watch whose position was dropped gets 410 and its client lists again, so dropping is safe and costs only that
//! list. The oldest change is dropped first, whatever its resource.

use std::time::Duration;

use tokio::time::Instant;

use super::history::ResourceHistory;
use super::{GroupResource, StoreState};

/// The limits on the history that is kept for watches and lists from an earlier revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApiStoreHistoryLimits {
    /// The most changes of one resource.
    pub(crate) events_max: usize,
    /// The most memory of the changes of all resources together.
    pub(crate) bytes_max: usize,
    /// The longest time for which a change is kept.
    pub(crate) age_max: Duration,
}

/// The time after which a Kubernetes API server compacts old revisions in etcd.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// A change of a Pod takes about 100 KB.
const BYTES_MAX: usize = 24 * 1024 * 1024;

impl ApiStoreHistoryLimits {
    /// Returns the default limits, with at most `events_max` changes per resource.
    pub(crate) fn of_events(events_max: usize) -> Self {
        Self { events_max: events_max.max(1), bytes_max: BYTES_MAX, age_max: AGE_MAX }
    }
}

impl StoreState {
    /// Drops the changes that exceed the limits after a change of `changed`.
    pub(super) fn trim(&mut self, changed: &GroupResource, now: Instant) {
        if let Some(table) = self.tables.get_mut(changed) {
            while self.retention.events_max < table.history.len() {
                self.history_bytes -= table.history.drop_oldest();
            }
        }
        self.expire(now);
        while self.retention.bytes_max < self.history_bytes {
            // The last change of each resource is kept, because its watches have not read it yet.
            let histories = self.tables.values_mut().map(|table| &mut table.history);
            let several = histories.filter(|history| 1 < history.len());
            let revision =
                |history: &&mut ResourceHistory| history.oldest().map(|change| change.revision());
            let Some(history) = several.min_by_key(revision) else { return };
            self.history_bytes -= history.drop_oldest();
        }
    }

    /// Drops the changes that are too old.
    pub(super) fn expire(&mut self, now: Instant) {
        let ApiStoreHistoryLimits { age_max, .. } = self.retention;
        for table in self.tables.values_mut() {
            let history = &mut table.history;
            while history.oldest().is_some_and(|change| age_max < now.duration_since(change.at)) {
                self.history_bytes -= history.drop_oldest();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::{NamespacedName, ObjectStore};

    const SMALL: ApiStoreHistoryLimits = ApiStoreHistoryLimits {
        events_max: 10_000,
        bytes_max: 256 * 1024,
        age_max: Duration::from_secs(300),
    };

    fn object(name: &str, labels: usize) -> Value {
        let labels: Value = (0..labels).map(|n| (n.to_string(), json!({"x": "y"}))).collect();
        json!({"metadata": {"name": name, "uid": name, "labels": labels}})
    }

    fn create(
        store: &ObjectStore,
        resource: &GroupResource,
        name: &str,
        labels: usize,
    ) -> Arc<Value> {
        store.insert(resource, &NamespacedName::new("", name), object(name, labels), false).unwrap()
    }

    fn delete(store: &ObjectStore, resource: &GroupResource, name: &str) {
        let key = NamespacedName::new("", name);
        let read = store.get(resource, &key).unwrap();
        store.remove(resource, &key, &read, (*read).clone(), false).unwrap();
    }

    #[test]
    fn deleted_objects_leave_history_within_the_limit() {
        let store = ObjectStore::new(SMALL);
        let things = GroupResource::new("", "things");
        for n in 0..500 {
            create(&store, &things, &format!("thing-{n}"), 20);
            delete(&store, &things, &format!("thing-{n}"));
            store.take_pending();
        }
        let state = store.lock();
        let histories = || state.tables.values().map(|table| &table.history);
        assert!(state.history_bytes <= SMALL.bytes_max, "{}", state.history_bytes);
        assert_eq!(state.history_bytes, histories().map(ResourceHistory::bytes).sum::<usize>());
        let kept = histories().map(ResourceHistory::len).sum::<usize>();
        assert!((2..100).contains(&kept), "{kept} changes of 1000 are kept");
        assert!(state.by_uid.is_empty() && state.dependents.is_empty());
        drop(state);
        assert_eq!(store.size(&things), Default::default());
        let now = store.revision();
        assert!(store.changes(&things, 1, 10).is_none(), "whoever was there is to list again");
        assert_eq!(store.changes(&things, now - 1, 10).unwrap().0.len(), 1);
    }

    #[test]
    fn the_oldest_change_is_dropped_first_and_the_last_of_each_resource_is_kept() {
        let store = ObjectStore::new(SMALL);
        let [quiet, busy] = ["quiet", "busy"].map(|plural| GroupResource::new("", plural));
        create(&store, &quiet, "first", 20);
        let first = store.revision();
        create(&store, &quiet, "second", 20);
        for n in 0..100 {
            create(&store, &busy, &n.to_string(), 20);
        }
        assert!(store.changes(&quiet, first - 1, 10).is_none());
        assert_eq!(store.changes(&quiet, first, 10).unwrap().0.len(), 1);
        // This change alone exceeds the memory limit.
        create(&store, &busy, "giant", 2_000);
        let (events, _) = store.changes(&busy, store.revision() - 1, 10).unwrap();
        assert_eq!(events.len(), 1, "its watches have not read it yet");
    }

    #[test]
    fn an_old_change_is_dropped_and_later_watches_continue() {
        let store = ObjectStore::new(SMALL);
        let things = GroupResource::new("", "things");
        let start = Instant::now();
        create(&store, &things, "a", 1);
        let (known, made) = (store.revision(), Instant::now());
        store.expire(start + SMALL.age_max);
        assert_eq!(store.changes(&things, known - 1, 10).unwrap().0.len(), 1);
        store.expire(made + SMALL.age_max + Duration::from_millis(1));
        assert_eq!(store.lock().history_bytes, 0);
        assert!(store.changes(&things, known - 1, 10).is_none());
        assert_eq!(store.changes(&things, known, 10).unwrap().0.len(), 0);
        assert_eq!(store.size(&things).objects, 1, "the object itself stays");
    }
}
