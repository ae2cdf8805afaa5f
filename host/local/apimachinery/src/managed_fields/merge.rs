//! Merges an intent into the live object, and removes the fields that its manager no longer sets.
//!
//! The module does not read managers. The order of merged lists follows structured-merge-diff `typed/merge.go`: the
//! intent's order for the items that it has, the live object's order for the others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::compare::{ListItemError, element};
use super::field_set::FieldSet;
use crate::merge_schema::{MergeSchema, MergeShape, MergeStep};

/// Returns the live object with all values of the intent.
///
/// # Errors
///
/// Fails if a list item of the intent has none of its keys.
pub(super) fn merge(
    live: &Value,
    intent: &Value,
    schema: &dyn MergeSchema,
) -> Result<Value, ListItemError> {
    merge_at(Some(live), intent, &mut Vec::new(), schema)
}

fn merge_at<'a>(
    live: Option<&'a Value>,
    intent: &'a Value,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
) -> Result<Value, ListItemError> {
    match (live, intent) {
        (Some(Value::Object(live)), Value::Object(intent))
            if schema.map_shape(path) != MergeShape::Atomic =>
        {
            let mut merged: Map<String, Value> = live.clone();
            for (name, intended) in intent {
                path.push(MergeStep::Field(name));
                let value = merge_at(live.get(name), intended, path, schema);
                path.pop();
                merged.insert(name.clone(), value?);
            }
            Ok(Value::Object(merged))
        }
        (Some(Value::Array(live)), Value::Array(intent)) => match schema.list_shape(path) {
            MergeShape::Atomic => Ok(Value::Array(intent.clone())),
            shape @ (MergeShape::Map(_) | MergeShape::Set | MergeShape::Granular) => {
                merge_items(live, intent, &shape, path, schema).map(Value::Array)
            }
        },
        (_, intent) => Ok(intent.clone()),
    }
}

fn merge_items<'a>(
    live: &'a [Value],
    intent: &'a [Value],
    shape: &MergeShape,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
) -> Result<Vec<Value>, ListItemError> {
    let intended = intent.iter().map(|item| element(item, shape)).collect::<Result<Vec<_>, _>>()?;
    // Live items without identity keep their position.
    let existing: Vec<Option<String>> = live.iter().map(|item| element(item, shape).ok()).collect();
    let mut live_by_element: BTreeMap<&str, &Value> = BTreeMap::new();
    for (element, item) in existing.iter().zip(live) {
        if let Some(element) = element {
            live_by_element.entry(element).or_insert(item);
        }
    }
    let named: BTreeSet<&str> = intended.iter().map(String::as_str).collect();
    let mut remaining = existing.iter().zip(live).peekable();
    let mut merged = Vec::new();
    for (index, (element, item)) in intended.iter().zip(intent).enumerate() {
        let rest = intended.get(index..).unwrap_or_default().iter();
        let next_shared = rest.map(String::as_str).find(|name| live_by_element.contains_key(name));
        // Items that only the live object has stay before the items that followed them.
        while let Some((own, kept)) = remaining.peek().copied() {
            if !own.as_deref().is_some_and(|own| named.contains(own)) {
                merged.push(kept.clone());
            } else if own.as_deref() == next_shared {
                break;
            }
            remaining.next();
        }
        if remaining.peek().is_some_and(|(own, _)| own.as_ref() == Some(element)) {
            remaining.next();
        }
        path.push(MergeStep::Item);
        let live_item = live_by_element.get(element.as_str()).copied();
        let value = merge_at(live_item, item, path, schema);
        path.pop();
        merged.push(value?);
    }
    let rest = remaining.filter(|(own, _)| own.as_deref().is_none_or(|own| !named.contains(own)));
    merged.extend(rest.map(|(_, item)| item.clone()));
    Ok(merged)
}

/// Removes the fields in `dropped` from the object, except those that are in `kept` or contain a field that is.
///
/// Also removes a map that loses its last member this way.
pub(super) fn remove(
    object: &mut Value,
    dropped: &FieldSet,
    kept: &FieldSet,
    schema: &dyn MergeSchema,
) {
    remove_at(object, dropped, Some(kept), &mut Vec::new(), schema);
}

fn remove_at(
    value: &mut Value,
    dropped: &FieldSet,
    kept: Option<&FieldSet>,
    path: &mut Vec<String>,
    schema: &dyn MergeSchema,
) {
    match value {
        Value::Object(members) => {
            for (element, below) in dropped.children() {
                let Some(name) = element.strip_prefix("f:") else { continue };
                let kept = kept.and_then(|kept| kept.child(element));
                let Some(member) = members.get_mut(name) else { continue };
                path.push(name.to_owned());
                let is_removed = remove_dropped(member, below, kept, path, schema);
                path.pop();
                if is_removed {
                    members.remove(name);
                }
            }
        }
        Value::Array(items) => {
            let steps: Vec<MergeStep<'_>> = path.iter().map(|name| step(name)).collect();
            let shape = schema.list_shape(&steps);
            path.push(ITEM.to_owned());
            items.retain_mut(|item| {
                let Ok(element) = element(item, &shape) else { return true };
                let Some(below) = dropped.child(&element) else { return true };
                let kept = kept.and_then(|kept| kept.child(&element));
                !remove_dropped(item, below, kept, path, schema)
            });
            path.pop();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Removes the dropped fields inside a value; returns true if the value itself is to be removed.
fn remove_dropped(
    value: &mut Value,
    dropped: &FieldSet,
    kept: Option<&FieldSet>,
    path: &mut Vec<String>,
    schema: &dyn MergeSchema,
) -> bool {
    if dropped.is_member() && kept.is_none() {
        return true;
    }
    let was_empty = is_empty(value);
    remove_at(value, dropped, kept, path, schema);
    !was_empty && is_empty(value) && kept.is_none()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Marks a list item in a path of names. A field's name does not contain a zero byte, so the marker cannot be taken
/// for a name.
const ITEM: &str = "\0";

fn step(name: &str) -> MergeStep<'_> {
    if name == ITEM { MergeStep::Item } else { MergeStep::Field(name) }
}
