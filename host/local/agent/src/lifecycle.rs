//! Decides what happens next to the containers of a Pod.
//!
//! This module is pure: facts are reported to it (a container started or ended, a probe passed, the Pod is to
//! be deleted), and it returns [`ContainerAction`]s and the time at which it must be asked again. Time is an
//! argument. The rules are the kubelet's; see
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/> and
//! <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/>.
//!
//! Invariants:
//! - A Pod never leaves a terminal phase.
//! - Init containers run one after the other. Application containers start only after all init containers.
//! - While the Pod ends, no container is started. Sidecars are stopped after the application containers, in
//!   reverse order of declaration.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::backoff::retry_pause;

mod earlier;
mod tracked;

pub(crate) use tracked::{ContainerTermination, TrackedContainer};

/// The role of a container in its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerRole {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that continues to run beside the application.
    Sidecar,
    /// An application container.
    Main,
}

/// The restart policy of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The phase of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ContainerPhase {
    /// Not started. It is tried at `retry_at`, or as soon as the containers before it allow it.
    Waiting { reason: String, message: Option<String>, retry_at: Option<Timestamp> },
    /// Being started.
    Starting { reason: String, message: Option<String> },
    /// Running. `stopping` is true once its stop was requested.
    Running { id: String, since: Timestamp, stopping: bool },
    /// Ended; started again at `restart_at` if there is one.
    Ended { ended: ContainerTermination, restart_at: Option<Timestamp> },
}

/// Why a Pod is ended although its containers would continue to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodTerminationCause {
    /// The Pod's object is being deleted.
    Deletion,
    /// The Pod ran for longer than `activeDeadlineSeconds`.
    Deadline,
}

/// An action to perform now. A container is named by its index in [`PodLifecycle::containers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerAction {
    Start(usize),
    Stop(usize),
}

/// Why a container could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// A reason such as `ErrImagePull` or `CreateContainerConfigError`.
    pub reason: String,
    pub message: String,
}

/// The state of a Pod and of its containers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodLifecycle {
    /// Init containers in order, then application containers in order.
    pub containers: Vec<TrackedContainer>,
    pub initialized: bool,
    pub ending: Option<PodTerminationCause>,
    /// Why the Pod failed, if the reason is not in the status of a container.
    pub failure: Option<(&'static str, String)>,
    terminal: Option<PodPhase>,
    start_time: Timestamp,
    deadline: Option<Timestamp>,
}

