//! The report of one reconcile, done or planned: the document of `tholepin plan` and `tholepin calls`.
//!
//! JSON, version [`VERSION`]: fields may be added, and none changes its meaning.
//!
//! Invariants:
//! - A report is made from a recording and from the end of the reconcile, in every mode.
//! - The size of a report is bounded: long texts are cut and marked as cut.

mod line;

use serde::{Deserialize, Serialize};
use tholepin_schema::reconcile::{ReconcileFailure, Violation};

pub use line::CallLine;

use crate::{Answer, CallError, PlanStep, ReconcileKey, Recording, RevisionDigest, WriteMode};

/// The version of the document.
pub const VERSION: u32 = 1;
/// The most calls in a report; more are counted.
const CALLS_MAX: usize = 200;

/// The report of one reconcile.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileReport {
    /// The version of the document: [`VERSION`].
    pub version: u32,
    /// Whether the writes were executed.
    pub mode: WriteMode,
    /// The plugin and the object.
    pub object: ReconcileKey,
    /// The revision of the plugin.
    pub revision: RevisionDigest,
    /// The number of the report in the history of the host; 0 for a plan.
    #[serde(default)]
    pub number: u64,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// The causes of the reconcile.
    pub causes: Vec<String>,
    /// Facts without which a reader would misread the report: the object is paused, quarantined, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The changes, done or planned, in order.
    pub steps: Vec<PlanStep>,
    /// The answer at which a plan stops, because the next steps depend on it and only a real effect gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops: Option<String>,
    /// The end.
    pub end: ReconcileResult,
    /// The calls in order, one line each, up to a bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallLine>,
    /// How many calls were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls_left_out: usize,
}

/// The end of a reconcile.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ReconcileResult {
    /// The plugin returned an outcome.
    Answered {
        /// The plugin's summary, one line for people.
        summary: String,
        /// The requested requeue, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requeue_ms: Option<u64>,
        /// Whether the plugin has finished with an object that is being deleted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        finished: bool,
    },
    /// The plugin returned a failure.
    Failed(ReconcileFailure),
    /// The plugin refused the spec, and `reconcile` was not called.
    Invalid {
        /// The violations.
        violations: Vec<Violation>,
    },
    /// The plugin trapped, broke a limit, or returned something unreadable.
    Trapped {
        /// The error.
        message: String,
    },
    /// The plugin was not called.
    NotCalled {
        /// The reason.
        why: String,
    },
}

/// The parts of a report besides the calls and the end.
#[derive(Clone, Debug)]
pub struct ReconcileHeader {
    /// Whether the writes are executed.
    pub mode: WriteMode,
    /// The plugin and the object.
    pub object: ReconcileKey,
    /// The revision of the plugin.
    pub revision: RevisionDigest,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The causes of the reconcile.
    pub causes: Vec<String>,
    /// Facts without which a reader would misread the report.
    pub remarks: Vec<String>,
}

impl ReconcileReport {
    /// Creates the report of a reconcile that has ended.
    #[must_use]
    pub fn new(
        header: ReconcileHeader,
        recording: &Recording,
        end: ReconcileResult,
        took_ms: u64,
    ) -> Self {
        let ReconcileHeader { mode, object, revision, started_at_ms, causes, remarks } = header;
        let calls = recording.calls();
        let steps = calls.iter().flat_map(|recorded| recorded.steps.iter().cloned());
        let stops = calls.iter().find_map(|recorded| plan_end(&recorded.answer));
        Self {
            version: VERSION,
            mode,
            object,
            revision,
            number: 0,
            started_at_ms,
            took_ms,
            causes,
            remarks,
            steps: steps.collect(),
            stops,
            end,
            calls: calls.iter().take(CALLS_MAX).map(CallLine::of).collect(),
            calls_left_out: calls.len().saturating_sub(CALLS_MAX),
        }
    }

    /// Returns true if there is a step other than an event, also if it was refused.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.steps.iter().any(PlanStep::is_work)
    }

    /// Returns true if the reconcile ended without an error of the plugin.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        match self.end {
            ReconcileResult::Answered { .. } | ReconcileResult::NotCalled { .. } => true,
            ReconcileResult::Failed(_)
            | ReconcileResult::Invalid { .. }
            | ReconcileResult::Trapped { .. } => false,
        }
    }

    /// Returns true if the reconcile had no steps and no error, so that its report may be evicted first.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.steps.is_empty() && self.is_answered()
    }
}

fn plan_end(answer: &Answer) -> Option<String> {
    let ends = |error: &CallError| match error {
        CallError::PlanEnds(text) => Some(text.clone()),
        CallError::NotFound(_)
        | CallError::Conflict(_)
        | CallError::Denied(_)
        | CallError::Refused(_)
        | CallError::Busy(_)
        | CallError::NeedsApproval(_)
        | CallError::Timeout(_)
        | CallError::Gone(_)
        | CallError::Interrupted
        | CallError::Throttled(_)
        | CallError::Transient(_)
        | CallError::Invalid(_)
        | CallError::Unsupported(_)
        | CallError::Other(_) => None,
    };
    match answer {
        Ok(crate::Reply::FanOut(results)) => {
            results.iter().find_map(|result| result.as_ref().err().and_then(ends))
        }
        Ok(_) => None,
        Err(error) => ends(error),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Call, EventType, PlanStepEffect, PluginRuntimeCall, Reply};
    use tholepin_schema::manifest::KindName;

    fn header() -> ReconcileHeader {
        ReconcileHeader {
            mode: WriteMode::Plan,
            object: ReconcileKey {
                plugin: "p".parse().unwrap(),
                kind: KindName { api_version: "a/v1".into(), kind: "K".into() },
                namespace: "n".into(),
                name: "x".into(),
            },
            revision: RevisionDigest("r".into()),
            started_at_ms: 1,
            causes: vec!["plan".into()],
            remarks: Vec::new(),
        }
    }

    fn answered() -> ReconcileResult {
        ReconcileResult::Answered { summary: "s".into(), requeue_ms: Some(5), finished: false }
    }

    fn event() -> PlanStep {
        let (reason, message) = ("R".to_owned(), "m".to_owned());
        PlanStep::new(PlanStepEffect::Event { event_type: EventType::Normal, reason, message })
    }

    #[test]
    fn a_recording_becomes_a_report_that_reads_back() {
        let mut recording = Recording::default();
        let now = Call::Runtime(PluginRuntimeCall::Now);
        let key = recording.key(&now);
        recording.keep(now.clone(), key, Ok(Reply::Number(7)), vec![event()]);
        let end = Err(CallError::PlanEnds("the reply to `INCR a` on `p-0`".into()));
        let key = recording.key(&now);
        recording.keep(now.clone(), key, end, Vec::new());
        let report = ReconcileReport::new(header(), &recording, answered(), 3);
        assert_eq!(report.stops.as_deref(), Some("the reply to `INCR a` on `p-0`"));
        assert!(!report.has_work() && !report.is_quiet() && report.is_answered());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ReconcileReport>(&text).unwrap(), report);
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let mut recording = Recording::default();
        let now = Call::Runtime(PluginRuntimeCall::Now);
        for _ in 0..250 {
            let key = recording.key(&now);
            recording.keep(now.clone(), key, Ok(Reply::Done), Vec::new());
        }
        let report = ReconcileReport::new(header(), &recording, answered(), 3);
        assert_eq!((report.calls.len(), report.calls_left_out), (200, 50));
        assert!(report.is_quiet());
    }
}
