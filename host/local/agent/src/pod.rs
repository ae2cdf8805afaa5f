//! The task of one Pod: performs the actions that [`PodLifecycle`] decides, and reports to it what happened.
//!
//! ```text
//! API object, ends of processes, probes, hooks, references ─► Happened ─► Lifecycle ─► Effect ─► tasks
//!                                                                     └─► status ─► API server
//! ```
//!
//! One task per Pod owns all of this state, so no lock is needed. Work that takes time (a start, a stop, a
//! probe) runs in a task of its own, in a set that is joined or dropped with the Pod.
//!
//! Invariants:
//! - The end of a process is in the Pod's status before anything else is done about it.
//! - A container is not started again while a process of its last run still exists.
//! - The Pod object is deleted only after no process of the Pod runs and its directory is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config_source::{self, ConfigSourceRef, ConfigSourceState, ConfigSourceStates};
use crate::config_watches::ConfigMapAndSecretWatches;
use crate::directory::PodDirectory;
use crate::downward::DownwardApiPlacement;
use crate::events::{EventKey, EventRecorder};
use crate::handler_actions::ProbeOrHookError;
use crate::images::ImageStore;
use crate::lifecycle::{
    ContainerAction, ContainerTermination, PodLifecycle, PodTerminationCause, StartFailure,
};
use crate::options::AgentOptions;
use crate::probe::ProbeKind;
use crate::processes::{ProcessExit, ProcessSpawner};
use crate::rootfs::ContainerHostPaths;
use crate::status::{PodStatusAddresses, status};
use crate::storage::{self, PodVolumePreparer};

mod end;
mod launch;
mod probing;
mod start;
mod stop;
mod write;

pub(crate) use write::FIELD_MANAGER;

use start::{ContainerRun, StartedContainer};

/// How many events of a Pod's tasks may wait to be processed.
const TASK_EVENTS_MAX: usize = 256;

/// The pause between two attempts to allocate an address while none is free.
const ADDRESS_RETRY: Duration = Duration::from_secs(1);

/// The state that all Pods of one agent share.
#[derive(Debug)]
pub(crate) struct AgentContext {
    pub client: KubeClientWithDebug,
    pub options: AgentOptions,
    pub images: ImageStore,
    pub machine: ContainerHostPaths,
    pub processes: ProcessSpawner,
    pub watches: ConfigMapAndSecretWatches,
    pub events: EventRecorder,
    pub user_namespace: bool,
}

/// A client with an implementation of `Debug`.
#[derive(Clone)]
pub(crate) struct KubeClientWithDebug(pub Client);

impl std::fmt::Debug for KubeClientWithDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeClient")
    }
}

impl std::ops::Deref for KubeClientWithDebug {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

/// The channels on which the agent notifies the task of a Pod. No notification can be missed, and none makes
/// the agent wait.
#[derive(Clone, Debug)]
pub(crate) struct PodSignals {
    /// The newest version of the object.
    pub pod: watch::Receiver<Arc<Pod>>,
    /// Cancelled when the object is deleted.
    pub deleted: CancellationToken,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
}

/// An event that a task of the Pod reports.
#[derive(Debug)]
enum PodTaskReport {
    Started { index: usize, result: Result<Box<StartedContainer>, StartFailure> },
    Exited { index: usize, run: String, exit: ProcessExit },
    Swept { index: usize },
    PostStart { index: usize, run: String, result: Result<(), ProbeOrHookError> },
    Verdict { index: usize, run: String, kind: ProbeKind, passed: bool, failure: String },
    Reference { key: ConfigSourceRef, found: ConfigSourceState },
}

/// A run of a container that has not ended.
#[derive(Debug)]
struct RunningContainer {
    run: Arc<ContainerRun>,
    ended: CancellationToken,
    /// Whether the postStart hook has finished. Until then a passed startup probe does not count.
    post_start_done: bool,
    startup_passed: bool,
    /// Why the agent ended the run; the message of its termination.
    message: Option<String>,
}

/// How a Pod's task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodTaskOutcome {
    /// The object was deleted, by this agent or by force.
    Removed,
    /// The agent stops. The Pod's object stays in the API server.
    Stopped,
}

