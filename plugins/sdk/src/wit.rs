//! The implementation of [`Host`] on the generated WIT bindings. Wasm only.
//!
//! Only converts types. Each conversion names every case, so a case that is added on one side does not
//! compile until it is added on the other.

use serde_json::Value;
use tholepin_schema::{
    fact::{Fact, WaitOutcome},
    probe::{NetworkProbeOutcome, PodPortProbe},
};

use crate::{
    DeleteOptions, Error, EventType, Host, JsonDocument, LogLevel, ObjectListQuery, ObjectRef,
    Pipeline, ReadMode, RedisReply, ReplyNode, heap::GuestAllocator,
};

/// The bindings that wit-bindgen generates from `wit/`.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "tholepin:host/reconciler",
        pub_export_macro: true,
        default_bindings_module: "tholepin_sdk::bindings",
        generate_all,
    });
}

use bindings::tholepin::{
    kubernetes::{events, objects},
    redis::{commands, topology},
    runtime::{clock, logging, parameters, probing, random, waiting},
    types::types,
};

#[global_allocator]
static HEAP: GuestAllocator = GuestAllocator::new();

/// The host that runs this plugin, called through the WIT imports.
pub(crate) struct WitImportHost;

impl Host for WitImportHost {
    fn get(&self, object: &ObjectRef, read: ReadMode, fields: &[&str]) -> Result<Value, Error> {
        let fields: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
        document(objects::get(&object_ref(object), read_mode(read), &fields))
    }

    fn list(&self, query: &ObjectListQuery) -> Result<Vec<Value>, Error> {
        let ObjectListQuery { kind, namespace, selector, read, fields } = query;
        let read = read_mode(*read);
        let texts =
            objects::list(&kind.api_version, &kind.kind, namespace, selector, read, fields)?;
        texts.into_iter().map(|text| JsonDocument::text(text).value()).collect()
    }

    fn apply(&self, object: &Value, force: bool) -> Result<JsonDocument, Error> {
        unparsed(objects::apply(&write(object), force))
    }

    fn apply_status(&self, object: &Value) -> Result<JsonDocument, Error> {
        unparsed(objects::apply_status(&write(object)))
    }

    fn merge_patch(&self, object: &ObjectRef, patch: &Value) -> Result<JsonDocument, Error> {
        unparsed(objects::merge_patch(&object_ref(object), &write(patch)))
    }

    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<(), Error> {
        Ok(objects::delete(&object_ref(object), &write(options))?)
    }

    fn publish(&self, event_type: EventType, reason: &str, message: &str) -> Result<(), Error> {
        let event_type = match event_type {
            EventType::Normal => events::EventType::Normal,
            EventType::Warning => events::EventType::Warning,
        };
        Ok(events::publish(event_type, reason, message)?)
    }

