//! Connects the parts of the host and runs them until a stop. One loop is here: it enqueues the objects that wait for
//! results of polling Redis or for changes of the store.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tholepin_admin::{AdminServer, HealthServer};
use tholepin_controller::{
    Controller, ControllerPorts, ControllerSettings, DryRunObjectSource, DryRunner,
    HostStatusCollector, PluginObjectWriter, PluginRegistryFollower, SteadyClock, host_name,
    install_when_available, queue::QueuePriority,
};
use tholepin_core::{
    ReconcileReport,
    port::{PollReport, StoreSubscription, WatchSource, WatchedStoreEvent},
};
use tholepin_gate::{Gate, GatePorts};
use tholepin_guest::{CompilationNotice, GuestEngine, PluginRegistry, PluginRegistryOptions};
use tholepin_kube::{KubernetesApi, KubernetesApiOptions, SecretFingerprinter, WatchHubOptions};
use tholepin_probe::NetworkPodPortProber;
use tholepin_redis::{RedisClient, RedisClientLimits};
use tokio::{
    sync::{broadcast, mpsc},
    task::{JoinSet, coop::consume_budget},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    adapters::{GateToControllerAdapter, KubeClientApiKinds, PluginRegistryAdapter, SystemEntropy},
    admin::HostAdminRoutes,
    cli::{EngineArgs, ListenArgs},
    health::HostHealthSource,
    metrics,
    plugin_kind::plugin_kind,
    user_files::{admin_file, cache_directory, own_cache},
};

/// The most notices about plugins and instances that wait to be processed.
const NOTICES_MAX: usize = 1024;

/// How long a plan in the command line's own process waits for the watches that the plugin needs.
const STANDALONE_DEADLINE: Duration = Duration::from_secs(20);

/// The code of a plugin that was not called for this long is unloaded. Longer than the requeue of a healthy
/// RedisCluster.
const CODE_IDLE_MAX: Duration = Duration::from_secs(20);

/// The task that writes the `Plugin` objects.
const PLUGIN_OBJECTS_TASK: &str = "plugin objects";

/// How long it may take to write into the `Plugin` objects that the host stops.
const ENDING_DEADLINE: Duration = Duration::from_secs(2);

/// The options of a host.
pub(crate) struct EngineOptions {
    /// The kubeconfig; kubectl's default places if absent.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The options of the command line.
    pub(crate) arguments: EngineArgs,
    /// Keeps the last revisions of plugins, and refuses those that were rolled back.
    pub(crate) keeps_history: bool,
    /// Called when a compilation begins and when it has ended.
    pub(crate) on_compilation: fn(&CompilationNotice),
    /// Accepts `grants: asRequested`, and installs the kinds that plugins bring.
    pub(crate) trusts_plugins: bool,
}

/// Connects to a cluster and starts no task.
///
/// # Errors
///
/// Fails if the kubeconfig cannot be used.
pub(crate) async fn connect(kubeconfig: Option<PathBuf>) -> Result<Arc<KubernetesApi>> {
    let options = KubernetesApiOptions {
        kubeconfig,
        fingerprinter: SecretFingerprinter::new(rand::random()),
        reporting_instance: host_name::own_name(),
        hub: WatchHubOptions::default(),
    };
    Ok(KubernetesApi::connect(options).await?)
}

