//! The grants and the bounds of wake triggers, and what is reported of refused ones.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tholepin_core::{SubscribedWakes, WriteMode, port::PollReport};
use tholepin_gate::ReconcileScope;
use tholepin_schema::{
    instance::INSTANCES_PER_OBJECT_MAX,
    manifest::Grants,
    reconcile::{WAKES_MAX, WakeTrigger},
};
use tokio::time::advance;

use crate::{
    GateFixture,
    facts::{self, bench, data, keys},
    fixture::object,
    instance, kind,
};

/// Returns the outcome of these triggers, as if the reconcile of this scope had returned them.
pub(crate) async fn subscribe_as(
    bench: &GateFixture,
    scope: &ReconcileScope,
    wakes: Vec<Value>,
) -> SubscribedWakes {
    let wakes: Vec<WakeTrigger> =
        wakes.into_iter().map(|wake| serde_json::from_value(wake).unwrap()).collect();
    bench.gate.subscribe(scope, &wakes).await
}

async fn refusal(bench: &GateFixture, wakes: Vec<Value>) -> Option<String> {
    subscribe_as(bench, &bench.scope, wakes).await.refusal
}

/// Returns the scope of another object with the same grants.
fn other_object(bench: &GateFixture, name: &str) -> ReconcileScope {
    let mut scope = bench.scope.clone();
    let (mut key, mut object) = ((*scope.key).clone(), (*scope.object).clone());
    key.name = name.to_owned();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("uid-{name}"));
    (scope.key, scope.object) = (Arc::new(key), Arc::new(object));
    scope
}

fn change() -> Value {
    json!({"change": {"instance": instance()}})
}

fn change_of_group(number: usize) -> Value {
    let mut change = change();
    change["change"]["instance"]["group"] = json!(format!("g{number}"));
    change
}

