//! Follows the directory of plugins: waits until it is quiet, then loads what has changed.

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
    ActiveRevisions, PluginRegistry, RejectReason, RevisionStage,
    directory::{self, DirectoryScan, FoundPlugin},
    stages::{self, RejectedRevision, StageProgress},
};

/// How long the directory must be quiet after a rename or a removal: whole files, usually two.
const QUIET_AFTER_RENAME: Duration = Duration::from_millis(5);

/// How long it must be quiet after a write: more of it may come.
const QUIET_AFTER_WRITE: Duration = Duration::from_millis(20);

/// When it never gets quiet, it is looked at all the same.
const UNQUIET_MAX: Duration = Duration::from_millis(500);

/// How often it is looked at without a notice: for what a notice cannot tell, such as a change behind a
/// link, and for machines that are out of watches.
const RESCAN: Duration = Duration::from_secs(2);

/// Notices that wait; more say nothing new.
const NOTICES_MAX: usize = 64;

/// Follows the directory of plugins. Its owner scans once at the start and then runs it; dropping it
/// ends it.
pub struct DirectoryWatch {
    registry: Arc<PluginRegistry>,
    seen: BTreeMap<PluginName, FoundPlugin>,
    orphans: BTreeSet<PluginName>,
    misnamed: BTreeSet<String>,
    /// What served when the plugins rejected for another's sake were last tried.
    judged_against: Arc<ActiveRevisions>,
    notices: mpsc::Receiver<Duration>,
    watcher: Option<RecommendedWatcher>,
}

impl DirectoryWatch {
    pub(super) fn new(registry: Arc<PluginRegistry>) -> Self {
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let watcher = start(&registry.options.directory, sender)
            .inspect_err(|error| {
                tracing::warn!(%error, "no notices about the plugin directory; looking every {RESCAN:?}");
            })
            .ok();
        let judged_against = registry.plugins();
        Self {
            judged_against,
            registry,
            seen: BTreeMap::new(),
            orphans: BTreeSet::new(),
            misnamed: BTreeSet::new(),
            notices,
            watcher,
        }
    }

