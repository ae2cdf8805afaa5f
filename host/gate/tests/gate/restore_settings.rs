//! Temporary settings are restored, however the reconcile ends.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, PAUSED, PlanStep, PlanStepEffect, RedisCall, Reply,
    WriteMode,
};
use tholepin_gate::{Gate, ReconcileContext};
use tholepin_schema::{
    manifest::{GrantScope, Grants, RedisGrants},
    snapshot::{MemberAnswer, Snapshot, UnreachableReason},
};

use crate::{GateFixture, LEDGER, fixture::FakeCluster, grants, instance, snapshot};

fn bench(mode: WriteMode) -> GateFixture {
    let verbs = ["observe", "configure"].map(str::to_owned).to_vec();
    let redis = RedisGrants { commands: vec![], verbs };
    let bench = GateFixture::new(Grants { redis, ..grants(GrantScope::Owned) }, mode);
    *bench.world.snapshot.lock().unwrap() = of_process("b");
    bench
}

/// A snapshot of the member with the original value of the setting.
fn of_process(run_id: &str) -> Snapshot {
    let mut document = serde_json::to_value(snapshot()).unwrap();
    let facts = &mut document["members"][0]["answer"]["answered"];
    facts["runId"] = json!(run_id.repeat(40));
    facts["settings"] = json!({"cluster-node-timeout": "5000"});
    serde_json::from_value(document).unwrap()
}

fn configure(value: &str, temporary: bool) -> Value {
    json!({"verb": "configure",
        "args": {"pod": "a-0", "settings": {"cluster-node-timeout": value}, "temporary": temporary}})
}

impl GateFixture {
    async fn in_context(&self, context: &Arc<ReconcileContext>, call: RedisCall) -> Answer {
        context.perform(&self.call_context, Call::Redis(call)).await
    }

    async fn suspend(&self, context: &Arc<ReconcileContext>) {
        let actions = vec![configure("500", true)];
        let answer =
            self.in_context(context, RedisCall::Act { instance: instance(), actions }).await;
        let Ok(Reply::Results(results)) = answer else { panic!("{answer:?}") };
        assert!(results[0].as_ref().unwrap()["outcome"]["done"].is_object(), "{results:?}");
    }

    /// Returns the setting as an observation shows it.
    async fn observed_setting(&self, context: &Arc<ReconcileContext>) -> Value {
        let answer = self.in_context(context, RedisCall::Observe { instance: instance() }).await;
        let Ok(Reply::Document(document)) = answer else { panic!("{answer:?}") };
        document["members"][0]["answer"]["answered"]["settings"]["cluster-node-timeout"].clone()
    }
}

/// Returns the value that the fake server has now.
fn server_value(world: &FakeCluster) -> String {
    let snapshot = world.snapshot.lock().unwrap();
    let MemberAnswer::Answered(facts) = &snapshot.members[0].answer else {
        panic!("the member does not answer")
    };
    facts.settings["cluster-node-timeout"].clone()
}

/// Returns the suspensions in the ConfigMap.
fn suspensions(world: &FakeCluster) -> Value {
    let objects = world.objects.lock().unwrap();
    let ledger = objects.iter().find(|(object, _)| object.name == LEDGER);
    let text = ledger.and_then(|(_, map)| map["data"]["ledger.json"].as_str()).unwrap_or("{}");
    let ledger: Value = serde_json::from_str(text).unwrap();
    ledger["suspensions"].clone()
}

fn commands(steps: &[PlanStep]) -> Vec<String> {
    let of = |step: &PlanStep| {
        let PlanStepEffect::Verb { commands, .. } = &step.effect else { panic!("{step:?}") };
        commands.iter().map(|line| line.command.clone()).collect::<Vec<_>>()
    };
    steps.iter().flat_map(of).collect()
}

#[tokio::test]
async fn a_temporary_setting_is_restored_when_the_reconcile_ends() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    assert_eq!(
        (server_value(&bench.world).as_str(), suspensions(&bench.world)[0]["value"].clone()),
        ("500", json!("5000"))
    );
    assert_eq!(bench.observed_setting(&bench.context).await, "500", "until the reconcile ends");
    assert_eq!(commands(&bench.context.close().await), ["CONFIG SET cluster-node-timeout 5000"]);
    assert_eq!(
        (server_value(&bench.world).as_str(), suspensions(&bench.world)),
        ("5000", Value::Null)
    );
    assert_eq!(bench.context.close().await, [], "once");
}

