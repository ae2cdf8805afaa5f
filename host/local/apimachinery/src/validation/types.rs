//! The check that values have the types of the built-in kinds' schemas, as decoding into a typed value would check.
//!
//! References between schemas are followed; a schema without a type accepts every value. `null` counts as absent.
//! Constraints beyond the type (ranges, enumerations) are not checked.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::unknown::{accepts_anything, reference, resolve};
use crate::field_error::{child, path_text};
use crate::schema::formats;
use crate::{FieldError, FieldErrorReason};

/// The most errors that are reported for one object.
const ERRORS_MAX: usize = 10;
/// The most characters of a wrong value in an error.
const SHOWN_CHARS_MAX: usize = 40;
/// The schema of a quantity: a string that may also be written as a number. Source: `UnmarshalJSON` in
/// k8s.io/apimachinery `pkg/api/resource/quantity.go`.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// The syntax of a quantity, including signs. Source: `ParseQuantity` in the same file.
static QUANTITY_FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let form = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$";
    Regex::new(form).ok()
});

/// Whether errors may contain the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorValueVisibility {
    Shown,
    Hidden,
}

/// Adds an error for each value of a wrong type.
pub(super) fn check(
    schema: &Value,
    value: &Value,
    path: &str,
    values: ErrorValueVisibility,
    errors: &mut Vec<FieldError>,
) {
    let is_quantity = reference(schema) == Some(QUANTITY) && value.is_number();
    if value.is_null() || accepts_anything(schema) || is_quantity || ERRORS_MAX <= errors.len() {
        return;
    }
    if let (Some(QUANTITY), Value::String(text)) = (reference(schema), value)
        && QUANTITY_FORM.as_ref().is_some_and(|form| !form.is_match(text))
    {
        let message = format!(
            "{} is not a quantity: write a number with or without a unit, such as `500m` or `2Gi`",
            value_text(value, values)
        );
        errors.push(FieldError::build(path, FieldErrorReason::TypeInvalid, message));
        return;
    }
    let Some(schema) = resolve(schema, value) else { return };
    if let Some(message) = type_error(schema, value, values) {
        errors.push(FieldError::build(path_text(path), FieldErrorReason::TypeInvalid, message));
        return;
    }
    match value {
        Value::Object(members) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties").filter(|a| a.is_object());
            for (name, member) in members {
                let property = properties.and_then(|properties| properties.get(name));
                if let Some(schema) = property {
                    check(schema, member, &child(path, name), values, errors);
                } else if let Some(schema) = additional {
                    check(schema, member, &format!("{path}[{name}]"), values, errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                check(schema, item, &format!("{path}[{index}]"), values, errors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns what is wrong with the type or format of a single value, and how to fix it.
fn type_error(schema: &Value, value: &Value, values: ErrorValueVisibility) -> Option<String> {
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    let format = text("format");
    let (is_correct, expected) = match text("type") {
        "string" => (value.is_string(), "a string"),
        "boolean" => (value.is_boolean(), "true or false"),
        "number" => (value.is_number(), "a number"),
        "integer" => (is_integer(value), "an integer"),
        "array" => (value.is_array(), "a list"),
        "object" => (value.is_object(), "a map"),
        _ if schema.get("x-kubernetes-int-or-string").is_some() => {
            (value.is_string() || is_integer(value), "an integer or a string")
        }
        _ => (true, ""),
    };
    // Computed only for a wrong value: the text of an object would be built again for each of its values.
    let value_text = || value_text(value, values);
    if !is_correct {
        let found = type_of(value);
        let hint = match (expected, value) {
            ("a string", Value::Number(_) | Value::Bool(_)) => ": put it in quotes",
            ("true or false" | "a number" | "an integer", Value::String(_)) => {
                ": write it without quotes"
            }
            _ => "",
        };
        return Some(format!("{} is {found}, where {expected} is expected{hint}", value_text()));
    }
    let is_int32 = format == "int32" || schema.get("x-kubernetes-int-or-string").is_some();
    if is_int32 && value.as_i64().is_some_and(|number| i32::try_from(number).is_err()) {
        return Some(format!(
            "{} does not fit into 32 bits: {} is the highest",
            value_text(),
            i32::MAX
        ));
    }
    let text = value.as_str()?;
    match format {
        "byte" if !formats::matches(format, text) => Some(format!(
            "{} is not base64: encode it, or use a field for plain text",
            value_text()
        )),
        "date-time" if !formats::matches(format, text) => {
            Some(format!("{} is not an RFC 3339 time: write `2026-01-02T03:04:05Z`", value_text()))
        }
        _ => None,
    }
}

fn is_integer(value: &Value) -> bool {
    value.as_i64().is_some()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Returns the beginning of a value as JSON.
fn value_text(value: &Value, values: ErrorValueVisibility) -> String {
    if values == ErrorValueVisibility::Hidden {
        return "the value".to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
