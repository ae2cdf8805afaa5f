//! The budget of one reconcile: its calls, its writes, and the bytes of the host's memory that they use.
//!
//! Invariants:
//! - What a call allocates on behalf of the plugin is spent before it is allocated: a JSON argument by an upper
//!   bound of its parsed size, the copy of the call in the recording by its size. Only an answer is spent after
//!   it is there, because only then its size is known.
//! - Spent bytes are not given back, except those of the copy of an answer that the plugin receives. Once the budget is exceeded, every later call is throttled, and nothing
//!   but its key and the reason is recorded.
//! - The answer of a write that was performed reaches the plugin and the recording even if it exceeds the budget:
//!   what happened outside the host is reported.

use serde_json::Value;
use tholepin_core::{Answer, Call, CallError, PlanStep, size::HeapSize as _};

use crate::{ReconcileScope, plan_steps, reconcile_context::ReconcileContext};

/// How long a throttled plugin should wait: this reconcile gets no more calls; the next one has a new budget.
const THROTTLED_MS: u32 = 1000;
/// What each recorded call takes besides its arguments and its answer.
const RECORD_BYTES: usize = 512;
/// The longest text of an error. The text can repeat what the plugin passed.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

impl ReconcileContext {
    /// Spends a call, and the bytes that the recording needs for it.
    pub(crate) fn spend_budget(&self, call: &Call) -> Result<(), CallError> {
        let ReconcileScope { calls_max, writes_max, bytes_max, .. } = self.scope;
        let bytes = RECORD_BYTES + call.heap();
        let spent = &mut self.usage().budget;
        spent.calls = spent.calls.saturating_add(1);
        spent.writes = spent.writes.saturating_add(u32::from(call.is_write()));
        spent.bytes = spent.bytes.saturating_add(bytes);
        let is_within =
            spent.calls <= calls_max && spent.writes <= writes_max && spent.bytes <= bytes_max;
        if is_within { Ok(()) } else { Err(CallError::Throttled(THROTTLED_MS)) }
    }

    /// Spends bytes of the host's memory.
    pub(crate) fn spend_memory(&self, bytes: usize) -> Result<(), CallError> {
        let spent = &mut self.usage().budget.bytes;
        *spent = spent.saturating_add(bytes);
        if *spent <= self.scope.bytes_max {
            Ok(())
        } else {
            Err(CallError::Throttled(THROTTLED_MS))
        }
    }

    /// Spends the bytes of an answer and of its copy in the recording.
    pub(crate) fn spend_on_answer(
        &self,
        call: &Call,
        answer: Answer,
        steps: &[PlanStep],
    ) -> Answer {
        let steps_bytes = steps.iter().map(|step| size_of_val(step) + step.heap()).sum::<usize>();
        let answer = answer.map_err(|error| error.cut(ERROR_TEXT_BYTES_MAX));
        let bytes = answer.heap();
        let within = self.spend_memory(2 * bytes + steps_bytes);
        if within.is_ok() {
            // The plugin has its copy before it makes the next call; the recording keeps the other.
            self.refund(bytes);
        }
        match within {
            Err(throttled) if answer.is_ok() && !call.is_write() => Err(throttled),
            Ok(()) | Err(_) => answer,
        }
    }

    fn refund(&self, bytes: usize) {
        let spent = &mut self.usage().budget.bytes;
        *spent = spent.saturating_sub(bytes);
    }

    /// Returns the steps of a call that failed as a whole; none if the budget has no bytes left for them.
    pub(crate) fn steps_of_failed(&self, call: &Call, error: &CallError) -> Vec<PlanStep> {
        // The steps are made of copies of the arguments.
        if self.spend_memory(call.heap()).is_ok() {
            plan_steps::not_sent(call, error)
        } else {
            Vec::new()
        }
    }

    /// Collects the documents of an answer.
    ///
    /// # Errors
    ///
    /// Fails at the first document for which the budget has no bytes left.
    pub(crate) fn collect_documents(
        &self,
        documents: impl Iterator<Item = Value>,
    ) -> Result<Vec<Value>, CallError> {
        let spent = self.usage().budget.bytes;
        // As `spend_on_answer` counts them, which spends them.
        let mut left = self.scope.bytes_max.saturating_sub(spent) / 2;
        let mut found = Vec::new();
        for document in documents {
            let bytes = size_of::<Value>() + document.heap();
            let Some(rest) = left.checked_sub(bytes) else {
                // The whole budget is gone: the plugin should ask for fewer objects in its next reconcile.
                self.spend_memory(self.scope.bytes_max)?;
                return Err(CallError::Throttled(THROTTLED_MS));
            };
            left = rest;
            found.push(document);
        }
        Ok(found)
    }
}
