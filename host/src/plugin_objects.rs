//! Shows in Kubernetes what the registry reports: a `Plugin` object per file, with its status and events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use serde_json::{Map, Value, json};
use tholepin_controller::{Controller, PluginEvent};
use tholepin_core::{
    CallError, EventType, ObjectRef, PluginName,
    condition::HOST_FIELD_MANAGER,
    port::{ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, WatchLease, WatchState},
};
use tholepin_guest::{PluginReport, RevisionStage};
use tholepin_kube::KubernetesApi;
use tholepin_schema::manifest::KindName;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::plugin_status::{
    ANOTHER_HOST, Hosts, ObjectsSeen, event, kinds_of, other_host, plugin_status, reports_hosts,
    stopped_status, without_file,
};

/// Names a `Plugin` object.
pub(crate) fn plugin_reference(name: &str) -> ObjectRef {
    let kind = KindName {
        api_version: format!("{}/{}", tholepin_crd::GROUP, tholepin_crd::VERSION),
        kind: "Plugin".to_owned(),
    };
    ObjectRef { kind, namespace: String::new(), name: name.to_owned() }
}

/// The `Plugin` objects of this host's directory.
pub(crate) struct PluginObjects {
    pub(crate) kubernetes: Arc<KubernetesApi>,
    pub(crate) controller: Arc<Controller>,
    /// How this host is called in the status.
    pub(crate) host: String,
    /// What was written last.
    pub(crate) shown: BTreeMap<PluginName, WrittenStatus>,
    /// Keeps the objects in the store, so that an edit by hand is noticed.
    pub(crate) watched: Box<dyn WatchLease>,
    /// The kinds of plugins that this host has never called, by what an earlier host wrote.
    pub(crate) kept: BTreeMap<PluginName, Vec<KindName>>,
    /// Told of these kinds, so that their objects are.
    pub(crate) events: mpsc::Sender<PluginEvent>,
}

/// What was written of a plugin.
pub(crate) struct WrittenStatus {
    report: PluginReport,
    seen: ObjectsSeen,
    status: Value,
    /// When it was written.
    written: Instant,
    /// When an edit by hand was undone last.
    put_back: Option<Instant>,
}

/// An edit by hand is undone at most so often: whoever makes it again and again must not be raced.
const PUT_BACK_PAUSE: Duration = Duration::from_secs(10);

/// After this time a host looks whether the other one has written again.
const ANOTHER_HOST_PAUSE: Duration = Duration::from_secs(60);

impl PluginObjects {
    /// Writes the `Plugin` object that a report speaks of. Says whether that is done with: what cannot be
    /// written is logged, and `false` means that it can be later.
    pub(crate) async fn show(&mut self, report: &PluginReport) -> bool {
        self.keep_kinds(&report.name).await;
        let seen = self.seen(&report.name);
        // With objects that nobody reconciles any more, that must stay visible.
        let goes =
            report.stage == Some(RevisionStage::Unloaded) && self.has_none(&report.name, &seen);
        let written = if goes {
            self.remove(&report.name).await.map(|()| None)
        } else {
            self.write(report, &seen).await.map(Some)
        };
        match written {
            Ok(status) => {
                self.remember(report, seen, status);
                true
            }
            Err(error) => {
                warn!(plugin = %report.name, %error, "cannot show the plugin's state in Kubernetes");
                !error.is_passing()
            }
        }
    }

    /// How the objects of a plugin are now.
    fn seen(&self, plugin: &PluginName) -> ObjectsSeen {
        let health = self.controller.health(plugin);
        let (followed, claimed) = (self.followed(plugin), self.controller.followed());
        let kept = self.kept.get(plugin).into_iter().flatten().cloned();
        // Another plugin may have taken over what an earlier host had.
        let kept = kept.filter(|kind| !claimed.iter().any(|(_, claimed)| claimed == kind));
        let kinds = if followed.is_empty() { kept.collect() } else { followed };
        let watches = self.kubernetes.watches();
        let missing = watches.iter().filter(|watch| watch.state == WatchState::KindMissing);
        let missing: Vec<&KindName> =
            missing.map(|watch| &watch.scope.kind).filter(|kind| kinds.contains(kind)).collect();
        let view = self.kubernetes.view();
        // Of a kind that the server does not know there are none.
        let is_known = !kinds.is_empty()
            && kinds.iter().all(|kind| view.covers(kind) || missing.contains(&kind));
        let objects = || kinds.iter().map(|kind| view.references(kind, "").len()).sum();
        let missing_kinds = missing.iter().map(ToString::to_string).collect();
        ObjectsSeen { health, objects: is_known.then(objects), kinds: kinds.clone(), missing_kinds }
    }

