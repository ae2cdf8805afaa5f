//! Conversion between the stored version of an object and the requested one.
//!
//! Versions of a CRD differ in `apiVersion` only (conversion strategy `None`). Events are stored as core/v1; for
//! events.k8s.io/v1 their fields are renamed, without loss in either direction.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::object::as_map_mut;
use crate::registry::ServedKind;

/// The fields of events with different names in core/v1 (first) and events.k8s.io/v1 (second).
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("source", "deprecatedSource"),
];

fn is_new_event(served: &ServedKind) -> bool {
    served.kind.group == "events.k8s.io" && served.kind.plural == "events"
}

/// Converts a stored object to the version of `served`; returns the same object if the versions are equal.
pub(crate) fn show(served: &ServedKind, stored: &Arc<Value>) -> Arc<Value> {
    if stored.get("apiVersion").and_then(Value::as_str) == Some(&served.api_version) {
        return Arc::clone(stored);
    }
    let mut object = (**stored).clone();
    let map = as_map_mut(&mut object);
    map.insert("apiVersion".into(), json!(served.api_version));
    if is_new_event(served) {
        for (core, new) in EVENT_FIELDS {
            if let Some(value) = map.remove(core) {
                map.insert(new.to_owned(), value);
            }
        }
    }
    Arc::new(object)
}

/// Converts an object of a request, or one that [`show`] returned, to the stored version.
pub(crate) fn store(served: &ServedKind, object: &mut Value) {
    let map = as_map_mut(object);
    map.insert("apiVersion".into(), json!(served.stored_api_version));
    if is_new_event(served) {
        for (core, new) in EVENT_FIELDS {
            if let Some(value) = map.remove(new) {
                map.insert(core.to_owned(), value);
            }
        }
    }
}
