//! Validation of values against a schema: types, ranges, patterns, uniqueness. CEL rules are in `rules`.
//!
//! The wording follows go-openapi/validate, as apiextensions-apiserver converts its results to field errors.

use serde_json::{Map, Value, json};

use super::{
    ListType, SchemaNode, SchemaNumericBound, SchemaType, ValueConstraints, formats, type_name,
};
use crate::field_error::{child, path_text};
use crate::{FieldError, FieldErrorReason};

/// Validates `new`; a value that equals the one in `old` is not checked.
pub(super) fn validate(
    root: &SchemaNode,
    new: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    walk(root, new, old, "", errors);
}

/// Returns true if a value satisfies a node: a branch of `anyOf`, `oneOf` or `not`.
pub(super) fn is_valid(node: &SchemaNode, value: &Value) -> bool {
    let mut errors = Vec::new();
    walk(node, value, None, "", &mut errors);
    errors.is_empty()
}

fn walk(
    node: &SchemaNode,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    if !check_type(node, value, path, errors) {
        return;
    }
    check_value(&node.checks, value, path, errors);
    match value {
        Value::Object(members) => walk_members(node, members, old, path, errors),
        Value::Array(items) => walk_items(node, items, old, path, errors),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    check_branches(&node.checks, value, path, errors);
}

fn check_type(node: &SchemaNode, value: &Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let (accepted, expected) = match node.kind {
        Some(kind) => (kind.accepts(value), kind.name()),
        None if node.int_or_string => {
            (value.is_string() || SchemaType::Integer.accepts(value), "integer,string")
        }
        None => (true, ""),
    };
    if !accepted {
        let found = type_name(value);
        let detail = format!("{} in body must be of type {expected}: \"{found}\"", path_text(path));
        errors.push(FieldError::type_invalid(path_text(path), found, detail));
    }
    accepted
}

fn walk_members(
    node: &SchemaNode,
    members: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for (name, member) in members {
        // `crate::validation` checks `metadata`; a schema may only narrow the names in it.
        if let Some(schema) = node.member(name) {
            let old = old.and_then(|old| old.get(name));
            walk(schema, member, old, &child(path, name), errors);
        }
    }
    if node.embedded_resource {
        for name in ["apiVersion", "kind"] {
            if members.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(FieldError::required(child(path, name), "must not be empty"));
            }
        }
    }
}

fn walk_items(
    node: &SchemaNode,
    items: &[Value],
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    check_unique(node, items, path, errors);
    let Some(schema) = node.items.as_deref() else { return };
    for (index, item) in items.iter().enumerate() {
        let old = old.and_then(|old| node.matching_item(old, item));
        walk(schema, item, old, &format!("{path}[{index}]"), errors);
    }
}

impl SchemaNode {
    /// Returns the item of the old list with the identity of `item`: equal keys in a list of type map, an equal value
    /// in a set. Items of atomic lists have no identity, so the result is `None` for them.
    pub(super) fn matching_item<'a>(&self, old: &'a Value, item: &Value) -> Option<&'a Value> {
        let old = old.as_array()?;
        match self.list_type {
            ListType::Map => {
                let identity = self.identity(item);
                old.iter().find(|candidate| self.identity(candidate) == identity)
            }
            ListType::Set => old.iter().find(|candidate| *candidate == item),
            ListType::Atomic => None,
        }
    }

    /// Returns the identity of an item in a list of type map: its keys with their values.
    fn identity(&self, item: &Value) -> Value {
        let keys = self.keys().map(|key| {
            let value = item.get(&key.name).cloned().or(key.default);
            (key.name, value.unwrap_or(Value::Null))
        });
        Value::Object(keys.filter(|(_, value)| !value.is_null()).collect())
    }
}

fn check_unique(node: &SchemaNode, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let identities: Vec<Value> = match node.list_type {
        ListType::Atomic => return,
        ListType::Set => items.to_vec(),
        ListType::Map => items.iter().map(|item| node.identity(item)).collect(),
    };
    let mut seen = std::collections::BTreeSet::new();
    for (index, identity) in identities.iter().enumerate() {
        // Equal JSON has equal text, because members are sorted.
        if !seen.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), identity));
        }
    }
}

