//! The size of calls and answers in the memory of the host.
//!
//! A parsed JSON document is many times its text: `{"":0}` has 6 bytes and takes about 700. A budget that
//! counted texts would allow a plugin to use that many times more, so sizes are those of the parsed form.
//!
//! Invariants:
//! - [`json_text`] is at least the [`heap`](HeapSize) of the document that the text is parsed to, and is
//!   computed without an allocation.

use serde_json::Value;

use crate::{
    Call, CallError, KubernetesCall, ObjectRef, Pipeline, PlanStep, PlanStepEffect,
    PluginRuntimeCall, RedisCall, Reply, RespNode, RespReply,
    step::{RedisCliCommand, StepSkipReason},
};

/// One value in a list or a map.
const NODE_BYTES: usize = size_of::<Value>();
/// What an allocation takes besides its length: the allocator's header, and rounding up.
const ALLOCATION_BYTES: usize = 32;
/// A list that is not empty: it is allocated with room for four values.
const LIST_BYTES: usize = ALLOCATION_BYTES + 4 * NODE_BYTES;
/// One node of the B-tree that a map is: room for eleven names and values, whether they are used or not.
const MAP_BYTES: usize = ALLOCATION_BYTES + 11 * (NODE_BYTES + size_of::<String>()) + 16;
/// The most entries of a map that fit into one node.
const MAP_ENTRIES_MAX: usize = 11;
/// The share of one entry in the nodes of a larger map, whose nodes are at least about half full and have
/// parents.
const MAP_ENTRY_BYTES: usize = MAP_BYTES / 5;

/// Returns an upper bound of the bytes that a JSON text takes when it is parsed to a [`Value`].
#[must_use]
pub fn json_text(text: &str) -> usize {
    let [mut quotes, mut lists, mut maps, mut entries, mut commas] = [0_usize; 5];
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                quotes += 1;
                // Skips the string: what is in it does not become a value.
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'[' => lists += 1,
            b'{' => maps += 1,
            b':' => entries += 1,
            b',' => commas += 1,
            _ => {}
        }
    }
    // A map of n entries has n - 1 commas; the others separate the values of lists. A list doubles its room
    // when it is full.
    let separators = commas.saturating_sub(entries.saturating_sub(maps));
    NODE_BYTES
        + text.len()
        + quotes * ALLOCATION_BYTES
        + lists * LIST_BYTES
        + maps * MAP_BYTES
        + entries * MAP_ENTRY_BYTES
        + separators * 2 * NODE_BYTES
}

/// The bytes that a value takes on the heap, estimated.
pub trait HeapSize {
    /// Returns the estimate, without the size of the value itself.
    fn heap(&self) -> usize;
}

impl HeapSize for str {
    fn heap(&self) -> usize {
        if self.is_empty() { 0 } else { ALLOCATION_BYTES + self.len() }
    }
}

impl HeapSize for String {
    fn heap(&self) -> usize {
        self.as_str().heap()
    }
}

impl<T: HeapSize> HeapSize for Vec<T> {
    fn heap(&self) -> usize {
        let own = if self.is_empty() { 0 } else { ALLOCATION_BYTES };
        own + self.iter().map(|item| size_of::<T>() + item.heap()).sum::<usize>()
    }
}

impl<T: HeapSize> HeapSize for Option<T> {
    fn heap(&self) -> usize {
        self.as_ref().map_or(0, HeapSize::heap)
    }
}

impl<T: HeapSize, E: HeapSize> HeapSize for Result<T, E> {
    fn heap(&self) -> usize {
        match self {
            Ok(value) => value.heap(),
            Err(error) => error.heap(),
        }
    }
}

impl HeapSize for u8 {
    fn heap(&self) -> usize {
        0
    }
}

impl HeapSize for Value {
    fn heap(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::String(text) => text.heap(),
            Self::Array(items) if items.is_empty() => 0,
            Self::Array(items) => {
                let room = (ALLOCATION_BYTES + items.capacity() * NODE_BYTES).max(LIST_BYTES);
                room + items.iter().map(Self::heap).sum::<usize>()
            }
            Self::Object(fields) if fields.is_empty() => 0,
            Self::Object(fields) => {
                let more = if fields.len() <= MAP_ENTRIES_MAX { 0 } else { fields.len() };
                let entries = fields.iter().map(|(name, value)| name.heap() + value.heap());
                MAP_BYTES + more * MAP_ENTRY_BYTES + entries.sum::<usize>()
            }
        }
    }
}

