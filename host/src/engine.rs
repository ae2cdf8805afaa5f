//! The host: connects the parts and runs them until told to stop.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use tholepin_admin::{AdminServer, HealthServer};
use tholepin_controller::{Controller, ControllerPorts, ControllerSettings, queue::QueuePriority};
use tholepin_core::{
    ReconcileReport,
    port::{PollReport, StoreEvent, StoreSubscription, WatchScope, WatchSource},
};
use tholepin_gate::{Gate, GatePorts};
use tholepin_guest::{CompilationNotice, GuestEngine, PluginRegistry, RegistryOptions};
use tholepin_kube::{KubernetesApi, KubernetesApiOptions, SecretFingerprinter, WatchHubOptions};
use tholepin_probe::TcpProber;
use tholepin_redis::{RedisClientLimits, RedisPort};
use tokio::{
    sync::{broadcast, mpsc},
    task::{JoinSet, coop::consume_budget},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    adapters::{GateContextFactory, ServingPlugins, SteadyClock, SystemEntropy},
    admin::HostRoutes,
    cli::{EngineArgs, ListenArgs},
    health::HostHealth,
    instance, metrics,
    planner::{PlanRequest, Planner},
    plugin_follower::PluginFollower,
    plugin_objects::{PluginObjects, plugin_reference},
    status::StatusReporter,
    user_files::{admin_file, cache_directory, own_cache},
};

/// Signals about plugins and instances that wait to be taken in.
const SIGNALS_MAX: usize = 1024;

/// How long a plan in the command line's own process waits for what the plugin needs to be watched.
const STANDALONE_DEADLINE: Duration = Duration::from_secs(20);

/// The code of a plugin that is not called for so long is given back. Longer than a healthy RedisCluster
/// waits between two looks.
const CODE_IDLE_MAX: Duration = Duration::from_secs(20);

/// How long a host that starts waits for the API server, and how long between two tries.
const API_SERVER_PATIENCE: Duration = Duration::from_secs(300);
const API_SERVER_PAUSE: Duration = Duration::from_secs(1);

/// The part that shows plugins in Kubernetes.
const REPORTS: &str = "plugin reports";

/// How long it may take to say in Kubernetes that the host stops.
const ENDING_DEADLINE: Duration = Duration::from_secs(2);

/// How the host is started.
pub(crate) struct EngineOptions {
    /// The kubeconfig; the usual places if absent.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The command line's.
    pub(crate) arguments: EngineArgs,
    /// Keep the last revisions of plugins, and heed which was taken back.
    pub(crate) keeps_history: bool,
    /// Hears of each compilation, when it begins and when it has ended.
    pub(crate) on_compilation: fn(&CompilationNotice),
    /// Accept `grants: asRequested`, and install the kinds that plugins bring.
    pub(crate) trusts_plugins: bool,
}

/// Connects to a cluster without starting anything.
///
/// # Errors
///
/// Fails if the kubeconfig cannot be used.
pub(crate) async fn connect(kubeconfig: Option<PathBuf>) -> Result<Arc<KubernetesApi>> {
    let options = KubernetesApiOptions {
        kubeconfig,
        fingerprint_key: SecretFingerprinter::new(rand::random()),
        reporting_instance: instance::own_name(),
        hub: WatchHubOptions::default(),
    };
    Ok(KubernetesApi::connect(options).await?)
}

