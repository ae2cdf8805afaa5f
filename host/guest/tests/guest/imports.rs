//! Each import becomes its call, and the answer or error reaches the guest.

use std::sync::Arc;

use serde_json::json;
use tholepin_core::{CallError, Reply, port::GuestRuntime};

use crate::{
    perform::FunctionCalls,
    setting::{probe, request, run, summary},
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
async fn each_import_is_a_call_and_its_answer_comes_back() {
    let plugin = probe("").await;
    for (function, expected) in FUNCTIONS {
        let world = FunctionCalls::friendly();
        let task = json!({"do": "call", "function": function});
        assert_eq!(summary(&plugin, task, Arc::clone(&world) as _).await, *expected, "{function}");
        assert_eq!(world.called(), [*function]);
    }
}

#[tokio::test]
async fn each_import_but_log_is_denied_in_validate() {
    let plugin = probe("").await;
    for (function, _) in FUNCTIONS {
        let new = json!({"spec": {"do": "call", "function": function}});
        let mut violations = plugin.validate(plugin.context(None), None, new).await.unwrap();
        let told = violations.pop().unwrap().message;
        if *function == "runtime/log" {
            assert_eq!(told, "logged");
        } else {
            let expected = format!(
                "Denied denied: `{function}` is not available in `validate`: only `log` is"
            );
            assert_eq!(told, expected);
        }
    }
}

#[tokio::test]
async fn each_error_keeps_its_case() {
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
        let world = FunctionCalls::new(move |_| Err(answer.clone()));
        let task = json!({"do": "call", "function": "kubernetes/apply"});
        assert_eq!(summary(&plugin, task, world).await, expected);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_does_not_fit_is_an_error() {
    let plugin = probe("").await;
    let task = || json!({"do": "call", "function": "kubernetes/get"});
    let huge = FunctionCalls::new(|_| Ok(Reply::Document(json!("x".repeat(2 << 20)))));
    let told = summary(&plugin, task(), huge).await;
    assert!(told.starts_with("Invalid") && told.contains("fewer fields"), "{told}");
    let unfit = FunctionCalls::new(|_| Ok(Reply::Number(1)));
    let told = summary(&plugin, task(), unfit).await;
    assert!(told.starts_with("Other") && told.contains("not a document"), "{told}");
}

#[tokio::test]
async fn the_memo_goes_round() {
    let plugin = probe("").await;
    let mut request = request(json!({"do": "nothing"}));
    request.memo = Some(json!({"seen": 1}));
    let result = plugin.reconcile(plugin.context(None), request, FunctionCalls::friendly()).await;
    assert_eq!(result.unwrap().unwrap().memo, Some(json!({"seen": 1})));
}

#[tokio::test]
async fn an_object_the_plugin_dislikes_gives_violations() {
    let plugin = probe("").await;
    let new = json!({"spec": {"do": "be-invalid"}});
    let violations = plugin.validate(plugin.context(None), None, new).await.unwrap();
    assert_eq!(
        violations.iter().map(|found| found.field.as_str()).collect::<Vec<_>>(),
        [".spec.do"]
    );
    assert!(run(&plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await.is_ok());
}
