//! Defaulting and pruning of an object by its schema.
//!
//! The module does not validate values. Recursion follows the object, whose depth the JSON parser limits.

use serde_json::Value;

use super::{AdditionalProperties, SchemaNode};
use crate::field_error::child;

/// Fields that the root and embedded resources have even if the schema does not declare them.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Sets absent fields below the root to their defaults.
pub(super) fn apply_defaults(root: &SchemaNode, object: &mut Value) {
    fill(root, object, SchemaNodeResourceRole::Resource);
}

/// Removes unknown fields below the root and adds their paths to `dropped`.
pub(super) fn prune(root: &SchemaNode, object: &mut Value, dropped: &mut Vec<String>) {
    drop_unknown(root, object, SchemaNodeResourceRole::Resource, "", dropped);
}

/// Whether a node is a whole resource; the schema does not apply to the meta fields of a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SchemaNodeResourceRole {
    Resource,
    Inside,
}

impl SchemaNodeResourceRole {
    fn of(node: &SchemaNode) -> Self {
        if node.embedded_resource { Self::Resource } else { Self::Inside }
    }

    fn keeps(self, name: &str) -> bool {
        self == Self::Resource && META_FIELDS.contains(&name)
    }
}

fn fill(node: &SchemaNode, value: &mut Value, position: SchemaNodeResourceRole) {
    match value {
        Value::Object(members) => {
            for (name, property) in &node.properties {
                if position.keeps(name) {
                    continue;
                }
                let Some(default) = &property.default else { continue };
                let member = members.entry(name.clone()).or_insert_with(|| default.clone());
                if member.is_null() && !property.nullable {
                    *member = default.clone();
                }
            }
            for (name, member) in members.iter_mut() {
                if !position.keeps(name)
                    && let Some(schema) = node.member(name)
                {
                    if let (true, false, Some(default)) =
                        (member.is_null(), schema.nullable, &schema.default)
                    {
                        *member = default.clone();
                    }
                    fill(schema, member, SchemaNodeResourceRole::of(schema));
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = node.items.as_deref() {
                for item in items {
                    fill(schema, item, SchemaNodeResourceRole::of(schema));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn drop_unknown(
    node: &SchemaNode,
    value: &mut Value,
    position: SchemaNodeResourceRole,
    path: &str,
    dropped: &mut Vec<String>,
) {
    match value {
        Value::Object(members) => {
            let keeps_all =
                node.preserve_unknown || matches!(node.additional, Some(AdditionalProperties::Any));
            members.retain(|name, member| {
                if position.keeps(name) {
                    return true;
                }
                match node.member(name) {
                    Some(schema) => {
                        let path = child(path, name);
                        drop_unknown(
                            schema,
                            member,
                            SchemaNodeResourceRole::of(schema),
                            &path,
                            dropped,
                        );
                        schema.nullable || !member.is_null()
                    }
                    None if keeps_all => true,
                    None => {
                        dropped.push(child(path, name));
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            if let Some(schema) = node.items.as_deref() {
                for (index, item) in items.iter_mut().enumerate() {
                    let path = format!("{path}[{index}]");
                    drop_unknown(schema, item, SchemaNodeResourceRole::of(schema), &path, dropped);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