/// Runs the host until `stop`. Calls `ready` when the plugins of the directory were looked at once.
///
/// # Errors
///
/// Fails if a part does not start, or if one that everything rests on ends by itself.
pub(crate) async fn run(
    options: EngineOptions,
    addresses: ListenArgs,
    stop: CancellationToken,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> Result<()> {
    let recorder = metrics::install()?;
    let kubernetes = connect(options.kubeconfig.clone()).await?;
    let AssembledEngine { registry, mut directory, redis, gate, controller, looks } =
        assemble(&options, kubernetes.clone())?;
    let planner = Planner { controller: controller.clone(), kubernetes: kubernetes.clone() };
    let vitals = Arc::new(HostHealth {
        controller: controller.clone(),
        kubernetes: kubernetes.clone(),
        registry: registry.clone(),
        recorder,
        started: AtomicBool::new(false),
    });

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let statuses = StatusReporter {
        controller: controller.clone(),
        kubernetes: kubernetes.clone(),
        plugins: ServingPlugins(registry.clone()),
        gate: gate.clone(),
    };
    let routes = Arc::new(HostRoutes { planner, registry: registry.clone(), statuses });
    listen(&mut tasks, addresses, vitals.clone(), routes, &stop).await?;
    if !install_kinds(&kubernetes, &stop).await? {
        return Ok(());
    }
    let (events, plugin_events) = mpsc::channel(SIGNALS_MAX);
    let objects = PluginObjects {
        kubernetes: kubernetes.clone(),
        controller: controller.clone(),
        host: instance::own_name(),
        shown: BTreeMap::new(),
        watched: kubernetes.lease(WatchScope::all(plugin_reference("").kind)),
        kept: BTreeMap::new(),
        events: events.clone(),
    };
    let follower = PluginFollower {
        registry: registry.clone(),
        kubernetes: kubernetes.clone(),
        events,
        installs_kinds: options.trusts_plugins,
        objects,
    };
    let reports = registry.subscribe();
    let compilations = registry.compilations();
    tasks.spawn(named("compilations", follow(compilations, options.on_compilation)));
    directory.scan().await;
    // Before anybody watches: a kind that is not there yet is looked for again only after a while.
    for name in registry.plugins().keys() {
        follower.install_kinds(name).await;
    }
    let ending = CancellationToken::new();
    tasks.spawn(named(REPORTS, follower.run(reports, ending.clone())));
    tasks.spawn(named("plugin directory", directory.run()));
    {
        let (kubernetes, stop) = (kubernetes.clone(), stop.clone());
        tasks.spawn(named("watches", async move { kubernetes.run(stop).await }));
    }
    tasks.spawn(named("redis watches", async move { redis.run_polling().await }));
    tasks.spawn(named("wakes", wake(gate, controller.clone(), looks, kubernetes.changes())));
    {
        let stop = stop.clone();
        tasks.spawn(named("controller", async move { controller.run(plugin_events, stop).await }));
    }
    vitals.started.store(true, Ordering::Release);
    info!("ready");
    ready()?;
    finish(tasks, stop, ending).await
}

/// Hands on each compilation for as long as the host runs.
async fn follow(
    mut compilations: broadcast::Receiver<CompilationNotice>,
    tell: fn(&CompilationNotice),
) {
    loop {
        match compilations.recv().await {
            Ok(compilation) => tell(&compilation),
            // Those that were lost are old.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Logs a compilation.
pub(crate) fn log_compilation(CompilationNotice { plugin, bytes, took }: &CompilationNotice) {
    match took {
        None => info!(%plugin, bytes, "compiling the plugin"),
        Some(took) => info!(%plugin, bytes, ?took, "compiled the plugin"),
    }
}

/// Installs the engine's own kinds; an API server that is away is waited for, so that a host that starts
/// meanwhile needs nobody to start it again. Whether it did: it was not told to stop before.
async fn install_kinds(kubernetes: &KubernetesApi, stop: &CancellationToken) -> Result<bool> {
    let since = Instant::now();
    for definition in tholepin_crd::definitions() {
        while let Err(error) = kubernetes.install_crd(&definition).await {
            if !error.is_passing() || API_SERVER_PATIENCE < since.elapsed() {
                return Err(error).context("cannot install the engine's kinds");
            }
            warn!(%error, "the API server does not answer; trying again in {API_SERVER_PAUSE:?}");
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep(API_SERVER_PAUSE) => {}
            }
        }
    }
    Ok(true)
}

/// Begins to answer the command line, scrapers and the kubelet.
async fn listen(
    tasks: &mut JoinSet<&'static str>,
    addresses: ListenArgs,
    vitals: Arc<HostHealth>,
    routes: Arc<HostRoutes>,
    stop: &CancellationToken,
) -> Result<()> {
    let ListenArgs { admin, metrics_address } = addresses;
    let server = HealthServer::bind(metrics_address).await?;
    let admin = AdminServer::bind(admin_file(admin.admin_file)?, server.address(), routes).await?;
    info!(address = %server.address(), "serving /metrics, /healthz and /readyz");
    tasks.spawn(named("upkeep of metrics", HostHealth::upkeep(vitals.recorder.clone())));
    tasks.spawn(named("vital signs", server.run(vitals, stop.clone())));
    tasks.spawn(named("admin API", admin.run(stop.clone())));
    Ok(())
}

fn limits(arguments: &EngineArgs) -> RedisClientLimits {
    let watch_interval = Duration::from_millis(arguments.look_interval_ms);
    RedisClientLimits { watch_interval, ..RedisClientLimits::default() }
}

fn settings(arguments: &EngineArgs) -> ControllerSettings {
    ControllerSettings {
        concurrency: arguments.computing().into(),
        in_flight: arguments.in_flight.into(),
        resync: Duration::from_secs(arguments.resync_seconds),
    }
}

/// Plans one pass in this process: connects, waits until what the plugin needs is watched, plans, ends.
///
/// # Errors
///
/// Fails if the API server cannot be reached, or if there is no plan.
pub(crate) async fn plan(options: EngineOptions, request: PlanRequest) -> Result<ReconcileReport> {
    let kubernetes = connect(options.kubeconfig.clone()).await?;
    let assembled = assemble(&options, kubernetes.clone())?;
    let AssembledEngine { registry, mut directory, controller, redis: _, gate: _, looks: _ } =
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
    let planner = Planner { controller: controller.clone(), kubernetes };
    let kind = planner.kind(&request).await?;
    let plugin = controller.plugin_for(&kind)?;
    let leases = controller.watch_for(&plugin, STANDALONE_DEADLINE).await?;
    let report = planner.plan(request).await;
    drop(leases);
    stop.cancel();
    tasks.shutdown().await;
    Ok(report?)
}

/// The parts, connected to each other; nothing runs yet.
struct AssembledEngine {
    registry: Arc<PluginRegistry>,
    directory: tholepin_guest::DirectoryWatch,
    redis: Arc<RedisPort>,
    gate: Arc<Gate>,
    controller: Arc<Controller>,
    looks: mpsc::Receiver<PollReport>,
}

fn assemble(options: &EngineOptions, kubernetes: Arc<KubernetesApi>) -> Result<AssembledEngine> {
    let (registry, directory) = open_registry(options)?;
    let (reports, looks) = mpsc::channel(SIGNALS_MAX);
    let clock = Arc::new(SteadyClock::start());
    let redis = Arc::new(RedisPort::new(limits(&options.arguments), clock.clone(), reports));
    let gate = Gate::new(GatePorts {
        kubernetes: kubernetes.clone(),
        redis: redis.clone(),
        prober: Arc::new(TcpProber),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
    });
    let contexts = Arc::new(GateContextFactory(gate.clone()));
    let ports = ControllerPorts {
        kubernetes: kubernetes.clone(),
        watches: kubernetes.clone(),
        status_writer: kubernetes,
        redis: redis.clone(),
        plugins: Arc::new(ServingPlugins(registry.clone())),
        contexts: contexts.clone(),
        wakes: contexts,
        clock,
    };
    let controller = Arc::new(Controller::new(ports, settings(&options.arguments)));
    Ok(AssembledEngine { registry, directory, redis, gate, controller, looks })
}

/// Waits for the stop, or for a part that ends before it; then for the controller's calls in flight, and for
/// what is said of the end.
async fn finish(
    mut tasks: JoinSet<&'static str>,
    stop: CancellationToken,
    ending: CancellationToken,
) -> Result<()> {
    let first = tasks.join_next().await;
    if !stop.is_cancelled() {
        stop.cancel();
        return match first {
            Some(Ok(part)) => Err(anyhow!("`{part}` ended although nobody told it to")),
            Some(Err(error)) => Err(anyhow!(error)),
            None => Err(anyhow!("nothing was started")),
        };
    }
    let mut ended = first;
    while !matches!(ended, Some(Ok("controller")) | None) {
        ended = tasks.join_next().await;
    }
    ending.cancel();
    let told = async { while !matches!(tasks.join_next().await, Some(Ok(REPORTS)) | None) {} };
    if timeout(ENDING_DEADLINE, told).await.is_err() {
        warn!("the API server does not take in time that this host stops");
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
    // Every pass under way keeps an instance.
    let calls = options.arguments.in_flight.max(options.arguments.computing());
    let history = match &options.arguments.history {
        _ if !options.keeps_history => None,
        Some(history) => Some(history.clone()),
        None => Some(own_cache()?.join("revisions")),
    };
    let registry = RegistryOptions {
        directory: options.arguments.plugins.clone(),
        cache: cache_directory()?,
        history,
        allow_as_requested: options.trusts_plugins,
        idle_max: CODE_IDLE_MAX,
    };
    Ok(PluginRegistry::open(Arc::new(GuestEngine::new(calls.into())?), registry)?)
}

/// Marks the objects that want to hear of what a look at Redis showed, or of a change in the store.
async fn wake(
    gate: Arc<Gate>,
    controller: Arc<Controller>,
    mut looks: mpsc::Receiver<PollReport>,
    mut changes: Box<dyn StoreSubscription>,
) {
    loop {
        let woken = tokio::select! {
            look = looks.recv() => match look {
                Some(look) => gate.woken_by_look(&look),
                None => return,
            },
            event = changes.next() => match event {
                Some(StoreEvent::Changed(change)) => gate.woken_by_change(&change),
                Some(StoreEvent::Overflowed) => gate.woken_by_overflow(),
                Some(StoreEvent::Resumed) => Vec::new(),
                None => return,
            },
        };
        for (key, cause) in woken {
            controller.enqueue(&key, QueuePriority::Event, cause);
        }
        // A long backlog of the one must not keep the other waiting.
        consume_budget().await;
    }
}
