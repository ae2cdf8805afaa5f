//! The standard library's WASI imports link and have no authority.

use std::sync::Arc;

use serde_json::json;
use tholepin_core::{
    Reply,
    port::{GuestError, PluginExports},
};

use crate::{
    fixture::{probe, run, summary},
    host_calls::{FunctionCalls, RecordedCalls, friendly},
};

#[tokio::test]
async fn there_is_no_environment_and_no_file() {
    let plugin = probe("").await;
    let result = summary(&plugin, json!({"do": "environment"}), FunctionCalls::friendly()).await;
    assert_eq!(result, "0 0");
    assert_eq!(summary(&plugin, json!({"do": "file"}), FunctionCalls::friendly()).await, "false");
}

#[tokio::test]
async fn standard_error_is_the_log() {
    let plugin = probe("").await;
    let calls = FunctionCalls::friendly();
    summary(&plugin, json!({"do": "stderr"}), Arc::clone(&calls) as _).await;
    assert!(calls.logged().concat().contains("a line on stderr"), "{:?}", calls.logged());
}

#[tokio::test]
async fn exit_is_a_trap() {
    let plugin = probe("").await;
    let error = run(&plugin, json!({"do": "exit"}), FunctionCalls::friendly()).await.unwrap_err();
    let GuestError::Trapped { message, .. } = &error else { panic!("{error}") };
    assert!(message.contains("exit"), "{message}");
}

#[tokio::test]
async fn the_clock_is_a_recorded_call() {
    let plugin = probe("").await;
    let calls = FunctionCalls::friendly();
    let result = summary(&plugin, json!({"do": "clock"}), Arc::clone(&calls) as _).await;
    assert_eq!(result, "1700000000123 0");
    assert!(calls.called().iter().all(|function| *function == "runtime/now"));
}

/// A language runtime may read the clock at its start, also where the answer must not depend on it.
#[tokio::test]
async fn the_clock_stands_still_in_validate() {
    let plugin = probe("").await;
    let new = json!({"spec": {"do": "tell-the-time"}});
    let violations = plugin.validate(plugin.context(None), None, new).await.unwrap();
    assert_eq!(violations[0].message, "0 0");
}

/// The order of a hash map depends on random bytes, which must be recorded; otherwise a replay would differ.
#[tokio::test]
async fn a_hash_map_has_the_recorded_order() {
    let plugin = probe("").await;
    let calls = FunctionCalls::friendly();
    let first = summary(&plugin, json!({"do": "hash-map"}), Arc::clone(&calls) as _).await;
    let replay = RecordedCalls::of(&calls.recording());
    let again = summary(&plugin, json!({"do": "hash-map"}), Arc::clone(&replay) as _).await;
    assert_eq!(first, again);
    assert_eq!(replay.missing(), Vec::<String>::new());
    let other = FunctionCalls::new(|call| match friendly(call) {
        Ok(Reply::Bytes(bytes)) => Ok(Reply::Bytes(vec![9; bytes.len()])),
        answer => answer,
    });
    assert_ne!(summary(&plugin, json!({"do": "hash-map"}), other).await, first);
}
