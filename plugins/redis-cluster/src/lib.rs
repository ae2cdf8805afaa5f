//! The plugin that creates a Redis Cluster and keeps it alive.
//!
//! ```text
//! apply the workload ─► observe ─► plan (crate `plan`, pure) ─► act ─► report
//! ```
//!
//! This crate reads and writes through the host and decides nothing: what to do is in
//! `redis-cluster/plan`. The policy's constants stand at the top of that crate.
//!
//! Invariants:
//! - Nothing is kept between passes but the object's status.
//! - A plan that its own linter objects to is not performed.
//! - The status changes only when something changed: it holds no times of looking, no offsets.

mod act;
mod configuration;
mod manifest;
mod observe;
mod report;

use serde_json::{Value, json};
use tholepin_redis_cluster_plan::{
    BUSY_REQUEUE_MS, HEALTHY_REQUEUE_MS, Observed, Plan, WAITING_REQUEUE_MS, plan, workload,
};
use tholepin_redis_types::{redis_cluster::RedisClusterSpec, validation};
use tholepin_sdk::{
    Error, Failure, Host, Manifest, Outcome, Reconciler, Request, Retry, Violation, Wake,
};

use observe::Target;
use report::Situation;

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
        let situation = pass(host, &target)?;
        report::write(host, &target, &situation)?;
        Ok(outcome(&target, &situation))
    }
}

/// One pass up to the report.
fn pass(host: &dyn Host, target: &Target) -> Result<Situation, Failure> {
    if let Some(missing) = observe::missing_secret(host, target)? {
        return Ok(Situation::Blocked(missing));
    }
    match configuration::apply(host, target, None) {
        Ok(()) => {}
        Err(Error::Interrupted) => return Ok(Situation::Unseen(Error::Interrupted)),
        Err(error) => return Err(act::apply_failure("the ConfigMap of live settings", &error)),
    }
    for object in workload::objects(target.owner(), &target.spec) {
        match host.apply(&object, true) {
            Ok(_) => {}
            Err(Error::Interrupted) => return Ok(Situation::Unseen(Error::Interrupted)),
            Err(error) => return Err(act::apply_failure(&workload::title(&object), &error)),
        }
    }
    let observed = match observe::observe(host, target) {
        Ok(observed) => observed,
        // Before the first Pod there is nothing to look at, and a passing fault passes.
        Err(error) if error.retry() != Retry::Never => {
            return Ok(Situation::Unseen(error));
        }
        Err(error) => return Err(error.into()),
    };
    match configuration::apply(host, target, Some(&observed.snapshot)) {
        Ok(()) => {}
        Err(Error::Interrupted) => return Ok(Situation::Unseen(Error::Interrupted)),
        // The file holds what it held, which starts; the next pass tries again and says why it fails.
        Err(error) => host.warn(&format!("the file of live settings was not written: {error}")),
    }
    let plan = plan(&target.name, &target.spec, &observed);
    check(&plan, &observed)?;
    let done = act::act(host, target, &plan)
        .and_then(|acted| Ok((acted, configuration::set(host, target, &plan)?)));
    configuration::forget(host, target, &plan);
    match done {
        Ok((acted, set)) => Ok(Situation::Planned { plan: Box::new(plan), acted, set }),
        // Something more urgent has come up, so what was seen is old: look again.
        Err(Error::Interrupted) => Ok(Situation::Unseen(Error::Interrupted)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a plan that must not be performed: a bug of ours, and better found here than in the data.
fn check(plan: &Plan, observed: &Observed) -> Result<(), Failure> {
    let violations = plan.check(observed);
    let Some(first) = violations.first() else { return Ok(()) };
    let message = format!("the plan was not performed, please report this: {first}");
    Err(Failure { reason: "BadPlan".into(), message, retry: true })
}

fn outcome(target: &Target, situation: &Situation) -> Outcome {
    let requeue_ms = match situation {
        Situation::Blocked(_) => HEALTHY_REQUEUE_MS,
        Situation::Unseen(Error::Interrupted) => BUSY_REQUEUE_MS,
        Situation::Unseen(_) => WAITING_REQUEUE_MS,
        // A refusal stands until something changes; a guard that counts time needs a new look.
        Situation::Planned { acted, .. } if acted.is_held_up() => WAITING_REQUEUE_MS,
        // What was set is looked at at once; what was refused stands until the spec changes.
        Situation::Planned { set, .. } if set.done != 0 => BUSY_REQUEUE_MS,
        Situation::Planned { plan, .. } => plan.requeue_ms(),
    };
    Outcome {
        requeue_ms: Some(requeue_ms),
        summary: report::summary(situation, requeue_ms),
        wake: vec![Wake::Change { instance: json!(target.instance) }],
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests;
