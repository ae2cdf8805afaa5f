//! Converts the JSON Schema that `schemars` generates into a structural schema.

use alloc::{string::String, vec, vec::Vec};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// Returns the structural schema of a type, without `$ref`.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    restructure(&mut schema);
    schema
}

/// Adds CEL rules to a schema node.
pub(super) fn add_rules(schema: &mut Value, rules: &Value) {
    let (Value::Object(node), Value::Array(rules)) = (schema, rules) else { return };
    let existing = node.entry("x-kubernetes-validations").or_insert_with(|| Value::Array(vec![]));
    if let Value::Array(existing) = existing {
        existing.extend(rules.iter().cloned());
    }
}

fn restructure(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    merge_constants(node);
    drop_null(node);
    node.remove("title");
    // Kubernetes knows only `int32` and `int64` and warns about other formats; the ranges say the same.
    if node.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        node.remove("format");
    }
    if let Some(Value::String(text)) = node.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for (name, value) in node.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(restructure);
            }
            ("items" | "additionalProperties", value) => restructure(value),
            _ => {}
        }
    }
}

/// Turns a `oneOf` of constants, which `schemars` generates for documented enums, into an `enum`. The
/// meanings of the values go into the description.
fn merge_constants(node: &mut Map<String, Value>) {
    let Some(Value::Array(branches)) = node.get("oneOf") else { return };
    let values: Option<Vec<Value>> =
        branches.iter().map(|branch| branch.get("const").cloned()).collect();
    let Some(values) = values else { return };
    let meanings = branches.iter().filter_map(|branch| {
        let value = branch.get("const")?.as_str()?;
        let meaning = branch.get("description")?.as_str()?;
        Some(alloc::format!("`{value}`: {meaning}"))
    });
    let own = node.get("description").and_then(Value::as_str).map(String::from);
    let text: Vec<String> = own.into_iter().chain(meanings).collect();
    node.insert("description".into(), text.join(" ").into());
    node.insert("enum".into(), values.into());
    node.insert("type".into(), "string".into());
    node.remove("oneOf");
}

/// Removes null: an optional field may be absent, but not null.
fn drop_null(node: &mut Map<String, Value>) {
    if let Some(Value::Array(branches)) = node.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").and_then(Value::as_str) != Some("null"));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            node.remove("anyOf");
            for (name, value) in only {
                // Keeps the field's own description, which is more specific than that of its type.
                node.entry(name).or_insert(value);
            }
            merge_constants(node);
        }
    }
    if let Some(Value::Array(types)) = node.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            node.insert("type".into(), only);
        }
    }
    if node.get("default").is_some_and(Value::is_null) {
        node.remove("default");
    }
}
