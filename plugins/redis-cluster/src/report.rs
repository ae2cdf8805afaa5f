//! Tells what is so: the status, its conditions, one line for people, and an event when it changes.
//!
//! Everything is computed from what was decided and done in this pass; what was reported before is
//! used only for the time of a condition's last change, and for members that cannot be asked.

use serde_json::json;
use tholepin_redis_cluster_plan::{Decision, Plan, ShardPlan, Stage, WaitReason};
use tholepin_redis_types::{
    API_VERSION,
    redis_cluster::{
        Condition, ConditionStatus, KIND, MemberRole, MemberStatus, RedisClusterStatus, ShardStatus,
    },
};
use tholepin_sdk::{Error, EventType, Failure, Host, time};

use crate::{
    act::{Acted, HeldUp},
    observe::{Missing, Target},
};

/// How a pass went.
#[derive(Debug)]
pub(crate) enum Situation {
    /// Something is missing that only a person can give.
    Blocked(Missing),
    /// The members could not be looked at.
    Unseen(Error),
    /// A plan was made and performed.
    Planned {
        /// The plan.
        plan: Box<Plan>,
        /// What became of it.
        acted: Acted,
    },
}

/// What a condition says, without its time.
struct Verdict {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(holds: bool, reason: &str, message: impl Into<String>) -> Self {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        Self { status, reason: reason.into(), message: message.into() }
    }
}

/// Writes the status, and an event if the cluster became ready or stopped being so.
///
/// # Errors
///
/// Fails if the status cannot be written.
pub(crate) fn write(
    host: &dyn Host,
    target: &Target,
    situation: &Situation,
) -> Result<(), Failure> {
    if matches!(situation, Situation::Unseen(_)) && !target.status.conditions.is_empty() {
        // Not having looked says nothing about the cluster: what was reported stays.
        return Ok(());
    }
    let status = status(target, situation, host.now_ms()?);
    announce(host, target, &status);
    let document = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": target.name, "namespace": target.namespace},
        "status": status,
    });
    host.apply_status(&document)?;
    Ok(())
}

/// The whole status.
fn status(target: &Target, situation: &Situation, now_ms: u64) -> RedisClusterStatus {
    let verdicts = verdicts(situation);
    let conditions = ["Ready", "Progressing", "Degraded"].into_iter().zip(verdicts);
    let conditions = conditions.map(|(name, verdict)| condition(target, name, verdict, now_ms));
    let before = &target.status;
    let (ready_shards, slots_served, shards) = match situation {
        Situation::Planned { plan, .. } => (
            format!("{}/{}", plan.shards_done(), plan.shards.len()),
            plan.slots_served,
            plan.shards.iter().map(shard_status).collect(),
        ),
        Situation::Blocked(_) | Situation::Unseen(_) => {
            (before.ready_shards.clone(), before.slots_served, before.shards.clone())
        }
    };
    RedisClusterStatus {
        observed_generation: Some(target.generation),
        conditions: conditions.collect(),
        ready_shards,
        slots_served,
        shards,
    }
}

fn shard_status(shard: &ShardPlan) -> ShardStatus {
    let ShardPlan { name, slots, primary, members, decision } = shard;
    let in_sync = members.values().filter(|member| member.in_sync).count();
    let members = members.iter().map(|(pod, member)| MemberStatus {
        pod: pod.clone(),
        node: member.node.map(|node| node.to_string()),
        role: member.role,
        in_sync: (member.role == MemberRole::Replica).then_some(member.in_sync),
    });
    ShardStatus {
        name: name.clone(),
        slots: slots.to_string(),
        primary: primary.clone(),
        replicas_in_sync: u16::try_from(in_sync).unwrap_or(u16::MAX),
        waits_for: decision.reason().map(ToString::to_string),
        members: members.collect(),
    }
}

/// `Ready`, `Progressing` and `Degraded`: the one table of what they say.
fn verdicts(situation: &Situation) -> [Verdict; 3] {
    match situation {
        Situation::Blocked(missing) => [
            Verdict::new(false, missing.reason, &missing.message),
            Verdict::new(false, missing.reason, "waiting for a person"),
            Verdict::new(true, missing.reason, &missing.message),
        ],
        Situation::Unseen(error) => [
            Verdict::new(false, error.reason(), format!("the members were not looked at: {error}")),
            Verdict::new(true, error.reason(), "looking again soon"),
            no_fault(),
        ],
        Situation::Planned { plan, acted } => planned(plan, acted),
    }
}

