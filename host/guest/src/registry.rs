//! The plugins that serve: found in a directory, checked step by step, published at once.
//!
//! Each `NAME.yaml` (a `Plugin` object) with its component is a revision. A revision that fails a step
//! changes nothing but its report: the previous one goes on serving. Whoever holds a revision may finish
//! what it began after a swap. This module tells the engine by values ([`PluginReport`]) and never talks to
//! Kubernetes itself.

mod directory;
mod report;
mod stages;
mod watch;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tholepin_core::PluginName;
use tokio::sync::broadcast;

pub use report::{PluginReport, RejectReason, Stage};
pub(crate) use stages::revision;
pub use watch::DirectoryWatch;

use crate::{CacheError, CompileCache, GuestEngine, LoadedPlugin, heap};

/// How many reports a slow subscriber may lag behind before it loses the oldest, and how many plugins'
/// last reports are kept before those of unloaded ones go.
const REPORTS_KEPT: usize = 256;

/// Where plugins come from, and what they may ask for.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Holds `NAME.yaml` and `NAME.wasm`.
    pub directory: PathBuf,
    /// Holds compiled code; closed to others.
    pub cache: PathBuf,
    /// Whether `grants: asRequested` is taken; on the local host only.
    pub allow_as_requested: bool,
    /// The code of a plugin that nobody has called for so long is given back. The next call loads it again,
    /// which takes about a millisecond in a release build.
    pub idle_max: Duration,
}

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The directory of plugins cannot be read.
    #[error("cannot read the plugin directory `{path}`; make it, or name another with --plugins")]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of compiled code cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// The plugins that serve. All reads are of one moment and never wait for a swap.
pub struct Registry {
    options: RegistryOptions,
    engine: Arc<GuestEngine>,
    cache: CompileCache,
    active: RwLock<Arc<Active>>,
    reports: RwLock<BTreeMap<PluginName, PluginReport>>,
    sender: broadcast::Sender<PluginReport>,
}

/// The serving revision of each plugin.
type Active = BTreeMap<PluginName, Arc<LoadedPlugin>>;

impl Registry {
    /// Opens a directory of plugins. Nothing is loaded until the watch is run or scanned.
    ///
    /// # Errors
    ///
    /// Fails if a directory cannot be used.
    pub fn open(
        engine: Arc<GuestEngine>,
        options: RegistryOptions,
    ) -> Result<(Arc<Self>, DirectoryWatch), RegistryError> {
        let path = options.directory.clone();
        std::fs::read_dir(&path).map_err(|source| RegistryError::Directory { path, source })?;
        let cache = CompileCache::open(options.cache.clone())?;
        let registry = Arc::new(Self {
            options,
            engine,
            cache,
            active: RwLock::default(),
            reports: RwLock::default(),
            sender: broadcast::channel(REPORTS_KEPT).0,
        });
        let watch = DirectoryWatch::new(Arc::clone(&registry));
        Ok((registry, watch))
    }

    /// The revision of a plugin that serves now.
    #[must_use]
    pub fn active(&self, name: &PluginName) -> Option<Arc<LoadedPlugin>> {
        self.plugins().get(name).cloned()
    }

    /// All plugins that serve now, as of one moment.
    #[must_use]
    pub fn plugins(&self) -> Arc<BTreeMap<PluginName, Arc<LoadedPlugin>>> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last report about each plugin, those unloaded included: what a subscriber that lagged reads again.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<PluginName, PluginReport> {
        self.reports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every stage and failure from now on. A receiver that lags behind is told so, and reads
    /// [`reports`](Self::reports).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PluginReport> {
        self.sender.subscribe()
    }

    /// Puts a revision in the place of the one that served.
    fn publish(&self, plugin: Arc<LoadedPlugin>) {
        self.change(|active| {
            active.insert(plugin.name.clone(), plugin);
        });
    }

    /// Takes a plugin out of service.
    fn unload(&self, name: &PluginName) {
        if self.active(name).is_some() {
            self.change(|active| {
                active.remove(name);
            });
        }
    }

    /// Gives back the code of plugins that nobody has called for long, and what it leaves of the heap.
    /// Blocks for some milliseconds.
    fn rest(&self) {
        let (plugins, idle_max) = (self.plugins(), self.options.idle_max);
        let resting = plugins.values().filter(|plugin| plugin.loaded.rest(idle_max)).count();
        if resting != 0 {
            tracing::debug!(plugins = resting, "gave back code that nobody calls");
            heap::trim();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Active)) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Active::clone(&active);
        change(&mut next);
        *active = Arc::new(next);
    }

    /// Keeps a report and hands it to whoever listens.
    fn report(&self, report: PluginReport) {
        let mut reports = self.reports.write().unwrap_or_else(PoisonError::into_inner);
        reports.insert(report.name.clone(), report.clone());
        if REPORTS_KEPT < reports.len() {
            reports.retain(|_, report| report.stage != Some(Stage::Unloaded));
        }
        drop(reports);
        // Nobody listening is no fault: the report is kept.
        let _ = self.sender.send(report);
    }
}
