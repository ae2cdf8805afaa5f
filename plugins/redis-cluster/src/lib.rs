//! The plugin that creates a Redis Cluster and keeps it available.
//!
//! ```text
//! observe the members ─► apply the ConfigMap of runtime settings
//!   ─► plan (crate `plan`, pure) ─► check the plan
//!   ─► act ─► set runtime settings ─► fence hanging primaries ─► replace stuck Pods ─► forget old revisions
//!   ─► apply the workload ─► report
//! ```
//!
//! This crate reads and writes through the host. The decisions, and the constants of the policy, are in the
//! crate `redis-cluster/plan`.
//!
//! Invariants:
//! - Three things are kept between reconciles: the object's status; the memo; and the ConfigMap of runtime
//!   settings, which is read back together with its annotation. The memo records since when the members could
//!   not be observed, since when the cluster is not in the desired state, and which Pods did not answer in time.
//! - An object that cannot be applied stops neither repairs nor the rest of the workload.
//! - A plan with a violation ([`Plan::check`]) is not performed.
//! - The status changes only when something changed: it contains no times of observations and no offsets.

mod act;
mod apply;
mod configuration;
mod manifest;
mod observe;
mod report;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tholepin_redis_cluster_plan::{
    BUSY_REQUEUE_MS, ClusterStage, ObservedRedisCluster, Plan, PodSilence, WAITING_REQUEUE_MS, plan,
};
use tholepin_redis_types::{redis_cluster::RedisClusterSpec, validation};
use tholepin_schema::snapshot::{Member, MemberAnswer, NodeFlag, Snapshot, UnreachableReason};
use tholepin_sdk::{
    Error, Host, Manifest, ReconcileFailure, ReconcileOutcome, ReconcileRequest, Reconciler,
    Violation, WakeTrigger,
};

use apply::RedisClusterProblem;
use observe::ParsedRedisCluster;
use report::{MembersReconcileOutcome, ReconcileFindings};

/// The plugin `redis-cluster`.
#[derive(Debug)]
pub struct RedisClusterPlugin;

tholepin_sdk::export!(RedisClusterPlugin);

impl Reconciler for RedisClusterPlugin {
    fn describe() -> Manifest {
        manifest::manifest()
    }

    fn validate(_old: Option<Value>, new: Value) -> Vec<Violation> {
        let spec = new.get("spec").cloned().unwrap_or_else(|| json!({}));
        match serde_json::from_value::<RedisClusterSpec>(spec) {
            Ok(spec) => validation::faults(&spec)
                .into_iter()
                .map(|fault| Violation { field: fault.field, message: fault.message })
                .collect(),
            // The definition refuses such a spec; this is for an object that is older than the definition.
            Err(error) => vec![Violation { field: ".spec".into(), message: error.to_string() }],
        }
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        if request.deleting {
            // All objects created here are owned by the object and are deleted with it. The StatefulSets say
            // whether their volumes are deleted too.
            let summary = "deleted; Kubernetes deletes the objects that it owns".to_owned();
            return Ok(ReconcileOutcome { summary, finished: true, ..ReconcileOutcome::default() });
        }
        let target = ParsedRedisCluster::read(&request.object)?;
        let now_ms = host.now_ms()?;
        let before = RedisClusterMemo::read(request.memo);
        let findings = observe_and_act(host, &target, &before, now_ms);
        let memo = before.after(&findings, now_ms);
        report::write(host, &target, &findings, &memo, now_ms)?;
        Ok(outcome(&target, &findings, &memo))
    }
}

/// Does everything but the report. The members come first, so that a problem with the workload does not delay
/// the replacement of a dead primary.
fn observe_and_act(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    before: &RedisClusterMemo,
    now_ms: u64,
) -> ReconcileFindings {
    let mut faults = Vec::new();
    let mut silent = before.silent.clone();
    let MembersObservation { seen, may_start } =
        observe_members(host, target, (before, now_ms), &mut silent, &mut faults);
    if matches!(seen, MembersReconcileOutcome::Interrupted)
        || faults.iter().any(|fault| fault.ends_all)
    {
        return ReconcileFindings { seen, faults, silent };
    }
    match apply::apply(host, target, may_start) {
        Ok(refused) => faults.extend(refused),
        Err(apply::PausedDuringReconcile) => {
            return ReconcileFindings {
                seen: MembersReconcileOutcome::Interrupted,
                faults,
                silent,
            };
        }
    }
    ReconcileFindings { seen, faults, silent }
}

/// The observation of the members, and whether Pods may be started.
struct MembersObservation {
    seen: MembersReconcileOutcome,
    may_start: bool,
}

