//! A well-behaved plugin for tests: creates a ConfigMap from a `Greeting`, owns it, and writes the result into
//! the status.
//!
//! The tests of hot swap change [`GREETING`] by the environment variable `GREETING` at build time. With the
//! greeting `Trap` every reconcile traps.

use serde_json::{Value, json};
use tholepin_sdk::{
    Error, GrantScope, Grants, Host, KindName, KubernetesGrant, Manifest, ObjectRef, ReadMode,
    ReconcileFailure, ReconcileOutcome, ReconcileRequest, ReconciledKind, Reconciler, Violation,
    WatchMapping, WatchedKind, manifest,
};

/// The text before the `Greeting`'s own in the ConfigMap.
pub const GREETING: &str = match option_env!("GREETING") {
    Some(greeting) => greeting,
    None => "Hello",
};

/// The kind that the plugin reconciles, and whose CRD it contains.
const API_VERSION: &str = "tests.tholepin.dev/v1";
const KIND: &str = match option_env!("PLUGIN_KIND") {
    Some(kind) => kind,
    None => "Greeting",
};

/// The plugin.
pub struct ConfigMaker;

tholepin_sdk::export!(ConfigMaker);

impl Reconciler for ConfigMaker {
    fn describe() -> Manifest {
        Manifest {
            name: option_env!("PLUGIN_NAME").unwrap_or("config-maker").to_owned(),
            version: GREETING.to_owned(),
            reconciles: vec![ReconciledKind { name: kind(API_VERSION, KIND), crd: Some(crd()) }],
            finalizer: true,
            watches: vec![WatchedKind {
                name: kind("v1", "ConfigMap"),
                leads: WatchMapping::Owner,
            }],
            grants: Grants {
                kubernetes: vec![
                    // With force: manual edits of the ConfigMap are overwritten.
                    KubernetesGrant {
                        force: true,
                        ..grant("v1", "ConfigMap", &["get", "apply", "delete"])
                    },
                    grant(API_VERSION, KIND, &["get", "apply-status", "publish"]),
                ],
                ..Grants::default()
            },
            parameters: Some(json!({
                "type": "object",
                "properties": {"suffix": {"type": "string"}},
                "additionalProperties": false
            })),
            ..manifest()
        }
    }

    fn validate(_old: Option<Value>, new: Value) -> Vec<Violation> {
        if text(&new).is_empty() {
            let message = "must not be empty; say what to greet".to_owned();
            return vec![Violation { field: ".spec.text".to_owned(), message }];
        }
        Vec::new()
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        let greeting = &request.object;
        let name = ObjectRef::of(greeting).ok_or_else(|| ReconcileFailure {
            reason: "NoName".to_owned(),
            message: "the object has no name".to_owned(),
            retry: false,
        })?;
        if request.deleting {
            return clean_up(host, &name);
        }
        if GREETING == "Trap" {
            std::process::abort();
        }
        let suffix = host.parameters()?;
        let suffix = suffix.get("suffix").and_then(Value::as_str).unwrap_or_default();
        let data = format!("{GREETING}, {}{suffix}", text(greeting));
        host.apply(&config_map(greeting, &name, &data), true)?;
        host.apply_status(&status(greeting, &name, &data))?;
        host.info(&format!("{name} greets with {data}", name = name.name));
        Ok(ReconcileOutcome { summary: data, ..ReconcileOutcome::default() })
    }
}

/// Deletes the ConfigMap; the clean-up is finished when it does not exist any more.
fn clean_up(host: &dyn Host, greeting: &ObjectRef) -> Result<ReconcileOutcome, ReconcileFailure> {
    let made = ObjectRef::new("v1", "ConfigMap", &greeting.namespace, &greeting.name);
    match host.get(&made, ReadMode::Cached, &[".metadata"]) {
        Ok(_) => host.delete(&made, &tholepin_sdk::DeleteOptions::default())?,
        Err(Error::NotFound(_)) => {
            let summary = "cleaned up".to_owned();
            return Ok(ReconcileOutcome { finished: true, summary, ..ReconcileOutcome::default() });
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ReconcileOutcome {
        summary: "waits for the ConfigMap to go".to_owned(),
        ..ReconcileOutcome::default()
    })
}

fn text(greeting: &Value) -> &str {
    greeting.pointer("/spec/text").and_then(Value::as_str).unwrap_or_default()
}

fn config_map(greeting: &Value, name: &ObjectRef, data: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name.name,
            "namespace": name.namespace,
            "ownerReferences": [{
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": name.name,
                "uid": greeting.pointer("/metadata/uid"),
                "controller": true
            }]
        },
        "data": {"greeting": data}
    })
}

fn status(greeting: &Value, name: &ObjectRef, data: &str) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name.name, "namespace": name.namespace},
        "status": {
            "greeting": data,
            "observedGeneration": greeting.pointer("/metadata/generation")
        }
    })
}

fn kind(api_version: &str, kind: &str) -> KindName {
    KindName { api_version: api_version.to_owned(), kind: kind.to_owned() }
}

fn grant(api_version: &str, name: &str, verbs: &[&str]) -> KubernetesGrant {
    KubernetesGrant {
        name: kind(api_version, name),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        scope: GrantScope::Owned,
        force: false,
    }
}

fn crd() -> Value {
    let singular = KIND.to_lowercase();
    let plural = format!("{singular}s");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.tests.tholepin.dev")},
        "spec": {
            "group": "tests.tholepin.dev",
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": plural,
                "singular": singular,
            },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["text"],
                            "properties": {"text": {"type": "string"}}
                        },
                        "status": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true
                        }
                    }
                }}
            }]
        }
    })
}
