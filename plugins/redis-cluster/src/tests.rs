//! Whole passes against a host that answers from a script.

use std::cell::RefCell;

use super::*;
use tholepin_redis_cluster_plan::workload::Owner;
use tholepin_sdk::{
    DeleteOptions, Document, Error, EventType, Fact, Level, ListQuery, ObjectRef, Pipeline, Probe,
    ProbeOutcome, ReadMode, Reply, WaitOutcome,
};

/// A host with one object, one Secret and one snapshot. It does what it is told and writes it down.
#[derive(Default)]
struct Scripted {
    secret: Option<Value>,
    snapshot: Value,
    /// Answers for the actions, by verb; `done` for those that are not named.
    refusals: Vec<(&'static str, Value)>,
    applied: RefCell<Vec<String>>,
    acted: RefCell<Vec<Value>>,
    status: RefCell<Option<Value>>,
    events: RefCell<Vec<String>>,
}

fn unused<T>(what: &str) -> Result<T, Error> {
    Err(Error::Unsupported(what.to_owned()))
}

impl Host for Scripted {
    fn get(&self, object: &ObjectRef, _: ReadMode, _: &[&str]) -> Result<Value, Error> {
        assert_eq!((object.kind.kind.as_str(), object.name.as_str()), ("Secret", "demo-auth"));
        self.secret.clone().ok_or_else(|| Error::NotFound("Secret demo-auth".to_owned()))
    }

    fn list(&self, _: &ListQuery) -> Result<Vec<Value>, Error> {
        unused("list")
    }

    fn apply(&self, object: &Value, force: bool) -> Result<Document, Error> {
        assert!(force, "an edit by hand must not stop the healing");
        self.applied.borrow_mut().push(workload::title(object));
        Ok(object.clone().into())
    }

    fn apply_status(&self, object: &Value) -> Result<Document, Error> {
        *self.status.borrow_mut() = Some(object["status"].clone());
        Ok(object.clone().into())
    }

    fn merge_patch(&self, _: &ObjectRef, _: &Value) -> Result<Document, Error> {
        unused("merge_patch")
    }

    fn delete(&self, _: &ObjectRef, _: &DeleteOptions) -> Result<(), Error> {
        unused("delete")
    }

    fn publish(&self, _: EventType, reason: &str, _: &str) -> Result<(), Error> {
        self.events.borrow_mut().push(reason.to_owned());
        Ok(())
    }

    fn pipeline(&self, _: &Pipeline) -> Result<Vec<Reply>, Error> {
        unused("pipeline")
    }

    fn fan_out(&self, _: &[Pipeline]) -> Result<Vec<Result<Vec<Reply>, Error>>, Error> {
        unused("fan_out")
    }

    fn observe(&self, instance: &Value) -> Result<Document, Error> {
        assert_eq!(instance["selector"], "redis.tholepin.dev/cluster=demo");
        Ok(self.snapshot.clone().into())
    }

    fn act(&self, _: &Value, actions: &[Value]) -> Result<Vec<Result<Document, Error>>, Error> {
        self.acted.borrow_mut().extend_from_slice(actions);
        let answer = |action: &Value| {
            let refusal = self.refusals.iter().find(|(verb, _)| action["verb"] == *verb);
            let done = || json!({"done": {"tookMs": 1, "note": "ok"}});
            Ok(json!({"outcome": refusal.map_or_else(done, |(_, outcome)| outcome.clone())}).into())
        };
        Ok(actions.iter().map(answer).collect())
    }

    fn now_ms(&self) -> Result<u64, Error> {
        Ok(1_795_236_169_024)
    }

    fn random(&self, _: u32) -> Result<Vec<u8>, Error> {
        unused("random")
    }

    fn parameters(&self) -> Result<Value, Error> {
        unused("parameters")
    }

    fn wait(&self, _: &[Fact], _: u32) -> Result<WaitOutcome, Error> {
        unused("wait")
    }

    fn probe(&self, _: &Probe) -> Result<ProbeOutcome, Error> {
        unused("probe")
    }

