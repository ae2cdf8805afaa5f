//! The registry of plugins: finds them in a directory, checks them stage by stage, and publishes those that pass.
//!
//! A `NAME.yaml` (a `Plugin` object) together with its component is a revision. If a revision fails a stage, only
//! its report changes and the previous revision continues to serve. A call that is running when a revision is
//! replaced finishes on its own revision. The registry publishes its results as values ([`PluginStageReport`]) and
//! never talks to Kubernetes itself.

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

pub use history::{PluginHistory, PluginRevisionRecord, RollbackRecord};
pub use rollback::RollbackError;
pub(crate) use stages::revision;
pub use tholepin_core::plugin_report::{
    CompilationNotice, PluginRejectReason, PluginStageReport, RevisionLoadStage, ServingRevision,
};
pub use watch::DirectoryWatch;

use history::PluginRevisionHistoryStore;
use stages::PluginRevisionRejection;

use crate::{CacheError, CompileCache, GuestEngine, LoadedPlugin, heap};

/// The number of reports that a slow subscriber may lag behind before it loses the oldest; also the number of
/// last reports kept before those of unloaded plugins are removed.
const REPORTS_KEPT: usize = 256;

/// The directories of a registry, and its policy for grants and idle code.
#[derive(Clone, Debug)]
pub struct PluginRegistryOptions {
    /// The plugin directory, with `NAME.yaml` and `NAME.wasm`.
    pub directory: PathBuf,
    /// The directory of compiled code, private to this user.
    pub cache: PathBuf,
    /// The directory of the last revisions of each plugin, private to this user, with a subdirectory for each
    /// plugin directory. If absent, no revisions are kept: for commands that load the plugins once and end.
    pub history: Option<PathBuf>,
    /// Whether `grants: asRequested` is accepted; true only on the local host.
    pub allow_as_requested: bool,
    /// The time after which the code of a plugin that is not called is released. The next call loads it again,
    /// which takes about a millisecond in a release build.
    pub idle_max: Duration,
}

