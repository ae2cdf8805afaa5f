//! One call and its answer in one line.
//!
//! A report contains lines instead of calls, so that the controller's history keeps only what a reader may see: secrets
//! are left out when a line is made.
//!
//! Invariants:
//! - The intent of a Secret is not shown: a plugin may have generated a value in it.
//! - The replies of Redis to a plugin's own commands are counted and not shown: they are users' data.

use std::{fmt::Write as _, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_schema::{
    action::Action,
    fact::{Fact, WaitOutcome},
    probe::{NetworkProbeOutcome, PodPortProbe},
};

use crate::{
    Answer, Call, KubernetesCall, ObjectRef, Pipeline, PluginRuntimeCall, RecordedCall, RedisCall,
    Reply, step::redis_cli,
};

/// The longest text of a call or of an answer.
const TEXT_BYTES_MAX: usize = 400;
/// The most commands of a pipeline that are shown.
const COMMANDS_MAX: usize = 8;

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
        Self {
            function: call.function().to_owned(),
            about: about(call),
            answer: answered(call, answer),
        }
    }
}

fn about(call: &Call) -> String {
    match call {
        Call::Kubernetes(call) => kubernetes(call),
        Call::Redis(call) => match call {
            RedisCall::Pipeline(pipeline) => commands(pipeline),
            RedisCall::FanOut { pipelines } => match pipelines.first() {
                Some(first) => {
                    format!("{} pipelines, the first {}", pipelines.len(), commands(first))
                }
                None => "no pipelines".to_owned(),
            },
            RedisCall::Observe { instance } => text(instance, "/selector").to_owned(),
            RedisCall::Act { instance: _, actions } => verbs(actions),
        },
        Call::Runtime(call) => match call {
            PluginRuntimeCall::Now | PluginRuntimeCall::Parameters => String::new(),
            PluginRuntimeCall::Random { bytes } => format!("{bytes} bytes"),
            PluginRuntimeCall::Wait { facts, ms } => {
                cut(&format!("{} for {ms} ms at most", facts_about(facts)))
            }
            PluginRuntimeCall::Probe(PodPortProbe { pod, port, get, deadline_ms: _ }) => {
                cut(&format!("{pod}:{port} {}", get.as_deref().unwrap_or_default()))
            }
            PluginRuntimeCall::Log { level, message } => cut(&format!("{level}: {message}")),
        },
    }
}

fn kubernetes(call: &KubernetesCall) -> String {
    let named = |object: &Value| {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        match text(object, "/metadata/namespace") {
            "" => format!("{kind} {name}"),
            namespace => format!("{kind} {namespace}/{name}"),
        }
    };
    match call {
        KubernetesCall::Get { object, .. } | KubernetesCall::Warnings { object } => {
            object.to_string()
        }
        KubernetesCall::List { kind, namespace, selector, .. } => {
            format!("{} in `{namespace}` where `{selector}`", kind.kind)
        }
        KubernetesCall::Apply { object, .. } | KubernetesCall::ApplyStatus { object } => {
            named(object)
        }
        KubernetesCall::MergePatch { object, patch: _ } if is_secret(object) => object.to_string(),
        KubernetesCall::MergePatch { object, patch } => cut(&format!("{object} {}", json(patch))),
        KubernetesCall::Delete { object, .. } => object.to_string(),
        KubernetesCall::Publish { reason, message, .. } => cut(&format!("{reason}: {message}")),
    }
}

fn commands(pipeline: &Pipeline) -> String {
    let Pipeline { instance: _, pod, commands, deadline_ms: _ } = pipeline;
    let shown: Vec<_> =
        commands.iter().take(COMMANDS_MAX).map(|arguments| redis_cli(arguments)).collect();
    let more = commands.len().saturating_sub(shown.len());
    let more = if more == 0 { String::new() } else { format!("; {more} more") };
    cut(&format!("{pod}: {}{more}", shown.join("; ")))
}

fn verbs(actions: &[Value]) -> String {
    let describe = |action: &Value| match serde_json::from_value::<Action>(action.clone()) {
        Ok(action) => match action.verb.pod() {
            Some(pod) => format!("{} {pod}", action.verb.name()),
            None => action.verb.name().to_owned(),
        },
        Err(_) => "an unknown action".to_owned(),
    };
    cut(&actions.iter().map(describe).collect::<Vec<_>>().join(", "))
}

/// Returns the facts without their values, which could be those of a Secret.
fn facts_about(facts: &[Value]) -> String {
    let describe = |fact: &Value| match serde_json::from_value::<Fact>(fact.clone()) {
        Ok(fact) => format!("{} `{}`", fact.subject(), fact.field()),
        Err(_) => "an unknown fact".to_owned(),
    };
    facts.iter().map(describe).collect::<Vec<_>>().join(", ")
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

fn answered(call: &Call, answer: &Answer) -> String {
    let reply = match answer {
        Ok(reply) => reply,
        Err(error) => return cut(&format!("{}: {error}", error.reason())),
    };
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
            let outcome = |result: &Result<Value, crate::CallError>| match result {
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

fn is_secret(object: &ObjectRef) -> bool {
    object.kind.kind == "Secret" && object.kind.api_version == "v1"
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the start of a document as JSON, only as long as the line can be.
fn json(value: &Value) -> String {
    let mut start = BoundedWriter(Vec::new());
    // The writer fails when it is full.
    serde_json::to_writer(&mut start, value).ok();
    String::from_utf8_lossy(&start.0).into_owned()
}

/// A writer that keeps the first bytes and fails on more.
struct BoundedWriter(Vec<u8>);

impl io::Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (TEXT_BYTES_MAX + 1).saturating_sub(self.0.len());
        if room == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.0.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut kept =
        text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned();
    // Writing to a string does not fail.
    write!(kept, "…(cut)").ok();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RespReply;
    use serde_json::json;
    use tholepin_schema::manifest::KindName;

    fn line(call: Call, answer: Answer) -> CallLine {
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