/// Observes the members and performs the plan for them.
fn observe_members(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    (before, now_ms): (&RedisClusterMemo, u64),
    silent: &mut BTreeMap<String, SilentPodMemo>,
    faults: &mut Vec<RedisClusterProblem>,
) -> MembersObservation {
    let mut observed = match observe::observe(host, target, before.asks_for_obstacles(now_ms)) {
        Ok(observed) => observed,
        Err(Error::Interrupted) => {
            return MembersObservation {
                seen: MembersReconcileOutcome::Interrupted,
                may_start: true,
            };
        }
        Err(error) => {
            let ended = apply_runtime_settings(host, target, None, faults);
            return MembersObservation {
                seen: ended.unwrap_or(MembersReconcileOutcome::NotObserved(error)),
                may_start: true,
            };
        }
    };
    if let Some(ended) = apply_runtime_settings(host, target, Some(&observed.snapshot), faults) {
        return MembersObservation { seen: ended, may_start: true };
    }
    *silent = silent_pods(&observed.snapshot, silent, now_ms);
    observed.silent = silent.iter().map(|(uid, memo)| (uid.clone(), memo.as_of(now_ms))).collect();
    let credentials = observed.snapshot.credentials;
    faults.extend(observe::credentials_fault(target, credentials));
    let may_start = !credentials.pending;
    let plan = Box::new(plan(&target.name, &target.spec, &observed));
    act::announce_set_aside(host, target, &plan, &observed.snapshot);
    faults.extend(act::set_aside(&plan, &observed.snapshot));
    let seen = if let Some(violation) = check(&plan, &observed) {
        faults.push(violation);
        MembersReconcileOutcome::Planned {
            plan,
            acted: act::ActionResults::default(),
            set: act::ActionResults::default(),
        }
    } else {
        perform(host, target, plan, silent, faults)
    };
    MembersObservation { seen, may_start }
}

/// Applies the ConfigMap of runtime settings, without which no Pod starts. If it cannot be applied, its old
/// content stays. Returns `Some` if the object was paused, so that the reconcile must end.
fn apply_runtime_settings(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    snapshot: Option<&Snapshot>,
    faults: &mut Vec<RedisClusterProblem>,
) -> Option<MembersReconcileOutcome> {
    let observed_snapshot = snapshot.filter(|snapshot| !snapshot.members.is_empty());
    match configuration::apply(host, target, observed_snapshot) {
        Ok(()) => None,
        Err(Error::Interrupted) => Some(MembersReconcileOutcome::Interrupted),
        Err(error) => {
            faults.push(RedisClusterProblem::of(
                "the ConfigMap of runtime settings was not applied",
                &error,
            ));
            None
        }
    }
}

fn perform(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    plan: Box<Plan>,
    silent: &mut BTreeMap<String, SilentPodMemo>,
    faults: &mut Vec<RedisClusterProblem>,
) -> MembersReconcileOutcome {
    let done = act::act(host, target, &plan)
        .and_then(|acted| Ok((acted, configuration::set(host, target, &plan)?)));
    match done {
        Ok((acted, set)) => {
            for uid in act::fence(host, target, &plan) {
                silent.entry(uid).or_default().is_unfenced = true;
            }
            configuration::replace_stuck(host, target, &plan);
            configuration::forget(host, target, &plan);
            MembersReconcileOutcome::Planned { plan, acted, set }
        }
        // The object was paused: the host refuses all further writes of this reconcile.
        Err(Error::Interrupted) => MembersReconcileOutcome::Interrupted,
        Err(error) => {
            faults.push(RedisClusterProblem::of("the plan was not performed", &error));
            MembersReconcileOutcome::Planned {
                plan,
                acted: act::ActionResults::default(),
                set: act::ActionResults::default(),
            }
        }
    }
}

/// Refuses a plan with a violation, which is a bug of this plugin.
fn check(plan: &Plan, observed: &ObservedRedisCluster) -> Option<RedisClusterProblem> {
    let violations = plan.check(observed);
    let first = violations.first()?;
    let message = format!("the plan was not performed, please report this: {first}");
    Some(RedisClusterProblem { reason: "BadPlan".into(), message, retry: true, ends_all: false })
}

/// The time in milliseconds for which something must be missing before Kubernetes is asked why.
const MISSING_PATIENCE_MS: u64 = 3_000;

/// The state kept from one reconcile to the next, as long as the host runs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RedisClusterMemo {
    /// Since when the members could not be observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unseen_since_ms: Option<u64>,
    /// Since when the cluster is not in the desired state.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsteady_since_ms: Option<u64>,
    /// The Pods that did not answer in time in the last observation or shortly before, by uid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    silent: BTreeMap<String, SilentPodMemo>,
}

/// The time in milliseconds for which a Pod that answers again is remembered as one that did not.
const ANSWERS_AGAIN_MS: u64 = 3_000;