struct PodWorker {
    node: Arc<AgentContext>,
    pod: Arc<Pod>,
    placement: DownwardApiPlacement,
    directory: PodDirectory,
    lifecycle: PodLifecycle,
    running: BTreeMap<usize, RunningContainer>,
    /// Containers of whose last run stray processes are still being ended.
    sweeping: BTreeSet<usize>,
    /// Containers to start as soon as their last run is swept and every object that the Pod references has
    /// been read.
    held: BTreeSet<usize>,
    references: ConfigSourceStates,
    task_events: mpsc::Sender<PodTaskReport>,
    tasks: JoinSet<()>,
    writer: JoinSet<()>,
    statuses: Option<watch::Sender<Option<PodStatus>>>,
    status: PodStatus,
    deadline: watch::Sender<Option<Instant>>,
}

/// Runs one Pod; returns when nothing is left to do for it on this node.
pub(crate) async fn run_pod(node: Arc<AgentContext>, mut signals: PodSignals) {
    let pod = signals.pod.borrow_and_update().clone();
    let uid = pod.uid().unwrap_or_default();
    let Some(placement) = allocate_placement(&node, &mut signals).await else { return };
    let (task_events, events) = mpsc::channel(TASK_EVENTS_MAX);
    let mut worker = PodWorker::new(node.clone(), pod, placement, task_events);
    if let Err(error) = worker.prepare().await {
        tracing::warn!(pod = worker.pod.name_any(), %error, "pod directory not made");
    }
    let outcome = worker.run(signals, events).await;
    if outcome == PodTaskOutcome::Removed {
        node.options.addresses.release(&uid);
    }
}

/// Retries until the Pod has an address. Returns `None` if the Pod is deleted or the agent stops before that.
async fn allocate_placement(
    node: &AgentContext,
    signals: &mut PodSignals,
) -> Option<DownwardApiPlacement> {
    loop {
        let pod = signals.pod.borrow_and_update().clone();
        let uid = pod.uid()?;
        let wanted = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        if let Some(pod_ip) = node.options.addresses.allocate(&uid, wanted) {
            let options = &node.options.node;
            let capacity = quantities(&options.capacity);
            let (node, host_ip) = (options.name.clone(), options.address);
            return Some(DownwardApiPlacement { node, host_ip, pod_ip, capacity });
        }
        if pod.metadata.deletion_timestamp.is_some() {
            write::remove(node.client.0.clone(), &pod).await;
            return None;
        }
        let note = "no address is left in the node's block".to_owned();
        node.events.warning(EventKey::pod(&pod), "FailedCreatePodSandBox", note);
        tokio::select! {
            () = sleep(ADDRESS_RETRY) => {}
            () = signals.deleted.cancelled() => return None,
            () = signals.stop.cancelled() => return None,
        }
    }
}

/// Converts texts to quantities.
fn quantities(texts: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    texts.iter().map(|(name, text)| (name.clone(), Quantity(text.clone()))).collect()
}

impl PodWorker {
    fn new(
        node: Arc<AgentContext>,
        pod: Arc<Pod>,
        placement: DownwardApiPlacement,
        task_events: mpsc::Sender<PodTaskReport>,
    ) -> Self {
        let uid = pod.uid().unwrap_or_default();
        let (statuses, to_write) = watch::channel(None);
        let mut writer = JoinSet::new();
        writer.spawn(write::write_statuses(node.client.0.clone(), Pod::clone(&pod), to_write));
        Self {
            directory: PodDirectory::new(&node.options.directory, &uid),
            lifecycle: PodLifecycle::new(&pod, Timestamp::now()),
            running: BTreeMap::new(),
            sweeping: BTreeSet::new(),
            held: BTreeSet::new(),
            references: ConfigSourceStates::new(),
            task_events,
            tasks: JoinSet::new(),
            writer,
            statuses: Some(statuses),
            status: pod.status.clone().unwrap_or_default(),
            deadline: watch::Sender::new(None),
            node,
            pod,
            placement,
        }
    }

