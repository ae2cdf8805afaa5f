//! Runs one node: checks what the machine allows, registers the Node object, and starts a task for each Pod.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config_watches::{ConfigMapAndSecretWatches, ConfigMapSecretWatchTask};
use crate::directory::{PodDirectory, make_private, pod_uids};
use crate::events::{self, EventRecorder};
use crate::images::ImageStore;
use crate::namespaces::{self, LinuxNamespaceError};
use crate::node;
use crate::options::AgentOptions;
use crate::orphans::clean_up;
use crate::pod::{AgentContext, KubeClientWithDebug, PodSignals, run_pod};
use crate::processes::ProcessSpawner;
use crate::rootfs::ContainerHostPaths;

/// How long Pods may take to end with the agent, beyond the stop grace.
const STOP_SLACK: Duration = Duration::from_secs(15);

/// Why an agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The agent's directory cannot be used.
    #[error("prepare the agent's directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Containers cannot get a private root on this machine.
    #[error(transparent)]
    Namespace(#[from] LinuxNamespaceError),
    /// The thread that starts processes could not be created.
    #[error("start the thread that starts containers")]
    Thread {
        /// The error of the operating system.
        source: io::Error,
    },
    /// A task ended that must last as long as the agent.
    #[error("the agent's {task} task ended")]
    TaskEnded {
        /// The name of the task.
        task: &'static str,
    },
}

/// Runs the node until `stop`, then ends its containers.
///
/// Reaches the API server only through `client`, and survives restarts of it. Several agents may run in one
/// process, each with its own directory.
///
/// # Guarantees
///
/// When this returns, no process that it started runs any more. If the future is dropped or the process is
/// killed instead, the containers' processes are killed with it, and [`clean_up`] (which this calls first)
/// ends the processes that those have left behind.
///
/// # Errors
///
/// Returns an error if the directory cannot be used, if the machine allows no private root (the error names
/// the setting to change), or if a task ends that must last as long as the agent.
pub async fn run(
    client: Client,
    options: AgentOptions,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let fail = |source| AgentError::Directory { path: options.directory.clone(), source };
    make_private(&options.directory.join("pods")).map_err(fail)?;
    let directory = options.directory.canonicalize().map_err(fail)?;
    let options = AgentOptions { directory: directory.clone(), ..options };
    let cleaned = tokio::task::spawn_blocking(move || clean_up(&directory)).await;
    let cleaned = cleaned.map_err(io::Error::other).and_then(|cleaned| cleaned);
    let cleanup = cleaned
        .map_err(|source| AgentError::Directory { path: options.directory.clone(), source })?;
    if cleanup.processes > 0 {
        tracing::warn!(
            processes = cleanup.processes,
            "ended processes that a killed agent left behind"
        );
    }
    let (processes, thread) = ProcessSpawner::start(options.container_program.clone())
        .map_err(|source| AgentError::Thread { source })?;
    let result = serve(client, options, processes, stop).await;
    // All handles are dropped, so the thread ends, and with it every process that it started.
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::error!("the thread that starts containers panicked");
    }
    result
}

async fn serve(
    client: Client,
    options: AgentOptions,
    processes: ProcessSpawner,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let user_namespace = namespaces::probe(&processes, &options.directory).await?;
    let (watches, watch_server) = ConfigMapAndSecretWatches::new();
    let (events, queued) = EventRecorder::new();
    let name = options.node.name.clone();
    let node = Arc::new(AgentContext {
        client: KubeClientWithDebug(client.clone()),
        images: ImageStore::new(options.images.clone()),
        machine: ContainerHostPaths::read(),
        processes,
        watches,
        events,
        user_namespace,
        options,
    });
    tokio::select! {
        () = node::register(&client, &node.options.node) => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(node = name, user_namespace, "node registered");
    let mut background = AgentTasks::start(&client, &name, watch_server, queued);
    let mut pods = PodTable {
        node: node.clone(),
        tasks: JoinSet::new(),
        known: BTreeMap::new(),
        stop: CancellationToken::new(),
    };
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let events = pin!(watch_objects(api, config).default_backoff());
    let result = tokio::select! {
        () = pods.follow(events) => Err(AgentError::TaskEnded { task: "pod watch" }),
        task = background.ended() => Err(AgentError::TaskEnded { task }),
        () = stop.cancelled() => Ok(()),
    };
    pods.stop().await;
    background.tasks.shutdown().await;
    result
}

/// Tasks that must last as long as the agent.
struct AgentTasks {
    tasks: JoinSet<&'static str>,
}

impl AgentTasks {
    fn start(
        client: &Client,
        name: &str,
        watches: ConfigMapSecretWatchTask,
        queued: mpsc::Receiver<events::QueuedEvent>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let (lease_client, lease_name) = (client.clone(), name.to_owned());
        tasks.spawn(async move {
            node::renew_lease(lease_client, lease_name).await;
            "lease"
        });
        let watch_client = client.clone();
        tasks.spawn(async move {
            watches.serve(watch_client).await;
            "reference watch"
        });
        let (event_client, event_name) = (client.clone(), name.to_owned());
        tasks.spawn(async move {
            events::write(event_client, event_name, queued).await;
            "event"
        });
        Self { tasks }
    }

    async fn ended(&mut self) -> &'static str {
        self.tasks.join_next().await.and_then(Result::ok).unwrap_or("background")
    }
}

