//! Continues a container that an earlier agent ran: its process was killed with that agent.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{ContainerPhase, ContainerRole, ContainerTermination, TrackedContainer};

/// The exit code recorded for a container that was killed with its agent.
const KILLED: i32 = 137;

/// Initialises `container` from the `status` that the earlier agent wrote.
///
/// A container that ran is recorded as ended and counts as one more restart. An application container that
/// had ended, and that its policy does not restart, stays ended. Init containers run again, because all
/// processes of their Pod have ended, as after a restart of a machine.
pub(super) fn continue_from(
    container: &mut TrackedContainer,
    status: &ContainerStatus,
    now: Timestamp,
) {
    container.restart_count = u32::try_from(status.restart_count).unwrap_or_default();
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    container.last = last.map(|ended| ContainerTermination::from_status(ended, now));
    if let Some(running) = state.running {
        let started_at = running.started_at.map_or(now, |time| time.0);
        container.last = Some(ContainerTermination {
            id: status.container_id.clone().unwrap_or_default(),
            code: KILLED,
            signal: Some(9),
            reason: "Error".into(),
            message: Some("the node agent was stopped, and the container with it".into()),
            started_at,
            finished_at: now,
        });
        container.restart_count = container.restart_count.saturating_add(1);
    } else if let Some(ended) = state.terminated {
        let ended = ContainerTermination::from_status(&ended, now);
        container.ended_earlier(ended);
    }
}

impl TrackedContainer {
    fn ended_earlier(&mut self, ended: ContainerTermination) {
        let for_good = match (self.role, self.policy) {
            (ContainerRole::Main, super::RestartPolicy::Never) => true,
            (ContainerRole::Main, super::RestartPolicy::OnFailure) => ended.code == 0,
            (ContainerRole::Main, super::RestartPolicy::Always)
            | (ContainerRole::Init | ContainerRole::Sidecar, _) => false,
        };
        if for_good {
            self.state = ContainerPhase::Ended { ended, restart_at: None };
        } else {
            self.last = Some(ended);
            self.restart_count = self.restart_count.saturating_add(1);
        }
    }
}
