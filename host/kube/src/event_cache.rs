//! The events published lately, so that a repeat raises the count of the first and makes no second event.
//!
//! The cache is bounded. When it is full, the reporter with the most entries loses the oldest one of the object
//! about which it has the most, so that a plugin or an object that floods evicts its own entries.

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
            && let Some(evicted) = oldest_of_the_most(&published)
        {
            published.remove(&evicted);
        }
        published.insert(identity, PublishedEvent { name, count: 1, last: now });
    }
}

/// Returns the entry to evict: the oldest about the object with the most entries, among those of the reporter with
/// the most.
fn oldest_of_the_most(published: &HashMap<EventIdentity, PublishedEvent>) -> Option<EventIdentity> {
    let reporter = most_frequent(published.keys().map(|identity| &identity.reporter))?;
    let of_reporter = || published.iter().filter(|(identity, _)| identity.reporter == *reporter);
    let uid = most_frequent(of_reporter().map(|(identity, _)| &identity.uid))?;
    let of_object = of_reporter().filter(|(identity, _)| identity.uid == *uid);
    of_object.min_by_key(|(_, event)| event.last).map(|(identity, _)| identity.clone())
}

fn most_frequent<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut counts: HashMap<&String, usize> = HashMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name)
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

    #[test]
    fn an_object_or_a_plugin_that_floods_evicts_its_own_events() {
        let cache = EventCache::new("test".to_owned());
        let start = Instant::now();
        let of = |reporter: &str, uid: &str, message: &str| EventIdentity {
            reporter: reporter.to_owned(),
            uid: uid.to_owned(),
            ..identity(message)
        };
        let mut at = start;
        let mut remember = |event| {
            at += Duration::from_millis(1);
            cache.remember(event, "name".to_owned(), at);
        };
        remember(of("tholepin:quiet", "q", "m"));
        remember(of("tholepin:loud", "calm", "m"));
        for number in 0..2 * REMEMBERED_MAX {
            remember(of("tholepin:loud", "flood", &number.to_string()));
        }
        assert!(cache.count_repeat(&of("tholepin:loud", "calm", "m"), start).is_some());
        for number in 0..2 * REMEMBERED_MAX {
            remember(of("tholepin:loud", &number.to_string(), "one each"));
        }
        assert!(cache.count_repeat(&of("tholepin:quiet", "q", "m"), start).is_some());
        assert_eq!(lock(&cache.published).len(), REMEMBERED_MAX);
    }
}
