//! The steps of a plan, which are those of a live reconcile.

use serde_json::json;
use tholepin_core::{
    Call, CallError, HostCalls, KubernetesCall, PAUSED, Pipeline, PlanStep, PlanStepEffect,
    PluginRuntimeCall, RedisCall, Reply, RespNode, RespReply, WriteMode,
    step::{PlanStepChangeType, StepSkipReason},
};
use tholepin_schema::manifest::{GrantScope, Grants, RedisGrants};

use crate::{
    GateFixture, config_map,
    fixture::{NOW_MS, object, pod},
    grants, instance,
};

/// Grants verbs, commands that write, and everything on ConfigMaps.
fn wide() -> Grants {
    let redis = RedisGrants {
        commands: ["+@read", "+@write", "~[ab]"].map(str::to_owned).to_vec(),
        verbs: ["observe", "meet", "configure"].map(str::to_owned).to_vec(),
    };
    Grants { redis, ..grants(GrantScope::Owned) }
}

fn pipeline(lines: &[&str]) -> Pipeline {
    let words = |line: &&str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    Pipeline {
        instance: instance(),
        pod: "p-0".into(),
        commands: lines.iter().map(words).collect(),
        deadline_ms: 100,
    }
}

fn configure(pod: &str, name: &str) -> serde_json::Value {
    json!({"verb": "configure", "args": {"pod": pod, "settings": {name: "500"}}})
}

/// Adds a member that answers, so that the guards accept `configure`.
fn with_a_member(bench: &GateFixture) {
    bench.world.put(pod("p-0"));
    let snapshot = json!({
        "observedAtMs": NOW_MS,
        "members": [{"pod": "p-0", "podUid": "u", "running": true, "address": "127.0.0.1:7000",
            "answer": {"answered": {"answeredAtMs": NOW_MS}}}],
    });
    *bench.world.snapshot.lock().unwrap() = serde_json::from_value(snapshot).unwrap();
}

fn steps(bench: &GateFixture) -> Vec<PlanStep> {
    let recording = bench.context.take_recording();
    recording.calls().iter().flat_map(|recorded| recorded.steps.clone()).collect()
}

/// Performs the same calls in this mode. Returns the steps and the writes.
async fn planned_steps(mode: WriteMode) -> (Vec<PlanStep>, Vec<String>) {
    let bench = GateFixture::new(wide(), mode);
    with_a_member(&bench);
    bench.apply("new", Some("me")).await.unwrap();
    // An apply that changes nothing has no step.
    bench.apply("mine", Some("me")).await.unwrap();
    bench.apply("theirs", Some("me")).await.unwrap_err();
    let actions = vec![configure("p-0", "cluster-node-timeout"), configure("p-9", "hz")];
    bench.redis(RedisCall::Act { instance: instance(), actions }).await.unwrap();
    bench.redis(RedisCall::Pipeline(pipeline(&["GET a"]))).await.unwrap();
    bench.redis(RedisCall::Pipeline(pipeline(&["SET a 1"]))).await.unwrap();
    let object = config_map("mine");
    let delete =
        KubernetesCall::Delete { object, uid: None, resource_version: None, grace_seconds: None };
    bench.kubernetes(delete).await.unwrap();
    (steps(&bench), bench.writes())
}

#[tokio::test]
async fn a_plan_has_the_steps_of_a_live_reconcile_and_writes_nothing() {
    let (planned, reached) = planned_steps(WriteMode::Plan).await;
    let (done, _) = planned_steps(WriteMode::Live).await;
    assert_eq!(serde_json::to_value(&planned).unwrap(), serde_json::to_value(&done).unwrap());
    let kept = |line: &&String| {
        !line.ends_with("dry run")
            && !line.starts_with("read secret")
            && !line.contains("pipeline of")
    };
    assert_eq!(reached.iter().filter(kept).count(), 0, "{reached:?}");
    let pipelines = reached.iter().filter(|line| line.starts_with("pipeline")).count();
    assert_eq!(pipelines, 1, "only the read: {reached:?}");

    let [created, stolen, set, refused, sent, deleted] = &planned[..] else {
        panic!("{planned:#?}")
    };
    let PlanStepEffect::Object { change: PlanStepChangeType::Created, fields, .. } =
        &created.effect
    else {
        panic!("{created:?}")
    };
    assert!(fields.iter().any(|field| field.field == ".metadata.ownerReferences"), "{fields:?}");
    assert!(
        matches!(&stolen.not_done, Some(StepSkipReason::Failed { reason, .. }) if reason == "Denied")
    );
    let PlanStepEffect::Verb { verb, commands, .. } = &set.effect else { panic!("{set:?}") };
    assert_eq!((verb.as_str(), commands[0].pod.as_str()), ("configure", "p-0"));
    let Some(StepSkipReason::Refused { guard, message }) = &refused.not_done else {
        panic!("{refused:?}")
    };
    assert_eq!(guard, "member");
    assert!(message.contains("p-9"), "{message}");
    let PlanStepEffect::Commands { commands } = &sent.effect else { panic!("{sent:?}") };
    assert_eq!(commands[0].command, "SET a 1");
    assert!(matches!(
        deleted.effect,
        PlanStepEffect::Object { change: PlanStepChangeType::Deleted, .. }
    ));
}

