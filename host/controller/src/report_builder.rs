//! What a pass did, as its report tells it, planned or done.

use std::time::Duration;

use serde_json::json;
use tholepin_core::{
    ErrorChain, ObjectKey, PlanStep, ReconcileHeader, ReconcileReport, ReconcileResult, Recording,
    StepEffect, WriteMode,
    port::GuestError,
    step::{FieldChange, ObjectChange},
};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome};

use crate::{
    mapper::reference_of, phase::ObjectPhase, plugins::ActivePlugin, shared_state::SharedState,
};

/// What a pass did so far, for its report.
pub(crate) struct ReportBuilder {
    started_at_ms: u64,
    pub(crate) causes: Vec<String>,
    /// What must be known to read the report rightly.
    pub(crate) remarks: Vec<String>,
    /// What the host did before the plugin was called, and after.
    pub(crate) before: Vec<PlanStep>,
    pub(crate) after: Vec<PlanStep>,
    pub(crate) recording: Recording,
    pub(crate) end: Option<ReconcileResult>,
}

impl ReportBuilder {
    pub(crate) fn begin(shared: &SharedState, causes: Vec<String>) -> Self {
        Self {
            started_at_ms: shared.parts.clock.now_ms(),
            causes,
            remarks: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            recording: Recording::default(),
            end: None,
        }
    }

    /// The report, if there is anything to tell.
    pub(crate) fn build(
        self,
        key: &ObjectKey,
        plugin: &ActivePlugin,
        took: Duration,
    ) -> Option<ReconcileReport> {
        let Self { started_at_ms, causes, remarks, before, after, recording, end } = self;
        let header = ReconcileHeader {
            mode: WriteMode::Live,
            object: key.clone(),
            revision: plugin.revision.clone(),
            started_at_ms,
            causes,
            remarks,
        };
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut report = ReconcileReport::new(header, &recording, end?, took_ms);
        report.steps.splice(0..0, before);
        report.steps.extend(after);
        Some(report)
    }
}

/// How a pass ended, as its report says it.
pub(crate) fn end(
    outcome: &Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>,
) -> ReconcileResult {
    match outcome {
        Ok(Ok(outcome)) => ReconcileResult::Answered {
            summary: outcome.summary.clone(),
            requeue_ms: outcome.requeue_ms,
            finished: outcome.finished,
        },
        Ok(Err(failure)) => ReconcileResult::Failed(failure.clone()),
        Err(error) => went_wrong(error),
    }
}

pub(crate) fn went_wrong(error: &GuestError) -> ReconcileResult {
    match error.as_failure() {
        Some(failure) => ReconcileResult::Failed(failure),
        None => ReconcileResult::Trapped { message: ErrorChain(error).to_string() },
    }
}

/// Why a plugin is not called in a phase.
pub(crate) fn not_called(phase: ObjectPhase) -> ReconcileResult {
    let why = match phase {
        ObjectPhase::Release => "only the finalizer of an earlier revision is removed",
        ObjectPhase::Leave => "the object is being deleted and has no finalizer of the plugin",
        ObjectPhase::Call | ObjectPhase::Adopt => "",
    };
    ReconcileResult::NotCalled { why: why.to_owned() }
}

/// The host's own write of a finalizer, as a step.
pub(crate) fn finalizer_step(by: &str, key: &ObjectKey, finalizer: &str) -> PlanStep {
    let (from, to) = match by {
        "add-finalizer" => (None, Some(json!(finalizer))),
        _ => (Some(json!(finalizer)), None),
    };
    let field = ".metadata.finalizers".to_owned();
    PlanStep::new(StepEffect::Object {
        by: by.to_owned(),
        object: reference_of(key),
        change: ObjectChange::Changed,
        fields: vec![FieldChange { field, from, to }],
    })
}
