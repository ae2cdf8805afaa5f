//! The bytes that one reconcile may use of the host's memory.

use serde_json::json;
use tholepin_core::{
    Call, CallError, HostCalls, KubernetesCall, PluginRuntimeCall, ReadMode, Reply, WriteMode,
    size::HeapSize as _,
};
use tholepin_schema::manifest::{GrantScope, Grants};

use crate::{GateFixture, config_map, fixture::object, grants, kind};

/// A fixture without grants whose reconcile may make many calls and use these bytes.
fn bounded(grants: Grants, bytes_max: usize) -> GateFixture {
    let mut bench = GateFixture::new(grants, WriteMode::Live);
    (bench.scope.calls_max, bench.scope.writes_max) = (10_000, 10_000);
    bench.scope.bytes_max = bytes_max;
    bench.context = bench.sibling(WriteMode::Live);
    bench
}

fn apply(bytes: usize) -> KubernetesCall {
    let mut intent = object("v1", "ConfigMap", "mine", Some("me"));
    intent["metadata"].as_object_mut().unwrap().remove("uid");
    intent["data"] = json!({"a": "x".repeat(bytes)});
    KubernetesCall::Apply { object: intent, force: false }
}

fn list() -> KubernetesCall {
    KubernetesCall::List {
        kind: kind("v1", "ConfigMap"),
        namespace: "n".into(),
        selector: String::new(),
        read: ReadMode::Cached,
        fields: vec![],
    }
}

#[tokio::test]
async fn denied_calls_are_kept_without_their_arguments_until_the_budget_is_spent() {
    let bench = bounded(Grants::default(), 1 << 20);
    let mut denied = 0;
    while let Err(CallError::Denied(_)) = bench.kubernetes(apply(100_000)).await {
        denied += 1;
    }
    assert!((2..11).contains(&denied), "{denied}");
    for _ in 0..1000 {
        assert_eq!(bench.kubernetes(apply(100_000)).await, Err(CallError::Throttled(1000)));
    }
    let recording = bench.context.take_recording();
    assert_eq!(recording.calls().len(), denied + 1001);
    assert!(recording.calls()[0].call.whole().is_none());
    let text = serde_json::to_string(&recording).unwrap();
    assert!(text.contains("ConfigMap n/mine") && text.len() < 400_000, "{}", text.len());
    assert!(!text.contains("xxx"), "no argument is kept");
    let last = recording.calls().last().unwrap();
    assert_eq!((last.answer.clone(), last.steps.len()), (Err(CallError::Throttled(1000)), 0));
}

#[tokio::test]
async fn what_an_error_repeats_of_the_arguments_is_cut() {
    let bench = bounded(Grants::default(), 1 << 20);
    let mut object = config_map("mine");
    object.kind.kind = "K".repeat(100_000);
    let get = KubernetesCall::Get { fields: vec![], object, read: ReadMode::Cached };
    let Err(CallError::Denied(text)) = bench.kubernetes(get).await else { panic!() };
    assert!(text.len() < 5000 && text.ends_with("…(cut)"), "{}", text.len());
}

#[tokio::test]
async fn arguments_that_the_guest_runtime_parses_are_spent() {
    let bench = bounded(Grants::default(), 10_000);
    let now = || bench.context.perform(&bench.call_context, Call::Runtime(PluginRuntimeCall::Now));
    assert!(now().await.is_ok());
    assert_eq!(bench.context.spend_bytes(5_000), Ok(()));
    assert_eq!(bench.context.spend_bytes(5_000), Err(CallError::Throttled(1000)));
    assert_eq!(now().await, Err(CallError::Throttled(1000)), "the budget stays spent");
}

#[tokio::test]
async fn log_lines_are_spent() {
    let bench = bounded(Grants::default(), 100_000);
    let log = || {
        let call = PluginRuntimeCall::Log { level: "info".into(), message: "x".repeat(8 << 10) };
        bench.context.perform(&bench.call_context, Call::Runtime(call))
    };
    let mut lines = 0;
    while log().await.is_ok() {
        lines += 1;
    }
    assert!((5..13).contains(&lines), "{lines}");
}

#[tokio::test]
async fn a_read_that_exceeds_the_budget_is_throttled() {
    let bench = bounded(grants(GrantScope::Namespace), 100_000);
    assert!(bench.kubernetes(list()).await.is_ok());
    for number in 0..20 {
        let mut large = object("v1", "ConfigMap", &format!("large-{number}"), None);
        large["data"] = json!({"a": "x".repeat(10_000)});
        bench.world.put(large);
    }
    let bench = GateFixture { context: bench.sibling(WriteMode::Live), ..bench };
    assert_eq!(bench.kubernetes(list()).await, Err(CallError::Throttled(1000)));
    assert_eq!(bench.get("mine").await, Err(CallError::Throttled(1000)));
}

#[tokio::test]
async fn a_write_whose_answer_exceeds_the_budget_is_reported_and_the_last() {
    let bench = bounded(grants(GrantScope::Owned), 25_000);
    let answer = bench.kubernetes(apply(10_000)).await;
    assert!(matches!(answer, Ok(Reply::Document(_))), "{answer:?}");
    assert_eq!(bench.kubernetes(apply(1)).await, Err(CallError::Throttled(1000)));
    let recording = bench.context.take_recording();
    assert_eq!(recording.calls()[0].answer, answer);
    assert_eq!(recording.calls()[0].steps.len(), 1);
    assert_eq!(bench.writes().len(), 1);
}

#[test]
fn a_snapshot_of_900_kib_fits_into_the_budget_even_if_it_is_sparse() {
    let document = json!(crate::snapshot());
    let (text, parsed) = (document.to_string().len(), document.heap());
    // While it is passed on, it is there twice. 24 MiB is the budget of `tholepin run`.
    assert!(2 * parsed * (900 << 10) <= (24 << 20) * text, "{parsed} of {text}");
}
