//! A live reconcile of one key: from the object in the store to when the queue takes the key again.
//!
//! [`reconcile_once`] makes the call. This module writes what follows from it: the finalizer, the host's
//! conditions, the accepted spec, strikes and wakes.

pub(crate) mod accepted;
mod findings;
mod pause;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tholepin_core::{
    AcceptedSpec, CallError, ErrorChain, ObjectMeta, PluginName, ReconcileKey, SubscribedWakes,
    condition::Reason, port::GuestError,
};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome, WakeTrigger};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, field::Empty, info, instrument, warn};

use crate::{
    conditions::{HostConditionUpdate, ObjectReconcilerPresence},
    mapper::{self, reference_of},
    metrics::{self, ReconcileErrorClass},
    object_state::ReconciledVersion,
    permit::ComputePermit,
    phase::{PreReconcileStep, finalizer_of},
    plugins::ReconcilePurpose,
    queue::KeyCompletion,
    reconcile_once::{
        CalledReconcile, LiveOrDryRunEffects, NoSpecInForce, ReconcileOnceResult, ReconcileTarget,
        RejectedSpecReason, SpecRejectedReconcile, SpecRejection, reason_of, reconcile_once,
    },
    report_builder::{ReportBuilder, finalizer_step},
    shared_state::ControllerSharedState,
    strikes::{StrikeDecision, StrikedObjectVersion},
};
use findings::write_finding;
pub(crate) use findings::write_finding_of;

/// The shortest and the longest requeue that an outcome can ask for.
const REQUEUE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3600));

/// Reconciles one key and returns when it is due again.
#[instrument(
    skip_all,
    fields(plugin = %key.plugin, object = %key, revision = Empty, outcome = Empty)
)]
pub(crate) async fn reconcile(
    shared: &ControllerSharedState,
    key: &Arc<ReconcileKey>,
    causes: Vec<String>,
    settings: &LiveReconcileControl,
) -> KeyCompletion {
    let Some(object) = shared.ports.kubernetes.view().get(&reference_of(key)) else {
        forget(shared, key);
        return KeyCompletion::AwaitChange;
    };
    let Ok(meta) = ObjectMeta::of(&object) else { return KeyCompletion::AwaitChange };
    let plugin = shared.ports.plugins.active(&key.plugin);
    shared.object_states.change(key, |state| state.record_pause(&meta));
    if meta.is_paused() {
        pause::pause(shared, key, &meta, plugin.as_deref()).await;
        return KeyCompletion::AwaitChange;
    }
    let LiveReconcileControl { permit, urgent } = settings;
    let Some(plugin) = plugin else {
        let message = missing(&key.plugin, meta.deleting);
        let (reason, presence) = (Reason::PluginMissing, ObjectReconcilerPresence::Absent);
        permit.release();
        let update = HostConditionUpdate { reason, message, presence };
        return write_finding(shared, key, &meta, update).await;
    };
    Span::current().record("revision", plugin.revision.short());
    let target =
        ReconcileTarget { shared, key, plugin: &plugin, meta: &meta, permit: permit.clone() };
    let live = LiveReconcileEffects { target: &target, urgent };
    let (since, mut report) = (Instant::now(), ReportBuilder::live(shared, causes));
    let end = reconcile_once(&target, &live, object, &mut report).await;
    let completion = live.conclude(end, &mut report).await;
    let took = since.elapsed();
    metrics::reconciled(&key.plugin, took);
    Span::current().record("outcome", name(completion));
    shared.history.extend(report.build(key, &plugin, took));
    completion
}

/// The permit and the interruption of one live reconcile.
pub(crate) struct LiveReconcileControl {
    /// Allows its guest to compute.
    pub(crate) permit: Arc<ComputePermit>,
    /// Cancelled when its key is added as urgent, or the host stops.
    pub(crate) urgent: CancellationToken,
}

/// The effects of a live reconcile: it writes to the API server and to what the controller remembers.
struct LiveReconcileEffects<'a> {
    target: &'a ReconcileTarget<'a>,
    urgent: &'a CancellationToken,
}

