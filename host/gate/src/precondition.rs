//! Adds the identity of the object that was checked to a write, so that the API server refuses the write if the
//! object was replaced or changed since.
//!
//! A plan adds none: it works on objects that exist in the plan only, and it stores nothing.

use serde_json::{Map, Value, json};
use tholepin_core::{CallError, ObjectRef, WriteMode, port::DeleteRequest};

use crate::{ownership::text, reconcile_context::ReconcileContext};

const UID: &str = "uid";
const RESOURCE_VERSION: &str = "resourceVersion";

/// Returns the uid and the resource version of an object; empty if it does not exist.
pub(crate) fn version(object: Option<&Value>) -> (&str, &str) {
    object.map_or(("", ""), |object| {
        (text(object, "/metadata/uid"), text(object, "/metadata/resourceVersion"))
    })
}

/// Adds the uid and the resource version of the object that was found to an intent or a patch.
///
/// # Errors
///
/// Fails if the plugin itself named another uid or resource version.
pub(crate) fn add(
    context: &ReconcileContext,
    object: &ObjectRef,
    written: &mut Value,
    found: &Value,
) -> Result<(), CallError> {
    let (uid, resource_version) = version(Some(found));
    for (field, value) in [(UID, uid), (RESOURCE_VERSION, resource_version)] {
        let named = text(written, &format!("/metadata/{field}")).to_owned();
        check(object, field, Some(&named).filter(|named| !named.is_empty()), value)?;
        insert(context, written, field, value);
    }
    Ok(())
}

/// Adds the uid of the reconciled object to a status of it, which must not reach a later object of the same name.
pub(crate) fn add_own_uid(context: &ReconcileContext, status: &mut Value) {
    insert(context, status, UID, context.scope.uid());
}

/// Adds the uid and the resource version of the object that was found to a deletion. A plan adds only the uid.
///
/// # Errors
///
/// Fails if the plugin itself named another uid or resource version.
pub(crate) fn add_to_delete(
    context: &ReconcileContext,
    request: &mut DeleteRequest,
    found: &Value,
) -> Result<(), CallError> {
    let (uid, resource_version) = version(Some(found));
    check(&request.object, UID, request.uid.as_ref(), uid)?;
    check(&request.object, RESOURCE_VERSION, request.resource_version.as_ref(), resource_version)?;
    request.uid = Some(uid.to_owned());
    if context.scope.mode == WriteMode::Live && !resource_version.is_empty() {
        request.resource_version = Some(resource_version.to_owned());
    }
    Ok(())
}

/// Returns the parts of an object that an apply of its status reads.
pub(crate) fn status_alone(reference: &ObjectRef, object: &Value) -> Value {
    let mut metadata = json!({"name": reference.name});
    if !reference.namespace.is_empty() {
        insert_text(&mut metadata, "namespace", &reference.namespace);
    }
    json!({
        "apiVersion": reference.kind.api_version,
        "kind": reference.kind.kind,
        "metadata": metadata,
        "status": object.get("status").cloned().unwrap_or_else(|| json!({})),
    })
}

fn check(
    object: &ObjectRef,
    field: &str,
    named: Option<&String>,
    found: &str,
) -> Result<(), CallError> {
    match named {
        Some(named) if named != found => {
            Err(CallError::Conflict(format!("{object} has the {field} {found}, not {named}")))
        }
        Some(_) | None => Ok(()),
    }
}

fn insert(context: &ReconcileContext, written: &mut Value, field: &str, value: &str) {
    if context.scope.mode == WriteMode::Plan || value.is_empty() {
        return;
    }
    let Some(fields) = written.as_object_mut() else { return };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    insert_text(metadata, field, value);
}

fn insert_text(object: &mut Value, field: &str, value: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), Value::String(value.to_owned()));
    }
}