    /// Whether no object waits for a plugin.
    fn has_none(&self, plugin: &PluginName, seen: &ObjectsSeen) -> bool {
        if !seen.kinds.is_empty() {
            return seen.objects == Some(0);
        }
        // Its kinds are another plugin's, or it never had any; or whoever wrote its status did not name them.
        let stored = self.kubernetes.view().get(&plugin_reference(plugin.as_str()));
        let objects = stored.as_ref().and_then(|it| it.pointer("/status/objects")?.as_u64());
        self.kept.contains_key(plugin) || objects.unwrap_or_default() == 0
    }

    /// The kinds that the controller follows for a plugin.
    fn followed(&self, plugin: &PluginName) -> Vec<KindName> {
        let followed = self.controller.followed().into_iter().filter(|(whose, _)| whose == plugin);
        followed.map(|(_, kind)| kind).collect()
    }

    /// Has the controller follow the kinds that a plugin reconciled when an earlier host wrote its status, while
    /// nobody else does: how many objects wait for it must be known, and they must say so.
    async fn keep_kinds(&mut self, plugin: &PluginName) {
        if !self.followed(plugin).is_empty() {
            self.kept.remove(plugin);
            return;
        }
        if self.kept.contains_key(plugin) {
            return;
        }
        let stored = self.kubernetes.view().get(&plugin_reference(plugin.as_str()));
        let kinds = stored.as_ref().and_then(|stored| stored.get("status")).map(kinds_of);
        let kinds = kinds.unwrap_or_default();
        if !kinds.is_empty() {
            self.kept.insert(plugin.clone(), kinds.clone());
            // Closed only when the host ends.
            self.events.send(PluginEvent::Missing(plugin.clone(), kinds)).await.ok();
        }
    }

    /// Tells on the `Plugin` objects of which this host has no file that nobody serves them.
    pub(crate) async fn show_those_without_file(
        &mut self,
        known: &BTreeMap<PluginName, PluginReport>,
    ) {
        if self.watched.state() != WatchState::Following {
            return;
        }
        let view = self.kubernetes.view();
        let names = view.references(&plugin_reference("").kind, "").into_iter();
        let names = names.filter_map(|object| object.name.parse::<PluginName>().ok());
        let reports: Vec<PluginReport> = names
            .filter(|name| !known.contains_key(name))
            .filter_map(|name| {
                let object = view.get(&plugin_reference(name.as_str()))?;
                let status = object.get("status");
                // One that was shown before and has no status was made anew.
                let is_new = status.is_none() || !self.shown.contains_key(&name);
                if is_new { without_file(&name, status) } else { None }
            })
            .collect();
        for report in reports {
            log(&report);
            self.show(&report).await;
        }
    }

    /// Writes once more what was shown of a plugin of which the registry knows nothing.
    pub(crate) async fn show_again(&mut self, name: &PluginName) -> bool {
        match self.shown.get(name).map(|shown| shown.report.clone()) {
            Some(report) => self.show(&report).await,
            None => true,
        }
    }

    /// Says in each status that this host stops.
    pub(crate) async fn stop(&self) {
        let view = self.kubernetes.view();
        let is_ours = |name: &PluginName| {
            let object = view.get(&plugin_reference(name.as_str()));
            let host = object.as_ref().and_then(|it| it.pointer("/status/host"));
            host.is_none_or(|host| *host == self.host.as_str())
        };
        let ours = self.shown.iter().filter(|(name, _)| is_ours(name));
        let written = ours.map(|(name, shown)| async move {
            let status = stopped_status(&shown.status, &self.host, now_ms());
            let reference = plugin_reference(name.as_str());
            match self.apply(named(&reference, "status", status), true).await {
                Ok(_) | Err(CallError::NotFound(_)) => {}
                Err(error) => {
                    warn!(plugin = %name, %error, "cannot say in the plugin's status that the host stops");
                }
            }
        });
        join_all(written).await;
    }

