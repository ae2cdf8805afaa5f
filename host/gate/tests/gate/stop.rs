//! A write that ends a member or drops its volume is checked by its effect, whichever call it is.

use serde_json::{Value, json};
use tholepin_core::{Answer, CallError, KubernetesCall, ObjectRef, WriteMode};
use tholepin_schema::manifest::{GrantScope, Grants, KubernetesGrant, RedisGrants, SafetyPaths};

use crate::{
    GateFixture,
    fixture::{NOW_MS, object, pod},
    grants, instance, kind,
};

const ALL: &str = "0-16383";

/// A StatefulSet `set` with a primary in `set-0` and a replica in `set-1`; everything is granted.
struct ShardFixture {
    bench: GateFixture,
}

fn wide() -> Grants {
    let verbs = ["get", "list", "apply", "merge-patch", "delete"].map(str::to_owned).to_vec();
    let granted = |api_version: &str, name: &str| KubernetesGrant {
        name: kind(api_version, name),
        verbs: verbs.clone(),
        scope: GrantScope::Namespace,
        force: false,
    };
    Grants {
        kubernetes: vec![
            granted("v1", "Pod"),
            granted("v1", "PersistentVolumeClaim"),
            granted("v1", "Node"),
            granted("apps/v1", "StatefulSet"),
            granted("apps/v1", "Deployment"),
            granted("autoscaling/v2", "HorizontalPodAutoscaler"),
        ],
        redis: RedisGrants {
            commands: vec![],
            verbs: ["observe", "stop-last-copy"].map(str::to_owned).to_vec(),
        },
        ..grants(GrantScope::Namespace)
    }
}

fn stateful_set() -> Value {
    let mut set = object("apps/v1", "StatefulSet", "set", Some("me"));
    set["spec"] = json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": {"app": "x"}}, "template": {"image": "one"}});
    set
}

/// A Pod of the StatefulSet, with a volume.
fn pod_of_set(name: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["resourceVersion"] = json!("5");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet",
        "name": "set", "uid": "uid-set", "controller": true}]);
    pod["spec"]["volumes"] =
        json!([{"persistentVolumeClaim": {"claimName": format!("data-{name}")}}]);
    pod
}

