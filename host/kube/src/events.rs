//! Publishes events (`events.k8s.io/v1`). Repeats of one event within ten minutes raise its count
//! instead of making another.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tholepin_core::{
    CallError, EventType, ObjectRef,
    condition::HOST_FIELD_MANAGER,
    port::{PublishRequest, WARNINGS_MAX, Warning},
};
use tholepin_schema::manifest::KindName;
use tokio::time::Instant;

use crate::{KubernetesApi, raw::RawObject, subscriptions::lock};

/// How long after its last occurrence an event is still the same one.
const MERGED_FOR: Duration = Duration::from_secs(600);
/// How many events are remembered for merging.
const REMEMBERED_MAX: usize = 1024;
/// The longest note that the API takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// What makes two events one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EventIdentity {
    reporter: String,
    uid: String,
    warning: bool,
    reason: String,
    message: String,
}

#[derive(Clone)]
struct PublishedEvent {
    name: String,
    count: u32,
    last: Instant,
}

/// The events published lately.
pub(crate) struct EventCache {
    instance: String,
    published: Mutex<HashMap<EventIdentity, PublishedEvent>>,
}

impl EventCache {
    pub(crate) fn new(instance: String) -> Self {
        Self { instance, published: Mutex::default() }
    }

    /// Counts a repeat; nothing if this is the first.
    fn repeat(&self, same: &EventIdentity, now: Instant) -> Option<PublishedEvent> {
        let mut published = lock(&self.published);
        let known = published.get_mut(same)?;
        if now.duration_since(known.last) >= MERGED_FOR {
            published.remove(same);
            return None;
        }
        known.count = known.count.saturating_add(1);
        known.last = now;
        Some(known.clone())
    }

    fn forget(&self, same: &EventIdentity) {
        lock(&self.published).remove(same);
    }

    fn remember(&self, same: EventIdentity, name: String, now: Instant) {
        let mut published = lock(&self.published);
        if published.len() >= REMEMBERED_MAX {
            published.retain(|_, known| now.duration_since(known.last) < MERGED_FOR);
        }
        if published.len() >= REMEMBERED_MAX
            && let Some(oldest) = published.iter().min_by_key(|(_, known)| known.last)
        {
            let oldest = oldest.0.clone();
            published.remove(&oldest);
        }
        published.insert(same, PublishedEvent { name, count: 1, last: now });
    }
}

