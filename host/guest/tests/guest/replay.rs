//! Replays of a saved recording, by key: as a real guest, and natively from the guest's source.

use std::sync::Arc;

use serde_json::{Value, json};
use tholepin_core::{CallError, Recording};
use tholepin_sdk::{Reconciler, ReplayHost};

use crate::{
    build,
    fixture::{RegistryFixture, request, run},
    host_calls::{FunctionCalls, RecordedCalls, friendly},
};

#[tokio::test]
async fn a_saved_reconcile_is_replayed_by_the_guest_and_by_its_source() {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "parameters: {suffix: '!'}");
    fixture.watch.scan().await;
    let plugin = fixture.active("config-maker").unwrap();
    let spec = json!({"text": "world"});

    let calls = FunctionCalls::friendly();
    let live = run(&plugin, spec.clone(), Arc::clone(&calls) as _).await.unwrap().unwrap();
    assert_eq!(live.summary, "Hello, world!");
    assert_eq!(
        calls.called(),
        ["runtime/parameters", "kubernetes/apply", "kubernetes/apply-status", "runtime/log"]
    );
    let saved = serde_json::to_string(&calls.recording()).unwrap();

    let recording: Recording = serde_json::from_str(&saved).unwrap();
    let replay = RecordedCalls::of(&recording);
    let replayed = run(&plugin, spec.clone(), Arc::clone(&replay) as _).await.unwrap().unwrap();
    assert_eq!((replayed, replay.missing()), (live.clone(), Vec::new()));

    let host = ReplayHost::from_recording(&saved).unwrap();
    let native = guest_config_maker::ConfigMaker::reconcile(&host, request(spec)).unwrap();
    assert_eq!((native, host.missing()), (live, Vec::new()));
}

#[tokio::test]
async fn a_failed_call_is_found_again_although_its_arguments_are_not_kept() {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    let plugin = fixture.active("config-maker").unwrap();
    let spec = json!({"text": "world"});
    for denied in ["runtime/parameters", "kubernetes/apply", "kubernetes/apply-status"] {
        let calls = FunctionCalls::new(move |call| match call.function() {
            function if function == denied => Err(CallError::Denied("no grant".to_owned())),
            _ => friendly(call),
        });
        let live = run(&plugin, spec.clone(), Arc::clone(&calls) as _).await.unwrap();
        let saved = serde_json::to_string(&calls.recording()).unwrap();
        assert!(saved.contains("sha256"), "{saved}");

        let recording: Recording = serde_json::from_str(&saved).unwrap();
        let replay = RecordedCalls::of(&recording);
        let replayed = run(&plugin, spec.clone(), Arc::clone(&replay) as _).await.unwrap();
        assert_eq!((replayed, replay.missing()), (live.clone(), Vec::new()));

        let host = ReplayHost::from_recording(&saved).unwrap();
        let native = guest_config_maker::ConfigMaker::reconcile(&host, request(spec.clone()));
        assert_eq!((native, host.missing()), (live, Vec::new()));
    }
}

#[tokio::test]
async fn a_replay_lists_the_missing_calls() {
    let mut fixture = RegistryFixture::new();
    fixture.install("config-maker", &build::config_maker("Hello"), "");
    fixture.watch.scan().await;
    let plugin = fixture.active("config-maker").unwrap();
    let calls = FunctionCalls::friendly();
    run(&plugin, json!({"text": "world"}), Arc::clone(&calls) as _).await.unwrap().unwrap();

    let replay = RecordedCalls::of(&calls.recording());
    let other = json!({"text": "moon"});
    let failure = run(&plugin, other.clone(), Arc::clone(&replay) as _).await.unwrap().unwrap_err();
    assert_eq!(failure.reason, "Other");
    let missing = replay.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].contains(r#""greeting":"Hello, moon!""#), "{missing:?}");

    let saved = serde_json::to_string(&calls.recording()).unwrap();
    let host = ReplayHost::from_recording(&saved).unwrap();
    guest_config_maker::ConfigMaker::reconcile(&host, request(other)).unwrap_err();
    let parsed = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    let missing: Vec<Value> = missing.iter().map(parsed).collect();
    assert_eq!(host.missing().iter().map(parsed).collect::<Vec<_>>(), missing);
}
