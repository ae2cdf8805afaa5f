//! The CustomResourceDefinitions of the engine's own API group, `tholepin.dev`.
//!
//! Each definition is written once, as the JSON that is applied to the API server. The Rust types that read
//! such objects are defined beside the code that uses them. The Redis kinds are not here: the plugins define
//! them.

use serde_json::{Value, json};

/// The API group of the engine's kinds.
pub const GROUP: &str = "tholepin.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";

/// Returns every CustomResourceDefinition that the engine needs, ordered by name.
#[must_use]
pub fn definitions() -> Vec<Value> {
    vec![plugin()]
}

/// Returns all definitions as one YAML stream, as `tholepin crds` prints them.
///
/// # Errors
///
/// Fails if a definition cannot be written as YAML, which would be a bug of this crate.
pub fn definitions_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut stream = String::new();
    for definition in definitions() {
        stream.push_str("---\n");
        stream.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(stream)
}

/// Returns the definition of `Plugin`: the source of a component, its grants and limits, and its status.
#[must_use]
pub fn plugin() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("plugins.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": "Plugin",
                "listKind": "PluginList",
                "plural": "plugins",
                "singular": "plugin",
                "categories": ["tholepin"]
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Serving", ".status.revision", "string"),
                    column("Version", ".status.version", "string"),
                    column("Since", ".status.activatedAt", "date"),
                    column("Candidate", ".status.candidateRevision", "string"),
                    column("Objects", ".status.objects", "integer"),
                    column("Unhealthy", ".status.unhealthyObjects", "integer"),
                    column("Reason", ".status.reason", "string"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "A reconciler plugin, shipped as a Wasm component, with its grants and limits.",
                    "required": ["spec"],
                    "properties": {"spec": plugin_spec(), "status": plugin_status()}
                }}
            }]
        }
    })
}

fn column(name: &str, path: &str, kind: &str) -> Value {
    json!({"name": name, "jsonPath": path, "type": kind})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn plugin_spec() -> Value {
    json!({
        "type": "object",
        "description": "The desired state. With `--plugins DIR`, the host keeps it equal to DIR/NAME.yaml.",
        "required": ["source", "grants"],
        "properties": {
            "source": {
                "type": "object",
                "description": "Where the component comes from.",
                "required": ["file"],
                "properties": {
                    "file": text("The component's file name beside the YAML file, such as `NAME.wasm`.")
                }
            },
            "digest": {
                "type": "string",
                "description": "The component's SHA-256 in hex; any other file is refused.",
                "pattern": "^[0-9a-f]{64}$"
            },
            "grants": {
                "description": "`asRequested` (local host only), or the list of what the plugin may do: `kubernetes`, `redis`, `probes`, `safety`.",
                "x-kubernetes-preserve-unknown-fields": true,
            },
            "limits": {
                "type": "object",
                "description": "Limits of one call; where absent, the host's defaults.",
                "properties": {
                    "memoryMiB": {"type": "integer", "minimum": 1, "maximum": 1024,
                        "description": "Linear memory in MiB."},
                    "wallClockMs": {"type": "integer", "minimum": 10, "maximum": 600_000,
                        "description": "Wall-clock time in milliseconds, including host calls."},
                    "computeMs": {"type": "integer", "minimum": 1, "maximum": 60_000,
                        "description": "Computing time between two host calls, in milliseconds."}
                }
            },
            "parameters": {
                "type": "object",
                "description": "Passed to the plugin; must match the schema in its manifest.",
                "x-kubernetes-preserve-unknown-fields": true
            }
        }
    })
}

fn plugin_status() -> Value {
    json!({
        "type": "object",
        "description": "The state of the plugin, as the host last reported it.",
        "properties": {
            "stage": text("The last stage that the newest revision reached: Fetched, Verified, Compiled, Checked or Active; Unloaded for a removed file."),
            "active": text("The digest of the serving revision; absent while none serves."),
            "revision": text("The first digits of `active`, as lists and logs show them."),
            "candidate": text("The digest of the newest revision, if it is not the serving one."),
            "candidateRevision": text("The first digits of `candidate`."),
            "version": text("The version in the manifest of the serving revision."),
            "component": text("The SHA-256 of the serving revision's component, in hex; `active` identifies component and settings together."),
            "activatedAt": {"type": "string", "format": "date-time",
                "description": "The time at which the serving revision began to serve."},
            "previous": text("The digest of the revision that served before in this host."),
            "host": text("The host that wrote this status."),
            "kinds": {
                "type": "array",
                "description": "The kinds that the plugin reconciles, or reconciled when it last served.",
                "items": {
                    "type": "object",
                    "required": ["apiVersion", "kind"],
                    "properties": {"apiVersion": text("Group and version."), "kind": text("The kind.")}
                }
            },
            "objects": {"type": "integer", "format": "int64",
                "description": "The number of objects of its kinds; absent while it is not known."},
            "unhealthyObjects": {"type": "integer", "format": "int64",
                "description": "The number of these objects that are quarantined, or whose last reconcile failed."},
            "reason": text("What is wrong, as a CamelCase name: why the newest revision does not serve, else what is wrong with the objects; absent if nothing is wrong."),
            "message": text("The reason in words, and how to fix it."),
            "conditions": {
                "type": "array",
                "description": "`Serving`: whether a revision serves; `Unknown` after its host was stopped. `Healthy`: whether no object is quarantined or failing.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "properties": {
                        "type": text("The type of the condition."),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": text("The reason, as a CamelCase name."),
                        "message": text("The reason in words."),
                        "lastTransitionTime": {"type": "string", "format": "date-time"}
                    }
                }
            },
            "observedGeneration": {"type": "integer", "format": "int64",
                "description": "The generation that this status describes."}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_printed_as_one_yaml_stream() {
        let text = definitions_yaml().unwrap();
        assert_eq!(text.matches("---\n").count(), definitions().len());
        assert!(text.contains("name: plugins.tholepin.dev"), "{text}");
    }
}
