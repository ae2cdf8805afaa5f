//! One container as the life cycle tracks it, and how a run of it ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated};

use super::{ContainerPhase, ContainerRole, RestartPolicy};
use crate::backoff::RestartBackoff;

/// How a run of a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerTermination {
    pub id: String,
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// One container of the Pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrackedContainer {
    pub name: String,
    pub image: String,
    pub role: ContainerRole,
    pub state: ContainerPhase,
    /// How the run before the current one ended.
    pub last: Option<ContainerTermination>,
    pub restart_count: u32,
    pub image_id: String,
    /// The startup probe has passed (or there is none), and the postStart hook has finished.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub passes_readiness: bool,
    has_startup: bool,
    pub(super) has_readiness: bool,
    pub(super) policy: RestartPolicy,
    pub(super) restarts: RestartBackoff,
    /// Consecutive starts that failed because the image was missing.
    pub(super) failures: RestartBackoff,
    /// Consecutive starts that failed because something else was missing.
    pub(super) unprepared: u32,
}

impl TrackedContainer {
    pub(super) fn new(container: &Container, role: ContainerRole, policy: RestartPolicy) -> Self {
        let has_readiness = container.readiness_probe.is_some();
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            role,
            state: ContainerPhase::Waiting {
                reason: "PodInitializing".into(),
                message: None,
                retry_at: None,
            },
            last: None,
            restart_count: 0,
            image_id: String::new(),
            started: false,
            passes_readiness: false,
            has_startup: container.startup_probe.is_some(),
            has_readiness,
            policy,
            restarts: RestartBackoff::default(),
            failures: RestartBackoff::default(),
            unprepared: 0,
        }
    }

    /// Returns true if a startup probe decides when the container has started.
    pub(crate) const fn has_startup(&self) -> bool {
        self.has_startup
    }

    /// Returns true if a process of the container exists or is being started.
    pub(crate) const fn is_active(&self) -> bool {
        matches!(self.state, ContainerPhase::Running { .. } | ContainerPhase::Starting { .. })
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, ContainerPhase::Waiting { .. } | ContainerPhase::Starting { .. })
    }

    /// Returns true if the container counts as ready: an init container once it has completed; any other one
    /// while it runs, has started and passes its readiness probe.
    pub(crate) fn is_ready(&self) -> bool {
        match (&self.state, self.role) {
            (ContainerPhase::Ended { ended, .. }, ContainerRole::Init) => ended.code == 0,
            (ContainerPhase::Running { .. }, ContainerRole::Main | ContainerRole::Sidecar) => {
                self.started && self.passes_readiness
            }
            _ => false,
        }
    }
}

impl ContainerTermination {
    /// Returns the reason for an end for which there is no other explanation.
    pub(crate) fn reason_of(code: i32) -> &'static str {
        if code == 0 { "Completed" } else { "Error" }
    }

    pub(crate) fn from_status(status: &ContainerStateTerminated, now: Timestamp) -> Self {
        let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            time.as_ref().map_or(now, |time| time.0)
        };
        Self {
            id: status.container_id.clone().unwrap_or_default(),
            code: status.exit_code,
            signal: status.signal,
            reason: status.reason.clone().unwrap_or_default(),
            message: status.message.clone(),
            started_at: time(&status.started_at),
            finished_at: time(&status.finished_at),
        }
    }
}
