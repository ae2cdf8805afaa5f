//! A plugin that takes the place of `redis-cluster` and, with every grant, makes the calls that the object's
//! annotation [`CALLS`] lists: calls that the host must refuse nevertheless.
//!
//! The results are logged as one line: `rogue`, the value of the annotation [`TURN`], and one answer per call.

use serde_json::{Value, json};
use tholepin_sdk::{
    DeleteOptions, Error, GrantScope, Grants, Host, JsonDocument, KindName, KubernetesGrant,
    Manifest, ObjectRef, ReconcileFailure, ReconcileOutcome, ReconcileRequest, ReconciledKind,
    Reconciler, RedisGrants, WatchMapping, WatchedKind, manifest, schema::action::Verb,
};

/// The calls: a list of objects with one field each, `delete`, `patch`, `apply`, `observe` or `act`.
pub const CALLS: &str = "tests.tholepin.dev/calls";
/// A name of the list of calls, logged with the answers.
pub const TURN: &str = "tests.tholepin.dev/turn";

/// The kinds on which the manifest asks for all verbs.
const KINDS: &[(&str, &str)] = &[
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("apps/v1", "StatefulSet"),
];

/// The plugin.
pub struct Rogue;

tholepin_sdk::export!(Rogue);

impl Reconciler for Rogue {
    fn describe() -> Manifest {
        let kind = kind("redis.tholepin.dev/v1alpha1", "RedisCluster");
        let verbs = std::iter::once("observe").chain(Verb::NAMES.iter().copied());
        let verbs = verbs.map(str::to_owned).collect();
        Manifest {
            // The name of the plugin that it replaces.
            name: "redis-cluster".to_owned(),
            version: "rogue".to_owned(),
            reconciles: vec![ReconciledKind { name: kind, crd: None }],
            watches: KINDS.iter().map(watched).collect(),
            grants: Grants {
                kubernetes: KINDS.iter().map(granted).collect(),
                redis: RedisGrants { verbs, ..RedisGrants::default() },
                ..Grants::default()
            },
            ..manifest()
        }
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        let annotation = |name: &str| {
            let all = request.object.pointer("/metadata/annotations");
            all.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default()
        };
        let calls: Vec<Value> = serde_json::from_str(annotation(CALLS)).unwrap_or_default();
        let namespace = request.object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = namespace.unwrap_or_default();
        let answers: Vec<_> = calls.iter().map(|call| make(host, namespace, call)).collect();
        let summary = format!("rogue {}: {}", annotation(TURN), json!(answers));
        host.info(&summary);
        Ok(ReconcileOutcome::default())
    }
}

fn kind(api_version: &str, name: &str) -> KindName {
    KindName { api_version: api_version.to_owned(), kind: name.to_owned() }
}

fn watched((api_version, name): &(&str, &str)) -> WatchedKind {
    WatchedKind { name: kind(api_version, name), leads: WatchMapping::Owner }
}

fn granted((api_version, name): &(&str, &str)) -> KubernetesGrant {
    let verbs = ["get", "list", "apply", "merge-patch", "delete"];
    KubernetesGrant {
        name: kind(api_version, name),
        verbs: verbs.map(str::to_owned).to_vec(),
        scope: GrantScope::Namespace,
        force: true,
    }
}

/// Makes one call and returns its answer as text.
fn make(host: &dyn Host, namespace: &str, call: &Value) -> String {
    let object = |target: &Value| {
        let text = |field: &str| target.get(field).and_then(Value::as_str).unwrap_or_default();
        ObjectRef::new(text("apiVersion"), text("kind"), namespace, text("name"))
    };
    let part = |name: &str| call.get(name).cloned().unwrap_or_default();
    let verb = call.as_object().and_then(|fields| fields.keys().next()).map(String::as_str);
    match verb {
        Some("delete") => {
            let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            reported(host.delete(&object(&part("delete")), &options))
        }
        Some("patch") => {
            let patch = part("patch").get("patch").cloned().unwrap_or_default();
            reported(host.merge_patch(&object(&part("patch")), &patch).map(drop))
        }
        Some("apply") => reported(host.apply(&part("apply"), true).map(drop)),
        Some("observe") => reported(host.observe(&part("observe")).map(drop)),
        Some("act") => {
            let act = part("act");
            let instance = act.get("instance").cloned().unwrap_or_default();
            let actions = act.get("actions").and_then(Value::as_array).cloned();
            let results = host.act(&instance, &actions.unwrap_or_default());
            let result =
                |result: Result<JsonDocument, Error>| match result.and_then(JsonDocument::value) {
                    Ok(value) => value.to_string(),
                    Err(error) => reported::<()>(Err(error)),
                };
            match results {
                Ok(results) => results.into_iter().map(result).collect::<Vec<_>>().join(" "),
                Err(error) => reported::<()>(Err(error)),
            }
        }
        _ => format!("there is no call {call}"),
    }
}

fn reported<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("ok {value:?}"),
        Err(error) => format!("{} {error}", error.reason()),
    }
}
