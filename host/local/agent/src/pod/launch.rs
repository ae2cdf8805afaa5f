//! The start of a container: from the decision until it has started.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::start::{ContainerStartRequest, StartedContainer, start};
use super::{PodTaskReport, PodWorker, RunningContainer};
use crate::error_chain::error_chain;
use crate::events::EventKey;
use crate::handler_actions::{self, HandlerAction, ProbeOrHookError};
use crate::lifecycle::{ContainerPhase, StartFailure, TrackedContainer};
use crate::probe::ProbeKind;

/// The limit for a postStart hook, which has none of its own; the kubelet waits forever.
const POST_START_LIMIT: std::time::Duration = std::time::Duration::from_secs(3600);

impl PodWorker {
    /// Starts a container in the background.
    pub(super) fn start(&mut self, index: usize) {
        let Some(container) = self.container(index) else { return };
        let Some(tracked) = self.lifecycle.containers.get(index) else { return };
        let to_start = ContainerStartRequest {
            node: self.node.clone(),
            pod: self.pod.clone(),
            container,
            placement: self.placement.clone(),
            directory: self.directory.clone(),
            references: self.references.clone(),
            restart_count: tracked.restart_count,
        };
        let task_events = self.task_events.clone();
        self.tasks.spawn(async move {
            let result = start(to_start).await.map(Box::new);
            // Fails only if the Pod's task has ended. The started process is then found by its record.
            let _ = task_events.send(PodTaskReport::Started { index, result }).await;
        });
    }

    pub(super) fn start_failed(&mut self, index: usize, failure: StartFailure) {
        let StartFailure { reason, message } = &failure;
        let event = match reason.as_str() {
            "ContainerCreating" => "FailedMount",
            _ => "Failed",
        };
        // An event is recorded once, not at each attempt.
        let is_new = |tracked: &&TrackedContainer| !matches!(&tracked.state, ContainerPhase::Starting { message: Some(reported), .. } if reported == message);
        if let Some(container) = self.lifecycle.containers.get(index).filter(is_new) {
            let event_key = EventKey::container(&self.pod, &container.name);
            self.node.events.warning(event_key, event, message.clone());
        }
        tracing::debug!(pod = self.pod.metadata.name, reason, message, "container not started");
        self.lifecycle.start_failed(index, failure, Timestamp::now());
    }

    /// Records that a process of a container exists, and starts its probes and its postStart hook.
    pub(super) fn container_started(&mut self, index: usize, started: StartedContainer) {
        let StartedContainer { run, image_id, since, exit, loopback_bind } = started;
        let Some(container) = self.container(index) else { return };
        let note = format!("Started container {}", container.name);
        let event_key = EventKey::container(&self.pod, &container.name);
        self.node.events.normal(event_key, "Started", note);
        if let Some(argument) = loopback_bind {
            let note = format!(
                "container {} binds `{argument}`: Pods share one network on this local host, bind $(POD_IP) instead",
                container.name
            );
            self.node.events.warning(event_key, "LoopbackBind", note);
        }
        self.lifecycle.running(index, run.id(), image_id, since);
        let running = RunningContainer {
            run: Arc::new(run),
            ended: CancellationToken::new(),
            post_start_done: false,
            startup_passed: false,
            message: None,
        };
        let (task_events, name) = (self.task_events.clone(), running.run.name.clone());
        self.tasks.spawn(async move {
            // An error means that the thread of all processes has ended, and so has this agent.
            if let Ok(exit) = exit.await {
                let _ = task_events.send(PodTaskReport::Exited { index, run: name, exit }).await;
            }
        });
        let hook = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref());
        let hook = hook.map(|hook| {
            HandlerAction::of_hook(hook, &container, &self.placement.pod_ip.to_string())
        });
        self.spawn_probes(index, &container, &running);
        let (run, ended) = (running.run.clone(), running.ended.clone());
        self.running.insert(index, running);
        match hook {
            None => self.post_start_done(index),
            Some(hook) => {
                let task_events = self.task_events.clone();
                self.tasks.spawn(async move {
                    let performed = handler_actions::perform(
                        &hook,
                        &run.inside,
                        "post-start",
                        POST_START_LIMIT,
                    );
                    let result = tokio::select! {
                        result = performed => result,
                        () = ended.cancelled() => return,
                    };
                    let run = run.name.clone();
                    let _ = task_events.send(PodTaskReport::PostStart { index, run, result }).await;
                });
            }
        }
    }

    pub(super) fn post_start(
        &mut self,
        index: usize,
        run: &str,
        result: Result<(), ProbeOrHookError>,
    ) {
        if !self.is_current(index, run) {
            return;
        }
        match result {
            Ok(()) => self.post_start_done(index),
            Err(error) => {
                let note = format!("PostStartHook failed: {}", error_chain(&error));
                let name = self.container(index).map(|container| container.name);
                let event_key = EventKey { container: name.as_deref(), ..EventKey::pod(&self.pod) };
                self.node.events.warning(event_key, "FailedPostStartHook", note.clone());
                self.end_run(index, note, None);
            }
        }
    }

    fn post_start_done(&mut self, index: usize) {
        let Some(running) = self.running.get_mut(&index) else { return };
        running.post_start_done = true;
        self.record_started(index);
    }

    /// Records that a container has started, once its postStart hook has finished and its startup probe has
    /// passed.
    fn record_started(&mut self, index: usize) {
        let Some(running) = self.running.get(&index) else { return };
        let probed =
            self.lifecycle.containers.get(index).is_some_and(|container| container.has_startup());
        if running.post_start_done && (running.startup_passed || !probed) {
            self.lifecycle.started(index);
        }
    }

    /// Processes a changed result of a probe.
    pub(super) fn verdict(&mut self, index: usize, kind: ProbeKind, passed: bool, failure: String) {
        match (kind, passed) {
            (ProbeKind::Startup, true) => {
                if let Some(running) = self.running.get_mut(&index) {
                    running.startup_passed = true;
                }
                self.record_started(index);
            }
            (ProbeKind::Readiness, passes) => self.lifecycle.readiness(index, passes),
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                let name =
                    self.lifecycle.containers.get(index).map(|container| container.name.clone());
                let name = name.unwrap_or_default();
                let probe = kind.name().to_lowercase();
                let note =
                    format!("Container {name} failed {probe} probe, will be restarted: {failure}");
                self.end_run(index, note, Some(kind));
            }
        }
    }

    /// Returns the time at which the current run of a container started.
    pub(super) fn since(&self, index: usize) -> Option<Timestamp> {
        match &self.lifecycle.containers.get(index)?.state {
            ContainerPhase::Running { since, .. } => Some(*since),
            ContainerPhase::Waiting { .. }
            | ContainerPhase::Starting { .. }
            | ContainerPhase::Ended { .. } => None,
        }
    }
}
