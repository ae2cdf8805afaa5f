//! Membership, whatever a plugin asks for, and where the ledger is kept.

use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, KubernetesCall, ObjectRef, ReadMode, RedisCall, Reply,
    WriteMode,
};
use tholepin_gate::ReconcileContext;
use tholepin_schema::manifest::{GrantScope, Grants, RedisGrants};

use crate::{
    GateFixture, LEDGER, config_map,
    fixture::{FakeCluster, object, pod},
    grants, instance, kind, snapshot,
};

fn bench() -> GateFixture {
    let verbs = ["observe", "configure", "forget"].map(str::to_owned).to_vec();
    let redis = RedisGrants { commands: vec!["+get".into()], verbs };
    let bench =
        GateFixture::new(Grants { redis, ..grants(GrantScope::Namespace) }, WriteMode::Live);
    *bench.world.snapshot.lock().unwrap() = snapshot();
    bench
}

impl GateFixture {
    async fn observe(&self, change: Value) -> Answer {
        let mut instance = instance();
        instance.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.redis(RedisCall::Observe { instance }).await
    }

    /// The Pods that the Redis port was asked to observe.
    fn looked_at(&self) -> Vec<String> {
        self.world.observed_members.lock().unwrap().iter().map(|(pod, _)| pod.clone()).collect()
    }
}

fn ledger(world: &FakeCluster) -> Value {
    let objects = world.objects.lock().unwrap();
    let map = &objects[&config_map(LEDGER)];
    serde_json::from_str(map["data"]["ledger.json"].as_str().unwrap()).unwrap()
}

/// Sets the fake's snapshot to the Pod in the store, with this container.
fn set_snapshot(bench: &GateFixture, container_id: &str) {
    let mut observed = serde_json::to_value(snapshot()).unwrap();
    let row = json!({"role": "primary", "epoch": 1, "connected": true});
    observed["view"] = json!({"a".repeat(40): row});
    observed["members"][0]["podUid"] = json!("uid-a-0");
    observed["members"][0]["containerId"] = json!(container_id);
    *bench.world.snapshot.lock().unwrap() = serde_json::from_value(observed).unwrap();
}