impl KubernetesApi {
    pub(crate) async fn publish_event(&self, request: PublishRequest) -> Result<(), CallError> {
        let same = EventIdentity {
            reporter: request.reporter.clone(),
            uid: request.regarding_uid.clone(),
            warning: request.event_type == EventType::Warning,
            reason: request.reason.clone(),
            message: request.message.clone(),
        };
        if let Some(known) = self.events.repeat(&same, Instant::now()) {
            let event = reference(&request.regarding, known.name);
            let last_observed_time = timestamp();
            let series = json!({"count": known.count, "lastObservedTime": last_observed_time});
            let patch = Patch::Merge(json!({"series": series}));
            let field_manager = Some(HOST_FIELD_MANAGER.to_owned());
            let params = PatchParams { field_manager, ..Default::default() };
            match self.patch(&event, &patch, &params, false).await {
                // The server keeps events for a while only.
                Err(CallError::NotFound(_)) => self.events.forget(&same),
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
        let event = reference(&request.regarding, event_name(&request.regarding.name));
        let served = self.served(&event.kind).await?;
        let api = served.api(self.client.clone(), &event.namespace);
        let document = document(&event, &request, &self.events.instance);
        let raw = RawObject::new(&document)
            .map_err(|error| CallError::Invalid(format!("event `{}`: {error}", request.reason)))?;
        let params =
            PostParams { field_manager: Some(HOST_FIELD_MANAGER.to_owned()), ..Default::default() };
        self.ask(&served, ("create", &event, false), api.create(&params, &raw)).await?;
        self.events.remember(same, event.name, Instant::now());
        Ok(())
    }
}

fn reference(regarding: &ObjectRef, name: String) -> ObjectRef {
    let kind = KindName { api_version: "events.k8s.io/v1".to_owned(), kind: "Event".to_owned() };
    ObjectRef { kind, namespace: namespace_of(regarding).to_owned(), name }
}

/// Where objects about this one live: beside it, or in `default` if it is cluster-scoped.
pub(crate) fn namespace_of(object: &ObjectRef) -> &str {
    match object.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

/// The object's name, cut to fit, and the moment.
fn event_name(object: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let object = cut(object, 200).trim_end_matches(['.', '-']);
    format!("{object}.{nanos:x}")
}

fn document(event: &ObjectRef, request: &PublishRequest, instance: &str) -> Value {
    let PublishRequest { reporter, regarding, regarding_uid, event_type, reason, message } =
        request;
    // The API takes a qualified name here, in which a colon is not allowed.
    let controller = match reporter.split_once(':') {
        Some((_, plugin)) => format!("tholepin.dev/{plugin}"),
        None => format!("tholepin.dev/{reporter}"),
    };
    let mut about = json!({
        "apiVersion": regarding.kind.api_version,
        "kind": regarding.kind.kind,
        "name": regarding.name,
        "uid": regarding_uid,
    });
    if !regarding.namespace.is_empty()
        && let Some(about) = about.as_object_mut()
    {
        about.insert("namespace".to_owned(), regarding.namespace.clone().into());
    }
    json!({
        "apiVersion": event.kind.api_version,
        "kind": event.kind.kind,
        "metadata": {"namespace": event.namespace, "name": event.name},
        "eventTime": timestamp(),
        "reportingController": controller,
        "reportingInstance": cut(instance, 128),
        "action": "Reconcile",
        "reason": cut(reason, 128),
        "type": match event_type {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        },
        "note": cut(message, NOTE_BYTES_MAX),
        "regarding": about,
    })
}

/// Now, with microseconds, as the API writes such times.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The text, cut at a character's border to at most this many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// What these events say, which are warnings of the core group: the newest first.
pub(crate) fn newest_warnings(events: &[Value]) -> Vec<Warning> {
    let text = |event: &Value, path: &str| {
        event.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    let mut warnings: Vec<Warning> = events
        .iter()
        .map(|event| {
            // Who counts repeats by a series leaves the old fields empty.
            let count = event.get("count").or(event.pointer("/series/count"));
            let seen = text(event, "/series/lastObservedTime")
                .or_else(|| text(event, "/lastTimestamp"))
                .or_else(|| text(event, "/eventTime"))
                .or_else(|| text(event, "/metadata/creationTimestamp"));
            Warning {
                reason: text(event, "/reason").unwrap_or_default(),
                message: text(event, "/message").unwrap_or_default(),
                count: count.and_then(Value::as_u64).unwrap_or(1),
                last_seen: seen.unwrap_or_default(),
            }
        })
        .collect();
    // Of one format, and so in the order of their texts up to the second.
    warnings.sort_by(|one, other| other.last_seen.cmp(&one.last_seen));
    warnings.truncate(WARNINGS_MAX);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(message: &str) -> EventIdentity {
        EventIdentity {
            reporter: "tholepin".to_owned(),
            uid: "u".to_owned(),
            warning: false,
            reason: "R".to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_repeat_within_ten_minutes_is_a_count() {
        let book = EventCache::new("test".to_owned());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(book.repeat(&same("a"), start).is_none());
        book.remember(same("a"), "name".to_owned(), start);
        assert_eq!(book.repeat(&same("a"), at(599)).map(|known| known.count), Some(2));
        assert_eq!(book.repeat(&same("a"), at(1198)).map(|known| known.count), Some(3));
        assert!(book.repeat(&same("b"), at(1198)).is_none(), "another message is another event");
        assert!(book.repeat(&same("a"), at(1798)).is_none(), "ten minutes later it is a new one");
    }

    #[test]
    fn the_book_is_bounded_and_loses_the_oldest() {
        let book = EventCache::new("test".to_owned());
        let start = Instant::now();
        for number in 0..=u64::try_from(REMEMBERED_MAX).unwrap() {
            let at = start + Duration::from_millis(number);
            book.remember(same(&number.to_string()), "name".to_owned(), at);
        }
        assert_eq!(lock(&book.published).len(), REMEMBERED_MAX);
        assert!(book.repeat(&same("0"), start).is_none());
        assert!(book.repeat(&same("1"), start).is_some());
    }

    #[test]
    fn warnings_are_read_the_newest_first_whichever_way_they_are_counted() {
        let events = [
            json!({"reason": "Old", "message": "m", "lastTimestamp": "2026-01-01T00:00:01Z", "count": 3}),
            json!({"reason": "New", "message": "m", "eventTime": "2026-01-01T00:00:00.5Z",
                "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:09Z"}}),
            json!({"reason": "Bare", "metadata": {"creationTimestamp": "2026-01-01T00:00:05Z"}}),
        ];
        let read = newest_warnings(&events);
        let read: Vec<_> = read.iter().map(|it| (it.reason.as_str(), it.count)).collect();
        assert_eq!(read, [("New", 2), ("Bare", 1), ("Old", 3)]);
        let many = vec![events[0].clone(); WARNINGS_MAX + 1];
        assert_eq!(newest_warnings(&many).len(), WARNINGS_MAX);
    }
}
