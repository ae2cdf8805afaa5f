//! Writes the `Plugin` objects: one per plugin of this host's directory, with its status and events.
//!
//! [`PluginRegistryFollower`] calls this for each report of the plugin registry, and twice a second for what changed otherwise.
//! The file is the source of truth: an edit of the object by hand is undone, at most every ten seconds.

mod follower;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use serde_json::{Map, Value, json};
use tholepin_core::{
    CallError, EventType, ObjectRef, PluginName,
    condition::HOST_FIELD_MANAGER,
    plugin_report::{PluginStageReport, RevisionLoadStage},
    port::{
        ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, WatchLease, WatchScope, WatchState,
    },
};
use tholepin_schema::manifest::KindName;
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::status::{
    ANOTHER_HOST, EventAboutPluginObject, PluginObjectsSummary, PluginStatusWriterHosts, event,
    kinds_of, other_host, plugin_status, reports_hosts, stopped_status, without_file,
};
use crate::{controller::Controller, kinds::ApiKinds, plugins::ActivePluginChange};

pub use follower::{PluginRegistryFollower, PluginReports};

/// The `Plugin` objects of this host's directory.
pub struct PluginObjectWriter {
    controller: Arc<Controller>,
    kinds: Arc<dyn ApiKinds>,
    /// The kind of `Plugin` objects.
    kind: KindName,
    /// This host's name in the status.
    host: String,
    /// The last write for each plugin.
    written: BTreeMap<PluginName, LastPluginObjectWrite>,
    /// Keeps the objects in the store, so that an edit by hand is noticed.
    lease: Box<dyn WatchLease>,
    /// The kinds of plugins that were never active in this process, as an earlier host wrote them.
    earlier_kinds: BTreeMap<PluginName, Vec<KindName>>,
    /// Notifies the controller of those kinds.
    events: mpsc::Sender<ActivePluginChange>,
}

/// The last write of a `Plugin` object.
struct LastPluginObjectWrite {
    report: PluginStageReport,
    counts: PluginObjectsSummary,
    status: Value,
    /// When it was written.
    at: Instant,
    /// When an edit by hand was undone last.
    restored: Option<Instant>,
}

/// The shortest time between two restores of one object: somebody may repeat an edit, and the host must not race them.
const RESTORE_PAUSE: Duration = Duration::from_secs(10);

/// The time after which the condition for a second host is checked again.
const ANOTHER_HOST_PAUSE: Duration = Duration::from_secs(60);

impl PluginObjectWriter {
    /// Leases the watch of `Plugin` objects, which are of this `kind`. `host` is the name that the status shows;
    /// `events` are those of [`Controller::run`].
    #[must_use]
    pub fn new(
        controller: Arc<Controller>,
        kinds: Arc<dyn ApiKinds>,
        kind: KindName,
        host: String,
        events: mpsc::Sender<ActivePluginChange>,
    ) -> Self {
        let lease = controller.shared.ports.watches.lease(WatchScope::all(kind.clone()));
        Self {
            controller,
            kinds,
            kind,
            host,
            written: BTreeMap::new(),
            lease,
            earlier_kinds: BTreeMap::new(),
            events,
        }
    }

    fn kubernetes(&self) -> &dyn Kubernetes {
        &*self.controller.shared.ports.kubernetes
    }

    fn reference(&self, name: &PluginName) -> ObjectRef {
        ObjectRef { kind: self.kind.clone(), namespace: String::new(), name: name.to_string() }
    }

    /// Returns the `Plugin` object as the store has it.
    fn in_store(&self, name: &PluginName) -> Option<Arc<Value>> {
        self.kubernetes().view().get(&self.reference(name))
    }

    /// Writes the `Plugin` object of a report. An error is logged; returns false if the write can succeed later.
    async fn write_report(&mut self, report: &PluginStageReport) -> bool {
        self.follow_earlier_kinds(&report.name).await;
        let counts = self.counts(&report.name);
        // While objects of its kinds exist, the `Plugin` object shows that no plugin reconciles them.
        let is_obsolete = report.stage == Some(RevisionLoadStage::Unloaded)
            && self.has_none(&report.name, &counts);
        let written = if is_obsolete {
            self.remove(&report.name).await.map(|()| None)
        } else {
            self.write(report, &counts).await.map(Some)
        };
        match written {
            Ok(status) => {
                self.remember(report, counts, status);
                true
            }
            Err(error) => {
                warn!(plugin = %report.name, %error, "cannot write the Plugin object");
                !error.is_passing()
            }
        }
    }

