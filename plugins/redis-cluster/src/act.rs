//! Does what a plan says: hands the whole list over at once, and keeps what became of each action.

use tholepin_redis_cluster_plan::{ClusterStage, Plan, last_words};
use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{
    action::{Action, ActionOutcome, ActionResult, Verb},
    guard_id::GuardId,
    snapshot::{Member, Snapshot},
};
use tholepin_sdk::{DeleteOptions, Error, EventType, Host, ObjectRef, Retry, topology};

use crate::{apply::ReconcileFault, observe::ReconcileTarget};

/// What became of a plan's actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActionSummary {
    /// How many are as wanted.
    pub done: usize,
    /// Why others are not: a guard's or the engine's words, in the order of the plan.
    pub held_up: Vec<BlockedAction>,
    /// Why others are not yet: what they wait for passes by itself.
    pub waits: Vec<BlockedAction>,
}

/// An action that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockedAction {
    /// As a condition's reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl ActionSummary {
    /// Whether nothing was done although something was planned.
    pub(crate) fn is_held_up(&self) -> bool {
        self.done == 0 && !(self.held_up.is_empty() && self.waits.is_empty())
    }
}

/// Performs a plan.
///
/// # Errors
///
/// Fails if the host takes no list from this plugin at all, or if something more urgent has come up;
/// what becomes of single actions is no error.
pub(crate) fn act(
    host: &dyn Host,
    target: &ReconcileTarget,
    plan: &Plan,
) -> Result<ActionSummary, Error> {
    perform(host, target, &plan.actions())
}

/// Performs a list of actions, as [`act`] does.
pub(crate) fn perform(
    host: &dyn Host,
    target: &ReconcileTarget,
    actions: &[Action],
) -> Result<ActionSummary, Error> {
    if actions.is_empty() {
        return Ok(ActionSummary::default());
    }
    let results = match topology::act(host, &target.instance, actions) {
        Ok(results) => results,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // The next pass looks and decides anew.
        Err(error) if error.retry() != Retry::Never => {
            let held_up =
                BlockedAction { reason: error.reason().into(), message: error.to_string() };
            return Ok(ActionSummary { held_up: vec![held_up], ..ActionSummary::default() });
        }
        Err(error) => return Err(error),
    };
    let mut acted = ActionSummary::default();
    for (action, result) in actions.iter().zip(results) {
        match judge(action, result) {
            Ok(note) => {
                acted.done += 1;
                announce(host, action, &note);
            }
            Err(NotDone::HeldUp(held_up)) => acted.held_up.push(held_up),
            Err(NotDone::Waits(waits)) => acted.waits.push(waits),
            Err(NotDone::Skipped) => {}
        }
    }
    Ok(acted)
}

/// Why an action was not done.
enum NotDone {
    /// Something is in its way.
    HeldUp(BlockedAction),
    /// It will be, when something has passed by itself.
    Waits(BlockedAction),
    /// What it came after says why.
    Skipped,
}

