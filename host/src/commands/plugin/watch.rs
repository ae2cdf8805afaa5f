//! `tholepin plugin watch`: builds a project at every save, installs it, and prints what the new revision does.

mod revision_progress;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tholepin_admin::{AdminClient, AdminClientError, AdminError};
use tholepin_controller::{ObjectArgument, ReconcileReportSelection};
use tholepin_core::{CallError, ObjectRef, ReconcileReport, port::Kubernetes};
use tholepin_devkit::{SavedSourceFiles, SourceWatcher};
use tholepin_kube::KubernetesApi;
use tholepin_schema::manifest::KindName;
use tokio::{task::JoinSet, time::sleep};

use self::revision_progress::PluginRevisionProgress;
use super::{
    super::{plan, print, print_error, stop_on_signal},
    develop::BuiltAndCheckedPlugin,
};
use crate::{cli::WatchArgs, engine, plugin_kind::plugin_reference, user_files::admin_file};

/// How long a host may take to activate or refuse a revision.
const ACTIVATION_DEADLINE: Duration = Duration::from_secs(15);
/// How long no new reconcile may end before the reports are printed, and how long to wait for that.
const QUIET: Duration = Duration::from_millis(250);
const QUIET_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(25);
/// The most objects whose reports are printed; more are counted.
const OBJECTS_MAX: usize = 10;

pub(super) async fn run(arguments: WatchArgs) -> Result<()> {
    let WatchArgs { project, plugins, admin, cluster } = arguments;
    let mut signals = JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let project = project
        .canonicalize()
        .with_context(|| format!("cannot use the project `{}`", project.display()))?;
    let mut sources = SourceWatcher::watch(&project)?;
    let (admin, kubernetes) =
        (admin_file(admin.admin_file)?, engine::connect(cluster.kubeconfig).await?);
    let watch = PluginWatchCommand { project, plugins, admin, kubernetes };
    print(&format!("watching   {}; Ctrl-C ends it\n", watch.project.display()))?;
    let mut saved = SavedSourceFiles { at: Instant::now(), files: Vec::new() };
    loop {
        tokio::select! {
            round = watch.round(&saved) => round?,
            () = stop.cancelled() => return Ok(()),
        }
        saved = tokio::select! {
            saved = sources.saved() => saved.context("the watch of the sources ended")?,
            () = stop.cancelled() => return Ok(()),
        };
    }
}

struct PluginWatchCommand {
    project: PathBuf,
    plugins: PathBuf,
    /// The admin file of the running host.
    admin: PathBuf,
    kubernetes: Arc<KubernetesApi>,
}

/// An object, and the number of its last report before a save.
struct WatchedObject {
    object: ObjectRef,
    last_number: u64,
}

impl PluginWatchCommand {
    /// Builds, installs and shows one save. A failure that the developer can fix is printed and is no error.
    ///
    /// # Errors
    ///
    /// Fails if stdout is closed.
    async fn round(&self, saved: &SavedSourceFiles) -> Result<()> {
        let SavedSourceFiles { at, files } = saved;
        if !files.is_empty() {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            print(&format!("\nsaved      {}\n", files.join(", ")))?;
        }
        let shown = self.try_round().await;
        if let Err(error) = &shown {
            print_error(error);
        }
        if !files.is_empty() {
            let end = if shown.is_ok() { "shown " } else { "failed" };
            print(&format!("{end}     {:.1} s after the save\n", at.elapsed().as_secs_f32()))?;
        }
        Ok(())
    }

    async fn try_round(&self) -> Result<()> {
        let checked = BuiltAndCheckedPlugin::build(&self.project).await?;
        print(&format!("built      in {:.1} s\n", checked.took().as_secs_f32()))?;
        let (kinds, revision) = (checked.kinds(), checked.revision());
        let before = self.watched_objects(&kinds).await?;
        if self.progress(checked.name(), &revision.0).await? == PluginRevisionProgress::Active {
            let short = revision.short();
            print(&format!("unchanged  nothing new: the host serves revision {short} already\n"))?;
            return self.print(&before, &revision.0).await;
        }
        checked.install(&self.plugins)?;
        let start = Instant::now();
        self.wait_until_active(checked.name(), &revision.0).await?;
        let took = start.elapsed().as_secs_f32();
        print(&format!("active     revision {} after {took:.1} s\n", revision.short()))?;
        self.wait_until_quiet(&before, &revision.0).await?;
        self.print(&before, &revision.0).await
    }

