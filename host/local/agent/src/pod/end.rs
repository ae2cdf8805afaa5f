//! Ends one run of a container, a Pod that is deleted, or the processes of a Pod whose agent stops.

use super::*;
use crate::error_chain::error_chain;
use crate::handler_actions::HandlerAction;
use crate::orphans;

/// How long writing the last status may take.
const LAST_STATUS_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take until the ends of killed processes are reported.
const KILLED_DEADLINE: Duration = Duration::from_secs(5);

impl PodWorker {
    /// Ends a run because a probe or a hook failed. The restart policy decides whether the container is
    /// started again.
    pub(super) fn end_run(&mut self, index: usize, why: String, kind: Option<ProbeKind>) {
        if self.lifecycle.stop_failing(index).is_none() {
            return;
        }
        if let Some(running) = self.running.get_mut(&index) {
            running.message = Some(why);
        }
        self.stop(index, kind);
    }

    /// Stops a container in the background. `failed` is the probe whose failure is the reason, if there is
    /// one.
    pub(super) fn stop(&mut self, index: usize, failed: Option<ProbeKind>) {
        let (Some(container), Some(running)) = (self.container(index), self.running.get(&index))
        else {
            return;
        };
        let why = running
            .message
            .clone()
            .unwrap_or_else(|| format!("Stopping container {}", container.name));
        self.node.events.normal(EventKey::container(&self.pod, &container.name), "Killing", why);
        let probe = match failed {
            Some(ProbeKind::Liveness) => container.liveness_probe.as_ref(),
            Some(ProbeKind::Startup) => container.startup_probe.as_ref(),
            Some(ProbeKind::Readiness) | None => None,
        };
        let spec_grace =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let deletion_grace = self.pod.metadata.deletion_grace_period_seconds;
        let grace = probing::probe_grace(probe).or(deletion_grace).or(spec_grace).unwrap_or(30);
        let hook = container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.as_ref());
        let to_stop = stop::ContainerStopRequest {
            run: running.run.clone(),
            ended: running.ended.clone(),
            pre_stop: hook.map(|hook| {
                HandlerAction::of_hook(hook, &container, &self.placement.pod_ip.to_string())
            }),
            grace: Duration::from_secs(u64::try_from(grace).unwrap_or_default()),
            deadline: self.deadline.subscribe(),
        };
        let (events, pod) = (self.node.events.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            if let Err(error) = stop::stop(to_stop).await {
                let event_key = EventKey::container(&pod, &container.name);
                let note = format!("PreStopHook failed: {}", error_chain(&error));
                events.warning(event_key, "FailedPreStopHook", note);
            }
        });
    }

    /// Ends the stray processes of a run and removes its root, in the background.
    pub(super) fn sweep(&mut self, index: usize, run: Arc<ContainerRun>) {
        self.sweeping.insert(index);
        let task_events = self.task_events.clone();
        self.tasks.spawn(async move {
            let swept = tokio::task::spawn_blocking(move || {
                orphans::end_runs(std::slice::from_ref(&run.name))?;
                std::fs::remove_dir_all(&run.directory)
            });
            if let Ok(Err(error)) = swept.await {
                tracing::warn!(%error, "container run not swept");
            }
            let _ = task_events.send(PodTaskReport::Swept { index }).await;
        });
    }

    /// Writes the last status, removes the Pod's directory, then deletes the object.
    pub(super) async fn finish(&mut self) {
        self.publish_status();
        self.statuses = None;
        if timeout(LAST_STATUS_DEADLINE, self.writer.join_next()).await.is_err() {
            tracing::warn!(pod = self.pod.name_any(), "last pod status not written in time");
        }
        self.tasks.shutdown().await;
        self.remove_directory().await;
        write::remove(self.node.client.0.clone(), &self.pod).await;
    }

    /// Kills everything. The object was deleted, so no grace period applies.
    pub(super) async fn end_immediately(&mut self, events: &mut mpsc::Receiver<PodTaskReport>) {
        self.kill_all();
        self.wait_for_ends(events, KILLED_DEADLINE).await;
        self.tasks.shutdown().await;
        self.end_strays().await;
        self.remove_directory().await;
    }

    /// Ends the processes because the agent stops. The Pod's object stays in the API server, and the next
    /// agent starts the Pod again; so the volumes are kept, and no status is written.
    pub(super) async fn end_with_agent(&mut self, events: &mut mpsc::Receiver<PodTaskReport>) {
        self.statuses = None;
        self.writer.abort_all();
        for running in self.running.values().filter(|running| running.run.is_same_process()) {
            orphans::signal(running.run.inside.pid, nix::sys::signal::Signal::SIGTERM);
        }
        self.wait_for_ends(events, self.node.options.stop_grace).await;
        self.kill_all();
        self.wait_for_ends(events, KILLED_DEADLINE).await;
        self.tasks.shutdown().await;
        self.end_strays().await;
    }

    fn kill_all(&self) {
        for running in self.running.values() {
            stop::kill(&running.run);
        }
    }

    /// Waits until no container runs. A container that is still being started is killed as soon as it runs.
    async fn wait_for_ends(&mut self, events: &mut mpsc::Receiver<PodTaskReport>, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.lifecycle.containers.iter().any(crate::lifecycle::TrackedContainer::is_active)
            || !self.running.is_empty()
        {
            let event = match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => event,
                Ok(None) | Err(_) => return,
            };
            match event {
                PodTaskReport::Exited { index, run, exit } => self.exited(index, &run, exit),
                PodTaskReport::Started { index, result: Ok(started) } => {
                    stop::kill(&started.run);
                    self.container_started(index, *started);
                }
                PodTaskReport::Started { index, result: Err(failure) } => {
                    self.start_failed(index, failure)
                }
                PodTaskReport::Swept { index } => {
                    self.sweeping.remove(&index);
                }
                PodTaskReport::PostStart { .. }
                | PodTaskReport::Verdict { .. }
                | PodTaskReport::Reference { .. } => {}
            }
        }
    }

    async fn end_strays(&self) {
        let directory = self.directory.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let mut runs = Vec::new();
            for container in directory.containers() {
                let path: PathBuf = directory.container(&container).join("runs");
                let names = std::fs::read_dir(&path).into_iter().flatten().flatten();
                runs.extend(names.filter_map(|entry| entry.file_name().into_string().ok()));
                directory.forget(&container);
            }
            if runs.is_empty() { Ok(0) } else { orphans::end_runs(&runs) }
        });
        if let Ok(Err(error)) = ended.await {
            tracing::warn!(pod = self.pod.name_any(), %error, "a container's process was not ended");
        }
    }

    pub(super) async fn remove_directory(&self) {
        let directory = self.directory.clone();
        let path = directory.path().to_owned();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || directory.remove()).await {
            tracing::warn!(path = %path.display(), %error, "pod directory not removed");
        }
    }
}
