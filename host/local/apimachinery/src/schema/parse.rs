//! The compiler of OpenAPI v3 schemas to a [`SchemaNode`] tree, which refuses schemas that are not structural.
//!
//! Source of the rules and their wording: apiextensions-apiserver
//! `pkg/apiserver/schema/validation.go` and `pkg/apis/apiextensions/validation/validation.go`.

mod position;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::{
    AdditionalProperties, ListType, SchemaNode, SchemaNumericBound, SchemaType, ValueConstraints,
    cel, shape, validate,
};
use position::{BranchType, SchemaNodePosition, SchemaRole};

use crate::field_error::{child, path_text};
use crate::{FieldError, FieldErrorReason};

/// The deepest nesting of a schema.
const DEPTH_MAX: usize = 64;

/// Keywords that a structural schema must not have.
const FORBIDDEN: [&str; 13] = [
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "additionalItems",
    "readOnly",
    "writeOnly",
    "xml",
    "$recursiveRef",
    "propertyNames",
];

/// Keywords that describe structure, and so must not occur inside `allOf`, `anyOf`, `oneOf` and `not`.
const STRUCTURAL: [&str; 10] = [
    "type",
    "default",
    "additionalProperties",
    "nullable",
    "title",
    "description",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
];

/// Compiles the whole schema; the tree is complete only if there are no errors.
pub(super) fn parse(schema: &Value) -> (SchemaNode, Vec<FieldError>) {
    let mut parser = SchemaParser { errors: Vec::new() };
    let position = SchemaNodePosition { role: SchemaRole::Root, depth: 0, correlatable: true };
    let root = parser.node(schema, "", position);
    (root, parser.errors)
}

/// Checks that every default is valid against its own schema and has no unknown field.
pub(super) fn check_defaults(root: &SchemaNode) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_default(root, "", &mut errors);
    errors
}

fn check_default(node: &SchemaNode, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(default) = &node.default {
        let field = join(path, "default");
        let mut full = default.clone();
        shape::apply_defaults(node, &mut full);
        let mut dropped = Vec::new();
        shape::prune(node, &mut full, &mut dropped);
        if !dropped.is_empty() {
            let detail = format!("must not have unknown fields: {}", dropped.join(", "));
            errors.push(FieldError::invalid(&field, default, detail));
        }
        let mut default_errors = Vec::new();
        validate::validate(node, &full, None, &mut default_errors);
        for error in default_errors {
            errors.push(FieldError::build(&field, error.reason, error.message));
        }
    }
    for (name, property) in &node.properties {
        check_default(property, &join(path, &format!("properties[{name}]")), errors);
    }
    if let Some(items) = &node.items {
        check_default(items, &join(path, "items"), errors);
    }
    if let Some(AdditionalProperties::Values(values)) = &node.additional {
        check_default(values, &join(path, "additionalProperties"), errors);
    }
}

struct SchemaParser {
    errors: Vec<FieldError>,
}

