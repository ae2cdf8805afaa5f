//! One reconcile of one object, live or as a dry run: phase, validation, call, report.
//!
//! ```text
//! phase ─► finalizer ─► validate, or the spec in force ─► open context ─► reconcile ─► close ─► UnhandledReconcileResult
//! ```
//!
//! The live loop and the plan command both run [`reconcile_once`]. They differ in the [`LiveOrDryRunEffects`] that they
//! pass in, and in what they do with the [`ReconcileOnceResult`] that they get back: the live loop writes conditions, counts
//! strikes and subscribes wakes; the plan command only reports.
//!
//! This module writes to the API server only through the effects (the finalizer), through the calls of the plugin, and
//! when it closes the context (the gate then restores settings and stores its ledger).
//!
//! Invariants:
//! - A refused spec never reaches `reconcile`.
//! - A context that was opened is closed, however the call of the plugin ended.
//! - The permit to compute is released as soon as no guest code runs.

mod accept;

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{
    AcceptedSpec, CallError, ErrorChain, ObjectMeta, PluginCallerIdentity, ReconcileKey,
    ReconcileResult, condition::Reason, port::GuestError,
};
use tholepin_schema::{
    fact::FACTS_MAX,
    reconcile::{MEMO_BYTES_MAX, ReconcileOutcome, ReconcileRequest, Violation, WakeTrigger},
};

use crate::{
    object_state::ReconciledVersion,
    permit::{ComputePermit, PermitReleasingHostCalls},
    phase::{PreReconcileStep, finalizer_of, phase},
    plugins::{ActivePlugin, ClosedContextResult, ReconcilePurpose},
    report_builder::{
        CallOutcome, ReportBuilder, finalizer_step, not_called, result_of, result_of_error,
    },
    shared_state::ControllerSharedState,
};
use accept::ObjectWithAcceptedSpec;

/// The object and the plugin of one reconcile.
pub(crate) struct ReconcileTarget<'a> {
    pub(crate) shared: &'a ControllerSharedState,
    pub(crate) key: &'a Arc<ReconcileKey>,
    pub(crate) plugin: &'a Arc<ActivePlugin>,
    pub(crate) meta: &'a ObjectMeta,
    /// Held while guest code runs.
    pub(crate) permit: Arc<ComputePermit>,
}

/// The steps in which a live reconcile and a dry run differ.
///
/// The defaults remember nothing and ask the plugin about every spec.
pub(crate) trait LiveOrDryRunEffects: Sync {
    /// Returns the purpose under which the gate opens the context.
    fn purpose(&self) -> ReconcilePurpose;

    /// Returns the object with the plugin's finalizer.
    ///
    /// # Errors
    ///
    /// Fails if the finalizer cannot be written.
    fn add_finalizer(
        &self,
        object: Arc<Value>,
        finalizer: &str,
    ) -> impl Future<Output = Result<Arc<Value>, CallError>> + Send;

    /// Returns false if the object is quarantined, so that the plugin must not be called for it.
    fn may_call(&self) -> bool;

    /// Returns the spec that the plugin accepted last, if one is known.
    ///
    /// # Errors
    ///
    /// Fails if the API server cannot be read.
    fn accepted_spec(&self)
    -> impl Future<Output = Result<Option<AcceptedSpec>, CallError>> + Send;

    /// Returns true if this revision accepted this version of the object before.
    fn is_validated(&self, _version: &ReconciledVersion) -> bool {
        false
    }

    /// Records that the plugin accepted the object as it is.
    fn record_validated(&self, _object: &Value, _version: ReconciledVersion) {}

    /// Records that the plugin accepted an earlier spec again, which stays in force.
    fn record_in_force(&self, _spec: AcceptedSpec, _version: ReconciledVersion) {}
}

/// The end of a reconcile, before its caller acts on it.
pub(crate) enum ReconcileOnceResult {
    /// The plugin is not called in this phase.
    NotCalled(PreReconcileStep),
    /// The finalizer could not be added, so the plugin was not called.
    NoFinalizer(CallError),
    /// The object is quarantined: [`LiveOrDryRunEffects::may_call`] returned false.
    Quarantined,
    /// `validate` could not be called, through a fault of the host.
    NotValidated(GuestError),
    /// The plugin refuses the spec, and no earlier one is in force.
    Rejected(SpecRejectedReconcile),
    /// `reconcile` was called.
    Called(CalledReconcile),
}