impl LiveOrDryRunEffects for LiveReconcileEffects<'_> {
    fn purpose(&self) -> ReconcilePurpose {
        ReconcilePurpose::Live { urgent: self.urgent.clone() }
    }

    async fn add_finalizer(
        &self,
        _object: Arc<Value>,
        finalizer: &str,
    ) -> Result<Arc<Value>, CallError> {
        let writer = &self.target.shared.ports.host_fields;
        let stored =
            writer.add_finalizer(reference_of(self.target.key), finalizer.to_owned()).await?;
        Ok(Arc::new(stored))
    }

    fn may_call(&self) -> bool {
        let ReconcileTarget { shared, key, plugin, .. } = self.target;
        let version = self.version();
        !shared.strikes(|strikes| strikes.is_quarantined(&plugin.revision, key, &version))
    }

    async fn accepted_spec(&self) -> Result<Option<AcceptedSpec>, CallError> {
        accepted::accepted_spec(self.target).await
    }

    fn is_validated(&self, version: &ReconciledVersion) -> bool {
        let state = self.target.shared.object_states.get(self.target.key);
        state.validated.as_ref() == Some(version)
    }

    fn record_validated(&self, object: &Value, version: ReconciledVersion) {
        accepted::record_validated(self.target, object, version);
    }

    fn record_in_force(&self, spec: AcceptedSpec, version: ReconciledVersion) {
        accepted::record_in_force(self.target, spec, version);
    }
}

