//! One call and its answer in one line.
//!
//! A report contains lines instead of calls, so that the controller's history keeps only what a reader may see: secrets
//! are left out when a line is made.
//!
//! Invariants:
//! - The intent of a Secret is not shown: a plugin may have generated a value in it.
//! - The replies of Redis to a plugin's own commands are counted and not shown: they are users' data.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_schema::{fact::WaitOutcome, probe::NetworkProbeOutcome};

use crate::{
    Call, CallError, CallRecord, PluginRuntimeCall, RecordedCall, Reply,
    about::{about, cut, json},
};

/// One call and its answer, for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallLine {
    /// The WIT function, such as `kubernetes/apply`.
    pub function: String,
    /// The arguments, shortened.
    pub about: String,
    /// The answer, shortened.
    pub answer: String,
}

impl CallLine {
    /// Returns the line of a recorded call.
    #[must_use]
    pub fn of(recorded: &RecordedCall) -> Self {
        let RecordedCall { call, occurrence: _, answer, steps: _ } = recorded;
        let function = call.function().to_owned();
        let (about, answer) = match (call, answer) {
            (CallRecord::Whole(call), Ok(reply)) => (about(call), replied(call, reply)),
            (CallRecord::Whole(call), Err(error)) => (about(call), failed(error)),
            (CallRecord::Failed { about, .. }, Err(error)) => (about.clone(), failed(error)),
            // No recording has this: only a call that failed is kept without its arguments.
            (CallRecord::Failed { about, .. }, Ok(_)) => (about.clone(), String::new()),
        };
        Self { function, about, answer }
    }
}

fn waited(outcome: &Value) -> String {
    match serde_json::from_value::<WaitOutcome>(outcome.clone()) {
        Ok(WaitOutcome::Held { took_ms }) => format!("held after {took_ms} ms"),
        Ok(WaitOutcome::TimedOut { took_ms, missing }) => {
            format!("{} facts did not hold after {took_ms} ms", missing.len())
        }
        // A newer schema may have more outcomes.
        Ok(_) | Err(_) => "a document".to_owned(),
    }
}

/// Returns the outcome of a probe without the body, which may hold users' data.
fn probed(outcome: &Value) -> String {
    match serde_json::from_value::<NetworkProbeOutcome>(outcome.clone()) {
        Ok(NetworkProbeOutcome::Connected { took_ms }) => format!("connected after {took_ms} ms"),
        Ok(NetworkProbeOutcome::Answered { status, body, took_ms, .. }) => {
            format!("status {status} with {} bytes after {took_ms} ms", body.len())
        }
        Ok(NetworkProbeOutcome::Refused) => "refused".to_owned(),
        Ok(NetworkProbeOutcome::Silent { why } | NetworkProbeOutcome::Failed { why }) => cut(&why),
        // A newer schema may have more outcomes.
        Ok(_) | Err(_) => "a document".to_owned(),
    }
}

fn failed(error: &CallError) -> String {
    cut(&format!("{}: {error}", error.reason()))
}

fn replied(call: &Call, reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_owned(),
        Reply::Document(_) if matches!(call, Call::Kubernetes(_)) => "the object".to_owned(),
        Reply::Document(document) if matches!(call, Call::Redis(_)) => {
            let members = document.get("members").and_then(Value::as_array).map_or(0, Vec::len);
            format!("a snapshot of {members} members")
        }
        Reply::Document(outcome)
            if matches!(call, Call::Runtime(PluginRuntimeCall::Wait { .. })) =>
        {
            waited(outcome)
        }
        Reply::Document(outcome) if matches!(call, Call::Runtime(PluginRuntimeCall::Probe(_))) => {
            probed(outcome)
        }
        // The plugin's parameters may hold what the person who installed it does not want to show.
        Reply::Document(_) => "a document".to_owned(),
        Reply::Documents(documents) => format!("{} objects", documents.len()),
        Reply::Results(results) => {
            let outcome = |result: &Result<Value, CallError>| match result {
                Ok(result) => json(result.get("outcome").unwrap_or(result)),
                Err(error) => error.to_string(),
            };
            cut(&results.iter().map(outcome).collect::<Vec<_>>().join(", "))
        }
        Reply::Number(number) => number.to_string(),
        Reply::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Reply::Replies(replies) => format!("{} replies", replies.len()),
        Reply::FanOut(results) => {
            let failed = results.iter().filter(|result| result.is_err()).count();
            format!("{} answers, {failed} of them errors", results.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Answer, KubernetesCall, ObjectRef, Pipeline, RedisCall, RespReply, about::TEXT_BYTES_MAX,
    };
    use serde_json::json;
    use tholepin_schema::manifest::KindName;

    fn line(call: Call, answer: Answer) -> CallLine {
        let call = CallRecord::Whole(call);
        CallLine::of(&RecordedCall { call, occurrence: 0, answer, steps: Vec::new() })
    }

    #[test]
    fn no_secret_and_no_data_is_in_a_line() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "n"}, "stringData": {"k": "hunter2"}});
        let object = ObjectRef {
            kind: KindName { api_version: "v1".into(), kind: "Secret".into() },
            namespace: "n".into(),
            name: "s".into(),
        };
        let pipeline = Pipeline {
            instance: json!({}),
            pod: "p-0".into(),
            commands: vec![vec![b"GET".to_vec(), b"k".to_vec()]],
            deadline_ms: 1,
        };
        let replied = RespReply { nodes: vec![crate::RespNode::Bulk(b"hunter2".to_vec())] };
        let lines = [
            line(
                Call::Kubernetes(KubernetesCall::Apply { object: secret.clone(), force: false }),
                Ok(Reply::Document(secret.clone())),
            ),
            line(
                Call::Kubernetes(KubernetesCall::MergePatch { object, patch: secret.clone() }),
                Ok(Reply::Document(secret)),
            ),
            line(
                Call::Redis(RedisCall::Pipeline(pipeline.clone())),
                Ok(Reply::Replies(vec![replied.clone()])),
            ),
            line(
                Call::Redis(RedisCall::FanOut { pipelines: vec![pipeline] }),
                Ok(Reply::FanOut(vec![Ok(vec![replied])])),
            ),
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("s") && !line.about.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let message = "x".repeat(10_000);
        let log = Call::Runtime(PluginRuntimeCall::Log { level: "info".into(), message });
        let line = line(log, Ok(Reply::Done));
        assert!(line.about.ends_with("…(cut)") && line.about.len() < 420, "{}", line.about.len());
        let much = json!({"k": "x".repeat(100_000)});
        assert!(json(&much).len() <= TEXT_BYTES_MAX + 1);
    }
}