fn check_value(checks: &ValueConstraints, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !checks.enumeration.is_empty() && !checks.enumeration.contains(value) {
        errors.push(FieldError::not_supported(path_text(path), value, &checks.enumeration));
    }
    match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                check_number(checks, number, value, path, errors);
            }
        }
        Value::String(text) => check_string(checks, text, value, path, errors),
        Value::Array(items) => {
            let limits = (checks.items_min, checks.items_max);
            check_count(items.len(), limits, "items", path, errors);
        }
        Value::Object(members) => {
            for name in &checks.required {
                if !members.contains_key(name) {
                    errors.push(FieldError::required(child(path, name), ""));
                }
            }
            let limits = (checks.properties_min, checks.properties_max);
            check_count(members.len(), limits, "properties", path, errors);
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_number(
    checks: &ValueConstraints,
    number: f64,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let mut report = |detail: String| {
        let detail = format!("{} in body {detail}", path_text(path));
        errors.push(FieldError::invalid(path_text(path), value, detail));
    };
    if let Some(SchemaNumericBound { value: bound, exclusive }) = checks.minimum {
        if exclusive && number <= bound {
            report(format!("should be greater than {bound}"));
        } else if number < bound {
            report(format!("should be greater than or equal to {bound}"));
        }
    }
    if let Some(SchemaNumericBound { value: bound, exclusive }) = checks.maximum {
        if exclusive && bound <= number {
            report(format!("should be less than {bound}"));
        } else if bound < number {
            report(format!("should be less than or equal to {bound}"));
        }
    }
    if let Some(factor) = checks.multiple_of {
        let quotient = number / factor;
        if (quotient - quotient.round()).abs() > 1e-9 {
            report(format!("should be a multiple of {factor}"));
        }
    }
    let range = match checks.format.as_deref() {
        Some("int32") => f64::from(i32::MIN)..=f64::from(i32::MAX),
        _ => return,
    };
    if !range.contains(&number) {
        report(format!("must be of type int32: \"{number}\""));
    }
}

fn check_string(
    checks: &ValueConstraints,
    text: &str,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let mut report = |detail: String| {
        let detail = format!("{} in body {detail}", path_text(path));
        errors.push(FieldError::invalid(path_text(path), value, detail));
    };
    let length = text.chars().count() as u64;
    if let Some(min) = checks.length_min.filter(|min| length < *min) {
        report(format!("should be at least {min} chars long"));
    }
    if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        report(format!("should match '{}'", pattern.as_str()));
    }
    if let Some(format) = checks.format.as_deref().filter(|format| !formats::matches(format, text))
    {
        report(format!("must be of type {format}: \"{text}\""));
    }
    if let Some(max) = checks.length_max.filter(|max| *max < length) {
        errors.push(FieldError::too_long(path_text(path), max));
    }
}

fn check_count(
    count: usize,
    (min, max): (Option<u64>, Option<u64>),
    noun: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let length = count as u64;
    if let Some(min) = min.filter(|min| length < *min) {
        let detail = format!("{} in body should have at least {min} {noun}", path_text(path));
        errors.push(FieldError::invalid(path_text(path), &json!(count), detail));
    }
    if let Some(max) = max.filter(|max| *max < length) {
        errors.push(FieldError::too_many(path_text(path), count, max));
    }
}

fn check_branches(
    checks: &ValueConstraints,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let count =
        |branches: &[SchemaNode]| branches.iter().filter(|branch| is_valid(branch, value)).count();
    let mut report = |detail: &str| {
        let text =
            format!("Invalid value: \"{}\": \"{}\" {detail}", type_name(value), path_text(path));
        errors.push(FieldError::build(path_text(path), FieldErrorReason::Invalid, text));
    };
    if !checks.any_of.is_empty() && count(&checks.any_of) == 0 {
        report("must validate at least one schema (anyOf)");
    }
    match (checks.one_of.is_empty(), count(&checks.one_of)) {
        (true, _) | (false, 1) => {}
        (false, 0) => report("must validate one and only one schema (oneOf). Found none valid"),
        (false, valid) => report(&format!(
            "must validate one and only one schema (oneOf). Found {valid} valid alternatives"
        )),
    }
    if checks.not.as_deref().is_some_and(|branch| is_valid(branch, value)) {
        report("must not validate the schema (not)");
    }
    // `allOf` reports the errors of each branch, which are more precise than the fact that one branch failed.
    for branch in &checks.all_of {
        walk(branch, value, None, path, errors);
    }
}
