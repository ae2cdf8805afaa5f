//! Applies the objects of the cluster; a failure of one does not stop the others.

use tholepin_redis_cluster_plan::workload;
use tholepin_sdk::{Error, Host, Retry};

use crate::observe::ParsedRedisCluster;

/// A problem outside the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisClusterProblem {
    /// The reason, as for a condition.
    pub reason: String,
    /// The message for people, with the way to fix it.
    pub message: String,
    /// Whether trying again without a change can help.
    pub retry: bool,
    /// Whether further calls in this reconcile would fail in the same way, perhaps after a long wait.
    pub ends_all: bool,
}

impl RedisClusterProblem {
    /// Returns the fault for a failed call of the host.
    pub(crate) fn of(what: &str, error: &Error) -> Self {
        Self {
            reason: error.reason().into(),
            message: format!("{what}: {error}"),
            retry: error.retry() != Retry::Never,
            ends_all: ends_all(error),
        }
    }
}

/// The object was paused during this reconcile, which therefore ends. That is the only cause of
/// [`Error::Interrupted`] here: the others are `wait` and `probe`, which this plugin does not call.
pub(crate) struct PausedDuringReconcile;

/// Applies the workload and returns the faults. While no password is in force, no Pod may start, so the
/// StatefulSets are not applied.
///
/// # Errors
///
/// Fails if the object was paused.
pub(crate) fn apply(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    may_start: bool,
) -> Result<Vec<RedisClusterProblem>, PausedDuringReconcile> {
    let mut faults = Vec::new();
    let desired = workload::objects(target.owner(), &target.spec);
    for object in desired.iter().filter(|object| may_start || object["kind"] != "StatefulSet") {
        match host.apply(object, true) {
            Ok(_) => {}
            Err(Error::Interrupted) => return Err(PausedDuringReconcile),
            Err(error) => {
                let fault = refused(&workload::title(object), &error);
                let is_last = fault.ends_all;
                faults.push(fault);
                if is_last {
                    break;
                }
            }
        }
    }
    Ok(faults)
}

/// Returns true if the next object would meet the same error, perhaps after a long wait.
const fn ends_all(error: &Error) -> bool {
    matches!(
        error,
        Error::Timeout(_) | Error::Transient(_) | Error::Throttled(_) | Error::PlanEnds(_)
    )
}

fn refused(title: &str, error: &Error) -> RedisClusterProblem {
    let mut fault = RedisClusterProblem::of(&format!("{title} was not applied"), error);
    if matches!(error, Error::Conflict(_)) {
        fault.message = format!(
            "{error}; another field manager owns a field of {title}: remove the field from its manifest, \
             or rename the RedisCluster"
        );
    }
    fault
}
