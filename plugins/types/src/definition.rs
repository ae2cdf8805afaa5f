//! The CustomResourceDefinitions, generated from the types.
//!
//! `schemars` generates JSON Schema, of which Kubernetes accepts only the structural subset. [`structural`]
//! converts the one into the other: it drops, merges and renames, and adds nothing.

pub mod rules;
mod structural;

use alloc::{format, string::String, vec::Vec};

use serde_json::{Value, json};

use crate::redis_cluster::{KIND, RedisClusterSpec, RedisClusterStatus};
use crate::{GROUP, VERSION, setting};

/// Returns the definition of `RedisCluster`.
#[must_use]
pub fn redis_cluster() -> Value {
    let mut spec = structural::schema_of::<RedisClusterSpec>();
    structural::add_rules(&mut spec, &rules::spec());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("redisclusters.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": "redisclusters",
                "singular": "rediscluster",
                "shortNames": ["rdc"],
                "categories": ["tholepin"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Ready", ".status.conditions[?(@.type==\"Ready\")].status", "string"),
                    column("Reason", ".status.conditions[?(@.type==\"Ready\")].reason", "string"),
                    column("Degraded", ".status.conditions[?(@.type==\"Degraded\")].status", "string"),
                    column("Shards", ".status.readyShards", "string"),
                    column("Slots", ".status.slotsServed", "integer"),
                    // The host's own condition: it shows an invalid spec or a failing reconcile.
                    column("Reconciled", ".status.conditions[?(@.type==\"Reconciled\")].reason", "string"),
                    column("Paused", ".metadata.annotations.tholepin\\.dev/paused", "string"),
                    column("Age", ".metadata.creationTimestamp", "date"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "A Redis Cluster that Tholepin creates and keeps alive.",
                    "required": ["spec"],
                    "properties": {
                        "spec": spec,
                        "status": structural::schema_of::<RedisClusterStatus>(),
                    },
                    "x-kubernetes-validations": rules::object(),
                }},
            }],
        },
    })
}

fn column(name: &str, path: &str, kind: &str) -> Value {
    json!({"name": name, "jsonPath": path, "type": kind})
}

/// Returns the description of `.spec.settings`, which lists the settings: a message that refuses a setting points
/// to it.
pub(crate) fn settings_description() -> String {
    let names: Vec<String> =
        setting::OFFERED.iter().map(|offered| format!("`{}`", offered.name)).collect();
    format!(
        "Server settings by name, as in `redis.conf`. Settings that Tholepin manages are refused with the field \
         to use instead. Those that can be used are {}.",
        names.join(", ")
    )
}

/// Returns the name of a definition's file in `crds/`.
#[must_use]
pub fn file_name(definition: &Value) -> String {
    let name = definition.pointer("/metadata/name").and_then(Value::as_str);
    format!("{}.yaml", name.unwrap_or_default())
}
