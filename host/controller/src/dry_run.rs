//! The dry run of a reconcile, for `tholepin plan`: shows what the active revision would do to an object now, and
//! writes nothing. Its result is a report. The `Plan` of a plugin is another thing: what the plugin decides to do.
//!
//! A dry run calls the same [`reconcile_once`] as the live loop, with the same memo and the same accepted spec, and so
//! shows what the next live reconcile would do. It changes nothing that the controller remembers: no memo, no
//! strike, no wake, no queue entry.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, CallError, MissingObjectField, ObjectMeta, ObjectRef, PluginName, ReconcileKey,
    ReconcileReport, WriteMode, port::WatchLease,
};
use tholepin_schema::manifest::KindName;
use tokio::time::{Instant, timeout_at};

use crate::{
    Controller,
    mapper::ReconcileMapper,
    phase::finalizer_of,
    plugins::{ActivePlugin, ReconcilePurpose},
    reconcile::accepted,
    reconcile_once::{LiveOrDryRunEffects, ReconcileTarget, reconcile_once},
    report_builder::{ReportBuilder, finalizer_step},
    strikes::StrikedObjectVersion,
};

/// The cause in the report of a dry run and in the request to the plugin.
const CAUSE: &str = "plan";

/// Why no dry run can be made, with how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DryRunError {
    /// No active plugin reconciles the kind.
    #[error(
        "no active plugin reconciles {0}; reconciled are: {1}; `tholepin plugin list` shows the plugins"
    )]
    NoPlugin(KindName, String),
    /// The object does not exist.
    #[error(
        "{0} does not exist; to plan for an object that does not exist yet give it with -f FILE"
    )]
    NoObject(ObjectRef),
    /// A watch that the plugin needs has not listed its objects in time.
    #[error("the watch of {0} has not listed its objects in time; see the log for the reason")]
    NotWatched(KindName),
    /// The object has no kind or no name.
    #[error("the object cannot be planned for")]
    Object(#[source] MissingObjectField),
}

impl Controller {
    /// Returns the plugin that reconciles a kind.
    ///
    /// # Errors
    ///
    /// Fails if there is none, and names the kinds that active plugins reconcile.
    pub fn plugin_for(&self, kind: &KindName) -> Result<Arc<ActivePlugin>, DryRunError> {
        let serves = |plugin: &Arc<ActivePlugin>| {
            plugin.manifest.reconciles.iter().any(|served| served.name == *kind)
        };
        let serving = self.shared.ports.plugins.all().into_iter().find(serves);
        serving.ok_or_else(|| DryRunError::NoPlugin(kind.clone(), self.known_kinds()))
    }

    /// Returns the names of the kinds that active plugins reconcile, for messages.
    #[must_use]
    pub fn known_kinds(&self) -> String {
        let known: Vec<_> = self.kinds().iter().map(|kind| kind.kind.clone()).collect();
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    }

    /// Leases the watches that a plugin needs, and waits until each has listed its objects. For a controller that
    /// only makes dry runs: one that runs holds these leases already.
    ///
    /// # Errors
    ///
    /// Fails with the first watch that has not listed its objects within `deadline`.
    pub async fn watch_for(
        &self,
        plugin: &ActivePlugin,
        deadline: Duration,
    ) -> Result<Vec<Box<dyn WatchLease>>, DryRunError> {
        let until = Instant::now() + deadline;
        let routes = ReconcileMapper::new([(&plugin.name, &*plugin.manifest)]);
        let mut leases = Vec::new();
        for scope in routes.scopes() {
            leases.push((scope.kind.clone(), self.shared.ports.watches.lease(scope)));
        }
        for (kind, lease) in &leases {
            let following = timeout_at(until, lease.following()).await;
            following.map_err(|_| DryRunError::NotWatched(kind.clone()))?;
        }
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }

    /// Makes a dry run for an object as it is in the store, or as `given`.
    ///
    /// # Errors
    ///
    /// Fails if no plugin reconciles the kind, or the object does not exist. An error of the plugin is no error
    /// here: the report holds it.
    pub async fn dry_run(
        &self,
        object: &ObjectRef,
        given: Option<Value>,
    ) -> Result<ReconcileReport, DryRunError> {
        let plugin = self.plugin_for(&object.kind)?;
        let is_stored = given.is_none();
        let value = match given {
            Some(given) => Arc::new(given),
            None => self.stored(object)?,
        };
        let meta = ObjectMeta::of(&value).map_err(DryRunError::Object)?;
        let ObjectRef { kind, namespace, name } = object.clone();
        let key = Arc::new(ReconcileKey { plugin: plugin.name.clone(), kind, namespace, name });
        let since = Instant::now();
        let mut report =
            ReportBuilder::begin(&self.shared, WriteMode::Plan, vec![CAUSE.to_owned()]);
        // A dry run computes, so it waits for a permit like every live reconcile.
        let permit = Arc::new(self.shared.permits.permit().await);
        let shared = &*self.shared;
        let target = ReconcileTarget { shared, key: &key, plugin: &plugin, meta: &meta, permit };
        report.remarks = remarks(&target);
        let effects = DryRunEffects { target: &target, is_stored };
        let end = reconcile_once(&target, &effects, value, &mut report).await;
        if end.ends_finalizer(&meta) {
            report.after.push(finalizer_step("remove-finalizer", &key, &finalizer_of(&key)));
        }
        Ok(report.finish(&key, &plugin, since.elapsed(), end.result()))
    }

    fn stored(&self, object: &ObjectRef) -> Result<Arc<Value>, DryRunError> {
        let view = self.shared.ports.kubernetes.view();
        if !view.covers(&object.kind) {
            return Err(DryRunError::NotWatched(object.kind.clone()));
        }
        view.get(object).ok_or_else(|| DryRunError::NoObject(object.clone()))
    }

    /// Returns the kinds that active plugins reconcile.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindName> {
        let serving = self.shared.ports.plugins.all();
        let kinds = serving.iter().flat_map(|plugin| &plugin.manifest.reconciles);
        kinds.map(|served| served.name.clone()).collect()
    }

    /// Returns the kinds whose objects this host follows, each with its plugin: those of active plugins, and those
    /// of plugins that are not loaded any more and whose kinds no other plugin reconciles.
    #[must_use]
    pub fn followed(&self) -> Vec<(PluginName, KindName)> {
        self.shared.followed()
    }

    /// Returns the reports of the last reconciles of an object, the oldest first.
    #[must_use]
    pub fn calls(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        self.shared.history.of(object)
    }

    /// Returns how many objects are paused by their annotation.
    #[must_use]
    pub fn paused(&self) -> usize {
        self.shared.object_states.paused()
    }
}

/// Returns the facts that make a live reconcile differ from this dry run.
fn remarks(target: &ReconcileTarget<'_>) -> Vec<String> {
    let ReconcileTarget { shared, key, plugin, meta, .. } = target;
    let version = StrikedObjectVersion { uid: meta.uid.clone(), generation: meta.generation };
    let is_quarantined =
        shared.strikes(|strikes| strikes.is_quarantined(&plugin.revision, key, &version));
    let paused = "the object is paused: nothing of this is done until the annotation \
                  `tholepin.dev/paused` is removed";
    let quarantined = "the object is quarantined: nothing of this is done until it or the \
                       plugin changes";
    let remarks = [(meta.is_paused(), paused), (is_quarantined, quarantined)];
    let holds = remarks.into_iter().filter(|(holds, _)| *holds);
    holds.map(|(_, remark)| remark.to_owned()).collect()
}

/// The effects of a dry run: none outside the report.
struct DryRunEffects<'a> {
    target: &'a ReconcileTarget<'a>,
    /// Whether the object is as the API server has it: only then an earlier spec may be in force.
    is_stored: bool,
}

impl LiveOrDryRunEffects for DryRunEffects<'_> {
    fn purpose(&self) -> ReconcilePurpose {
        ReconcilePurpose::Plan
    }

    async fn add_finalizer(
        &self,
        object: Arc<Value>,
        finalizer: &str,
    ) -> Result<Arc<Value>, CallError> {
        Ok(with_finalizer(&object, finalizer))
    }

    /// Returns true also for a quarantined object; [`remarks`] names the quarantine.
    fn may_call(&self) -> bool {
        true
    }

    async fn accepted_spec(&self) -> Result<Option<AcceptedSpec>, CallError> {
        if !self.is_stored {
            return Ok(None);
        }
        accepted::accepted_spec(self.target).await
    }
}

/// Returns a copy of the object with a finalizer more.
fn with_finalizer(object: &Value, finalizer: &str) -> Arc<Value> {
    let mut changed = object.clone();
    if let Some(metadata) = changed.get_mut("metadata").and_then(Value::as_object_mut) {
        let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(finalizer));
        }
    }
    Arc::new(changed)
}