/// What became of one action: a note, or why it was not done.
fn judge(action: &Action, result: Result<ActionResult, Error>) -> Result<String, NotDone> {
    let what = describe(&action.verb);
    let told = |reason: &str, message: String| BlockedAction {
        reason: reason.into(),
        message: format!("{what}: {message}"),
    };
    let held_up = |reason: &str, message: String| Err(NotDone::HeldUp(told(reason, message)));
    match result.map(|result| result.outcome) {
        Ok(ActionOutcome::Done { note, .. }) => Ok(note),
        // The only copy of some slots is gone, or would be given up.
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::DataLoss.as_str() => {
            held_up("SlotsLost", message)
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::NotInSync.as_str() => {
            held_up("NoReplicaInSync", message)
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::Copies.as_str() => {
            held_up("CopyMissing", message)
        }
        Ok(ActionOutcome::Refused { guard, message })
            if guard == GuardId::RepairBudget.as_str() =>
        {
            held_up("RepairBudget", message)
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::BackOff.as_str() => {
            Err(NotDone::Waits(told("BackOff", message)))
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::FullSync.as_str() => {
            Err(NotDone::Waits(told("FullSyncUnderWay", message)))
        }
        Ok(ActionOutcome::Refused { guard, message }) => {
            held_up("Refused", format!("{message} (guard `{guard}`)"))
        }
        Ok(ActionOutcome::Failed { reason, message, .. }) => held_up(&reason, message),
        Ok(ActionOutcome::Skipped { .. }) => Err(NotDone::Skipped),
        Ok(_) => held_up("Other", "the host answered what this plugin does not know".into()),
        Err(error) => held_up(error.reason(), error.to_string()),
    }
}

/// Tells people about what they would ask for later. Forming is told by the conditions.
fn announce(host: &dyn Host, action: &Action, note: &str) {
    let (kind, reason, message) = if let Verb::Failover { pod, mode, .. } = &action.verb {
        let message = format!("`{pod}` took over ({}): {note}", mode.name());
        (EventType::Normal, "FailedOver", message)
    } else if let Verb::AllowStart { node, .. } = &action.verb {
        let message = format!("{note}: what only {} had is lost", node.short());
        (EventType::Warning, "StartedEmpty", message)
    } else {
        return;
    };
    host.info(&message);
    // An event that is lost changes nothing.
    if let Err(error) = host.publish(kind, reason, &message) {
        host.warn(&format!("the event was not published: {error}"));
    }
}

/// How many seconds the container of a Pod that is fenced has to end. One, because a Pod that is deleted with
/// none is gone before its process is.
const FENCE_GRACE_S: u32 = 1;

/// Deletes the Pods whose processes hang and whose places others are to take, and gives the uids of those for
/// which that failed.
pub(crate) fn fence(host: &dyn Host, target: &ReconcileTarget, plan: &Plan) -> Vec<String> {
    let mut failed = Vec::new();
    for (pod, uid) in &plan.fenced {
        let object = ObjectRef::new("v1", "Pod", &target.namespace, pod);
        let options = DeleteOptions {
            uid: Some(uid.clone()),
            grace_seconds: Some(FENCE_GRACE_S),
            ..DeleteOptions::default()
        };
        match host.delete(&object, &options) {
            Ok(()) => {
                let text = format!(
                    "`{pod}` did not answer in time and the majority called it failed: it is deleted, so that \
                     it acknowledges nothing more when another takes over"
                );
                host.warn(&text);
                if let Err(error) = host.publish(EventType::Warning, "Fenced", &text) {
                    host.warn(&format!("the event was not published: {error}"));
                }
            }
            // The Pod has changed since it was seen: the next pass looks again.
            Err(Error::Conflict(_)) => {}
            Err(error) => {
                host.warn(&format!(
                    "`{pod}` hangs and was not deleted, so that the cluster elects its successor: {error}"
                ));
                failed.push(uid.clone());
            }
        }
    }
    failed
}

/// Which members set files aside before they last ended: while not all is as wanted, the data that is missed
/// may lie there.
pub(crate) fn set_aside(plan: &Plan, seen: &Snapshot) -> Option<ReconcileFault> {
    let said = |member: &Member| {
        let words = last_words(member).filter(|words| words.contains(SET_ASIDE))?;
        Some(format!("`{}` said: {words}", member.pod))
    };
    let said: Vec<String> = seen.members.iter().filter_map(said).take(SET_ASIDE_TOLD_MAX).collect();
    let is_told = plan.stage != ClusterStage::Steady && !said.is_empty();
    is_told.then(|| ReconcileFault {
        reason: "SetAside".into(),
        message: said.join("; "),
        retry: false,
        ends_all: false,
    })
}

/// Tells which members are back after a copy of their damaged files was set aside: once, when one is first
/// seen to answer again.
pub(crate) fn announce_set_aside(
    host: &dyn Host,
    target: &ReconcileTarget,
    plan: &Plan,
    seen: &Snapshot,
) {
    let reported = target.status.shards.iter().flat_map(|shard| &shard.members);
    let silent: Vec<&str> = reported
        .filter(|member| member.role == MemberRole::Silent)
        .map(|member| member.pod.as_str())
        .collect();
    let members = plan.shards.iter().flat_map(|shard| &shard.members);
    let back = members.filter(|(pod, member)| {
        member.role != MemberRole::Silent && silent.contains(&pod.as_str())
    });
    for (pod, _) in back {
        let words = seen.member(pod).and_then(last_words);
        let Some(words) = words.filter(|words| words.contains(SET_ASIDE)) else { continue };
        if let Err(error) =
            host.publish(EventType::Warning, "SetAside", &format!("`{pod}`: {words}"))
        {
            host.warn(&format!("the event was not published: {error}"));
        }
    }
}

/// What `start.sh` says when it has set damaged files aside.
const SET_ASIDE: &str = "is set aside in";
/// Of how many members that is told at most.
const SET_ASIDE_TOLD_MAX: usize = 2;

/// An action in a few words.
fn describe(verb: &Verb) -> String {
    match verb {
        Verb::Forget { node } => format!("forget {}", node.short()),
        Verb::Configure { pod, settings, .. } => {
            let settings = settings.iter().map(|(name, value)| format!("`{name} {value}`"));
            format!("set {} on `{pod}`", settings.collect::<Vec<_>>().join(", "))
        }
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::AssignSlots { .. }
        | Verb::Replicate { .. }
        | Verb::AllowStart { .. }
        | Verb::Failover { .. } => {
            format!("{} `{}`", verb.name(), verb.pod().unwrap_or_default())
        }
    }
}