impl SchemaParser {
    fn error(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    fn forbid(&mut self, path: &str, keyword: &str, why: &str) {
        self.error(FieldError::forbidden(join(path, keyword), why));
    }

    fn node(&mut self, schema: &Value, path: &str, position: SchemaNodePosition) -> SchemaNode {
        let Some(members) = schema.as_object() else {
            let found = super::type_name(schema);
            self.error(FieldError::type_invalid(path_text(path), found, "must be a schema"));
            return SchemaNode::default();
        };
        if DEPTH_MAX < position.depth {
            let detail = format!("schemas may not nest deeper than {DEPTH_MAX}");
            self.error(FieldError::forbidden(path_text(path), detail));
            return SchemaNode::default();
        }
        self.check_keywords(members, path, position);
        let mut node = SchemaNode {
            kind: self.kind(members, path, position),
            nullable: flag(members, "nullable"),
            int_or_string: flag(members, "x-kubernetes-int-or-string"),
            preserve_unknown: flag(members, "x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag(members, "x-kubernetes-embedded-resource"),
            default: members.get("default").cloned(),
            list_type: self.list_type(members, path),
            map_keys: strings(members.get("x-kubernetes-list-map-keys")),
            atomic_map: text(members, "x-kubernetes-map-type") == Some("atomic"),
            ..SchemaNode::default()
        };
        self.structure(&mut node, members, path, position);
        node.checks = self.checks(members, path, position);
        if node.int_or_string {
            self.branches_of_int_or_string(&mut node.checks);
        }
        let rules = members.get("x-kubernetes-validations");
        if let Some(rules) = rules {
            let field = join(path, "x-kubernetes-validations");
            node.rules = cel::compile(rules, &field, position.correlatable, &mut self.errors);
        }
        node.has_rules = !node.rules.is_empty() || node.children().any(|child| child.has_rules);
        self.check_list(&node, path);
        self.check_embedded(&node, path);
        node
    }

    fn check_keywords(
        &mut self,
        members: &Map<String, Value>,
        path: &str,
        position: SchemaNodePosition,
    ) {
        for keyword in FORBIDDEN.iter().filter(|keyword| members.contains_key(**keyword)) {
            self.forbid(path, keyword, &format!("{keyword} is not supported"));
        }
        if flag(members, "uniqueItems") {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(path, "uniqueItems", why);
        }
        let keyword = "x-kubernetes-preserve-unknown-fields";
        if members.get(keyword) == Some(&Value::Bool(false)) {
            let field = join(path, keyword);
            self.error(FieldError::invalid(field, &json!(false), "must be true or undefined"));
        }
        let SchemaRole::Branch(types) = position.role else { return };
        for keyword in STRUCTURAL.iter().filter(|keyword| members.contains_key(**keyword)) {
            if *keyword != "type" || types == BranchType::Forbidden {
                self.forbid(path, keyword, "must be empty to be structural");
            }
        }
    }

    fn kind(
        &mut self,
        members: &Map<String, Value>,
        path: &str,
        position: SchemaNodePosition,
    ) -> Option<SchemaType> {
        let field = join(path, "type");
        let free = flag(members, "x-kubernetes-int-or-string")
            || flag(members, "x-kubernetes-preserve-unknown-fields");
        let Some(name) = text(members, "type") else {
            let why = match position.role {
                SchemaRole::Root => "must not be empty at the root",
                SchemaRole::Property if !free => "must not be empty for specified object fields",
                SchemaRole::Items if !free => "must not be empty for specified array items",
                SchemaRole::Values if !free => {
                    "must not be empty for specified object fields (additionalProperties)"
                }
                SchemaRole::Property
                | SchemaRole::Items
                | SchemaRole::Values
                | SchemaRole::Branch(_) => {
                    return None;
                }
            };
            self.error(FieldError::required(field, why));
            return None;
        };
        if flag(members, "x-kubernetes-int-or-string") {
            let why = "must be empty if x-kubernetes-int-or-string is true";
            self.error(FieldError::invalid(&field, &json!(name), why));
        }
        let kind = SchemaType::parse(name);
        if kind.is_none() {
            let all = ["array", "boolean", "integer", "number", "object", "string"];
            self.error(FieldError::not_supported(&field, &json!(name), &all.map(Value::from)));
        } else if position.role == SchemaRole::Root && kind != Some(SchemaType::Object) {
            self.error(FieldError::invalid(&field, &json!(name), "must be object at the root"));
        }
        kind
    }

    fn structure(
        &mut self,
        node: &mut SchemaNode,
        members: &Map<String, Value>,
        path: &str,
        position: SchemaNodePosition,
    ) {
        if let Some(properties) = members.get("properties").and_then(Value::as_object) {
            for (name, schema) in properties {
                let path = join(path, &format!("properties[{name}]"));
                let property = self.node(schema, &path, position.inside(SchemaRole::Property));
                if position.role == SchemaRole::Root && name == "metadata" {
                    self.check_metadata(&property, &path);
                }
                node.properties.insert(name.clone(), property);
            }
        }
        self.additional(node, members, path, position);
        match members.get("items") {
            Some(schema) => {
                let mut inside = position.inside(SchemaRole::Items);
                inside.correlatable &= node.list_type == ListType::Map;
                node.items = Some(Box::new(self.node(schema, &join(path, "items"), inside)));
            }
            None if node.kind == Some(SchemaType::Array) && !position.is_branch() => {
                self.error(FieldError::required(join(path, "items"), "must be specified"));
            }
            None => {}
        }
    }

    fn additional(
        &mut self,
        node: &mut SchemaNode,
        members: &Map<String, Value>,
        path: &str,
        position: SchemaNodePosition,
    ) {
        let keyword = "additionalProperties";
        let Some(additional) = members.get(keyword) else { return };
        if position.role == SchemaRole::Root {
            self.forbid(path, keyword, "must not be used at the root");
        }
        if !node.properties.is_empty() {
            self.forbid(path, keyword, "additionalProperties and properties are mutual exclusive");
        }
        if let Value::Bool(allowed) = additional {
            if *allowed {
                node.additional = Some(AdditionalProperties::Any);
            } else {
                self.forbid(path, keyword, "additionalProperties cannot be set to false");
            }
            return;
        }
        let values =
            self.node(additional, &join(path, keyword), position.inside(SchemaRole::Values));
        node.additional = Some(AdditionalProperties::Values(Box::new(values)));
    }

    fn check_metadata(&mut self, node: &SchemaNode, path: &str) {
        let narrows = ["name", "generateName"];
        let others = node.properties.keys().filter(|name| !narrows.contains(&name.as_str()));
        if others.count() != 0 || node.default.is_some() {
            let why = "must not specify anything other than name and generateName, but metadata \
                       is implicitly specified";
            self.error(FieldError::forbidden(path, why));
        }
    }

    fn list_type(&mut self, members: &Map<String, Value>, path: &str) -> ListType {
        let keyword = "x-kubernetes-list-type";
        match text(members, keyword) {
            None | Some("atomic") => ListType::Atomic,
            Some("set") => ListType::Set,
            Some("map") => ListType::Map,
            Some(other) => {
                let all = ["atomic", "map", "set"].map(Value::from);
                self.error(FieldError::not_supported(join(path, keyword), &json!(other), &all));
                ListType::Atomic
            }
        }
    }

    fn check_list(&mut self, node: &SchemaNode, path: &str) {
        let field = join(path, "x-kubernetes-list-map-keys");
        if node.list_type != ListType::Map {
            if !node.map_keys.is_empty() {
                let why = "must not be specified if x-kubernetes-list-type is not map";
                self.error(FieldError::forbidden(field, why));
            }
            return;
        }
        if node.map_keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.error(FieldError::required(&field, why));
        }
        let Some(items) = node.items.as_deref() else { return };
        for (index, key) in node.map_keys.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let Some(property) = items.properties.get(key) else {
                let why = "entries of this list must all be names of item properties";
                self.error(FieldError::invalid(field, &json!(key), why));
                continue;
            };
            if matches!(property.kind, Some(SchemaType::Object | SchemaType::Array)) {
                let why = "items properties used as a key must be of a scalar type";
                self.error(FieldError::invalid(&field, &json!(key), why));
            }
            if property.default.is_none() && !items.checks.required.contains(key) {
                let path = join(path, &format!("items.properties[{key}].default"));
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a \
                           default or be a required property";
                self.error(FieldError::required(path, why));
            }
        }
    }

