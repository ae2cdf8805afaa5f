//! Reports the result: the status with its conditions, one line for people, and events about changes.
//!
//! Everything is computed from the decisions and results of this reconcile, except for what comes from the last
//! status: the times of conditions that have not changed, conditions that this reconcile cannot determine,
//! `formed` (once true, always true), and the shards while the members cannot be observed. An event is published
//! if a condition differs from the last status.

use std::collections::BTreeMap;

use serde_json::json;
use tholepin_redis_cluster_plan::{
    ClusterPlanWaitReason, ClusterStage, HEALTHY_REQUEUE_MS, Plan, RedisPlanDecision, ShardPlan,
};
use tholepin_redis_types::{
    API_VERSION,
    redis_cluster::{
        Condition, ConditionStatus, KIND, MemberStatus, RedisClusterStatus, ShardStatus,
    },
};
use tholepin_sdk::{Error, EventType, Host, ReconcileFailure, Retry, time};

use crate::{
    RedisClusterMemo, SilentPodMemo, act::ActionResults, apply::RedisClusterProblem, configuration,
    observe::ParsedRedisCluster,
};

/// The time in milliseconds for which the last status stays if the members cannot be observed for a temporary
/// reason. It is the interval at which a healthy cluster is observed anyway.
const NOT_OBSERVED_PATIENCE_MS: u64 = HEALTHY_REQUEUE_MS;

/// The findings of a reconcile.
#[derive(Debug)]
pub(crate) struct ReconcileFindings {
    /// The observation of the members.
    pub seen: MembersReconcileOutcome,
    /// Further problems, the most important one first.
    pub faults: Vec<RedisClusterProblem>,
    /// The Pods that do not answer in time, by uid.
    pub silent: BTreeMap<String, SilentPodMemo>,
}

/// The observation of the members.
#[derive(Debug)]
pub(crate) enum MembersReconcileOutcome {
    /// The object was paused before everything was observed and done.
    Interrupted,
    /// The members could not be observed.
    NotObserved(Error),
    /// A plan was made and performed.
    Planned {
        /// The plan.
        plan: Box<Plan>,
        /// The results of its actions.
        acted: ActionResults,
        /// The results of the settings.
        set: ActionResults,
    },
}

/// The value of a condition, without its time.
pub(crate) struct ConditionValue {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl ConditionValue {
    pub(crate) fn new(holds: bool, reason: &str, message: impl Into<String>) -> Self {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        Self { status, reason: reason.into(), message: message.into() }
    }

