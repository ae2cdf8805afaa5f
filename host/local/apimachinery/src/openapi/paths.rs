//! The OpenAPI paths of one resource, limited to what kubectl reads.

use serde_json::{Map, Value, json};

use super::group_version_kind;
use crate::Kind;

/// Adds the paths of a kind's resource and subresources.
pub(super) fn add(kind: &Kind, paths: &mut Map<String, Value>) {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let everywhere = format!("{root}/{}", kind.plural);
    let collection = if kind.namespaced {
        paths.insert(everywhere, json!({"get": operation(kind, "list", &LIST)}));
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        everywhere
    };
    let item = format!("{collection}/{{name}}");
    paths.insert(
        collection,
        json!({
            "get": operation(kind, "list", &LIST),
            "post": operation(kind, "post", &WRITE),
            "delete": operation(kind, "deletecollection", &LIST),
        }),
    );
    let mut methods = item_methods(kind);
    if let Some(methods) = methods.as_object_mut() {
        methods.insert(
            "delete".to_owned(),
            operation(kind, "delete", &["dryRun", "propagationPolicy"]),
        );
    }
    if kind.has_subresource("status") {
        paths.insert(format!("{item}/status"), item_methods(kind));
    }
    if kind.has_subresource("log") {
        let parameters = ["container", "follow", "previous", "tailLines", "timestamps"];
        let methods = json!({"get": operation(kind, "connect", &parameters)});
        paths.insert(format!("{item}/log"), methods);
    }
    paths.insert(item, methods);
}

const LIST: [&str; 6] =
    ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const PATCH_TYPES: [&str; 3] =
    ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];

fn item_methods(kind: &Kind) -> Value {
    let mut patch = operation(kind, "patch", &PATCH);
    if let Some(patch) = patch.as_object_mut() {
        let media = |name: &str| (name.to_owned(), json!({"schema": {"type": "object"}}));
        let content: Map<String, Value> = PATCH_TYPES.into_iter().map(media).collect();
        patch.insert("requestBody".to_owned(), json!({"content": content}));
    }
    json!({
        "get": operation(kind, "get", &[]),
        "put": operation(kind, "put", &WRITE),
        "patch": patch,
    })
}

fn operation(kind: &Kind, action: &str, parameters: &[&str]) -> Value {
    let parameter = |name: &&str| {
        let flag = matches!(*name, "force" | "watch" | "follow" | "previous" | "timestamps");
        let number = matches!(*name, "limit" | "tailLines");
        let type_name = if flag {
            "boolean"
        } else if number {
            "integer"
        } else {
            "string"
        };
        json!({"name": name, "in": "query", "schema": {"type": type_name, "uniqueItems": true}})
    };
    json!({
        "parameters": parameters.iter().map(parameter).collect::<Vec<Value>>(),
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": group_version_kind(kind),
    })
}
