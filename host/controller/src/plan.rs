//! One pass that writes nothing: what the active revision would do to an object now.
//!
//! Nothing that the controller remembers changes by it: no memo, no strike, no wake, no queue. It reads
//! what a live pass would be given, and so shows what the next one would do.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tholepin_core::{
    CallContext, ObjectKey, ObjectMeta, ObjectRef, PluginName, ReconcileHeader, ReconcileReport,
    ReconcileResult, WriteMode, condition::Reason, port::WatchLease,
};
use tholepin_schema::{manifest::KindName, reconcile::ReconcileRequest};
use tokio::time::{Instant, timeout_at};

use crate::{
    Controller,
    mapper::EventRoutes,
    permit::PermitLender,
    phase::{ObjectPhase, finalizer_of, phase},
    plugins::{ActivePlugin, ClosedContext, ReconcilePurpose},
    reconcile::accept::{self, RejectedSpec, SpecInForce},
    report_builder::{end, finalizer_step, not_called, went_wrong},
    shared_state::SharedState,
    strikes::ObjectVersion,
};

/// What a plan gives as its cause.
const CAUSE: &str = "plan";

/// Why there is no plan, with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nobody reconciles the kind.
    #[error(
        "no active plugin reconciles {0}; reconciled are: {1}; `tholepin plugin list` shows the plugins"
    )]
    NoPlugin(KindName, String),
    /// The object is not there.
    #[error(
        "{0} does not exist; to plan for an object that does not exist yet give it with -f FILE"
    )]
    NoObject(ObjectRef),
    /// A watch that the plugin needs does not follow in time.
    #[error("the watch of {0} does not follow in time; see the log for the reason")]
    NotWatched(KindName),
    /// The object cannot be used.
    #[error("the object cannot be planned for: {0}")]
    Object(String),
}

impl Controller {
    /// The plugin that serves a kind.
    ///
    /// # Errors
    ///
    /// Fails if none does, naming the kinds that are served.
    pub fn plugin_for(&self, kind: &KindName) -> Result<Arc<ActivePlugin>, PlanError> {
        let serves = |plugin: &Arc<ActivePlugin>| {
            plugin.manifest.reconciles.iter().any(|served| served.name == *kind)
        };
        let serving = self.shared.parts.plugins.all().into_iter().find(serves);
        serving.ok_or_else(|| PlanError::NoPlugin(kind.clone(), self.known_kinds()))
    }

    /// The kinds that active plugins reconcile, for messages.
    #[must_use]
    pub fn known_kinds(&self) -> String {
        let known: Vec<_> = self.kinds().iter().map(|kind| kind.kind.clone()).collect();
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    }

    /// Leases the watches that a plugin needs, and waits until they follow. The controller that runs has
    /// them already; this is for one that only plans.
    ///
    /// # Errors
    ///
    /// Fails with the first watch that does not follow in time.
    pub async fn watch_for(
        &self,
        plugin: &ActivePlugin,
        deadline: Duration,
    ) -> Result<Vec<Box<dyn WatchLease>>, PlanError> {
        let until = Instant::now() + deadline;
        let routes = EventRoutes::new([(&plugin.name, &*plugin.manifest)]);
        let mut leases = Vec::new();
        for scope in routes.scopes() {
            leases.push((scope.kind.clone(), self.shared.parts.watches.lease(scope)));
        }
        for (kind, lease) in &leases {
            let following = timeout_at(until, lease.following()).await;
            following.map_err(|_| PlanError::NotWatched(kind.clone()))?;
        }
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }

    /// Plans one pass for an object: as it is in the store, or as it is given.
    ///
    /// # Errors
    ///
    /// Fails if nobody reconciles the kind, or the object does not exist. What the plugin does wrong is in
    /// the report.
    pub async fn plan(
        &self,
        object: &ObjectRef,
        given: Option<Value>,
    ) -> Result<ReconcileReport, PlanError> {
        let plugin = self.plugin_for(&object.kind)?;
        let is_stored = given.is_none();
        let value = match given {
            Some(given) => Arc::new(given),
            None => self.stored(object)?,
        };
        let meta = ObjectMeta::of(&value).map_err(|error| PlanError::Object(error.to_string()))?;
        let ObjectRef { kind, namespace, name } = object.clone();
        let key = Arc::new(ObjectKey { plugin: plugin.name.clone(), kind, namespace, name });
        let shared = &self.shared;
        let planned = PlanOutcome { shared, plugin: &plugin, key: &key, meta: &meta, is_stored };
        Ok(planned.run(value).await)
    }

    fn stored(&self, object: &ObjectRef) -> Result<Arc<Value>, PlanError> {
        let view = self.shared.parts.kubernetes.view();
        if !view.covers(&object.kind) {
            return Err(PlanError::NotWatched(object.kind.clone()));
        }
        view.get(object).ok_or_else(|| PlanError::NoObject(object.clone()))
    }

    /// The kinds that active plugins reconcile.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindName> {
        let serving = self.shared.parts.plugins.all();
        let kinds = serving.iter().flat_map(|plugin| &plugin.manifest.reconciles);
        kinds.map(|served| served.name.clone()).collect()
    }

    /// The kinds whose objects this host follows, each with its plugin: those that serve, and those that served
    /// and whose objects wait for them.
    #[must_use]
    pub fn followed(&self) -> Vec<(PluginName, KindName)> {
        self.shared.followed()
    }

    /// What the last passes for an object did, the oldest first.
    #[must_use]
    pub fn calls(&self, object: &ObjectRef) -> Vec<Arc<ReconcileReport>> {
        self.shared.history.of(object)
    }

    /// How many objects are paused by their annotation.
    #[must_use]
    pub fn paused(&self) -> usize {
        self.shared.notes.paused()
    }
}

