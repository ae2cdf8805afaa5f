//! Structural schemas of CRD versions, which default, prune and validate custom resources.
//!
//! ```text
//! openAPIV3Schema ─► parse (refuses schemas that are not structural, compiles patterns and CEL rules)
//! object ─► prune ─► apply_defaults ─► validate (values, then CEL rules)
//! ```
//!
//! `metadata` is validated by `validation`; a schema may only narrow `metadata.name` and `metadata.generateName`.
//!
//! Invariants:
//! - Patterns and rules are compiled once, in [`StructuralSchema::parse`].
//! - An update is not refused for a value that it does not change (ratcheting, as in Kubernetes ≥ 1.30); only
//!   transition rules check unchanged values.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::FieldError;
use crate::merge_schema::{
    ListMapKey, MergeSchema, MergeShape, MergeStep, is_atomic_metadata, metadata_list_shape,
};

mod cel;
pub(crate) mod formats;
mod parse;
mod rules;
mod scope;
mod shape;
mod validate;

/// The compiled structural schema of one version of a CRD.
#[derive(Debug)]
pub struct StructuralSchema {
    root: SchemaNode,
}

impl StructuralSchema {
    /// Compiles `spec.versions[].schema.openAPIV3Schema`.
    ///
    /// # Errors
    ///
    /// Returns an error for each part of the schema that is not structural, and for each rule, pattern or default that
    /// cannot be used. Fields are relative to the schema (`properties[spec].type`); the caller prepends
    /// `spec.versions[0].schema.openAPIV3Schema.`.
    pub fn parse(open_api_v3: &Value) -> Result<Self, Vec<FieldError>> {
        let (root, mut errors) = parse::parse(open_api_v3);
        if errors.is_empty() {
            errors = parse::check_defaults(&root);
        }
        if errors.is_empty() { Ok(Self { root }) } else { Err(errors) }
    }

    /// Sets absent fields that have a default, outer objects before inner ones.
    ///
    /// `null` counts as absent if the field is not nullable and has a default. `metadata` is not changed.
    pub fn apply_defaults(&self, object: &mut Value) {
        shape::apply_defaults(&self.root, object);
    }

    /// Removes fields that the schema does not declare; returns their paths (`spec.foo`), sorted.
    ///
    /// Also removes members that are `null` although the schema does not allow it, so that defaults can set them; their
    /// paths are not returned.
    ///
    /// Keeps `apiVersion`, `kind` and `metadata` of the object and of embedded resources, and the fields that
    /// `x-kubernetes-preserve-unknown-fields` covers.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        shape::prune(&self.root, object, &mut dropped);
        dropped.sort();
        dropped
    }

    /// Validates `new`, and the transition from `old` in an update.
    ///
    /// Both must be pruned and defaulted. CEL rules run only if the values themselves are valid, as in the real server.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        validate::validate(&self.root, new, old, &mut errors);
        if errors.is_empty() && self.root.has_rules {
            rules::check(&self.root, new, old, &mut errors);
        }
        errors
    }

    /// Returns the node of a path; all items of a list, and all values of a map, have the same node.
    fn node(&self, path: &[MergeStep<'_>]) -> Option<&SchemaNode> {
        path.iter().try_fold(&self.root, |node, step| match step {
            MergeStep::Field(name) => node.member(name),
            MergeStep::Item => node.items.as_deref(),
        })
    }
}

impl MergeSchema for StructuralSchema {
    fn list_shape(&self, path: &[MergeStep<'_>]) -> MergeShape {
        if let Some(shape) = metadata_list_shape(path) {
            return shape;
        }
        let Some(node) = self.node(path) else { return MergeShape::Atomic };
        match node.list_type {
            ListType::Atomic => MergeShape::Atomic,
            ListType::Set => MergeShape::Set,
            ListType::Map => MergeShape::Map(node.keys().collect()),
        }
    }

    fn map_shape(&self, path: &[MergeStep<'_>]) -> MergeShape {
        match self.node(path) {
            _ if is_atomic_metadata(path) => MergeShape::Atomic,
            Some(node) if node.atomic_map => MergeShape::Atomic,
            _ => MergeShape::Granular,
        }
    }
}

/// One node of the schema.
#[derive(Debug, Default)]
struct SchemaNode {
    /// Absent only for int-or-string, for preserved unknown values, and inside `allOf`, `anyOf`, `oneOf` and `not`.
    kind: Option<SchemaType>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded_resource: bool,
    properties: BTreeMap<String, Self>,
    additional: Option<AdditionalProperties>,
    items: Option<Box<Self>>,
    default: Option<Value>,
    list_type: ListType,
    map_keys: Vec<String>,
    atomic_map: bool,
    checks: ValueConstraints,
    rules: Vec<cel::CelRule>,
    /// Whether this node or one below it has CEL rules; if not, validation builds no CEL context.
    has_rules: bool,
}

/// The JSON type that a node requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SchemaType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

#[derive(Debug)]
enum AdditionalProperties {
    /// `additionalProperties: true`.
    Any,
    /// Values of a map.
    Values(Box<SchemaNode>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// The constraints on a value beyond its type.
#[derive(Debug, Default)]
struct ValueConstraints {
    required: Vec<String>,
    enumeration: Vec<Value>,
    minimum: Option<SchemaNumericBound>,
    maximum: Option<SchemaNumericBound>,
    multiple_of: Option<f64>,
    length_min: Option<u64>,
    length_max: Option<u64>,
    items_min: Option<u64>,
    items_max: Option<u64>,
    properties_min: Option<u64>,
    properties_max: Option<u64>,
    pattern: Option<Regex>,
    format: Option<String>,
    all_of: Vec<SchemaNode>,
    any_of: Vec<SchemaNode>,
    one_of: Vec<SchemaNode>,
    not: Option<Box<SchemaNode>>,
}

/// The lower or upper limit of a number.
#[derive(Clone, Copy, Debug)]
struct SchemaNumericBound {
    value: f64,
    exclusive: bool,
}

impl SchemaNode {
    /// Returns the schema of a member: that of the property, else that of the map's values.
    fn member(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Some(AdditionalProperties::Values(values))) => Some(values),
            (None, Some(AdditionalProperties::Any) | None) => None,
        }
    }

    /// Returns the keys of a list of type map, with their defaults from the schema of the items.
    fn keys(&self) -> impl Iterator<Item = ListMapKey> {
        self.map_keys.iter().map(|name| {
            let property = self.items.as_deref().and_then(|items| items.properties.get(name));
            ListMapKey {
                name: name.clone(),
                default: property.and_then(|node| node.default.clone()),
            }
        })
    }

    /// Returns the nodes of properties, items and map values, without the branches of `allOf`, `anyOf`, `oneOf` and
    /// `not`.
    fn children(&self) -> impl Iterator<Item = &Self> {
        let values = match &self.additional {
            Some(AdditionalProperties::Values(values)) => Some(values.as_ref()),
            Some(AdditionalProperties::Any) | None => None,
        };
        self.properties.values().chain(self.items.as_deref()).chain(values)
    }
}

impl SchemaType {
    const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let all =
            [Self::Object, Self::Array, Self::String, Self::Integer, Self::Number, Self::Boolean];
        all.into_iter().find(|kind| kind.name() == name)
    }

    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => is_integer(value),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

/// Returns true if a value is a whole number; `1.0` is one, as in the real server.
fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Returns the OpenAPI name of a value's JSON type.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests;
