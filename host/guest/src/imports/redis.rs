//! The imports of the package `tholepin:redis`.

use serde::Deserialize;
use serde_json::Value;
use tholepin_core::{Call, Pipeline, RedisCall, Reply, RespNode, RespReply};

use super::wrong_type;
use crate::{
    bindings::tholepin::{
        redis::{commands, topology},
        types::types::Error,
    },
    state::GuestState,
};

/// The deadline of a pipeline if the guest gives none.
const DEADLINE_MS_DEFAULT: u32 = 1000;

/// The longest deadline of a pipeline.
const DEADLINE_MS_MAX: u32 = 5000;

/// The server argument of a pipeline.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RedisPipelineTarget {
    instance: Value,
    pod: String,
}

/// The options of a pipeline.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RedisPipelineOptions {
    #[serde(default = "deadline_ms_default")]
    deadline_ms: u32,
}

const fn deadline_ms_default() -> u32 {
    DEADLINE_MS_DEFAULT
}

impl commands::Host for GuestState {
    async fn pipeline(
        &mut self,
        server: String,
        commands: Vec<commands::Command>,
        options: String,
    ) -> Result<Vec<commands::Reply>, Error> {
        let call = RedisCall::Pipeline(self.pipeline_of(&server, commands, &options)?);
        let Reply::Replies(found) = self.call_host(Call::Redis(call)).await? else {
            return Err(wrong_type("replies"));
        };
        self.replies(found)
    }

    async fn fan_out(
        &mut self,
        pipelines: Vec<commands::PipelineRequest>,
    ) -> Result<Vec<Result<Vec<commands::Reply>, Error>>, Error> {
        let read = |request: commands::PipelineRequest| {
            let commands::PipelineRequest { server, commands, options } = request;
            self.pipeline_of(&server, commands, &options)
        };
        let pipelines = pipelines.into_iter().map(read).collect::<Result<_, _>>()?;
        let Reply::FanOut(results) =
            self.call_host(Call::Redis(RedisCall::FanOut { pipelines })).await?
        else {
            return Err(wrong_type("results of a fan-out"));
        };
        self.check_size(results.iter().flatten().map(|replies| size(replies)).sum())?;
        Ok(results.into_iter().map(|result| Ok(replies(result?))).collect())
    }
}

impl topology::Host for GuestState {
    async fn observe(&mut self, instance: String) -> Result<String, Error> {
        let call = RedisCall::Observe { instance: self.parse_argument("instance", &instance)? };
        let answer = self.call_host(Call::Redis(call)).await;
        self.document(answer)
    }

    async fn act(
        &mut self,
        instance: String,
        actions: Vec<String>,
    ) -> Result<Vec<Result<String, Error>>, Error> {
        let instance = self.parse_argument("instance", &instance)?;
        let actions = actions
            .iter()
            .map(|action| self.parse_argument("actions", action))
            .collect::<Result<_, _>>()?;
        let Reply::Results(results) =
            self.call_host(Call::Redis(RedisCall::Act { instance, actions })).await?
        else {
            return Err(wrong_type("results"));
        };
        Ok(results.into_iter().map(|result| self.bounded(&result?)).collect())
    }
}

impl GuestState {
    fn pipeline_of(
        &mut self,
        server: &str,
        commands: Vec<commands::Command>,
        options: &str,
    ) -> Result<Pipeline, Error> {
        let RedisPipelineTarget { instance, pod } = self.parse_argument("server", server)?;
        let RedisPipelineOptions { deadline_ms } = self.parse_argument("options", options)?;
        self.transferred.count_out_of_guest(commands.iter().flatten().map(Vec::len).sum());
        if commands.is_empty() || commands.iter().any(Vec::is_empty) {
            return Err(Error::Invalid(
                "`commands`: a pipeline needs at least one command, and each command needs a name"
                    .to_owned(),
            ));
        }
        if DEADLINE_MS_MAX < deadline_ms {
            let text =
                format!("`options`: `deadlineMs` is {deadline_ms}, at most {DEADLINE_MS_MAX}");
            return Err(Error::Invalid(text));
        }
        Ok(Pipeline { instance, pod, commands, deadline_ms })
    }

    fn replies(&mut self, found: Vec<RespReply>) -> Result<Vec<commands::Reply>, Error> {
        self.check_size(size(&found))?;
        Ok(replies(found))
    }
}

fn replies(replies: Vec<RespReply>) -> Vec<commands::Reply> {
    let reply =
        |reply: RespReply| commands::Reply { nodes: reply.nodes.into_iter().map(node).collect() };
    replies.into_iter().map(reply).collect()
}

/// Returns the approximate size of the replies in the guest's memory, in bytes.
fn size(replies: &[RespReply]) -> usize {
    const NODE_BYTES: usize = 16;
    let node_size = |node: &RespNode| {
        NODE_BYTES
            + match node {
                RespNode::Nil | RespNode::Int(_) | RespNode::Double(_) | RespNode::Boolean(_) => 0,
                RespNode::Bulk(bytes) => bytes.len(),
                RespNode::Status(text) | RespNode::Error(text) => text.len(),
                RespNode::Array(children) => children.len() * 4,
                RespNode::Map(pairs) => pairs.len() * 8,
            }
    };
    replies.iter().flat_map(|reply| &reply.nodes).map(node_size).sum()
}

fn node(node: RespNode) -> commands::Node {
    match node {
        RespNode::Nil => commands::Node::Nil,
        RespNode::Int(number) => commands::Node::Int(number),
        RespNode::Bulk(bytes) => commands::Node::Bulk(bytes),
        RespNode::Status(text) => commands::Node::Status(text),
        RespNode::Error(text) => commands::Node::Error(text),
        RespNode::Double(number) => commands::Node::Double(number),
        RespNode::Boolean(truth) => commands::Node::Boolean(truth),
        RespNode::Array(children) => commands::Node::Array(children),
        RespNode::Map(pairs) => commands::Node::Map(pairs),
    }
}
