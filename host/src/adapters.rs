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
use tholepin_controller::{ActivePlugin, Closed, OpenPass, Passes, Plugins, Purpose, Wakes};
use tholepin_core::{
    Answer, Boxed, Call, CallContext, Mode, ObjectKey, Perform, PluginName, RevisionDigest,
    port::{Clock, Entropy},
};
use tholepin_gate::{Gate, Pass, PassContext};
use tholepin_guest::{LoadedPlugin, Registry};
use tholepin_schema::reconcile::Wake;
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
pub(crate) struct ServingPlugins(pub(crate) Arc<Registry>);

impl Plugins for ServingPlugins {
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
    ) -> Boxed<'a, Result<RevisionDigest, String>> {
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
pub(crate) struct GatePasses(pub(crate) Arc<Gate>);

impl Passes for GatePasses {
    fn open(
        &self,
        plugin: &ActivePlugin,
        key: &Arc<ObjectKey>,
        object: &Arc<Value>,
        purpose: Purpose,
    ) -> Arc<dyn OpenPass> {
        let opened = match purpose {
            Purpose::Live { urgent } => context(plugin, key, object, urgent),
            Purpose::Plan => {
                // Nobody hurries a plan, which does not wait.
                let context = context(plugin, key, object, CancellationToken::new());
                PassContext { mode: Mode::Plan, ..context }
            }
        };
        let mode = opened.mode;
        let pass = self.0.pass(opened);
        if mode == Mode::Plan {
            pass.presume((**object).clone());
        }
        Arc::new(GatePass(pass))
    }
}

/// A pass of the gate, as the controller sees it.
struct GatePass(Arc<Pass>);

impl Perform for GatePass {
    fn perform<'a>(&'a self, context: &'a CallContext, call: Call) -> Boxed<'a, Answer> {
        self.0.perform(context, call)
    }
}

impl OpenPass for GatePass {
    fn close(&self) -> Boxed<'_, Closed> {
        Box::pin(async {
            let put_back = self.0.close().await;
            Closed { recording: self.0.take_recording(), put_back }
        })
    }
}

impl Wakes for GatePasses {
    fn arm<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ObjectKey>,
        object: &'a Arc<Value>,
        wakes: &'a [Wake],
    ) -> Boxed<'a, Option<Duration>> {
        Box::pin(async move {
            // Nobody waits under it.
            let urgent = CancellationToken::new();
            self.0.arm(&context(plugin, key, object, urgent), wakes).await
        })
    }

    fn disarm(&self, key: &ObjectKey) {
        self.0.disarm(key);
    }
}

/// What a pass of a plugin for an object knows and may do.
pub(crate) fn context(
    plugin: &ActivePlugin,
    key: &Arc<ObjectKey>,
    object: &Arc<Value>,
    urgent: CancellationToken,
) -> PassContext {
    PassContext {
        key: key.clone(),
        object: object.clone(),
        grants: plugin.grants.clone(),
        safety: Arc::new(plugin.manifest.safety.clone()),
        parameters: plugin.parameters.clone(),
        mode: Mode::Live,
        urgent,
        calls_max: CALLS_MAX,
        writes_max: WRITES_MAX,
    }
}
