//! The kinds of `tholepin.dev`, as the engine itself defines them. Redis kinds are the plugins' own.
//!
//! A definition is written once, as the structural schema that the API server gets; the Rust types
//! that read such an object stand beside the code that acts on it.

use serde_json::{Value, json};

/// The API group of the engine's kinds.
pub const GROUP: &str = "tholepin.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition that the engine needs, in order of name.
#[must_use]
pub fn definitions() -> Vec<Value> {
    vec![plugin()]
}

/// All definitions as one YAML stream, as `tholepin crds` prints them.
///
/// # Errors
///
/// Fails if a definition cannot be written as YAML, which would be a bug of ours.
pub fn definitions_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut stream = String::new();
    for definition in definitions() {
        stream.push_str("---\n");
        stream.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(stream)
}

/// The definition of `Plugin`: where its component comes from, what it may do, and which stage it
/// has reached.
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
                    "description": "A policy, shipped as a Wasm component, and what it may do.",
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
        "description": "What is wanted. Under `--plugins DIR` the host keeps it equal to DIR/NAME.yaml.",
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
                "description": "`asRequested` (local host only), or what the plugin may do.",
                "x-kubernetes-preserve-unknown-fields": true,
            },
            "limits": {
                "type": "object",
                "description": "What one call may use; the host's defaults where absent.",
                "properties": {
                    "memoryMiB": {"type": "integer", "minimum": 1, "maximum": 1024,
                        "description": "Linear memory in MiB."},
                    "wallClockMs": {"type": "integer", "minimum": 10, "maximum": 600_000,
                        "description": "Wall-clock time in milliseconds, host calls included."},
                    "computeMs": {"type": "integer", "minimum": 1, "maximum": 60_000,
                        "description": "Time computing between two host calls, in milliseconds."}
                }
            },
            "parameters": {
                "type": "object",
                "description": "Handed to the plugin; must fit the schema in its manifest.",
                "x-kubernetes-preserve-unknown-fields": true
            }
        }
    })
}

fn plugin_status() -> Value {
    json!({
        "type": "object",
        "description": "What the host made of it.",
        "properties": {
            "stage": text("The last stage that the newest revision reached: Fetched, Verified, Compiled, Checked or Active; Unloaded for a removed file."),
            "active": text("The digest of the revision that serves; absent while none does."),
            "revision": text("The first digits of `active`, as lists and logs show it."),
            "candidate": text("The digest of the newest revision, when it is not the one that serves."),
            "candidateRevision": text("The first digits of `candidate`."),
            "version": text("The version that the serving revision's manifest tells."),
            "component": text("The SHA-256 of the serving revision's component, in hex; `active` names component and settings together."),
            "activatedAt": {"type": "string", "format": "date-time",
                "description": "When the serving revision began to serve."},
            "previous": text("The digest of the revision that served before it in this host."),
            "host": text("The host that wrote this."),
            "kinds": {
                "type": "array",
                "description": "The kinds that it reconciles, or did when it served last.",
                "items": {
                    "type": "object",
                    "required": ["apiVersion", "kind"],
                    "properties": {"apiVersion": text("Group and version."), "kind": text("The kind.")}
                }
            },
            "objects": {"type": "integer", "format": "int64",
                "description": "How many objects of its kinds there are; absent while that is not known."},
            "unhealthyObjects": {"type": "integer", "format": "int64",
                "description": "How many of them are quarantined, or failed when it was called last."},
            "reason": text("What is wrong, as a CamelCase name: why the newest revision does not serve, else what ails the objects; absent if nothing is."),
            "message": text("The reason in words, with the way out."),
            "conditions": {
                "type": "array",
                "description": "`Serving`: whether a revision is called; `Unknown` after its host was stopped. `Healthy`: whether all objects are well with it.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "properties": {
                        "type": text("Which condition."),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": text("Why, as a CamelCase name."),
                        "message": text("The reason in words."),
                        "lastTransitionTime": {"type": "string", "format": "date-time"}
                    }
                }
            },
            "observedGeneration": {"type": "integer", "format": "int64",
                "description": "The generation that this status tells about."}
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