fn id(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// `set-0` is the primary of all slots, `set-1` is its replica, in sync.
fn snapshot() -> Value {
    let member = |pod: &str, node: char, replication: Value| {
        json!({"pod": pod, "podUid": format!("uid-{pod}"), "running": true,
            "containerId": format!("c-{pod}"), "address": format!("{pod}:7000"), "answer": {"answered": {
                "answeredAtMs": NOW_MS, "node": id(node), "runId": id(node), "loading": false,
                "keys": 3, "replication": replication}}})
    };
    let stream = json!({"id": id('f'), "offsetBytes": 10, "replicas": [
        {"address": "set-1:7000", "state": "online", "offsetBytes": 10, "lagS": 0}]});
    let link = json!({"id": id('f'), "offsetBytes": 10, "upstream": {"address": "set-0:7000",
        "linkUp": true, "syncInProgress": false}});
    json!({"observedAtMs": NOW_MS,
        "view": {
            id('a'): {"role": "primary", "epoch": 1, "slots": [ALL], "connected": true},
            id('b'): {"role": "replica", "primary": id('a'), "epoch": 1, "connected": true}},
        "members": [member("set-0", 'a', stream), member("set-1", 'b', link)]})
}

impl ShardFixture {
    async fn new(mode: WriteMode) -> Self {
        let mut bench = GateFixture::new(wide(), mode);
        bench.world.objects.lock().unwrap().retain(|object, _| object.kind.kind != "Pod");
        for object in [stateful_set(), pod_of_set("set-0"), pod_of_set("set-1")] {
            bench.world.put(object);
        }
        for claim in ["data-set-0", "data-set-1", "data-set-2"] {
            bench.world.put(object("v1", "PersistentVolumeClaim", claim, None));
        }
        bench.scope.writes_max = 100;
        bench.context = bench.sibling(WriteMode::Live);
        let mut shard = Self { bench };
        shard.shows(snapshot());
        shard.observe().await.unwrap();
        shard.bench.context = shard.bench.sibling(mode);
        shard
    }

    fn shows(&self, snapshot: Value) {
        *self.bench.world.snapshot.lock().unwrap() = serde_json::from_value(snapshot).unwrap();
    }

    async fn observe(&self) -> Answer {
        self.bench.redis(tholepin_core::RedisCall::Observe { instance: instance() }).await
    }

    async fn delete(&self, api_version: &str, kind: &str, name: &str) -> Answer {
        let object = reference(api_version, kind, name);
        let call = KubernetesCall::Delete {
            object,
            uid: None,
            resource_version: None,
            grace_seconds: None,
        };
        self.bench.kubernetes(call).await
    }

    async fn apply(&self, change: Value) -> Answer {
        let mut object = stateful_set();
        object["spec"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.bench.kubernetes(KubernetesCall::Apply { object, force: false }).await
    }

    async fn patch(&self, object: ObjectRef, patch: Value) -> Answer {
        self.bench.kubernetes(KubernetesCall::MergePatch { object, patch }).await
    }

    /// Continues with a reconcile that sees the present store.
    fn next_reconcile(mut self) -> Self {
        self.bench.context = self.bench.sibling(WriteMode::Live);
        self
    }

    /// Returns the writes except those to the ledger.
    fn writes(&self) -> Vec<String> {
        let writes = self.bench.writes().into_iter();
        writes.filter(|line| !line.contains("tholepin-ledger")).collect()
    }
}

fn reference(api_version: &str, name_of_kind: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind(api_version, name_of_kind), namespace: "n".into(), name: name.into() }
}

#[track_caller]
fn refused(answer: Answer, expected: &str) {
    let Err(CallError::Refused(text)) = &answer else { panic!("{answer:?}") };
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn any_write_that_ends_the_primary_or_both_members_is_refused() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    let still_serves = "`set-0` serves slots 0-16383; let `set-1` take over first";
    refused(shard.delete("v1", "Pod", "set-0").await, still_serves);
    refused(shard.delete("v1", "PersistentVolumeClaim", "data-set-0").await, still_serves);
    let pod = || reference("v1", "Pod", "set-0");
    let label = json!({"metadata": {"labels": {"app": "y"}}});
    refused(shard.patch(pod(), label).await, still_serves);
    let orphan = json!({"metadata": {"ownerReferences": []}});
    refused(shard.patch(pod(), orphan).await, still_serves);
    let image = json!({"spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "redis", "image": "other"}]}});
    refused(shard.patch(pod(), image).await, still_serves);

    let both = "it would stop 2 members at once, among them `set-0` and `set-1`";
    refused(shard.delete("apps/v1", "StatefulSet", "set").await, both);
    refused(shard.apply(json!({"replicas": 0})).await, both);
    let rolling =
        json!({"updateStrategy": {"type": "RollingUpdate"}, "template": {"image": "two"}});
    refused(shard.apply(rolling).await, both);
    let set = || reference("apps/v1", "StatefulSet", "set");
    refused(shard.patch(set(), json!({"spec": {"replicas": 0}})).await, both);
    let mut scaler = object("autoscaling/v2", "HorizontalPodAutoscaler", "h", Some("me"));
    scaler["spec"] = json!({"scaleTargetRef":
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "set"}});
    let call = KubernetesCall::Apply { object: scaler, force: false };
    refused(shard.bench.kubernetes(call).await, both);
    assert_eq!(shard.writes().iter().filter(|line| line.contains("kept")).count(), 0);
}

#[tokio::test]
async fn a_write_that_ends_no_member_passes() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    let more = json!({"replicas": 3, "template": {"image": "two"}});
    assert!(shard.apply(more).await.is_ok());
    let pod = reference("v1", "Pod", "set-0");
    let note = json!({"metadata": {"annotations": {"a": "b"}, "labels": {"other": "c"}}});
    assert!(shard.patch(pod, note).await.is_ok());
}

#[tokio::test]
async fn replicas_are_stopped_one_at_a_time() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    let mut third = pod_of_set("set-2");
    third["metadata"]["uid"] = json!("uid-set-2");
    shard.bench.world.put(third);
    let mut observed = snapshot();
    let mut member = observed["members"][1].clone();
    member["pod"] = json!("set-2");
    member["podUid"] = json!("uid-set-2");
    member["containerId"] = json!("c-set-2");
    member["answer"]["answered"]["node"] = json!(id('c'));
    member["answer"]["answered"]["runId"] = json!(id('c'));
    observed["members"].as_array_mut().unwrap().push(member);
    observed["view"][id('c')] = observed["view"][id('b')].clone();
    shard.shows(observed.clone());
    let shard = shard.next_reconcile();
    shard.observe().await.unwrap();
    shard.delete("v1", "Pod", "set-1").await.unwrap();
    assert_eq!(shard.writes().last().unwrap(), "delete set-1 uid uid-set-1 kept");
    refused(
        shard.delete("v1", "Pod", "set-2").await,
        "`set-1` was stopped and has not returned yet",
    );
    // The successor answers, but is not in sync yet.
    observed["members"][1]["podUid"] = json!("uid-new");
    observed["members"][1]["answer"]["answered"]["replication"]["upstream"]["linkUp"] =
        json!(false);
    shard.shows(observed.clone());
    refused(shard.delete("v1", "Pod", "set-2").await, "`set-1` was stopped");
    observed["members"][1]["answer"]["answered"]["replication"]["upstream"]["linkUp"] = json!(true);
    shard.shows(observed);
    assert!(shard.delete("v1", "Pod", "set-2").await.is_ok());
}

