//! The plugins that serve: found in a directory, checked step by step, published at once.
//!
//! Each `NAME.yaml` (a `Plugin` object) with its component is a revision. A revision that fails a step
//! changes nothing but its report: the previous one goes on serving. Whoever holds a revision may finish
//! what it began after a swap. This module tells the engine by values ([`PluginReport`]) and never talks to
//! Kubernetes itself.

mod directory;
mod history;
mod rollback;
mod stages;
mod watch;

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use metrics::counter;
use serde_json::Value;
use tholepin_core::{PluginName, RevisionDigest};
use tokio::sync::{Mutex as AsyncMutex, broadcast};

pub use history::{PluginHistory, RevisionRecord, RollbackRecord};
pub use rollback::RollbackError;
pub(crate) use stages::revision;
pub use tholepin_core::plugin_report::{
    CompilationNotice, PluginReport, RejectReason, RevisionStage, ServingRevision,
};
pub use watch::DirectoryWatch;

use history::HistoryStore;
use stages::RejectedRevision;

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
    /// Holds the last revisions of each plugin, apart for each directory of plugins; closed to others. If
    /// absent, none is kept: for who looks once and ends.
    pub history: Option<PathBuf>,
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
    /// The directory of earlier revisions cannot be used.
    #[error("cannot use the directory `{path}` for the earlier revisions of plugins")]
    History {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The plugins that serve. All reads are of one moment and never wait for a swap.
pub struct PluginRegistry {
    options: RegistryOptions,
    engine: Arc<GuestEngine>,
    cache: CompileCache,
    history: HistoryStore,
    /// Since when a revision of each plugin serves, and which served before.
    tenures: Mutex<BTreeMap<PluginName, ServingRecord>>,
    /// Held by whoever decides which revision serves.
    changing: AsyncMutex<()>,
    active: RwLock<Arc<ActiveRevisions>>,
    reports: RwLock<BTreeMap<PluginName, PluginReport>>,
    sender: broadcast::Sender<PluginReport>,
    compilations: broadcast::Sender<CompilationNotice>,
}

/// The serving revision of each plugin.
type ActiveRevisions = BTreeMap<PluginName, Arc<LoadedPlugin>>;

/// What is remembered of the revision that serves.
struct ServingRecord {
    /// When it began to serve, in milliseconds since 1970.
    since_ms: u64,
    /// The revision that served before, ready for a rollback.
    previous: Option<Arc<LoadedPlugin>>,
}

impl PluginRegistry {
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
        fs::read_dir(&path).map_err(|source| RegistryError::Directory { path, source })?;
        let cache = CompileCache::open(options.cache.clone())?;
        let history = match &options.history {
            None => HistoryStore::default(),
            Some(base) => HistoryStore::open(base, &options.directory)
                .map_err(|source| RegistryError::History { path: base.clone(), source })?,
        };
        let registry = Arc::new(Self {
            options,
            engine,
            cache,
            history,
            tenures: Mutex::default(),
            changing: AsyncMutex::default(),
            active: RwLock::default(),
            reports: RwLock::default(),
            sender: broadcast::channel(REPORTS_KEPT).0,
            compilations: broadcast::channel(REPORTS_KEPT).0,
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

    /// Why the directory of plugins cannot be read, if it cannot: what serves goes on serving, and no change is
    /// seen. Blocks.
    #[must_use]
    pub fn unreadable(&self) -> Option<String> {
        let directory = &self.options.directory;
        let error = fs::read_dir(directory).err()?;
        Some(format!(
            "cannot read `{}`, so that no change there is seen: {error}",
            directory.display()
        ))
    }

    /// Every compilation from now on, when it begins and when it has ended. One that fails has no end here: the
    /// report of its plugin has the reason.
    #[must_use]
    pub fn compilations(&self) -> broadcast::Receiver<CompilationNotice> {
        self.compilations.subscribe()
    }

    /// Puts a revision in the place of the one that served, which is held ready for a rollback. `since_ms` is
    /// when it began to serve, which may have been in an earlier process.
    fn publish(&self, plugin: Arc<LoadedPlugin>, since_ms: u64) {
        let (name, mut previous) = (plugin.name.clone(), None);
        self.change(|active| previous = active.insert(name.clone(), plugin));
        self.tenures().insert(name, ServingRecord { since_ms, previous });
    }

    /// The revision that served before the one that serves.
    fn previous(&self, name: &PluginName) -> Option<Arc<LoadedPlugin>> {
        self.tenures().get(name)?.previous.clone()
    }

    fn tenures(&self) -> MutexGuard<'_, BTreeMap<PluginName, ServingRecord>> {
        self.tenures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a plugin out of service.
    fn unload(&self, name: &PluginName) {
        if self.active(name).is_some() {
            self.change(|active| {
                active.remove(name);
            });
            self.tenures().remove(name);
        }
    }

    /// Gives back the code of plugins that nobody has called for long, and what it leaves of the heap.
    /// Blocks for some milliseconds.
    fn rest(&self) {
        let (plugins, idle_max) = (self.plugins(), self.options.idle_max);
        let previous: Vec<_> =
            self.tenures().values().filter_map(|tenure| tenure.previous.clone()).collect();
        let loaded = plugins.values().chain(&previous);
        let resting = loaded.filter(|plugin| plugin.loaded.rest(idle_max)).count();
        if resting != 0 {
            tracing::debug!(plugins = resting, "gave back code that nobody calls");
            heap::trim();
        }
    }

    fn change(&self, change: impl FnOnce(&mut ActiveRevisions)) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = ActiveRevisions::clone(&active);
        change(&mut next);
        *active = Arc::new(next);
    }

    /// Says what became of a candidate, and which revision serves now: keeps it, and hands it to whoever
    /// listens. `object` is the `Plugin` object of the file, if it could be read.
    fn report(
        &self,
        name: &PluginName,
        object: Option<Arc<Value>>,
        (stage, candidate): (Option<RevisionStage>, Option<RevisionDigest>),
        rejected: Option<&RejectedRevision>,
    ) {
        counter!(
            "tholepin_plugin_stages_total",
            "controller" => name.to_string(),
            "stage" => stage.map_or("None", RevisionStage::as_str),
            "reason" => rejected.map_or("", |rejected| rejected.reason.as_str())
        )
        .increment(1);
        let serving = self.active(name).map(|active| {
            let tenures = self.tenures();
            let tenure = tenures.get(name);
            let previous = tenure.and_then(|tenure| tenure.previous.as_ref());
            ServingRevision {
                revision: active.digest.clone(),
                component: active.component_digest.clone(),
                version: active.manifest.version.clone(),
                since_ms: tenure.map(|tenure| tenure.since_ms).unwrap_or_default(),
                previous: previous.map(|previous| previous.digest.clone()),
            }
        });
        let report = PluginReport {
            name: name.clone(),
            stage,
            candidate,
            serving,
            reason: rejected.map(|rejected| rejected.reason),
            message: rejected.map(|rejected| rejected.message.clone()).unwrap_or_default(),
            object,
        };
        let mut reports = self.reports.write().unwrap_or_else(PoisonError::into_inner);
        reports.insert(report.name.clone(), report.clone());
        if REPORTS_KEPT < reports.len() {
            reports.retain(|_, report| report.stage != Some(RevisionStage::Unloaded));
        }
        drop(reports);
        // Nobody listening is no fault: the report is kept.
        let _ = self.sender.send(report);
    }
}
