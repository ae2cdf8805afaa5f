//! Restores the settings that reconciles changed temporarily: at the end of each reconcile, and before the
//! next one of the object observes or acts, if an earlier one could not (its host was killed, or a member did
//! not answer).
//!
//! Invariants:
//! - The original value is in the ledger before the temporary one is sent, so that it outlives the host.
//! - A setting is restored only in the process that received the temporary value: another process has read
//!   its configuration at its start.

use std::time::Duration;

use tholepin_core::{
    CallError, PlanStep, WriteMode,
    port::InstanceMembers,
    step::{RedisCliCommand, redis_cli},
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    instance::Instance,
    snapshot::{Member, Snapshot},
};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    ledger, ledger_document::TemporaryRedisSetting, ledger_store::ObjectLedger, plan_steps,
    reconcile_context::ReconcileContext,
};

/// How often the members are read at the end of a reconcile, with an attempt after each read but the last.
/// What is not restored by then is left to the next reconcile.
const READS_MAX: u32 = 3;
/// The time limit for restoring the settings at the end of a reconcile.
const DEADLINE: Duration = Duration::from_secs(5);

/// Restores the settings that a reconcile changed temporarily, even if the object was paused meanwhile,
/// because that completes what was begun. In plan mode, returns the steps that would do it.
pub(crate) async fn restore_at_end(context: &ReconcileContext) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    for (instance, suspensions) in context.take_suspended() {
        match context.scope.mode {
            WriteMode::Plan => steps.extend(suspensions.iter().filter_map(planned)),
            WriteMode::Live => {
                match timeout(DEADLINE, restore_instance(context, &instance)).await {
                    Ok(Ok(done)) => steps.extend(done),
                    Ok(Err(error)) => warn!(%error, "temporary settings are not restored yet"),
                    Err(_) => {
                        warn!(deadline = ?DEADLINE, "temporary settings are not restored yet")
                    }
                }
            }
        }
    }
    steps
}

async fn restore_instance(
    context: &ReconcileContext,
    instance: &Instance,
) -> Result<Vec<PlanStep>, CallError> {
    let mut object_ledger = context.ledger(instance).await?;
    let members = context.members_by(&object_ledger.ledger, instance).await?;
    let steps = restore(context, &members, &mut object_ledger).await;
    object_ledger.save(&*context.gate.ports.kubernetes, &context.scope).await?;
    Ok(steps)
}

/// Restores what an earlier reconcile left behind. What this reconcile has changed stays until its end.
pub(crate) async fn restore_left_behind(
    context: &ReconcileContext,
    instance: &Instance,
    members: &InstanceMembers,
    object_ledger: &mut ObjectLedger,
) -> Vec<PlanStep> {
    if context.has_suspended(instance) || context.may_write().is_err() {
        return Vec::new();
    }
    restore(context, members, object_ledger).await
}

async fn restore(
    context: &ReconcileContext,
    members: &InstanceMembers,
    object_ledger: &mut ObjectLedger,
) -> Vec<PlanStep> {
    let port = &context.gate.ports.redis;
    let mut steps = Vec::new();
    for read in 1..=READS_MAX {
        let names: Vec<String> = object_ledger
            .ledger
            .suspensions
            .iter()
            .map(|suspension| suspension.setting.clone())
            .collect();
        if names.is_empty() {
            break;
        }
        let snapshot = port.observe(members, &names).await;
        ledger::drop_restored(&mut object_ledger.ledger, &snapshot);
        let mut actions = ledger::restore_actions(&object_ledger.ledger);
        actions.retain(|action| answers(action, &snapshot));
        if actions.is_empty() || read == READS_MAX {
            break;
        }
        let results = port.act(members, &actions).await;
        let done = actions.iter().zip(results);
        steps.extend(done.filter_map(|(action, result)| {
            plan_steps::acted(action, &result.outcome, result.commands)
        }));
    }
    if let Some(left) = object_ledger.ledger.suspensions.first() {
        let TemporaryRedisSetting { pod, setting, .. } = left;
        let count = object_ledger.ledger.suspensions.len();
        warn!(
            count,
            pod, setting, "temporary settings are not restored yet; the next reconcile tries again"
        );
    }
    steps
}

/// Returns true if the process that an action requires answers.
fn answers(action: &Action, snapshot: &Snapshot) -> bool {
    let member = action.verb.pod().and_then(|pod| snapshot.member(pod));
    let facts = member.and_then(Member::facts);
    facts.is_some_and(|facts| facts.run_id == action.presume.run_id)
}

/// Returns the step that would restore a setting, the same as when it is performed.
fn planned(suspension: &TemporaryRedisSetting) -> Option<PlanStep> {
    let TemporaryRedisSetting { pod, setting, value, .. } = suspension;
    let settings = [(setting.clone(), value.clone())].into();
    let verb = Verb::Configure { pod: pod.clone(), settings, temporary: false };
    let arguments = ["CONFIG", "SET", setting, value].map(|argument| argument.as_bytes().to_vec());
    let command = RedisCliCommand { pod: pod.clone(), command: redis_cli(&arguments) };
    let outcome = ActionOutcome::Done { took_ms: 0, note: String::new() };
    plan_steps::acted(&verb.into(), &outcome, vec![command])
}
