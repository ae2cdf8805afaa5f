//! Tests of the gate with fake ports: which calls pass, and what reaches the ports.
#![cfg(test)]

mod away;
mod budget;
mod credentials;
mod death;
mod denied;
mod facts;
mod fixture;
mod keys;
mod members;
mod name_conflict;
mod ownership;
mod plan;
mod pod_security;
mod policy;
mod probe;
mod restore_settings;
mod stop;
mod wakes;

use std::sync::Arc;

use fixture::{FakeCluster, FixedClock, NOW_MS, object, pod};
use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, KubernetesCall, ObjectRef, PluginCallerIdentity,
    PluginRuntimeCall, ReadMode, ReconcileKey, RedisCall, Reply, RevisionDigest, WriteMode,
};
use tholepin_gate::{Gate, GatePorts, ReconcileContext, ReconcileScope};
use tholepin_schema::{
    manifest::{GrantScope, Grants, KindName, KubernetesGrant, RedisGrants},
    snapshot::Snapshot,
};
use tokio_util::sync::CancellationToken;

fn kind(api_version: &str, kind: &str) -> KindName {
    KindName { api_version: api_version.into(), kind: kind.into() }
}

fn config_map(name: &str) -> ObjectRef {
    ObjectRef { kind: kind("v1", "ConfigMap"), namespace: "n".into(), name: name.into() }
}

/// All verbs on ConfigMaps in this scope, the status of Things, and two verbs on Redis.
fn grants(scope: GrantScope) -> Grants {
    let all = ["get", "list", "apply", "merge-patch", "delete"].map(str::to_owned).to_vec();
    let name = kind("v1", "ConfigMap");
    let status = KubernetesGrant {
        name: kind("tests.tholepin.dev/v1", "Thing"),
        verbs: vec!["apply-status".into()],
        scope: GrantScope::Owned,
        force: false,
    };
    Grants {
        kubernetes: vec![KubernetesGrant { name, verbs: all, scope, force: false }, status],
        redis: RedisGrants {
            commands: vec!["+get".into()],
            verbs: vec!["configure".into(), "meet".into()],
        },
        ..Grants::default()
    }
}

struct GateFixture {
    world: Arc<FakeCluster>,
    ports: GatePorts,
    gate: Arc<Gate>,
    /// The scope that the reconcile was opened with.
    scope: ReconcileScope,
    context: Arc<ReconcileContext>,
    call_context: PluginCallerIdentity,
}

impl GateFixture {
    fn new(grants: Grants, mode: WriteMode) -> Self {
        let world = Arc::new(FakeCluster::default());
        let mut thing = object("tests.tholepin.dev/v1", "Thing", "me", None);
        // `.spec.secret` is a declared field, `.spec.note` is not.
        thing["spec"] = json!({"secret": "mine", "note": "noted"});
        world.put(thing.clone());
        for (name, owner) in [("mine", Some("me")), ("theirs", Some("them")), ("free", None)] {
            world.put(object("v1", "ConfigMap", name, owner));
        }
        world.put(pod("a-0"));
        let ports = GatePorts {
            kubernetes: world.clone(),
            redis: world.clone(),
            prober: world.clone(),
            clock: Arc::new(FixedClock),
            entropy: Arc::new(FixedClock),
        };
        let key = Arc::new(ReconcileKey {
            plugin: "p".parse().unwrap(),
            kind: kind("tests.tholepin.dev/v1", "Thing"),
            namespace: "n".into(),
            name: "me".into(),
        });
        let gate = Gate::new(ports.clone());
        let scope = ReconcileScope {
            key: key.clone(),
            object: Arc::new(thing),
            grants: Arc::new(grants),
            secret_fields: Arc::new(vec![".spec.secret".to_owned()]),
            parameters: Arc::new(json!({"a": 1})),
            mode,
            urgent: CancellationToken::new(),
            calls_max: 20,
            writes_max: 8,
            bytes_max: 1 << 20,
        };
        let context = gate.open(scope.clone());
        let call_context = PluginCallerIdentity {
            plugin: "p".parse().unwrap(),
            revision: RevisionDigest("r".into()),
            object: Some(key),
        };
        Self { world, ports, gate, scope, context, call_context }
    }