    /// Counts the objects of a plugin now.
    fn counts(&self, plugin: &PluginName) -> PluginObjectsSummary {
        let health = self.controller.health(plugin);
        let (followed, claimed) = (self.followed(plugin), self.controller.followed());
        let earlier = self.earlier_kinds.get(plugin).into_iter().flatten().cloned();
        // Another plugin may reconcile the kinds of an earlier host's plugin by now.
        let earlier = earlier.filter(|kind| !claimed.iter().any(|(_, claimed)| claimed == kind));
        let kinds = if followed.is_empty() { earlier.collect() } else { followed };
        let missing = self.kinds.missing();
        let missing: Vec<&KindName> = missing.iter().filter(|kind| kinds.contains(kind)).collect();
        let view = self.kubernetes().view();
        // A kind that the API server does not serve has no objects.
        let is_known = !kinds.is_empty()
            && kinds.iter().all(|kind| view.covers(kind) || missing.contains(&kind));
        let objects = || kinds.iter().map(|kind| view.references(kind, "").len()).sum();
        let missing_kinds = missing.iter().map(ToString::to_string).collect();
        let objects = is_known.then(objects);
        PluginObjectsSummary { health, objects, kinds: kinds.clone(), missing_kinds }
    }

    /// Returns true if no objects of a plugin's kinds exist.
    fn has_none(&self, plugin: &PluginName, counts: &PluginObjectsSummary) -> bool {
        if !counts.kinds.is_empty() {
            return counts.objects == Some(0);
        }
        // Another plugin reconciles its kinds, or it never had any, or the status does not name them.
        let stored = self.in_store(plugin);
        let objects =
            stored.as_ref().and_then(|stored| stored.pointer("/status/objects")?.as_u64());
        self.earlier_kinds.contains_key(plugin) || objects.unwrap_or_default() == 0
    }

    /// Returns the kinds that the controller follows for a plugin.
    fn followed(&self, plugin: &PluginName) -> Vec<KindName> {
        let followed = self.controller.followed().into_iter().filter(|(whose, _)| whose == plugin);
        followed.map(|(_, kind)| kind).collect()
    }

    /// Makes the controller follow the kinds that a plugin reconciled when an earlier host wrote its status, unless
    /// another plugin reconciles them: their objects are counted, and get the condition that the plugin is missing.
    async fn follow_earlier_kinds(&mut self, plugin: &PluginName) {
        if !self.followed(plugin).is_empty() {
            self.earlier_kinds.remove(plugin);
            return;
        }
        if self.earlier_kinds.contains_key(plugin) {
            return;
        }
        let stored = self.in_store(plugin);
        let kinds = stored.as_ref().and_then(|stored| stored.get("status")).map(kinds_of);
        let kinds = kinds.unwrap_or_default();
        if !kinds.is_empty() {
            self.earlier_kinds.insert(plugin.clone(), kinds.clone());
            // The channel is closed only when the host ends.
            self.events.send(ActivePluginChange::Missing(plugin.clone(), kinds)).await.ok();
        }
    }

    /// Writes the status of `Plugin` objects of which this host has no file.
    async fn write_without_file(&mut self, known: &BTreeMap<PluginName, PluginStageReport>) {
        if self.lease.state() != WatchState::Following {
            return;
        }
        let names = self.kubernetes().view().references(&self.kind, "").into_iter();
        let names = names.filter_map(|object| object.name.parse::<PluginName>().ok());
        let reports: Vec<PluginStageReport> = names
            .filter(|name| !known.contains_key(name))
            .filter_map(|name| {
                let object = self.in_store(&name)?;
                let status = object.get("status");
                // An object that was written before and has no status was created again.
                let is_new = status.is_none() || !self.written.contains_key(&name);
                if is_new { without_file(&name, status) } else { None }
            })
            .collect();
        for report in reports {
            log(&report);
            self.write_report(&report).await;
        }
    }

    /// Writes the last report again, for a plugin of which the registry has none.
    async fn write_again(&mut self, name: &PluginName) -> bool {
        match self.written.get(name).map(|written| written.report.clone()) {
            Some(report) => self.write_report(&report).await,
            None => true,
        }
    }

    /// Writes into each status that this host stops.
    async fn stop(&self) {
        let is_ours = |name: &PluginName| {
            let object = self.in_store(name);
            let host = object.as_ref().and_then(|object| object.pointer("/status/host"));
            host.is_none_or(|host| *host == self.host.as_str())
        };
        let ours = self.written.iter().filter(|(name, _)| is_ours(name));
        let writes = ours.map(|(name, written)| async move {
            let status = stopped_status(&written.status, &self.host, now_ms());
            let reference = self.reference(name);
            match self.apply(named(&reference, "status", status), true).await {
                Ok(_) | Err(CallError::NotFound(_)) => {}
                Err(error) => {
                    warn!(plugin = %name, %error, "cannot write into the plugin's status that the host stops");
                }
            }
        });
        join_all(writes).await;
    }