#[tokio::test]
async fn a_member_that_does_not_answer_counts_as_having_data() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    let silent = json!({"unreachable": {"reason": "timeout", "message": ""}});
    let mut observed = snapshot();
    observed["members"][0]["answer"] = silent.clone();
    shard.shows(observed);
    refused(shard.delete("v1", "Pod", "set-1").await, "policy");
    let mut observed = snapshot();
    observed["members"][1]["answer"] = silent;
    shard.shows(observed);
    // The primary answers and has the data, so its silent replica may be stopped.
    assert!(shard.delete("v1", "Pod", "set-1").await.is_ok());
}

#[tokio::test]
async fn a_pod_that_never_answered_and_does_not_run_may_be_deleted() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    let mut waiting = pod_of_set("set-2");
    waiting["status"] = json!({"containerStatuses": [{"name": "redis", "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull"}}}]});
    shard.bench.world.put(waiting.clone());
    let shard = shard.next_reconcile();
    assert!(shard.delete("v1", "Pod", "set-2").await.is_ok());
    waiting["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    shard.bench.world.put(waiting);
    let shard = shard.next_reconcile();
    refused(shard.delete("v1", "Pod", "set-2").await, "does not report its data");
}

#[tokio::test]
async fn the_last_copy_needs_the_object_s_policy_and_a_grant_by_name() {
    // policy, path of the policy as granted, whether `stop-last-copy` is granted, whether it passes
    let rows = [
        ("never", Some(".spec.dataLoss"), true, false),
        ("acceptable", Some(".spec.dataLoss"), false, false),
        ("acceptable", None, true, false),
        ("acceptable", Some(".spec.other"), true, false),
        ("acceptable", Some(".spec.dataLoss"), true, true),
    ];
    for (data_loss, path, granted, passes) in rows {
        let mut shard = ShardFixture::new(WriteMode::Live).await;
        let mut observed = snapshot();
        observed["members"].as_array_mut().unwrap().pop();
        observed["view"].as_object_mut().unwrap().remove(&id('b'));
        shard.shows(observed);
        let mut scope = shard.bench.scope.clone();
        let mut thing = (*scope.object).clone();
        thing["spec"]["dataLoss"] = json!(data_loss);
        let mut grants = wide();
        grants.redis.verbs.retain(|verb| granted || verb != "stop-last-copy");
        let data_loss_path = path.map(str::to_owned);
        grants.safety = SafetyPaths { data_loss: data_loss_path, tail_loss: None };
        scope.object = thing.into();
        scope.grants = grants.into();
        shard.bench.context = shard.bench.gate.open(scope);
        let answer = shard.delete("v1", "Pod", "set-0").await;
        assert_eq!(answer.is_ok(), passes, "{data_loss} {path:?} {granted}: {answer:?}");
    }
}

#[tokio::test]
async fn shared_kinds_and_members_of_other_objects_cannot_be_stopped() {
    let shard = ShardFixture::new(WriteMode::Live).await;
    shard.bench.world.put(object("v1", "Node", "node", None));
    let denied = shard.delete("v1", "Node", "node").await;
    assert!(matches!(&denied, Err(CallError::Denied(text)) if text.contains("never granted")));
    let theirs = object("v1", "Pod", "theirs-0", Some("them"));
    shard.bench.world.put(theirs);
    shard.bench.world.put(object("v1", "ConfigMap", "tholepin-ledger-thing-uid-them", None));
    let shard = shard.next_reconcile();
    refused(shard.delete("v1", "Pod", "theirs-0").await, "is a member of Thing n/them");
    let unclaimed = shard.delete("v1", "PersistentVolumeClaim", "data-set-2").await;
    refused(unclaimed, "no Pod mounts the claim `data-set-2`");
}

#[tokio::test]
async fn a_plan_contains_the_refusal_and_records_nothing() {
    let shard = ShardFixture::new(WriteMode::Plan).await;
    refused(shard.delete("v1", "Pod", "set-0").await, "serves slots");
    assert!(shard.delete("v1", "Pod", "set-1").await.is_ok());
    let performed: Vec<_> =
        shard.writes().into_iter().filter(|line| !line.contains("dry run")).collect();
    assert_eq!(performed, [] as [String; 0]);
    let shard = shard.next_reconcile();
    assert!(shard.delete("v1", "Pod", "set-1").await.is_ok(), "the plan recorded no stop");
}
