//! Performs the calls of `tholepin:redis` that grants and guards allow.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tholepin_core::{
    Answer, CallError, Pipeline, PlanStep, RedisCall, Reply, RespNode, RespReply, step,
};
use tholepin_schema::{
    action::Action,
    command::{self, CommandAccess},
    instance::Instance,
};

use crate::{
    Gate, act, credentials, grant, instance, plan_steps, reconcile_context::ReconcileContext,
    reconcile_scope::WriteMode, restore_settings,
};

/// The longest deadline of a pipeline.
const PIPELINE_DEADLINE_MAX: Duration = Duration::from_secs(5);
/// The most pipelines of one fan-out.
const FAN_OUT_MAX: usize = 256;

pub(crate) async fn perform(
    pass: &ReconcileContext,
    call: RedisCall,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    match call {
        RedisCall::Pipeline(pipeline) => {
            let sent = send(pass, &pipeline).await;
            steps.extend(step(&pipeline, &sent));
            sent.map(Reply::Replies)
        }
        RedisCall::FanOut { pipelines } => fan_out(pass, &pipelines, steps).await,
        RedisCall::Observe { instance } => observe(pass, &parse(instance)?, steps).await,
        RedisCall::Act { instance, actions } => {
            let instance = parse(instance)?;
            let actions = actions.into_iter().map(parse).collect::<Result<Vec<Action>, _>>()?;
            let results = act::perform(pass, &instance, &actions, steps).await?;
            Ok(Reply::Results(results.iter().map(json).collect()))
        }
    }
}

/// Returns the step of a pipeline that writes. A pipeline at which the plan ends has a step too: it would be
/// sent.
fn step(pipeline: &Pipeline, sent: &Result<Vec<RespReply>, CallError>) -> Option<PlanStep> {
    let effect = match command::check_list(&pipeline.commands) {
        Ok(CommandAccess::Read) => return None,
        Ok(CommandAccess::Write) | Err(_) => plan_steps::commands(pipeline),
    };
    Some(match sent {
        Ok(_) | Err(CallError::PlanEnds(_)) => PlanStep::new(effect),
        Err(error) => PlanStep::failed(effect, error),
    })
}

async fn observe(
    pass: &ReconcileContext,
    instance: &Instance,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    grant::redis_verb(&pass.context.grants, "observe")?;
    let mut book = pass.ledger(instance).await?;
    let mut members = pass.members_by(&book.ledger, instance).await?;
    instance::some(&pass.context, instance, &members)?;
    if pass.context.mode == WriteMode::Live {
        steps.extend(restore_settings::left_behind(pass, instance, &members, &mut book).await);
    }
    let Gate { ports, credentials, .. } = &*pass.gate;
    let mut snapshot = ports.redis.observe(&members, &instance.settings).await;
    let context = &pass.context;
    if credentials::replace_refused(credentials, ports, context, instance, &members, &snapshot)
        .await?
    {
        members = pass.members_by(&book.ledger, instance).await?;
        snapshot = ports.redis.observe(&members, &instance.settings).await;
    }
    snapshot.credentials = members.credentials_facts;
    let now_ms = ports.clock.now_ms();
    pass.gate.full_syncs.look(&members.instance, &snapshot, now_ms);
    book.learn(&snapshot, now_ms);
    book.save_or_later(&*ports.kubernetes, &pass.context).await?;
    instance::narrow(&*ports.kubernetes.view(), &pass.context, instance, &mut snapshot)?;
    json(&snapshot).map(Reply::Document)
}

async fn fan_out(
    pass: &ReconcileContext,
    pipelines: &[Pipeline],
    steps: &mut Vec<PlanStep>,
) -> Answer {
    if FAN_OUT_MAX < pipelines.len() {
        let text = format!("{} pipelines are more than {FAN_OUT_MAX}", pipelines.len());
        return Err(CallError::Invalid(text));
    }
    for pipeline in pipelines {
        admit(pass, pipeline)?;
    }
    let sent = join_all(pipelines.iter().map(|pipeline| send(pass, pipeline))).await;
    steps.extend(pipelines.iter().zip(&sent).filter_map(|(pipeline, sent)| step(pipeline, sent)));
    Ok(Reply::FanOut(sent))
}

/// Checks that the commands are in the table of known commands, and that the grants cover them.
fn admit(pass: &ReconcileContext, pipeline: &Pipeline) -> Result<CommandAccess, CallError> {
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

async fn send(pass: &ReconcileContext, pipeline: &Pipeline) -> Result<Vec<RespReply>, CallError> {
    let access = admit(pass, pipeline)?;
    let deadline = Duration::from_millis(pipeline.deadline_ms.into());
    if PIPELINE_DEADLINE_MAX < deadline || deadline.is_zero() {
        let text = format!("deadline_ms must be 1 to 5000, not {}", pipeline.deadline_ms);
        return Err(CallError::Invalid(text));
    }
    let instance: Instance = parse(pipeline.instance.clone())?;
    let members = pass.members(&instance).await?;
    if access == CommandAccess::Write {
        pass.may_write()?;
        if pass.context.mode == WriteMode::Plan {
            return pretend(pass, pipeline);
        }
    }
    let port = &pass.gate.ports.redis;
    port.pipeline(&members, &pipeline.pod, &pipeline.commands, deadline).await
}

/// Answers a write in plan mode: with `OK` if the reply can only be that. Otherwise the plan ends, because
/// what follows depends on the reply.
fn pretend(pass: &ReconcileContext, pipeline: &Pipeline) -> Result<Vec<RespReply>, CallError> {
    let open = pipeline.commands.iter().find(|words| !command::replies_ok(words));
    if let Some(words) = open {
        let text = format!("the reply to `{}` on `{}`", step::redis_cli(words), pipeline.pod);
        return Err(pass.end_plan(text));
    }
    let ok = || RespReply { nodes: vec![RespNode::Status("OK".to_owned())] };
    Ok(pipeline.commands.iter().map(|_| ok()).collect())
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, CallError> {
    serde_json::from_value(value).map_err(|error| CallError::Invalid(error.to_string()))
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, CallError> {
    serde_json::to_value(value).map_err(|error| CallError::Other(error.to_string()))
}
