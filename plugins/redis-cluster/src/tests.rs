//! Tests of whole reconciles against a host with scripted answers.

use std::{cell::RefCell, collections::BTreeMap};

use super::*;
use tholepin_redis_cluster_plan::{
    HEALTHY_REQUEUE_MS,
    workload::{self, OwnerRedisCluster},
};
use tholepin_sdk::{
    DeleteOptions, Error, EventType, Fact, JsonDocument, LogLevel, NetworkProbeOutcome,
    ObjectListQuery, ObjectRef, Pipeline, PodPortProbe, ReadMode, RedisReply, WaitOutcome,
};

/// A host with one object and one snapshot. It accepts all calls and records them.
#[derive(Default)]
struct ScriptedHost {
    snapshot: Value,
    /// Results of actions, by verb; `done` for verbs that are not listed.
    refusals: Vec<(&'static str, Value)>,
    /// The objects to list, by kind; a deleted object is removed from it.
    listed: RefCell<BTreeMap<&'static str, Vec<Value>>>,
    /// Errors of applies, by the object's title.
    refused: Vec<(&'static str, Error)>,
    /// The error of `observe`.
    unseen: Option<Error>,
    /// The warnings of Kubernetes, by the object's name.
    warnings: BTreeMap<String, Value>,
    applied: RefCell<Vec<String>>,
    /// The last ConfigMap of runtime settings that was applied.
    runtime_config: RefCell<Option<Value>>,
    acted: RefCell<Vec<Value>>,
    status: RefCell<Option<Value>>,
    events: RefCell<Vec<String>>,
    /// The deletions, with their grace periods in seconds.
    deleted: RefCell<Vec<(String, Option<u32>)>>,
    /// The error of `delete`.
    undeletable: Option<Error>,
}

fn unused<T>(what: &str) -> Result<T, Error> {
    Err(Error::Unsupported(what.to_owned()))
}

impl Host for ScriptedHost {
    fn get(&self, object: &ObjectRef, _: ReadMode, _: &[&str]) -> Result<Value, Error> {
        assert_eq!(object.name, "demo-live");
        let config = self.runtime_config.borrow().clone();
        config.ok_or_else(|| Error::NotFound("ConfigMap demo-live".to_owned()))
    }

    fn list(&self, query: &ObjectListQuery) -> Result<Vec<Value>, Error> {
        let all = self.listed.borrow();
        Ok(all.get(query.kind.kind.as_str()).cloned().unwrap_or_default())
    }

    fn apply(&self, object: &Value, force: bool) -> Result<JsonDocument, Error> {
        assert!(force, "an edit by hand must not stop the healing");
        let title = workload::title(object);
        // The title without the hash of the revision.
        let stem = title.rsplit_once('-').filter(|(stem, _)| *stem == "ConfigMap demo-config");
        let title = stem.map_or(title.clone(), |(stem, _)| stem.to_owned());
        if let Some((_, error)) = self.refused.iter().find(|(refused, _)| *refused == title) {
            return Err(error.clone());
        }
        self.applied.borrow_mut().push(title);
        if object["metadata"]["name"] == "demo-live" {
            *self.runtime_config.borrow_mut() = Some(object.clone());
        }
        Ok(object.clone().into())
    }

    fn apply_status(&self, object: &Value) -> Result<JsonDocument, Error> {
        *self.status.borrow_mut() = Some(object["status"].clone());
        Ok(object.clone().into())
    }

    fn merge_patch(&self, _: &ObjectRef, _: &Value) -> Result<JsonDocument, Error> {
        unused("merge_patch")
    }

    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<(), Error> {
        self.deleted.borrow_mut().push((object.name.clone(), options.grace_seconds));
        if let Some(error) = &self.undeletable {
            return Err(error.clone());
        }
        let mut listed = self.listed.borrow_mut();
        let objects = listed.get_mut(object.kind.kind.as_str()).unwrap();
        let is_it = |listed: &Value| listed["metadata"]["name"] == *object.name;
        let found = objects.iter().position(is_it).unwrap();
        let uid = objects.remove(found)["metadata"]["uid"].clone();
        assert_eq!(uid.as_str(), options.uid.as_deref(), "the uid seen is the precondition");
        Ok(())
    }

    fn publish(&self, _: EventType, reason: &str, _: &str) -> Result<(), Error> {
        self.events.borrow_mut().push(reason.to_owned());
        Ok(())
    }

    fn warnings(&self, object: &ObjectRef) -> Result<Vec<Value>, Error> {
        Ok(self.warnings.get(&object.name).cloned().into_iter().collect())
    }

    fn pipeline(&self, _: &Pipeline) -> Result<Vec<RedisReply>, Error> {
        unused("pipeline")
    }

    fn fan_out(&self, _: &[Pipeline]) -> Result<Vec<Result<Vec<RedisReply>, Error>>, Error> {
        unused("fan_out")
    }

    fn observe(&self, instance: &Value) -> Result<JsonDocument, Error> {
        assert_eq!(instance["selector"], "redis.tholepin.dev/cluster=demo");
        if let Some(error) = &self.unseen {
            return Err(error.clone());
        }
        Ok(self.snapshot.clone().into())
    }

    fn act(&self, _: &Value, actions: &[Value]) -> Result<Vec<Result<JsonDocument, Error>>, Error> {
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

    fn probe(&self, _: &PodPortProbe) -> Result<NetworkProbeOutcome, Error> {
        unused("probe")
    }

    fn log(&self, _: LogLevel, _: &str) {}
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

/// Returns a server that knows no other node.
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

/// Returns the only server of a cluster of one shard, with all slots.
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

fn reconcile(host: &ScriptedHost, object: Value) -> ReconcileOutcome {
    reconcile_with(host, object, None)
}

fn reconcile_with(host: &ScriptedHost, object: Value, memo: Option<Value>) -> ReconcileOutcome {
    let request = ReconcileRequest { object, deleting: false, causes: Vec::new(), memo };
    RedisClusterPlugin::reconcile(host, request).unwrap()
}

fn condition(host: &ScriptedHost, name: &str) -> (String, String, String) {
    let status = host.status.borrow().clone().unwrap();
    let conditions = status["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == name).unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_new_object_gets_its_workload_and_its_first_actions() {
    let members = [fresh("demo-shard-0-0", "10.0.0.1:6379", &id('a'))];
    let host = ScriptedHost {
        snapshot: json!({"observedAtMs": 1, "members": members}),
        ..ScriptedHost::default()
    };
    let outcome = reconcile(&host, object(json!({"shards": 2, "replicasPerShard": 0})));
    let applied = host.applied.borrow();
    assert_eq!(applied.first().unwrap(), "ConfigMap demo-live", "no Pod starts without it");
    assert_eq!(applied[1], "ConfigMap demo-config");
    assert_eq!(applied.iter().filter(|title| title.starts_with("StatefulSet")).count(), 2);
    let verbs: Vec<_> = host.acted.borrow().iter().map(|action| action["verb"].clone()).collect();
    assert_eq!(verbs, ["configure", "set-config-epoch", "assign-slots"]);
    assert_eq!(outcome.requeue_ms, Some(BUSY_REQUEUE_MS));
    assert!(matches!(outcome.wake.as_slice(), [WakeTrigger::Change { .. }]));
    let (status, reason, message) = condition(&host, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "PodsNotAnswering"));
    assert!(message.contains("demo-shard-1-0"), "{message}");
    assert_eq!(condition(&host, "Progressing").0, "True");
    assert_eq!(condition(&host, "Degraded").0, "False");
}

#[test]
fn a_cluster_in_the_desired_state_is_ready_and_publishes_nothing() {
    let snapshot = serving("demo-shard-0-0", "10.0.0.1:6379", &id('a'));
    let host = ScriptedHost { snapshot, ..ScriptedHost::default() };
    let mut object = object(json!({"shards": 1, "replicasPerShard": 0}));
    let outcome = reconcile(&host, object.clone());
    assert_eq!(outcome.requeue_ms, Some(HEALTHY_REQUEUE_MS));
    assert!(outcome.summary.starts_with("ready: 1/1 shards"), "{}", outcome.summary);
    let status = host.status.borrow().clone().unwrap();
    assert_eq!((&status["readyShards"], &status["slotsServed"]), (&json!("1/1"), &json!(16384)));
    // What `kubectl describe` shows: every condition has a message, and `inSync` is reported only for
    // replicas.
    for name in ["Ready", "Progressing", "Degraded", "LiveConfigApplied"] {
        assert_ne!(condition(&host, name).2, "", "{name}");
    }
    for member in status["shards"][0]["members"].as_array().unwrap() {
        assert_eq!(member["inSync"].is_boolean(), member["role"] == "replica", "{member}");
    }
    assert_eq!(condition(&host, "Ready").0, "True");
    assert_eq!(*host.events.borrow(), ["Ready"]);

    // Observing again changes nothing and publishes nothing.
    object["status"] = status.clone();
    reconcile(&host, object);
    assert_eq!(host.status.borrow().clone().unwrap(), status);
    assert_eq!(host.events.borrow().len(), 1);
    assert!(host.acted.borrow().is_empty());
}

#[test]
fn an_unusable_password_is_reported_and_stops_only_the_stateful_sets() {
    let rows = [
        (
            "secret-missing",
            "SecretMissing",
            "kubectl --namespace default create secret generic demo-auth",
        ),
        ("key-missing", "SecretKeyMissing", ".spec.auth.key"),
        ("empty", "SecretEmpty", "write a password there"),
        ("differs", "CredentialsRefused", "tholepin-credentials-rediscluster-u-1"),
    ];
    for (named, expected, fix) in rows {
        let host = healthy();
        let mut snapshot = host.snapshot.clone();
        snapshot["credentials"] = json!({"named": named});
        let host = ScriptedHost { snapshot, ..host };
        let auth = json!({"shards": 1, "replicasPerShard": 0, "auth": {"secretName": "demo-auth"}});
        reconcile(&host, object(auth.clone()));
        assert_eq!(condition(&host, "Ready").0, "True", "the members have the password in force");
        let (status, reason, message) = condition(&host, "Degraded");
        assert_eq!((status.as_str(), reason.as_str()), ("True", expected));
        assert!(message.contains(fix), "{message}");
        assert!(host.applied.borrow().contains(&"StatefulSet demo-shard-0".to_owned()));

        // For a new cluster: no Pod may start without a password.
        let credentials = json!({"named": named, "pending": true});
        let snapshot = json!({"observedAtMs": 1, "credentials": credentials});
        let host = ScriptedHost { snapshot, ..ScriptedHost::default() };
        reconcile(&host, object(auth));
        let (status, reason, _) = condition(&host, "Ready");
        assert_eq!((status.as_str(), reason.as_str()), ("False", expected));
        let applied = host.applied.borrow();
        assert!(applied.contains(&"ConfigMap demo-config".to_owned()));
        assert!(!applied.iter().any(|title| title.starts_with("StatefulSet")), "{applied:?}");
    }
    let mut host = healthy();
    host.snapshot["credentials"] = json!({"named": "differs"});
    reconcile(&host, object(json!({"shards": 1, "replicasPerShard": 0})));
    assert!(condition(&host, "Degraded").2.contains("`.spec.auth` names none"));
}

#[test]
fn a_refusal_is_reported_with_the_guards_message() {
    let snapshot = json!({"observedAtMs": 1, "members": [
        fresh("demo-shard-0-0", "10.0.0.1:6379", &id('a')),
    ]});
    let refusal = json!({"refused": {"guard": "empty", "message": "it holds 3 keys"}});
    let refusals = ["configure", "set-config-epoch", "assign-slots"]
        .map(|verb| (verb, refusal.clone()))
        .to_vec();
    let host = ScriptedHost { snapshot, refusals, ..ScriptedHost::default() };
    let outcome = reconcile(&host, object(json!({"shards": 1, "replicasPerShard": 0})));
    let (status, reason, message) = condition(&host, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Refused"));
    assert!(message.contains("it holds 3 keys (guard `empty`)"), "{message}");
    assert_eq!(outcome.requeue_ms, Some(WAITING_REQUEUE_MS));
}

/// Returns a cluster of one server that reports this `slowlog-max-len`; the spec has 256.
fn with_slow_log(shown: &str) -> (ScriptedHost, Value) {
    let mut snapshot = serving("demo-shard-0-0", "10.0.0.1:6379", &id('a'));
    let settings = &mut snapshot["members"][0]["answer"]["answered"]["settings"];
    *settings = json!({"cluster-node-timeout": "5000", "cluster-require-full-coverage": "yes",
        "slowlog-max-len": shown});
    let spec = json!({"shards": 1, "replicasPerShard": 0, "settings": {"slowlog-max-len": 256}});
    (ScriptedHost { snapshot, ..ScriptedHost::default() }, object(spec))
}

#[test]
fn a_setting_enters_the_file_after_the_server_has_it() {
    let file = |host: &ScriptedHost| {
        host.runtime_config.borrow().clone().unwrap()["data"]["live.conf"].clone()
    };
    let (host, object) = with_slow_log("128");
    *host.runtime_config.borrow_mut() = Some(json!({
        "metadata": {"annotations": {"redis.tholepin.dev/taken": "yes"}},
        "data": {"live.conf": "slowlog-max-len 128\n"},
    }));
    let outcome = reconcile(&host, object.clone());
    assert!(file(&host).as_str().unwrap().contains("slowlog-max-len 128\n"), "{}", file(&host));
    assert_eq!(host.acted.borrow()[0]["args"]["settings"], json!({"slowlog-max-len": "256"}));
    assert_eq!(outcome.requeue_ms, Some(BUSY_REQUEUE_MS), "it is observed soon");
    assert_eq!(condition(&host, "Ready").0, "True", "the cluster serves");
    assert_eq!(condition(&host, "LiveConfigApplied").1, "Pending");

    let (host, _) = with_slow_log("256");
    reconcile(&host, object);
    assert!(file(&host).as_str().unwrap().contains("slowlog-max-len 256\n"), "{}", file(&host));
    assert_eq!(condition(&host, "LiveConfigApplied").1, "AsWanted");
}

#[test]
fn a_setting_that_a_server_refuses_stops_nothing_and_is_reported() {
    let (mut host, object) = with_slow_log("128");
    let words = "ERR CONFIG SET failed";
    let failed = json!({"failed": {"reason": "Engine", "message": words, "mayHaveRun": false}});
    host.refusals = vec![("configure", failed)];
    let outcome = reconcile(&host, object);
    assert_eq!(condition(&host, "Ready").0, "True");
    assert_eq!(condition(&host, "Degraded").0, "False");
    let (status, reason, message) = condition(&host, "LiveConfigApplied");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Engine"));
    for part in ["`slowlog-max-len 256`", "`demo-shard-0-0`", words, "change or remove"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(outcome.requeue_ms, Some(HEALTHY_REQUEUE_MS), "it is not tried again immediately");
}

#[test]
fn pods_of_an_older_template_are_reported_and_their_revision_is_kept() {
    let (mut host, object) = with_slow_log("256");
    let spec = serde_json::from_value(object["spec"].clone()).unwrap();
    let owner = OwnerRedisCluster { name: "demo", namespace: "default", uid: "u-1" };
    let objects = workload::objects(owner, &spec);
    let named = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap().clone();
    let (mut set, mut now) = (named("StatefulSet"), named("ConfigMap"));
    set["metadata"]["generation"] = 3.into();
    set["status"] = json!({"observedGeneration": 3, "updateRevision": "new"});
    now["metadata"]["uid"] = "u-2".into();
    let old = json!({"metadata": {"name": "demo-config", "uid": "u-3"}});
    let pod = json!({"spec": {"volumes": [{"configMap": {"name": "demo-config"}}]}});
    let listed =
        [("StatefulSet", set.clone()), ("Pod", pod)].map(|(kind, object)| (kind, vec![object]));
    *host.listed.get_mut() = listed.into();
    host.listed.get_mut().insert("ConfigMap", vec![now.clone(), old]);
    let labels = |revision: &str| json!({"labels": {"controller-revision-hash": revision}});
    host.snapshot["members"][0]["kubernetes"] = labels("old");
    reconcile(&host, object.clone());
    let (status, reason, message) = condition(&host, "Outdated");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "OlderTemplate"));
    assert!(message.contains("1 of 1 Pods") && message.contains("`demo-shard-0-0`"), "{message}");
    assert_eq!(host.listed.borrow()["ConfigMap"].len(), 2, "the Pod still reads it");

    // The Pod was replaced.
    host.snapshot["members"][0]["kubernetes"] = labels("new");
    let pod = json!({"spec": set["spec"]["template"]["spec"]});
    host.listed.get_mut().insert("Pod", vec![pod]);
    reconcile(&host, object);
    assert_eq!(condition(&host, "Outdated").1, "AsWanted");
    assert_eq!(host.listed.borrow()["ConfigMap"], [now]);
}

/// Returns a cluster of one shard without replicas, in the desired state.
fn healthy() -> ScriptedHost {
    let snapshot = serving("demo-shard-0-0", "10.0.0.1:6379", &id('a'));
    ScriptedHost { snapshot, ..ScriptedHost::default() }
}

#[test]
fn a_failing_apply_stops_neither_repairs_nor_other_applies() {
    let denied = || Error::Denied("ConfigMap demo-config is outside the scope".into());
    let host = ScriptedHost { refused: vec![("ConfigMap demo-config", denied())], ..healthy() };
    let one = || object(json!({"shards": 1, "replicasPerShard": 0}));
    let outcome = reconcile(&host, one());
    assert!(host.applied.borrow().contains(&"StatefulSet demo-shard-0".to_owned()));
    assert_eq!(condition(&host, "Ready").0, "True", "it serves");
    let (status, reason, message) = condition(&host, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Denied"));
    assert!(message.starts_with("ConfigMap demo-config-"), "{message}");
    assert!(message.contains(" was not applied: denied"), "{message}");
    assert_eq!(outcome.requeue_ms, Some(HEALTHY_REQUEUE_MS), "only a change helps");

    // A cluster that is not formed yet is formed.
    let members = [fresh("demo-shard-0-0", "10.0.0.1:6379", &id('a'))];
    let host = ScriptedHost {
        snapshot: json!({"observedAtMs": 1, "members": members}),
        refused: vec![("Service demo", Error::Conflict("it is taken".into()))],
        ..ScriptedHost::default()
    };
    let outcome = reconcile(&host, one());
    assert_eq!(host.acted.borrow().len(), 3);
    let (status, reason, message) = condition(&host, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Conflict"));
    assert!(message.contains("rename the RedisCluster"), "{message}");
    assert_eq!(outcome.requeue_ms, Some(BUSY_REQUEUE_MS));
}

#[test]
fn an_unreachable_api_server_is_called_once_per_reconcile() {
    let away = || Error::Transient("away".into());
    let titles = ["ConfigMap demo-live", "ConfigMap demo-config", "Service demo-nodes"];
    let refused = titles.map(|title| (title, away())).to_vec();
    let host = ScriptedHost { refused, ..healthy() };
    let outcome = reconcile(&host, object(json!({"shards": 1, "replicasPerShard": 0})));
    assert!(host.applied.borrow().is_empty(), "{:?}", host.applied.borrow());
    assert_eq!(outcome.requeue_ms, Some(WAITING_REQUEUE_MS));
}

#[test]
fn ready_is_unknown_while_members_cannot_be_observed() {
    let mut reported = object(json!({"shards": 1, "replicasPerShard": 0}));
    let host = healthy();
    reconcile(&host, reported.clone());
    reported["status"] = host.status.borrow().clone().unwrap();
    let now_ms = host.now_ms().unwrap();
    let since = |age_ms: u64| Some(json!({"unseenSinceMs": now_ms - age_ms}));
    let passing = || Error::Transient("Pods are not watched (yet)".into());
    let rows = [
        (passing(), None, None),
        (passing(), since(HEALTHY_REQUEUE_MS - 1), None),
        (passing(), since(HEALTHY_REQUEUE_MS), Some("False")),
        (Error::Invalid("the ledger is unreadable".into()), None, Some("True")),
        (Error::Interrupted, since(HEALTHY_REQUEUE_MS), None),
    ];
    for (error, memo, degraded) in rows {
        let host = ScriptedHost { unseen: Some(error.clone()), ..healthy() };
        let outcome = reconcile_with(&host, reported.clone(), memo.clone());
        assert_eq!(host.status.borrow().is_some(), degraded.is_some(), "{error} {memo:?}");
        let noted = memo.or_else(|| Some(json!({"unseenSinceMs": now_ms})));
        assert_eq!(outcome.memo, noted, "{error}");
        if let Some(degraded) = degraded {
            assert_eq!(condition(&host, "Ready").0, "Unknown");
            assert_eq!(condition(&host, "Degraded").0, degraded);
            let status = host.status.borrow().clone().unwrap();
            assert_eq!(status["shards"], reported["status"]["shards"], "what is known stays");
        }
        // Steps that need no observation are done all the same.
        assert_eq!(host.applied.borrow().is_empty(), error == Error::Interrupted);
    }
}

#[test]
fn a_pod_missing_for_long_is_a_fault_with_the_kubernetes_message() {
    let warning = |message: &str| json!({"reason": "FailedCreate", "message": message});
    let quota =
        "create Pod demo-shard-0-0 in StatefulSet demo-shard-0 failed error: exceeded quota";
    let other = "create Pod demo-shard-0-1 in StatefulSet demo-shard-0 failed error: it exists";
    let rows = [
        (0, Some(quota), ("False", "NoFault")),
        (MISSING_PATIENCE_MS, Some(quota), ("True", "PodDoesNotRun")),
        (MISSING_PATIENCE_MS, Some(other), ("False", "NoFault")),
        (119_999, None, ("False", "NoFault")),
        (120_000, None, ("True", "PodsNotAnswering")),
    ];
    for (age_ms, warned, (status, reason)) in rows {
        let mut host = ScriptedHost {
            snapshot: json!({"observedAtMs": 1, "members": []}),
            ..ScriptedHost::default()
        };
        if let Some(warned) = warned {
            host.warnings.insert("demo-shard-0".to_owned(), warning(warned));
        }
        let since_ms = host.now_ms().unwrap() - age_ms;
        let memo = json!({"unsteadySinceMs": since_ms});
        let object = object(json!({"shards": 1, "replicasPerShard": 0}));
        let outcome = reconcile_with(&host, object, Some(memo.clone()));
        assert_eq!(outcome.memo, Some(memo));
        let (is_degraded, why, message) = condition(&host, "Degraded");
        assert_eq!((is_degraded.as_str(), why.as_str()), (status, reason), "{age_ms} {message}");
        if status == "True" {
            let expected = warned.unwrap_or("for more than 120 s: 1 of the Pods");
            assert!(message.contains(expected), "{message}");
            assert_eq!(condition(&host, "Ready").1, reason);
        }
    }
}

/// Both primaries have ended with their Pods; the guard requires a proof of that.
#[test]
fn the_condition_shows_why_a_takeover_is_refused() {
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
    let host =
        ScriptedHost { snapshot, refusals: vec![("failover", refusal)], ..ScriptedHost::default() };
    let spec = json!({"shards": 2, "replicasPerShard": 1, "dataLoss": "acceptable"});
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
fn deleting_finishes_immediately_and_writes_nothing() {
    let host = ScriptedHost::default();
    let request = ReconcileRequest {
        object: object(json!({})),
        deleting: true,
        causes: Vec::new(),
        memo: None,
    };
    assert!(RedisClusterPlugin::reconcile(&host, request).unwrap().finished);
    assert!(host.applied.borrow().is_empty() && host.status.borrow().is_none());
}

#[test]
fn validation_names_field_and_fix() {
    let violations = RedisClusterPlugin::validate(None, object(json!({"settings": {"port": 1}})));
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, ".spec.settings.port");
    assert!(violations[0].message.contains("`.spec.port`"), "{}", violations[0].message);
    assert!(RedisClusterPlugin::validate(None, object(json!({}))).is_empty());
    assert_eq!(RedisClusterPlugin::validate(None, object(json!({"shards": "many"}))).len(), 1);
}

#[test]
fn the_manifest_asks_for_the_grants_that_are_used() {
    let manifest = RedisClusterPlugin::describe();
    assert_eq!(manifest.name, "redis-cluster");
    let crd = manifest.reconciles[0].crd.as_ref().unwrap();
    assert_eq!(crd["metadata"]["name"], "redisclusters.redis.tholepin.dev");
    let granted: Vec<&str> =
        manifest.grants.kubernetes.iter().map(|grant| grant.name.kind.as_str()).collect();
    let spec = serde_json::from_value(json!({})).unwrap();
    let owner = OwnerRedisCluster { name: "demo", namespace: "default", uid: "u" };
    for made in workload::objects(owner, &spec) {
        assert!(granted.contains(&made["kind"].as_str().unwrap()), "{}", workload::title(&made));
    }
    let safety = &manifest.grants.safety;
    let safety = [&safety.data_loss, &safety.tail_loss].into_iter().flatten();
    for path in safety.chain(&manifest.secret_fields) {
        let pointer = path.replace('.', "/");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let pointer = pointer.replace('/', "/properties/");
        assert!(schema.pointer(&pointer).is_some(), "{pointer}");
    }
}

/// Returns a snapshot of three primaries, of which the first hangs and is marked as failed, and of its replica.
fn with_a_primary_that_hangs() -> Value {
    let address = |pod: &str| format!("{pod}:6379");
    let row = |pod: &str, slots: &str| {
        json!({"role": "primary", "address": address(pod), "epoch": 1, "slots": [slots],
            "connected": true})
    };
    let mut failed = row("demo-shard-0-0", "0-5461");
    failed["flags"] = json!(["fail"]);
    let replica = json!({"role": "replica", "primary": id('a'), "address": address("demo-shard-0-1"),
        "epoch": 1, "connected": true});
    let member = |pod: &str, node: char, replication: Value| {
        json!({"pod": pod, "podUid": format!("uid-{pod}"), "running": true, "address": address(pod),
            "answer": {"answered": {"answeredAtMs": 1, "node": id(node), "runId": id(node),
                "keys": 7, "loading": false, "replication": replication,
                "settings": {"cluster-replica-no-failover": "no"}}}})
    };
    let stream = json!({"id": id('f'), "offsetBytes": 10});
    let link = json!({"id": id('f'), "offsetBytes": 10, "upstream": {
        "address": address("demo-shard-0-0"), "linkUp": true, "syncInProgress": false}});
    let hangs = json!({"pod": "demo-shard-0-0", "podUid": "uid-demo-shard-0-0", "running": true,
        "address": address("demo-shard-0-0"),
        "answer": {"unreachable": {"reason": "timeout", "message": "no answer"}}});
    json!({
        "observedAtMs": 1,
        "view": {id('a'): failed, id('b'): row("demo-shard-1-0", "5462-10922"),
            id('c'): row("demo-shard-2-0", "10923-16383"), id('d'): replica},
        "members": [hangs, member("demo-shard-0-1", 'd', link),
            member("demo-shard-1-0", 'b', stream.clone()), member("demo-shard-2-0", 'c', stream)],
    })
}

#[test]
fn the_pod_of_a_primary_that_hangs_is_deleted_and_only_once_if_that_fails() {
    let mut object = object(json!({"shards": 3, "replicasPerShard": 1}));
    object["status"] = json!({"formed": true, "shards": [{"name": "demo-shard-0", "members": [
        {"pod": "demo-shard-0-1", "node": id('d'), "role": "replica", "inSync": true}]}]});
    let pods = vec![json!({"metadata": {"name": "demo-shard-0-0", "uid": "uid-demo-shard-0-0"}})];
    for undeletable in [None, Some(Error::Denied("no".to_owned()))] {
        let fails = undeletable.is_some();
        let host = ScriptedHost {
            snapshot: with_a_primary_that_hangs(),
            listed: RefCell::new([("Pod", pods.clone())].into()),
            undeletable,
            ..ScriptedHost::default()
        };
        let outcome = reconcile(&host, object.clone());
        let in_a_second = ("demo-shard-0-0".to_owned(), Some(1));
        assert_eq!(*host.deleted.borrow(), [in_a_second], "{fails}");
        assert_eq!(host.events.borrow().contains(&"Fenced".to_owned()), !fails);
        let forbidden = |host: &ScriptedHost| {
            let acted = host.acted.borrow();
            let set = acted.iter().filter_map(|action| {
                action
                    .pointer("/args/settings/cluster-replica-no-failover")?
                    .as_str()
                    .map(str::to_owned)
            });
            set.collect::<Vec<_>>()
        };
        assert_eq!(
            forbidden(&host),
            ["yes"],
            "no replica may be elected before the primary has ended"
        );
        if fails {
            host.acted.borrow_mut().clear();
            reconcile_with(&host, object.clone(), outcome.memo);
            assert_eq!(host.deleted.borrow().len(), 1, "it is left to the election");
            assert_eq!(forbidden(&host), [""; 0]);
        }
    }
}