    fn warnings(&self, object: &ObjectRef) -> Result<Vec<Value>, Error> {
        let texts = events::warnings(&object_ref(object))?;
        texts.into_iter().map(|text| JsonDocument::text(text).value()).collect()
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, Error> {
        let Pipeline { instance: _, pod: _, commands, deadline_ms: _ } = pipeline;
        Ok(replies(commands::pipeline(&server(pipeline), commands, &options(pipeline))?))
    }

    fn fan_out(
        &self,
        pipelines: &[Pipeline],
    ) -> Result<Vec<Result<Vec<RedisReply>, Error>>, Error> {
        let request = |pipeline: &Pipeline| commands::PipelineRequest {
            server: server(pipeline),
            commands: pipeline.commands.clone(),
            options: options(pipeline),
        };
        let requests: Vec<_> = pipelines.iter().map(request).collect();
        let results = commands::fan_out(&requests)?;
        Ok(results.into_iter().map(|result| Ok(replies(result?))).collect())
    }

    fn observe(&self, instance: &Value) -> Result<JsonDocument, Error> {
        unparsed(topology::observe(&write(instance)))
    }

    fn act(
        &self,
        instance: &Value,
        actions: &[Value],
    ) -> Result<Vec<Result<JsonDocument, Error>>, Error> {
        let actions: Vec<String> = actions.iter().map(write).collect();
        let results = topology::act(&write(instance), &actions)?;
        Ok(results.into_iter().map(unparsed).collect())
    }

    fn now_ms(&self) -> Result<u64, Error> {
        Ok(clock::now()?)
    }

    fn random(&self, bytes: u32) -> Result<Vec<u8>, Error> {
        Ok(random::random(bytes)?)
    }

    fn parameters(&self) -> Result<Value, Error> {
        document(parameters::parameters())
    }

    fn wait(&self, facts: &[Fact], ms: u32) -> Result<WaitOutcome, Error> {
        let facts: Vec<String> = facts.iter().map(write).collect();
        unparsed(waiting::wait(&facts, ms))?.read()
    }

    fn probe(&self, probe: &PodPortProbe) -> Result<NetworkProbeOutcome, Error> {
        unparsed(probing::probe(&write(probe)))?.read()
    }

    fn log(&self, level: LogLevel, message: &str) {
        let level = match level {
            LogLevel::Trace => logging::Level::Trace,
            LogLevel::Debug => logging::Level::Debug,
            LogLevel::Info => logging::Level::Info,
            LogLevel::Warn => logging::Level::Warn,
            LogLevel::Error => logging::Level::Error,
        };
        logging::log(level, message);
    }
}

fn document(text: Result<String, types::Error>) -> Result<Value, Error> {
    unparsed(text)?.value()
}

fn unparsed(text: Result<String, types::Error>) -> Result<JsonDocument, Error> {
    Ok(JsonDocument::text(text?))
}

/// Serializes a document of this crate. Cannot fail, because these documents have string keys only.
fn write<T: serde::Serialize>(document: &T) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

fn server(pipeline: &Pipeline) -> String {
    serde_json::json!({"instance": pipeline.instance, "pod": pipeline.pod}).to_string()
}

fn options(pipeline: &Pipeline) -> String {
    serde_json::json!({"deadlineMs": pipeline.deadline_ms}).to_string()
}

fn object_ref(object: &ObjectRef) -> objects::ObjectRef {
    let ObjectRef { kind, namespace, name } = object.clone();
    objects::ObjectRef { api_version: kind.api_version, kind: kind.kind, namespace, name }
}

const fn read_mode(read: ReadMode) -> objects::ReadMode {
    match read {
        ReadMode::Cached => objects::ReadMode::Cached,
        ReadMode::Live => objects::ReadMode::Live,
    }
}

fn replies(replies: Vec<commands::Reply>) -> Vec<RedisReply> {
    let reply =
        |reply: commands::Reply| RedisReply { nodes: reply.nodes.into_iter().map(node).collect() };
    replies.into_iter().map(reply).collect()
}

fn node(node: commands::Node) -> ReplyNode {
    match node {
        commands::Node::Nil => ReplyNode::Nil,
        commands::Node::Int(number) => ReplyNode::Int(number),
        commands::Node::Bulk(bytes) => ReplyNode::Bulk(bytes),
        commands::Node::Status(text) => ReplyNode::Status(text),
        commands::Node::Error(text) => ReplyNode::Error(text),
        commands::Node::Double(number) => ReplyNode::Double(number),
        commands::Node::Boolean(truth) => ReplyNode::Boolean(truth),
        commands::Node::Array(children) => ReplyNode::Array(children),
        commands::Node::Map(pairs) => ReplyNode::Map(pairs),
        commands::Node::Other(text) => ReplyNode::Other(text),
    }
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::NotFound(text) => Self::NotFound(text),
            types::Error::Conflict(text) => Self::Conflict(text),
            types::Error::Denied(text) => Self::Denied(text),
            types::Error::Refused(text) => Self::Refused(text),
            types::Error::Busy(text) => Self::Busy(text),
            types::Error::NeedsApproval(text) => Self::NeedsApproval(text),
            types::Error::Timeout(text) => Self::Timeout(text),
            types::Error::Gone(text) => Self::Gone(text),
            types::Error::Interrupted => Self::Interrupted,
            types::Error::Throttled(ms) => Self::Throttled(ms),
            types::Error::Transient(text) => Self::Transient(text),
            types::Error::Invalid(text) => Self::Invalid(text),
            types::Error::Unsupported(text) => Self::Unsupported(text),
            types::Error::PlanEnds(text) => Self::PlanEnds(text),
            types::Error::Other(text) => Self::Other(text),
        }
    }
}
