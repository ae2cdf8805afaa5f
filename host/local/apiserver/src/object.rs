//! Access to the parts that objects of every kind have.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Returns the text at a JSON pointer.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Returns `metadata`; replaces it by an empty map if it is absent or not a map.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// Returns a member that is a map; replaces it by an empty map if it is absent or not a map.
pub(crate) fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let map = as_map_mut(object);
    as_map_mut(map.entry(name).or_insert_with(|| json!({})))
}

/// Returns the value as a map; replaces it by an empty map if it is not a map.
pub(crate) fn as_map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Made a map above.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("the value was made an object")
        }
    }
}

/// Sets a member if it is absent or null.
pub(crate) fn default(map: &mut Map<String, Value>, name: &str, value: Value) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value);
    }
}

/// Returns the items of the list at a JSON pointer that are maps.
pub(crate) fn items_mut<'a>(
    object: &'a mut Value,
    pointer: &str,
) -> impl Iterator<Item = &'a mut Value> {
    let list = object.pointer_mut(pointer).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter(|item| item.is_object())
}

/// Returns the items of the list at a JSON pointer; an empty list if absent.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns `metadata.name`; empty if absent.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or("")
}

/// Returns true if the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|value| !value.is_null())
}

/// Returns `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    items(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect()
}

/// Returns true if an object that is being deleted has no finalizer and no grace period left.
pub(crate) fn may_be_removed(object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
    is_deleting(object) && finalizers(object).is_empty() && grace.unwrap_or(0) == 0
}

/// Increments `metadata.generation` if the object has one.
pub(crate) fn bump_generation(object: &mut Value) {
    let metadata = metadata_mut(object);
    if let Some(generation) = metadata.get("generation").and_then(Value::as_u64) {
        metadata.insert("generation".into(), json!(generation.saturating_add(1)));
    }
}

/// Returns true if two objects differ outside `apiVersion`, `kind`, `metadata` and `status`.
pub(crate) fn spec_differs(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old != new };
    let of = |map: &Map<String, Value>| {
        map.iter()
            .filter(|(name, _)| {
                !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind")
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<String, Value>>()
    };
    of(old) != of(new)
}

/// Returns true if two objects are equal apart from resourceVersion and the times in `managedFields`.
pub(crate) fn is_same(old: &Value, new: &Value) -> bool {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in items_mut(&mut object, "/metadata/managedFields") {
            as_map_mut(entry).remove("time");
        }
        metadata_mut(&mut object).remove("resourceVersion");
        object
    };
    timeless(old) == timeless(new)
}

/// Formats a time as Kubernetes does: RFC 3339, UTC, whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_object_may_be_removed_without_finalizers_and_grace() {
        let cases = [
            (json!({}), false),
            (json!({"deletionTimestamp": "t"}), true),
            (json!({"deletionTimestamp": "t", "finalizers": ["a"]}), false),
            (json!({"deletionTimestamp": "t", "finalizers": []}), true),
            (json!({"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}), false),
            (json!({"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}), true),
        ];
        for (metadata, expected) in cases {
            assert_eq!(may_be_removed(&json!({ "metadata": metadata })), expected, "{metadata}");
        }
    }

    #[test]
    fn only_changes_outside_metadata_and_status_change_the_spec() {
        let old = json!({"metadata": {"labels": {}}, "spec": {"a": 1}, "status": {"b": 1}});
        let same = json!({"metadata": {"labels": {"c": "d"}}, "spec": {"a": 1}, "status": {}});
        assert!(!spec_differs(&old, &same));
        assert!(spec_differs(&old, &json!({"spec": {"a": 2}})));
        assert!(spec_differs(&old, &json!({"spec": {"a": 1}, "data": {}})));
    }
}