    /// Loads what has changed, for ever.
    pub async fn run(mut self) {
        let mut rescan = time::interval(RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(quiet) = self.notices.recv(), if self.watcher.is_some() => {
                    self.settle(quiet).await;
                }
                _ = rescan.tick() => {
                    self.rest().await;
                    self.watch_again();
                }
            }
            self.scan().await;
        }
    }

    /// Loads what has changed since the last scan, in order of name, and returns when all of it serves
    /// or is rejected.
    pub async fn scan(&mut self) {
        let directory = self.registry.options.directory.clone();
        let survey = match task::spawn_blocking(move || directory::survey(&directory)).await {
            Ok(Ok(survey)) => survey,
            Ok(Err(error)) => {
                // What serves goes on serving: a directory that cannot be seen says nothing about it.
                tracing::warn!(%error, "cannot read the plugin directory");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the plugin directory");
                return;
            }
        };
        self.unload_missing(&survey);
        self.refuse_orphans(&survey);
        let serving = self.registry.plugins();
        if !Arc::ptr_eq(&serving, &self.judged_against) {
            self.retry(RejectReason::KindClaimed);
            self.judged_against = serving;
        }
        for (name, found) in survey.plugins {
            if self.seen.get(&name) != Some(&found) {
                self.load(&name, &found).await;
                self.seen.insert(name, found);
            }
        }
    }

    /// Waits until the directory is quiet.
    async fn settle(&mut self, mut quiet: Duration) {
        let latest = Instant::now() + UNQUIET_MAX;
        while let Ok(Some(next)) = time::timeout(quiet, self.notices.recv()).await {
            quiet = quiet.max(next);
            if latest <= Instant::now() {
                break;
            }
        }
    }

    /// Gives back the code of plugins that nobody has called for long, aside: unmapping takes time.
    async fn rest(&self) {
        let registry = Arc::clone(&self.registry);
        if let Err(error) = task::spawn_blocking(move || registry.rest()).await {
            tracing::warn!(%error, "cannot give back code that nobody calls");
        }
    }

    /// Renews the watch, because a directory that was replaced by another takes its watch along.
    fn watch_again(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) =
                watcher.watch(&self.registry.options.directory, RecursiveMode::NonRecursive)
        {
            tracing::debug!(%error, "cannot renew the watch of the plugin directory");
        }
    }

    /// Unloads the plugins whose settings are gone.
    fn unload_missing(&mut self, survey: &DirectoryScan) {
        let known: BTreeSet<PluginName> = self.seen.keys().cloned().collect();
        for name in known.iter().filter(|name| !survey.plugins.contains_key(name)) {
            self.seen.remove(name);
            self.registry.unload(name);
            self.report_unloaded(name);
        }
    }

    fn report_unloaded(&self, name: &PluginName) {
        let progress =
            StageProgress { stage: Some(RevisionStage::Unloaded), ..StageProgress::begin() };
        self.report(name, None, &progress, None);
    }

    /// Says of each new component without settings how to write them.
    fn refuse_orphans(&mut self, survey: &DirectoryScan) {
        for name in survey.orphans.difference(&self.orphans) {
            let text = format!(
                "`{name}.wasm` has no `{name}.yaml`, so nobody has granted it anything: write it with \
                 `tholepin plugin grant {name}.wasm`"
            );
            let rejected = RejectedRevision::new(RejectReason::SettingsMissing, text);
            self.report(name, None, &StageProgress::begin(), Some(&rejected));
        }
        for name in self.orphans.difference(&survey.orphans) {
            if !survey.plugins.contains_key(name) {
                self.report_unloaded(name);
            }
        }
        for file in survey.misnamed.difference(&self.misnamed) {
            let suggested = file.to_lowercase().replace(['_', char::REPLACEMENT_CHARACTER], "-");
            let suggested = suggested
                .strip_suffix(".yml")
                .map_or(suggested.clone(), |stem| format!("{stem}.yaml"));
            tracing::warn!(
                "`{file}` is ignored: a plugin's name has lowercase letters, digits and `-`, and its settings \
                 end in `.yaml`; rename it, to `{suggested}` perhaps"
            );
        }
        self.orphans.clone_from(&survey.orphans);
        self.misnamed.clone_from(&survey.misnamed);
    }

    /// Lets plugins be tried again that were rejected for a reason that may be gone.
    fn retry(&mut self, reason: RejectReason) {
        let reports = self.registry.reports();
        let is_rejected = |name: &PluginName| {
            reports.get(name).is_some_and(|report| report.reason == Some(reason))
        };
        self.seen.retain(|name, _| !is_rejected(name));
    }

    async fn load(&mut self, name: &PluginName, found: &FoundPlugin) {
        let registry = Arc::clone(&self.registry);
        let _turn = registry.changing.lock().await;
        let mut progress = StageProgress::begin();
        let result = {
            let tell = |progress: &StageProgress| self.report(name, Some(found), progress, None);
            let directory = &registry.options.directory;
            stages::load(&registry, directory, name, found, &mut progress, tell).await
        };
        let result = match (result, &found.settings) {
            (Ok(plugin), Ok(settings)) => registry.activate(plugin, settings).await,
            (result, _) => result.map(drop),
        };
        match result {
            Ok(()) => {
                progress.reach(name, RevisionStage::Active);
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
        progress: &StageProgress,
        rejected: Option<&RejectedRevision>,
    ) {
        let settings = found.and_then(|found| found.settings.as_ref().ok());
        let object = settings.map(|settings| Arc::new(settings.object.clone()));
        let StageProgress { stage, candidate, since: _ } = progress;
        self.registry.report(name, object, (*stage, candidate.clone()), rejected);
    }
}

/// Starts to watch the directory; each notice says how long to wait for more.
fn start(directory: &Path, sender: mpsc::Sender<Duration>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let quiet = match &event {
            Ok(event) => quiet_after(event),
            Err(_) => Some(QUIET_AFTER_WRITE),
        };
        if let Some(quiet) = quiet {
            // A full queue is a notice already.
            let _ = sender.try_send(quiet);
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// How long to wait for more after an event; absent if it says nothing about plugins.
fn quiet_after(event: &Event) -> Option<Duration> {
    if !event.paths.is_empty() && event.paths.iter().all(|path| is_aside(path)) {
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

/// Whether a file is somebody's scratch: a dot file. `..data` is none: Kubernetes swaps it when a mounted
/// ConfigMap changes.
fn is_aside(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with('.') && name != "..data"
}
