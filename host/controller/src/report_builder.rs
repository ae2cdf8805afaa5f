//! Collects what one reconcile did, live or as a dry run, and makes its report.

use std::time::Duration;

use serde_json::json;
use tholepin_core::{
    ErrorChain, PlanStep, PlanStepEffect, ReconcileHeader, ReconcileKey, ReconcileReport,
    ReconcileResult, Recording, WriteMode,
    port::GuestError,
    step::{FieldChange, PlanStepChangeType},
};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome};

use crate::{
    mapper::reference_of, phase::PreReconcileStep, plugins::ActivePlugin,
    shared_state::ControllerSharedState,
};

/// The result of calling `reconcile`.
pub(crate) type CallOutcome = Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>;

/// The parts of a report that are known so far.
pub(crate) struct ReportBuilder {
    mode: WriteMode,
    started_at_ms: u64,
    pub(crate) causes: Vec<String>,
    /// Facts without which a reader would misread the report, such as that the object is paused.
    pub(crate) remarks: Vec<String>,
    /// The host's own steps before the plugin was called.
    pub(crate) before: Vec<PlanStep>,
    /// The host's own steps after the call.
    pub(crate) after: Vec<PlanStep>,
    pub(crate) recording: Recording,
    /// Set at the end; a reconcile without it has no report.
    pub(crate) end: Option<ReconcileResult>,
}

impl ReportBuilder {
    /// Begins the report of a live reconcile.
    pub(crate) fn live(shared: &ControllerSharedState, causes: Vec<String>) -> Self {
        Self::begin(shared, WriteMode::Live, causes)
    }

    /// Begins a report now.
    pub(crate) fn begin(
        shared: &ControllerSharedState,
        mode: WriteMode,
        causes: Vec<String>,
    ) -> Self {
        Self {
            mode,
            started_at_ms: shared.ports.clock.now_ms(),
            causes,
            remarks: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            recording: Recording::default(),
            end: None,
        }
    }

    /// Returns the report, unless the end is missing because nothing happened.
    pub(crate) fn build(
        mut self,
        key: &ReconcileKey,
        plugin: &ActivePlugin,
        took: Duration,
    ) -> Option<ReconcileReport> {
        let end = self.end.take()?;
        Some(self.finish(key, plugin, took, end))
    }

    /// Returns the report with this end.
    pub(crate) fn finish(
        self,
        key: &ReconcileKey,
        plugin: &ActivePlugin,
        took: Duration,
        end: ReconcileResult,
    ) -> ReconcileReport {
        let Self { mode, started_at_ms, causes, remarks, before, after, recording, end: _ } = self;
        let header = ReconcileHeader {
            mode,
            object: key.clone(),
            revision: plugin.revision.clone(),
            started_at_ms,
            causes,
            remarks,
        };
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut report = ReconcileReport::new(header, &recording, end, took_ms);
        report.steps.splice(0..0, before);
        report.steps.extend(after);
        report
    }
}

/// Returns the end of a reconcile in which the plugin was called.
pub(crate) fn result_of(outcome: &CallOutcome) -> ReconcileResult {
    match outcome {
        Ok(Ok(outcome)) => ReconcileResult::Answered {
            summary: outcome.summary.clone(),
            requeue_ms: outcome.requeue_ms,
            finished: outcome.finished,
        },
        Ok(Err(failure)) => ReconcileResult::Failed(failure.clone()),
        Err(error) => result_of_error(error),
    }
}

/// Returns the end of a reconcile in which a call of the plugin went wrong.
pub(crate) fn result_of_error(error: &GuestError) -> ReconcileResult {
    match error.as_failure() {
        Some(failure) => ReconcileResult::Failed(failure),
        None => ReconcileResult::Trapped { message: ErrorChain(error).to_string() },
    }
}

/// Returns the end of a reconcile whose phase needs no call.
pub(crate) fn not_called(phase: PreReconcileStep) -> ReconcileResult {
    let why = match phase {
        PreReconcileStep::RemoveFinalizer => "only the finalizer of an earlier revision is removed",
        PreReconcileStep::Skip => "the object is being deleted and has no finalizer of the plugin",
        PreReconcileStep::Call | PreReconcileStep::AddFinalizer => "",
    };
    ReconcileResult::NotCalled { why: why.to_owned() }
}

/// Returns the host's own write of a finalizer as a step.
pub(crate) fn finalizer_step(by: &str, key: &ReconcileKey, finalizer: &str) -> PlanStep {
    let (from, to) = match by {
        "add-finalizer" => (None, Some(json!(finalizer))),
        _ => (Some(json!(finalizer)), None),
    };
    let field = ".metadata.finalizers".to_owned();
    PlanStep::new(PlanStepEffect::Object {
        by: by.to_owned(),
        object: reference_of(key),
        change: PlanStepChangeType::Changed,
        fields: vec![FieldChange { field, from, to }],
    })
}
