//! The kind `SiteConfig`: its spec, its definition, and the objects that it needs.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tholepin_sdk::{ObjectRef, ReconcileFailure, Violation};

/// The group and version of the kind.
pub(crate) const API_VERSION: &str = "samples.example/v1";
/// The name of the kind.
pub(crate) const KIND: &str = "SiteConfig";

/// The spec, which the user writes.
#[derive(Debug, Deserialize)]
pub(crate) struct SiteConfigSpec {
    /// The settings that the site's Pods read, by name.
    pub(crate) settings: BTreeMap<String, String>,
    /// The port on which the site's Pods listen; the definition has the default.
    pub(crate) port: u16,
}

/// The object to reconcile, as far as the plugin reads it.
#[derive(Debug)]
pub(crate) struct ParsedSiteConfig {
    pub(crate) name: ObjectRef,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) spec: SiteConfigSpec,
    /// The status that the last reconcile wrote.
    pub(crate) status: Value,
}

impl ParsedSiteConfig {
    /// Parses the object.
    ///
    /// # Errors
    ///
    /// Fails if the object is not of this kind.
    pub(crate) fn read(object: &Value) -> Result<Self, ReconcileFailure> {
        let unreadable = |message: String| ReconcileFailure {
            reason: "Unreadable".to_owned(),
            message: format!("the object is not a valid {KIND}: {message}"),
            retry: false,
        };
        let name = ObjectRef::of(object).ok_or_else(|| unreadable("it has no name".to_owned()))?;
        let spec = object.get("spec").cloned().unwrap_or_default();
        let spec = serde_json::from_value(spec).map_err(|error| unreadable(error.to_string()))?;
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            name,
            uid: text("/metadata/uid").to_owned(),
            generation: object
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            spec,
            status: object.get("status").cloned().unwrap_or_default(),
        })
    }

    /// Returns the objects that must exist, with the fields that this plugin sets. Add your own here.
    pub(crate) fn desired_objects(&self) -> Vec<Value> {
        let metadata = json!({
            "name": self.name.name,
            "namespace": self.name.namespace,
            // The owner: Kubernetes deletes the object with it, and the host lets the plugin write it.
            "ownerReferences": [{
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": self.name.name,
                "uid": self.uid,
                "controller": true,
            }],
        });
        let SiteConfigSpec { settings, port } = &self.spec;
        vec![
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": settings,
            }),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {
                    "selector": {"app": self.name.name},
                    "ports": [{"name": "http", "port": port, "targetPort": port}],
                },
            }),
        ]
    }
}

/// Returns a digest of the desired objects. The status keeps it, so that the next reconcile knows whether
/// they have changed.
pub(crate) fn digest(desired: &[Value]) -> String {
    let mut hasher = DefaultHasher::new();
    for object in desired {
        object.to_string().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Returns the problems of a spec that the definition cannot express. The host calls this for each new spec
/// before it reconciles, and shows the problems in the object's conditions.
pub(crate) fn violations(object: &Value) -> Vec<Violation> {
    let settings = object.pointer("/spec/settings").and_then(Value::as_object);
    let names = settings.into_iter().flat_map(|settings| settings.keys());
    let is_allowed = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !name.is_empty() && name.bytes().all(allowed)
    };
    names
        .filter(|name| !is_allowed(name))
        .map(|name| Violation {
            field: ".spec.settings".to_owned(),
            message: format!(
                "`{name}` is not a valid name of a setting: use letters, digits, `-`, `_`, `.`"
            ),
        })
        .collect()
}

/// Returns the CustomResourceDefinition, which defines the kind for Kubernetes.
pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "siteconfigs.samples.example"},
        "spec": {
            "group": "samples.example",
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": "SiteConfigList",
                "plural": "siteconfigs",
                "singular": "siteconfig",
            },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Ready", ".status.conditions[?(@.type==\"Ready\")].status", "string"),
                    column("Repairs", ".status.repairs", "integer"),
                    column("Message", ".status.conditions[?(@.type==\"Ready\")].message", "string"),
                    column("Age", ".metadata.creationTimestamp", "date"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {"spec": spec_schema(), "status": status_schema()},
                }},
            }],
        },
    })
}

fn column(name: &str, path: &str, value_type: &str) -> Value {
    json!({"name": name, "jsonPath": path, "type": value_type})
}

fn spec_schema() -> Value {
    json!({
        "type": "object",
        "description": "Desired state.",
        "required": ["settings"],
        "properties": {
            "settings": {
                "type": "object",
                "description": "Settings that the site's Pods read, by name.",
                "minProperties": 1,
                "maxProperties": 100,
                "additionalProperties": {"type": "string"},
            },
            "port": {
                "type": "integer",
                "description": "Port on which the site's Pods listen.",
                "default": 80,
                "minimum": 1,
                "maximum": 65_535,
            },
        },
    })
}

fn status_schema() -> Value {
    json!({
        "type": "object",
        "description": "Observed state.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "Generation of the spec that this status describes.",
            },
            "repairs": {
                "type": "integer",
                "format": "int64",
                "description": "Number of foreign changes that were corrected.",
            },
            "wantedDigest": {
                "type": "string",
                "description": "Digest of the objects that were applied last.",
            },
            "conditions": {
                "type": "array",
                "description": "`Ready`: all objects exist and are in the desired state.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "properties": {
                        "type": {"type": "string"},
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": {"type": "string"},
                        "message": {"type": "string"},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                        "observedGeneration": {"type": "integer", "format": "int64"},
                    },
                },
            },
        },
    })
}
