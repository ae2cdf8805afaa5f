//! Secrets and ConfigMaps: `stringData`, types, keys and immutability.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

use crate::object::{as_map_mut, child_mut, default};

/// Moves `stringData` to `data`, encoded as base64, and sets the default type.
pub(super) fn defaults(object: &mut Value) {
    default(as_map_mut(object), "type", json!("Opaque"));
    let given = as_map_mut(object).remove("stringData");
    if let Some(Value::Object(texts)) = given {
        let data = child_mut(object, "data");
        for (key, value) in texts {
            let text = value.as_str().unwrap_or("");
            data.insert(key, json!(STANDARD.encode(text)));
        }
    }
}

/// Validates the keys of a Secret, and checks that an update does not change its type or immutable data.
pub(super) fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = check_keys(new, "data");
    if let Some(old) = old {
        if old.get("type") != new.get("type") {
            let value = new.get("type").unwrap_or(&Value::Null);
            errors.push(FieldError::invalid("type", value, "field is immutable"));
        }
        errors.extend(check_immutable(new, old, &["data"]));
    }
    errors
}

/// Validates the keys of a ConfigMap, and checks that an update does not change immutable data.
pub(super) fn validate_config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = check_keys(new, "data");
    errors.extend(check_keys(new, "binaryData"));
    if let Some(old) = old {
        errors.extend(check_immutable(new, old, &["data", "binaryData"]));
    }
    errors
}

fn check_keys(object: &Value, field: &str) -> Vec<FieldError> {
    let map = object.get(field).and_then(Value::as_object);
    let is_valid = |key: &str| {
        !key.is_empty()
            && key.len() <= 253
            && !matches!(key, "." | "..")
            && !key.starts_with("..")
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let bad = map.into_iter().flatten().filter(|(key, _)| !is_valid(key));
    bad.map(|(key, _)| {
        let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        FieldError::invalid(format!("{field}[{key}]"), &json!(key), detail)
    })
    .collect()
}

fn check_immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let is_immutable = |object: &Value| object.get("immutable") == Some(&Value::Bool(true));
    if !is_immutable(old) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let forbidden =
        |field: &str| FieldError::forbidden(field, "field is immutable when `immutable` is set");
    if !is_immutable(new) {
        errors.push(forbidden("immutable"));
    }
    let changed = fields.iter().filter(|field| old.get(**field) != new.get(**field));
    errors.extend(changed.map(|field| forbidden(field)));
    errors
}
