//! What is done while the API server is away: observing, and actions that the cluster itself votes for.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tholepin_core::{Answer, Call, CallError, HostCalls, RedisCall, Reply, WriteMode};
use tholepin_gate::ReconcileContext;
use tholepin_schema::manifest::{GrantScope, Grants, RedisGrants, SafetyPaths};

use crate::{
    GateFixture, LEDGER, config_map,
    fixture::{NOW_MS, pod},
    grants, instance,
};

fn id(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// Three primaries, of which `d` may have failed, and a replica of it in `a-0`.
fn snapshot(failed: bool) -> Value {
    let slots =
        |range: &str| json!({"role": "primary", "epoch": 1, "slots": [range], "connected": true});
    let mut lost = slots("0-9");
    if failed {
        lost["flags"] = json!(["fail"]);
        lost["connected"] = json!(false);
    }
    let member = |pod: &str, node: char, more: Value| {
        let mut facts = json!({"answeredAtMs": NOW_MS, "node": id(node), "runId": id(node),
            "loading": false, "keys": 3, "settings": {"cluster-node-timeout": "2000"}});
        facts.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"pod": pod, "podUid": format!("uid-{pod}"), "running": true, "address": format!("{pod}:1"),
            "answer": {"answered": facts}})
    };
    let stream = json!({"replication": {"id": id('f'), "offsetBytes": 10}});
    let mut members = vec![
        member("a-0", 'a', stream),
        member("b-0", 'b', json!({})),
        member("c-0", 'c', json!({})),
    ];
    if !failed {
        members.push(member("d-0", 'd', json!({})));
    }
    json!({"observedAtMs": NOW_MS, "members": members, "view": {
        id('a'): {"role": "replica", "primary": id('d'), "epoch": 1, "connected": true},
        id('b'): slots("10-19"), id('c'): slots("20-16383"), id('d'): lost}})
}

async fn ask(bench: &GateFixture, context: &ReconcileContext, call: RedisCall) -> Answer {
    context.perform(&bench.call_context, Call::Redis(call)).await
}

#[tokio::test]
async fn without_the_api_server_a_voted_action_is_sent_and_the_ledger_follows() {
    let verbs = ["observe", "failover"].map(str::to_owned).to_vec();
    let redis = RedisGrants { commands: vec![], verbs };
    let path = Some(".spec.onPodDeath".to_owned());
    let safety = SafetyPaths { data_loss: None, tail_loss: path };
    let granted = Grants { redis, safety, ..grants(GrantScope::Owned) };
    let bench = GateFixture::new(granted, WriteMode::Live);
    for name in ["b-0", "c-0", "d-0"] {
        bench.world.put(pod(name));
    }
    let shows = |snapshot: Value| {
        *bench.world.snapshot.lock().unwrap() = serde_json::from_value(snapshot).unwrap();
    };
    let mut scope = bench.scope.clone();
    let mut thing = (*scope.object).clone();
    thing["spec"]["onPodDeath"] = json!("force");
    scope.object = thing.into();
    let context = bench.gate.open(scope);
    shows(snapshot(false));
    ask(&bench, &context, RedisCall::Observe { instance: instance() }).await.unwrap();
    bench.world.api_server_is_away.store(true, Ordering::SeqCst);
    shows(snapshot(true));
    let seen = ask(&bench, &context, RedisCall::Observe { instance: instance() }).await;
    assert!(matches!(seen, Ok(Reply::Document(_))), "{seen:?}");
    let fail_over = |mode: &str| RedisCall::Act {
        instance: instance(),
        actions: vec![json!({"verb": "failover",
            "args": {"pod": "a-0", "primary": id('d'), "mode": mode}})],
    };
    let sent = ask(&bench, &context, fail_over("force")).await;
    let Ok(Reply::Results(results)) = sent else { panic!("{sent:?}") };
    assert!(results[0].as_ref().unwrap()["outcome"]["done"].is_object(), "{results:?}");
    assert_eq!(bench.writes().last().unwrap(), "failover to a-0");
    let tried = || {
        let map = bench.world.objects.lock().unwrap()[&config_map(LEDGER)].clone();
        let text = map["data"]["ledger.json"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap()["nodes"][id('d')]["failoverTriedAtMs"].clone()
    };
    assert_eq!(tried(), Value::Null);
    bench.world.api_server_is_away.store(false, Ordering::SeqCst);
    ask(&bench, &context, RedisCall::Observe { instance: instance() }).await.unwrap();
    assert_eq!(tried(), json!(NOW_MS), "the ledger is written afterwards");
}

#[tokio::test]
async fn without_the_api_server_nothing_else_is_sent() {
    let verbs = ["observe", "configure"].map(str::to_owned).to_vec();
    let redis = RedisGrants { commands: vec![], verbs };
    let bench = GateFixture::new(Grants { redis, ..grants(GrantScope::Owned) }, WriteMode::Live);
    *bench.world.snapshot.lock().unwrap() = serde_json::from_value(snapshot(true)).unwrap();
    bench.world.api_server_is_away.store(true, Ordering::SeqCst);
    let action = json!({"verb": "configure", "args": {"pod": "b-0", "temporary": true,
        "settings": {"cluster-node-timeout": "500"}}});
    let call = RedisCall::Act { instance: instance(), actions: vec![action] };
    let answer = bench.redis(call).await;
    assert!(matches!(answer, Err(CallError::Transient(_))), "{answer:?}");
    assert!(!bench.writes().iter().any(|line| line.starts_with("configure")));
}