    fn unknown(reason: &str, message: impl Into<String>) -> Self {
        let status = ConditionStatus::Unknown;
        Self { status, reason: reason.into(), message: message.into() }
    }
}

/// Writes the status, and an event if the cluster became ready or stopped being ready.
///
/// # Errors
///
/// Fails if the status cannot be written.
pub(crate) fn write(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    findings: &ReconcileFindings,
    memo: &RedisClusterMemo,
    now_ms: u64,
) -> Result<(), ReconcileFailure> {
    let for_ms = |since_ms: Option<u64>| now_ms.saturating_sub(since_ms.unwrap_or(now_ms));
    if keeps_last_status(target, &findings.seen, for_ms(memo.unseen_since_ms)) {
        return Ok(());
    }
    let status = status(target, findings, for_ms(memo.unsteady_since_ms), now_ms);
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

/// Returns true if the last status stays: this reconcile has observed nothing, and the next one follows soon.
fn keeps_last_status(
    target: &ParsedRedisCluster,
    seen: &MembersReconcileOutcome,
    not_observed_for_ms: u64,
) -> bool {
    match seen {
        MembersReconcileOutcome::Interrupted => true,
        MembersReconcileOutcome::NotObserved(error) if error.retry() != Retry::Never => {
            not_observed_for_ms < NOT_OBSERVED_PATIENCE_MS && !target.status.conditions.is_empty()
        }
        MembersReconcileOutcome::NotObserved(_) | MembersReconcileOutcome::Planned { .. } => false,
    }
}

/// Returns the whole status.
fn status(
    target: &ParsedRedisCluster,
    findings: &ReconcileFindings,
    unsteady_ms: u64,
    now_ms: u64,
) -> RedisClusterStatus {
    let condition_values = condition_values(findings, unsteady_ms);
    let conditions = ["Ready", "Progressing", "Degraded"].into_iter().zip(condition_values);
    let conditions = conditions.map(|(name, value)| condition(target, name, value, now_ms));
    let conditions = conditions.chain(configuration::conditions(target, findings, now_ms));
    let before = &target.status;
    let (ready_shards, slots_served, shards) = match &findings.seen {
        MembersReconcileOutcome::Planned { plan, .. } => (
            format!("{}/{}", plan.shards_done(), plan.shards.len()),
            plan.slots_served,
            plan.shards.iter().map(|shard| shard_status(shard, &target.namespace)).collect(),
        ),
        MembersReconcileOutcome::Interrupted | MembersReconcileOutcome::NotObserved(_) => {
            (before.ready_shards.clone(), before.slots_served, before.shards.clone())
        }
    };
    let is_steady = matches!(&findings.seen, MembersReconcileOutcome::Planned { plan, .. } if plan.stage == ClusterStage::Steady);
    RedisClusterStatus {
        observed_generation: Some(target.generation),
        conditions: conditions.collect(),
        ready_shards,
        slots_served,
        formed: before.formed || is_steady,
        shards,
    }
}

fn shard_status(shard: &ShardPlan, namespace: &str) -> ShardStatus {
    let ShardPlan { name, slots, primary, members, decision } = shard;
    let in_sync = members.values().filter(|member| member.is_replica_in_sync()).count();
    let members = members.iter().map(|(pod, member)| MemberStatus {
        pod: pod.clone(),
        node: member.node.map(|node| node.to_string()),
        role: member.role,
        in_sync: member.reports_sync().then_some(member.in_sync),
    });
    ShardStatus {
        name: name.clone(),
        slots: slots.to_string(),
        primary: primary.clone(),
        replicas_in_sync: u16::try_from(in_sync).unwrap_or(u16::MAX),
        waits_for: decision.reason().map(|reason| complete(&reason.to_string(), namespace)),
        members: members.collect(),
    }
}

/// Returns `Ready`, `Progressing` and `Degraded`. No other part of this plugin determines them; while the plugin
/// is missing, the host writes `Ready=Unknown`.
fn condition_values(findings: &ReconcileFindings, unsteady_ms: u64) -> [ConditionValue; 3] {
    let ReconcileFindings { seen, faults, .. } = findings;
    match seen {
        MembersReconcileOutcome::NotObserved(error) => not_observed(error, faults),
        // Unused: a reconcile whose object was paused writes no status.
        MembersReconcileOutcome::Interrupted => not_observed(&Error::Interrupted, faults),
        MembersReconcileOutcome::Planned { plan, acted, .. } => {
            planned(plan, acted, faults, unsteady_ms)
        }
    }
}

fn not_observed(error: &Error, faults: &[RedisClusterProblem]) -> [ConditionValue; 3] {
    let message = format!("the members could not be observed: {error}");
    let continues = error.retry() != Retry::Never;
    let degraded = match faults.first() {
        _ if !continues => ConditionValue::new(true, error.reason(), message.clone()),
        Some(fault) => ConditionValue::new(true, &fault.reason, &fault.message),
        None => no_fault(),
    };
    let next = if continues { "trying again soon" } else { "waiting for a person" };
    [
        ConditionValue::unknown(error.reason(), message),
        ConditionValue::new(continues, error.reason(), next),
        degraded,
    ]
}

fn planned(
    plan: &Plan,
    acted: &ActionResults,
    faults: &[RedisClusterProblem],
    unsteady_ms: u64,
) -> [ConditionValue; 3] {
    let degraded = degraded(plan, acted, faults).unwrap_or_else(|| too_long(plan, unsteady_ms));
    if plan.stage == ClusterStage::Steady {
        let message = format!("{} slots are served", plan.slots_served);
        return [
            // The members are in the desired state and serve, even if an object could not be applied.
            ConditionValue::new(true, "AsWanted", message),
            ConditionValue::new(false, "AsWanted", "nothing is in progress"),
            degraded,
        ];
    }
    let stage = if plan.stage == ClusterStage::Forming { "Forming" } else { "Healing" };
    let (reason, message) = match (&degraded, plan.reasons().next(), acted.waits.first()) {
        (ConditionValue { status: ConditionStatus::True, reason, message }, ..) => {
            (reason.clone(), message.clone())
        }
        (_, Some(waits), _) => (waits.as_str().to_owned(), waits.to_string()),
        (_, None, Some(waits)) => (waits.reason.clone(), waits.message.clone()),
        (_, None, None) => (stage.to_owned(), next_steps(plan)),
    };
    let continues = acted.done != 0
        || !acted.waits.is_empty()
        || plan.reasons().any(|reason| !reason.is_fault());
    [
        ConditionValue::new(false, &reason, &message),
        ConditionValue::new(continues, if continues { stage } else { &reason }, message),
        degraded,
    ]
}

/// Returns the faults: those of the members first, then the others. The condition's message lists the first
/// of each, and its reason is that of the first.
fn degraded(
    plan: &Plan,
    acted: &ActionResults,
    faults: &[RedisClusterProblem],
) -> Option<ConditionValue> {
    let blocked = acted.blocked.first().filter(|_| plan.stage != ClusterStage::Steady);
    // `OtherShardFirst` is left out if a guard's refusal says why that shard cannot fail over.
    let is_informative = |reason: &&ClusterPlanWaitReason| {
        blocked.is_none() || **reason != ClusterPlanWaitReason::OtherShardFirst
    };
    let waits = plan.reasons().filter(is_informative).find(|reason| reason.is_fault());
    let members = match (waits, blocked) {
        (Some(reason), Some(blocked)) => {
            Some((reason.as_str(), format!("{reason}; {}", blocked.message)))
        }
        (Some(reason), None) => Some((reason.as_str(), reason.to_string())),
        (None, blocked) => {
            blocked.map(|blocked| (blocked.reason.as_str(), blocked.message.clone()))
        }
    };
    let others = faults.first().map(|fault| (fault.reason.as_str(), fault.message.clone()));
    match (members, others) {
        (None, None) => None,
        (Some((reason, message)), None) | (None, Some((reason, message))) => {
            Some(ConditionValue::new(true, reason, message))
        }
        (Some((reason, first)), Some((_, second))) => {
            Some(ConditionValue::new(true, reason, format!("{first}; {second}")))
        }
    }
}

/// Returns a fault if something has been unfinished for too long.
fn too_long(plan: &Plan, unsteady_ms: u64) -> ConditionValue {
    let late = plan.reasons().find(|reason| reason.patience_s() * 1000 <= unsteady_ms);
    match late {
        Some(late) if plan.stage != ClusterStage::Steady => {
            let message = format!("for more than {} s: {late}", late.patience_s());
            ConditionValue::new(true, late.as_str(), message)
        }
        _ => no_fault(),
    }
}

fn no_fault() -> ConditionValue {
    ConditionValue::new(false, "NoFault", "no fault is known")
}

/// Returns the verbs in progress, each once.
fn next_steps(plan: &Plan) -> String {
    let mut verbs: Vec<_> = plan.actions().iter().map(|action| action.verb.name()).collect();
    verbs.sort_unstable();
    verbs.dedup();
    if verbs.is_empty() {
        return format!("{} slots are served", plan.slots_served);
    }
    format!("in progress: {}", verbs.join(", "))
}

/// Adds the namespace to the commands in a message; the planner does not know it.
fn complete(message: &str, namespace: &str) -> String {
    // Split in two, because `engine_host/advice.rs` takes a whole one in a source for a command to run.
    const KUBECTL: &str = concat!('`', "kubectl ");
    let mut parts = message.split(KUBECTL);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let command = part.split('`').next().unwrap_or_default();
        let given = command.contains("namespace") || command.starts_with("explain");
        let namespace = if given { String::new() } else { format!("--namespace {namespace} ") };
        text.extend([KUBECTL, &namespace, part]);
    }
    text
}

pub(crate) fn condition(
    target: &ParsedRedisCluster,
    name: &str,
    value: ConditionValue,
    now_ms: u64,
) -> Condition {
    let before = target.status.conditions.iter().find(|condition| condition.condition_type == name);
    let unchanged = before.filter(|before| before.status == value.status);
    let since = unchanged.and_then(|before| before.last_transition_time.clone());
    let ConditionValue { status, reason, message } = value;
    Condition {
        condition_type: name.to_owned(),
        status,
        reason,
        message: complete(&message, &target.namespace),
        last_transition_time: Some(since.unwrap_or_else(|| time::rfc3339(now_ms))),
        observed_generation: Some(target.generation),
    }
}

fn ready(status: &RedisClusterStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.condition_type == "Ready")
}

