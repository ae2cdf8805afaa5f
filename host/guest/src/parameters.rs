//! Validates a plugin's parameters against the JSON Schema in its manifest. Pure.
//!
//! A schema with a keyword outside [`KEYWORDS`] is refused, because ignoring the keyword would accept
//! parameters that the schema forbids.

use serde_json::{Map, Value};

/// The keywords that are checked, and those that are only annotations.
const KEYWORDS: &[&str] = &[
    "$schema",
    "additionalProperties",
    "default",
    "description",
    "enum",
    "examples",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
];

/// The deepest nesting of a schema.
const DEPTH_MAX: u32 = 32;

/// Returns the errors in the schema itself; empty if all of it can be checked.
pub(crate) fn check_schema(schema: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    schema_at("parameters", schema, 0, &mut errors);
    errors
}

fn schema_at(path: &str, schema: &Value, depth: u32, errors: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        errors.push(format!("the schema of `{path}` is not an object"));
        return;
    };
    if DEPTH_MAX < depth {
        errors.push(format!("the schema of `{path}` is nested deeper than {DEPTH_MAX}"));
        return;
    }
    let unknown = keywords.keys().filter(|keyword| !KEYWORDS.contains(&keyword.as_str()));
    errors.extend(unknown.map(|keyword| {
        format!("the schema of `{path}` uses `{keyword}`, which this host does not check")
    }));
    for (name, property) in object(keywords, "properties") {
        schema_at(&format!("{path}.{name}"), property, depth + 1, errors);
    }
    if let Some(items) = keywords.get("items") {
        schema_at(&format!("{path}[]"), items, depth + 1, errors);
    }
    if let Some(additional @ Value::Object(_)) = keywords.get("additionalProperties") {
        schema_at(&format!("{path}.*"), additional, depth + 1, errors);
    }
}

/// Returns where the parameters violate the schema; empty if they are valid.
pub(crate) fn check(schema: &Value, parameters: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    value_at("parameters", schema, parameters, &mut errors);
    errors
}

fn value_at(path: &str, schema: &Value, value: &Value, errors: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else { return };
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of_type(value, name)) {
        errors.push(format!("`{path}` must be {}, is {}", types.join(" or "), type_of(value)));
        return;
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        errors.push(format!("`{path}` must be one of {}", allowed.join(", ")));
    }
    check_bounds(path, schema, value, errors);
    match value {
        Value::Object(fields) => fields_at(path, schema, fields, errors),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    value_at(&format!("{path}[{index}]"), schema, item, errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fields_at(
    path: &str,
    schema: &Map<String, Value>,
    fields: &Map<String, Value>,
    errors: &mut Vec<String>,
) {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing = required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name));
    errors.extend(missing.map(|name| format!("`{path}.{name}` is missing")));
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        match (property, schema.get("additionalProperties")) {
            (Some(property), _) => value_at(&path, property, value, errors),
            (None, Some(Value::Bool(false))) => {
                let known: Vec<&str> = object(schema, "properties").map(|(name, _)| name).collect();
                errors.push(format!("`{path}` is unknown; known: {}", known.join(", ")));
            }
            (None, Some(additional)) => value_at(&path, additional, value, errors),
            (None, None) => {}
        }
    }
}

/// Returns the entries of a keyword whose value is an object.
fn object<'a>(
    schema: &'a Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let entries = schema.get(keyword).and_then(Value::as_object).into_iter().flatten();
    entries.map(|(name, value)| (name.as_str(), value))
}

fn check_bounds(path: &str, schema: &Map<String, Value>, value: &Value, errors: &mut Vec<String>) {
    let (size, minimum, maximum, what) = match value {
        Value::Number(number) => (number.as_f64(), "minimum", "maximum", ""),
        Value::String(text) => {
            (length(text.chars().count()), "minLength", "maxLength", " characters long")
        }
        Value::Array(items) => (length(items.len()), "minItems", "maxItems", " items long"),
        Value::Null | Value::Bool(_) | Value::Object(_) => return,
    };
    let Some(size) = size else { return };
    if let Some(minimum) = schema.get(minimum).and_then(Value::as_f64)
        && size < minimum
    {
        errors.push(format!("`{path}` must be at least {minimum}{what}, is {size}"));
    }
    if let Some(maximum) = schema.get(maximum).and_then(Value::as_f64)
        && maximum < size
    {
        errors.push(format!("`{path}` must be at most {maximum}{what}, is {size}"));
    }
}

fn length(count: usize) -> Option<f64> {
    u32::try_from(count).ok().map(f64::from)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    let is_whole = |number: f64| number.fract() == 0.0;
    match name {
        "integer" => value.as_f64().is_some_and(is_whole),
        "number" => value.is_number(),
        _ => type_of(value) == name,
    }
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_must_match_the_schema() {
        let schema = json!({
            "type": "object",
            "required": ["mode"],
            "additionalProperties": false,
            "properties": {
                "mode": {"enum": ["fast", "safe"]},
                "lag": {"type": "integer", "minimum": 0, "maximum": 10},
                "names": {"type": "array", "maxItems": 2, "items": {"type": "string", "minLength": 1}}
            }
        });
        assert_eq!(check_schema(&schema), Vec::<String>::new());
        let rows = [
            (json!({"mode": "fast", "lag": 10, "names": ["a"]}), None),
            (json!({}), Some("`parameters.mode` is missing")),
            (json!({"mode": "wild"}), Some("one of \"fast\", \"safe\"")),
            (json!({"mode": "fast", "lag": 11}), Some("at most 10, is 11")),
            (json!({"mode": "fast", "lag": 0.5}), Some("must be integer, is number")),
            (
                json!({"mode": "fast", "names": ["a", ""]}),
                Some("`parameters.names[1]` must be at least 1"),
            ),
            (json!({"mode": "fast", "names": ["a", "b", "c"]}), Some("at most 2 items")),
            (
                json!({"mode": "fast", "lga": 1}),
                Some("`parameters.lga` is unknown; known: lag, mode, names"),
            ),
            (json!([]), Some("must be object, is array")),
        ];
        for (parameters, expected) in rows {
            let errors = check(&schema, &parameters).join("; ");
            match expected {
                None => assert_eq!(errors, "", "{parameters}"),
                Some(expected_text) => {
                    assert!(errors.contains(expected_text), "{parameters}: {errors}")
                }
            }
        }
    }

    #[test]
    fn a_schema_with_an_unknown_keyword_is_refused() {
        let schema = json!({"properties": {"name": {"pattern": "^a"}}});
        assert_eq!(
            check_schema(&schema),
            ["the schema of `parameters.name` uses `pattern`, which this host does not check"]
        );
    }
}