#[tokio::test]
async fn a_selector_limits_what_is_shown_and_not_the_membership() {
    let bench = bench();
    let mut hidden = pod("b-0");
    hidden["metadata"]["labels"] = json!({"app": "hidden"});
    bench.world.put(hidden);
    let Ok(Reply::Document(observed)) = bench.observe(json!({})).await else { panic!() };
    assert_eq!(bench.looked_at(), ["a-0", "b-0"], "guards and ledger see both");
    assert_eq!(observed["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(observed["strangers"], Value::Null);
}

#[tokio::test]
async fn a_member_stays_one_when_it_is_orphaned_or_relabelled() {
    let bench = bench();
    set_snapshot(&bench, "c-a-0");
    bench.observe(json!({})).await.unwrap();
    let mut orphan = pod("a-0");
    orphan["metadata"]["labels"] = json!({"app": "other"});
    orphan["metadata"]["ownerReferences"] = json!([]);
    bench.world.put(orphan.clone());
    bench.world.put(pod("b-0"));
    bench.observe(json!({})).await.unwrap_err();
    assert_eq!(bench.looked_at(), ["a-0", "b-0"]);
    orphan["metadata"]["uid"] = json!("uid-another");
    bench.world.put(orphan);
    bench.observe(json!({})).await.unwrap_err();
    assert_eq!(bench.looked_at(), ["b-0"], "another Pod of the same name is no member");
}

#[tokio::test]
async fn a_pod_of_no_group_is_a_member_that_does_not_answer() {
    let bench = bench();
    let with_container = |name: &str, container: &str| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["name"] = json!(container);
        pod["status"]["containerStatuses"][0]["name"] = json!(container);
        pod
    };
    bench.world.put(with_container("b-0", "sentinel"));
    bench.observe(json!({})).await.unwrap();
    assert_eq!(bench.looked_at(), ["a-0", "b-0"]);
    let observed = bench.world.observed_members.lock().unwrap().clone();
    let running: Vec<_> = observed.iter().map(|(_, running)| *running).collect();
    assert_eq!(running, [true, false], "the container of the group does not run in it");
    let sentinels = json!({"group": "sentinels", "container": "sentinel", "port": 26379});
    // The fake returns the same snapshot for all instances.
    bench.observe(sentinels).await.unwrap();
    assert_eq!(bench.looked_at(), ["b-0"]);
    bench.observe(json!({})).await.unwrap();
    assert_eq!(bench.looked_at(), ["a-0"]);
}

#[tokio::test]
async fn the_container_and_the_port_of_a_group_are_fixed_by_its_first_use() {
    let bench = bench();
    set_snapshot(&bench, "c-a-0");
    bench.observe(json!({})).await.unwrap();
    assert_eq!(ledger(&bench.world)["groups"]["servers"]["port"], 7000);
    for change in [json!({"port": 7001}), json!({"container": "other"})] {
        let refused = bench.observe(change.clone()).await;
        let Err(CallError::Invalid(text)) = refused else { panic!("{change}: {refused:?}") };
        assert!(text.contains("`redis` with port 7000"), "{text}");
    }
}

#[tokio::test]
async fn an_instance_without_members_is_not_found() {
    let bench = bench();
    bench.world.objects.lock().unwrap().retain(|object, _| object.name != "a-0");
    let forget = json!({"verb": "forget", "args": {"node": "f".repeat(40)}});
    let answers = [
        bench.observe(json!({})).await,
        bench.redis(RedisCall::Act { instance: instance(), actions: vec![forget] }).await,
    ];
    for answer in answers {
        let Err(CallError::NotFound(text)) = answer else { panic!("{answer:?}") };
        assert_eq!(text, "a Pod of Thing n/me in group `servers`");
    }
    bench.world.put(pod("a-0"));
    let Err(CallError::NotFound(text)) = bench.observe(json!({"selector": "app=y"})).await else {
        panic!("a selector that matches no member")
    };
    assert!(text.contains("`app=y` (1 do not match)"), "{text}");
}

#[tokio::test]
async fn no_grant_covers_reserved_objects() {
    let bench = bench();
    set_snapshot(&bench, "c-a-0");
    bench.observe(json!({})).await.unwrap();
    for name in [LEDGER, "me-ledger"] {
        bench.world.put(object("v1", "ConfigMap", name, Some("me")));
        let (object, object_of) = (config_map(name), object);
        let calls = [
            KubernetesCall::Get { object: object.clone(), read: ReadMode::Live, fields: vec![] },
            KubernetesCall::MergePatch { object: object.clone(), patch: json!({"data": {}}) },
            KubernetesCall::Apply {
                object: object_of("v1", "ConfigMap", name, Some("me")),
                force: false,
            },
            KubernetesCall::Delete {
                object,
                uid: None,
                resource_version: None,
                grace_seconds: None,
            },
        ];
        for call in calls {
            let answer = bench.kubernetes(call.clone()).await;
            let Err(CallError::Denied(text)) = &answer else { panic!("{call:?}: {answer:?}") };
            assert!(text.contains("reserved"), "{text}");
        }
    }
    let list = KubernetesCall::List {
        kind: kind("v1", "ConfigMap"),
        namespace: "n".into(),
        selector: String::new(),
        read: ReadMode::Cached,
        fields: vec![],
    };
    let Ok(Reply::Documents(found)) = bench.kubernetes(list).await else { panic!() };
    let names: Vec<_> = found.iter().map(|map| map["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "mine", "theirs"]);
}

#[tokio::test]
async fn a_second_host_s_ledger_is_merged_and_not_overwritten() {
    let bench = bench();
    set_snapshot(&bench, "c-a-0");
    bench.observe(json!({})).await.unwrap();
    // Another host writes a field that this one does not know, and a node that it has not seen.
    let mut theirs = ledger(&bench.world);
    theirs["turn"] = json!({"holder": "x"});
    theirs["nodes"]["e".repeat(40)] = theirs["nodes"]["a".repeat(40)].clone();
    let key = config_map(LEDGER);
    let mut map = (*bench.world.objects.lock().unwrap()[&key]).clone();
    map["data"]["ledger.json"] = json!(theirs.to_string());
    map["metadata"]["resourceVersion"] = json!("99");
    bench.world.put(map);
    set_snapshot(&bench, "c-new");
    bench.observe(json!({})).await.unwrap();
    let merged = ledger(&bench.world);
    assert_eq!(merged["turn"], theirs["turn"]);
    assert_eq!(merged["nodes"]["a".repeat(40)]["containerId"], "c-new");
    assert_eq!(merged["nodes"]["e".repeat(40)], theirs["nodes"]["e".repeat(40)]);
}

#[tokio::test]
async fn the_ledger_of_an_older_host_is_taken_over_if_it_is_this_object_s() {
    for (uid, is_taken) in [("uid-me", true), ("uid-of-another-kind", false)] {
        let bench = bench();
        set_snapshot(&bench, "c-a-0");
        let mut old = object("v1", "ConfigMap", "me-ledger", None);
        old["metadata"]["ownerReferences"] = json!([{"uid": uid}]);
        old["data"] = json!({"ledger.json": json!({"adoptedAtMs": 7}).to_string()});
        bench.world.put(old);
        bench.observe(json!({})).await.unwrap();
        let adopted = ledger(&bench.world)["adoptedAtMs"].clone();
        assert_eq!(adopted == json!(7), is_taken, "{uid}: {adopted}");
        let reference = ObjectRef { name: "me-ledger".into(), ..config_map("x") };
        assert!(
            bench.world.objects.lock().unwrap().contains_key(&reference),
            "the old ledger stays"
        );
    }
}

#[tokio::test]
async fn a_start_without_data_is_approved_for_one_process_and_written_to_its_pod() {
    let bench = bench();
    let with_start = |value: &str| {
        let mut thing = object("tests.tholepin.dev/v1", "Thing", "me", None);
        thing["spec"] = json!({"secret": "mine"});
        thing["metadata"]["annotations"] = json!({"tholepin.dev/approve-data-loss": value});
        thing
    };
    set_snapshot(&bench, "c-a-0");
    let (node, run_id) = ("a".repeat(40), "b".repeat(40));
    let mut observed = serde_json::to_value(bench.world.snapshot.lock().unwrap().clone()).unwrap();
    observed["view"][&node]["slots"] = json!(["0-16383"]);
    observed["members"][0]["answer"]["answered"]["keys"] = json!(3);
    *bench.world.snapshot.lock().unwrap() = serde_json::from_value(observed.clone()).unwrap();
    bench.observe(json!({})).await.unwrap();
    // The process was restarted and waits.
    observed["members"][0]["answer"] = json!({"unreachable": {"reason": "refused", "message": ""}});
    observed["members"][0]["containerId"] = json!("c-new");
    observed["members"][0]["kubernetes"] =
        json!({"lastState": {"terminated": {"containerID": "c-a-0"}}});
    observed["view"] = json!({});
    *bench.world.snapshot.lock().unwrap() = serde_json::from_value(observed).unwrap();
    let with_verbs = |verbs: &[&str]| {
        let mut scope = bench.scope.clone();
        let mut grants = (*scope.grants).clone();
        grants.redis.verbs.extend(verbs.iter().map(|&verb| verb.to_owned()));
        scope.grants = grants.into();
        bench.gate.open(scope)
    };
    let context = with_verbs(&["allow-start", "lose-data"]);
    let act = async |context: &ReconcileContext| {
        let action = json!({"verb": "allow-start", "args": {"pod": "a-0", "node": node}});
        let call = RedisCall::Act { instance: instance(), actions: vec![action] };
        let answer = context.perform(&bench.call_context, Call::Redis(call)).await;
        let Ok(Reply::Results(results)) = answer else { panic!("{answer:?}") };
        results[0].as_ref().unwrap()["outcome"].clone()
    };
    let approval = format!("{node}/{run_id}");
    for other in [String::new(), node.clone(), format!("{node}/{}", "c".repeat(40))] {
        bench.world.put(with_start(&other));
        let outcome = act(&context).await;
        assert_eq!(outcome["refused"]["guard"], "data-loss", "{other}: {outcome}");
        let text = outcome["refused"]["message"].as_str().unwrap();
        assert!(text.contains(&format!("tholepin.dev/approve-data-loss={approval}")), "{text}");
    }
    bench.world.put(with_start(&approval));
    let outcome = act(&with_verbs(&["allow-start"])).await;
    assert_eq!(outcome["refused"]["guard"], "lose-data", "{outcome}");
    let text = outcome["refused"]["message"].as_str().unwrap();
    assert!(text.contains("the Plugin's spec.grants.redis.verbs needs `lose-data`"), "{text}");
    let outcome = act(&context).await;
    assert!(outcome["done"].is_object(), "{outcome}");
    assert_eq!(bench.writes().last().unwrap(), "patch a-0");
}
