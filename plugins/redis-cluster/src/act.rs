//! Performs a plan: sends the whole list of actions to the host and collects the results.

use tholepin_redis_cluster_plan::{ClusterStage, Plan, last_output};
use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{
    action::{Action, ActionOutcome, ActionResult, Verb},
    guard_id::GuardId,
    snapshot::{Member, Snapshot},
};
use tholepin_sdk::{DeleteOptions, Error, EventType, Host, ObjectRef, Retry, topology};

use crate::{apply::RedisClusterProblem, observe::ParsedRedisCluster};

/// The results of a plan's actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActionResults {
    /// The number of actions whose goal is reached.
    pub done: usize,
    /// Why other actions failed, in the words of a guard or of the server, in the order of the plan.
    pub blocked: Vec<ActionNotDoneReason>,
    /// Why other actions are delayed by something that passes by itself.
    pub waits: Vec<ActionNotDoneReason>,
}

/// An action that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActionNotDoneReason {
    /// The reason, as for a condition.
    pub reason: String,
    /// The message for people.
    pub message: String,
}

impl ActionResults {
    /// Returns true if actions were planned and none was done.
    pub(crate) fn is_blocked(&self) -> bool {
        self.done == 0 && !(self.blocked.is_empty() && self.waits.is_empty())
    }
}

/// Performs a plan.
///
/// # Errors
///
/// Fails if the host accepts no list of actions from this plugin at all, or if the object was paused. The
/// results of single actions are not errors.
pub(crate) fn act(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    plan: &Plan,
) -> Result<ActionResults, Error> {
    perform(host, target, &plan.actions())
}

/// Performs a list of actions, like [`act`].
pub(crate) fn perform(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    actions: &[Action],
) -> Result<ActionResults, Error> {
    if actions.is_empty() {
        return Ok(ActionResults::default());
    }
    let results = match topology::act(host, &target.instance, actions) {
        Ok(results) => results,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // The next reconcile observes again and decides.
        Err(error) if error.retry() != Retry::Never => {
            let blocked =
                ActionNotDoneReason { reason: error.reason().into(), message: error.to_string() };
            return Ok(ActionResults { blocked: vec![blocked], ..ActionResults::default() });
        }
        Err(error) => return Err(error),
    };
    let mut acted = ActionResults::default();
    for (action, result) in actions.iter().zip(results) {
        match judge(action, result) {
            Ok(note) => {
                acted.done += 1;
                announce(host, action, &note);
            }
            Err(ActionNotDone::Blocked(blocked)) => acted.blocked.push(blocked),
            Err(ActionNotDone::Waits(waits)) => acted.waits.push(waits),
            Err(ActionNotDone::Skipped) => {}
        }
    }
    Ok(acted)
}

/// Why an action was not done.
enum ActionNotDone {
    /// A guard or an error prevents it.
    Blocked(ActionNotDoneReason),
    /// It will be done when something has passed by itself.
    Waits(ActionNotDoneReason),
    /// An action that it depends on was not done, and that action's result says why.
    Skipped,
}

