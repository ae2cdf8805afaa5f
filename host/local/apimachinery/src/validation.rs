//! Validation that applies to all kinds: `metadata`, unknown fields of built-in kinds, and types of values.
//!
//! Rules of a single kind (a Service's ports, a CRD's names) are in `tholepin-apiserver`. Source of rules and wording:
//! k8s.io/apimachinery `pkg/api/validation/objectmeta.go`, `pkg/util/validation/validation.go`.

use serde_json::{Map, Value, json};

use crate::field_error::child;
use crate::openapi::builtin;
use crate::{FieldError, Kind};

mod names;
mod types;
mod unknown;

pub use names::{
    is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_label_value, is_qualified_name,
};

/// The most bytes of the keys and values of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Validates `metadata` of an object before it is stored, after `generateName` was resolved.
pub fn object_meta(object: &Value, kind: &Kind) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let empty = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();

    let generate_name = text("generateName");
    if !generate_name.is_empty() {
        // Five characters follow the prefix, so a prefix may end with `-`, unlike a name.
        let stem = generate_name.strip_suffix('-').unwrap_or(generate_name);
        let field = "metadata.generateName";
        errors.extend(
            check_name(kind, &format!("{stem}a"))
                .map(|why| FieldError::invalid(field, &json!(generate_name), why)),
        );
    }
    match text("name") {
        "" => {
            errors.push(FieldError::required("metadata.name", "name or generateName is required"))
        }
        name => errors.extend(
            check_name(kind, name)
                .map(|why| FieldError::invalid("metadata.name", &json!(name), why)),
        ),
    }
    errors.extend(check_namespace(kind, text("namespace")));
    check_labels("metadata.labels", metadata.get("labels"), &mut errors);
    check_annotations(metadata.get("annotations"), &mut errors);
    check_owners(metadata.get("ownerReferences"), &mut errors);
    let finalizers = metadata.get("finalizers").and_then(Value::as_array);
    for (index, finalizer) in finalizers.into_iter().flatten().enumerate() {
        let why = finalizer.as_str().map_or(Some(NOT_TEXT), |name| is_qualified_name(name).err());
        let field = format!("metadata.finalizers[{index}]");
        errors.extend(why.map(|why| FieldError::invalid(field, finalizer, why)));
    }
    errors
}

/// The error detail for a value that must be a string.
const NOT_TEXT: &str = "must be a string";

/// Checks that an update changes no immutable field of `metadata`.
pub fn object_meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    const IMMUTABLE: [&str; 6] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let member = |object: &Value, name: &str| {
        let found = object.get("metadata").and_then(|metadata| metadata.get(name)).cloned();
        found.unwrap_or(Value::Null)
    };
    let mut errors: Vec<FieldError> = IMMUTABLE
        .iter()
        .filter(|name| member(new, name) != member(old, name))
        .map(|name| {
            let field = child("metadata", name);
            FieldError::invalid(field, &member(new, name), "field is immutable")
        })
        .collect();
    if member(old, "deletionTimestamp").is_string() {
        let before = member(old, "finalizers");
        let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
        let after = member(new, "finalizers");
        let after = after.as_array().into_iter().flatten();
        let added: Vec<String> =
            after.filter(|name| !before.contains(name)).map(Value::to_string).collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    errors
}

/// Validates a map of labels, in `metadata` or in a Pod template.
pub fn check_labels(field: &str, labels: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(labels) = map_of(field, labels, errors) else { return };
    for (key, value) in labels {
        errors.extend(
            is_qualified_name(key).err().map(|why| FieldError::invalid(field, &json!(key), why)),
        );
        let why = value.as_str().map_or(Some(NOT_TEXT), |value| is_label_value(value).err());
        errors.extend(why.map(|why| FieldError::invalid(field, value, why)));
    }
}

fn check_annotations(annotations: Option<&Value>, errors: &mut Vec<FieldError>) {
    let field = "metadata.annotations";
    let Some(annotations) = map_of(field, annotations, errors) else { return };
    let mut bytes = 0;
    for (key, value) in annotations {
        bytes += key.len();
        match value.as_str() {
            Some(value) => bytes += value.len(),
            None => errors.push(FieldError::invalid(field, value, NOT_TEXT)),
        }
        // Annotation keys may have upper case, also in the prefix before the slash.
        errors.extend(
            is_qualified_name(&key.to_lowercase())
                .err()
                .map(|why| FieldError::invalid(field, &json!(key), why)),
        );
    }
    if ANNOTATIONS_BYTES_MAX < bytes {
        errors.push(FieldError::too_long(field, ANNOTATIONS_BYTES_MAX as u64));
    }
}