/// A Pod that does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SilentPodMemo {
    /// When it first did not answer, in milliseconds since 1970.
    since_ms: u64,
    /// When it last did not answer, in milliseconds since 1970.
    last_ms: u64,
    /// Whether its deletion was tried and failed.
    #[serde(default)]
    is_unfenced: bool,
}

impl SilentPodMemo {
    const fn as_of(self, now_ms: u64) -> PodSilence {
        let Self { since_ms, is_unfenced, .. } = self;
        PodSilence { for_ms: now_ms.saturating_sub(since_ms), is_unfenced }
    }
}

/// Returns the Pods that do not answer in time, with their earlier records. A Pod that answers again is kept
/// while other members consider it failed, and for [`ANSWERS_AGAIN_MS`] in which they may begin to.
fn silent_pods(
    snapshot: &Snapshot,
    before: &BTreeMap<String, SilentPodMemo>,
    now_ms: u64,
) -> BTreeMap<String, SilentPodMemo> {
    let is_silent = |member: &Member| {
        matches!(
            member.answer,
            MemberAnswer::Unreachable { reason: UnreachableReason::Timeout, .. }
        )
    };
    let is_failed = |member: &Member| {
        let Some(node) = member.node() else { return false };
        let mut rows =
            snapshot.members.iter().filter_map(|other| snapshot.row_seen_by(other, node));
        rows.any(|row| row.flags.contains(&NodeFlag::Fail))
    };
    let new = SilentPodMemo { since_ms: now_ms, ..SilentPodMemo::default() };
    let silent = snapshot.members.iter().filter_map(|member| {
        let uid = member.pod_uid.clone();
        let known = before.get(&uid).copied();
        if is_silent(member) {
            return Some((uid, SilentPodMemo { last_ms: now_ms, ..known.unwrap_or(new) }));
        }
        let is_recent = |known: &SilentPodMemo| now_ms < known.last_ms + ANSWERS_AGAIN_MS;
        let known = known.filter(|known| is_failed(member) || is_recent(known))?;
        Some((uid, known))
    });
    silent.collect()
}

impl RedisClusterMemo {
    /// Parses the memo; one of another version counts as empty.
    fn read(memo: Option<Value>) -> Self {
        memo.and_then(|memo| serde_json::from_value(memo).ok()).unwrap_or_default()
    }

    fn asks_for_obstacles(&self, now_ms: u64) -> bool {
        self.unsteady_since_ms.is_some_and(|since| since + MISSING_PATIENCE_MS <= now_ms)
    }

    fn after(self, findings: &ReconcileFindings, now_ms: u64) -> Self {
        let silent = findings.silent.clone();
        match &findings.seen {
            MembersReconcileOutcome::Interrupted => Self { silent, ..self },
            MembersReconcileOutcome::NotObserved(_) => {
                Self { unseen_since_ms: Some(self.unseen_since_ms.unwrap_or(now_ms)), ..self }
            }
            MembersReconcileOutcome::Planned { plan, .. } => Self {
                unseen_since_ms: None,
                unsteady_since_ms: (plan.stage != ClusterStage::Steady)
                    .then(|| self.unsteady_since_ms.unwrap_or(now_ms)),
                silent,
            },
        }
    }
}

fn outcome(
    target: &ParsedRedisCluster,
    findings: &ReconcileFindings,
    memo: &RedisClusterMemo,
) -> ReconcileOutcome {
    let ReconcileFindings { seen, faults, .. } = findings;
    let requeue_ms = match seen {
        MembersReconcileOutcome::Interrupted => BUSY_REQUEUE_MS,
        MembersReconcileOutcome::NotObserved(_) => WAITING_REQUEUE_MS,
        // A refusal lasts until something changes; a guard that measures time needs a new observation.
        MembersReconcileOutcome::Planned { acted, .. } if acted.is_blocked() => WAITING_REQUEUE_MS,
        // Changed settings are observed again soon; a refused setting stays refused until the spec changes.
        MembersReconcileOutcome::Planned { set, .. } if set.done != 0 => BUSY_REQUEUE_MS,
        MembersReconcileOutcome::Planned { plan, .. } => plan.requeue_ms(),
    };
    let again = faults.iter().any(|fault| fault.retry);
    let requeue_ms = if again { requeue_ms.min(WAITING_REQUEUE_MS) } else { requeue_ms };
    ReconcileOutcome {
        requeue_ms: Some(requeue_ms),
        summary: report::summary(findings, requeue_ms),
        wake: vec![WakeTrigger::Change { instance: json!(target.instance) }],
        memo: Some(json!(memo)),
        ..ReconcileOutcome::default()
    }
}

#[cfg(test)]
mod tests;