/// Returns the note of a done action, or why it was not done.
fn judge(action: &Action, result: Result<ActionResult, Error>) -> Result<String, ActionNotDone> {
    let what = describe(&action.verb);
    let blocked_action = |reason: &str, message: String| ActionNotDoneReason {
        reason: reason.into(),
        message: format!("{what}: {message}"),
    };
    let blocked = |reason: &str, message: String| {
        Err(ActionNotDone::Blocked(blocked_action(reason, message)))
    };
    match result.map(|result| result.outcome) {
        Ok(ActionOutcome::Done { note, .. }) => Ok(note),
        // The only copy of some slots no longer exists, or would be lost.
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::DataLoss.as_str() => {
            blocked("SlotsLost", message)
        }
        Ok(ActionOutcome::Refused { guard, message })
            if guard == GuardId::NotInSyncReason.as_str() =>
        {
            blocked("NoReplicaInSync", message)
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::Copies.as_str() => {
            blocked("CopyMissing", message)
        }
        Ok(ActionOutcome::Refused { guard, message })
            if guard == GuardId::RepairBudget.as_str() =>
        {
            blocked("RepairBudget", message)
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::BackOff.as_str() => {
            Err(ActionNotDone::Waits(blocked_action("BackOff", message)))
        }
        Ok(ActionOutcome::Refused { guard, message }) if guard == GuardId::FullSync.as_str() => {
            Err(ActionNotDone::Waits(blocked_action("FullSyncUnderWay", message)))
        }
        Ok(ActionOutcome::Refused { guard, message }) => {
            blocked("Refused", format!("{message} (guard `{guard}`)"))
        }
        Ok(ActionOutcome::Failed { reason, message, .. }) => blocked(&reason, message),
        Ok(ActionOutcome::Skipped { .. }) => Err(ActionNotDone::Skipped),
        Ok(_) => {
            blocked("Other", "the host returned an outcome that this plugin does not know".into())
        }
        Err(error) => blocked(error.reason(), error.to_string()),
    }
}

/// Publishes events about actions that people will ask about later. The conditions report the forming of a
/// cluster.
fn announce(host: &dyn Host, action: &Action, note: &str) {
    let (kind, reason, message) = if let Verb::Failover { pod, mode, .. } = &action.verb {
        let message = format!("`{pod}` took over ({}): {note}", mode.name());
        (EventType::Normal, "FailedOver", message)
    } else if let Verb::AllowStart { node, .. } = &action.verb {
        let message = format!("{note}: data that only {} had is lost", node.short());
        (EventType::Warning, "StartedEmpty", message)
    } else {
        return;
    };
    host.info(&message);
    // A lost event has no consequences.
    if let Err(error) = host.publish(kind, reason, &message) {
        host.warn(&format!("the event was not published: {error}"));
    }
}

/// The seconds that the container of a fenced Pod has to end. One, because a Pod that is deleted with a grace
/// period of zero is removed before its process has ended.
const FENCE_GRACE_S: u32 = 1;

/// Deletes the Pods whose processes hang and must end before replicas take over. Returns the uids of the Pods
/// that could not be deleted.
pub(crate) fn fence(host: &dyn Host, target: &ParsedRedisCluster, plan: &Plan) -> Vec<String> {
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
                    "`{pod}` did not answer in time and the majority marked it as failed: its Pod is deleted, \
                     so that it accepts no more writes when a replica takes over"
                );
                host.warn(&text);
                if let Err(error) = host.publish(EventType::Warning, "Fenced", &text) {
                    host.warn(&format!("the event was not published: {error}"));
                }
            }
            // The Pod has changed since the observation: the next reconcile observes again.
            Err(Error::Conflict(_)) => {}
            Err(error) => {
                host.warn(&format!(
                    "`{pod}` hangs and could not be deleted, so the cluster will elect a replica: {error}"
                ));
                failed.push(uid.clone());
            }
        }
    }
    failed
}

/// Returns a fault that lists members that set files aside before they last ended. While the cluster is not
/// in the desired state, missing data may be in these files.
pub(crate) fn set_aside(plan: &Plan, seen: &Snapshot) -> Option<RedisClusterProblem> {
    let reports = |member: &Member| {
        let output = last_output(member).filter(|output| output.contains(SET_ASIDE))?;
        Some(format!("`{}` reported: {output}", member.pod))
    };
    let reports: Vec<String> =
        seen.members.iter().filter_map(reports).take(SET_ASIDE_REPORTED_MAX).collect();
    let is_reported = plan.stage != ClusterStage::Steady && !reports.is_empty();
    is_reported.then(|| RedisClusterProblem {
        reason: "SetAside".into(),
        message: reports.join("; "),
        retry: false,
        ends_all: false,
    })
}

/// Publishes an event for each member that answers again after a copy of its damaged files was set aside;
/// once, when it is first seen to answer.
pub(crate) fn announce_set_aside(
    host: &dyn Host,
    target: &ParsedRedisCluster,
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
        let output = seen.member(pod).and_then(last_output);
        let Some(output) = output.filter(|output| output.contains(SET_ASIDE)) else { continue };
        if let Err(error) =
            host.publish(EventType::Warning, "SetAside", &format!("`{pod}`: {output}"))
        {
            host.warn(&format!("the event was not published: {error}"));
        }
    }
}

/// The text of `start.sh` after it has set damaged files aside.
const SET_ASIDE: &str = "is set aside in";
/// The most members that the fault lists.
const SET_ASIDE_REPORTED_MAX: usize = 2;

/// Returns a short description of an action.
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
