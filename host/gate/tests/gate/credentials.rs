//! The password in force: created once, kept for the Pods, and the same for every host.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tholepin_core::{Call, HostCalls, ObjectRef, RedisCall, Reply, WriteMode};
use tholepin_gate::Gate;
use tholepin_schema::manifest::{Grants, RedisGrants};

use crate::{GateFixture, fixture::object, instance, kind, pod, snapshot};

const KEPT: &str = "tholepin-credentials-thing-uid-me";

fn bench(mode: WriteMode) -> GateFixture {
    let redis = RedisGrants { commands: vec![], verbs: vec!["observe".into()] };
    GateFixture::new(Grants { redis, ..Grants::default() }, mode)
}

fn named() -> Value {
    let mut instance = instance();
    instance["credentials"] = json!({"secret": "mine", "key": "k"});
    instance
}

impl GateFixture {
    /// Writes the Secret that the object names.
    fn name_password(&self, password: &str) {
        let mut secret = object("v1", "Secret", "mine", None);
        secret["stringData"] = json!({"k": password});
        self.world.put(secret);
    }

    /// Observes an instance. Returns the password that was used and the facts about the named one.
    async fn used(&self, instance: Value) -> (Option<String>, Value) {
        *self.world.snapshot.lock().unwrap() = snapshot();
        let call = Call::Redis(RedisCall::Observe { instance });
        let answer = self.context.perform(&self.call_context, call).await;
        let Ok(Reply::Document(snapshot)) = answer else { panic!("{answer:?}") };
        let password = self.world.passwords_used.lock().unwrap().last().cloned().flatten();
        (password, snapshot.get("credentials").cloned().unwrap_or_default())
    }

    fn kept(&self) -> Option<Value> {
        let kind = kind("v1", "Secret");
        let name = ObjectRef { kind, namespace: "n".into(), name: KEPT.into() };
        self.world.objects.lock().unwrap().get(&name).map(|secret| (**secret).clone())
    }

    /// Restarts the host.
    fn restart(&mut self) {
        self.gate = Gate::new(self.ports.clone());
        self.context = self.sibling(WriteMode::Live);
    }
}

#[tokio::test]
async fn the_first_password_stays_in_force_after_a_change_and_a_restart() {
    let mut bench = bench(WriteMode::Live);
    bench.name_password("old");
    assert_eq!(bench.used(named()).await, (Some("old".into()), Value::Null));
    let kept = bench.kept().unwrap();
    assert_eq!(kept["stringData"], json!({"password": "old"}));
    assert_eq!(kept["immutable"], true);
    assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"], "uid-me");

    let old = Some("old".to_owned());
    bench.name_password("new");
    let differs = json!({"named": "differs"});
    assert_eq!(bench.used(named()).await, (old.clone(), differs.clone()));
    assert_eq!(bench.used(instance()).await, (old.clone(), differs.clone()), "removed");
    bench.restart();
    assert_eq!(bench.used(named()).await, (old.clone(), differs));
    bench.world.objects.lock().unwrap().retain(|name, _| name.name != "mine");
    let missing = json!({"named": "secret-missing"});
    assert_eq!(bench.used(named()).await, (old.clone(), missing.clone()));

    // The kept Secret is deleted while the host has the password in memory.
    bench.world.objects.lock().unwrap().retain(|name, _| name.name != KEPT);
    assert_eq!(bench.used(named()).await, (old, missing));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "old"}));
}

#[tokio::test]
async fn the_absence_of_a_password_is_kept_and_an_empty_password_is_not() {
    let bench = bench(WriteMode::Live);
    bench.name_password("");
    let empty = json!({"named": "empty", "pending": true});
    assert_eq!(bench.used(named()).await, (None, empty));
    assert_eq!(bench.kept(), None);
    assert_eq!(bench.used(instance()).await, (None, Value::Null));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": ""}));
    bench.name_password("new");
    assert_eq!(bench.used(named()).await, (None, json!({"named": "differs"})));
}

