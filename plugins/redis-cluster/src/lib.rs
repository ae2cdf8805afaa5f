//! The plugin that creates a Redis Cluster and keeps it alive.
//!
//! ```text
//! observe ─► plan (crate `plan`, pure) ─► act ─► apply the workload ─► report
//! ```
//!
//! This crate reads and writes through the host and decides nothing: what to do is in
//! `redis-cluster/plan`. The policy's constants stand at the top of that crate.
//!
//! Invariants:
//! - Nothing is kept between passes but the object's status, and since when nobody could look.
//! - What cannot be applied stops no repair, and the rest of the workload is applied all the same.
//! - A plan that its own linter objects to is not performed.
//! - The status changes only when something changed: it holds no times of looking, no offsets.

mod act;
mod apply;
mod configuration;
mod manifest;
mod observe;
mod report;

use serde_json::{Value, json};
use tholepin_redis_cluster_plan::{BUSY_REQUEUE_MS, Observed, Plan, WAITING_REQUEUE_MS, plan};
use tholepin_redis_types::{redis_cluster::RedisClusterSpec, validation};
use tholepin_schema::snapshot::Snapshot;
use tholepin_sdk::{Error, Failure, Host, Manifest, Outcome, Reconciler, Request, Violation, Wake};

use apply::Fault;
use observe::Target;
use report::{Seen, Situation};

/// The plugin `redis-cluster`.
#[derive(Debug)]
pub struct RedisCluster;

tholepin_sdk::export!(RedisCluster);

impl Reconciler for RedisCluster {
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
            // The definition keeps such a spec out; this is for an object older than it.
            Err(error) => vec![Violation { field: ".spec".into(), message: error.to_string() }],
        }
    }

    fn reconcile(host: &dyn Host, request: Request) -> Result<Outcome, Failure> {
        if request.deleting {
            // Everything made here belongs to the object and goes with it; whether the volumes go is
            // written in the StatefulSets.
            let summary = "deleted: what belongs to it follows".to_owned();
            return Ok(Outcome { summary, finished: true, ..Outcome::default() });
        }
        let target = Target::read(&request.object)?;
        let situation = pass(host, &target);
        let unseen_since_ms = unseen_since_ms(host, request.memo.as_ref(), &situation)?;
        report::write(host, &target, &situation, unseen_since_ms)?;
        Ok(outcome(&target, &situation, unseen_since_ms))
    }
}

/// One pass up to the report. The members come first: what is wrong with the workload must not keep a
/// primary that died from being replaced.
fn pass(host: &dyn Host, target: &Target) -> Situation {
    let mut faults = Vec::new();
    let Looked { seen, may_start } = look(host, target, &mut faults);
    if matches!(seen, Seen::Interrupted) || faults.iter().any(|fault| fault.ends_all) {
        return Situation { seen, faults };
    }
    match apply::apply(host, target, may_start) {
        Ok(refused) => faults.extend(refused),
        Err(apply::Interrupted) => return Situation { seen: Seen::Interrupted, faults },
    }
    Situation { seen, faults }
}

/// What was seen of the members, and whether Pods may be started.
struct Looked {
    seen: Seen,
    may_start: bool,
}

/// Looks at the members, and does what the plan for them says.
fn look(host: &dyn Host, target: &Target, faults: &mut Vec<Fault>) -> Looked {
    let observed = match observe::observe(host, target) {
        Ok(observed) => observed,
        Err(Error::Interrupted) => return Looked { seen: Seen::Interrupted, may_start: true },
        Err(error) => {
            let ended = live_settings(host, target, None, faults);
            return Looked { seen: ended.unwrap_or(Seen::Unseen(error)), may_start: true };
        }
    };
    if let Some(ended) = live_settings(host, target, Some(&observed.snapshot), faults) {
        return Looked { seen: ended, may_start: true };
    }
    let credentials = observed.snapshot.credentials;
    faults.extend(observe::credentials_fault(target, credentials));
    let may_start = !credentials.pending;
    let plan = Box::new(plan(&target.name, &target.spec, &observed));
    act::announce_set_aside(host, target, &plan, &observed.snapshot);
    faults.extend(act::set_aside(&plan, &observed.snapshot));
    let seen = if let Some(bad) = check(&plan, &observed) {
        faults.push(bad);
        Seen::Planned { plan, acted: act::Acted::default(), set: act::Acted::default() }
    } else {
        perform(host, target, plan, faults)
    };
    Looked { seen, may_start }
}