fn planned(plan: &Plan, acted: &Acted) -> [Verdict; 3] {
    if plan.stage == Stage::Steady {
        let message = format!("{} slots are served", plan.slots_served);
        return [
            Verdict::new(true, "AsWanted", message),
            Verdict::new(false, "AsWanted", "nothing is under way"),
            no_fault(),
        ];
    }
    let stage = if plan.stage == Stage::Forming { "Forming" } else { "Healing" };
    // That another shard comes first says nothing where a guard says why that one cannot.
    let says_more =
        |reason: &&WaitReason| acted.held_up.is_empty() || **reason != WaitReason::OtherShardFirst;
    let fault = plan.reasons().filter(says_more).find(|reason| reason.is_fault());
    let degraded = match (fault, acted.held_up.first()) {
        (Some(reason), Some(HeldUp { message, .. })) => {
            Verdict::new(true, reason.as_str(), format!("{reason}; {message}"))
        }
        (Some(reason), _) => Verdict::new(true, reason.as_str(), reason.to_string()),
        (None, Some(held_up)) => Verdict::new(true, &held_up.reason, &held_up.message),
        (None, None) => no_fault(),
    };
    let (reason, message) = match (&degraded, plan.reasons().next()) {
        (Verdict { status: ConditionStatus::True, reason, message }, _) => {
            (reason.clone(), message.clone())
        }
        (_, Some(waits)) => (waits.as_str().to_owned(), waits.to_string()),
        (_, None) => (stage.to_owned(), next_steps(plan)),
    };
    let goes_on = acted.done != 0 || plan.reasons().any(|reason| !reason.is_fault());
    [
        Verdict::new(false, &reason, &message),
        Verdict::new(goes_on, if goes_on { stage } else { &reason }, message),
        degraded,
    ]
}

fn no_fault() -> Verdict {
    Verdict::new(false, "NoFault", "no fault is known")
}

/// The verbs under way, each once.
fn next_steps(plan: &Plan) -> String {
    let mut verbs: Vec<_> = plan.actions().iter().map(|action| action.verb.name()).collect();
    verbs.sort_unstable();
    verbs.dedup();
    format!("under way: {}", verbs.join(", "))
}

fn condition(target: &Target, name: &str, verdict: Verdict, now_ms: u64) -> Condition {
    let before = target.status.conditions.iter().find(|it| it.condition_type == name);
    let unchanged = before.filter(|before| before.status == verdict.status);
    let since = unchanged.and_then(|before| before.last_transition_time.clone());
    let Verdict { status, reason, message } = verdict;
    Condition {
        condition_type: name.to_owned(),
        status,
        reason,
        message,
        last_transition_time: Some(since.unwrap_or_else(|| time::rfc3339(now_ms))),
        observed_generation: Some(target.generation),
    }
}

fn ready(status: &RedisClusterStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.condition_type == "Ready")
}

/// Tells when the cluster becomes ready, and when it stops being so.
fn announce(host: &dyn Host, target: &Target, status: &RedisClusterStatus) {
    let Some(now) = ready(status) else { return };
    let before = ready(&target.status).map(|condition| condition.status);
    let told = match (before, now.status) {
        (Some(before), now) if before == now => return,
        (_, ConditionStatus::True) => host.publish(EventType::Normal, "Ready", &now.message),
        (Some(ConditionStatus::True), _) => {
            host.publish(EventType::Warning, &now.reason, &now.message)
        }
        // A new object is not ready, which is no news.
        (_, ConditionStatus::False | ConditionStatus::Unknown) => return,
    };
    if let Err(error) = told {
        // The condition says the same; an event that is lost changes nothing.
        host.warn(&format!("the event was not published: {error}"));
    }
}

/// One line for people.
pub(crate) fn summary(situation: &Situation, requeue_ms: u64) -> String {
    let (plan, acted) = match situation {
        Situation::Blocked(missing) => return missing.message.clone(),
        Situation::Unseen(error) => return format!("not looked at: {error}"),
        Situation::Planned { plan, acted } => (plan, acted),
    };
    let (done, all) = (plan.shards_done(), plan.shards.len());
    let state = match plan.stage {
        Stage::Forming => "forming",
        Stage::Healing => "healing",
        Stage::Steady => "ready",
    };
    let waits = plan.reasons().next().map(WaitReason::to_string);
    let held_up = acted.held_up.first().map(|held_up| held_up.message.clone());
    let planned = (plan.common != Decision::Done || acted.done != 0)
        .then(|| format!("{} of {} actions done", acted.done, plan.actions().len()));
    let details: Vec<String> = [planned, held_up, waits].into_iter().flatten().collect();
    let details =
        if details.is_empty() { String::new() } else { format!(" ({})", details.join("; ")) };
    format!("{state}: {done}/{all} shards as wanted{details}; next look in {requeue_ms} ms")
}