    /// Creates the Pod's own files, and subscribes to the objects that it references.
    async fn prepare(&mut self) -> std::io::Result<()> {
        storage::write_pod_files(&self.pod, &self.directory)?;
        let namespace = self.pod.namespace().unwrap_or_default();
        for key in config_source::referenced_by(&self.pod) {
            let mut follow = self.node.watches.follow(&namespace, &key).await;
            self.references.insert(key.clone(), follow.borrow_and_update().clone());
            let task_events = self.task_events.clone();
            self.tasks.spawn(async move {
                while follow.changed().await.is_ok() {
                    let found = follow.borrow_and_update().clone();
                    let event = PodTaskReport::Reference { key: key.clone(), found };
                    if task_events.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    async fn run(
        &mut self,
        mut signals: PodSignals,
        mut events: mpsc::Receiver<PodTaskReport>,
    ) -> PodTaskOutcome {
        let mut names = self.node.options.hosts.lines(&self.pod.namespace().unwrap_or_default());
        self.write_hosts(&mut names);
        let pod = self.pod.clone();
        self.pod_changed(pod);
        loop {
            self.act();
            self.publish_status();
            if self.lifecycle.has_ended() && self.sweeping.is_empty() && self.is_being_deleted() {
                tokio::select! {
                    () = self.finish() => {}
                    () = signals.deleted.cancelled() => self.remove_directory().await,
                    () = signals.stop.cancelled() => return PodTaskOutcome::Stopped,
                }
                return PodTaskOutcome::Removed;
            }
            let next_check = self.lifecycle.next_check();
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.handle_event(event),
                () = signals.deleted.cancelled() => {
                    self.end_immediately(&mut events).await;
                    return PodTaskOutcome::Removed;
                }
                () = signals.stop.cancelled() => {
                    self.end_with_agent(&mut events).await;
                    return PodTaskOutcome::Stopped;
                }
                Ok(()) = signals.pod.changed() => {
                    let pod = signals.pod.borrow_and_update().clone();
                    self.pod_changed(pod);
                }
                Some(_) = self.tasks.join_next() => {}
                changed = names.changed(), if names.has_changed().is_ok() => {
                    if changed.is_ok() {
                        self.write_hosts(&mut names);
                    }
                }
                () = until(next_check) => {}
            }
        }
    }

    fn is_being_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    fn write_hosts(&self, names: &mut watch::Receiver<Arc<str>>) {
        let lines = names.borrow_and_update().clone();
        let written = storage::write_hosts(&self.pod, &self.placement, &self.directory, &lines);
        if let Err(error) = written {
            tracing::warn!(pod = self.pod.name_any(), %error, "hosts file not written");
        }
    }

    /// Processes a new version of the object.
    fn pod_changed(&mut self, pod: Arc<Pod>) {
        self.pod = pod;
        if self.is_being_deleted() {
            let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
            let deadline = Instant::now() + grace;
            // A later deletion may shorten the grace period but never extend it.
            self.deadline.send_if_modified(|current| {
                let shorter = current.is_none_or(|current| deadline < current);
                if shorter {
                    *current = Some(deadline);
                }
                shorter
            });
            self.lifecycle.end(PodTerminationCause::Deletion);
        }
        // Volumes can contain labels and annotations.
        self.storage().refresh(&self.references);
    }

    fn storage(&self) -> PodVolumePreparer<'_> {
        PodVolumePreparer {
            client: &self.node.client,
            pod: &self.pod,
            placement: &self.placement,
            directory: &self.directory,
            allow_host_path: self.node.options.allow_host_path,
        }
    }

    /// Performs the actions that the life cycle decides now.
    fn act(&mut self) {
        if self.lifecycle.is_ending() {
            for index in std::mem::take(&mut self.held) {
                self.lifecycle.not_started(index);
            }
        }
        for effect in self.lifecycle.decide(Timestamp::now()) {
            match effect {
                ContainerAction::Start(index) => {
                    self.held.insert(index);
                }
                ContainerAction::Stop(index) => self.stop(index, None),
            }
        }
        self.start_held();
    }

    /// Starts the held containers that can be started now.
    fn start_held(&mut self) {
        if self.references.values().any(|found| *found == ConfigSourceState::Unknown) {
            return;
        }
        let free = self.held.iter().filter(|index| !self.sweeping.contains(*index)).copied();
        for index in free.collect::<Vec<_>>() {
            self.held.remove(&index);
            self.start(index);
        }
    }

    /// Publishes the status to the API server if it changed.
    fn publish_status(&mut self) {
        let addresses =
            PodStatusAddresses { host: self.placement.host_ip, pod: Some(self.placement.pod_ip) };
        let now = Timestamp::now();
        let status = status(&self.pod, &self.lifecycle, addresses, &self.status, now);
        let first = self.statuses.as_ref().is_some_and(|statuses| statuses.borrow().is_none());
        if status == self.status && !first {
            return;
        }
        self.status = status.clone();
        if let Some(statuses) = &self.statuses {
            statuses.send_replace(Some(status));
        }
    }

    fn handle_event(&mut self, event: PodTaskReport) {
        match event {
            PodTaskReport::Started { index, result: Ok(started) } => {
                self.container_started(index, *started)
            }
            PodTaskReport::Started { index, result: Err(failure) } => {
                self.start_failed(index, failure)
            }
            PodTaskReport::Exited { index, run, exit } => self.exited(index, &run, exit),
            PodTaskReport::Swept { index } => {
                self.sweeping.remove(&index);
            }
            PodTaskReport::PostStart { index, run, result } => self.post_start(index, &run, result),
            PodTaskReport::Verdict { index, run, kind, passed, failure } => {
                if self.is_current(index, &run) {
                    self.verdict(index, kind, passed, failure);
                }
            }
            PodTaskReport::Reference { key, found } => {
                self.references.insert(key, found);
                self.storage().refresh(&self.references);
                self.lifecycle.retry_now();
            }
        }
    }

    fn is_current(&self, index: usize, run: &str) -> bool {
        self.running.get(&index).is_some_and(|running| running.run.name == run)
    }

    fn exited(&mut self, index: usize, run: &str, exit: ProcessExit) {
        let Some(running) = self.running.remove(&index).filter(|running| running.run.name == run)
        else {
            return;
        };
        running.ended.cancel();
        let Some(container) = self.container(index) else { return };
        let Some(since) = self.since(index) else { return };
        let start_error = running.run.start_error();
        let reason = match start_error {
            Some(_) => "StartError",
            None => ContainerTermination::reason_of(exit.code),
        };
        let termination_message =
            running.run.termination_message().or_else(|| log_tail(&container, &exit));
        let ended = ContainerTermination {
            id: running.run.id(),
            code: exit.code,
            signal: exit.signal,
            reason: reason.into(),
            message: start_error.or(termination_message).or(running.message),
            started_at: since,
            finished_at: exit.at,
        };
        self.lifecycle.ended(index, ended);
        // The status is published before anything else is done: others act on the proof that the process has
        // ended.
        self.publish_status();
        self.directory.forget(&container.name);
        self.sweep(index, running.run);
    }

    fn container(&self, index: usize) -> Option<Container> {
        let name = &self.lifecycle.containers.get(index)?.name;
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|container| &container.name == name).cloned()
    }
}

/// Returns the end of the log, for a container that failed and whose policy asks for it.
fn log_tail(container: &Container, exit: &ProcessExit) -> Option<String> {
    let asks = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    (asks && exit.code != 0 && !exit.output.is_empty()).then(|| exit.output.clone())
}

/// Waits until `moment`, or forever if there is none.
async fn until(moment: Option<Timestamp>) {
    let Some(moment) = moment else { return std::future::pending().await };
    let left = moment.duration_since(Timestamp::now());
    sleep(Duration::try_from(left).unwrap_or_default()).await;
}
