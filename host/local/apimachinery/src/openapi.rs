//! The OpenAPI v3 documents of the server, for `kubectl explain` and `kubectl apply`.
//!
//! Schemas of built-in kinds come from `k8s-openapi`, those of custom kinds from their CRD. The paths hold what
//! kubectl reads: the kind of each resource, and the parameters of PATCH, from which kubectl concludes that the
//! server supports field validation and dry run. The documents are incomplete: request bodies and most parameters
//! are left out.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

use crate::Kind;

pub(crate) mod builtin;
mod paths;

/// Returns the index at `/openapi/v3` for pairs of a group-version (`v1`, `apps/v1`) and the hash of its document.
pub fn index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let entry = |(group_version, hash): (&str, &str)| {
        let root = if group_version.contains('/') { "apis" } else { "api" };
        let path = format!("{root}/{group_version}");
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({"serverRelativeURL": url}))
    };
    let paths: Map<String, Value> = documents.into_iter().map(entry).collect();
    json!({"paths": paths})
}

/// Returns the hash of a document: the SHA-512 of its JSON text in upper-case hex, as in the real server.
pub fn hash(document: &Value) -> String {
    let digest = Sha512::digest(document.to_string());
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Returns the document of one group-version. Each custom kind comes with the `openAPIV3Schema` of its CRD; built-in
/// kinds need no schema argument.
pub fn document(group: &str, version: &str, kinds: &[(&Kind, Option<&Value>)]) -> Value {
    let mut schemas = Map::new();
    let mut path_items = Map::new();
    for (kind, schema) in kinds {
        let name = schema_name(kind);
        let schema = match schema {
            Some(schema) => Some(custom_schema(kind, schema)),
            None => builtin::schemas().get(&name).cloned(),
        };
        if let Some(mut schema) = schema {
            if let Some(members) = schema.as_object_mut() {
                let kinds = json!([group_version_kind(kind)]);
                members.insert("x-kubernetes-group-version-kind".to_owned(), kinds);
            }
            schemas.insert(name, schema);
        }
        paths::add(kind, &mut path_items);
    }
    add_referenced(&mut schemas);
    let title = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "openapi": "3.0.0",
        "info": {"title": format!("Kubernetes API: {title}"), "version": "unversioned"},
        "paths": path_items,
        "components": {"schemas": schemas},
    })
}

/// Returns the name of a kind's schema: `io.k8s.api.core.v1.Pod`, `dev.tholepin.redis.v1alpha1.RedisCluster`.
fn schema_name(kind: &Kind) -> String {
    if let Some(name) = builtin::schema_name(kind) {
        return name;
    }
    let reversed: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
}

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// Returns a CRD's schema with `apiVersion`, `kind` and `metadata` added.
fn custom_schema(kind: &Kind, schema: &Value) -> Value {
    let mut schema = schema.clone();
    let Some(members) = schema.as_object_mut() else { return json!({"type": "object"}) };
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else { return schema };
    let meta = builtin::schemas();
    for name in ["apiVersion", "kind"] {
        let of_any =
            meta.get(builtin::ANY_KIND).and_then(|any| any.pointer("/properties")?.get(name));
        properties
            .insert(name.to_owned(), of_any.cloned().unwrap_or_else(|| json!({"type": "string"})));
    }
    let description = format!("Standard object's metadata of a {}.", kind.kind);
    let reference = format!("#/components/schemas/{}", builtin::OBJECT_META);
    let metadata = json!({"description": description, "allOf": [{"$ref": reference}]});
    properties.insert("metadata".to_owned(), metadata);
    schema
}

/// Adds the schemas that the present ones refer to, directly or through others.
fn add_referenced(schemas: &mut Map<String, Value>) {
    let mut pending = BTreeSet::new();
    schemas.values().for_each(|schema| collect_references(schema, &mut pending));
    while let Some(name) = pending.pop_first() {
        if schemas.contains_key(&name) {
            continue;
        }
        let Some(schema) = builtin::schemas().get(&name) else { continue };
        collect_references(schema, &mut pending);
        schemas.insert(name, schema.clone());
    }
}

fn collect_references(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(name) = members.get("$ref").and_then(builtin::reference) {
                found.insert(name.to_owned());
            }
            members.values().for_each(|member| collect_references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn the_index_points_at_each_document() {
        let index = index([("v1", "AB"), ("apps/v1", "CD")]);
        assert_eq!(
            index,
            json!({"paths": {
                "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=AB"},
                "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=CD"},
            }})
        );
        let hash = hash(&json!({"a": 1}));
        assert_eq!(hash.len(), 128);
        assert!(hash.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()));
    }

    #[test]
    fn every_builtin_kind_has_a_schema_and_no_reference_dangles() {
        for kind in kinds::builtin() {
            let document = document(&kind.group, &kind.version, &[(kind, None)]);
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let schema = &schemas[&schema_name(kind)];
            assert_eq!(
                schema["x-kubernetes-group-version-kind"],
                json!([group_version_kind(kind)]),
                "{}",
                kind.plural
            );
            let mut references = BTreeSet::new();
            collect_references(&document, &mut references);
            for name in references {
                assert!(schemas.contains_key(&name), "{}: {name}", kind.plural);
            }
        }
    }

    #[test]
    fn a_document_names_the_kind_and_the_patch_parameters_of_a_resource() {
        let pods = kinds::find("", "v1", "pods").unwrap();
        let document = document("", "v1", &[(pods, None)]);
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        let list = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["get"];
        assert_eq!(list["x-kubernetes-group-version-kind"], kind);
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
        let parameters = patch["parameters"].as_array().unwrap().iter();
        let names: Vec<&str> =
            parameters.map(|parameter| parameter["name"].as_str().unwrap()).collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(names.contains(&name), "{name}");
        }
        let media = patch["requestBody"]["content"].as_object().unwrap();
        assert!(media.contains_key("application/apply-patch+yaml"));
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
        assert!(
            spec["properties"]["containers"]["description"]
                .as_str()
                .unwrap()
                .contains("containers")
        );
    }

    #[test]
    fn a_custom_kind_is_described_by_its_crd() {
        let crd = json!({"spec": {"group": "redis.tholepin.dev", "scope": "Namespaced",
            "names": {"kind": "RedisCluster", "plural": "redisclusters"},
            "versions": [{"name": "v1alpha1", "subresources": {"status": {}}}]}});
        let kind = Kind::from_crd(&crd, "v1alpha1").unwrap();
        let schema = json!({"type": "object", "description": "A cluster.",
            "properties": {"spec": {"type": "object"}}});
        let document = document("redis.tholepin.dev", "v1alpha1", &[(&kind, Some(&schema))]);
        let schemas = &document["components"]["schemas"];
        let described = &schemas["dev.tholepin.redis.v1alpha1.RedisCluster"];
        assert_eq!(described["description"], "A cluster.");
        assert_eq!(described["properties"]["kind"]["type"], "string");
        assert!(schemas.get(builtin::OBJECT_META).is_some());
        let base = "/apis/redis.tholepin.dev/v1alpha1/namespaces/{namespace}/redisclusters";
        for path in [format!("{base}/{{name}}"), format!("{base}/{{name}}/status")] {
            assert!(document["paths"][&path]["patch"].is_object(), "{path}");
        }
    }
}
