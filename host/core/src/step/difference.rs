//! Compares two states of an object field by field. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::FieldChange;

/// The longest text that a difference shows uncut.
const TEXT_BYTES_MAX: usize = 4096;
/// How many bytes of two long texts are shown before their first difference.
const LEAD_BYTES: usize = 64;
/// The most fields of one object; more are counted.
const FIELDS_MAX: usize = 500;
/// Metadata fields that the server sets.
const NOISE: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The fields by which items of a list are matched, in this order of preference.
const ITEM_KEYS: &[&str] = &["name", "type", "containerPort", "port", "uid"];

/// Which part of an object a call can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritableObjectPart {
    /// All but the status.
    Object,
    /// The status alone.
    Status,
}

/// Returns the fields in which `after` differs from `before`, in order of their names. Metadata that the server sets
/// (`resourceVersion`, `generation`, `managedFields`, …) is left out.
#[must_use]
pub fn differences(before: &Value, after: &Value, scope: WritableObjectPart) -> Vec<FieldChange> {
    let mut found = Vec::new();
    compare("", Some(&shown(before, scope)), Some(&shown(after, scope)), &mut found);
    bounded(found)
}

/// Returns the fields of a created object: those of the intent, with the values that the server stored. The defaults
/// that the server adds are left out, because they would hide the intent.
#[must_use]
pub fn created(intent: &Value, stored: &Value, scope: WritableObjectPart) -> Vec<FieldChange> {
    let mut found = Vec::new();
    let kept = like(&shown(stored, scope), &shown(intent, scope));
    compare("", None, Some(&kept), &mut found);
    bounded(found)
}

fn bounded(mut found: Vec<FieldChange>) -> Vec<FieldChange> {
    let more = found.len().saturating_sub(FIELDS_MAX);
    if 0 < more {
        found.truncate(FIELDS_MAX);
        let to = Some(Value::String(format!("{more} more fields")));
        found.push(FieldChange { field: "…".to_owned(), from: None, to });
    }
    found
}

/// Returns the object without its names, the metadata that the server sets, and the fields out of scope.
fn shown(object: &Value, scope: WritableObjectPart) -> Value {
    let Some(fields) = object.as_object() else { return object.clone() };
    let mut kept = Map::new();
    for (name, value) in fields {
        let (is_status, is_name) = (name == "status", name == "apiVersion" || name == "kind");
        if !is_name && is_status == (scope == WritableObjectPart::Status) {
            kept.insert(name.clone(), value.clone());
        }
    }
    if let Some(metadata) = kept.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| {
            !NOISE.contains(&name.as_str()) && name != "name" && name != "namespace"
        });
        if metadata.is_empty() {
            kept.remove("metadata");
        }
    }
    Value::Object(kept)
}

/// Returns the fields of `whole` that `pattern` has as well.
fn like(whole: &Value, pattern: &Value) -> Value {
    match (whole, pattern) {
        (Value::Object(whole), Value::Object(pattern)) => {
            let both = pattern.iter().filter_map(|(name, pattern)| {
                Some((name.clone(), like(whole.get(name)?, pattern)))
            });
            Value::Object(both.collect())
        }
        (Value::Array(whole), Value::Array(pattern)) if whole.len() == pattern.len() => {
            whole.iter().zip(pattern).map(|(whole, pattern)| like(whole, pattern)).collect()
        }
        _ => whole.clone(),
    }
}

fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    found: &mut Vec<FieldChange>,
) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (None | Some(Value::Null), None | Some(Value::Null)) => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                compare(&inside(path, name), before.get(name), after.get(name), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            compare_lists(path, (before, after), found);
        }
        // An object that is added or removed is shown leaf by leaf.
        (None, Some(Value::Object(after))) if !after.is_empty() => {
            for (name, after) in after {
                compare(&inside(path, name), None, Some(after), found);
            }
        }
        (Some(Value::Object(before)), None) if !before.is_empty() => {
            for (name, before) in before {
                compare(&inside(path, name), Some(before), None, found);
            }
        }
        (before, after) => found.push(change(path, before, after)),
    }
}

/// Matches items by the field that names them, or else by position.
fn compare_lists(path: &str, (before, after): (&[Value], &[Value]), found: &mut Vec<FieldChange>) {
    let keyed = ITEM_KEYS.iter().find_map(|key| Some((by_key(before, key)?, by_key(after, key)?)));
    if let Some((before, after)) = keyed {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let item_path = format!("{path}[{name}]");
            let (before, after) = (before.get(name).copied(), after.get(name).copied());
            match (before, after) {
                (Some(_), Some(_)) => compare(&item_path, before, after, found),
                // An added or removed item is one change.
                _ => found.push(change(&item_path, before, after)),
            }
        }
        return;
    }
    if before.len() != after.len() {
        let (before, after) = (Value::from(before), Value::from(after));
        found.push(change(path, Some(&before), Some(&after)));
        return;
    }
    for (position, (before, after)) in before.iter().zip(after).enumerate() {
        compare(&format!("{path}[{position}]"), Some(before), Some(after), found);
    }
}

/// Returns the items by `key=value`, if every item has the key and no two have the same value.
fn by_key<'a>(items: &'a [Value], key: &str) -> Option<BTreeMap<String, &'a Value>> {
    let mut keyed = BTreeMap::new();
    for item in items {
        let value = match item.get(key)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        if keyed.insert(format!("{key}={value}"), item).is_some() {
            return None;
        }
    }
    Some(keyed)
}

