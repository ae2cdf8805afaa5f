//! Publishes events (`events.k8s.io/v1`). A repeat of an event within ten minutes raises its count and
//! creates no second event.
//!
//! Not `kube::runtime::events::Recorder` (5.0): it merges events that differ in their note only and so drops
//! the later message, fails if the server has deleted the event of a repeat, does not bound its cache, and
//! sets neither a field manager nor a deadline.

use std::time::{SystemTime, UNIX_EPOCH};

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tholepin_core::{
    CallError, EventType, ObjectRef,
    condition::HOST_FIELD_MANAGER,
    port::{PublishRequest, WARNINGS_MAX, WarningEvent},
};
use tholepin_schema::manifest::KindName;
use tokio::time::Instant;

use crate::{KubernetesApi, event_cache::EventIdentity, raw::RawObject};

/// The longest note that the API accepts, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

impl KubernetesApi {
    pub(crate) async fn publish_event(&self, request: PublishRequest) -> Result<(), CallError> {
        let identity = EventIdentity {
            reporter: request.reporter.clone(),
            uid: request.regarding_uid.clone(),
            warning: request.event_type == EventType::Warning,
            reason: request.reason.clone(),
            message: request.message.clone(),
        };
        if let Some(published) = self.events.count_repeat(&identity, Instant::now()) {
            let event = reference(&request.regarding, published.name);
            let last_observed_time = timestamp();
            let series = json!({"count": published.count, "lastObservedTime": last_observed_time});
            let patch = Patch::Merge(json!({"series": series}));
            let field_manager = Some(HOST_FIELD_MANAGER.to_owned());
            let params = PatchParams { field_manager, ..Default::default() };
            match self.patch(&event, &patch, &params, false).await {
                // The server deletes events after a time (an hour by default): create a new event.
                Err(CallError::NotFound(_)) => self.events.forget(&identity),
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
        self.send(&served, ("create", &event, false), api.create(&params, &raw)).await?;
        self.events.remember(identity, event.name, Instant::now());
        Ok(())
    }
}

fn reference(regarding: &ObjectRef, name: String) -> ObjectRef {
    let kind = KindName { api_version: "events.k8s.io/v1".to_owned(), kind: "Event".to_owned() };
    ObjectRef { kind, namespace: namespace_of(regarding).to_owned(), name }
}

/// Returns the namespace of objects about this one: its own, or `default` if it is cluster-scoped.
pub(crate) fn namespace_of(object: &ObjectRef) -> &str {
    match object.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

/// Returns a new name for an event: the object's name, cut to fit, and the time.
fn event_name(object: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let object = truncate(object, 200).trim_end_matches(['.', '-']);
    format!("{object}.{nanos:x}")
}

fn document(event: &ObjectRef, request: &PublishRequest, instance: &str) -> Value {
    let PublishRequest { reporter, regarding, regarding_uid, event_type, reason, message } =
        request;
    // The API requires a qualified name here, in which a colon is not allowed.
    let controller = match reporter.split_once(':') {
        Some((_, plugin)) => format!("tholepin.dev/{plugin}"),
        None => format!("tholepin.dev/{reporter}"),
    };
    let mut regarding_json = json!({
        "apiVersion": regarding.kind.api_version,
        "kind": regarding.kind.kind,
        "name": regarding.name,
        "uid": regarding_uid,
    });
    if !regarding.namespace.is_empty()
        && let Some(regarding_json) = regarding_json.as_object_mut()
    {
        regarding_json.insert("namespace".to_owned(), regarding.namespace.clone().into());
    }
    json!({
        "apiVersion": event.kind.api_version,
        "kind": event.kind.kind,
        "metadata": {"namespace": event.namespace, "name": event.name},
        "eventTime": timestamp(),
        "reportingController": controller,
        "reportingInstance": truncate(instance, 128),
        "action": "Reconcile",
        "reason": truncate(reason, 128),
        "type": match event_type {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        },
        "note": truncate(message, NOTE_BYTES_MAX),
        "regarding": regarding_json,
    })
}

/// Returns the current time with microseconds, the format of `MicroTime`.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Returns the text, cut at a character boundary to at most this many bytes.
fn truncate(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// Converts warning events of the core group, the newest first and [`WARNINGS_MAX`] at most.
pub(crate) fn newest_warnings(events: &[Value]) -> Vec<WarningEvent> {
    let text = |event: &Value, path: &str| {
        event.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    let mut warnings: Vec<WarningEvent> = events
        .iter()
        .map(|event| {
            // Reporters that count repeats in `series` leave `count` and `lastTimestamp` empty.
            let count = event.get("count").or(event.pointer("/series/count"));
            let seen = text(event, "/series/lastObservedTime")
                .or_else(|| text(event, "/lastTimestamp"))
                .or_else(|| text(event, "/eventTime"))
                .or_else(|| text(event, "/metadata/creationTimestamp"));
            WarningEvent {
                reason: text(event, "/reason").unwrap_or_default(),
                message: text(event, "/message").unwrap_or_default(),
                count: count.and_then(Value::as_u64).unwrap_or(1),
                last_seen: seen.unwrap_or_default(),
            }
        })
        .collect();
    // All times are RFC 3339 in UTC, so that the order of the texts is the order of time, up to the second.
    warnings.sort_by(|left, right| right.last_seen.cmp(&left.last_seen));
    warnings.truncate(WARNINGS_MAX);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_ordered_by_time_whichever_way_they_count_repeats() {
        let events = [
            json!({"reason": "Old", "message": "m", "lastTimestamp": "2026-01-01T00:00:01Z", "count": 3}),
            json!({"reason": "New", "message": "m", "eventTime": "2026-01-01T00:00:00.5Z",
                "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:09Z"}}),
            json!({"reason": "Bare", "metadata": {"creationTimestamp": "2026-01-01T00:00:05Z"}}),
        ];
        let read = newest_warnings(&events);
        let read: Vec<_> =
            read.iter().map(|warning| (warning.reason.as_str(), warning.count)).collect();
        assert_eq!(read, [("New", 2), ("Bare", 1), ("Old", 3)]);
        let many = vec![events[0].clone(); WARNINGS_MAX + 1];
        assert_eq!(newest_warnings(&many).len(), WARNINGS_MAX);
    }
}