/// A reconcile that ended with a refused spec.
pub(crate) struct SpecRejectedReconcile {
    pub(crate) rejection: SpecRejection,
    /// Why no earlier spec is in force.
    pub(crate) cause: NoSpecInForce,
}

/// A reconcile in which the plugin was called.
pub(crate) struct CalledReconcile {
    /// The object with the spec in force, as the plugin got it.
    pub(crate) object: Arc<Value>,
    /// Why that is not the object's own spec, if it is not.
    pub(crate) refusal: Option<RejectedSpecReason>,
    pub(crate) outcome: CallOutcome,
}

/// The way in which `validate` refused a spec.
pub(crate) enum SpecRejection {
    /// It returned violations.
    Invalid(Vec<Violation>),
    /// It trapped or broke a limit.
    Fault(GuestError),
}

/// Why no spec is in force in place of a refused one.
pub(crate) enum NoSpecInForce {
    /// There is none, or the plugin refuses it.
    Unusable(&'static str),
    /// It could not be read.
    Unreadable(CallError),
}

/// A refused spec in place of which an earlier one is reconciled.
#[derive(Clone, Debug)]
pub(crate) struct RejectedSpecReason {
    pub(crate) reason: Reason,
    /// For people; names the generation that stays in force.
    pub(crate) message: String,
}

/// Runs one reconcile up to the end of the plugin's call, and records its calls, steps and remarks in `report`.
/// The caller sets the report's end, and removes the finalizer if the [`ReconcileOnceResult`] says so.
pub(crate) async fn reconcile_once(
    target: &ReconcileTarget<'_>,
    effects: &impl LiveOrDryRunEffects,
    object: Arc<Value>,
    report: &mut ReportBuilder,
) -> ReconcileOnceResult {
    let end = run(target, effects, object, report).await;
    target.permit.release();
    end
}

async fn run(
    target: &ReconcileTarget<'_>,
    effects: &impl LiveOrDryRunEffects,
    mut object: Arc<Value>,
    report: &mut ReportBuilder,
) -> ReconcileOnceResult {
    let finalizer = finalizer_of(target.key);
    match phase(target.meta, &finalizer, target.plugin.manifest.finalizer) {
        PreReconcileStep::Call => {}
        phase @ (PreReconcileStep::Skip | PreReconcileStep::RemoveFinalizer) => {
            return ReconcileOnceResult::NotCalled(phase);
        }
        PreReconcileStep::AddFinalizer => {
            let added = effects.add_finalizer(object, &finalizer);
            object = match target.permit.release_during(added).await {
                Ok(object) => object,
                Err(error) => return ReconcileOnceResult::NoFinalizer(error),
            };
            report.before.push(finalizer_step("add-finalizer", target.key, &finalizer));
        }
    }
    if !effects.may_call() {
        return ReconcileOnceResult::Quarantined;
    }
    match accept::accept(target, effects, object).await {
        Ok(ObjectWithAcceptedSpec { object, refusal }) => {
            let refused = refusal.as_ref();
            report.remarks.extend(refused.map(|refusal| {
                let RejectedSpecReason { reason: _, message } = refusal;
                format!("the spec is refused: {message}")
            }));
            let outcome = call(target, effects.purpose(), &object, report).await;
            ReconcileOnceResult::Called(CalledReconcile { object, refusal, outcome })
        }
        Err(end) => end,
    }
}

/// Calls `reconcile` in a context of its own, and closes that context.
async fn call(
    target: &ReconcileTarget<'_>,
    purpose: ReconcilePurpose,
    object: &Arc<Value>,
    report: &mut ReportBuilder,
) -> CallOutcome {
    let ReconcileTarget { shared, key, plugin, meta, permit } = target;
    let request = ReconcileRequest {
        object: (**object).clone(),
        deleting: meta.deleting,
        causes: report.causes.clone(),
        memo: shared.object_states.get(key).memo,
    };
    let context = shared.ports.contexts.open(plugin, key, object, purpose);
    let calls = PermitReleasingHostCalls { permit: permit.clone(), calls: context.clone() };
    let outcome = plugin.code.reconcile(target.call_context(), request, Arc::new(calls)).await;
    permit.release();
    let ClosedContextResult { recording, restore_steps } = context.close().await;
    report.recording = recording;
    report.after.extend(restore_steps);
    within_limits(outcome)
}

/// Turns an outcome that asks for too much into an error of the plugin.
fn within_limits(outcome: CallOutcome) -> CallOutcome {
    match &outcome {
        Ok(Ok(answer)) => match excess(answer) {
            Some(message) => Err(GuestError::BadAnswer { export: "reconcile", message }),
            None => outcome,
        },
        Ok(Err(_)) | Err(_) => outcome,
    }
}

/// Returns the limit that an outcome exceeds, with its value.
fn excess(outcome: &ReconcileOutcome) -> Option<String> {
    let memo_bytes = outcome.memo.as_ref().map_or(0, |memo| memo.to_string().len());
    let facts = outcome.wake.iter().filter(|wake| matches!(wake, WakeTrigger::Fact(_))).count();
    if MEMO_BYTES_MAX < memo_bytes {
        return Some(format!("a memo of {memo_bytes} bytes; {MEMO_BYTES_MAX} are allowed"));
    }
    let text = || format!("{facts} facts to be woken by; {FACTS_MAX} are allowed");
    (FACTS_MAX < facts).then(text)
}

impl ReconcileTarget<'_> {
    fn call_context(&self) -> PluginCallerIdentity {
        PluginCallerIdentity {
            plugin: self.key.plugin.clone(),
            revision: self.plugin.revision.clone(),
            object: Some(self.key.clone()),
        }
    }
}

