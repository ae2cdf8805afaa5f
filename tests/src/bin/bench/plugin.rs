//! Plugins loaded into this process by the product's own registry, with the host's engine.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tests::guests;
use tholepin_core::PluginName;
use tholepin_guest::{GuestEngine, LoadedPlugin, PluginRegistry, PluginRegistryOptions};

/// How many calls may run concurrently, as in the host.
const CALLS_MAX: u32 = 64;

/// A loaded plugin.
pub(crate) struct BenchPlugin {
    /// The plugin as the host would call it.
    pub(crate) loaded: Arc<LoadedPlugin>,
    /// The folder from which compiled code is mapped.
    _home: TempDir,
}

impl BenchPlugin {
    /// Loads a component, granted what it asks for.
    pub(crate) async fn load(name: &str, component: &[u8]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("tholepin-bench-").tempdir()?;
        let directory: PathBuf = home.path().join("plugins");
        std::fs::create_dir(&directory)?;
        guests::install(&directory, name, component)?;
        let cache = home.path().join("compiled");
        let history = Some(home.path().join("history"));
        let (allow_as_requested, idle_max) = (true, Duration::MAX);
        let options =
            PluginRegistryOptions { directory, cache, history, allow_as_requested, idle_max };
        let (registry, mut watch) =
            PluginRegistry::open(Arc::new(GuestEngine::new(CALLS_MAX)?), options)?;
        watch.scan().await;
        let name: PluginName = name.parse()?;
        let loaded = registry.active(&name);
        let loaded = loaded.with_context(|| format!("{:?}", registry.reports().get(&name)))?;
        Ok(Self { loaded, _home: home })
    }
}
