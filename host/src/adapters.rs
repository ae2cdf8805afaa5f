//! Fits the parts of the host to each other: they know traits, and only here meet.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::RngCore;
use serde_json::Value;
use tholepin_controller::{ActivePlugin, Passes, Plugins, Wakes};
use tholepin_core::{
    Boxed, ObjectKey, Perform, PluginName,
    port::{Clock, Entropy},
};
use tholepin_gate::{Gate, Mode, PassContext};
use tholepin_guest::{LoadedPlugin, Registry};
use tholepin_schema::reconcile::Wake;

/// The most calls and the most writes of one pass.
const CALLS_MAX: u32 = 2_000;
const WRITES_MAX: u32 = 500;

/// The machine's clock.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 is no clock; zero makes every age look huge, which refuses.
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
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
    ) -> Arc<dyn Perform> {
        self.0.pass(PassContext {
            key: key.clone(),
            object: object.clone(),
            grants: plugin.grants.clone(),
            safety: Arc::new(plugin.manifest.safety.clone()),
            parameters: plugin.parameters.clone(),
            mode: Mode::Live,
            calls_max: CALLS_MAX,
            writes_max: WRITES_MAX,
        })
    }
}

impl Wakes for GatePasses {
    fn arm<'a>(
        &'a self,
        key: &'a Arc<ObjectKey>,
        object: &'a Arc<Value>,
        wakes: &'a [Wake],
    ) -> Boxed<'a, ()> {
        Box::pin(self.0.arm(key, object, wakes))
    }

    fn disarm(&self, key: &ObjectKey) {
        self.0.disarm(key);
    }
}
