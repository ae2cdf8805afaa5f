//! Applies the objects that the cluster is made of, each whatever became of the others.

use tholepin_redis_cluster_plan::workload;
use tholepin_sdk::{Error, Host, Retry};

use crate::observe::ReconcileTarget;

/// What stands in the way outside the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReconcileFault {
    /// As a condition's reason.
    pub reason: String,
    /// For people, with the way out.
    pub message: String,
    /// Whether trying again without a change can help.
    pub retry: bool,
    /// Whether the next call for the same object's sake would meet the same, perhaps after a long wait.
    pub ends_all: bool,
}

impl ReconcileFault {
    /// What a call of the host answered instead of what was wanted.
    pub(crate) fn of(what: &str, error: &Error) -> Self {
        Self {
            reason: error.reason().into(),
            message: format!("{what}: {error}"),
            retry: error.retry() != Retry::Never,
            ends_all: ends_all(error),
        }
    }
}

/// Something more urgent has come up: the pass ends.
pub(crate) struct Interrupted;

/// Applies the workload, and gives what was not applied. While no password is in force no Pods may start,
/// so that what makes them is left as it is.
///
/// # Errors
///
/// Fails if something more urgent has come up.
pub(crate) fn apply(
    host: &dyn Host,
    target: &ReconcileTarget,
    may_start: bool,
) -> Result<Vec<ReconcileFault>, Interrupted> {
    let mut faults = Vec::new();
    let wanted = workload::objects(target.owner(), &target.spec);
    for object in wanted.iter().filter(|object| may_start || object["kind"] != "StatefulSet") {
        match host.apply(object, true) {
            Ok(_) => {}
            Err(Error::Interrupted) => return Err(Interrupted),
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

/// Whether the next object would meet the same error, perhaps after a long wait.
const fn ends_all(error: &Error) -> bool {
    matches!(
        error,
        Error::Timeout(_) | Error::Transient(_) | Error::Throttled(_) | Error::PlanEnds(_)
    )
}

fn refused(title: &str, error: &Error) -> ReconcileFault {
    let mut fault = ReconcileFault::of(&format!("{title} was not applied"), error);
    if matches!(error, Error::Conflict(_)) {
        fault.message = format!(
            "{error}; somebody else owns a field of {title}: remove the field from their manifest, \
             or rename the RedisCluster"
        );
    }
    fault
}
