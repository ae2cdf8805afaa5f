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
    step::{MemberCommandLine, redis_cli},
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    instance::Instance,
    ledger::SuspendedSetting,
    snapshot::{Member, Snapshot},
};
use tokio::time::timeout;
use tracing::warn;

use crate::{ledger, ledger_store::ObjectLedger, plan_steps, reconcile_context::ReconcileContext};

/// How often the members are read at the end of a reconcile, with an attempt after each read but the last.
/// What is not restored by then is left to the next reconcile.
const LOOKS_MAX: u32 = 3;
/// The time limit for restoring the settings at the end of a reconcile.
const DEADLINE: Duration = Duration::from_secs(5);

/// Restores the settings that a reconcile changed temporarily, even if the object was paused meanwhile,
/// because that completes what was begun. In plan mode, returns the steps that would do it.
pub(crate) async fn end(pass: &ReconcileContext) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    for (instance, suspensions) in pass.take_suspended() {
        match pass.context.mode {
            WriteMode::Plan => steps.extend(suspensions.iter().filter_map(planned)),
            WriteMode::Live => match timeout(DEADLINE, end_in(pass, &instance)).await {
                Ok(Ok(done)) => steps.extend(done),
                Ok(Err(error)) => {
                    warn!(%error, "the temporary settings of the reconcile are not restored yet")
                }
                Err(_) => {
                    warn!(deadline = ?DEADLINE, "the temporary settings of the reconcile are not \
                     restored yet")
                }
            },
        }
    }
    steps
}

async fn end_in(pass: &ReconcileContext, instance: &Instance) -> Result<Vec<PlanStep>, CallError> {
    let mut book = pass.ledger(instance).await?;
    let members = pass.members_by(&book.ledger, instance).await?;
    let steps = put_back(pass, &members, &mut book).await;
    book.save(&*pass.gate.ports.kubernetes, &pass.context).await?;
    Ok(steps)
}

/// Restores what an earlier reconcile left behind. What this reconcile has changed stays until its end.
pub(crate) async fn left_behind(
    pass: &ReconcileContext,
    instance: &Instance,
    members: &InstanceMembers,
    book: &mut ObjectLedger,
) -> Vec<PlanStep> {
    if pass.has_suspended(instance) || pass.may_write().is_err() {
        return Vec::new();
    }
    put_back(pass, members, book).await
}

async fn put_back(
    pass: &ReconcileContext,
    members: &InstanceMembers,
    book: &mut ObjectLedger,
) -> Vec<PlanStep> {
    let port = &pass.gate.ports.redis;
    let mut steps = Vec::new();
    for look in 1..=LOOKS_MAX {
        let names: Vec<String> =
            book.ledger.suspensions.iter().map(|one| one.setting.clone()).collect();
        if names.is_empty() {
            break;
        }
        let snapshot = port.observe(members, &names).await;
        ledger::restored(&mut book.ledger, &snapshot);
        let mut actions = ledger::lifts(&book.ledger);
        actions.retain(|action| is_told(action, &snapshot));
        if actions.is_empty() || look == LOOKS_MAX {
            break;
        }
        let deeds = port.act(members, &actions).await;
        let done = actions.iter().zip(deeds);
        steps.extend(
            done.filter_map(|(action, deed)| {
                plan_steps::acted(action, &deed.outcome, deed.commands)
            }),
        );
    }
    if let Some(left) = book.ledger.suspensions.first() {
        let SuspendedSetting { pod, setting, .. } = left;
        let count = book.ledger.suspensions.len();
        warn!(
            count,
            pod, setting, "temporary settings are not restored yet; the next reconcile tries again"
        );
    }
    steps
}

/// Returns true if the process that an action requires answers.
fn is_told(action: &Action, snapshot: &Snapshot) -> bool {
    let member = action.verb.pod().and_then(|pod| snapshot.member(pod));
    let facts = member.and_then(Member::facts);
    facts.is_some_and(|facts| facts.run_id == action.presume.run_id)
}

/// Returns the step that would restore a setting, the same as when it is performed.
fn planned(suspension: &SuspendedSetting) -> Option<PlanStep> {
    let SuspendedSetting { pod, setting, value, .. } = suspension;
    let settings = [(setting.clone(), value.clone())].into();
    let verb = Verb::Configure { pod: pod.clone(), settings, temporary: false };
    let words = ["CONFIG", "SET", setting, value].map(|word| word.as_bytes().to_vec());
    let command = MemberCommandLine { pod: pod.clone(), command: redis_cli(&words) };
    let outcome = ActionOutcome::Done { took_ms: 0, note: String::new() };
    plan_steps::acted(&verb.into(), &outcome, vec![command])
}