    /// Waits until the host has activated a revision.
    ///
    /// # Errors
    ///
    /// Fails with the host's reason if it refuses the revision, or if it does neither in time.
    async fn wait_until_active(&self, plugin: &str, revision: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < ACTIVATION_DEADLINE {
            match self.progress(plugin, revision).await? {
                PluginRevisionProgress::Active => return Ok(()),
                PluginRevisionProgress::Refused(why) => {
                    bail!("the host refuses it, and the earlier revision stays active: {why}")
                }
                PluginRevisionProgress::Waiting => sleep(PAUSE).await,
            }
        }
        bail!(
            "no host has activated it within {} s: is one running with `--plugins {}`?",
            ACTIVATION_DEADLINE.as_secs(),
            self.plugins.display()
        )
    }

    async fn progress(&self, plugin: &str, revision: &str) -> Result<PluginRevisionProgress> {
        let found = Kubernetes::get(&*self.kubernetes, plugin_reference(plugin)).await;
        match found {
            Ok(found) => Ok(PluginRevisionProgress::of(&found, revision)),
            // The kind itself may be missing at first, and the API server may be busy.
            Err(CallError::NotFound(_) | CallError::Timeout(_) | CallError::Transient(_)) => {
                Ok(PluginRevisionProgress::Waiting)
            }
            Err(error) => Err(error).context("cannot read the Plugin object"),
        }
    }

    /// Waits until the revision was called for each object and no new report appears. The objects are enqueued when it
    /// becomes active, behind everything else.
    ///
    /// # Errors
    ///
    /// Fails if the host does not answer. After the deadline the present reports are printed, which is no error.
    async fn wait_until_quiet(&self, objects: &[WatchedObject], revision: &str) -> Result<()> {
        let start = Instant::now();
        let (mut last, mut since) = (Vec::new(), Instant::now());
        while start.elapsed() < QUIET_DEADLINE {
            let (mut now, mut all_called) = (Vec::new(), true);
            for WatchedObject { object, last_number } in objects.iter().take(OBJECTS_MAX) {
                let reports = self.reports(object).await?;
                let is_new = |report: &ReconcileReport| {
                    *last_number < report.number && report.revision.0 == revision
                };
                all_called &= reports.iter().any(is_new);
                now.push(revision_progress::last_number(&reports));
            }
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if all_called && QUIET <= since.elapsed() {
                break;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Prints what the revision did, as `tholepin calls` does.
    async fn print(&self, objects: &[WatchedObject], revision: &str) -> Result<()> {
        if objects.is_empty() {
            print("objects    none of its kind yet; `kubectl apply -f example.yaml` makes one\n")?;
        }
        for WatchedObject { object, last_number } in objects.iter().take(OBJECTS_MAX) {
            let reports = self.reports(object).await?;
            match revision_progress::new_reports(reports, revision, *last_number) {
                new if new.is_empty() => {
                    print(&format!("waits      {object} was not reconciled by it yet\n"))?;
                }
                new => print(&format!("\n{}", plan::format_reports(&new)))?,
            }
        }
        let more = objects.len().saturating_sub(OBJECTS_MAX);
        if 0 < more {
            print(&format!("objects    {more} more; `tholepin calls KIND/NAME` shows each\n"))?;
        }
        Ok(())
    }

    /// Returns the objects of these kinds, with the numbers of their last reports. A kind that is not installed yet has
    /// none.
    async fn watched_objects(&self, kinds: &[KindName]) -> Result<Vec<WatchedObject>> {
        let mut watched = Vec::new();
        for kind in kinds {
            let listed = self.kubernetes.list(kind.clone(), String::new(), String::new()).await;
            let listed = match listed {
                Ok(listed) => listed,
                Err(CallError::NotFound(_)) => Vec::new(),
                Err(error) => return Err(error).context("cannot list the plugin's objects"),
            };
            for (index, object) in listed.iter().enumerate() {
                let object = reference(kind, object);
                // Beyond the bound they are only counted.
                let last_number = if index < OBJECTS_MAX {
                    revision_progress::last_number(&self.reports(&object).await?)
                } else {
                    0
                };
                watched.push(WatchedObject { object, last_number });
            }
        }
        Ok(watched)
    }

    /// Returns the host's reports of an object; none before its first reconcile.
    async fn reports(&self, object: &ObjectRef) -> Result<Vec<ReconcileReport>> {
        // Read each time: a restarted host has another address.
        let host = AdminClient::of_file(&self.admin)?;
        let ObjectRef { kind, namespace, name } = object;
        let argument = ObjectArgument {
            kind: kind.kind.clone(),
            name: name.clone(),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        };
        match plan::ask_for_calls(&host, &argument, ReconcileReportSelection::default()).await {
            Err(error) if is_unknown(&error) => Ok(Vec::new()),
            answer => answer.context("the revision is active, but its reports cannot be read"),
        }
    }
}

/// Returns true if the host has no report of the object, or does not know the kind.
fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(AdminClientError::Refused(AdminError::NotFound(_))))
}

fn reference(kind: &KindName, object: &Value) -> ObjectRef {
    let text = |pointer: &str| {
        object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    ObjectRef { kind: kind.clone(), namespace, name }
}