    fn log(&self, _: Level, _: &str) {}
}

fn id(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn object(spec: Value) -> Value {
    json!({
        "apiVersion": "redis.tholepin.dev/v1alpha1",
        "kind": "RedisCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u-1", "generation": 4},
        "spec": spec,
    })
}

/// A server that is alone.
fn fresh(pod: &str, address: &str, id: &str) -> Value {
    let own = json!({"role": "primary", "address": address, "epoch": 0, "connected": true});
    json!({
        "pod": pod, "podUid": "p", "running": true, "address": address,
        "answer": {"answered": {
            "answeredAtMs": 1, "node": id, "runId": id, "keys": 0, "role": "primary",
            "cluster": {"ok": false, "knownNodes": 1, "size": 0, "currentEpoch": 0, "epoch": 0,
                "slotsAssigned": 0, "slotsOk": 0},
            "settings": {"cluster-node-timeout": "5000"},
            "differs": {id: own},
        }},
    })
}

/// The only server of a cluster of one shard, with all slots.
fn serving(pod: &str, address: &str, id: &str) -> Value {
    let row = json!({"role": "primary", "address": address, "epoch": 1, "slots": ["0-16383"],
        "connected": true});
    json!({
        "observedAtMs": 1,
        "view": {id: row},
        "members": [{
            "pod": pod, "podUid": "p", "running": true, "address": address,
            "answer": {"answered": {
                "answeredAtMs": 1, "node": id, "keys": 7, "role": "primary",
                "cluster": {"ok": true, "knownNodes": 1, "size": 1, "currentEpoch": 1, "epoch": 1,
                    "slotsAssigned": 16384, "slotsOk": 16384},
                "settings": {"cluster-node-timeout": "5000"},
            }},
        }],
    })
}

fn reconcile(host: &Scripted, object: Value) -> Outcome {
    let request = Request { object, deleting: false, causes: Vec::new(), memo: None };
    RedisCluster::reconcile(host, request).unwrap()
}

fn condition(host: &Scripted, name: &str) -> (String, String, String) {
    let status = host.status.borrow().clone().unwrap();
    let conditions = status["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == name).unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_new_object_gets_its_workload_and_its_first_actions() {
    let members = [fresh("demo-shard-0-0", "10.0.0.1:6379", &id('a'))];
    let host = Scripted {
        snapshot: json!({"observedAtMs": 1, "members": members}),
        ..Scripted::default()
    };
    let outcome = reconcile(&host, object(json!({"shards": 2, "replicasPerShard": 0})));
    let applied = host.applied.borrow();
    assert_eq!(applied.first().unwrap(), "ConfigMap demo-config");
    assert_eq!(applied.iter().filter(|title| title.starts_with("StatefulSet")).count(), 2);
    let verbs: Vec<_> = host.acted.borrow().iter().map(|it| it["verb"].clone()).collect();
    assert_eq!(verbs, ["configure", "set-config-epoch", "assign-slots"]);
    assert_eq!(outcome.requeue_ms, Some(BUSY_REQUEUE_MS));
    assert!(matches!(outcome.wake.as_slice(), [Wake::Change { .. }]));
    let (status, reason, message) = condition(&host, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "PodsNotAnswering"));
    assert!(message.contains("demo-shard-1-0"), "{message}");
    assert_eq!(condition(&host, "Progressing").0, "True");
    assert_eq!(condition(&host, "Degraded").0, "False");
}

#[test]
fn a_cluster_that_is_as_wanted_is_ready_and_quiet() {
    let snapshot = serving("demo-shard-0-0", "10.0.0.1:6379", &id('a'));
    let host = Scripted { snapshot, ..Scripted::default() };
    let mut object = object(json!({"shards": 1, "replicasPerShard": 0}));
    let outcome = reconcile(&host, object.clone());
    assert_eq!(outcome.requeue_ms, Some(HEALTHY_REQUEUE_MS));
    assert!(outcome.summary.starts_with("ready: 1/1 shards"), "{}", outcome.summary);
    let status = host.status.borrow().clone().unwrap();
    assert_eq!((&status["readyShards"], &status["slotsServed"]), (&json!("1/1"), &json!(16384)));
    // What `kubectl describe` shows: every condition says something, and a primary is in sync with nobody.
    for name in ["Ready", "Progressing", "Degraded"] {
        assert_ne!(condition(&host, name).2, "", "{name}");
    }
    for member in status["shards"][0]["members"].as_array().unwrap() {
        assert_eq!(member["inSync"].is_boolean(), member["role"] == "replica", "{member}");
    }
    assert_eq!(condition(&host, "Ready").0, "True");
    assert_eq!(*host.events.borrow(), ["Ready"]);

    // Looking again changes nothing, and nothing is said twice.
    object["status"] = status.clone();
    reconcile(&host, object);
    assert_eq!(host.status.borrow().clone().unwrap(), status);
    assert_eq!(host.events.borrow().len(), 1);
    assert!(host.acted.borrow().is_empty());
}

#[test]
fn a_missing_secret_stops_everything_and_names_the_way_out() {
    let auth = json!({"shards": 1, "auth": {"secretName": "demo-auth"}});
    let cases = [
        (None, "SecretMissing", "kubectl --namespace default create secret generic demo-auth"),
        (Some(json!({"data": {"pw": "x"}})), "SecretKeyMissing", ".spec.auth.key"),
    ];
    for (secret, expected, way_out) in cases {
        let host = Scripted { secret, ..Scripted::default() };
        reconcile(&host, object(auth.clone()));
        let (status, reason, message) = condition(&host, "Ready");
        assert_eq!((status.as_str(), reason.as_str()), ("False", expected));
        assert!(message.contains(way_out), "{message}");
        assert!(host.applied.borrow().is_empty());
    }
}

#[test]
fn a_refusal_is_reported_with_the_guards_words() {
    let snapshot = json!({"observedAtMs": 1, "members": [
        fresh("demo-shard-0-0", "10.0.0.1:6379", &id('a')),
    ]});
    let refusal = json!({"refused": {"guard": "empty", "message": "it holds 3 keys"}});
    let refusals = ["configure", "set-config-epoch", "assign-slots"]
        .map(|verb| (verb, refusal.clone()))
        .to_vec();
    let host = Scripted { snapshot, refusals, ..Scripted::default() };
    let outcome = reconcile(&host, object(json!({"shards": 1, "replicasPerShard": 0})));
    let (status, reason, message) = condition(&host, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Refused"));
    assert!(message.contains("empty: it holds 3 keys"), "{message}");
    assert_eq!(outcome.requeue_ms, Some(WAITING_REQUEUE_MS));
}

/// Both primaries are gone with their Pods; the guard wants a proof for them.
#[test]
fn what_a_takeover_lacks_is_the_condition_whatever_the_other_shards_wait_for() {
    let dead = |slots: &str| {
        json!({"role": "primary", "address": "10.0.9.9:6379", "epoch": 1, "slots": [slots],
            "connected": false})
    };
    let row = |primary: &str, address: &str| {
        json!({"role": "replica", "primary": primary, "address": address, "epoch": 1,
            "connected": true})
    };
    let (a, b, c, d) = (id('a'), id('b'), id('c'), id('d'));
    let replica = |pod: &str, address: &str, node: &str| {
        let mut member = fresh(pod, address, node);
        let facts = &mut member["answer"]["answered"];
        facts["cluster"]["knownNodes"] = json!(4);
        facts["cluster"]["slotsAssigned"] = json!(16384);
        facts["differs"] = json!({});
        facts["replication"] = json!({"id": id('e'), "offsetBytes": 1, "upstream": {
            "address": "10.0.9.9:6379", "linkUp": false, "syncInProgress": false}});
        member
    };
    let (one, other) = ("10.0.0.1:6379", "10.0.0.2:6379");
    let snapshot = json!({
        "observedAtMs": 1,
        "view": {&a: dead("0-8191"), &b: dead("8192-16383"), &c: row(&a, one), &d: row(&b, other)},
        "members": [replica("demo-shard-0-1", one, &c), replica("demo-shard-1-1", other, &d)],
    });
    let words = "nothing proves that these have ended: use `tholepin.dev/confirm-dead=x/y`";
    let refusal = json!({"refused": {"guard": "death", "message": words}});
    let host = Scripted { snapshot, refusals: vec![("failover", refusal)], ..Scripted::default() };
    let spec = json!({"shards": 2, "replicasPerShard": 1, "durability": "cache"});
    let outcome = reconcile(&host, object(spec));
    assert_eq!(host.acted.borrow()[0]["args"]["mode"], "takeover");
    for name in ["Ready", "Degraded"] {
        let (_, reason, message) = condition(&host, name);
        assert_eq!(reason, "Refused", "{name}");
        assert!(message.contains(words), "{name}: {message}");
    }
    assert_eq!(outcome.requeue_ms, Some(WAITING_REQUEUE_MS));
}

#[test]
fn deleting_is_finished_at_once_and_writes_nothing() {
    let host = Scripted::default();
    let request =
        Request { object: object(json!({})), deleting: true, causes: Vec::new(), memo: None };
    assert!(RedisCluster::reconcile(&host, request).unwrap().finished);
    assert!(host.applied.borrow().is_empty() && host.status.borrow().is_none());
}

#[test]
fn validation_names_field_and_way_out() {
    let violations = RedisCluster::validate(None, object(json!({"settings": {"port": 1}})));
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, ".spec.settings.port");
    assert!(violations[0].message.contains("`.spec.port`"), "{}", violations[0].message);
    assert!(RedisCluster::validate(None, object(json!({}))).is_empty());
    assert_eq!(RedisCluster::validate(None, object(json!({"shards": "many"}))).len(), 1);
}

#[test]
fn the_manifest_asks_for_what_is_used() {
    let manifest = RedisCluster::describe();
    assert_eq!(manifest.name, "redis-cluster");
    let crd = manifest.reconciles[0].crd.as_ref().unwrap();
    assert_eq!(crd["metadata"]["name"], "redisclusters.redis.tholepin.dev");
    let granted: Vec<&str> =
        manifest.grants.kubernetes.iter().map(|grant| grant.name.kind.as_str()).collect();
    let spec = serde_json::from_value(json!({})).unwrap();
    let owner = Owner { name: "demo", namespace: "default", uid: "u" };
    for made in workload::objects(owner, &spec) {
        assert!(granted.contains(&made["kind"].as_str().unwrap()), "{}", workload::title(&made));
    }
    for path in [&manifest.safety.durability, &manifest.safety.tail_loss] {
        let pointer = path.as_ref().unwrap().replace('.', "/");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let pointer = pointer.replace('/', "/properties/");
        assert!(schema.pointer(&pointer).is_some(), "{pointer}");
    }
}