/// Publishes an event when the cluster becomes ready or degraded, and when it stops being ready.
fn announce(host: &dyn Host, target: &ParsedRedisCluster, status: &RedisClusterStatus) {
    announce_degraded(host, target, status);
    let Some(now) = ready(status) else { return };
    let before = ready(&target.status).map(|condition| condition.status);
    let published = match (before, now.status) {
        (Some(before), now) if before == now => return,
        (_, ConditionStatus::True) => host.publish(EventType::Normal, "Ready", &now.message),
        (Some(ConditionStatus::True), _) => {
            host.publish(EventType::Warning, &now.reason, &now.message)
        }
        // A new object is not ready, which needs no event.
        (_, ConditionStatus::False | ConditionStatus::Unknown) => return,
    };
    if let Err(error) = published {
        // The condition says the same; a lost event has no consequences.
        host.warn(&format!("the event was not published: {error}"));
    }
}

/// Publishes an event for a new fault, and when another fault replaces it.
fn announce_degraded(host: &dyn Host, target: &ParsedRedisCluster, status: &RedisClusterStatus) {
    let degraded = |status: &RedisClusterStatus| {
        let found =
            status.conditions.iter().find(|condition| condition.condition_type == "Degraded")?;
        (found.status == ConditionStatus::True)
            .then(|| (found.reason.clone(), found.message.clone()))
    };
    let before = degraded(&target.status).map(|(reason, _)| reason);
    let Some((reason, message)) = degraded(status) else { return };
    if before.as_ref() == Some(&reason) {
        return;
    }
    if let Err(error) = host.publish(EventType::Warning, &reason, &message) {
        host.warn(&format!("the event was not published: {error}"));
    }
}