    /// Opens another reconcile of the same gate.
    fn sibling(&self, mode: WriteMode) -> Arc<ReconcileContext> {
        self.gate.open(ReconcileScope { mode, ..self.scope.clone() })
    }

    async fn kubernetes(&self, call: KubernetesCall) -> Answer {
        self.context.perform(&self.call_context, Call::Kubernetes(call)).await
    }

    async fn redis(&self, call: RedisCall) -> Answer {
        self.context.perform(&self.call_context, Call::Redis(call)).await
    }

    async fn apply(&self, name: &str, owner: Option<&str>) -> Answer {
        let mut intent = object("v1", "ConfigMap", name, owner);
        intent["metadata"].as_object_mut().unwrap().remove("uid");
        self.kubernetes(KubernetesCall::Apply { object: intent, force: false }).await
    }

    async fn get(&self, name: &str) -> Answer {
        let object = config_map(name);
        self.kubernetes(KubernetesCall::Get { object, read: ReadMode::Cached, fields: vec![] })
            .await
    }

    fn writes(&self) -> Vec<String> {
        self.world.writes.lock().unwrap().clone()
    }
}

/// The name of the reconciled object's ledger.
const LEDGER: &str = "tholepin-ledger-thing-uid-me";

fn instance() -> Value {
    json!({"namespace": "n", "selector": "app=x", "container": "redis", "port": 7000})
}

#[tokio::test]
async fn scope_owned_covers_what_the_object_controls_and_nothing_else() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    assert!(bench.get("mine").await.is_ok());
    for name in ["theirs", "free"] {
        assert!(matches!(bench.get(name).await, Err(CallError::Denied(_))), "{name}");
    }
    assert!(matches!(bench.get("absent").await, Err(CallError::NotFound(_))));
    let list = KubernetesCall::List {
        kind: kind("v1", "ConfigMap"),
        namespace: "n".into(),
        selector: String::new(),
        read: ReadMode::Cached,
        fields: vec![".data".into()],
    };
    let Ok(Reply::Documents(found)) = bench.kubernetes(list).await else { panic!() };
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["metadata"]["name"], "mine");
}

#[tokio::test]
async fn warnings_are_read_about_what_the_grant_for_events_covers() {
    let mut grants = grants(GrantScope::Owned);
    grants.kubernetes[0].name = kind("v1", "Event");
    let bench = GateFixture::new(grants, WriteMode::Plan);
    let warnings =
        |name: &str| bench.kubernetes(KubernetesCall::Warnings { object: config_map(name) });
    let Ok(Reply::Documents(found)) = warnings("mine").await else { panic!() };
    assert_eq!(found[0]["reason"], "FailedCreate");
    assert!(matches!(warnings("theirs").await, Err(CallError::Denied(_))));
    assert!(matches!(warnings("absent").await, Err(CallError::NotFound(_))));
}

#[tokio::test]
async fn an_intent_must_be_owned_and_must_not_take_over_objects_of_others() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    for (name, owner) in
        [("new", None), ("new", Some("them")), ("theirs", Some("me")), ("free", Some("me"))]
    {
        let answer = bench.apply(name, owner).await;
        assert!(matches!(answer, Err(CallError::Denied(_))), "{name} {answer:?}");
    }
    assert!(bench.apply("new", Some("me")).await.is_ok());
    assert_eq!(bench.writes(), ["apply new by tholepin:p kept"]);
}

#[tokio::test]
async fn a_secret_that_the_object_does_not_name_cannot_be_copied() {
    let mut grants = grants(GrantScope::Owned);
    grants.kubernetes[0].name = kind("v1", "Secret");
    let bench = GateFixture::new(grants, WriteMode::Live);
    for (template, applied) in [
        ("x${secret:mine/k}", true),
        ("${secret:mine/k}${secret:other/k}", false),
        ("${secret:noted/k}", false),
        ("${secret:tholepin-credentials-x/k}", false),
    ] {
        let mut intent = object("v1", "Secret", "copy", Some("me"));
        intent["metadata"].as_object_mut().unwrap().remove("uid");
        intent["stringData"] = json!({"k": template});
        let call = KubernetesCall::Apply { object: intent, force: false };
        assert_eq!(bench.kubernetes(call).await.is_ok(), applied, "{template}");
    }
}

