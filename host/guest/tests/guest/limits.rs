//! A guest that exceeds a limit fails with an error that names it, and the next call is not affected.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tholepin_core::port::{GuestError, PluginExports};
use tokio::time;

use crate::{
    fixture::{probe, run, summary},
    host_calls::{FunctionCalls, GatedCalls},
};

/// Runs a task that exceeds a limit, checks that the next call works, and returns the error of the first.
async fn exceed_limit(spec: &str, task: serde_json::Value) -> GuestError {
    let plugin = probe(spec).await;
    let error =
        run(&plugin, task.clone(), FunctionCalls::friendly()).await.expect_err(&task.to_string());
    let after = summary(&plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await;
    assert_eq!(after, "", "a call after `{task}` must not be affected");
    error
}

#[tokio::test]
async fn the_error_of_a_panic_has_its_text_and_line() {
    let error = exceed_limit("", json!({"do": "panic", "number": 7})).await;
    let GuestError::Trapped { export: "reconcile", message } = &error else { panic!("{error}") };
    assert!(message.contains("told to panic with number 7"), "{message}");
    assert!(message.contains("probe/src/lib.rs:"), "{message}");
}

#[tokio::test]
async fn a_panic_is_logged_too() {
    let plugin = probe("").await;
    let calls = FunctionCalls::friendly();
    let _ = run(&plugin, json!({"do": "panic", "number": 7}), Arc::clone(&calls) as _).await;
    let logged = calls.logged().join("\n");
    assert!(logged.starts_with("error: panicked at "), "{logged}");
}

#[tokio::test]
async fn a_trap_is_an_error() {
    let error = exceed_limit("", json!({"do": "trap"})).await;
    assert!(matches!(error, GuestError::Trapped { export: "reconcile", .. }), "{error}");
}

#[tokio::test]
async fn a_loop_ends_at_the_compute_limit() {
    let error = exceed_limit("limits: {computeMs: 50}", json!({"do": "loop"})).await;
    assert_eq!(error, GuestError::TimedOut { export: "reconcile", limit_ms: 50 });
}

#[tokio::test]
async fn an_infinite_recursion_ends_and_is_named() {
    let error = exceed_limit("", json!({"do": "recurse"})).await;
    let GuestError::Trapped { message, .. } = &error else { panic!("{error}") };
    assert!(message.contains("recursion"), "{message}");
}

#[tokio::test]
async fn memory_is_bounded() {
    let error = exceed_limit("limits: {memoryMiB: 16}", json!({"do": "eat-memory"})).await;
    assert_eq!(error, GuestError::OutOfMemory { export: "reconcile", limit_bytes: 16 << 20 });
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let error = exceed_limit("", json!({"do": "return-huge", "number": 2 << 20})).await;
    let GuestError::BadAnswer { export: "reconcile", message } = &error else { panic!("{error}") };
    assert!(message.contains("1048576"), "{message}");
}

#[tokio::test]
async fn the_bytes_of_a_host_call_are_bounded() {
    let plugin = probe("").await;
    let send = |bytes: u32| {
        run(&plugin, json!({"do": "send-huge", "number": bytes}), FunctionCalls::friendly())
    };
    assert!(send(1 << 20).await.is_ok());
    let error = send(5 << 20).await.unwrap_err();
    assert!(matches!(error, GuestError::Trapped { .. }), "{error}");
}

#[tokio::test]
async fn a_waiting_call_ends_at_the_wall_clock_limit() {
    let plugin = probe("limits: {wallClockMs: 100}").await;
    let calls = GatedCalls::at("runtime/now");
    let task = json!({"do": "call", "function": "runtime/now"});
    let error = run(&plugin, task, calls).await.unwrap_err();
    assert_eq!(error, GuestError::TimedOut { export: "reconcile", limit_ms: 100 });
}

/// Waiting for the host must not count as compute time, or a slow Redis would quarantine objects.
#[tokio::test]
async fn waiting_does_not_count_as_computing() {
    let plugin = probe("limits: {computeMs: 50}").await;
    let calls = GatedCalls::at("runtime/now");
    let released = Arc::clone(&calls);
    let wait = async move {
        let _reached = released.reached.acquire().await.unwrap();
        // Waits longer than the guest may compute. The elapsed time is what this tests, so there is no event
        // to wait for, and the ticker thread does not follow tokio's paused clock.
        time::sleep(Duration::from_millis(150)).await;
        released.released.add_permits(1);
    };
    let task = json!({"do": "call", "function": "runtime/now"});
    let (result, ()) = tokio::join!(run(&plugin, task, calls), wait);
    assert_eq!(result.unwrap().unwrap().summary, "ok 1700000000123");
}

#[tokio::test]
async fn the_number_of_host_calls_is_bounded() {
    let error = exceed_limit("", json!({"do": "many-calls", "number": 1_000_000})).await;
    let GuestError::Trapped { export: "reconcile", message } = &error else { panic!("{error}") };
    assert!(message.contains("more than 10000 host calls"), "{message}");
}

#[tokio::test]
async fn log_lines_are_bounded_in_length_and_number() {
    let plugin = probe("").await;
    let calls = FunctionCalls::friendly();
    run(&plugin, json!({"do": "long-log", "number": 10_000}), Arc::clone(&calls) as _)
        .await
        .unwrap()
        .unwrap();
    let line = calls.logged().pop().unwrap();
    assert!(line.len() < 8300 && line.ends_with("bytes cut)"), "{} bytes", line.len());

    let calls = FunctionCalls::friendly();
    run(&plugin, json!({"do": "many-logs", "number": 3000}), Arc::clone(&calls) as _)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(calls.logged().len(), 1000);
    assert!(calls.logged().pop().unwrap().contains("dropped"));
}

#[tokio::test]
async fn a_trap_in_validate_is_an_error() {
    let plugin = probe("").await;
    let new = json!({"spec": {"do": "trap-in-validate"}});
    let error = plugin.validate(plugin.context(None), None, new).await.unwrap_err();
    let GuestError::Trapped { export: "validate", message } = &error else { panic!("{error}") };
    assert!(message.contains("validate was told to trap"), "{message}");
}

#[tokio::test]
async fn a_failure_returned_by_the_plugin_is_a_value() {
    let plugin = probe("").await;
    let failure =
        run(&plugin, json!({"do": "fail"}), FunctionCalls::friendly()).await.unwrap().unwrap_err();
    assert_eq!((failure.reason.as_str(), failure.retry), ("Told", true));
}
