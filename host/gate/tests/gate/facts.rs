//! Waiting for facts, and being woken by them.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, ObjectMeta, PluginRuntimeCall, Reply, SubscribedWakes,
    WatchedStoreObject, WriteMode,
    port::{PollReport, WatchedStoreChange},
};
use tholepin_schema::{
    manifest::{GrantScope, Grants, RedisGrants},
    snapshot::Snapshot,
};
use tokio::{task::yield_now, time::timeout};

use crate::{GateFixture, fixture::object, grants, instance, snapshot, wakes::subscribe_as};

/// A reconcile that may observe and read its own ConfigMaps; one Pod is a member.
pub(crate) fn bench(mode: WriteMode) -> GateFixture {
    let redis = RedisGrants { commands: vec![], verbs: vec!["observe".into()] };
    let bench = GateFixture::new(Grants { redis, ..grants(GrantScope::Owned) }, mode);
    *bench.world.snapshot.lock().unwrap() = snapshot();
    bench
}

/// A snapshot in which the member has this many keys.
fn with_keys(keys: u64) -> Arc<Snapshot> {
    let mut value = serde_json::to_value(snapshot()).unwrap();
    value["members"][0]["answer"]["answered"]["keys"] = keys.into();
    Arc::new(serde_json::from_value(value).unwrap())
}

pub(crate) fn keys(at_least: u64) -> Value {
    json!({"subject": {"member": {"instance": instance(), "pod": "a-0"}},
        "field": ".answer.answered.keys", "op": "at-least", "value": at_least})
}

pub(crate) fn data(name: &str, value: &str) -> Value {
    json!({"subject": {"object": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "n",
        "name": name}}, "field": ".data.x", "op": "equals", "value": value})
}

/// A fact about a member of another group of processes.
fn keys_of_group(number: usize) -> Value {
    let mut fact = keys(1);
    fact["subject"]["member"]["instance"]["group"] = json!(format!("g{number}"));
    fact
}

async fn wait(bench: &GateFixture, facts: Vec<Value>, ms: u32) -> Answer {
    let call = Call::Runtime(PluginRuntimeCall::Wait { facts, ms });
    let answer = bench.context.perform(&bench.call_context, call);
    timeout(Duration::from_secs(5), answer).await.expect("a wait ends")
}

/// Lets the other futures of the test run until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    const TURNS_MAX: usize = 1_000;
    for _ in 0..TURNS_MAX {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition does not hold after {TURNS_MAX} turns");
}

/// Waits until the wait polls the member and so has read the objects once.
async fn polls(bench: &GateFixture) {
    until(|| bench.writes() == ["join a-0"]).await;
}

fn outcome(answer: Answer) -> Value {
    let Ok(Reply::Document(outcome)) = answer else { panic!("{answer:?}") };
    outcome
}

/// Changes an object in the store and returns the change.
pub(crate) fn change(bench: &GateFixture, value: Value) -> WatchedStoreChange {
    bench.world.put(value.clone());
    let reference = ObjectMeta::of(&value).unwrap().object;
    let after = Some(WatchedStoreObject::new(value).unwrap());
    WatchedStoreChange { object: reference, before: None, after }
}

