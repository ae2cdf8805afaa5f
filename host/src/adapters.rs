//! Fits the parts of the host to each other: they know traits, and only here meet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use serde_json::Value;
use tholepin_controller::{
    ActivePlugin, ActivePlugins, ClosedContext, ContextFactory, OpenContext, ReconcilePurpose,
    WakeSubscriber,
};
use tholepin_core::{
    Answer, BoxedFuture, Call, CallContext, HostCalls, ObjectKey, PluginName, RevisionDigest,
    WriteMode,
    port::{Clock, Entropy},
};
use tholepin_gate::{Gate, ReconcileContext, ReconcileScope};
use tholepin_guest::{LoadedPlugin, PluginRegistry};
use tholepin_schema::reconcile::WakeTrigger;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The most calls and the most writes of one pass.
const CALLS_MAX: u32 = 2_000;
const WRITES_MAX: u32 = 500;

/// How far the machine's clock may be from ours before that is worth a warning.
const JUMP_MS: u64 = 1_000;

/// The machine's clock as it was at the start, and the time that has passed since. A clock that is set
/// while the host runs must neither prove an age that is none nor make a wait endless.
pub(crate) struct SteadyClock {
    start: Instant,
    start_ms: u64,
    has_warned: AtomicBool,
}

impl SteadyClock {
    /// Starts at the machine's clock.
    pub(crate) fn start() -> Self {
        Self::at(Instant::now(), wall_ms())
    }

    const fn at(start: Instant, start_ms: u64) -> Self {
        Self { start, start_ms, has_warned: AtomicBool::new(false) }
    }

    /// The time after this much has passed; says once that the machine's clock was set since.
    fn after(&self, passed: Duration, wall_ms: u64) -> u64 {
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.start_ms.saturating_add(passed_ms);
        let apart_ms = now_ms.abs_diff(wall_ms);
        if JUMP_MS < apart_ms && !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                apart_ms,
                "the machine's clock was set; times go on from before until the host is started again"
            );
        }
        now_ms
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> u64 {
        self.after(self.start.elapsed(), wall_ms())
    }
}

/// A clock before 1970 is no clock; zero makes every age look like none, which refuses.
fn wall_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The machine's randomness.
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        rand::rng().fill_bytes(&mut bytes);
        bytes
    }
}

/// The registry, as the controller sees it.
pub(crate) struct ServingPlugins(pub(crate) Arc<PluginRegistry>);

impl ActivePlugins for ServingPlugins {
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>> {
        self.0.active(name).map(serving)
    }

    fn all(&self) -> Vec<Arc<ActivePlugin>> {
        self.0.plugins().values().cloned().map(serving).collect()
    }

    fn take_back<'a>(
        &'a self,
        name: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>> {
        Box::pin(async move {
            self.0.take_back(name, revision, why).await.map_err(|error| error.to_string())
        })
    }
}

fn serving(plugin: Arc<LoadedPlugin>) -> Arc<ActivePlugin> {
    Arc::new(ActivePlugin {
        name: plugin.name.clone(),
        revision: plugin.digest.clone(),
        manifest: plugin.manifest.clone(),
        grants: plugin.grants.clone(),
        parameters: plugin.parameters.clone(),
        guests: plugin,
    })
}

/// The gate, as the controller sees it.
pub(crate) struct GateContextFactory(pub(crate) Arc<Gate>);

impl ContextFactory for GateContextFactory {
    fn open(
        &self,
        plugin: &ActivePlugin,
        key: &Arc<ObjectKey>,
        object: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn OpenContext> {
        let opened = match purpose {
            ReconcilePurpose::Live { urgent } => context(plugin, key, object, urgent),
            ReconcilePurpose::Plan => {
                // Nobody hurries a plan, which does not wait.
                let context = context(plugin, key, object, CancellationToken::new());
                ReconcileScope { mode: WriteMode::Plan, ..context }
            }
        };
        let mode = opened.mode;
        let pass = self.0.open(opened);
        if mode == WriteMode::Plan {
            pass.add_assumed((**object).clone());
        }
        Arc::new(GateContext(pass))
    }
}

/// A pass of the gate, as the controller sees it.
struct GateContext(Arc<ReconcileContext>);

impl HostCalls for GateContext {
    fn perform<'a>(&'a self, context: &'a CallContext, call: Call) -> BoxedFuture<'a, Answer> {
        self.0.perform(context, call)
    }
}

impl OpenContext for GateContext {
    fn close(&self) -> BoxedFuture<'_, ClosedContext> {
        Box::pin(async {
            let put_back = self.0.close().await;
            ClosedContext { recording: self.0.take_recording(), put_back }
        })
    }
}

impl WakeSubscriber for GateContextFactory {
    fn subscribe<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ObjectKey>,
        object: &'a Arc<Value>,
        wakes: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, Option<Duration>> {
        Box::pin(async move {
            // Nobody waits under it.
            let urgent = CancellationToken::new();
            self.0.subscribe(&context(plugin, key, object, urgent), wakes).await
        })
    }

    fn disarm(&self, key: &ObjectKey) {
        self.0.unsubscribe(key);
    }
}

/// What a pass of a plugin for an object knows and may do.
pub(crate) fn context(
    plugin: &ActivePlugin,
    key: &Arc<ObjectKey>,
    object: &Arc<Value>,
    urgent: CancellationToken,
) -> ReconcileScope {
    ReconcileScope {
        key: key.clone(),
        object: object.clone(),
        grants: plugin.grants.clone(),
        safety: Arc::new(plugin.manifest.safety.clone()),
        parameters: plugin.parameters.clone(),
        mode: WriteMode::Live,
        urgent,
        calls_max: CALLS_MAX,
        writes_max: WRITES_MAX,
    }
}