#[tokio::test]
async fn a_temporary_setting_is_restored_by_the_next_host() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    let next = Gate::new(bench.ports.clone()).open(bench.scope.clone());
    assert_eq!(
        bench.observed_setting(&next).await,
        "5000",
        "before the plugin's first observation"
    );
    assert_eq!(
        (server_value(&bench.world).as_str(), suspensions(&bench.world)),
        ("5000", Value::Null)
    );
    let recording = next.take_recording();
    assert_eq!(commands(&recording.calls()[0].steps), ["CONFIG SET cluster-node-timeout 5000"]);
}

#[tokio::test]
async fn a_setting_that_cannot_be_restored_is_left_to_the_next_reconcile() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    bench.world.actions_fail.store(true, Ordering::SeqCst);
    let steps = bench.context.close().await;
    assert!(steps.iter().all(|step| step.not_done.is_some()) && !steps.is_empty(), "{steps:?}");
    assert_eq!(suspensions(&bench.world)[0]["setting"], "cluster-node-timeout");
    bench.world.actions_fail.store(false, Ordering::SeqCst);
    let next = bench.sibling(WriteMode::Live);
    let actions = vec![configure("700", false)];
    bench.in_context(&next, RedisCall::Act { instance: instance(), actions }).await.unwrap();
    let writes = bench.writes();
    let sent: Vec<&str> =
        writes.iter().filter(|line| line.starts_with("configure")).map(String::as_str).collect();
    assert_eq!(
        sent[sent.len() - 2..],
        [
            "configure to a-0: cluster-node-timeout=5000",
            "configure to a-0: cluster-node-timeout=700"
        ]
    );
}

#[tokio::test]
async fn nothing_is_restored_in_another_process() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    *bench.world.snapshot.lock().unwrap() = of_process("c");
    assert_eq!(bench.context.close().await, []);
    assert_eq!(suspensions(&bench.world), Value::Null);
}

#[tokio::test]
async fn nothing_is_sent_to_a_member_that_does_not_answer() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    let reason = UnreachableReason::Timeout;
    bench.world.snapshot.lock().unwrap().members[0].answer =
        MemberAnswer::Unreachable { reason, message: "no answer".into() };
    assert_eq!(bench.context.close().await, []);
    assert_eq!(suspensions(&bench.world)[0]["value"], "5000");
}

#[tokio::test]
async fn a_lasting_value_stays() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    let actions = vec![configure("900", false)];
    bench.redis(RedisCall::Act { instance: instance(), actions }).await.unwrap();
    assert_eq!(bench.context.close().await, []);
    assert_eq!(
        (server_value(&bench.world).as_str(), suspensions(&bench.world)),
        ("900", Value::Null)
    );
}

/// Nothing is begun for a paused object, but temporary settings are restored.
#[tokio::test]
async fn a_paused_object_has_its_settings_restored() {
    let bench = bench(WriteMode::Live);
    bench.suspend(&bench.context).await;
    let mut paused = (*bench.scope.object).clone();
    paused["metadata"]["annotations"] = json!({PAUSED: "true"});
    bench.world.put(paused);
    let actions = vec![configure("900", true)];
    let more = bench.redis(RedisCall::Act { instance: instance(), actions }).await;
    assert_eq!(more, Err(CallError::Interrupted));
    bench.context.close().await;
    assert_eq!(server_value(&bench.world), "5000");
}

#[tokio::test]
async fn a_plan_has_the_steps_that_restore_settings() {
    let mut reported = Vec::new();
    for mode in [WriteMode::Plan, WriteMode::Live] {
        let bench = bench(mode);
        bench.suspend(&bench.context).await;
        let recording = bench.context.take_recording();
        let mut steps: Vec<PlanStep> =
            recording.calls().iter().flat_map(|recorded| recorded.steps.clone()).collect();
        steps.extend(bench.context.close().await);
        reported.push(serde_json::to_value(steps).unwrap());
        if mode == WriteMode::Plan {
            assert_eq!(bench.writes(), [] as [&str; 0], "a plan touches nothing");
        }
    }
    assert_eq!(reported[0], reported[1]);
    assert_eq!(reported[0].as_array().map(Vec::len), Some(2), "{}", reported[0]);
}

#[tokio::test]
async fn a_temporary_setting_without_a_known_value_is_refused() {
    let bench = bench(WriteMode::Live);
    let action = json!({"verb": "configure",
        "args": {"pod": "a-0", "settings": {"repl-diskless-sync-delay": "5"}, "temporary": true}});
    let actions = vec![action];
    let answer = bench.redis(RedisCall::Act { instance: instance(), actions }).await;
    let Ok(Reply::Results(results)) = answer else { panic!("{answer:?}") };
    let outcome = &results[0].as_ref().unwrap()["outcome"];
    assert!(outcome["refused"].is_object(), "{outcome}");
}