impl ReconcileOnceResult {
    /// Returns the end as the report shows it.
    pub(crate) fn result(&self) -> ReconcileResult {
        let not_called_because = |why: String| ReconcileResult::NotCalled { why };
        match self {
            Self::NotCalled(phase) => not_called(*phase),
            Self::NoFinalizer(error) => {
                not_called_because(format!("the finalizer cannot be added: {error}"))
            }
            Self::Quarantined => not_called_because("the object is quarantined".to_owned()),
            Self::NotValidated(error) => result_of_error(error),
            Self::Rejected(rejected) => rejected.rejection.result(),
            Self::Called(called) => result_of(&called.outcome),
        }
    }

    /// Returns true if the plugin's finalizer has no use any more: an earlier revision set it, or the plugin has
    /// finished with an object that is being deleted.
    pub(crate) fn ends_finalizer(&self, meta: &ObjectMeta) -> bool {
        match self {
            Self::NotCalled(phase) => *phase == PreReconcileStep::RemoveFinalizer,
            Self::Called(CalledReconcile { outcome: Ok(Ok(outcome)), .. }) => {
                outcome.finished && meta.deleting
            }
            Self::NoFinalizer(_)
            | Self::Quarantined
            | Self::NotValidated(_)
            | Self::Rejected(_)
            | Self::Called(_) => false,
        }
    }
}

impl SpecRejection {
    /// Returns the reason for the object's condition.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::InvalidSpec,
            Self::Fault(error) => reason_of(error),
        }
    }

    /// Returns what is wrong with the spec, in one line.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Invalid(violations) => {
                let lines =
                    violations.iter().map(|found| format!("{}: {}", found.field, found.message));
                lines.collect::<Vec<_>>().join("; ")
            }
            Self::Fault(error) => ErrorChain(error).to_string(),
        }
    }

    fn result(&self) -> ReconcileResult {
        match self {
            Self::Invalid(violations) => {
                ReconcileResult::Invalid { violations: violations.clone() }
            }
            Self::Fault(error) => result_of_error(error),
        }
    }
}

/// Returns the condition reason for a fault of the plugin.
pub(crate) const fn reason_of(error: &GuestError) -> Reason {
    match error {
        GuestError::Trapped { .. } => Reason::Trapped,
        GuestError::TimedOut { .. } => Reason::TimedOut,
        GuestError::OutOfMemory { .. } => Reason::OutOfMemory,
        GuestError::BadAnswer { .. } => Reason::BadOutcome,
        GuestError::NotLoaded { .. } => Reason::Failed,
    }
}
