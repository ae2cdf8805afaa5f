//! Each import becomes its call, and the answer or error reaches the guest.

use std::sync::Arc;

use serde_json::json;
use tholepin_core::{CallError, Reply, port::PluginExports};

use crate::{
    fixture::{probe, request, run, summary},
    host_calls::FunctionCalls,
};

/// Each function with the summary that the probe returns for a successful answer.
const FUNCTIONS: &[(&str, &str)] = &[
    ("kubernetes/get", "ok Object {\"kind\": String(\"ConfigMap\")}"),
    ("kubernetes/list", "ok [Object {\"kind\": String(\"ConfigMap\")}]"),
    ("kubernetes/apply", "ok Object {\"kind\": String(\"ConfigMap\")}"),
    ("kubernetes/apply-status", "ok Object {\"kind\": String(\"ConfigMap\")}"),
    ("kubernetes/merge-patch", "ok Object {\"kind\": String(\"ConfigMap\")}"),
    ("kubernetes/delete", "ok ()"),
    ("kubernetes/publish", "ok ()"),
    ("kubernetes/warnings", "ok [Object {\"kind\": String(\"ConfigMap\")}]"),
    ("redis/pipeline", "ok [RedisReply { nodes: [Status(\"PONG\")] }]"),
    ("redis/fan-out", "ok [Ok([RedisReply { nodes: [Status(\"PONG\")] }]), Err(Gone(\"a-0\"))]"),
    ("redis/observe", "ok Object {\"kind\": String(\"ConfigMap\")}"),
    ("redis/act", "ok [Err(Refused(\"G3\"))]"),
    ("runtime/now", "ok 1700000000123"),
    ("runtime/random", "ok [0, 1, 2, 3]"),
    ("runtime/parameters", "ok Object {\"suffix\": String(\"!\")}"),
    ("runtime/wait", "ok Held { took_ms: 7 }"),
    ("runtime/probe", "ok Connected { took_ms: 7 }"),
    ("runtime/log", "logged"),
];

#[tokio::test]
async fn each_import_is_a_call_whose_answer_reaches_the_guest() {
    let plugin = probe("").await;
    for (function, expected) in FUNCTIONS {
        let calls = FunctionCalls::friendly();
        let task = json!({"do": "call", "function": function});
        assert_eq!(summary(&plugin, task, Arc::clone(&calls) as _).await, *expected, "{function}");
        assert_eq!(calls.called(), [*function]);
    }
}

#[tokio::test]
async fn each_import_but_log_is_denied_in_validate() {
    let plugin = probe("").await;
    for (function, _) in FUNCTIONS {
        let new = json!({"spec": {"do": "call", "function": function}});
        let mut violations = plugin.validate(plugin.context(None), None, new).await.unwrap();
        let result = violations.pop().unwrap().message;
        if *function == "runtime/log" {
            assert_eq!(result, "logged");
        } else {
            let expected = format!(
                "Denied denied: `{function}` is not available in `validate`: only `log` is"
            );
            assert_eq!(result, expected);
        }
    }
}

#[tokio::test]
async fn each_error_keeps_its_variant() {
    let plugin = probe("").await;
    let text = || "text".to_owned();
    let errors = [
        CallError::NotFound(text()),
        CallError::Conflict(text()),
        CallError::Denied(text()),
        CallError::Refused(text()),
        CallError::Busy(text()),
        CallError::NeedsApproval(text()),
        CallError::Timeout(text()),
        CallError::Gone(text()),
        CallError::Interrupted,
        CallError::Throttled(7),
        CallError::Transient(text()),
        CallError::Invalid(text()),
        CallError::Unsupported(text()),
        CallError::PlanEnds(text()),
        CallError::Other(text()),
    ];
    for error in errors {
        let expected = format!("{} {error}", error.reason());
        let answer = error.clone();
        let calls = FunctionCalls::new(move |_| Err(answer.clone()));
        let task = json!({"do": "call", "function": "kubernetes/apply"});
        assert_eq!(summary(&plugin, task, calls).await, expected);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_of_the_wrong_type_is_an_error() {
    let plugin = probe("").await;
    let task = || json!({"do": "call", "function": "kubernetes/get"});
    let huge = FunctionCalls::new(|_| Ok(Reply::Document(json!("x".repeat(2 << 20)))));
    let result = summary(&plugin, task(), huge).await;
    assert!(result.starts_with("Invalid") && result.contains("fewer fields"), "{result}");
    let unfit = FunctionCalls::new(|_| Ok(Reply::Number(1)));
    let result = summary(&plugin, task(), unfit).await;
    assert!(result.starts_with("Other") && result.contains("not a document"), "{result}");
}

#[tokio::test]
async fn the_memo_is_passed_to_the_guest_and_back() {
    let plugin = probe("").await;
    let mut request = request(json!({"do": "nothing"}));
    request.memo = Some(json!({"seen": 1}));
    let result = plugin.reconcile(plugin.context(None), request, FunctionCalls::friendly()).await;
    assert_eq!(result.unwrap().unwrap().memo, Some(json!({"seen": 1})));
}

#[tokio::test]
async fn an_invalid_object_has_violations() {
    let plugin = probe("").await;
    let new = json!({"spec": {"do": "be-invalid"}});
    let violations = plugin.validate(plugin.context(None), None, new).await.unwrap();
    assert_eq!(
        violations.iter().map(|found| found.field.as_str()).collect::<Vec<_>>(),
        [".spec.do"]
    );
    assert!(run(&plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await.is_ok());
}