fn polled(bench: &GateFixture) -> Vec<String> {
    bench.world.polled_instances.lock().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn every_trigger_about_an_instance_or_an_object_needs_its_grant() {
    let blind = GateFixture::new(Grants::default(), WriteMode::Live);
    let view = json!({"subject": {"view": {"instance": instance()}}, "field": ".a.role",
        "op": "equals", "value": "primary"});
    let observe = "no grant for the verb `observe`; the Plugin's spec.grants.redis.verbs needs it";
    let get =
        "the Plugin's spec.grants.kubernetes needs {apiVersion: v1, kind: ConfigMap, verbs: [get]}";
    let rows = [
        (change(), Some(observe)),
        (json!({"fact": keys(5)}), Some(observe)),
        (json!({"fact": view}), Some(observe)),
        (json!({"fact": data("mine", "on")}), Some(get)),
        (json!({"after": {"ms": 5}}), None),
    ];
    for (trigger, expected) in rows {
        let refused = refusal(&blind, vec![json!({"after": {"ms": 5}}), trigger.clone()]).await;
        match expected {
            Some(expected) => {
                let refused = refused.unwrap();
                assert!(refused.contains(".wake[1]: ") && refused.contains(expected), "{refused}");
            }
            None => assert_eq!(refused, None, "{trigger}"),
        }
    }
    assert_eq!(polled(&blind), [] as [String; 0]);
}

#[tokio::test]
async fn the_triggers_of_one_outcome_are_bounded_and_the_first_stay_in_force() {
    let bench = bench(WriteMode::Live);
    let groups = (0..INSTANCES_PER_OBJECT_MAX + 1).map(change_of_group);
    let refused = refusal(&bench, groups.collect()).await.unwrap();
    assert!(refused.contains(".wake[8]: "), "{refused}");
    assert!(refused.contains("at most 8 instances, and the group `g8` is one more"), "{refused}");
    assert_eq!(polled(&bench).len(), INSTANCES_PER_OBJECT_MAX);

    let refused = refusal(&bench, vec![json!({"fact": keys(5)}); 66]).await.unwrap();
    assert!(refused.contains(".wake[64]: ") && refused.contains("at most 64 facts"), "{refused}");
    assert_eq!(polled(&bench), ["uid-me:servers"]);

    let refused = refusal(&bench, vec![change(); WAKES_MAX + 5]).await.unwrap();
    assert!(refused.contains("at most 128 triggers, not 133"), "{refused}");
    assert_eq!(refusal(&bench, vec![change(); WAKES_MAX]).await, None, "the next is accepted");
}

#[tokio::test]
async fn the_settings_that_one_outcome_has_polled_are_bounded() {
    let bench = bench(WriteMode::Live);
    let fact = |names: Vec<String>| {
        let mut fact = keys(5);
        fact["subject"]["member"]["instance"]["settings"] = json!(names);
        json!({"fact": fact})
    };
    let names = |from: usize, to: usize| (from..to).map(|number| format!("s-{number}")).collect();
    assert_eq!(refusal(&bench, vec![fact(names(0, 64)), fact(names(32, 64))]).await, None);
    for (second, expected) in [
        (fact(names(64, 65)), "65 settings are too many, 64 are allowed"),
        (fact(names(0, 100)), "100 settings are too many"),
        (fact(vec!["s".repeat(65)]), "has 65 bytes, 64 are allowed"),
    ] {
        let refused = refusal(&bench, vec![fact(names(0, 64)), second]).await.unwrap();
        assert!(refused.contains(".wake[1]: ") && refused.contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn one_group_is_one_container_and_port() {
    let bench = bench(WriteMode::Live);
    let mut other_port = change();
    other_port["change"]["instance"]["port"] = json!(7001);
    let mut elsewhere = change();
    elsewhere["change"]["instance"]["namespace"] = json!("elsewhere");
    for (trigger, expected) in
        [(other_port, "with port 7001 is another group"), (elsewhere, "members of `n` only")]
    {
        let refused = refusal(&bench, vec![change(), trigger]).await.unwrap();
        assert!(refused.contains(".wake[1]: ") && refused.contains(expected), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_share_is_used_up_does_not_end_the_polls_of_others() {
    let bench = bench(WriteMode::Live);
    assert_eq!(refusal(&bench, vec![change()]).await, None);
    bench.world.polls_are_refused.store(true, Ordering::SeqCst);
    let greedy = other_object(&bench, "greedy");
    let first = subscribe_as(&bench, &greedy, vec![change()]).await;
    assert_eq!(first, SubscribedWakes { requeue: Some(Duration::from_secs(10)), refusal: None });
    advance(Duration::from_secs(10)).await;
    let later = subscribe_as(&bench, &greedy, vec![change()]).await;
    assert!(later.refusal.unwrap().contains("share of polled instances"), "it is reported");
    assert_eq!(later.requeue, None, "it is not tried in a loop");

    let wakes = |uid: &str| {
        let report =
            PollReport { instance: format!("{uid}:servers"), changed: true, snapshot: None };
        bench.gate.woken_by_poll(&report).len()
    };
    assert_eq!((wakes("uid-me"), wakes("uid-greedy")), (1, 0));
    assert_eq!(refusal(&bench, vec![change()]).await, None, "its own renewal is accepted");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_watched_yet_is_reported_after_a_while() {
    let bench = bench(WriteMode::Live);
    let config_map = kind("v1", "ConfigMap");
    let fact = || vec![json!({"fact": data("mine", "on")})];
    bench.world.unwatched_kinds.lock().unwrap().insert(config_map.clone());
    assert_eq!(refusal(&bench, fact()).await, None);
    advance(Duration::from_secs(10)).await;
    assert!(refusal(&bench, fact()).await.unwrap().contains("is not watched (yet)"));
    bench.world.unwatched_kinds.lock().unwrap().remove(&config_map);
    assert_eq!(refusal(&bench, fact()).await, None);
}

#[tokio::test]
async fn a_fact_about_an_object_out_of_scope_is_refused_and_does_not_wake() {
    let bench = bench(WriteMode::Live);
    let refused = refusal(&bench, vec![json!({"fact": data("theirs", "on")})]).await.unwrap();
    assert!(refused.contains("outside the scope"), "{refused}");
    let mut theirs = object("v1", "ConfigMap", "theirs", Some("them"));
    theirs["data"] = json!({"x": "on"});
    assert_eq!(bench.gate.woken_by_change(&facts::change(&bench, theirs)).len(), 0);
}
