//! Watches the plugin directory: waits until it has been quiet for some milliseconds, then loads the plugins that
//! changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tholepin_core::PluginName;
use tokio::{
    sync::mpsc,
    task,
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    ActiveRevisions, PluginRegistry, PluginRejectReason, RevisionLoadStage,
    directory::{self, DirectoryScan, FoundPlugin},
    stages::{self, PluginRevisionRejection, PluginStageProgress},
};

/// The quiet time after a rename or a removal. These concern complete files; usually a second one follows.
const QUIET_AFTER_RENAME: Duration = Duration::from_millis(5);

/// The quiet time after a write, because more writes to the same file may follow.
const QUIET_AFTER_WRITE: Duration = Duration::from_millis(20);

/// The longest wait for a quiet directory; it is scanned after this even if changes continue.
const UNQUIET_MAX: Duration = Duration::from_millis(500);

/// The interval of scans without a notice, which find changes that cause no notice: those behind a link, and
/// all changes on a machine that has no more inotify watches.
const RESCAN: Duration = Duration::from_secs(2);

/// The size of the queue of notices. A notice beyond it adds no information.
const NOTICES_MAX: usize = 64;

/// The watch of the plugin directory. The owner calls [`scan`](Self::scan) once at the start and then
/// [`run`](Self::run); dropping it ends the watch.
pub struct DirectoryWatch {
    registry: Arc<PluginRegistry>,
    seen: BTreeMap<PluginName, FoundPlugin>,
    orphans: BTreeSet<PluginName>,
    misnamed: BTreeSet<String>,
    /// The serving revisions when plugins rejected for [`PluginRejectReason::KindClaimed`] were last tried.
    serving_at_last_retry: Arc<ActiveRevisions>,
    notices: mpsc::Receiver<Duration>,
    watcher: Option<RecommendedWatcher>,
}