#[tokio::test]
async fn of_two_hosts_the_first_value_counts_and_a_plan_keeps_none() {
    let planned = bench(WriteMode::Plan);
    planned.name_password("hunter2");
    assert_eq!(planned.used(named()).await, (Some("hunter2".into()), Value::Null));
    assert_eq!(planned.kept(), None);

    let mut bench = bench(WriteMode::Live);
    bench.name_password("hunter2");
    bench.used(named()).await;
    bench.name_password("new");
    bench.restart();
    assert_eq!(bench.used(named()).await.0, Some("hunter2".into()));
    assert!(!format!("{:?}", bench.context.take_recording()).contains("hunter2"), "no clear text");
}

#[tokio::test]
async fn while_processes_run_only_a_password_that_one_accepts_is_kept() {
    let mut bench = bench(WriteMode::Live);
    bench.name_password("right");
    *bench.world.accepted_password.lock().unwrap() = Some("right".into());
    bench.used(named()).await;

    // The Secret is deleted while no host runs, and the named Secret has another password by then.
    bench.world.objects.lock().unwrap().retain(|name, _| name.name != KEPT);
    bench.name_password("wrong");
    bench.restart();
    let refused = json!({"named": "refused", "pending": true});
    assert_eq!(bench.used(named()).await.1, refused);
    assert_eq!(bench.kept(), None);

    // No process answers, which proves nothing.
    bench.world.members_are_unreachable.store(true, Ordering::SeqCst);
    let unproven = json!({"named": "unproven", "pending": true});
    assert_eq!(bench.used(named()).await.1, unproven);
    assert_eq!(bench.kept(), None);

    bench.world.members_are_unreachable.store(false, Ordering::SeqCst);
    bench.name_password("right");
    assert_eq!(bench.used(named()).await, (Some("right".into()), Value::Null));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "right"}));
}

#[tokio::test]
async fn a_kept_password_that_no_process_accepts_is_replaced_by_an_accepted_one() {
    let bench = bench(WriteMode::Live);
    bench.name_password("kept");
    *bench.world.accepted_password.lock().unwrap() = Some("kept".into());
    bench.used(named()).await;

    // Another password is set on the servers by hand, and the named Secret does not have it yet.
    *bench.world.accepted_password.lock().unwrap() = Some("other".into());
    assert_eq!(bench.used(named()).await, (Some("kept".into()), Value::Null));
    bench.name_password("third");
    assert_eq!(bench.used(named()).await.1, json!({"named": "differs"}));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "kept"}));
    bench.name_password("other");
    assert_eq!(bench.used(named()).await, (Some("other".into()), Value::Null));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "other"}));
}

#[tokio::test]
async fn a_password_that_no_process_ever_had_can_be_replaced() {
    let bench = bench(WriteMode::Live);
    let mut stopped = pod("a-0");
    stopped["status"]["containerStatuses"] = json!([]);
    bench.world.put(stopped);
    bench.world.members_are_unreachable.store(true, Ordering::SeqCst);
    bench.name_password("line\n");
    let unusable = json!({"named": "control-character", "pending": true});
    assert_eq!(bench.used(named()).await.1, unusable);
    assert_eq!(bench.kept(), None);
    bench.name_password("first");
    assert_eq!(bench.used(named()).await, (Some("first".into()), Value::Null));
    bench.name_password("second");
    assert_eq!(bench.used(named()).await, (Some("second".into()), Value::Null));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "second"}));
}

#[tokio::test]
async fn a_wrong_secret_is_restored_and_one_of_another_host_is_taken_over() {
    let bench = bench(WriteMode::Live);
    bench.name_password("right");
    *bench.world.accepted_password.lock().unwrap() = Some("right".into());
    bench.used(named()).await;
    let falsify = |password: &str| {
        let mut kept = bench.kept().unwrap();
        kept["stringData"] = json!({"password": password});
        bench.world.put(kept);
    };
    falsify("wrong");
    assert_eq!(bench.used(named()).await, (Some("right".into()), Value::Null));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "right"}));

    *bench.world.accepted_password.lock().unwrap() = Some("theirs".into());
    falsify("theirs");
    assert_eq!(bench.used(named()).await, (Some("theirs".into()), json!({"named": "differs"})));
    assert_eq!(bench.kept().unwrap()["stringData"], json!({"password": "theirs"}));
}
