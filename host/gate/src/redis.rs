//! Performs the calls of `tholepin:redis` that grants and guards let pass.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tholepin_core::{Answer, CallError, Pipeline, RedisCall, Reply, RespReply};
use tholepin_schema::{
    action::Action,
    command::{self, Access},
    instance::Instance,
};

use crate::{act, context::Mode, grant, ledger, pass::Pass};

/// The longest that a pipeline may take.
const PIPELINE_DEADLINE_MAX: Duration = Duration::from_secs(5);
/// The most pipelines of one fan-out.
const FAN_OUT_MAX: usize = 256;

pub(crate) async fn perform(pass: &Pass, call: RedisCall) -> Answer {
    match call {
        RedisCall::Pipeline(pipeline) => send(pass, &pipeline).await.map(Reply::Replies),
        RedisCall::FanOut { pipelines } => fan_out(pass, &pipelines).await,
        RedisCall::Observe { instance } => observe(pass, &parse(instance)?).await,
        RedisCall::Act { instance, actions } => {
            let instance = parse(instance)?;
            let actions = actions.into_iter().map(parse).collect::<Result<Vec<Action>, _>>()?;
            let results = act::perform(pass, &instance, &actions).await?;
            Ok(Reply::Results(results.iter().map(json).collect()))
        }
    }
}

async fn observe(pass: &Pass, instance: &Instance) -> Answer {
    grant::redis_verb(&pass.context.grants, "observe")?;
    let members = pass.members(instance).await?;
    let mut book = pass.gate.books.take(pass, &members.instance).await?;
    let snapshot = pass.gate.ports.redis.observe(&members, &instance.settings).await;
    ledger::learn(&mut book.ledger, &snapshot, pass.gate.ports.clock.now_ms());
    book.save(pass).await?;
    json(&snapshot).map(Reply::Document)
}

async fn fan_out(pass: &Pass, pipelines: &[Pipeline]) -> Answer {
    if FAN_OUT_MAX < pipelines.len() {
        let text = format!("{} pipelines are more than {FAN_OUT_MAX}", pipelines.len());
        return Err(CallError::Invalid(text));
    }
    for pipeline in pipelines {
        admit(pass, pipeline)?;
    }
    let running = pipelines.iter().map(|pipeline| send(pass, pipeline));
    Ok(Reply::FanOut(join_all(running).await))
}

/// Whether the table knows the commands, and the grants cover them.
fn admit(pass: &Pass, pipeline: &Pipeline) -> Result<Access, CallError> {
    let access = command::check_list(&pipeline.commands)
        .map_err(|refused| CallError::Denied(refused.to_string()))?;
    let words = &pass.context.grants.redis.commands;
    for line in &pipeline.commands {
        let name =
            command::name_of(line).map_err(|refused| CallError::Denied(refused.to_string()))?;
        if !command::is_granted(words, &name) {
            return Err(CallError::Denied(format!(
                "no grant for the command `{name}`; the Plugin's spec.grants.redis.commands needs \
                 `+{name}`"
            )));
        }
    }
    Ok(access)
}

async fn send(pass: &Pass, pipeline: &Pipeline) -> Result<Vec<RespReply>, CallError> {
    let access = admit(pass, pipeline)?;
    if pass.context.mode == Mode::Plan && access == Access::Write {
        let text = format!("depends on what {} would reply to a write", pipeline.pod);
        return Err(CallError::PlanEnds(text));
    }
    let deadline = Duration::from_millis(pipeline.deadline_ms.into());
    if PIPELINE_DEADLINE_MAX < deadline || deadline.is_zero() {
        let text = format!("deadline_ms must be 1 to 5000, not {}", pipeline.deadline_ms);
        return Err(CallError::Invalid(text));
    }
    let instance: Instance = parse(pipeline.instance.clone())?;
    let members = pass.members(&instance).await?;
    let port = &pass.gate.ports.redis;
    port.pipeline(&members, &pipeline.pod, &pipeline.commands, deadline).await
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, CallError> {
    serde_json::from_value(value).map_err(|error| CallError::Invalid(error.to_string()))
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, CallError> {
    serde_json::to_value(value).map_err(|error| CallError::Other(error.to_string()))
}