/// Writes the file of the settings that servers have taken, without which no Pod starts. What it held stays
/// if it cannot be written. Gives an end of the pass if something more urgent has come up.
fn live_settings(
    host: &dyn Host,
    target: &Target,
    snapshot: Option<&Snapshot>,
    faults: &mut Vec<Fault>,
) -> Option<Seen> {
    let told = snapshot.filter(|snapshot| !snapshot.members.is_empty());
    match configuration::apply(host, target, told) {
        Ok(()) => None,
        Err(Error::Interrupted) => Some(Seen::Interrupted),
        Err(error) => {
            faults.push(Fault::of("the ConfigMap of live settings was not applied", &error));
            None
        }
    }
}

fn perform(host: &dyn Host, target: &Target, plan: Box<Plan>, faults: &mut Vec<Fault>) -> Seen {
    let done = act::act(host, target, &plan)
        .and_then(|acted| Ok((acted, configuration::set(host, target, &plan)?)));
    match done {
        Ok((acted, set)) => {
            configuration::replace_stuck(host, target, &plan);
            configuration::forget(host, target, &plan);
            Seen::Planned { plan, acted, set }
        }
        // Something more urgent has come up, so what was seen is old: look again.
        Err(Error::Interrupted) => Seen::Interrupted,
        Err(error) => {
            faults.push(Fault::of("the plan was not performed", &error));
            Seen::Planned { plan, acted: act::Acted::default(), set: act::Acted::default() }
        }
    }
}

/// Refuses a plan that must not be performed: a bug of ours, and better found here than in the data.
fn check(plan: &Plan, observed: &Observed) -> Option<Fault> {
    let violations = plan.check(observed);
    let first = violations.first()?;
    let message = format!("the plan was not performed, please report this: {first}");
    Some(Fault { reason: "BadPlan".into(), message, retry: true, ends_all: false })
}

/// Since when the members could not be looked at, if they could not in this pass.
fn unseen_since_ms(
    host: &dyn Host,
    memo: Option<&Value>,
    situation: &Situation,
) -> Result<Option<u64>, Error> {
    let noted = memo.and_then(|memo| memo.get(UNSEEN_SINCE_MS)).and_then(Value::as_u64);
    Ok(match situation.seen {
        Seen::Unseen(_) => Some(noted.map_or_else(|| host.now_ms(), Ok)?),
        Seen::Interrupted => noted,
        Seen::Planned { .. } => None,
    })
}

/// The key of the memo.
const UNSEEN_SINCE_MS: &str = "unseenSinceMs";

fn outcome(target: &Target, situation: &Situation, unseen_since_ms: Option<u64>) -> Outcome {
    let Situation { seen, faults } = situation;
    let requeue_ms = match seen {
        Seen::Interrupted => BUSY_REQUEUE_MS,
        Seen::Unseen(_) => WAITING_REQUEUE_MS,
        // A refusal stands until something changes; a guard that counts time needs a new look.
        Seen::Planned { acted, .. } if acted.is_held_up() => WAITING_REQUEUE_MS,
        // What was set is looked at at once; what was refused stands until the spec changes.
        Seen::Planned { set, .. } if set.done != 0 => BUSY_REQUEUE_MS,
        Seen::Planned { plan, .. } => plan.requeue_ms(),
    };
    let again = faults.iter().any(|fault| fault.retry);
    let requeue_ms = if again { requeue_ms.min(WAITING_REQUEUE_MS) } else { requeue_ms };
    Outcome {
        requeue_ms: Some(requeue_ms),
        summary: report::summary(situation, requeue_ms),
        wake: vec![Wake::Change { instance: json!(target.instance) }],
        memo: unseen_since_ms.map(|since_ms| json!({UNSEEN_SINCE_MS: since_ms})),
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests;