#[tokio::test]
async fn a_delete_is_for_the_object_that_was_read() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let delete = |uid: Option<&str>| KubernetesCall::Delete {
        object: config_map("mine"),
        uid: uid.map(str::to_owned),
        resource_version: None,
        grace_seconds: None,
    };
    assert!(matches!(bench.kubernetes(delete(Some("other"))).await, Err(CallError::Conflict(_))));
    assert!(bench.kubernetes(delete(None)).await.is_ok());
    assert_eq!(bench.writes(), ["delete mine uid uid-mine kept"]);
}

#[tokio::test]
async fn the_hosts_own_conditions_cannot_be_applied() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let status = |condition: &str| {
        let mut object = object("tests.tholepin.dev/v1", "Thing", "me", None);
        object["status"] = json!({"conditions": [{"type": condition}]});
        KubernetesCall::ApplyStatus { object }
    };
    let refused = bench.kubernetes(status("Quarantined")).await;
    assert!(matches!(refused, Err(CallError::Invalid(_))), "{refused:?}");
    assert!(bench.kubernetes(status("Ready")).await.is_ok());
    assert_eq!(
        bench.writes(),
        ["apply me by tholepin:p kept, forced"],
        "the status belongs to the plugin"
    );
}

#[tokio::test]
async fn a_plan_sees_its_own_writes_and_keeps_none() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Plan);
    bench.apply("new", Some("me")).await.unwrap();
    assert!(bench.get("new").await.is_ok(), "the reconcile sees what it applied");
    let delete = KubernetesCall::Delete {
        object: config_map("mine"),
        uid: None,
        resource_version: None,
        grace_seconds: None,
    };
    bench.kubernetes(delete).await.unwrap();
    assert!(matches!(bench.get("mine").await, Err(CallError::NotFound(_))));
    assert_eq!(
        bench.writes(),
        ["apply new by tholepin:p dry run", "delete mine uid uid-mine dry run"]
    );
}

#[tokio::test]
async fn a_reconcile_that_writes_too_much_is_throttled() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    for number in 0..8 {
        bench.apply(&format!("new{number}"), Some("me")).await.unwrap();
    }
    assert!(matches!(bench.apply("new8", Some("me")).await, Err(CallError::Throttled(_))));
    assert_eq!(bench.writes().len(), 8);
}

#[tokio::test]
async fn a_reconcile_is_recorded_and_its_clock_and_parameters_come_from_the_ports() {
    let bench = GateFixture::new(Grants::default(), WriteMode::Live);
    let ask = |call| bench.context.perform(&bench.call_context, Call::Runtime(call));
    assert_eq!(ask(PluginRuntimeCall::Now).await, Ok(Reply::Number(NOW_MS)));
    assert_eq!(ask(PluginRuntimeCall::Parameters).await, Ok(Reply::Document(json!({"a": 1}))));
    assert_eq!(ask(PluginRuntimeCall::Random { bytes: 2 }).await, Ok(Reply::Bytes(vec![7, 7])));
    let much = ask(PluginRuntimeCall::Random { bytes: 4096 }).await;
    assert!(matches!(much, Err(CallError::Invalid(_))));
    let recording = bench.context.take_recording();
    assert_eq!(recording.calls().len(), 4);
    assert_eq!(recording.answers().values().filter(|answer| answer.is_ok()).count(), 3);
}

#[tokio::test]
async fn an_action_that_its_guard_refuses_is_not_sent() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let act = json!([{"verb": "meet", "args": {"pod": "nobody-0", "with": "nobody-1"}}]);
    let actions = serde_json::from_value(act).unwrap();
    let answer = bench.redis(RedisCall::Act { instance: instance(), actions }).await;
    let Ok(Reply::Results(results)) = answer else { panic!("{answer:?}") };
    let outcome = results[0].clone().unwrap();
    assert!(outcome["outcome"]["refused"]["guard"].is_string(), "{outcome}");
    assert!(!bench.writes().iter().any(|line| line.starts_with("meet")), "{:?}", bench.writes());
}