    fn check_embedded(&mut self, node: &SchemaNode, path: &str) {
        if !node.embedded_resource {
            return;
        }
        if node.kind != Some(SchemaType::Object) {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            self.error(FieldError::required(join(path, "type"), why));
        }
        if node.properties.is_empty() && !node.preserve_unknown {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            self.error(FieldError::required(join(path, "properties"), why));
        }
    }

    /// Removes the types from the branches of an int-or-string node. The only form that allows types in branches
    /// (`anyOf: [integer, string]`) repeats what int-or-string requires already; without types the branches accept
    /// every value.
    fn branches_of_int_or_string(&mut self, checks: &mut ValueConstraints) {
        for branch in checks.any_of.iter_mut().chain(&mut checks.all_of) {
            branch.kind = None;
        }
    }

    fn checks(
        &mut self,
        members: &Map<String, Value>,
        path: &str,
        position: SchemaNodePosition,
    ) -> ValueConstraints {
        let types = if flag(members, "x-kubernetes-int-or-string") {
            BranchType::Allowed
        } else {
            BranchType::Forbidden
        };
        let inherited = position.role == SchemaRole::Branch(BranchType::Allowed);
        let types = if inherited { BranchType::Allowed } else { types };
        let mut branches = |keyword: &str| self.branches(members, keyword, path, position, types);
        let (all_of, any_of, one_of) = (branches("allOf"), branches("anyOf"), branches("oneOf"));
        let not = members.get("not").map(|schema| {
            let inside = SchemaNodePosition {
                role: SchemaRole::Branch(types),
                ..position.inside(position.role)
            };
            Box::new(self.node(schema, &join(path, "not"), inside))
        });
        let count = |keyword: &str| members.get(keyword).and_then(Value::as_u64);
        ValueConstraints {
            required: strings(members.get("required")),
            enumeration: members.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            minimum: bound(members, "minimum", "exclusiveMinimum"),
            maximum: bound(members, "maximum", "exclusiveMaximum"),
            multiple_of: members
                .get("multipleOf")
                .and_then(Value::as_f64)
                .filter(|factor| 0.0 < *factor),
            length_min: count("minLength"),
            length_max: count("maxLength"),
            items_min: count("minItems"),
            items_max: count("maxItems"),
            properties_min: count("minProperties"),
            properties_max: count("maxProperties"),
            pattern: self.pattern(members, path),
            format: text(members, "format").map(str::to_owned),
            all_of,
            any_of,
            one_of,
            not,
        }
    }

