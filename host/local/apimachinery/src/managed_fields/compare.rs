//! Computes the set of fields of an object, and the fields that differ between two objects.
//!
//! A field is a value that can have an owner: a scalar, an atomic list or map, an item of a list with keys, an
//! element of a set. A map or list that is merged counts as a field itself if it is empty or was added whole.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, key_element, value_element};
use crate::merge_schema::{ListMapKey, MergeSchema, MergeShape, MergeStep};

/// The error for a list item that cannot be identified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListItemError {
    /// Two items have equal keys, or are equal in a set.
    #[error("duplicate entries for key {0}")]
    Duplicate(String),
    /// The item has none of its keys, and no key has a default.
    #[error("associative list with keys has an element that omits key field \"{}\"", .0.join("\", \""))]
    NoKeys(Vec<String>),
}

/// The fields that differ between two objects.
#[derive(Debug, Default)]
pub(super) struct ChangedFieldSets {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl ChangedFieldSets {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Returns the fields that have a new value.
    pub(super) fn changed(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    fn insert(&mut self, element: &str, below: Self) {
        self.added.insert(element.to_owned(), below.added);
        self.modified.insert(element.to_owned(), below.modified);
        self.removed.insert(element.to_owned(), below.removed);
    }
}

/// Returns the fields that an intent sets.
///
/// # Errors
///
/// Fails if a list item has none of its keys or occurs twice.
pub(super) fn field_set_of(
    intent: &Value,
    schema: &dyn MergeSchema,
) -> Result<FieldSet, ListItemError> {
    let mut set = fields(intent, &mut Vec::new(), schema, MapAndListFieldRule::Excluded)?;
    set.clear_member();
    Ok(set)
}

/// Compares two objects field by field. If an item occurs twice, the first is compared.
pub(super) fn compare(old: &Value, new: &Value, schema: &dyn MergeSchema) -> ChangedFieldSets {
    differ(Some(old), Some(new), &mut Vec::new(), schema)
}

/// Whether maps and lists that are not empty count as fields themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MapAndListFieldRule {
    /// No: an apply owns the values that it sets.
    Excluded,
    /// Yes: a container that was added whole is owned as well.
    Included,
}

fn fields<'a>(
    value: &'a Value,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
    containers: MapAndListFieldRule,
) -> Result<FieldSet, ListItemError> {
    let mut set = FieldSet::default();
    match value {
        Value::Object(members) if schema.map_shape(path) != MergeShape::Atomic => {
            for (name, member) in members {
                path.push(MergeStep::Field(name));
                let below = fields(member, path, schema, containers);
                path.pop();
                set.insert(format!("f:{name}"), below?);
            }
            if members.is_empty() || containers == MapAndListFieldRule::Included {
                set.insert_here();
            }
        }
        Value::Array(items) => {
            let shape = schema.list_shape(path);
            if shape == MergeShape::Atomic {
                return Ok(FieldSet::here());
            }
            for item in items {
                let element = element(item, &shape)?;
                if set.child(&element).is_some() && containers == MapAndListFieldRule::Excluded {
                    return Err(ListItemError::Duplicate(without_prefix(&element).to_owned()));
                }
                path.push(MergeStep::Item);
                let below = fields(item, path, schema, containers);
                path.pop();
                let mut below = below?;
                below.insert_here();
                set.insert(element, below);
            }
            if items.is_empty() || containers == MapAndListFieldRule::Included {
                set.insert_here();
            }
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            set.insert_here()
        }
    }
    Ok(set)
}

fn differ<'a>(
    old: Option<&'a Value>,
    new: Option<&'a Value>,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
) -> ChangedFieldSets {
    let all_fields = |value: &'a Value, path: &mut Vec<MergeStep<'a>>| {
        // If the items of a list cannot be identified, the list is one field.
        fields(value, path, schema, MapAndListFieldRule::Included)
            .unwrap_or_else(|_| FieldSet::here())
    };
    let mut difference = ChangedFieldSets::default();
    match (old, new) {
        (None, None) => {}
        (None, Some(new)) => difference.added = all_fields(new, path),
        (Some(old), None) => difference.removed = all_fields(old, path),
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new)))
            if schema.map_shape(path) != MergeShape::Atomic =>
        {
            differ_members(old, new, path, schema, &mut difference);
        }
        (Some(Value::Array(old)), Some(Value::Array(new)))
            if schema.list_shape(path) != MergeShape::Atomic =>
        {
            let shape = schema.list_shape(path);
            differ_items((old, new), &shape, path, schema, &mut difference);
        }
        (Some(old), Some(new)) => {
            difference.removed = all_fields(old, path);
            difference.added = all_fields(new, path);
            // The field itself stays and has another value; only the fields below it were removed.
            difference.removed.clear_member();
            difference.added.clear_member();
            difference.modified.insert_here();
        }
    }
    difference
}

fn differ_members<'a>(
    old: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
    difference: &mut ChangedFieldSets,
) {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added) {
        path.push(MergeStep::Field(name));
        let below = differ(old.get(name), new.get(name), path, schema);
        path.pop();
        difference.insert(&format!("f:{name}"), below);
    }
}

fn differ_items<'a>(
    (old, new): (&'a [Value], &'a [Value]),
    shape: &MergeShape,
    path: &mut Vec<MergeStep<'a>>,
    schema: &dyn MergeSchema,
    difference: &mut ChangedFieldSets,
) {
    let (old, new) = (by_element(old, shape), by_element(new, shape));
    let added = new.keys().filter(|element| !old.contains_key(*element));
    for element in old.keys().chain(added) {
        path.push(MergeStep::Item);
        let (old, new) = (old.get(element).copied(), new.get(element).copied());
        let mut below = differ(old, new, path, schema);
        path.pop();
        match (old, new) {
            (None, Some(_)) => below.added.insert_here(),
            (Some(_), None) => below.removed.insert_here(),
            (Some(_), Some(_)) | (None, None) => {}
        }
        difference.insert(element, below);
    }
}

fn by_element<'a>(items: &'a [Value], shape: &MergeShape) -> BTreeMap<String, &'a Value> {
    let mut found = BTreeMap::new();
    for item in items {
        if let Ok(element) = element(item, shape) {
            found.entry(element).or_insert(item);
        }
    }
    found
}

/// Returns the path element that identifies a list item: its keys, or the item itself in a set.
///
/// # Errors
///
/// Fails if the item has none of the keys and no key has a default.
pub(super) fn element(item: &Value, shape: &MergeShape) -> Result<String, ListItemError> {
    let keys = match shape {
        MergeShape::Map(keys) => keys,
        MergeShape::Set | MergeShape::Atomic | MergeShape::Granular => {
            return Ok(value_element(item));
        }
    };
    let mut found = BTreeMap::new();
    for ListMapKey { name, default } in keys {
        let value = item.get(name).filter(|value| !value.is_null()).or(default.as_ref());
        // With several keys, some may be absent; an item without any key has no identity.
        if let Some(value) = value {
            found.insert(name.as_str(), value);
        }
    }
    if found.is_empty() {
        return Err(ListItemError::NoKeys(keys.iter().map(|key| key.name.clone()).collect()));
    }
    Ok(key_element(&found))
}

/// Returns an element without its `k:` or `v:` prefix, for messages.
fn without_prefix(element: &str) -> &str {
    element.split_at_checked(2).map_or(element, |(_, rest)| rest)
}
