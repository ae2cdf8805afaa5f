//! Drops fields that a built-in kind's schema does not know, and members that are `null`.
//!
//! It follows references between schemas; a schema that describes nothing accepts everything, and
//! nothing below it is looked at.

use serde_json::Value;

use crate::field_error::child;
use crate::openapi::builtin;

/// Drops from `value` what `schema` does not know; `dropped` gets the paths.
pub(super) fn prune(schema: &Value, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
    let Some(schema) = resolve(schema, value) else { return };
    match value {
        Value::Object(members) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties").filter(|a| a.is_object());
            if properties.is_none() && additional.is_none() {
                return;
            }
            members.retain(|name, member| {
                let path = child(path, name);
                let property = properties.and_then(|properties| properties.get(name));
                let Some(schema) = property.or(additional) else {
                    dropped.push(path);
                    return false;
                };
                prune(schema, member, &path, dropped);
                !member.is_null() || accepts_anything(schema)
            });
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune(schema, item, &format!("{path}[{index}]"), dropped);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Follows references and picks the alternative that fits the value; nothing if none describes it.
pub(super) fn resolve<'a>(mut schema: &'a Value, value: &Value) -> Option<&'a Value> {
    // References of references are at most a few; the bound is against a circle.
    for _ in 0..8 {
        if let Some(name) = schema.get("$ref").and_then(builtin::reference) {
            schema = builtin::schemas().get(name)?;
        } else if let Some(inner) = schema.get("allOf").and_then(Value::as_array) {
            schema = inner.first()?;
        } else if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
            let wanted = match value {
                Value::Array(_) => "array",
                Value::Bool(_) => "boolean",
                Value::Null | Value::Number(_) | Value::String(_) | Value::Object(_) => "object",
            };
            let fits = |alternative: &&Value| {
                let type_name = alternative.get("type").and_then(Value::as_str);
                type_name.map_or(wanted == "object", |type_name| type_name == wanted)
            };
            schema = alternatives.iter().find(fits)?;
        } else {
            return Some(schema);
        }
    }
    None
}

/// The name of the schema that a schema is nothing but a reference to.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let inner = schema.get("allOf").and_then(Value::as_array).and_then(|inner| inner.first());
    inner.unwrap_or(schema).get("$ref").and_then(builtin::reference)
}

/// Whether a schema is the one of arbitrary JSON, in which `null` means something.
pub(super) fn accepts_anything(schema: &Value) -> bool {
    reference(schema).is_some_and(|name| name.ends_with(".JSON") || name.ends_with(".RawExtension"))
}
