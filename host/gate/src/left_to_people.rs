//! The parts of an object by which people, or the host, give instructions. No plugin writes them, whatever it is
//! granted.

use serde_json::Value;
use tholepin_core::{ANNOTATION_PREFIX, CallError, ObjectRef};

use crate::{field, reconcile_context::ReconcileContext, reconcile_scope::ReconcileScope};

/// Checks that a write touches neither the object's safety policy nor the annotations by which a person or the
/// host gives instructions, on the object or in a template from which a controller makes other objects.
pub(crate) fn check(
    context: &ReconcileContext,
    object: &ObjectRef,
    written: &Value,
) -> Result<(), CallError> {
    no_policy(&context.scope, object, written)?;
    if written.pointer("/metadata/annotations").is_some_and(|annotations| !annotations.is_object())
    {
        let text = format!("a write to {object} must name its annotations, not replace them all");
        return Err(CallError::Denied(text));
    }
    match reserved_annotation(written) {
        None => Ok(()),
        Some(key) => Err(CallError::Denied(format!(
            "the annotation `{key}` of {object}, or of a template in it, may be written by a person or the host \
             only, not by a plugin"
        ))),
    }
}

/// Returns the first reserved annotation below `value`, at any depth. The depth is bounded by the parser of the
/// document.
fn reserved_annotation(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) => {
            let annotations = value.pointer("/metadata/annotations").and_then(Value::as_object);
            let keys = annotations.into_iter().flat_map(|annotations| annotations.keys());
            let own = keys.map(String::as_str).find(|key| key.starts_with(ANNOTATION_PREFIX));
            own.or_else(|| fields.values().find_map(reserved_annotation))
        }
        Value::Array(items) => items.iter().find_map(reserved_annotation),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Checks that a write of the plugin leaves the safety policy of an object of the reconciled kind as its
/// owner wrote it.
fn no_policy(scope: &ReconcileScope, object: &ObjectRef, written: &Value) -> Result<(), CallError> {
    let (ours, theirs) = (&scope.key.kind, &object.kind);
    let is_reconciled = (ours.group(), &ours.kind) == (theirs.group(), &theirs.kind);
    let mut paths = scope.grants.safety.named().filter(|_| is_reconciled);
    let Some((field, path)) = paths.find(|(_, path)| field::is_written(written, path)) else {
        return Ok(());
    };
    Err(CallError::Denied(format!(
        "`{path}` of {object} is its safety policy (spec.grants.safety.{field} of the Plugin), which a person \
         may write, not the plugin; leave the field out"
    )))
}
