//! Removal of fields that a built-in kind's schema does not declare, and of members that are `null`.
//!
//! References between schemas are followed. A schema without properties accepts every value, and the fields below it
//! are not checked.

use serde_json::Value;

use crate::field_error::child;
use crate::openapi::builtin;

/// Removes from `value` the fields that `schema` does not declare, and adds their paths to `dropped`.
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

/// Follows references and picks the alternative that fits the value; returns `None` if no schema describes it.
pub(super) fn resolve<'a>(mut schema: &'a Value, value: &Value) -> Option<&'a Value> {
    // The schemas have short chains of references; the limit is against a cycle.
    for _ in 0..8 {
        if let Some(name) = schema.get("$ref").and_then(builtin::reference) {
            schema = builtin::schemas().get(name)?;
        } else if let Some(inner) = schema.get("allOf").and_then(Value::as_array) {
            schema = inner.first()?;
        } else if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
            let expected = match value {
                Value::Array(_) => "array",
                Value::Bool(_) => "boolean",
                Value::Null | Value::Number(_) | Value::String(_) | Value::Object(_) => "object",
            };
            let fits = |alternative: &&Value| {
                let type_name = alternative.get("type").and_then(Value::as_str);
                type_name.map_or(expected == "object", |type_name| type_name == expected)
            };
            schema = alternatives.iter().find(fits)?;
        } else {
            return Some(schema);
        }
    }
    None
}

/// Returns the name of the schema that a schema refers to, if it is only a reference.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let inner = schema.get("allOf").and_then(Value::as_array).and_then(|inner| inner.first());
    inner.unwrap_or(schema).get("$ref").and_then(builtin::reference)
}

/// Returns true for the schemas of arbitrary JSON, in which `null` is a value.
pub(super) fn accepts_anything(schema: &Value) -> bool {
    reference(schema).is_some_and(|name| name.ends_with(".JSON") || name.ends_with(".RawExtension"))
}
