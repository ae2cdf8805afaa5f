//! The host's parts in this process: real watches and requests, the real gate, and a Redis port that the caller
//! chooses. The host also has the queue, which is not measured here.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow};
use tholepin_core::{
    ObjectRef, ReconcileKey, Recording, WriteMode,
    port::{Clock, Entropy, Kubernetes, PluginExports, Redis, WatchLease, WatchScope, WatchSource},
};
use tholepin_gate::{Gate, GatePorts, ReconcileScope};
use tholepin_guest::LoadedPlugin;
use tholepin_kube::{KubernetesApi, KubernetesApiOptions, SecretFingerprinter, WatchHubOptions};
use tholepin_probe::NetworkPodPortProber;
use tholepin_schema::{
    manifest::{KindName, Manifest},
    reconcile::{ReconcileOutcome, ReconcileRequest},
};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// How long a watch may take to list its kind.
const FOLLOW_MAX: Duration = Duration::from_secs(60);
/// As in the host.
const CALLS_MAX: u32 = 2_000;
const WRITES_MAX: u32 = 500;
const BYTES_MAX: usize = 24 << 20;

/// Watches, store, requests and gate.
pub(crate) struct BenchEngine {
    /// The port to Kubernetes.
    pub(crate) kubernetes: Arc<KubernetesApi>,
    gate: Arc<Gate>,
    leases: Vec<Box<dyn WatchLease>>,
    /// The tasks are aborted when this is dropped.
    _tasks: JoinSet<()>,
}

/// One successful reconcile.
pub(crate) struct MeasuredReconcile {
    pub(crate) request: ReconcileRequest,
    pub(crate) outcome: ReconcileOutcome,
    /// The time from the call of the guest to its outcome.
    pub(crate) took: Duration,
    pub(crate) recording: Recording,
}

impl BenchEngine {
    /// Connects to the API server; nothing is watched yet.
    pub(crate) async fn connect(kubeconfig: &Path, redis: Arc<dyn Redis>) -> Result<Self> {
        let options = KubernetesApiOptions {
            kubeconfig: Some(kubeconfig.to_owned()),
            // In production it must be unguessable; here nothing is secret.
            fingerprinter: SecretFingerprinter::new([7; 32]),
            reporting_instance: "bench".to_owned(),
            hub: WatchHubOptions::default(),
        };
        let kubernetes = KubernetesApi::connect(options).await?;
        let gate = Gate::new(GatePorts {
            kubernetes: kubernetes.clone(),
            redis,
            prober: Arc::new(NetworkPodPortProber),
            clock: Arc::new(WallClock),
            entropy: Arc::new(NoEntropy),
        });
        let mut tasks = JoinSet::new();
        let watched = kubernetes.clone();
        tasks.spawn(async move { watched.run(CancellationToken::new()).await });
        Ok(Self { kubernetes, gate, leases: Vec::new(), _tasks: tasks })
    }

    /// Watches a kind until this value is dropped; returns when the kind is listed.
    pub(crate) async fn follow(&mut self, kind: KindName) -> Result<()> {
        let lease = self.kubernetes.lease(WatchScope::all(kind.clone()));
        let listed = time::timeout(FOLLOW_MAX, lease.following()).await;
        listed.with_context(|| format!("{kind} is not listed: {:?}", lease.state()))?;
        self.leases.push(lease);
        Ok(())
    }

    /// Watches all kinds that a manifest names.
    pub(crate) async fn follow_all(&mut self, manifest: &Manifest) -> Result<()> {
        let own = manifest.reconciles.iter().map(|kind| &kind.name);
        for kind in own.chain(manifest.watches.iter().map(|kind| &kind.name)) {
            self.follow(kind.clone()).await?;
        }
        Ok(())
    }

    /// Makes a plugin reconcile an object of the store with live writes.
    pub(crate) async fn reconcile(
        &self,
        plugin: &LoadedPlugin,
        object: &ObjectRef,
    ) -> Result<MeasuredReconcile> {
        let stored = self.kubernetes.view().get(object);
        let stored = stored.with_context(|| format!("{object} is not in the store"))?;
        let key = Arc::new(ReconcileKey {
            plugin: plugin.name.clone(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        });
        let reconcile_context = self.gate.open(ReconcileScope {
            key: key.clone(),
            object: stored.clone(),
            grants: plugin.grants.clone(),
            secret_fields: Arc::new(plugin.manifest.secret_fields.clone()),
            parameters: plugin.parameters.clone(),
            mode: WriteMode::Live,
            urgent: CancellationToken::new(),
            calls_max: CALLS_MAX,
            writes_max: WRITES_MAX,
            bytes_max: BYTES_MAX,
        });
        let request = ReconcileRequest {
            object: (*stored).clone(),
            deleting: false,
            causes: Vec::new(),
            memo: None,
        };
        let (context, request_copy) = (plugin.context(Some(key)), request.clone());
        let start = Instant::now();
        let outcome = plugin.reconcile(context, request_copy, reconcile_context.clone()).await?;
        let took = start.elapsed();
        let outcome = outcome.map_err(|failure| anyhow!("{failure:?}"))?;
        Ok(MeasuredReconcile {
            request,
            outcome,
            took,
            recording: reconcile_context.take_recording(),
        })
    }
}

/// The machine's clock.
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A constant, because the measured plugins ask for random bytes only to seed a map.
struct NoEntropy;

impl Entropy for NoEntropy {
    fn bytes(&self, count: usize) -> Vec<u8> {
        vec![7; count]
    }
}