impl LiveReconcileEffects<'_> {
    /// Writes what follows from the end of a reconcile, and returns when the key is due again.
    async fn conclude(
        &self,
        end: ReconcileOnceResult,
        report: &mut ReportBuilder,
    ) -> KeyCompletion {
        report.end = is_reported(&end).then(|| end.result());
        let ends_finalizer = end.ends_finalizer(self.target.meta);
        match end {
            ReconcileOnceResult::NotCalled(_) if ends_finalizer => {
                self.remove_finalizer(report).await
            }
            ReconcileOnceResult::NotCalled(_) => KeyCompletion::AwaitChange,
            ReconcileOnceResult::NoFinalizer(error) => {
                self.log(&format!("cannot add the finalizer: {error}"));
                KeyCompletion::Retry
            }
            ReconcileOnceResult::Quarantined => {
                let state = self.target.shared.object_states.get(self.target.key);
                match state.unwritten_quarantine {
                    Some(message) => self.quarantine(&message).await,
                    None => KeyCompletion::AwaitChange,
                }
            }
            ReconcileOnceResult::NotValidated(error) => self.strike(&error, None).await,
            ReconcileOnceResult::Rejected(rejected) => self.reject(rejected).await,
            ReconcileOnceResult::Called(called) => {
                accepted::keep_accepted(self.target).await;
                self.conclude_call(called, ends_finalizer, report).await
            }
        }
    }

    /// Writes what follows from a call of the plugin.
    async fn conclude_call(
        &self,
        called: CalledReconcile,
        ends_finalizer: bool,
        report: &mut ReportBuilder,
    ) -> KeyCompletion {
        let CalledReconcile { object, refusal, outcome } = called;
        let refusal = refusal.as_ref();
        let ReconcileTarget { shared, key, .. } = self.target;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failure)) => {
                shared.strikes(|strikes| strikes.clear(key));
                return self.fail(failure, refusal).await;
            }
            Err(error) => return self.strike(&error, refusal).await,
        };
        shared.strikes(|strikes| strikes.clear(key));
        shared.object_states.change(key, |state| state.is_failing = refusal.is_some());
        let completion = if ends_finalizer {
            self.report_success(&object, &outcome.summary, refusal, None).await;
            self.remove_finalizer(report).await
        } else {
            let summary = outcome.summary.clone();
            let (completion, refused_wakes) = self.schedule(&object, outcome).await;
            report.remarks.extend(refused_wakes.clone());
            // Written after the wakes are known, so that their condition is not removed and written again each time.
            self.report_success(&object, &summary, refusal, refused_wakes).await;
            completion
        };
        match refusal {
            None => metrics::succeeded(&key.plugin, completion, shared.settings.resync),
            Some(_) => metrics::failed(&key.plugin, ReconcileErrorClass::Terminal),
        }
        completion
    }

    /// Keeps the memo, subscribes the wakes, and returns when the object is due again and which wakes are refused.
    async fn schedule(
        &self,
        object: &Arc<Value>,
        outcome: ReconcileOutcome,
    ) -> (KeyCompletion, Option<String>) {
        let ReconcileTarget { shared, key, plugin, .. } = self.target;
        let ReconcileOutcome { requeue_ms, summary: _, wake, memo, finished: _ } = outcome;
        shared.object_states.change(key, |state| state.memo = memo);
        let SubscribedWakes { requeue, refusal } =
            shared.ports.wakes.subscribe(plugin, key, object, &wake).await;
        let after = wake.iter().filter_map(|wake| match wake {
            WakeTrigger::After { ms } => Some(*ms),
            WakeTrigger::Change { .. } | WakeTrigger::Fact(_) | _ => None,
        });
        let requested = after.chain(requeue_ms).map(Duration::from_millis).chain(requeue).min();
        let (shortest, longest) = REQUEUE;
        let after = requested.unwrap_or(shared.settings.resync).clamp(shortest, longest);
        (KeyCompletion::After(after), refusal)
    }

    async fn remove_finalizer(&self, report: &mut ReportBuilder) -> KeyCompletion {
        let ReconcileTarget { shared, key, .. } = self.target;
        if shared.is_paused(key) {
            return KeyCompletion::AwaitChange;
        }
        let (writer, finalizer) = (&shared.ports.host_fields, finalizer_of(key));
        match writer.remove_finalizer(reference_of(key), finalizer.clone()).await {
            Ok(()) => {
                report.after.push(finalizer_step("remove-finalizer", key, &finalizer));
                KeyCompletion::AwaitChange
            }
            Err(error) => {
                self.log(&format!("cannot remove the finalizer: {error}"));
                KeyCompletion::Retry
            }
        }
    }

    /// Reports a refused spec in place of which no earlier one is in force.
    async fn reject(&self, rejected: SpecRejectedReconcile) -> KeyCompletion {
        let ReconcileTarget { shared, key, .. } = self.target;
        let SpecRejectedReconcile { rejection, cause } = rejected;
        let cause = match cause {
            NoSpecInForce::Unusable(cause) => cause.to_owned(),
            NoSpecInForce::Unreadable(error) if error.is_passing() => {
                self.log(&format!("cannot read the last accepted spec: {error}"));
                return KeyCompletion::Retry;
            }
            NoSpecInForce::Unreadable(error) => {
                format!("the last accepted spec cannot be read: {error}")
            }
        };
        let (reason, text) = (rejection.reason(), rejection.text());
        if let SpecRejection::Fault(error) = rejection {
            return self.strike(&error, None).await;
        }
        // The plugin answered, so that its strikes are cleared; the reconcile ends with this answer.
        shared.strikes(|strikes| strikes.clear(key));
        shared.object_states.change(key, |state| state.is_failing = true);
        metrics::failed(&key.plugin, ReconcileErrorClass::Terminal);
        let message = format!("{text}; nothing is reconciled: {cause}");
        self.log(&format!("the spec is invalid: {message}"));
        let presence = ObjectReconcilerPresence::Absent;
        self.write_finding(HostConditionUpdate { reason, message, presence }).await
    }

    /// Reports a failure that the plugin returned.
    async fn fail(
        &self,
        failure: ReconcileFailure,
        refusal: Option<&RejectedSpecReason>,
    ) -> KeyCompletion {
        let ReconcileTarget { shared, key, .. } = self.target;
        let ReconcileFailure { reason, message, retry } = failure;
        let class =
            if retry { ReconcileErrorClass::Retried } else { ReconcileErrorClass::Terminal };
        metrics::failed(&key.plugin, class);
        shared.object_states.change(key, |state| state.is_failing = true);
        let text = format!("{reason}: {message}");
        self.log(&text);
        self.write_finding(findings::of_failure(Reason::Failed, text, refusal)).await;
        if retry { KeyCompletion::Retry } else { KeyCompletion::After(shared.settings.resync) }
    }

    /// Counts a fault of the plugin, and quarantines the object or rolls the revision back after too many.
    async fn strike(
        &self,
        error: &GuestError,
        refusal: Option<&RejectedSpecReason>,
    ) -> KeyCompletion {
        if let Some(failure) = error.as_failure() {
            return self.fail(failure, refusal).await;
        }
        let ReconcileTarget { shared, key, plugin, .. } = self.target;
        let text = ErrorChain(error).to_string();
        warn!(error = text, "strike");
        let reason = reason_of(error);
        metrics::strike_counted(&key.plugin, error, reason.as_str());
        shared.object_states.change(key, |state| state.is_failing = true);
        let (version, now) = (self.version(), Instant::now());
        match shared.strikes(|strikes| strikes.strike(&plugin.revision, key, version, now)) {
            StrikeDecision::Retry => {
                metrics::failed(&key.plugin, ReconcileErrorClass::Retried);
                self.write_finding(findings::of_failure(reason, text, refusal)).await;
                return KeyCompletion::Retry;
            }
            StrikeDecision::Quarantine => {
                metrics::failed(&key.plugin, ReconcileErrorClass::Terminal)
            }
        }
        if self.roll_back(&text).await {
            // The revision that serves from now on is called for all objects again.
            return KeyCompletion::AwaitChange;
        }
        let how_to_fix = "change the object or the plugin to have it called again";
        let message = format!("two strikes in a row, {how_to_fix}; the last: {text}");
        self.quarantine(&message).await
    }

    /// Rolls the revision back if it has failed for many objects by now. Returns true if another revision serves in
    /// its place.
    async fn roll_back(&self, last_error: &str) -> bool {
        let ReconcileTarget { shared, key, plugin, .. } = self.target;
        let (view, revision) = (shared.ports.kubernetes.view(), &plugin.revision);
        let objects = mapper::all(&key.plugin, &plugin.manifest, &*view);
        let is_called = |key: &&ReconcileKey| {
            view.meta(&reference_of(key)).is_some_and(|meta| !meta.is_paused())
        };
        let called = objects.iter().filter(is_called).count();
        let rollback_candidates = shared.strikes(|strikes| {
            let objects = strikes.rollback_candidates(revision, called, Instant::now()).into_iter();
            objects.map(|key| format!("{}/{}", key.namespace, key.name)).collect::<Vec<_>>()
        });
        let Some(first) = rollback_candidates.first() else { return false };
        let why = format!(
            "it failed twice in a row for {} of {called} objects, {first} among them; the last time: {last_error}",
            rollback_candidates.len()
        );
        let (plugins, since) = (&shared.ports.plugins, Instant::now());
        match plugins.roll_back(&key.plugin, revision, &why).await {
            Ok(now) => {
                let (bad, now) = (revision.short(), now.short());
                let took = since.elapsed();
                warn!(bad, now, why, ?took, "the revision is rolled back");
                true
            }
            Err(error) => {
                let revision = revision.short();
                warn!(revision, why, error, "no other revision can take its place");
                false
            }
        }
    }

    /// Returns the version of the object that strikes count against.
    fn version(&self) -> StrikedObjectVersion {
        let meta = self.target.meta;
        StrikedObjectVersion { uid: meta.uid.clone(), generation: meta.generation }
    }

    fn log(&self, text: &str) {
        log(self.target.shared, self.target.key, text);
    }
}

