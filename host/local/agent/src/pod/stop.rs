//! Ends one run of a container: preStop hook, SIGTERM, grace period, SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::start::ContainerRun;
use crate::handler_actions::{self, HandlerAction, ProbeOrHookError};
use crate::orphans;

/// The minimum that a container gets after its preStop hook, however long the hook took. Source: the
/// kubelet's `minimumGracePeriodInSeconds`.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// A run to end.
pub(super) struct ContainerStopRequest {
    pub run: Arc<ContainerRun>,
    /// Cancelled when the run has ended.
    pub ended: CancellationToken,
    pub pre_stop: Option<HandlerAction>,
    /// How long the run may take to end, the preStop hook included.
    pub grace: Duration,
    /// The end of the Pod's own grace period, after which the run is killed in any case.
    pub deadline: watch::Receiver<Option<Instant>>,
}

/// Ends the run; returns when it has ended or was killed. An error is that of the preStop hook.
pub(super) async fn stop(mut to_stop: ContainerStopRequest) -> Result<(), ProbeOrHookError> {
    let own_deadline = Instant::now() + to_stop.grace;
    let mut result = Ok(());
    let mut earliest_kill = None;
    if let Some(pre_stop) = to_stop.pre_stop.take() {
        let limit = limit(own_deadline, *to_stop.deadline.borrow()).duration_since(Instant::now());
        if limit > Duration::ZERO {
            let mut deadline = to_stop.deadline.clone();
            let hook = handler_actions::perform(&pre_stop, &to_stop.run.inside, "pre-stop", limit);
            tokio::select! {
                performed = hook => result = performed,
                // A deletion without a grace period does not wait for a hook.
                () = at_deadline(own_deadline, &mut deadline) => {}
                () = to_stop.ended.cancelled() => return Ok(()),
            }
            earliest_kill = Some(Instant::now() + GRACE_MIN);
        }
    }
    if to_stop.run.is_same_process() {
        orphans::signal(to_stop.run.inside.pid, Signal::SIGTERM);
    }
    let own_deadline =
        earliest_kill.map_or(own_deadline, |earliest_kill| own_deadline.max(earliest_kill));
    tokio::select! {
        () = to_stop.ended.cancelled() => return result,
        () = grace_ends(own_deadline, earliest_kill, &mut to_stop.deadline) => {}
    }
    kill(&to_stop.run);
    result
}

/// Kills the run's process and all processes of its session.
pub(super) fn kill(run: &ContainerRun) {
    if run.is_same_process() {
        orphans::kill_session(run.inside.pid);
    }
}

fn limit(own_deadline: Instant, deadline: Option<Instant>) -> Instant {
    deadline.map_or(own_deadline, |deadline| own_deadline.min(deadline))
}

async fn grace_ends(
    own_deadline: Instant,
    earliest_kill: Option<Instant>,
    deadline: &mut watch::Receiver<Option<Instant>>,
) {
    at_deadline(own_deadline, deadline).await;
    if let Some(earliest_kill) = earliest_kill {
        // The minimum after a hook applies, unless the Pod is being deleted without any grace period.
        let forced = deadline.borrow().is_some_and(|deadline| deadline + GRACE_MIN < earliest_kill);
        if !forced {
            sleep_until(earliest_kill).await;
        }
    }
}

/// Waits until `own_deadline` or the Pod's deadline, whichever comes first. The Pod's deadline may change meanwhile.
async fn at_deadline(own_deadline: Instant, deadline: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let until = limit(own_deadline, *deadline.borrow_and_update());
        tokio::select! {
            () = sleep_until(until) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    return sleep_until(until).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shorter_grace_period_applies_while_waiting() {
        let (sender, mut receiver) = watch::channel(None);
        let begun = Instant::now();
        let own_deadline = begun + Duration::from_secs(30);
        let shorten = async { sender.send(Some(begun)).unwrap() };
        let waits = async { tokio::join!(at_deadline(own_deadline, &mut receiver), shorten) };
        tokio::time::timeout(Duration::from_secs(10), waits).await.unwrap();
    }
}
