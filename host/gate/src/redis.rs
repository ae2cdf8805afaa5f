//! Performs the calls of `tholepin:redis` that grants and guards allow.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tholepin_core::{
    Answer, CallError, Pipeline, PlanStep, RedisCall, Reply, RespNode, RespReply, WriteMode,
    port::ReplyRoom, step,
};
use tholepin_schema::{
    action::Action,
    command::{self, CommandAccess, CommandRefused},
    guard_id::GuardId,
    instance::Instance,
};

use crate::{
    Gate, act, credentials, grant, guard::GuardRefusal, instance, plan_steps,
    reconcile_context::ReconcileContext, restore_settings,
};

/// The longest deadline of a pipeline.
const PIPELINE_DEADLINE_MAX: Duration = Duration::from_secs(5);
/// The most pipelines of one fan-out.
const FAN_OUT_MAX: usize = 256;
/// The most bytes of the host's memory that the replies to one call may take, all pipelines of a fan-out together.
/// An answer that the guest runtime passes to the plugin fits.
const REPLIES_BYTES_MAX: usize = 4 << 20;

pub(crate) async fn perform(
    context: &ReconcileContext,
    call: RedisCall,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    match call {
        RedisCall::Pipeline(pipeline) => {
            let sent = send(context, &pipeline, &ReplyRoom::new(REPLIES_BYTES_MAX)).await;
            steps.extend(step(&pipeline, &sent));
            sent.map(Reply::Replies)
        }
        RedisCall::FanOut { pipelines } => fan_out(context, &pipelines, steps).await,
        RedisCall::Observe { instance } => observe(context, &parse(instance)?, steps).await,
        RedisCall::Act { instance, actions } => {
            let instance = parse(instance)?;
            let actions = actions.into_iter().map(parse).collect::<Result<Vec<Action>, _>>()?;
            let results = act::perform(context, &instance, &actions, steps).await?;
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
    context: &ReconcileContext,
    instance: &Instance,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    grant::redis_verb(&context.scope.grants, "observe")?;
    let mut object_ledger = context.ledger(instance).await?;
    let mut members = context.members_by(&object_ledger.ledger, instance).await?;
    instance::some(&context.scope, instance, &members)?;
    if context.scope.mode == WriteMode::Live {
        steps.extend(
            restore_settings::restore_left_behind(context, instance, &members, &mut object_ledger)
                .await,
        );
    }
    let Gate { ports, credentials, .. } = &*context.gate;
    let mut snapshot = ports.redis.observe(&members, &instance.settings).await;
    let scope = &context.scope;
    if credentials::replace_refused(credentials, ports, scope, instance, &members, &snapshot)
        .await?
    {
        members = context.members_by(&object_ledger.ledger, instance).await?;
        snapshot = ports.redis.observe(&members, &instance.settings).await;
    }
    snapshot.credentials = members.credentials_facts;
    let now_ms = ports.clock.now_ms();
    context.gate.full_syncs.update(&members.instance, &snapshot, now_ms);
    object_ledger.record(&snapshot, now_ms);
    object_ledger.save_or_later(&*ports.kubernetes, &context.scope).await?;
    instance::narrow(&*ports.kubernetes.view(), &context.scope, instance, &mut snapshot)?;
    json(&snapshot).map(Reply::Document)
}

async fn fan_out(
    context: &ReconcileContext,
    pipelines: &[Pipeline],
    steps: &mut Vec<PlanStep>,
) -> Answer {
    if FAN_OUT_MAX < pipelines.len() {
        let text = format!("{} pipelines are more than {FAN_OUT_MAX}", pipelines.len());
        return Err(CallError::Invalid(text));
    }
    for pipeline in pipelines {
        admit(context, pipeline)?;
    }
    let room = ReplyRoom::new(REPLIES_BYTES_MAX);
    let sent = join_all(pipelines.iter().map(|pipeline| send(context, pipeline, &room))).await;
    steps.extend(pipelines.iter().zip(&sent).filter_map(|(pipeline, sent)| step(pipeline, sent)));
    Ok(Reply::FanOut(sent))
}

/// Checks that the commands are in the table of known commands, and that the grants cover them and the keys that
/// they write.
fn admit(context: &ReconcileContext, pipeline: &Pipeline) -> Result<CommandAccess, CallError> {
    let access = command::check_list(&pipeline.commands)
        .map_err(|refused| CallError::Denied(refused.to_string()))?;
    let granted = &context.scope.grants.redis.commands;
    for line in &pipeline.commands {
        let name =
            command::name_of(line).map_err(|refused| CallError::Denied(refused.to_string()))?;
        if !command::is_granted(granted, &name) {
            return Err(CallError::Denied(format!(
                "no grant for the command `{name}`; the Plugin's spec.grants.redis.commands needs \
                 `+{name}`"
            )));
        }
        admit_keys(context, line)?;
    }
    Ok(access)
}

/// Checks that the granted patterns cover the keys that a command writes. Without any granted pattern, a write of
/// keys counts as giving up data.
fn admit_keys(context: &ReconcileContext, line: &[Vec<u8>]) -> Result<(), CallError> {
    let grants = &context.scope.grants;
    let uncovered = match command::check_keys(&grants.redis.commands, line) {
        Err(uncovered @ CommandRefused::NoKeyPattern { .. }) => uncovered,
        checked => return checked.map_err(|refused| CallError::Denied(refused.to_string())),
    };
    if grant::lose_data(grants).is_err() {
        let text = format!(
            "{uncovered}; or, to write any key of an object whose policy accepts the loss of data, \
             spec.grants.redis.verbs needs `lose-data`"
        );
        return Err(CallError::Denied(text));
    }
    if context.scope.policy().data_loss {
        return Ok(());
    }
    let text = format!(
        "the policy of the object does not accept the loss of data, which `lose-data` needs to write any key: \
         {uncovered}"
    );
    Err(GuardRefusal::new(GuardId::DataLoss, text).into())
}

async fn send(
    context: &ReconcileContext,
    pipeline: &Pipeline,
    room: &ReplyRoom,
) -> Result<Vec<RespReply>, CallError> {
    let access = admit(context, pipeline)?;
    let deadline = Duration::from_millis(pipeline.deadline_ms.into());
    if PIPELINE_DEADLINE_MAX < deadline || deadline.is_zero() {
        let text = format!("deadline_ms must be 1 to 5000, not {}", pipeline.deadline_ms);
        return Err(CallError::Invalid(text));
    }
    let instance: Instance = parse(pipeline.instance.clone())?;
    let members = context.members(&instance).await?;
    if access == CommandAccess::Write {
        context.may_write()?;
        if context.scope.mode == WriteMode::Plan {
            return answer_planned(context, pipeline);
        }
    }
    let port = &context.gate.ports.redis;
    port.pipeline(&members, &pipeline.pod, &pipeline.commands, deadline, room).await
}

/// Answers a write in plan mode: with `OK` if the reply can only be that. Otherwise the plan ends, because
/// what follows depends on the reply.
fn answer_planned(
    context: &ReconcileContext,
    pipeline: &Pipeline,
) -> Result<Vec<RespReply>, CallError> {
    let open = pipeline.commands.iter().find(|arguments| !command::replies_ok(arguments));
    if let Some(arguments) = open {
        let text = format!("the reply to `{}` on `{}`", step::redis_cli(arguments), pipeline.pod);
        return Err(context.end_plan(text));
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
