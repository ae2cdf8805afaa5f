//! The events published lately, so that a repeat raises the count of the first and makes no second event.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// How long after its last occurrence an event is counted as a repeat.
const MERGED_FOR: Duration = Duration::from_secs(600);
/// How many events are remembered for merging.
const REMEMBERED_MAX: usize = 1024;

/// The fields in which two events must agree to be merged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventIdentity {
    pub(crate) reporter: String,
    pub(crate) uid: String,
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// An event that the API server has, with the count of its repeats.
#[derive(Clone)]
pub(crate) struct PublishedEvent {
    pub(crate) name: String,
    pub(crate) count: u32,
    last: Instant,
}

/// The events published lately.
pub(crate) struct EventCache {
    /// The name of this process in events (`reportingInstance`).
    pub(crate) instance: String,
    published: Mutex<HashMap<EventIdentity, PublishedEvent>>,
}

impl EventCache {
    pub(crate) fn new(instance: String) -> Self {
        Self { instance, published: Mutex::default() }
    }

    /// Counts a repeat of an event and returns it; `None` if the event is new or too old to be merged.
    pub(crate) fn count_repeat(
        &self,
        identity: &EventIdentity,
        now: Instant,
    ) -> Option<PublishedEvent> {
        let mut published = lock(&self.published);
        let event = published.get_mut(identity)?;
        if now.duration_since(event.last) >= MERGED_FOR {
            published.remove(identity);
            return None;
        }
        event.count = event.count.saturating_add(1);
        event.last = now;
        Some(event.clone())
    }

    pub(crate) fn forget(&self, identity: &EventIdentity) {
        lock(&self.published).remove(identity);
    }

    pub(crate) fn remember(&self, identity: EventIdentity, name: String, now: Instant) {
        let mut published = lock(&self.published);
        if published.len() >= REMEMBERED_MAX {
            published.retain(|_, event| now.duration_since(event.last) < MERGED_FOR);
        }
        if published.len() >= REMEMBERED_MAX
            && let Some(oldest) = published.iter().min_by_key(|(_, event)| event.last)
        {
            let oldest = oldest.0.clone();
            published.remove(&oldest);
        }
        published.insert(identity, PublishedEvent { name, count: 1, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(message: &str) -> EventIdentity {
        EventIdentity {
            reporter: "tholepin".to_owned(),
            uid: "u".to_owned(),
            warning: false,
            reason: "R".to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_repeat_within_ten_minutes_is_counted() {
        let cache = EventCache::new("test".to_owned());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(cache.count_repeat(&identity("a"), start).is_none());
        cache.remember(identity("a"), "name".to_owned(), start);
        assert_eq!(cache.count_repeat(&identity("a"), at(599)).map(|event| event.count), Some(2));
        assert_eq!(cache.count_repeat(&identity("a"), at(1198)).map(|event| event.count), Some(3));
        assert!(
            cache.count_repeat(&identity("b"), at(1198)).is_none(),
            "another message is another event"
        );
        assert!(
            cache.count_repeat(&identity("a"), at(1798)).is_none(),
            "ten minutes later it is a new event"
        );
    }

    #[test]
    fn the_cache_is_bounded_and_evicts_the_oldest_event() {
        let cache = EventCache::new("test".to_owned());
        let start = Instant::now();
        for number in 0..=u64::try_from(REMEMBERED_MAX).unwrap() {
            let at = start + Duration::from_millis(number);
            cache.remember(identity(&number.to_string()), "name".to_owned(), at);
        }
        assert_eq!(lock(&cache.published).len(), REMEMBERED_MAX);
        assert!(cache.count_repeat(&identity("0"), start).is_none());
        assert!(cache.count_repeat(&identity("1"), start).is_some());
    }
}