/// Returns one line for people.
pub(crate) fn summary(findings: &ReconcileFindings, requeue_ms: u64) -> String {
    let fault = findings.faults.first().map(|fault| fault.message.clone());
    let (plan, acted) = match &findings.seen {
        MembersReconcileOutcome::Interrupted => return "ended: the object was paused".to_owned(),
        MembersReconcileOutcome::NotObserved(error) => {
            let texts = [Some(format!("not observed: {error}")), fault];
            return texts.into_iter().flatten().collect::<Vec<_>>().join("; ");
        }
        MembersReconcileOutcome::Planned { plan, acted, .. } => (plan, acted),
    };
    let (done, all) = (plan.shards_done(), plan.shards.len());
    let state = match plan.stage {
        ClusterStage::Forming => "forming",
        ClusterStage::Healing => "healing",
        ClusterStage::Steady => "ready",
    };
    let waits = plan.reasons().next().map(ClusterPlanWaitReason::to_string);
    let blocked =
        acted.blocked.iter().chain(&acted.waits).next().map(|blocked| blocked.message.clone());
    let planned = (plan.common != RedisPlanDecision::Done || acted.done != 0)
        .then(|| format!("{} of {} actions done", acted.done, plan.actions().len()));
    let details: Vec<String> = [planned, blocked, waits, fault].into_iter().flatten().collect();
    let details =
        if details.is_empty() { String::new() } else { format!(" ({})", details.join("; ")) };
    format!("{state}: {done}/{all} shards ready{details}; next reconcile in {requeue_ms} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_without_a_namespace_get_one() {
        let rows = [
            (
                "see `kubectl logs a` and `kubectl describe pod a`",
                "see `kubectl --namespace n logs a` and `kubectl --namespace n describe pod a`",
            ),
            (
                "`kubectl --namespace n create secret x | kubectl apply -f -`",
                "`kubectl --namespace n create secret x | kubectl apply -f -`",
            ),
            ("`kubectl get pods --all-namespaces`", "`kubectl get pods --all-namespaces`"),
            ("nothing to type", "nothing to type"),
        ];
        for (message, expected) in rows {
            assert_eq!(complete(message, "n"), expected);
        }
    }
}
