//! Puts back what passes suspended: at the end of the pass, and what an earlier one left behind, because
//! its host was killed or a member did not answer, before the next one looks or acts.
//!
//! Invariants:
//! - What is suspended is in the ledger before it is sent, so that it outlives the host.
//! - Only the process that was told is told again: another has read its configuration anew.

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

/// Looks that the end of a pass takes, each but the last with an attempt; what is not back then is left to
/// the next pass.
const LOOKS_MAX: u32 = 3;
/// The longest that a pass' end may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Puts back what a pass suspended, also if its object was paused meanwhile: that ends what was begun. A
/// plan tells that it would be done.
pub(crate) async fn end(pass: &ReconcileContext) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    for (instance, suspensions) in pass.take_suspended() {
        match pass.context.mode {
            WriteMode::Plan => steps.extend(suspensions.iter().filter_map(planned)),
            WriteMode::Live => match timeout(DEADLINE, end_in(pass, &instance)).await {
                Ok(Ok(done)) => steps.extend(done),
                Ok(Err(error)) => warn!(%error, "what the pass suspended is not back yet"),
                Err(_) => warn!(deadline = ?DEADLINE, "what the pass suspended is not back yet"),
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

/// Puts back what an earlier pass left behind. What this one suspended stays so until it ends.
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
        warn!(count, pod, setting, "what was suspended is not back yet; the next pass tries again");
    }
    steps
}

/// Whether the process that an action presumes answers.
fn is_told(action: &Action, snapshot: &Snapshot) -> bool {
    let member = action.verb.pod().and_then(|pod| snapshot.member(pod));
    let facts = member.and_then(Member::facts);
    facts.is_some_and(|facts| facts.run_id == action.presume.run_id)
}

/// What would put back a setting, as a step: as it is done, but for the looks.
fn planned(suspension: &SuspendedSetting) -> Option<PlanStep> {
    let SuspendedSetting { pod, setting, value, .. } = suspension;
    let settings = [(setting.clone(), value.clone())].into();
    let verb = Verb::Configure { pod: pod.clone(), settings, temporary: false };
    let words = ["CONFIG", "SET", setting, value].map(|word| word.as_bytes().to_vec());
    let command = MemberCommandLine { pod: pod.clone(), command: redis_cli(&words) };
    let outcome = ActionOutcome::Done { took_ms: 0, note: String::new() };
    plan_steps::acted(&verb.into(), &outcome, vec![command])
}