#[tokio::test]
async fn a_write_whose_reply_is_only_a_status_is_answered_and_any_other_ends_the_plan() {
    let bench = GateFixture::new(wide(), WriteMode::Plan);
    let ok = bench.redis(RedisCall::Pipeline(pipeline(&["SET a 1", "RENAME a b"]))).await;
    let status = || RespReply { nodes: vec![RespNode::Status("OK".into())] };
    assert_eq!(ok, Ok(Reply::Replies(vec![status(), status()])));
    let ends = CallError::PlanEnds("the reply to `INCR a` on `p-0`".into());
    let end = bench.redis(RedisCall::Pipeline(pipeline(&["SET a 1", "INCR a"]))).await;
    assert_eq!(end, Err(ends.clone()));
    // What follows is not known and is not part of the plan.
    assert_eq!(bench.redis(RedisCall::Pipeline(pipeline(&["GET a"]))).await, Err(ends.clone()));
    assert_eq!(bench.apply("new", Some("me")).await, Err(ends));
    let now =
        bench.context.perform(&bench.call_context, Call::Runtime(PluginRuntimeCall::Now)).await;
    assert!(now.is_ok(), "the clock is read also after the end of the plan");
    assert_eq!(bench.writes().iter().filter(|line| line.starts_with("pipeline")).count(), 0);
    let steps = steps(&bench);
    assert_eq!(steps.len(), 2, "{steps:#?}");
    assert!(steps.iter().all(|step| step.not_done.is_none()));
}

#[tokio::test]
async fn an_action_after_a_planned_one_depends_on_it() {
    let bench = GateFixture::new(wide(), WriteMode::Plan);
    with_a_member(&bench);
    let mut first = configure("p-0", "cluster-node-timeout");
    first["id"] = json!("first");
    let mut second = configure("p-9", "hz");
    second["after"] = json!(["first"]);
    let call = RedisCall::Act { instance: instance(), actions: vec![first, second] };
    bench.redis(call).await.unwrap();
    let steps = steps(&bench);
    let [first, second] = &steps[..] else { panic!("{steps:#?}") };
    assert_eq!(first.not_done, None);
    assert_eq!(second.not_done, Some(StepSkipReason::Skipped { after: "first".into() }));
}

#[tokio::test]
async fn nothing_is_written_after_the_object_was_paused() {
    let bench = GateFixture::new(wide(), WriteMode::Live);
    with_a_member(&bench);
    bench.apply("one", Some("me")).await.unwrap();
    let mut thing = object("tests.tholepin.dev/v1", "Thing", "me", None);
    thing["spec"] = json!({"secret": "mine"});
    thing["metadata"]["annotations"] = json!({PAUSED: "true"});
    bench.world.put(thing.clone());
    assert_eq!(bench.apply("two", Some("me")).await, Err(CallError::Interrupted));
    let actions = vec![configure("p-0", "cluster-node-timeout")];
    let act = bench.redis(RedisCall::Act { instance: instance(), actions }).await;
    assert_eq!(act, Err(CallError::Interrupted));
    let set = bench.redis(RedisCall::Pipeline(pipeline(&["SET a 1"]))).await;
    assert_eq!(set, Err(CallError::Interrupted));
    assert!(bench.redis(RedisCall::Pipeline(pipeline(&["GET a"]))).await.is_ok());
    let instance = instance();
    assert!(
        bench.redis(RedisCall::Observe { instance }).await.is_ok(),
        "an observation is no write"
    );
    let kept: Vec<_> =
        bench.writes().into_iter().filter(|line| !line.starts_with("pipe")).collect();
    assert_eq!(kept, ["apply one by tholepin:p kept"], "the ledger is not written either");
    thing["metadata"]["annotations"] = json!({PAUSED: "false"});
    bench.world.put(thing);
    assert!(bench.apply("two", Some("me")).await.is_ok());
}

#[tokio::test]
async fn a_plan_leaves_the_ledger_of_the_host_as_it_was() {
    let bench = GateFixture::new(wide(), WriteMode::Live);
    with_a_member(&bench);
    bench.redis(RedisCall::Observe { instance: instance() }).await.unwrap();
    let wrote = bench.writes();
    let plan = bench.sibling(WriteMode::Plan);
    let actions = vec![configure("p-0", "cluster-node-timeout")];
    let act = Call::Redis(RedisCall::Act { instance: instance(), actions });
    let observe = Call::Redis(RedisCall::Observe { instance: instance() });
    for call in [act, observe, Call::Runtime(PluginRuntimeCall::Now)] {
        plan.perform(&bench.call_context, call).await.unwrap();
    }
    assert_eq!(bench.writes(), wrote, "the ledger was neither read again nor written");
}
