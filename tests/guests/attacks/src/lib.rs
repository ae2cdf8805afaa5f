//! A plugin with ordinary grants that tries to get past them: the object's `spec.attack` names one of [`ATTACKS`].
//!
//! The answer is logged as one line: `attack`, the name, and the answer of the host.

mod table;

use serde_json::{Value, json};
use tholepin_sdk::{
    DeleteOptions, Error, GrantScope, Grants, Host, KindName, KubernetesGrant, Manifest, ObjectRef,
    Pipeline, ReadMode, ReconcileFailure, ReconcileOutcome, ReconcileRequest, ReconciledKind,
    Reconciler, RedisGrants, WatchMapping, WatchedKind, manifest,
    schema::{action::Verb, manifest::SafetyPaths},
};

pub use table::{ATTACKS, Attack};

/// The kind that the plugin reconciles.
pub const KIND: &str = "Attack";
/// Its API version.
pub const API_VERSION: &str = "tests.tholepin.dev/v1";

/// The kinds on which the manifest asks for all verbs, and the scope.
const KINDS: &[(&str, &str, GrantScope)] = &[
    (API_VERSION, KIND, GrantScope::Owned),
    ("v1", "ConfigMap", GrantScope::Owned),
    ("v1", "Pod", GrantScope::Owned),
    ("v1", "Secret", GrantScope::Owned),
    ("v1", "Service", GrantScope::Namespace),
];

/// The plugin.
pub struct Attacks;

tholepin_sdk::export!(Attacks);

impl Reconciler for Attacks {
    fn describe() -> Manifest {
        let name = kind(API_VERSION, KIND);
        let verbs = std::iter::once("observe").chain(Verb::NAMES.iter().copied());
        let owned = KINDS.iter().filter(|(_, kind, _)| *kind != KIND);
        Manifest {
            name: "attacks".to_owned(),
            reconciles: vec![ReconciledKind { name, crd: None }],
            watches: owned.map(watched).collect(),
            grants: Grants {
                kubernetes: KINDS.iter().map(granted).collect(),
                redis: RedisGrants {
                    commands: vec!["+@all".to_owned()],
                    verbs: verbs.map(str::to_owned).collect(),
                },
                safety: SafetyPaths {
                    data_loss: Some(".spec.dataLoss".to_owned()),
                    ..SafetyPaths::default()
                },
                ..Grants::default()
            },
            ..manifest()
        }
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        let text = |pointer: &str| {
            request.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
        };
        let name = text("/spec/attack");
        if let Some(attack) = ATTACKS.iter().find(|attack| attack.name == name) {
            let call = attack.call.replace("{{uid}}", text("/metadata/uid"));
            let answer = match serde_json::from_str(&call) {
                Ok(call) => make(host, &call),
                Err(error) => format!("the row is not JSON: {error}"),
            };
            host.info(&format!("attack {name}: {answer}"));
        }
        Ok(ReconcileOutcome::default())
    }
}

fn kind(api_version: &str, name: &str) -> KindName {
    KindName { api_version: api_version.to_owned(), kind: name.to_owned() }
}

fn watched((api_version, name, _): &(&str, &str, GrantScope)) -> WatchedKind {
    WatchedKind { name: kind(api_version, name), leads: WatchMapping::Owner }
}

fn granted((api_version, name, scope): &(&str, &str, GrantScope)) -> KubernetesGrant {
    let verbs = ["get", "list", "apply", "apply-status", "merge-patch", "delete"];
    KubernetesGrant {
        name: kind(api_version, name),
        verbs: verbs.map(str::to_owned).to_vec(),
        scope: *scope,
        force: true,
    }
}

/// Makes the call of a row and returns the answer as text.
fn make(host: &dyn Host, call: &Value) -> String {
    let part = |name: &str| call.get(name).cloned().unwrap_or_default();
    let word = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let object = |value: &Value| {
        let namespace = value.get("namespace").and_then(Value::as_str).unwrap_or("default");
        ObjectRef::new(
            &word(value, "apiVersion"),
            &word(value, "kind"),
            namespace,
            &word(value, "name"),
        )
    };
    let verb = call.as_object().and_then(|fields| fields.keys().next()).map(String::as_str);
    match verb {
        Some("apply") => answer(host.apply(&part("apply"), true).map(drop)),
        Some("applyStatus") => answer(host.apply_status(&part("applyStatus")).map(drop)),
        Some("delete") => {
            let target = part("delete");
            let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            answer(host.delete(&object(&target), &options))
        }
        Some("get") => answer(host.get(&object(&part("get")), ReadMode::Live, &[])),
        Some("patch") => {
            let target = part("patch");
            let patch = target.get("patch").cloned().unwrap_or_default();
            answer(host.merge_patch(&object(&target), &patch).map(drop))
        }
        Some("command") => {
            let words: Vec<String> = serde_json::from_value(part("command")).unwrap_or_default();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            answer(host.pipeline(&Pipeline::new(&instance(), "a-0", &[&words])))
        }
        Some("observe") => answer(host.observe(&part("observe")).map(drop)),
        Some("act") => {
            let actions: Vec<Value> = serde_json::from_value(part("act")).unwrap_or_default();
            answer(host.act(&instance(), &actions).map(|results| format!("{results:?}")))
        }
        _ => format!("there is no call {call}"),
    }
}

/// The instance of the object's own Pod.
fn instance() -> Value {
    json!({"namespace": "default", "selector": "app=a", "container": "redis", "port": 6379})
}

fn answer<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("ok {value:?}"),
        Err(error) => format!("{} {error}", error.reason()),
    }
}