    /// Returns the plugins whose status must be written again: their objects changed, or somebody else wrote the
    /// status.
    fn changed(&self) -> Vec<PluginName> {
        let is_changed = |(name, written): &(&PluginName, &LastPluginObjectWrite)| {
            let serves = written.report.serving.is_some();
            self.counts(name) != written.counts || serves && self.is_overwritten(name, written)
        };
        self.written.iter().filter(is_changed).map(|(name, _)| name.clone()).collect()
    }

    /// Returns true if the status of an active plugin is not the one that this host wrote.
    fn is_overwritten(&self, name: &PluginName, written: &LastPluginObjectWrite) -> bool {
        let object = self.in_store(name);
        let Some(stored) = object.as_ref().and_then(|object| object.get("status")) else {
            return false;
        };
        // Another host wrote it, and its condition does not show that.
        if other_host(stored, &self.host, true).is_some() && !reports_hosts(stored) {
            return true;
        }
        // The condition for a second host is checked again now and then: that host may have stopped.
        let is_ours = stored["host"] == self.host.as_str();
        if is_ours && reports_hosts(stored) && ANOTHER_HOST_PAUSE <= written.at.elapsed() {
            return true;
        }
        // A person edited the status; undone as rarely as an edit of the spec.
        let fields = written.status.as_object().into_iter().flatten();
        let mut fields =
            fields.filter(|(field, _)| !["host", "conditions"].contains(&field.as_str()));
        RESTORE_PAUSE <= written.at.elapsed()
            && fields.any(|(field, value)| stored.get(field) != Some(value))
    }

    /// Restores the objects that somebody edited or deleted to what their files say, with an event on each.
    async fn restore(&mut self) {
        if self.lease.state() != WatchState::Following {
            return;
        }
        let is_due = |written: &LastPluginObjectWrite| {
            written.restored.is_none_or(|at| RESTORE_PAUSE <= at.elapsed())
                && written.report.serving.is_some()
        };
        let edited: Vec<(PluginName, Arc<Value>, Option<Arc<Value>>)> = self
            .written
            .iter()
            .filter(|(_, written)| is_due(written))
            .filter_map(|(name, written)| {
                let file = written.report.object.as_ref()?;
                let stored = self.in_store(name);
                let is_same =
                    stored.as_ref().is_some_and(|stored| stored.get("spec") == file.get("spec"));
                (!is_same).then(|| (name.clone(), file.clone(), stored))
            })
            .collect();
        for (name, file, stored) in edited {
            if let Some(written) = self.written.get_mut(&name) {
                written.restored = Some(Instant::now());
            }
            if let Err(error) = self.restore_from_file(&name, &file, stored.as_deref()).await {
                warn!(plugin = %name, %error, "cannot restore the Plugin object to what its file says");
            }
        }
    }

    /// Writes the `spec` of the file on an object that was edited, or creates an object that was deleted.
    async fn restore_from_file(
        &mut self,
        name: &PluginName,
        file: &Value,
        stored: Option<&Value>,
    ) -> Result<(), CallError> {
        let reference = self.reference(name);
        let spec = file.get("spec").cloned().unwrap_or_default();
        let Some(stored) = stored else {
            // Written with its status; the event needs the uid of the new object.
            let report = self.written.remove(name).map(|written| written.report);
            let Some(report) = report else { return Ok(()) };
            self.write_report(&report).await;
            let created = self.kubernetes().get(reference.clone()).await?;
            let uid = created.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
            let text = format!(
                "the object was deleted, and is created again from {name}.yaml; remove that file to unload the \
                 plugin"
            );
            self.publish(reference, uid, warning("PutBack", text)).await;
            return Ok(());
        };
        let mut new = stored.clone();
        let fields = changed_fields(stored.get("spec"), &spec);
        if let Some(object) = new.as_object_mut() {
            object.insert("spec".to_owned(), spec);
        }
        self.kubernetes().replace(new, HOST_FIELD_MANAGER.to_owned()).await?;
        let uid = stored.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let text = format!(
            "somebody changed {fields} here, and it is restored from {name}.yaml; change that file instead"
        );
        self.publish(reference, uid, warning("PutBack", text)).await;
        Ok(())
    }

    /// Records a write; without a status the object was deleted.
    fn remember(
        &mut self,
        report: &PluginStageReport,
        counts: PluginObjectsSummary,
        status: Option<Value>,
    ) {
        let name = report.name.clone();
        let Some(status) = status else {
            self.written.remove(&name);
            self.earlier_kinds.remove(&name);
            return;
        };
        let restored = self.written.get(&name).and_then(|before| before.restored);
        let (report, at) = (report.clone(), Instant::now());
        self.written.insert(name, LastPluginObjectWrite { report, counts, status, at, restored });
    }