    /// The plugins whose status is to be written: their objects are otherwise than was written, or another
    /// host has written it, and does not say so.
    pub(crate) fn changed(&self) -> Vec<PluginName> {
        let view = self.kubernetes.view();
        let is_anothers = |name: &PluginName| {
            let object = view.get(&plugin_reference(name.as_str()));
            let status = object.as_ref().and_then(|object| object.get("status"));
            status.is_some_and(|status| {
                other_host(status, &self.host, true).is_some() && !reports_hosts(status)
            })
        };
        // That there is another host is found out anew now and then: it may have stopped.
        let may_be_over = |name: &PluginName, shown: &WrittenStatus| {
            let object = view.get(&plugin_reference(name.as_str()));
            let status = object.as_ref().and_then(|object| object.get("status"));
            let is_ours = |status: &Value| status["host"] == self.host.as_str();
            ANOTHER_HOST_PAUSE <= shown.written.elapsed()
                && status.is_some_and(|status| is_ours(status) && reports_hosts(status))
        };
        // What somebody wrote into the status by hand; as rarely as an edit of the spec.
        let is_falsified = |name: &PluginName, shown: &WrittenStatus| {
            let object = view.get(&plugin_reference(name.as_str()));
            let stored = object.as_ref().and_then(|object| object.get("status"));
            let ours = shown.status.as_object().into_iter().flatten();
            let mut ours =
                ours.filter(|(field, _)| !["host", "conditions"].contains(&field.as_str()));
            PUT_BACK_PAUSE <= shown.written.elapsed()
                && stored.is_some_and(|stored| {
                    ours.any(|(field, value)| stored.get(field) != Some(value))
                })
        };
        let differs = |(name, shown): &(&PluginName, &WrittenStatus)| {
            let serves = shown.report.serving.is_some();
            self.seen(name) != shown.seen
                || serves
                    && (is_anothers(name) || may_be_over(name, shown) || is_falsified(name, shown))
        };
        self.shown.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    /// Makes the objects equal to their files again that somebody edited or deleted, and says so on them.
    pub(crate) async fn put_back(&mut self) {
        if self.watched.state() != WatchState::Following {
            return;
        }
        let view = self.kubernetes.view();
        let due = |shown: &WrittenStatus| {
            shown.put_back.is_none_or(|at| PUT_BACK_PAUSE <= at.elapsed())
                && shown.report.serving.is_some()
        };
        let edited: Vec<(PluginName, Arc<Value>, Option<Arc<Value>>)> = self
            .shown
            .iter()
            .filter(|(_, shown)| due(shown))
            .filter_map(|(name, shown)| {
                let spec = shown.report.object.as_ref()?;
                let stored = view.get(&plugin_reference(name.as_str()));
                let is_same = stored.as_ref().is_some_and(|it| it.get("spec") == spec.get("spec"));
                (!is_same).then(|| (name.clone(), spec.clone(), stored))
            })
            .collect();
        for (name, file, stored) in edited {
            if let Some(shown) = self.shown.get_mut(&name) {
                shown.put_back = Some(Instant::now());
            }
            if let Err(error) = self.undo(&name, &file, stored.as_deref()).await {
                warn!(plugin = %name, %error, "cannot put the Plugin object back as its file has it");
            }
        }
    }

    async fn undo(
        &mut self,
        name: &PluginName,
        file: &Value,
        stored: Option<&Value>,
    ) -> Result<(), CallError> {
        let reference = plugin_reference(name.as_str());
        let spec = file.get("spec").cloned().unwrap_or_default();
        let Some(stored) = stored else {
            // Written whole, status included; the event needs the new object.
            let report = self.shown.remove(name).map(|shown| shown.report);
            let Some(report) = report else { return Ok(()) };
            self.show(&report).await;
            let made = self.kubernetes.get(reference.clone()).await?;
            let uid = made.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
            let text = format!(
                "the object was deleted, and is back: {name}.yaml says what is wanted; remove that file \
                 to unload the plugin"
            );
            self.publish(reference, uid, true, "PutBack".to_owned(), text).await;
            return Ok(());
        };
        let mut new = stored.clone();
        let fields = changed_fields(stored.get("spec"), &spec);
        if let Some(object) = new.as_object_mut() {
            object.insert("spec".to_owned(), spec);
        }
        self.kubernetes.replace(new, HOST_FIELD_MANAGER.to_owned()).await?;
        let uid = stored.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let text = format!(
            "somebody changed {fields} here, and it is put back: {name}.yaml says what is wanted; change that \
             file"
        );
        self.publish(reference, uid, true, "PutBack".to_owned(), text).await;
        Ok(())
    }

    fn remember(&mut self, report: &PluginReport, seen: ObjectsSeen, status: Option<Value>) {
        let name = report.name.clone();
        let Some(status) = status else {
            self.shown.remove(&name);
            self.kept.remove(&name);
            return;
        };
        let put_back = self.shown.get(&name).and_then(|before| before.put_back);
        self.shown.insert(
            name,
            WrittenStatus {
                report: report.clone(),
                seen,
                status,
                written: Instant::now(),
                put_back,
            },
        );
    }

    async fn write(&self, report: &PluginReport, seen: &ObjectsSeen) -> Result<Value, CallError> {
        let reference = plugin_reference(report.name.as_str());
        let shown = self.shown.get(&report.name);
        let stored = self.stored(report, shown, &reference).await?;
        let known = stored.get("status").or(shown.map(|shown| &shown.status));
        let known = known.unwrap_or(&Value::Null);
        let other = other_host(known, &self.host, shown.is_some());
        let hosts = Hosts { this: &self.host, other };
        let mut status = plugin_status(report, seen, hosts, known, now_ms());
        if let Some(generation) = stored.pointer("/metadata/generation") {
            status.insert("observedGeneration".to_owned(), generation.clone());
        }
        let status = Value::Object(status);
        self.apply(named(&reference, "status", status.clone()), true).await?;
        let uid = stored.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if let Some(other) = other {
            let text =
                format!("the host `{other}` and this one, `{}`, both serve this plugin", self.host);
            self.publish(reference.clone(), uid, true, ANOTHER_HOST.to_owned(), text).await;
        }
        if let Some((is_warning, reason, message)) = event(shown.map(|shown| &shown.report), report)
        {
            self.publish(reference, uid, is_warning, reason, message).await;
        }
        Ok(status)
    }

    /// The object, equal to its file.
    async fn stored(
        &self,
        report: &PluginReport,
        shown: Option<&WrittenStatus>,
        reference: &ObjectRef,
    ) -> Result<Value, CallError> {
        // A file that cannot be read leaves the object as it was; if there is none, there is a component
        // without settings, which is shown with the least that the definition asks for.
        let is_known = shown.is_some_and(|shown| shown.report.object == report.object);
        if (is_known || report.object.is_none())
            && let Ok(stored) = self.kubernetes.get(reference.clone()).await
        {
            return Ok(stored);
        }
        let file = format!("{}.wasm", report.name);
        let without = json!({"source": {"file": file}, "grants": {}});
        let spec = report.object.as_ref().and_then(|object| object.get("spec")).cloned();
        self.apply(named(reference, "spec", spec.unwrap_or(without)), false).await
    }

    async fn remove(&self, name: &PluginName) -> Result<(), CallError> {
        let request = DeleteRequest {
            object: plugin_reference(name.as_str()),
            uid: None,
            resource_version: None,
            grace_seconds: None,
            dry_run: false,
        };
        match self.kubernetes.delete(request).await {
            Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, object: Value, is_status: bool) -> Result<Value, CallError> {
        let request = ApplyRequest {
            field_manager: HOST_FIELD_MANAGER.to_owned(),
            object,
            // The file is the truth: whoever edited the object by hand is overruled.
            force: true,
            status: is_status,
            dry_run: false,
        };
        self.kubernetes.apply(request).await
    }

    async fn publish(
        &self,
        regarding: ObjectRef,
        uid: &str,
        is_warning: bool,
        reason: String,
        message: String,
    ) {
        let request = PublishRequest {
            reporter: HOST_FIELD_MANAGER.to_owned(),
            regarding,
            regarding_uid: uid.to_owned(),
            event_type: if is_warning { EventType::Warning } else { EventType::Normal },
            reason,
            message,
        };
        // An event that is lost changes nothing.
        if let Err(error) = self.kubernetes.publish(request).await {
            warn!(%error, "the event was not published");
        }
    }
}

/// Says what a report tells, for people.
pub(crate) fn log(report: &PluginReport) {
    let PluginReport { name, stage, reason, message, .. } = report;
    match (reason, stage) {
        (Some(reason), _) => warn!(plugin = %name, %reason, message, "the new revision is refused"),
        (None, Some(stage @ (RevisionStage::Active | RevisionStage::Unloaded))) => {
            let revision = report.active().map(|digest| digest.short().to_owned());
            info!(plugin = %name, revision, "{stage}");
        }
        (None, _) => {}
    }
}

/// Which fields of two specs differ: `.spec.grants, .spec.limits`.
fn changed_fields(stored: Option<&Value>, wanted: &Value) -> String {
    let none = Map::new();
    let stored = stored.and_then(Value::as_object).unwrap_or(&none);
    let wanted = wanted.as_object().unwrap_or(&none);
    let names: BTreeSet<&String> = stored.keys().chain(wanted.keys()).collect();
    let differ = names.into_iter().filter(|name| stored.get(*name) != wanted.get(*name));
    differ.map(|name| format!("`.spec.{name}`")).collect::<Vec<_>>().join(", ")
}

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