impl HeapSize for ObjectRef {
    fn heap(&self) -> usize {
        let Self { kind, namespace, name } = self;
        kind.api_version.heap() + kind.kind.heap() + namespace.heap() + name.heap()
    }
}

impl HeapSize for Pipeline {
    fn heap(&self) -> usize {
        let Self { instance, pod, commands, deadline_ms: _ } = self;
        instance.heap() + pod.heap() + commands.heap()
    }
}

impl HeapSize for Call {
    fn heap(&self) -> usize {
        match self {
            Self::Kubernetes(call) => match call {
                KubernetesCall::Get { object, read: _, fields } => object.heap() + fields.heap(),
                KubernetesCall::List { kind, namespace, selector, read: _, fields } => {
                    let name = kind.api_version.heap() + kind.kind.heap() + namespace.heap();
                    name + selector.heap() + fields.heap()
                }
                KubernetesCall::Apply { object, force: _ }
                | KubernetesCall::ApplyStatus { object } => object.heap(),
                KubernetesCall::MergePatch { object, patch } => object.heap() + patch.heap(),
                KubernetesCall::Delete { object, uid, resource_version, grace_seconds: _ } => {
                    object.heap() + uid.heap() + resource_version.heap()
                }
                KubernetesCall::Publish { event_type: _, reason, message } => {
                    reason.heap() + message.heap()
                }
                KubernetesCall::Warnings { object } => object.heap(),
            },
            Self::Redis(call) => match call {
                RedisCall::Pipeline(pipeline) => pipeline.heap(),
                RedisCall::FanOut { pipelines } => pipelines.heap(),
                RedisCall::Observe { instance } => instance.heap(),
                RedisCall::Act { instance, actions } => instance.heap() + actions.heap(),
            },
            Self::Runtime(call) => match call {
                PluginRuntimeCall::Now
                | PluginRuntimeCall::Random { .. }
                | PluginRuntimeCall::Parameters => 0,
                PluginRuntimeCall::Wait { facts, ms: _ } => facts.heap(),
                PluginRuntimeCall::Probe(probe) => probe.pod.heap() + probe.get.heap(),
                PluginRuntimeCall::Log { level, message } => level.heap() + message.heap(),
            },
        }
    }
}

impl HeapSize for RespReply {
    fn heap(&self) -> usize {
        self.nodes.heap()
    }
}

impl HeapSize for RespNode {
    fn heap(&self) -> usize {
        match self {
            Self::Nil | Self::Int(_) | Self::Double(_) | Self::Boolean(_) => 0,
            Self::Bulk(bytes) => ALLOCATION_BYTES + bytes.len(),
            Self::Status(text) | Self::Error(text) => text.heap(),
            Self::Array(children) => ALLOCATION_BYTES + children.len() * size_of::<u32>(),
            Self::Map(pairs) => ALLOCATION_BYTES + pairs.len() * size_of::<(u32, u32)>(),
        }
    }
}

impl HeapSize for Reply {
    fn heap(&self) -> usize {
        match self {
            Self::Done | Self::Number(_) => 0,
            Self::Document(document) => document.heap(),
            Self::Documents(documents) => documents.heap(),
            Self::Results(results) => results.heap(),
            Self::Bytes(bytes) => bytes.heap(),
            Self::Replies(replies) => replies.heap(),
            Self::FanOut(results) => results.heap(),
        }
    }
}

impl HeapSize for CallError {
    fn heap(&self) -> usize {
        self.text().map_or(0, HeapSize::heap)
    }
}