    fn branches(
        &mut self,
        members: &Map<String, Value>,
        keyword: &str,
        path: &str,
        position: SchemaNodePosition,
        types: BranchType,
    ) -> Vec<SchemaNode> {
        let schemas = members.get(keyword).and_then(Value::as_array).into_iter().flatten();
        let inside = SchemaNodePosition {
            role: SchemaRole::Branch(types),
            ..position.inside(position.role)
        };
        let branches = schemas.enumerate();
        branches
            .map(|(index, schema)| {
                self.node(schema, &join(path, &format!("{keyword}[{index}]")), inside)
            })
            .collect()
    }

    fn pattern(&mut self, members: &Map<String, Value>, path: &str) -> Option<Regex> {
        let pattern = text(members, "pattern")?;
        match Regex::new(pattern) {
            Ok(regex) => Some(regex),
            Err(source) => {
                let detail = format!("must be a valid regular expression, but isn't: {source}");
                let field = join(path, "pattern");
                let message = format!("Invalid value: {}: {detail}", json!(pattern));
                self.error(FieldError::build(field, FieldErrorReason::Invalid, message));
                None
            }
        }
    }
}

/// Appends a keyword to a path inside the schema.
fn join(path: &str, keyword: &str) -> String {
    child(path, keyword)
}

fn flag(members: &Map<String, Value>, keyword: &str) -> bool {
    members.get(keyword) == Some(&Value::Bool(true))
}

fn text<'a>(members: &'a Map<String, Value>, keyword: &str) -> Option<&'a str> {
    members.get(keyword).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Reads a limit and whether it is exclusive: `exclusive` is a boolean in OpenAPI v3.0 and a number in v3.1.
fn bound(
    members: &Map<String, Value>,
    keyword: &str,
    exclusive: &str,
) -> Option<SchemaNumericBound> {
    if let Some(value) = members.get(exclusive).and_then(Value::as_f64) {
        return Some(SchemaNumericBound { value, exclusive: true });
    }
    let value = members.get(keyword).and_then(Value::as_f64)?;
    Some(SchemaNumericBound { value, exclusive: flag(members, exclusive) })
}