/// Runs the host until `stop`. Calls `ready` when the plugins of the directory were scanned once.
///
/// # Errors
///
/// Fails if a part does not start, or if a part ends before `stop`.
pub(crate) async fn run(
    options: EngineOptions,
    addresses: ListenArgs,
    stop: CancellationToken,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> Result<()> {
    let recorder = metrics::install()?;
    let kubernetes = connect(options.kubeconfig.clone()).await?;
    let AssembledEngine { registry, mut directory, redis, gate, controller, polls } =
        assemble(&options, kubernetes.clone())?;
    let health = Arc::new(HostHealthSource {
        controller: controller.clone(),
        kubernetes: kubernetes.clone(),
        registry: registry.clone(),
        recorder,
        started: AtomicBool::new(false),
    });
    let kinds = Arc::new(KubeClientApiKinds(kubernetes.clone()));

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let routes = Arc::new(HostAdminRoutes {
        dry_runner: DryRunner::new(controller.clone(), kinds.clone()),
        registry: registry.clone(),
        statuses: HostStatusCollector::new(
            controller.clone(),
            Arc::new(GateToControllerAdapter(gate.clone())),
            plugin_kind(),
        ),
    });
    listen(&mut tasks, addresses, health.clone(), routes, &stop).await?;
    let definitions = tholepin_crd::definitions();
    let installed = install_when_available(&*kinds, definitions, &stop).await;
    if !installed.context("cannot install the engine's kinds")? {
        return Ok(());
    }
    let (events, plugin_events) = mpsc::channel(NOTICES_MAX);
    let objects = PluginObjectWriter::new(
        controller.clone(),
        kinds,
        plugin_kind(),
        host_name::own_name(),
        events,
    );
    let reports = Arc::new(PluginRegistryAdapter(registry.clone()));
    let follower = PluginRegistryFollower::new(objects, reports, options.trusts_plugins);
    let reports = registry.subscribe();
    let compilations = registry.compilations();
    tasks.spawn(named("compilations", follow(compilations, options.on_compilation)));
    directory.scan().await;
    // Before the watches start, so that none of them finds its kind missing and logs a warning.
    for name in registry.plugins().keys() {
        follower.install_kinds(name).await;
    }
    let ending = CancellationToken::new();
    tasks.spawn(named(PLUGIN_OBJECTS_TASK, follower.run(reports, ending.clone())));
    tasks.spawn(named("plugin directory", directory.run()));
    {
        let (kubernetes, stop) = (kubernetes.clone(), stop.clone());
        tasks.spawn(named("watches", async move { kubernetes.run(stop).await }));
    }
    tasks.spawn(named("redis polling", async move { redis.run_polling().await }));
    tasks.spawn(named(
        "wakes",
        enqueue_woken(gate, controller.clone(), polls, kubernetes.changes()),
    ));
    {
        let stop = stop.clone();
        tasks.spawn(named("controller", async move { controller.run(plugin_events, stop).await }));
    }
    health.started.store(true, Ordering::Release);
    info!("ready");
    ready()?;
    finish(tasks, stop, ending).await
}

/// Passes each compilation to `notify` as long as the host runs.
async fn follow(
    mut compilations: broadcast::Receiver<CompilationNotice>,
    notify: fn(&CompilationNotice),
) {
    loop {
        match compilations.recv().await {
            Ok(compilation) => notify(&compilation),
            // Lost notices are outdated.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Logs the begin and the end of a compilation.
pub(crate) fn log_compilation(CompilationNotice { plugin, bytes, took }: &CompilationNotice) {
    match took {
        None => info!(%plugin, bytes, "compiling the plugin"),
        Some(took) => info!(%plugin, bytes, ?took, "compiled the plugin"),
    }
}

/// Starts the servers for the command line, scrapers and the kubelet.
async fn listen(
    tasks: &mut JoinSet<&'static str>,
    addresses: ListenArgs,
    health: Arc<HostHealthSource>,
    routes: Arc<HostAdminRoutes>,
    stop: &CancellationToken,
) -> Result<()> {
    let ListenArgs { admin, metrics_address } = addresses;
    let server = HealthServer::bind(metrics_address).await?;
    let admin = AdminServer::bind(admin_file(admin.admin_file)?, server.address(), routes).await?;
    info!(address = %server.address(), "serving /metrics, /healthz and /readyz");
    tasks.spawn(named(
        "metrics maintenance",
        HostHealthSource::maintain_histograms(health.recorder.clone()),
    ));
    tasks.spawn(named("health server", server.run(health, stop.clone())));
    tasks.spawn(named("admin API", admin.run(stop.clone())));
    Ok(())
}

fn limits(arguments: &EngineArgs) -> RedisClientLimits {
    let watch_interval = Duration::from_millis(arguments.poll_interval_ms);
    RedisClientLimits { watch_interval, ..RedisClientLimits::default() }
}

fn settings(arguments: &EngineArgs) -> ControllerSettings {
    ControllerSettings {
        concurrency: arguments.computing().into(),
        in_flight: arguments.in_flight.into(),
        resync: Duration::from_secs(arguments.resync_seconds),
    }
}

/// Plans one reconcile in this process: connects, waits for the watches that the plugin needs, plans, ends.
///
/// # Errors
///
/// Fails if the API server cannot be reached, or if there is no plan.
pub(crate) async fn plan(
    options: EngineOptions,
    request: DryRunObjectSource,
) -> Result<ReconcileReport> {
    let kubernetes = connect(options.kubeconfig.clone()).await?;
    let assembled = assemble(&options, kubernetes.clone())?;
    let AssembledEngine { registry, mut directory, controller, redis: _, gate: _, polls: _ } =
        assembled;
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(registry.compilations(), options.on_compilation));
    directory.scan().await;
    for report in registry.reports().values() {
        if let Some(reason) = report.reason {
            let (name, message) = (&report.name, &report.message);
            warn!(plugin = %name, %reason, message, "the plugin is refused");
        }
    }
    let stop = CancellationToken::new();
    {
        let (kubernetes, stop) = (kubernetes.clone(), stop.clone());
        tasks.spawn(async move { kubernetes.run(stop).await });
    }
    let dry_runner = DryRunner::new(controller.clone(), Arc::new(KubeClientApiKinds(kubernetes)));
    let kind = dry_runner.kind(&request).await?;
    let plugin = controller.plugin_for(&kind)?;
    let leases = controller.watch_for(&plugin, STANDALONE_DEADLINE).await?;
    let report = dry_runner.dry_run(request).await;
    drop(leases);
    stop.cancel();
    tasks.shutdown().await;
    Ok(report?)
}

/// The connected parts, of which none runs yet.
struct AssembledEngine {
    registry: Arc<PluginRegistry>,
    directory: tholepin_guest::DirectoryWatch,
    redis: Arc<RedisClient>,
    gate: Arc<Gate>,
    controller: Arc<Controller>,
    polls: mpsc::Receiver<PollReport>,
}

fn assemble(options: &EngineOptions, kubernetes: Arc<KubernetesApi>) -> Result<AssembledEngine> {
    let (registry, directory) = open_registry(options)?;
    let (reports, polls) = mpsc::channel(NOTICES_MAX);
    let clock = Arc::new(SteadyClock::start());
    let redis = Arc::new(RedisClient::new(limits(&options.arguments), clock.clone(), reports));
    let gate = Gate::new(GatePorts {
        kubernetes: kubernetes.clone(),
        redis: redis.clone(),
        prober: Arc::new(NetworkPodPortProber),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
    });
    let contexts = Arc::new(GateToControllerAdapter(gate.clone()));
    let ports = ControllerPorts {
        kubernetes: kubernetes.clone(),
        watches: kubernetes.clone(),
        host_fields: kubernetes,
        redis: redis.clone(),
        plugins: Arc::new(PluginRegistryAdapter(registry.clone())),
        contexts: contexts.clone(),
        wakes: contexts,
        clock,
    };
    let controller = Arc::new(Controller::new(ports, settings(&options.arguments)));
    Ok(AssembledEngine { registry, directory, redis, gate, controller, polls })
}

/// Waits for the stop, then for the running reconciles, and then until the `Plugin` objects show the stop.
///
/// # Errors
///
/// Fails if a part ends before the stop.
async fn finish(
    mut tasks: JoinSet<&'static str>,
    stop: CancellationToken,
    ending: CancellationToken,
) -> Result<()> {
    let first = tasks.join_next().await;
    if !stop.is_cancelled() {
        stop.cancel();
        return match first {
            Some(Ok(part)) => {
                Err(anyhow!("the task `{part}` ended although no stop was requested"))
            }
            Some(Err(error)) => Err(anyhow!(error)),
            None => Err(anyhow!("nothing was started")),
        };
    }
    let mut ended = first;
    while !matches!(ended, Some(Ok("controller")) | None) {
        ended = tasks.join_next().await;
    }
    ending.cancel();
    let written =
        async { while !matches!(tasks.join_next().await, Some(Ok(PLUGIN_OBJECTS_TASK)) | None) {} };
    if timeout(ENDING_DEADLINE, written).await.is_err() {
        warn!("could not write in time into the Plugin objects that this host stops");
    }
    tasks.shutdown().await;
    Ok(())
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

fn open_registry(
    options: &EngineOptions,
) -> Result<(Arc<PluginRegistry>, tholepin_guest::DirectoryWatch)> {
    // Every running reconcile keeps an instance.
    let calls = options.arguments.in_flight.max(options.arguments.computing());
    let history = match &options.arguments.history {
        _ if !options.keeps_history => None,
        Some(history) => Some(history.clone()),
        None => Some(own_cache()?.join("revisions")),
    };
    let registry = PluginRegistryOptions {
        directory: options.arguments.plugins.clone(),
        cache: cache_directory()?,
        history,
        allow_as_requested: options.trusts_plugins,
        idle_max: CODE_IDLE_MAX,
    };
    Ok(PluginRegistry::open(Arc::new(GuestEngine::new(calls.into())?), registry)?)
}

/// Enqueues the objects that wait for a result of polling Redis, or for a change of the store.
async fn enqueue_woken(
    gate: Arc<Gate>,
    controller: Arc<Controller>,
    mut polls: mpsc::Receiver<PollReport>,
    mut changes: Box<dyn StoreSubscription>,
) {
    loop {
        let woken = tokio::select! {
            poll = polls.recv() => match poll {
                Some(poll) => gate.woken_by_poll(&poll),
                None => return,
            },
            event = changes.next() => match event {
                Some(WatchedStoreEvent::Changed(change)) => gate.woken_by_change(&change),
                Some(WatchedStoreEvent::Overflowed) => gate.woken_by_overflow(),
                Some(WatchedStoreEvent::Resumed) => Vec::new(),
                None => return,
            },
        };
        for (key, cause) in woken {
            controller.enqueue(&key, QueuePriority::Event, cause);
        }
        // Yields now and then, so that a long backlog does not delay the other tasks.
        consume_budget().await;
    }
}