/// The Pods of the node, and their tasks.
struct PodTable {
    node: Arc<AgentContext>,
    /// Each task returns the uid of its Pod.
    tasks: JoinSet<String>,
    known: BTreeMap<String, PodTableEntry>,
    /// Tells the task of every Pod to end.
    stop: CancellationToken,
}

struct PodTableEntry {
    name: (String, String),
    pod: watch::Sender<Arc<Pod>>,
    deleted: CancellationToken,
}

impl PodTable {
    /// Processes the events of the Pod watch. Returns when the watch ends, which it does not in normal
    /// operation.
    async fn follow(
        &mut self,
        mut events: impl Stream<Item = Result<Event<Pod>, watcher::Error>> + Unpin,
    ) {
        let mut listed = BTreeSet::new();
        let mut is_tidied = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Some(ended) = self.tasks.join_next() => {
                    self.log_end(ended);
                    continue;
                }
            };
            match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.uid());
                    self.applied(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    let deleted = self.known.keys().filter(|uid| !listed.contains(*uid));
                    for uid in deleted.cloned().collect::<Vec<_>>() {
                        self.deleted(&uid);
                    }
                    if !std::mem::replace(&mut is_tidied, true) {
                        self.remove_unknown_directories();
                    }
                }
                Some(Ok(Event::Apply(pod))) => self.applied(pod),
                Some(Ok(Event::Delete(pod))) => {
                    self.deleted(&pod.uid().unwrap_or_default());
                }
                Some(Err(error)) => tracing::warn!(%error, "pod watch interrupted"),
                None => return,
            }
        }
    }

    fn applied(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let name = (pod.namespace().unwrap_or_default(), pod.name_any());
        let pod = Arc::new(pod);
        if let Some(known) = self.known.get(&uid) {
            known.pod.send_replace(pod);
            return;
        }
        // The deletion of the Pod that had this name was missed.
        let same_name = self.known.iter().filter(|(_, known)| known.name == name);
        for old in same_name.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.deleted(&old);
        }
        let (sender, receiver) = watch::channel(pod);
        let deleted = CancellationToken::new();
        let signals =
            PodSignals { pod: receiver, deleted: deleted.clone(), stop: self.stop.clone() };
        let node = self.node.clone();
        let task_uid = uid.clone();
        self.tasks.spawn(async move {
            run_pod(node, signals).await;
            task_uid
        });
        self.known.insert(uid, PodTableEntry { name, pod: sender, deleted });
    }

    fn deleted(&mut self, uid: &str) {
        if let Some(known) = self.known.remove(uid) {
            known.deleted.cancel();
        }
    }

    fn log_end(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            // The Pod stays in `known` until the API server reports its deletion, so that no second task is
            // started for it.
            Ok(uid) => tracing::debug!(uid, "pod task ended"),
            Err(error) => tracing::error!(%error, "pod task panicked"),
        }
    }

    /// Removes the directories of Pods that were deleted while no agent ran.
    fn remove_unknown_directories(&self) {
        let directory = &self.node.options.directory;
        for uid in pod_uids(directory).iter().filter(|uid| !self.known.contains_key(*uid)) {
            if let Err(error) = PodDirectory::new(directory, uid).remove() {
                tracing::warn!(uid, %error, "directory of a deleted pod not removed");
            }
        }
    }

    /// Ends all Pods' processes and waits for them.
    async fn stop(&mut self) {
        self.stop.cancel();
        let limit = self.node.options.stop_grace + STOP_SLACK;
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            tracing::error!("some pods did not end with the agent; their processes are killed");
        }
        self.tasks.shutdown().await;
    }
}