/// The reason why a registry cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The plugin directory cannot be read.
    #[error(
        "cannot read the plugin directory `{path}`; create it, or choose another with --plugins"
    )]
    Directory {
        /// The plugin directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory of compiled code cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The history directory cannot be used.
    #[error("cannot use the directory `{path}` for the earlier revisions of plugins")]
    History {
        /// The history directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The registry of the plugins that serve. Reads return one consistent state and never wait for a revision to
/// load.
pub struct PluginRegistry {
    options: PluginRegistryOptions,
    engine: Arc<GuestEngine>,
    cache: CompileCache,
    history: PluginRevisionHistoryStore,
    /// The start time and the predecessor of each serving revision.
    serving_records: Mutex<BTreeMap<PluginName, ServingSince>>,
    /// Held while deciding which revision of a plugin serves.
    change_lock: AsyncMutex<()>,
    active: RwLock<Arc<ActiveRevisions>>,
    reports: RwLock<BTreeMap<PluginName, PluginStageReport>>,
    report_sender: broadcast::Sender<PluginStageReport>,
    compilations: broadcast::Sender<CompilationNotice>,
}

/// The serving revision of each plugin.
type ActiveRevisions = BTreeMap<PluginName, Arc<LoadedPlugin>>;

/// The start time and the predecessor of a serving revision.
struct ServingSince {
    /// When it began to serve, in milliseconds since 1970.
    since_ms: u64,
    /// The revision that served before, still loaded for a rollback.
    previous: Option<Arc<LoadedPlugin>>,
}

impl PluginRegistry {
    /// Opens a registry. No plugin is loaded until the returned watch scans or runs.
    ///
    /// # Errors
    ///
    /// Fails if a directory cannot be used.
    pub fn open(
        engine: Arc<GuestEngine>,
        options: PluginRegistryOptions,
    ) -> Result<(Arc<Self>, DirectoryWatch), RegistryError> {
        let path = options.directory.clone();
        fs::read_dir(&path).map_err(|source| RegistryError::Directory { path, source })?;
        let cache = CompileCache::open(options.cache.clone())?;
        let history = match &options.history {
            None => PluginRevisionHistoryStore::default(),
            Some(base) => PluginRevisionHistoryStore::open(base, &options.directory)
                .map_err(|source| RegistryError::History { path: base.clone(), source })?,
        };
        let registry = Arc::new(Self {
            options,
            engine,
            cache,
            history,
            serving_records: Mutex::default(),
            change_lock: AsyncMutex::default(),
            active: RwLock::default(),
            reports: RwLock::default(),
            report_sender: broadcast::channel(REPORTS_KEPT).0,
            compilations: broadcast::channel(REPORTS_KEPT).0,
        });
        let watch = DirectoryWatch::new(Arc::clone(&registry));
        Ok((registry, watch))
    }

    /// Returns the serving revision of a plugin.
    #[must_use]
    pub fn active(&self, name: &PluginName) -> Option<Arc<LoadedPlugin>> {
        self.plugins().get(name).cloned()
    }

    /// Returns all serving plugins.
    #[must_use]
    pub fn plugins(&self) -> Arc<BTreeMap<PluginName, Arc<LoadedPlugin>>> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the last report about each plugin, including unloaded ones. A subscriber that lagged reads these.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<PluginName, PluginStageReport> {
        self.reports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Subscribes to every further report. A receiver that lags gets an error and must read
    /// [`reports`](Self::reports).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PluginStageReport> {
        self.report_sender.subscribe()
    }

    /// Returns why the plugin directory cannot be read, or `None` if it can. While it cannot, the plugins continue
    /// to serve and changes are not noticed. Blocks.
    #[must_use]
    pub fn unreadable(&self) -> Option<String> {
        let directory = &self.options.directory;
        let error = fs::read_dir(directory).err()?;
        Some(format!(
            "cannot read the plugin directory `{}`, so changes there are not noticed: {error}",
            directory.display()
        ))
    }

    /// Subscribes to the start and the end of every further compilation. A compilation that fails sends no end:
    /// the report of its plugin has the reason.
    #[must_use]
    pub fn compilations(&self) -> broadcast::Receiver<CompilationNotice> {
        self.compilations.subscribe()
    }

    /// Replaces the serving revision, which stays loaded for a rollback. `since_ms` is when the new revision began
    /// to serve, which may have been in an earlier process.
    fn publish(&self, plugin: Arc<LoadedPlugin>, since_ms: u64) {
        let (name, mut previous) = (plugin.name.clone(), None);
        self.update_active(|active| previous = active.insert(name.clone(), plugin));
        self.serving_records().insert(name, ServingSince { since_ms, previous });
    }

    /// Returns the revision that served before the present one.
    fn previous(&self, name: &PluginName) -> Option<Arc<LoadedPlugin>> {
        self.serving_records().get(name)?.previous.clone()
    }

    fn serving_records(&self) -> MutexGuard<'_, BTreeMap<PluginName, ServingSince>> {
        self.serving_records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a plugin from the serving ones.
    fn unload(&self, name: &PluginName) {
        if self.active(name).is_some() {
            self.update_active(|active| {
                active.remove(name);
            });
            self.serving_records().remove(name);
        }
    }

    /// Releases the code of idle plugins, and returns the freed heap memory to the kernel. Blocks for some
    /// milliseconds.
    fn release_idle_code(&self) {
        let (plugins, idle_max) = (self.plugins(), self.options.idle_max);
        let previous: Vec<_> =
            self.serving_records().values().filter_map(|record| record.previous.clone()).collect();
        let loaded = plugins.values().chain(&previous);
        let released = loaded.filter(|plugin| plugin.loaded.release_if_idle(idle_max)).count();
        if released != 0 {
            tracing::debug!(plugins = released, "released the code of idle plugins");
            heap::trim();
        }
    }

    fn update_active(&self, update: impl FnOnce(&mut ActiveRevisions)) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = ActiveRevisions::clone(&active);
        update(&mut next);
        *active = Arc::new(next);
    }

    /// Stores and sends a report of the state of a candidate revision and of the revision that serves now.
    /// `object` is the `Plugin` object of the file, if it could be read.
    fn report(
        &self,
        name: &PluginName,
        object: Option<Arc<Value>>,
        (stage, candidate): (Option<RevisionLoadStage>, Option<RevisionDigest>),
        rejected: Option<&PluginRevisionRejection>,
    ) {
        counter!(
            "tholepin_plugin_stages_total",
            "controller" => name.to_string(),
            "stage" => stage.map_or("None", RevisionLoadStage::as_str),
            "reason" => rejected.map_or("", |rejected| rejected.reason.as_str())
        )
        .increment(1);
        let serving = self.active(name).map(|active| {
            let serving_records = self.serving_records();
            let record = serving_records.get(name);
            let previous = record.and_then(|record| record.previous.as_ref());
            ServingRevision {
                revision: active.digest.clone(),
                component: active.component_digest.clone(),
                version: active.manifest.version.clone(),
                since_ms: record.map(|record| record.since_ms).unwrap_or_default(),
                previous: previous.map(|previous| previous.digest.clone()),
            }
        });
        let report = PluginStageReport {
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
            reports.retain(|_, report| report.stage != Some(RevisionLoadStage::Unloaded));
        }
        drop(reports);
        // Without subscribers this fails; the report is stored above.
        let _ = self.report_sender.send(report);
    }
}
