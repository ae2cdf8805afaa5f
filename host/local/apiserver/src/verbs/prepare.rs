//! The preparation of an object before it is stored: identity, defaults, validation and field ownership. The verbs
//! commit it.

use serde_json::{Map, Value, json};
use tholepin_apimachinery::managed_fields::{ManagedFieldsUpdateOptions, track_update};
use tholepin_apimachinery::{FieldError, validation};

use crate::kinds;
use crate::object::{as_map_mut, bump_generation, metadata_mut, name, seconds, spec_differs, text};
use crate::status::ApiError;
use crate::write_context::{MainOrStatusPart, ObjectWriteContext};

/// The members of `metadata` that only the server sets.
const SERVER_OWNED: [&str; 5] = [
    "selfLink",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

/// The members of `metadata` that are removed if they are empty.
const CAN_BE_EMPTY: [&str; 5] =
    ["annotations", "finalizers", "labels", "managedFields", "ownerReferences"];

/// Sets the identity of a new object, and removes the fields that clients may not set.
///
/// # Errors
///
/// 400 if a resourceVersion is set.
pub(crate) fn identity(cx: &ObjectWriteContext, object: &mut Value) -> Result<(), ApiError> {
    let kind = &cx.served.kind;
    if text(object, "/metadata/resourceVersion").is_some_and(|version| !version.is_empty()) {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let metadata = metadata_mut(object);
    for field in SERVER_OWNED.iter().chain(&["resourceVersion", "namespace"]) {
        metadata.remove(*field);
    }
    if kind.namespaced {
        metadata.insert("namespace".into(), json!(cx.namespace));
    }
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), json!(seconds(cx.now)));
    if kind.tracks_generation {
        metadata.insert("generation".into(), json!(1));
    }
    if kind.has_subresource("status") {
        as_map_mut(object).remove("status");
    }
    Ok(())
}

/// Copies the fields from `old` that a write of this part may not change.
///
/// # Errors
///
/// 409 if `new` has another resourceVersion than `old`.
pub(crate) fn carry_over(
    cx: &ObjectWriteContext,
    old: &Value,
    new: &mut Value,
    part: MainOrStatusPart,
) -> Result<(), ApiError> {
    let version = text(new, "/metadata/resourceVersion").unwrap_or("");
    if !version.is_empty() && Some(version) != text(old, "/metadata/resourceVersion") {
        return Err(ApiError::modified(cx.served.subject(name(old))));
    }
    if part == MainOrStatusPart::Status {
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        let uid = new.pointer("/metadata/uid").cloned();
        *new = old.clone();
        put_or_remove(as_map_mut(new), "status", status);
        put_or_remove(metadata_mut(new), "managedFields", managed);
        if let Some(uid) = uid {
            metadata_mut(new).insert("uid".into(), uid);
        }
        return Ok(());
    }
    let empty = Map::new();
    let old_metadata = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let metadata = metadata_mut(new);
    for field in SERVER_OWNED.iter().chain(&["resourceVersion"]) {
        put_or_remove(metadata, field, old_metadata.get(*field).cloned());
    }
    for field in ["name", "namespace", "uid"] {
        let given = metadata.get(field).and_then(Value::as_str).unwrap_or("");
        if given.is_empty() {
            put_or_remove(metadata, field, old_metadata.get(field).cloned());
        }
    }
    if cx.served.kind.has_subresource("status") {
        put_or_remove(as_map_mut(new), "status", old.get("status").cloned());
    }
    Ok(())
}

/// Increments the generation if the spec changed.
pub(crate) fn count_generation(cx: &ObjectWriteContext, old: &Value, new: &mut Value) {
    if cx.served.kind.tracks_generation && spec_differs(old, new) {
        bump_generation(new);
    }
}

/// Sets the kind's defaults, and removes empty members of `metadata`.
pub(crate) fn defaults(cx: &ObjectWriteContext, object: &mut Value) {
    metadata_mut(object)
        .retain(|field, value| !(CAN_BE_EMPTY.contains(&&**field) && is_empty(value)));
    match &cx.served.custom {
        Some(custom) => custom.schema.apply_defaults(object),
        None => kinds::defaults(&cx.served, object),
    }
}

/// Validates an object, and the transition from `old` in an update.
///
/// # Errors
///
/// 422 with a cause per field error.
pub(crate) fn check(
    cx: &ObjectWriteContext,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let mut errors: Vec<FieldError> = validation::object_meta(new, &cx.served.kind);
    if let Some(old) = old {
        errors.extend(validation::object_meta_update(new, old));
    }
    match &cx.served.custom {
        Some(custom) => errors.extend(custom.schema.validate(new, old)),
        None => errors.extend(kinds::validate(&cx.served, new, old)),
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(cx.served.kind_subject(name(new)), errors))
    }
}

/// Records the owners of the changed fields in `metadata.managedFields`.
pub(crate) fn track(
    cx: &ObjectWriteContext,
    old: Option<&Value>,
    new: &mut Value,
    part: MainOrStatusPart,
) {
    let options = ManagedFieldsUpdateOptions {
        manager: &cx.manager,
        subresource: part.subresource(),
        now: &seconds(cx.now),
        api_version: &cx.served.kind.api_version(),
    };
    track_update(old, new, &options, cx.served.merge_schema());
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn put_or_remove(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(name.to_owned(), value);
        }
        None => {
            map.remove(name);
        }
    }
}
