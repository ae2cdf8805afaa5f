//! The arguments of a call in one line, for people.
//!
//! Invariants:
//! - The intent of a Secret is not shown: a plugin may have generated a value in it.

use std::{fmt::Write as _, io};

use serde_json::Value;
use tholepin_schema::{action::Action, fact::Fact, probe::PodPortProbe};

use crate::{
    Call, KubernetesCall, ObjectRef, Pipeline, PluginRuntimeCall, RedisCall, step::redis_cli,
};

/// The longest text of a call or of an answer.
pub(crate) const TEXT_BYTES_MAX: usize = 400;
/// The most commands of a pipeline that are shown.
const COMMANDS_MAX: usize = 8;

/// Returns the arguments of a call, shortened.
pub(crate) fn about(call: &Call) -> String {
    match call {
        Call::Kubernetes(call) => kubernetes(call),
        Call::Redis(call) => match call {
            RedisCall::Pipeline(pipeline) => commands(pipeline),
            RedisCall::FanOut { pipelines } => match pipelines.first() {
                Some(first) => {
                    cut(&format!("{} pipelines, the first {}", pipelines.len(), commands(first)))
                }
                None => "no pipelines".to_owned(),
            },
            RedisCall::Observe { instance } => cut(text(instance, "/selector")),
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
            cut(&object.to_string())
        }
        KubernetesCall::List { kind, namespace, selector, .. } => {
            cut(&format!("{} in `{namespace}` where `{selector}`", kind.kind))
        }
        KubernetesCall::Apply { object, .. } | KubernetesCall::ApplyStatus { object } => {
            cut(&named(object))
        }
        KubernetesCall::MergePatch { object, patch: _ } if is_secret(object) => {
            cut(&object.to_string())
        }
        KubernetesCall::MergePatch { object, patch } => cut(&format!("{object} {}", json(patch))),
        KubernetesCall::Delete { object, .. } => cut(&object.to_string()),
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

fn is_secret(object: &ObjectRef) -> bool {
    object.kind.kind == "Secret" && object.kind.api_version == "v1"
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the start of a document as JSON, only as long as the line can be.
pub(crate) fn json(value: &Value) -> String {
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

/// Cuts a text to the length that a line can have.
pub(crate) fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut kept =
        text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned();
    // Writing to a string does not fail.
    write!(kept, "…(cut)").ok();
    kept
}