/// A snapshot of one member that answers.
fn snapshot() -> Snapshot {
    let facts = json!({"answeredAtMs": NOW_MS, "node": "a".repeat(40), "runId": "b".repeat(40),
        "settings": {"maxmemory": "0"}});
    let member = json!({"pod": "a-0", "podUid": "u", "running": true, "address": "127.0.0.1:7000",
        "answer": {"answered": facts}});
    serde_json::from_value(json!({"observedAtMs": NOW_MS, "members": [member]})).unwrap()
}

#[tokio::test]
async fn a_precondition_about_an_object_is_read_live() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    *bench.world.snapshot.lock().unwrap() = snapshot();
    let act = async |subject: Value, field: &str, value: &str| {
        let fact = json!({"subject": subject, "field": field, "op": "equals", "value": value});
        let action = json!({"verb": "configure", "presume": {"facts": [fact]},
            "args": {"pod": "a-0", "settings": {"repl-diskless-sync-delay": "5"}}});
        bench.redis(RedisCall::Act { instance: instance(), actions: vec![action] }).await
    };
    let of = |kind: &str, name: &str| json!({"object": {"apiVersion": "v1", "kind": kind, "namespace": "n", "name": name}});
    let mine = of("ConfigMap", "mine");
    let rows = [
        (act(mine.clone(), ".metadata.uid", "uid-mine").await, None),
        (act(mine, ".metadata.uid", "uid-other").await, Some("it is \"uid-mine\"")),
        (act(of("ConfigMap", "no"), ".metadata.uid", "x").await, Some("it is absent")),
        (act(of("ConfigMap", "theirs"), ".metadata.uid", "x").await, Some("outside the scope")),
        (act(json!({"member": {"pod": "b-0"}}), ".podUid", "u").await, Some("it is absent")),
        (act(json!({"view": {}}), ".a.role", "primary").await, Some("it is absent")),
    ];
    for (answer, refused) in rows {
        let Ok(Reply::Results(results)) = answer else { panic!("{answer:?}") };
        let outcome = &results[0].as_ref().unwrap()["outcome"];
        match refused {
            None => assert!(outcome["done"].is_object(), "{outcome}"),
            Some(expected) => {
                assert_eq!(outcome["refused"]["guard"], "presume");
                let text = outcome["refused"]["message"].as_str().unwrap();
                assert!(text.contains(expected), "{text}");
            }
        }
    }
    let sent = bench.writes().iter().filter(|line| line.starts_with("configure")).count();
    assert_eq!(sent, 1, "{:?}", bench.writes());
    let secret = act(of("Secret", "mine"), ".metadata.uid", "x").await;
    assert!(matches!(&secret, Err(CallError::Denied(text)) if text.contains("verbs: [get]")));
    let named =
        act(json!({"member": {"pod": "a-0", "instance": instance()}}), ".podUid", "u").await;
    assert!(
        matches!(&named, Err(CallError::Invalid(text)) if text.contains("leave `instance` out"))
    );
}

#[tokio::test]
async fn a_secret_is_read_only_if_the_object_names_it() {
    let bench = GateFixture::new(
        Grants {
            redis: RedisGrants { commands: vec![], verbs: vec!["observe".into()] },
            ..Grants::default()
        },
        WriteMode::Live,
    );
    *bench.world.snapshot.lock().unwrap() = snapshot();
    for (change, reads) in [
        (json!({"credentials": {"secret": "tholepin-credentials-x", "key": "k"}}), false),
        (json!({"credentials": {"secret": "other", "key": "k"}}), false),
        (json!({"credentials": {"secret": "noted", "key": "k"}}), false),
        (json!({"credentials": {"secret": "tholepin-credentials-x", "key": "k"}}), false),
        (json!({"credentials": {"secret": "mine", "key": "k"}}), true),
        (json!({"namespace": "elsewhere"}), false),
        (json!({"selector": ""}), false),
    ] {
        let mut instance = instance();
        instance.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = bench.redis(RedisCall::Observe { instance }).await;
        assert_eq!(answer.is_ok(), reads, "{change}: {answer:?}");
    }
    let read = bench.world.secrets_read.lock().unwrap().clone();
    assert_eq!(read, ["mine", "tholepin-credentials-thing-uid-me"]);
}