impl HeapSize for PlanStep {
    fn heap(&self) -> usize {
        let Self { effect, not_done } = self;
        let effect = match effect {
            PlanStepEffect::Object { by, object, change: _, fields } => {
                let field = |field: &crate::step::FieldChange| {
                    size_of_val(field) + field.field.heap() + field.from.heap() + field.to.heap()
                };
                by.heap() + object.heap() + fields.iter().map(field).sum::<usize>()
            }
            PlanStepEffect::Verb { verb, args, commands } => {
                verb.heap() + args.heap() + commands.heap()
            }
            PlanStepEffect::Commands { commands } => commands.heap(),
            PlanStepEffect::Event { event_type: _, reason, message } => {
                reason.heap() + message.heap()
            }
        };
        let not_done = match not_done {
            None => 0,
            Some(StepSkipReason::Refused { guard, message }) => guard.heap() + message.heap(),
            Some(StepSkipReason::Failed { reason, message, may_have_run: _ }) => {
                reason.heap() + message.heap()
            }
            Some(StepSkipReason::Skipped { after }) => after.heap(),
        };
        effect + not_done
    }
}

impl HeapSize for RedisCliCommand {
    fn heap(&self) -> usize {
        self.pod.heap() + self.command.heap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_bound_of_a_text_is_no_less_than_the_size_of_its_document() {
        let long = format!("[{}0]", "0,".repeat(5000));
        let keys: Vec<_> = (0..500).map(|key| format!(r#""{key}":{key}"#)).collect();
        let wide = format!("{{{}}}", keys.join(","));
        let small = format!("[{}0]", r#"{"":0},"#.repeat(1000));
        let nested = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let texts = [
            "null",
            "{}",
            "[]",
            r#""""#,
            r#"{"a":[]}"#,
            r#"["\"",":,{["]"#,
            &long,
            &wide,
            &small,
            &nested,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}}}"#,
        ];
        for text in texts {
            let document: Value = serde_json::from_str(text).unwrap();
            let (bound, heap) = (json_text(text), document.heap());
            assert!(heap <= bound, "{heap} and {bound}: {text:.50}");
        }
    }

    #[test]
    fn a_small_map_counts_as_the_node_that_it_allocates() {
        let text = format!("[{}0]", r#"{"":0},"#.repeat(1000));
        let document: Value = serde_json::from_str(&text).unwrap();
        assert!(600 * 1000 < document.heap(), "{}", document.heap());
        assert_eq!(json!({}).heap(), 0);
    }

    #[test]
    fn what_is_in_a_string_counts_as_its_length_only() {
        let inner = r#"[[{,:"#.repeat(100);
        assert!(json_text(&json!(inner).to_string()) < 700);
        // The quote after an odd number of backslashes does not end the string.
        assert!(json_text(r#""\"{{{{{{{{{{""#) < 200);
        assert!(MAP_BYTES < json_text(r#"["\\",{}]"#));
    }

    #[test]
    fn arguments_and_replies_of_any_form_count() {
        let commands = vec![vec![vec![b'x'; 1000]]];
        let pipeline = Pipeline { instance: json!({}), pod: "p".into(), commands, deadline_ms: 1 };
        let message = "m".repeat(1000);
        let calls = [
            Call::Redis(RedisCall::Pipeline(pipeline.clone())),
            Call::Redis(RedisCall::FanOut { pipelines: vec![pipeline] }),
            Call::Redis(RedisCall::Act { instance: json!({}), actions: vec![json!(message)] }),
            Call::Runtime(PluginRuntimeCall::Wait { facts: vec![json!(message)], ms: 1 }),
            Call::Runtime(PluginRuntimeCall::Log {
                level: "info".into(),
                message: message.clone(),
            }),
        ];
        for call in calls {
            assert!(1000 < call.heap(), "{call:?}");
        }
        let replies = || vec![RespReply { nodes: vec![RespNode::Bulk(vec![b'x'; 1000])] }];
        for reply in [
            Reply::Document(json!(message)),
            Reply::Documents(vec![json!(message)]),
            Reply::Results(vec![Ok(json!(message))]),
            Reply::Results(vec![Err(CallError::Denied(message.clone()))]),
            Reply::Replies(replies()),
            Reply::FanOut(vec![Ok(replies())]),
        ] {
            assert!(1000 < reply.heap(), "{reply:?}");
        }
    }
}
