//! The probes of a container, performed for as long as its run lasts.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::start::ContainerRun;
use super::{PodTaskReport, PodWorker, RunningContainer};
use crate::backoff::RetryPauses;
use crate::error_chain::error_chain;
use crate::events::{EventKey, EventRecorder};
use crate::handler_actions::{self, HandlerAction};
use crate::probe::{ProbeKind, ProbeResultCounter, ProbeTiming};

/// The pauses between attempts before results count.
const EARLY_PAUSE_FIRST: Duration = Duration::from_millis(10);
const EARLY_PAUSE_LONGEST: Duration = Duration::from_millis(200);

impl PodWorker {
    /// Starts the probes of a run. The liveness and readiness probes wait for the startup probe.
    pub(super) fn spawn_probes(
        &mut self,
        index: usize,
        container: &Container,
        running: &RunningContainer,
    ) {
        let pod_ip = self.placement.pod_ip.to_string();
        let (started, gate) = watch::channel(container.startup_probe.is_none());
        let kinds = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
        ];
        for (kind, probe) in kinds {
            let Some(probe) = probe else { continue };
            let probing = ProbeLoop {
                index,
                kind,
                timing: ProbeTiming::of(probe),
                action: HandlerAction::of_probe(probe, container, &pod_ip),
                run: running.run.clone(),
                pod: self.pod.clone(),
                container: container.name.clone(),
                task_events: self.task_events.clone(),
                events: self.node.events.clone(),
                started: started.clone(),
                gate: gate.clone(),
            };
            let ended = running.ended.clone();
            self.tasks.spawn(probing.until(ended));
        }
    }
}

/// Returns the probe's own grace period for a container on which it failed, if it has one.
pub(super) fn probe_grace(probe: Option<&Probe>) -> Option<i64> {
    probe?.termination_grace_period_seconds
}

struct ProbeLoop {
    index: usize,
    kind: ProbeKind,
    timing: ProbeTiming,
    action: HandlerAction,
    run: Arc<ContainerRun>,
    pod: Arc<Pod>,
    container: String,
    task_events: mpsc::Sender<PodTaskReport>,
    events: EventRecorder,
    /// Set to true by the startup probe when it passes.
    started: watch::Sender<bool>,
    gate: watch::Receiver<bool>,
}

impl ProbeLoop {
    async fn until(self, ended: CancellationToken) {
        tokio::select! {
            () = self.probe() => {}
            () = ended.cancelled() => {}
        }
    }

    async fn probe(mut self) {
        sleep(self.timing.initial_delay).await;
        if self.kind != ProbeKind::Startup && self.gate.wait_for(|open| *open).await.is_err() {
            return;
        }
        if self.kind != ProbeKind::Liveness {
            self.wait_until_first_pass().await;
        }
        let name = self.kind.name().to_lowercase();
        let mut counter = ProbeResultCounter::new(self.kind, self.timing);
        let mut reported = None;
        let mut ticks = interval(self.timing.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = handler_actions::perform(
                &self.action,
                &self.run.inside,
                &name,
                self.timing.timeout,
            )
            .await;
            let failure = result.err().map(|error| error_chain(&error));
            let is_new = failure.is_some() && failure != reported;
            reported.clone_from(&failure);
            if let Some(failure) = failure.as_ref().filter(|_| is_new) {
                let note = format!("{} probe failed: {failure}", self.kind.name());
                let event_key =
                    EventKey::container(&self.pod, &self.container).action(self.kind.name());
                self.events.warning(event_key, "Unhealthy", note);
            }
            let Some(passed) = counter.count(failure.is_none()) else { continue };
            self.report(passed, failure.unwrap_or_default()).await;
            // The startup probe is done once it has a result. A container whose liveness probe failed is
            // being ended.
            let done = match self.kind {
                ProbeKind::Startup => true,
                ProbeKind::Liveness => !passed,
                ProbeKind::Readiness => false,
            };
            if done {
                let _ = self.started.send(passed);
                return;
            }
        }
    }

    /// Repeats the probe until it passes, for at most one period, before results count.
    ///
    /// A program needs some milliseconds until it listens. The kubelet would find it not ready, record an
    /// event, and probe again a whole period later; the agent uses that period. A probe that fails for longer
    /// than that fails as often as in Kubernetes from then on.
    async fn wait_until_first_pass(&self) {
        let name = format!("{}-early", self.kind.name().to_lowercase());
        let deadline = Instant::now() + self.timing.period;
        let mut pauses = RetryPauses::new(EARLY_PAUSE_FIRST, EARLY_PAUSE_LONGEST);
        loop {
            let limit = self.timing.timeout;
            let result =
                handler_actions::perform(&self.action, &self.run.inside, &name, limit).await;
            let pause = pauses.after_failure();
            if result.is_ok() || Instant::now() + pause > deadline {
                return;
            }
            sleep(pause).await;
        }
    }

    async fn report(&self, passed: bool, failure: String) {
        let (index, kind, run) = (self.index, self.kind, self.run.name.clone());
        let verdict = PodTaskReport::Verdict { index, run, kind, passed, failure };
        // Fails only if the Pod's task has ended.
        let _ = self.task_events.send(verdict).await;
    }
}