/// A plan with what it began with.
struct PlanOutcome<'a> {
    shared: &'a SharedState,
    plugin: &'a Arc<ActivePlugin>,
    key: &'a Arc<ObjectKey>,
    meta: &'a ObjectMeta,
    /// Whether the object is as the API server has it: then an earlier spec may be in force.
    is_stored: bool,
}

/// What calling the plugin gave.
struct PluginCallOutcome {
    closed: ClosedContext,
    end: ReconcileResult,
    remark: Option<String>,
}

impl PluginCallOutcome {
    fn ended(end: ReconcileResult) -> Self {
        Self { closed: ClosedContext::default(), end, remark: None }
    }
}

impl PlanOutcome<'_> {
    async fn run(&self, object: Arc<Value>) -> ReconcileReport {
        let since = Instant::now();
        let mut header = ReconcileHeader {
            mode: WriteMode::Plan,
            object: (**self.key).clone(),
            revision: self.plugin.revision.clone(),
            started_at_ms: self.shared.parts.clock.now_ms(),
            causes: vec![CAUSE.to_owned()],
            remarks: self.remarks(),
        };
        let finalizer = finalizer_of(self.key);
        let phase = phase(self.meta, &finalizer, self.plugin.manifest.finalizer);
        let PluginCallOutcome { closed, end, remark } = match phase {
            ObjectPhase::Call | ObjectPhase::Adopt => {
                self.call(with(object, phase, &finalizer)).await
            }
            ObjectPhase::Release | ObjectPhase::Leave => {
                PluginCallOutcome::ended(not_called(phase))
            }
        };
        let ClosedContext { recording, put_back } = closed;
        header.remarks.extend(remark);
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut report = ReconcileReport::new(header, &recording, end, took_ms);
        report.steps.extend(put_back);
        let finished = matches!(report.end, ReconcileResult::Answered { finished: true, .. });
        if phase == ObjectPhase::Adopt {
            report.steps.insert(0, finalizer_step("add-finalizer", self.key, &finalizer));
        }
        if phase == ObjectPhase::Release || finished && self.meta.deleting {
            report.steps.push(finalizer_step("remove-finalizer", self.key, &finalizer));
        }
        report
    }

    /// What must be known to read the plan rightly.
    fn remarks(&self) -> Vec<String> {
        let state = ObjectVersion { uid: self.meta.uid.clone(), generation: self.meta.generation };
        let revision = &self.plugin.revision;
        let is_quarantined =
            self.shared.strikes(|strikes| strikes.is_quarantined(revision, self.key, &state));
        let paused = "the object is paused: nothing of this is done until the annotation \
                      `tholepin.dev/paused` is removed";
        let quarantined = "the object is quarantined: nothing of this is done until it or the \
                           plugin changes";
        let remarks = [(self.meta.is_paused(), paused), (is_quarantined, quarantined)];
        let holds = remarks.into_iter().filter(|(holds, _)| *holds);
        holds.map(|(_, remark)| remark.to_owned()).collect()
    }

    fn context(&self) -> CallContext {
        CallContext {
            plugin: self.key.plugin.clone(),
            revision: self.plugin.revision.clone(),
            object: Some(self.key.clone()),
        }
    }

    async fn call(&self, mut object: Arc<Value>) -> PluginCallOutcome {
        let guests = &self.plugin.guests;
        // It computes, so that it takes its turn among the passes that do.
        let permit = Arc::new(self.shared.permits.permit().await);
        let mut remark = None;
        if !self.meta.deleting {
            match guests.validate(self.context(), None, (*object).clone()).await {
                Ok(violations) if violations.is_empty() => {}
                Ok(violations) => match self.in_force(&object).await {
                    SpecInForce::Earlier(earlier, generation) => {
                        let lines = accept::lines(&violations);
                        let refusal =
                            RejectedSpec::with_earlier(Reason::InvalidSpec, &lines, generation);
                        remark = Some(format!("the spec is refused: {}", refusal.message));
                        object = earlier;
                    }
                    SpecInForce::None(_) => {
                        return PluginCallOutcome::ended(ReconcileResult::Invalid { violations });
                    }
                },
                Err(error) => return PluginCallOutcome::ended(went_wrong(&error)),
            }
        }
        let request = ReconcileRequest {
            object: (*object).clone(),
            deleting: self.meta.deleting,
            causes: vec![CAUSE.to_owned()],
            memo: self.shared.notes.get(self.key).memo,
        };
        let pass =
            self.shared.parts.passes.open(self.plugin, self.key, &object, ReconcilePurpose::Plan);
        let lending = PermitLender { permit, perform: pass.clone() };
        let outcome = guests.reconcile(self.context(), request, Arc::new(lending)).await;
        PluginCallOutcome { closed: pass.close().await, end: end(&outcome), remark }
    }

    /// The spec that a live pass would go on with.
    async fn in_force(&self, object: &Value) -> SpecInForce {
        if !self.is_stored {
            return SpecInForce::None("the file has no earlier spec");
        }
        match accept::kept(self.shared, self.key, self.meta).await {
            Ok(kept) => {
                accept::in_force(self.plugin, self.context(), object, kept.as_ref(), false).await
            }
            Err(_) => SpecInForce::None("the last accepted spec cannot be read"),
        }
    }
}

/// The object as the plugin is given it: with the finalizer that the host sets before.
fn with(object: Arc<Value>, phase: ObjectPhase, finalizer: &str) -> Arc<Value> {
    if phase != ObjectPhase::Adopt {
        return object;
    }
    let mut changed = (*object).clone();
    if let Some(metadata) = changed.get_mut("metadata").and_then(Value::as_object_mut) {
        let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(finalizer));
        }
    }
    Arc::new(changed)
}