    /// Writes the object and its status, publishes the events, and returns the status.
    async fn write(
        &self,
        report: &PluginStageReport,
        counts: &PluginObjectsSummary,
    ) -> Result<Value, CallError> {
        let reference = self.reference(&report.name);
        let written = self.written.get(&report.name);
        let stored = self.stored(report, written, &reference).await?;
        let before = stored.get("status").or(written.map(|written| &written.status));
        let before = before.unwrap_or(&Value::Null);
        let other = other_host(before, &self.host, written.is_some());
        let hosts = PluginStatusWriterHosts { this: &self.host, other };
        let mut status = plugin_status(report, counts, hosts, before, now_ms());
        if let Some(generation) = stored.pointer("/metadata/generation") {
            status.insert("observedGeneration".to_owned(), generation.clone());
        }
        let status = Value::Object(status);
        self.apply(named(&reference, "status", status.clone()), true).await?;
        let uid = stored.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if let Some(other) = other {
            let text =
                format!("the host `{other}` and this one, `{}`, both serve this plugin", self.host);
            self.publish(reference.clone(), uid, warning(ANOTHER_HOST, text)).await;
        }
        if let Some(event) = event(written.map(|written| &written.report), report) {
            self.publish(reference, uid, event).await;
        }
        Ok(status)
    }

    /// Returns the object after writing what its file says.
    async fn stored(
        &self,
        report: &PluginStageReport,
        written: Option<&LastPluginObjectWrite>,
        reference: &ObjectRef,
    ) -> Result<Value, CallError> {
        // A file that cannot be read leaves the object as it is. A component without a file gets an object with the
        // least that the definition requires.
        let is_known = written.is_some_and(|written| written.report.object == report.object);
        if (is_known || report.object.is_none())
            && let Ok(stored) = self.kubernetes().get(reference.clone()).await
        {
            return Ok(stored);
        }
        let file = format!("{}.wasm", report.name);
        let minimal = json!({"source": {"file": file}, "grants": {}});
        let spec = report.object.as_ref().and_then(|object| object.get("spec")).cloned();
        self.apply(named(reference, "spec", spec.unwrap_or(minimal)), false).await
    }

    async fn remove(&self, name: &PluginName) -> Result<(), CallError> {
        let request = DeleteRequest {
            object: self.reference(name),
            uid: None,
            resource_version: None,
            grace_seconds: None,
            dry_run: false,
        };
        match self.kubernetes().delete(request).await {
            Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, object: Value, is_status: bool) -> Result<Value, CallError> {
        let request = ApplyRequest {
            field_manager: HOST_FIELD_MANAGER.to_owned(),
            object,
            // The file is the source of truth: fields that somebody edited by hand are taken over.
            force: true,
            status: is_status,
            dry_run: false,
        };
        self.kubernetes().apply(request).await
    }

    async fn publish(&self, regarding: ObjectRef, uid: &str, event: EventAboutPluginObject) {
        let EventAboutPluginObject { event_type, reason, message } = event;
        let request = PublishRequest {
            reporter: HOST_FIELD_MANAGER.to_owned(),
            regarding,
            regarding_uid: uid.to_owned(),
            event_type,
            reason,
            message,
        };
        // A lost event has no other effect.
        if let Err(error) = self.kubernetes().publish(request).await {
            warn!(%error, "the event was not published");
        }
    }
}

/// Logs a report.
fn log(report: &PluginStageReport) {
    let PluginStageReport { name, stage, reason, message, .. } = report;
    match (reason, stage) {
        (Some(reason), _) => warn!(plugin = %name, %reason, message, "the new revision is refused"),
        (None, Some(stage @ (RevisionLoadStage::Active | RevisionLoadStage::Unloaded))) => {
            let revision = report.active().map(|digest| digest.short().to_owned());
            info!(plugin = %name, revision, "{stage}");
        }
        (None, _) => {}
    }
}

/// Returns the fields in which two specs differ: `.spec.grants, .spec.limits`.
fn changed_fields(stored: Option<&Value>, expected: &Value) -> String {
    let none = Map::new();
    let stored = stored.and_then(Value::as_object).unwrap_or(&none);
    let expected = expected.as_object().unwrap_or(&none);
    let names: BTreeSet<&String> = stored.keys().chain(expected.keys()).collect();
    let differ = names.into_iter().filter(|name| stored.get(*name) != expected.get(*name));
    differ.map(|name| format!("`.spec.{name}`")).collect::<Vec<_>>().join(", ")
}

fn warning(reason: &str, message: String) -> EventAboutPluginObject {
    let reason = reason.to_owned();
    EventAboutPluginObject { event_type: EventType::Warning, reason, message }
}

/// Returns an object with one field besides its name.
fn named(reference: &ObjectRef, field: &str, value: Value) -> Value {
    json!({
        "apiVersion": reference.kind.api_version,
        "kind": reference.kind.kind,
        "metadata": {"name": reference.name},
        field: value,
    })
}

fn now_ms() -> u64 {
    let elapsed: Duration = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