impl PodLifecycle {
    /// Creates the state of `pod`, or continues from the status that an earlier agent wrote: the containers
    /// that ran then have ended with that agent, and are started again in the same Pod.
    pub(crate) fn new(pod: &Pod, now: Timestamp) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let policy = match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let role = if sidecar { ContainerRole::Sidecar } else { ContainerRole::Init };
            TrackedContainer::new(container, role, policy)
        });
        let main = spec
            .containers
            .iter()
            .map(|main| TrackedContainer::new(main, ContainerRole::Main, policy));
        let status = pod.status.clone().unwrap_or_default();
        let start_time = status.start_time.as_ref().map_or(now, |time| time.0);
        let mut lifecycle = Self {
            containers: init.chain(main).collect(),
            initialized: false,
            ending: None,
            failure: None,
            terminal: None,
            start_time,
            deadline: spec.active_deadline_seconds.and_then(|seconds| {
                start_time.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
            }),
        };
        lifecycle.continue_from(&status, now);
        lifecycle
    }

    fn continue_from(&mut self, status: &PodStatus, now: Timestamp) {
        let statuses = status.init_container_statuses.iter().chain(&status.container_statuses);
        for status in statuses.flatten() {
            let named = self.containers.iter_mut().find(|container| container.name == status.name);
            if let Some(container) = named {
                earlier::continue_from(container, status, now);
            }
        }
        self.terminal = match status.phase.as_deref() {
            Some("Succeeded") => Some(PodPhase::Succeeded),
            Some("Failed") => Some(PodPhase::Failed),
            _ => None,
        };
    }

    /// Returns the time at which an agent first saw the Pod.
    pub(crate) const fn start_time(&self) -> Timestamp {
        self.start_time
    }

    /// Requests the end of the Pod. The first cause stays, unless a deletion follows a deadline.
    pub(crate) fn end(&mut self, why: PodTerminationCause) {
        // A deletion has precedence over a deadline, because it decides what happens to the object.
        if self.ending != Some(PodTerminationCause::Deletion) {
            self.ending = Some(why);
        }
    }

    /// Returns true if the Pod is ending and none of its containers runs any more.
    pub(crate) fn has_ended(&self) -> bool {
        let settled = self.terminal.is_some() || self.ending.is_some();
        settled && !self.containers.iter().any(TrackedContainer::is_active)
    }

    /// Returns the actions to perform now. A container is marked when its action is returned, so that each
    /// action is returned once.
    pub(crate) fn decide(&mut self, now: Timestamp) -> Vec<ContainerAction> {
        if self.deadline.is_some_and(|deadline| deadline <= now)
            && self.terminal.is_none()
            && self.ending.is_none()
        {
            self.ending = Some(PodTerminationCause::Deadline);
            let message = "Pod was active on the node longer than the specified deadline";
            self.failure = Some(("DeadlineExceeded", message.into()));
        }
        if self.ending.is_some() || self.terminal.is_some() {
            let actions = self.stop_next();
            self.settle();
            return actions;
        }
        let mut actions = self.start_init(now);
        if self.initialized {
            for index in self.indexes(ContainerRole::Main) {
                actions.extend(self.start_if_due(index, now));
            }
        }
        self.settle();
        if self.terminal.is_some() {
            actions.extend(self.stop_next());
        }
        actions
    }

    /// Walks the init containers in order, up to the first one that the others must wait for.
    fn start_init(&mut self, now: Timestamp) -> Vec<ContainerAction> {
        let mut actions = Vec::new();
        let count = self
            .containers
            .iter()
            .filter(|container| container.role != ContainerRole::Main)
            .count();
        for index in 0..count {
            let Some(container) = self.containers.get(index) else { break };
            let is_complete = match (container.role, &container.state) {
                (ContainerRole::Sidecar, ContainerPhase::Running { .. }) => container.started,
                (ContainerRole::Init, ContainerPhase::Ended { ended, .. }) => ended.code == 0,
                _ => false,
            };
            let (role, was_initialized) = (container.role, self.initialized);
            // Once all init containers have completed, none of them is run again.
            let is_done = is_complete || (was_initialized && role == ContainerRole::Init);
            if !is_done {
                actions.extend(self.start_if_due(index, now));
            }
            // Once all init containers have completed, no other container waits for a sidecar that restarts.
            if !is_complete && !was_initialized {
                return actions;
            }
        }
        self.initialized = true;
        actions
    }

    fn start_if_due(&mut self, index: usize, now: Timestamp) -> Option<ContainerAction> {
        let container = self.containers.get_mut(index)?;
        let (due, reason, message) = match &container.state {
            ContainerPhase::Waiting { retry_at, reason, message } => {
                (retry_at.is_none_or(|at| at <= now), reason.clone(), message.clone())
            }
            ContainerPhase::Ended { restart_at: Some(at), .. } => {
                (*at <= now, "ContainerCreating".into(), None)
            }
            ContainerPhase::Ended { .. }
            | ContainerPhase::Starting { .. }
            | ContainerPhase::Running { .. } => return None,
        };
        if !due {
            return None;
        }
        if let ContainerPhase::Ended { ended, .. } = &container.state {
            container.last = Some(ended.clone());
            container.restart_count = container.restart_count.saturating_add(1);
        }
        container.state = ContainerPhase::Starting { reason, message };
        Some(ContainerAction::Start(index))
    }

    /// Stops all application containers concurrently, then the sidecars one after the other, the last one
    /// first.
    fn stop_next(&mut self) -> Vec<ContainerAction> {
        for container in &mut self.containers {
            if let ContainerPhase::Waiting { retry_at, .. } = &mut container.state {
                *retry_at = None;
            }
            if let ContainerPhase::Ended { restart_at, .. } = &mut container.state {
                *restart_at = None;
            }
        }
        let has_role =
            |role: ContainerRole| move |container: &TrackedContainer| container.role == role;
        let is_sidecar = has_role(ContainerRole::Sidecar);
        if self.containers.iter().any(|container| !is_sidecar(container) && container.is_active()) {
            let all: Vec<_> = self
                .indexes(ContainerRole::Init)
                .into_iter()
                .chain(self.indexes(ContainerRole::Main))
                .collect();
            return all.into_iter().filter_map(|index| self.stop(index)).collect();
        }
        let sidecars = self.indexes(ContainerRole::Sidecar);
        let last = sidecars
            .into_iter()
            .rev()
            .find(|index| self.containers.get(*index).is_some_and(TrackedContainer::is_active));
        last.and_then(|index| self.stop(index)).into_iter().collect()
    }

    fn stop(&mut self, index: usize) -> Option<ContainerAction> {
        match &mut self.containers.get_mut(index)?.state {
            ContainerPhase::Running { stopping: stopping @ false, .. } => {
                *stopping = true;
                Some(ContainerAction::Stop(index))
            }
            ContainerPhase::Running { .. }
            | ContainerPhase::Starting { .. }
            | ContainerPhase::Waiting { .. }
            | ContainerPhase::Ended { .. } => None,
        }
    }

    /// Stops one run because a probe or a hook failed. Returns `None` if it is being stopped already.
    pub(crate) fn stop_failing(&mut self, index: usize) -> Option<ContainerAction> {
        self.stop(index)
    }

    fn indexes(&self, role: ContainerRole) -> Vec<usize> {
        let all = self.containers.iter().enumerate();
        all.filter(|(_, container)| container.role == role).map(|(index, _)| index).collect()
    }

    /// Sets the terminal phase once no container will be started again.
    fn settle(&mut self) {
        if self.terminal.is_some() {
            return;
        }
        let failed_for_good = |container: &TrackedContainer| matches!(&container.state, ContainerPhase::Ended { ended, restart_at: None } if ended.code != 0);
        let ended = |container: &TrackedContainer| {
            matches!(container.state, ContainerPhase::Ended { restart_at: None, .. })
        };
        let init_failed = self
            .containers
            .iter()
            .any(|container| container.role == ContainerRole::Init && failed_for_good(container));
        let mains: Vec<_> = self
            .containers
            .iter()
            .filter(|container| container.role == ContainerRole::Main)
            .collect();
        let all_ended = mains.iter().all(|container| ended(container));
        let ending_is_over =
            self.ending.is_some() && !self.containers.iter().any(TrackedContainer::is_active);
        self.terminal = if self.failure.is_some() && ending_is_over {
            Some(PodPhase::Failed)
        } else if all_ended && (self.initialized || self.ending.is_some()) {
            let failed = mains.iter().any(|container| failed_for_good(container));
            Some(if failed { PodPhase::Failed } else { PodPhase::Succeeded })
        } else if (init_failed && self.ending.is_none()) || ending_is_over {
            Some(PodPhase::Failed)
        } else {
            None
        };
    }

    /// Returns the time at which [`decide`](Self::decide) must be called again even if nothing happens
    /// before.
    pub(crate) fn next_check(&self) -> Option<Timestamp> {
        let retries = self.containers.iter().filter_map(|container| match &container.state {
            ContainerPhase::Waiting { retry_at, .. } => *retry_at,
            ContainerPhase::Ended { restart_at, .. } => *restart_at,
            ContainerPhase::Starting { .. } | ContainerPhase::Running { .. } => None,
        });
        let deadline = self.deadline.filter(|_| self.terminal.is_none() && self.ending.is_none());
        retries.chain(deadline).min()
    }

    /// Returns the phase to report. A Pod with sidecars that still run does not report its terminal phase
    /// yet.
    pub(crate) fn phase(&self) -> PodPhase {
        if let Some(phase) = self.terminal
            && !self.containers.iter().any(TrackedContainer::is_active)
        {
            return phase;
        }
        let waits_for_first_start = self.containers.iter().any(|container| {
            container.role == ContainerRole::Main
                && container.restart_count == 0
                && container.last.is_none()
                && container.is_waiting()
        });
        if self.initialized && !waits_for_first_start {
            PodPhase::Running
        } else {
            PodPhase::Pending
        }
    }

    /// Records that the start of a container failed, and sets the time of the next attempt.
    pub(crate) fn start_failed(&mut self, index: usize, failure: StartFailure, now: Timestamp) {
        let Some(container) = self.containers.get_mut(index) else { return };
        let pause = if failure.reason.starts_with("ErrImage") {
            container.failures.after_failure()
        } else {
            // The missing object may be created at any moment. The Pod's task retries immediately when a
            // ConfigMap or Secret changes; this pause covers the other cases, such as a claim that is being
            // bound.
            let earlier_failures = container.unprepared;
            container.unprepared = earlier_failures.saturating_add(1);
            retry_pause(UNPREPARED_FIRST, UNPREPARED_LONGEST, earlier_failures)
        };
        let retry_at = now.saturating_add(pause).ok();
        let StartFailure { reason, message } = failure;
        container.state = ContainerPhase::Waiting { reason, message: Some(message), retry_at };
    }

    /// Returns true if no container will be started any more.
    pub(crate) const fn is_ending(&self) -> bool {
        self.ending.is_some() || self.terminal.is_some()
    }

    /// Records that a container that was to be started is not started, because the Pod ends.
    pub(crate) fn not_started(&mut self, index: usize) {
        if let Some(container) = self.containers.get_mut(index) {
            let reason = "ContainerCreating".into();
            container.state = ContainerPhase::Waiting { reason, message: None, retry_at: None };
        }
    }

    /// Makes waiting containers due immediately, because an object that they wait for may exist now.
    pub(crate) fn retry_now(&mut self) {
        for container in &mut self.containers {
            if let ContainerPhase::Waiting { retry_at, .. } = &mut container.state {
                *retry_at = None;
            }
        }
    }

    /// Records that a container runs.
    pub(crate) fn running(&mut self, index: usize, id: String, image_id: String, since: Timestamp) {
        let Some(container) = self.containers.get_mut(index) else { return };
        container.failures.reset();
        container.unprepared = 0;
        container.image_id = image_id;
        container.started = false;
        container.passes_readiness = !container.has_readiness;
        container.state = ContainerPhase::Running { id, since, stopping: false };
    }

    /// Records that a container has started: its postStart hook and its startup probe have passed, as far as
    /// it has them.
    pub(crate) fn started(&mut self, index: usize) {
        if let Some(container) = self.containers.get_mut(index) {
            container.started = true;
        }
    }

    /// Records a changed result of a container's readiness probe.
    pub(crate) fn readiness(&mut self, index: usize, passes: bool) {
        if let Some(container) = self.containers.get_mut(index) {
            container.passes_readiness = passes;
        }
    }

    /// Records that a run of a container has ended.
    pub(crate) fn ended(&mut self, index: usize, ended: ContainerTermination) {
        let Some(container) = self.containers.get_mut(index) else { return };
        container.started = false;
        container.passes_readiness = false;
        let again = match (container.role, container.policy) {
            (ContainerRole::Sidecar, _) | (ContainerRole::Main, RestartPolicy::Always) => true,
            // An init container that succeeded is complete, whatever the policy.
            (ContainerRole::Init | ContainerRole::Main, RestartPolicy::OnFailure)
            | (ContainerRole::Init, RestartPolicy::Always) => ended.code != 0,
            (ContainerRole::Init | ContainerRole::Main, RestartPolicy::Never) => false,
        };
        let restart_at =
            again.then(|| container.restarts.after_end(ended.started_at, ended.finished_at));
        container.state = ContainerPhase::Ended { ended, restart_at };
    }
}

/// The pause before the next start of a container whose configuration or volume is missing: doubles from the
/// first to the longest.
const UNPREPARED_FIRST: Duration = Duration::from_millis(100);
const UNPREPARED_LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