/// Returns false for a reconcile that did nothing worth a report: no call, no write, no answer.
fn is_reported(end: &ReconcileOnceResult) -> bool {
    match end {
        ReconcileOnceResult::NotCalled(phase) => *phase != PreReconcileStep::Skip,
        ReconcileOnceResult::NoFinalizer(_) | ReconcileOnceResult::Quarantined => false,
        ReconcileOnceResult::Rejected(SpecRejectedReconcile {
            cause: NoSpecInForce::Unreadable(error),
            ..
        }) => !error.is_passing(),
        ReconcileOnceResult::Rejected(_)
        | ReconcileOnceResult::NotValidated(_)
        | ReconcileOnceResult::Called(_) => true,
    }
}

/// Returns the message for an object whose plugin is not loaded: what is not done, and how to fix it.
fn missing(plugin: &PluginName, deleting: bool) -> String {
    let restore = format!(
        "the Plugin object `{plugin}` says why; if its files are gone, put `{plugin}.wasm` and `{plugin}.yaml` \
         back into the directory of plugins"
    );
    if deleting {
        return format!(
            "the plugin `{plugin}` is not loaded, so nothing cleans up: {restore}, or remove the \
             finalizer `tholepin.dev/{plugin}` to let the object go as it is"
        );
    }
    format!("the plugin `{plugin}` is not loaded, so nothing is reconciled: {restore}")
}

/// Drops what is remembered of an object that was deleted.
fn forget(shared: &ControllerSharedState, key: &ReconcileKey) {
    shared.object_states.forget(key);
    shared.strikes(|strikes| strikes.clear(key));
    shared.history.deleted(key, shared.ports.clock.now_ms());
    shared.ports.wakes.unsubscribe(key);
}

/// Logs a text about an object, unless it is the one that was logged last.
fn log(shared: &ControllerSharedState, key: &ReconcileKey, text: &str) {
    if shared.object_states.record_logged(key, text) {
        info!("{text}");
    }
}

/// Returns the value of the span field `outcome`.
const fn name(completion: KeyCompletion) -> &'static str {
    match completion {
        KeyCompletion::AwaitChange => "idle",
        KeyCompletion::After(_) => "requeued",
        KeyCompletion::Retry => "failed",
    }
}