fn mine(value: &str) -> Value {
    let mut object = object("v1", "ConfigMap", "mine", Some("me"));
    object["data"] = json!({"x": value});
    object
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_all_facts_hold() {
    let bench = bench(WriteMode::Live);
    let facts = vec![keys(2), data("mine", "on")];
    let (outcome_seen, ()) = tokio::join!(wait(&bench, facts, 2000), async {
        polls(&bench).await;
        for count in 0..3 {
            bench.world.polled.send_replace(Some(with_keys(count)));
        }
        let _ = bench.gate.woken_by_change(&change(&bench, mine("off")));
        let _ = bench.gate.woken_by_change(&change(&bench, mine("on")));
    });
    assert_eq!(outcome(outcome_seen)["held"]["tookMs"], 0, "the clock stands still");
    let recording = bench.context.take_recording();
    assert_eq!(recording.calls()[0].call.function(), "runtime/wait");
    assert!(recording.calls()[0].answer.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_times_out_returns_the_values_found() {
    let bench = bench(WriteMode::Live);
    let facts = vec![keys(1), keys(9), data("mine", "on")];
    let (answer, ()) = tokio::join!(wait(&bench, facts, 50), async {
        polls(&bench).await;
        bench.world.polled.send_replace(Some(with_keys(5)));
    });
    let answer = outcome(answer);
    let missing = json!([
        {"index": 1, "held": {"no": {"seen": 5}}},
        {"index": 2, "held": {"no": {"seen": null}}},
    ]);
    assert_eq!(answer["timedOut"]["missing"], missing, "{answer}");
    assert_eq!(answer["timedOut"]["tookMs"], 50, "{answer}");
    // No poll came in time, so the fact is unknown.
    let answer = outcome(wait(&bench, vec![keys(1)], 1).await);
    assert!(answer["timedOut"]["missing"][0]["held"]["unknown"].is_object(), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn polls_follow_the_current_pods() {
    let bench = bench(WriteMode::Live);
    let (answer, ()) = tokio::join!(wait(&bench, vec![keys(1)], 500), async {
        polls(&bench).await;
        let pod = object("v1", "Pod", "a-1", Some("me"));
        let _ = bench.gate.woken_by_change(&change(&bench, pod));
        until(|| bench.writes() == ["join a-0", "join a-0,a-1"]).await;
        bench.world.polled.send_replace(Some(with_keys(1)));
    });
    assert!(outcome(answer)["held"].is_object());
}

#[tokio::test(start_paused = true)]
async fn an_urgent_event_ends_a_wait() {
    let bench = bench(WriteMode::Live);
    let (answer, ()) = tokio::join!(wait(&bench, vec![keys(9)], 2000), async {
        polls(&bench).await;
        bench.scope.urgent.cancel();
    });
    assert_eq!(answer, Err(CallError::Interrupted));
    assert_eq!(
        wait(&bench, vec![keys(9)], 2000).await,
        Err(CallError::Interrupted),
        "the event stays"
    );
}

#[tokio::test]
async fn a_plan_reads_once_and_ends_where_it_would_wait() {
    let bench = bench(WriteMode::Plan);
    *bench.world.snapshot.lock().unwrap() = (*with_keys(5)).clone();
    assert_eq!(outcome(wait(&bench, vec![keys(5)], 2000).await), json!({"held": {"tookMs": 0}}));
    let Err(CallError::PlanEnds(text)) = wait(&bench, vec![keys(5), keys(6)], 2000).await else {
        panic!("must end");
    };
    assert_eq!(text, "the wait until member `a-0` `.answer.answered.keys` at-least 6, and it is 5");
}

#[tokio::test]
async fn an_invalid_wait_is_refused_with_its_reason() {
    let bench = bench(WriteMode::Live);
    let mut typo = keys(1);
    typo["field"] = json!(".answer.answered.key");
    let mut nameless = keys(1);
    nameless["subject"]["member"].as_object_mut().unwrap().remove("instance");
    let mut secret = data("mine", "x");
    secret["subject"]["object"]["kind"] = json!("Secret");
    let rows = [
        (vec![typo], 10, "no field `key`"),
        (vec![nameless], 10, "names no `instance`"),
        (vec![secret], 10, "kind: Secret, verbs: [get]"),
        (vec![data("theirs", "x")], 10, "outside the scope"),
        (vec![], 10, "at least 1 fact"),
        (vec![keys(1)], 0, "1 to 2000 ms"),
        (vec![keys(1)], 2001, "1 to 2000 ms"),
        (vec![keys(1); 65], 10, "65 facts are too many"),
        ((0..9).map(keys_of_group).collect(), 10, "about 9 instances, 8 are allowed"),
    ];
    for (facts, ms, expected) in rows {
        let error = wait(&bench, facts, ms).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let blind = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let denied = wait(&blind, vec![keys(1)], 10).await;
    assert!(matches!(&denied, Err(CallError::Denied(text)) if text.contains("`observe`")));
}

async fn subscribe_to(bench: &GateFixture, wakes: Vec<Value>) -> Option<Duration> {
    let SubscribedWakes { requeue, refusal } = subscribe_as(bench, &bench.scope, wakes).await;
    assert_eq!(refusal, None);
    requeue
}

fn poll(changed: bool, keys: u64) -> PollReport {
    PollReport { instance: "uid-me:servers".into(), changed, snapshot: Some(with_keys(keys)) }
}

#[tokio::test]
async fn a_fact_about_a_member_wakes_once() {
    let bench = bench(WriteMode::Live);
    let causes = |report: &PollReport| -> Vec<&str> {
        bench.gate.woken_by_poll(report).into_iter().map(|(_, cause)| cause).collect()
    };
    assert_eq!(subscribe_to(&bench, vec![json!({"fact": keys(5)})]).await, None);
    assert_eq!(
        bench.world.polled_instances.lock().unwrap()["uid-me:servers"],
        "Whole { settings: [] }"
    );
    assert_eq!(causes(&poll(true, 4)), [] as [&str; 0], "no subscription to changes");
    assert_eq!(causes(&poll(false, 5)), ["fact"]);
    assert_eq!(causes(&poll(false, 5)), [] as [&str; 0], "once");

    let change = json!({"change": {"instance": instance()}});
    subscribe_to(&bench, vec![change, json!({"fact": keys(6)})]).await;
    assert_eq!(causes(&poll(true, 5)), ["change in Redis"]);
    assert_eq!(causes(&poll(true, 6)), ["fact"]);
    subscribe_to(&bench, vec![json!({"change": {"instance": instance()}})]).await;
    assert_eq!(bench.world.polled_instances.lock().unwrap()["uid-me:servers"], "Changes");
    subscribe_to(&bench, vec![]).await;
    assert!(
        bench.world.polled_instances.lock().unwrap().is_empty(),
        "a subscription that is not repeated ends"
    );
    assert_eq!(causes(&poll(true, 9)), [] as [&str; 0]);
}

#[tokio::test]
async fn a_fact_about_an_object_wakes_when_the_store_changes() {
    let bench = bench(WriteMode::Live);
    let woken = |value: &str| bench.gate.woken_by_change(&change(&bench, mine(value))).len();
    assert_eq!(subscribe_to(&bench, vec![json!({"fact": data("mine", "on")})]).await, None);
    assert_eq!((woken("off"), woken("on"), woken("on")), (0, 1, 0));
    let again = subscribe_to(&bench, vec![json!({"fact": data("mine", "on")})]).await;
    assert_eq!(
        again,
        Some(Duration::from_secs(1)),
        "it holds already: woken again after a second, not in a circle"
    );
    subscribe_to(&bench, vec![json!({"fact": data("mine", "off")})]).await;
    bench.world.put(mine("off"));
    assert_eq!(bench.gate.woken_by_overflow().len(), 1);
    subscribe_to(&bench, vec![json!({"fact": data("mine", "on")})]).await;
    bench.gate.unsubscribe(&bench.scope.key);
    assert_eq!(woken("on"), 0);
}