fn inside(path: &str, name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if !name.is_empty() && name.chars().all(is_plain) {
        format!("{path}.{name}")
    } else {
        format!("{path}[{name:?}]")
    }
}

fn change(path: &str, before: Option<&Value>, after: Option<&Value>) -> FieldChange {
    let from = match (before, after) {
        (Some(Value::String(before)), Some(Value::String(after))) => common(before, after),
        _ => 0,
    };
    let field = if path.is_empty() { "." } else { path }.to_owned();
    FieldChange {
        field,
        from: before.map(|value| cut(value, from)),
        to: after.map(|value| cut(value, from)),
    }
}

/// Returns the length of the common start of two texts in bytes.
fn common(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count()
}

/// Cuts long texts around the position where two texts differ first.
fn cut(value: &Value, differs_at: usize) -> Value {
    match value {
        Value::String(text) if TEXT_BYTES_MAX < text.len() => {
            let start = text.floor_char_boundary(differs_at.saturating_sub(LEAD_BYTES));
            let end = text.floor_char_boundary(start.saturating_add(TEXT_BYTES_MAX));
            let part = text.get(start..end).unwrap_or_default();
            let lead = if start == 0 { "" } else { "…" };
            Value::String(format!("{lead}{part}…(cut, {} bytes in all)", text.len()))
        }
        Value::Array(items) => items.iter().map(|item| cut(item, 0)).collect(),
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), cut(value, 0))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(before: &Value, after: &Value, scope: WritableObjectPart) -> Vec<String> {
        let text = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
        differences(before, after, scope)
            .iter()
            .map(|change| format!("{} {} {}", change.field, text(&change.from), text(&change.to)))
            .collect()
    }

    #[test]
    fn fields_are_compared_one_by_one_without_the_server_s_metadata() {
        let before = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "resourceVersion": "1", "generation": 1, "uid": "u",
                "labels": {"a.b/c": "1", "x": "1"}},
            "spec": {"replicas": 1, "gone": true, "same": [1, 2]},
            "status": {"phase": "Running"},
        });
        let after = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "resourceVersion": "2", "generation": 2, "uid": "u",
                "managedFields": [], "labels": {"a.b/c": "2", "x": "1"}},
            "spec": {"replicas": 2, "new": {"deep": {"er": 1}}, "same": [1, 2]},
            "status": {"phase": "Failed"},
        });
        assert_eq!(
            lines(&before, &after, WritableObjectPart::Object),
            [
                r#".metadata.labels["a.b/c"] "1" "2""#,
                ".spec.gone true -",
                ".spec.new.deep.er - 1",
                ".spec.replicas 1 2",
            ]
        );
        assert_eq!(
            lines(&before, &after, WritableObjectPart::Status),
            [r#".status.phase "Running" "Failed""#]
        );
        assert!(differences(&after, &after, WritableObjectPart::Object).is_empty());
    }

    #[test]
    fn items_of_a_list_are_matched_by_name_or_position() {
        let before = json!({"spec": {"c": [{"name": "a", "v": 1}, {"name": "b", "v": 1}],
            "n": [1, 2], "m": [1, 2]}});
        let after = json!({"spec": {"c": [{"name": "c", "v": 1}, {"name": "a", "v": 2}],
            "n": [1, 3], "m": [1]}});
        assert_eq!(
            lines(&before, &after, WritableObjectPart::Object),
            [
                ".spec.c[name=a].v 1 2",
                r#".spec.c[name=b] {"name":"b","v":1} -"#,
                r#".spec.c[name=c] - {"name":"c","v":1}"#,
                ".spec.m [1,2] [1]",
                ".spec.n[1] 2 3",
            ]
        );
    }

    #[test]
    fn a_created_object_shows_the_intent_with_the_server_s_values() {
        let intent = json!({"metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"cpu": "1000m", "ports": [{"port": 1}]}});
        let stored = json!({"metadata": {"name": "a", "uid": "u", "labels": {"x": "1"}},
            "spec": {"cpu": "1", "clusterIP": "10.0.0.1", "ports": [{"port": 1, "protocol": "TCP"}]},
            "status": {}});
        let fields: Vec<_> = created(&intent, &stored, WritableObjectPart::Object)
            .into_iter()
            .map(|change| (change.field, change.to.unwrap().to_string()))
            .collect();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            fields,
            [
                field(".metadata.labels.x", r#""1""#),
                field(".spec.cpu", r#""1""#),
                field(".spec.ports", r#"[{"port":1}]"#),
            ]
        );
    }

    #[test]
    fn long_texts_are_cut_around_their_difference_and_many_fields_are_counted() {
        let long = |end: &str| json!({"data": {"k": format!("{}{end}", "x".repeat(9000))}});
        let found = differences(&long("one"), &long("two"), WritableObjectPart::Object);
        let [FieldChange { from: Some(from), to: Some(to), .. }] = &found[..] else { panic!() };
        assert_ne!(from, to);
        assert!(to.to_string().contains("two…(cut, 9003 bytes in all)"), "{to}");
        let many: Map<String, Value> = (0..600).map(|n| (format!("f{n}"), json!(n))).collect();
        let found =
            differences(&json!({"spec": {}}), &json!({"spec": many}), WritableObjectPart::Object);
        assert_eq!(found.len(), FIELDS_MAX + 1);
        assert_eq!(found.last().unwrap().to, Some(json!("100 more fields")));
    }
}
