//! Replays of a saved recording, by key: as a real guest, and natively from the guest's source.

use std::sync::Arc;

use serde_json::{Value, json};
use tholepin_core::Recording;
use tholepin_sdk::{Reconciler, ReplayHost};

use crate::{
    build,
    perform::{FunctionCalls, RecordedCalls},
    setting::{RegistryFixture, request, run},
};

#[tokio::test]
async fn a_saved_pass_is_replayed_by_the_guest_and_by_its_source() {
    let mut setting = RegistryFixture::new();
    setting.install("config-maker", &build::config_maker("Hello"), "parameters: {suffix: '!'}");
    setting.watch.scan().await;
    let plugin = setting.active("config-maker").unwrap();
    let spec = json!({"text": "world"});

    let world = FunctionCalls::friendly();
    let live = run(&plugin, spec.clone(), Arc::clone(&world) as _).await.unwrap().unwrap();
    assert_eq!(live.summary, "Hello, world!");
    assert_eq!(
        world.called(),
        ["runtime/parameters", "kubernetes/apply", "kubernetes/apply-status", "runtime/log"]
    );
    let saved = serde_json::to_string(&world.recording()).unwrap();

    let recording: Recording = serde_json::from_str(&saved).unwrap();
    let replay = RecordedCalls::of(&recording);
    let replayed = run(&plugin, spec.clone(), Arc::clone(&replay) as _).await.unwrap().unwrap();
    assert_eq!((replayed, replay.missing()), (live.clone(), Vec::new()));

    let host = ReplayHost::from_recording(&saved).unwrap();
    let native = guest_config_maker::ConfigMaker::reconcile(&host, request(spec)).unwrap();
    assert_eq!((native, host.missing()), (live, Vec::new()));
}

#[tokio::test]
async fn a_replay_reports_what_it_lacks_and_invents_nothing() {
    let mut setting = RegistryFixture::new();
    setting.install("config-maker", &build::config_maker("Hello"), "");
    setting.watch.scan().await;
    let plugin = setting.active("config-maker").unwrap();
    let world = FunctionCalls::friendly();
    run(&plugin, json!({"text": "world"}), Arc::clone(&world) as _).await.unwrap().unwrap();

    let replay = RecordedCalls::of(&world.recording());
    let other = json!({"text": "moon"});
    let failure = run(&plugin, other.clone(), Arc::clone(&replay) as _).await.unwrap().unwrap_err();
    assert_eq!(failure.reason, "Other");
    let missing = replay.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].call.contains(r#""greeting":"Hello, moon!""#), "{missing:?}");

    let saved = serde_json::to_string(&world.recording()).unwrap();
    let host = ReplayHost::from_recording(&saved).unwrap();
    guest_config_maker::ConfigMaker::reconcile(&host, request(other)).unwrap_err();
    let parsed = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    let missing: Vec<Value> = missing.iter().map(|key| parsed(&key.call)).collect();
    assert_eq!(host.missing().iter().map(parsed).collect::<Vec<_>>(), missing);
}