fn map_of<'a>(
    field: &str,
    map: Option<&'a Value>,
    errors: &mut Vec<FieldError>,
) -> Option<&'a Map<String, Value>> {
    let map = map.filter(|map| !map.is_null())?;
    if !map.is_object() {
        errors.push(FieldError::invalid(field, map, "must be a map of strings"));
    }
    map.as_object()
}

fn check_owners(owners: Option<&Value>, errors: &mut Vec<FieldError>) {
    let owners = owners.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut controllers = 0;
    for (index, owner) in owners.iter().enumerate() {
        for name in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                let field = format!("metadata.ownerReferences[{index}].{name}");
                errors.push(FieldError::required(field, "must not be empty"));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if 1 < controllers {
        let why = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &json!(controllers), why));
    }
}

fn check_namespace(kind: &Kind, namespace: &str) -> Option<FieldError> {
    let field = "metadata.namespace";
    match (kind.namespaced, namespace) {
        (false, "") => None,
        (false, _) => Some(FieldError::forbidden(field, "not allowed on this type")),
        (true, "") => Some(FieldError::required(field, "")),
        (true, namespace) => is_dns1123_label(namespace)
            .err()
            .map(|why| FieldError::invalid(field, &json!(namespace), why)),
    }
}

/// Returns the error detail for a name that objects of this kind may not have.
fn check_name(kind: &Kind, name: &str) -> Option<&'static str> {
    let check = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => is_dns1123_label,
        ("", "Service") => is_dns1035_label,
        _ => is_dns1123_subdomain,
    };
    check(name).err()
}

/// Returns the paths of fields that a built-in kind does not have (`spec.containers[0].imag`), sorted.
///
/// Used for `fieldValidation`. The result is empty for custom kinds: [`StructuralSchema::prune`] returns theirs.
///
/// [`StructuralSchema::prune`]: crate::StructuralSchema::prune
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    prune_builtin(kind, &mut object.clone())
}

/// Removes the fields that a built-in kind does not have, and members that are `null`, as decoding into a typed value
/// would. Returns the paths of the unknown fields, sorted. Objects of custom kinds are not changed.
pub fn prune_builtin(kind: &Kind, object: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    if let Some(schema) = builtin::schema(kind) {
        unknown::prune(schema, object, "", &mut dropped);
        dropped.sort();
    }
    dropped
}

/// Checks the types of values against the kind's schema: all values of a built-in kind, and `metadata` of a custom
/// kind, whose own schema validates the rest. The server answers 400 if there are errors.
///
/// The errors do not contain the values of a Secret.
pub fn wrong_types(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let is_secret = (kind.group.as_str(), kind.kind.as_str()) == ("", "Secret");
    let values = if is_secret {
        types::ErrorValueVisibility::Hidden
    } else {
        types::ErrorValueVisibility::Shown
    };
    match builtin::schema(kind) {
        Some(schema) => types::check(schema, object, "", values, &mut errors),
        None => {
            let schema = builtin::schemas().get(builtin::OBJECT_META);
            if let (Some(schema), Some(metadata)) = (schema, object.get("metadata")) {
                types::check(schema, metadata, "metadata", values, &mut errors);
            }
        }
    }
    errors
}

/// The type of a request body that is not an object of a served kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonObjectRequestBody {
    /// The body of a POST to a Pod's `binding`.
    Binding,
    /// The body of a DELETE.
    DeleteOptions,
    /// The body of a POST to a Pod's `eviction`.
    Eviction,
}

/// Checks the types of values in such a body as [`wrong_types`] does. Without the check, a member of a wrong type
/// would be read as absent, and it may be the precondition of a deletion.
pub fn wrong_types_of_body(body: NonObjectRequestBody, value: &Value) -> Vec<FieldError> {
    let name = match body {
        NonObjectRequestBody::Binding => "io.k8s.api.core.v1.Binding",
        NonObjectRequestBody::DeleteOptions => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        NonObjectRequestBody::Eviction => "io.k8s.api.policy.v1.Eviction",
    };
    let mut errors = Vec::new();
    if let Some(schema) = builtin::schemas().get(name) {
        types::check(schema, value, "", types::ErrorValueVisibility::Shown, &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests;
