//! Checks that the definitions match the types, and that `crds/` matches the definitions.
#![cfg(test)]

use std::{fs, path::Path};

use serde_json::{Value, json};
use tholepin_redis_types::{definition, redis_cluster::RedisClusterSpec};

#[test]
fn the_committed_files_are_up_to_date() {
    let definition = definition::redis_cluster();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    let path = directory.join(definition::file_name(&definition));
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == serde_saphyr::to_string(&definition).unwrap(),
        "{} is out of date: run `cargo run -p tholepin-redis-types --features schema --example crds \
         -- crds`",
        path.display()
    );
}

/// The API server fills the same defaults into an empty spec as the types do.
#[test]
fn defaults_are_the_same_on_both_sides() {
    let mut filled = json!({});
    fill(spec(), &mut filled);
    let from_server: RedisClusterSpec = serde_json::from_value(filled).unwrap();
    let from_types: RedisClusterSpec = serde_json::from_value(json!({})).unwrap();
    assert_eq!(from_server, from_types);
    assert_eq!((from_types.shards, from_types.replicas_per_shard), (3, 1));

    let mut storage = json!({"storage": {"size": "1Gi"}, "auth": {"secretName": "s"}});
    fill(spec(), &mut storage);
    assert_eq!(storage["storage"]["onDelete"], "Retain");
    assert_eq!(storage["auth"]["key"], "password");
}

/// Kubernetes checks that a schema is structural only when the definition is applied, which is late.
#[test]
fn the_schema_is_structural() {
    let definition = definition::redis_cluster();
    let root = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    check_node("", root);
}

fn check_node(path: &str, node: &Value) {
    let allowed = [
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "maxProperties",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "additionalProperties",
        "x-kubernetes-validations",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-int-or-string",
    ];
    let map = node.as_object().unwrap_or_else(|| panic!("{path} is {node}"));
    for key in map.keys() {
        assert!(allowed.contains(&key.as_str()), "{path}: {key}");
    }
    let has_type = node["type"].is_string() || node["x-kubernetes-int-or-string"] == true;
    assert!(has_type, "{path} has no type: {node}");
    for key in node["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
        let required = node["items"]["required"].as_array().unwrap();
        assert!(required.contains(key), "{path}: the key {key} must be required");
    }
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        check_node(&format!("{path}.{name}"), property);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner_node) = map.get(inner) {
            check_node(&format!("{path}.{inner}"), inner_node);
        }
    }
}

fn spec() -> Value {
    let definition = definition::redis_cluster();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Fills in defaults like the API server, from the outside inwards.
fn fill(schema: Value, value: &mut Value) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let object = value.as_object_mut().unwrap();
        if let (false, Some(default)) = (object.contains_key(name), property.get("default")) {
            object.insert(name.clone(), default.clone());
        }
        if let Some(inner) = object.get_mut(name).filter(|inner| inner.is_object()) {
            fill(property.clone(), inner);
        }
    }
}