impl DirectoryWatch {
    pub(super) fn new(registry: Arc<PluginRegistry>) -> Self {
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let watcher = start(&registry.options.directory, sender)
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch the plugin directory; scanning it every {RESCAN:?}");
            })
            .ok();
        let serving_at_last_retry = registry.plugins();
        Self {
            serving_at_last_retry,
            registry,
            seen: BTreeMap::new(),
            orphans: BTreeSet::new(),
            misnamed: BTreeSet::new(),
            notices,
            watcher,
        }
    }

    /// Loads changed plugins, until it is dropped.
    pub async fn run(mut self) {
        let mut rescan = time::interval(RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(quiet) = self.notices.recv(), if self.watcher.is_some() => {
                    self.wait_until_quiet(quiet).await;
                }
                _ = rescan.tick() => {
                    self.release_idle_code().await;
                    self.watch_again();
                }
            }
            self.scan().await;
        }
    }

    /// Loads the plugins that changed since the last scan, in order of name. Returns when each of them serves or
    /// is rejected.
    pub async fn scan(&mut self) {
        let directory = self.registry.options.directory.clone();
        let scan_result = match task::spawn_blocking(move || directory::scan(&directory)).await {
            Ok(Ok(scan_result)) => scan_result,
            Ok(Err(error)) => {
                // The plugins continue to serve, because an unreadable directory does not mean that they
                // were removed.
                tracing::warn!(%error, "cannot read the plugin directory");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the plugin directory");
                return;
            }
        };
        self.unload_missing(&scan_result);
        self.report_orphans(&scan_result);
        let serving = self.registry.plugins();
        if !Arc::ptr_eq(&serving, &self.serving_at_last_retry) {
            self.retry(PluginRejectReason::KindClaimed);
            self.serving_at_last_retry = serving;
        }
        for (name, found) in scan_result.plugins {
            if self.seen.get(&name) != Some(&found) {
                self.load(&name, &found).await;
                self.seen.insert(name, found);
            }
        }
    }

    /// Waits until no notice has come for the quiet time, but at most [`UNQUIET_MAX`].
    async fn wait_until_quiet(&mut self, mut quiet: Duration) {
        let latest = Instant::now() + UNQUIET_MAX;
        while let Ok(Some(next)) = time::timeout(quiet, self.notices.recv()).await {
            quiet = quiet.max(next);
            if latest <= Instant::now() {
                break;
            }
        }
    }

    /// Releases the code of idle plugins on a blocking thread, because unmapping takes time.
    async fn release_idle_code(&self) {
        let registry = Arc::clone(&self.registry);
        if let Err(error) = task::spawn_blocking(move || registry.release_idle_code()).await {
            tracing::warn!(%error, "cannot release the code of idle plugins");
        }
    }

    /// Renews the watch, which is lost when the directory is replaced by another of the same name.
    fn watch_again(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) =
                watcher.watch(&self.registry.options.directory, RecursiveMode::NonRecursive)
        {
            tracing::debug!(%error, "cannot renew the watch of the plugin directory");
        }
    }

    /// Unloads the plugins whose settings were removed.
    fn unload_missing(&mut self, scan_result: &DirectoryScan) {
        let known: BTreeSet<PluginName> = self.seen.keys().cloned().collect();
        for name in known.iter().filter(|name| !scan_result.plugins.contains_key(name)) {
            self.seen.remove(name);
            self.registry.unload(name);
            self.report_unloaded(name);
        }
    }

    fn report_unloaded(&self, name: &PluginName) {
        let progress = PluginStageProgress {
            stage: Some(RevisionLoadStage::Unloaded),
            ..PluginStageProgress::begin()
        };
        self.report(name, None, &progress, None);
    }

    /// Reports new components without settings, and logs new files whose names cannot be those of a plugin.
    fn report_orphans(&mut self, scan_result: &DirectoryScan) {
        for name in scan_result.orphans.difference(&self.orphans) {
            let text = format!(
                "`{name}.wasm` has no `{name}.yaml`, so the plugin has no grants; `tholepin plugin grant {name}.wasm` \
                 prints one"
            );
            let rejected = PluginRevisionRejection::new(PluginRejectReason::SettingsMissing, text);
            self.report(name, None, &PluginStageProgress::begin(), Some(&rejected));
        }
        for name in self.orphans.difference(&scan_result.orphans) {
            if !scan_result.plugins.contains_key(name) {
                self.report_unloaded(name);
            }
        }
        for file in scan_result.misnamed.difference(&self.misnamed) {
            let suggested = file.to_lowercase().replace(['_', char::REPLACEMENT_CHARACTER], "-");
            let suggested = suggested
                .strip_suffix(".yml")
                .map_or(suggested.clone(), |stem| format!("{stem}.yaml"));
            tracing::warn!(
                "`{file}` in the plugin directory is ignored: the name of a plugin has only lowercase letters, digits and \
                 `-`, and the name of its settings ends in `.yaml`; rename it, for example to `{suggested}`"
            );
        }
        self.orphans.clone_from(&scan_result.orphans);
        self.misnamed.clone_from(&scan_result.misnamed);
    }

    /// Forgets the plugins that were rejected for this reason, so that the scan loads them again.
    fn retry(&mut self, reason: PluginRejectReason) {
        let reports = self.registry.reports();
        let is_rejected = |name: &PluginName| {
            reports.get(name).is_some_and(|report| report.reason == Some(reason))
        };
        self.seen.retain(|name, _| !is_rejected(name));
    }

    async fn load(&mut self, name: &PluginName, found: &FoundPlugin) {
        let registry = Arc::clone(&self.registry);
        let _lock = registry.change_lock.lock().await;
        let mut progress = PluginStageProgress::begin();
        let result = {
            let report_progress =
                |progress: &PluginStageProgress| self.report(name, Some(found), progress, None);
            let directory = &registry.options.directory;
            stages::load(&registry, directory, name, found, &mut progress, report_progress).await
        };
        let result = match (result, &found.settings) {
            (Ok(plugin), Ok(settings)) => registry.activate(plugin, settings).await,
            (result, _) => result.map(drop),
        };
        match result {
            Ok(()) => {
                progress.reach(name, RevisionLoadStage::Active);
                self.report(name, Some(found), &progress, None);
            }
            Err(rejected) => {
                registry.serve_last(name).await;
                self.report(name, Some(found), &progress, Some(&rejected));
            }
        }
    }

    fn report(
        &self,
        name: &PluginName,
        found: Option<&FoundPlugin>,
        progress: &PluginStageProgress,
        rejected: Option<&PluginRevisionRejection>,
    ) {
        let settings = found.and_then(|found| found.settings.as_ref().ok());
        let object = settings.map(|settings| Arc::new(settings.object.clone()));
        let PluginStageProgress { stage, candidate, since: _ } = progress;
        self.registry.report(name, object, (*stage, candidate.clone()), rejected);
    }
}

/// Starts to watch the directory. Each notice is the quiet time to wait for after it.
fn start(directory: &Path, sender: mpsc::Sender<Duration>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let quiet = match &event {
            Ok(event) => quiet_after(event),
            Err(_) => Some(QUIET_AFTER_WRITE),
        };
        if let Some(quiet) = quiet {
            // If the queue is full, a scan will follow anyway.
            let _ = sender.try_send(quiet);
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Returns the quiet time after an event; absent if the event does not concern plugins.
fn quiet_after(event: &Event) -> Option<Duration> {
    if !event.paths.is_empty() && event.paths.iter().all(|path| is_temporary(path)) {
        return None;
    }
    match event.kind {
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(QUIET_AFTER_RENAME),
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Any
        | EventKind::Other => Some(QUIET_AFTER_WRITE),
        EventKind::Access(_) => None,
    }
}

/// Returns true for a dot file, which is a temporary file. `..data` is an exception: the kubelet replaces this
/// link when a mounted ConfigMap changes.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with('.') && name != "..data"
}
