//! `tholepin plugin watch`: a save is built, put where a host sees it, and what became of it is shown.

mod revision_progress;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tholepin_admin::{AdminClient, AdminClientError, AdminError};
use tholepin_core::{CallError, ObjectRef, ReconcileReport, port::Kubernetes};
use tholepin_devkit::{SourceChange, SourceWatcher};
use tholepin_kube::KubernetesApi;
use tholepin_schema::manifest::KindName;
use tokio::{task::JoinSet, time::sleep};

use self::revision_progress::RevisionProgress;
use super::{
    super::{complain, plan, print, until_told},
    develop::CheckedComponent,
};
use crate::{
    cli::WatchArgs,
    engine,
    planner::{ObjectArgument, ReportSelection},
    plugin_objects::plugin_reference,
    user_files::admin_file,
};

/// How long a host may take to take or refuse a revision.
const TAKEN_DEADLINE: Duration = Duration::from_secs(15);
/// How long the objects must be quiet before their passes are shown, and how long to wait for that.
const QUIET: Duration = Duration::from_millis(250);
const QUIET_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(25);
/// Objects whose passes are shown; more are counted.
const OBJECTS_MAX: usize = 10;

pub(super) async fn run(arguments: WatchArgs) -> Result<()> {
    let WatchArgs { project, plugins, admin, cluster } = arguments;
    let mut signals = JoinSet::new();
    let stop = until_told(&mut signals)?;
    let project = project
        .canonicalize()
        .with_context(|| format!("cannot use the project `{}`", project.display()))?;
    let mut sources = SourceWatcher::watch(&project)?;
    let (admin, kubernetes) =
        (admin_file(admin.admin_file)?, engine::connect(cluster.kubeconfig).await?);
    let watch = PluginWatch { project, plugins, admin, kubernetes };
    print(&format!("watching   {}; Ctrl-C ends it\n", watch.project.display()))?;
    let mut saved = SourceChange { at: Instant::now(), files: Vec::new() };
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

struct PluginWatch {
    project: PathBuf,
    plugins: PathBuf,
    /// The file by which the running host is asked.
    admin: PathBuf,
    kubernetes: Arc<KubernetesApi>,
}

/// An object, and the number of the last pass over it that was known before a save.
struct Watched {
    object: ObjectRef,
    known: u64,
}

impl PluginWatch {
    /// One save from its files to what is shown. What the developer can mend is told and is no error.
    ///
    /// # Errors
    ///
    /// Fails if nobody reads what is told.
    async fn round(&self, saved: &SourceChange) -> Result<()> {
        let SourceChange { at, files } = saved;
        if !files.is_empty() {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            print(&format!("\nsaved      {}\n", files.join(", ")))?;
        }
        let shown = self.try_round().await;
        if let Err(error) = &shown {
            complain(error);
        }
        if !files.is_empty() {
            let end = if shown.is_ok() { "shown " } else { "failed" };
            print(&format!("{end}     {:.1} s after the save\n", at.elapsed().as_secs_f32()))?;
        }
        Ok(())
    }

    async fn try_round(&self) -> Result<()> {
        let checked = CheckedComponent::build(&self.project).await?;
        print(&format!("built      in {:.1} s\n", checked.took().as_secs_f32()))?;
        let (kinds, revision) = (checked.kinds(), checked.revision());
        let before = self.watched(&kinds).await?;
        if self.progress(checked.name(), &revision.0).await? == RevisionProgress::Active {
            let short = revision.short();
            print(&format!("unchanged  nothing new: the host serves revision {short} already\n"))?;
            return self.print(&before, &revision.0).await;
        }
        checked.install(&self.plugins)?;
        let start = Instant::now();
        self.taken(checked.name(), &revision.0).await?;
        let took = start.elapsed().as_secs_f32();
        print(&format!("active     revision {} after {took:.1} s\n", revision.short()))?;
        self.quiet(&before, &revision.0).await?;
        self.print(&before, &revision.0).await
    }

    /// Waits until the host serves a revision.
    ///
    /// # Errors
    ///
    /// Fails if the host refuses it, with its words, or does neither in time.
    async fn taken(&self, plugin: &str, revision: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < TAKEN_DEADLINE {
            match self.progress(plugin, revision).await? {
                RevisionProgress::Active => return Ok(()),
                RevisionProgress::Refused(why) => {
                    bail!("the host refuses it, so the old code goes on: {why}")
                }
                RevisionProgress::Waiting => sleep(PAUSE).await,
            }
        }
        bail!(
            "no host has taken it within {} s: is one running with `--plugins {}`?",
            TAKEN_DEADLINE.as_secs(),
            self.plugins.display()
        )
    }

    async fn progress(&self, plugin: &str, revision: &str) -> Result<RevisionProgress> {
        let found = Kubernetes::get(&*self.kubernetes, plugin_reference(plugin)).await;
        match found {
            Ok(found) => Ok(RevisionProgress::of(&found, revision)),
            // The kind itself may be missing at first, and the API server may be busy.
            Err(CallError::NotFound(_) | CallError::Timeout(_) | CallError::Transient(_)) => {
                Ok(RevisionProgress::Waiting)
            }
            Err(error) => Err(error).context("cannot read the Plugin object"),
        }
    }

    /// Waits until the revision has been called for each object and nothing more comes: its keys are queued
    /// when it becomes active, behind everything else.
    ///
    /// # Errors
    ///
    /// Fails if the host cannot be asked. One that takes long is no error: what there is will be told.
    async fn quiet(&self, objects: &[Watched], revision: &str) -> Result<()> {
        let start = Instant::now();
        let (mut last, mut since) = (Vec::new(), Instant::now());
        while start.elapsed() < QUIET_DEADLINE {
            let (mut now, mut all_called) = (Vec::new(), true);
            for Watched { object, known } in objects.iter().take(OBJECTS_MAX) {
                let passes = self.passes(object).await?;
                let is_new =
                    |pass: &ReconcileReport| *known < pass.number && pass.revision.0 == revision;
                all_called &= passes.iter().any(is_new);
                now.push(revision_progress::last_number(&passes));
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

    /// Tells what the revision did, as `tholepin calls` does.
    async fn print(&self, objects: &[Watched], revision: &str) -> Result<()> {
        if objects.is_empty() {
            print("objects    none of its kind yet; `kubectl apply -f example.yaml` makes one\n")?;
        }
        for Watched { object, known } in objects.iter().take(OBJECTS_MAX) {
            match revision_progress::news(self.passes(object).await?, revision, *known) {
                news if news.is_empty() => {
                    print(&format!("waits      {object} was not reconciled by it yet\n"))?;
                }
                news => print(&format!("\n{}", plan::shown(&news)))?,
            }
        }
        let more = objects.len().saturating_sub(OBJECTS_MAX);
        if 0 < more {
            print(&format!("objects    {more} more; `tholepin calls KIND/NAME` shows each\n"))?;
        }
        Ok(())
    }

    /// The objects of these kinds, with the passes that are known. A kind that is not there yet has none.
    async fn watched(&self, kinds: &[KindName]) -> Result<Vec<Watched>> {
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
                let known = if index < OBJECTS_MAX {
                    revision_progress::last_number(&self.passes(&object).await?)
                } else {
                    0
                };
                watched.push(Watched { object, known });
            }
        }
        Ok(watched)
    }

    /// What the host remembers of an object; nothing before its first pass.
    async fn passes(&self, object: &ObjectRef) -> Result<Vec<ReconcileReport>> {
        // Read anew each time: a host that was started again has another address.
        let host = AdminClient::of_file(&self.admin)?;
        let ObjectRef { kind, namespace, name } = object;
        let words = ObjectArgument {
            kind: kind.kind.clone(),
            name: name.clone(),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        };
        match plan::ask_for_calls(&host, &words, ReportSelection::default()).await {
            Err(error) if is_unknown(&error) => Ok(Vec::new()),
            answer => answer.context("the host serves it, but cannot be asked what it did"),
        }
    }
}

/// Whether the host says that it does not know the object, or the kind.
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
