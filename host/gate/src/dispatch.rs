//! Dispatches each call of a reconcile to the module that performs it, and ends the reconcile.

use metrics::counter;
use tholepin_core::{
    Answer, BoxedFuture, Call, CallError, HostCalls, PlanStep, PluginCallerIdentity,
    PluginRuntimeCall, Reply, WriteMode,
};
use tracing::{debug, error, info, trace, warn};

use crate::{
    kubernetes, probe, reconcile_context::ReconcileContext, redis, restore_settings, wait,
};

/// The most random bytes that one call returns.
const RANDOM_BYTES_MAX: u32 = 1024;

impl ReconcileContext {
    /// Ends the reconcile, whatever the result of its guest call: restores the settings that it suspended.
    /// Returns the steps of restoring them; in plan mode, the steps that would be taken.
    pub async fn close(&self) -> Vec<PlanStep> {
        if self.scope.mode == WriteMode::Live {
            let conflicting = self.take_conflicting();
            self.gate.name_conflicts.keep(&self.scope.key, &conflicting);
        }
        restore_settings::restore_at_end(self).await
    }

    /// Counts a call in the metrics, unless it is a plan's. The labels are the plugin's name and values of
    /// closed sets.
    fn count(&self, call: &Call, answer: &Answer) {
        match self.scope.mode {
            WriteMode::Live => {}
            WriteMode::Plan => return,
        }
        let result = answer.as_ref().map_or_else(CallError::reason, |_| "ok");
        let controller = self.scope.key.plugin.to_string();
        let function = call.function();
        counter!(
            "tholepin_plugin_calls_total",
            "controller" => controller, "function" => function, "result" => result
        )
        .increment(1);
    }

    /// Answers a call within the budget.
    async fn within_budget(&self, call: &Call, steps: &mut Vec<PlanStep>) -> Answer {
        self.spend_budget(call)?;
        let answer = self.answer(call.clone(), steps).await;
        self.spend_on_answer(call, answer, steps)
    }

    async fn answer(&self, call: Call, steps: &mut Vec<PlanStep>) -> Answer {
        let ended = self.end_of_plan();
        match (call, ended) {
            (
                Call::Kubernetes(_)
                | Call::Redis(_)
                | Call::Runtime(PluginRuntimeCall::Wait { .. } | PluginRuntimeCall::Probe(_)),
                Some(why),
            ) => Err(CallError::PlanEnds(why)),
            (Call::Runtime(call), _) => self.runtime(call).await,
            (Call::Kubernetes(call), None) => kubernetes::perform(self, call, steps).await,
            (Call::Redis(call), None) => redis::perform(self, call, steps).await,
        }
    }

    async fn runtime(&self, call: PluginRuntimeCall) -> Answer {
        match call {
            PluginRuntimeCall::Now => Ok(Reply::Number(self.gate.ports.clock.now_ms())),
            PluginRuntimeCall::Random { bytes } if bytes <= RANDOM_BYTES_MAX => {
                let count = usize::try_from(bytes).unwrap_or_default();
                Ok(Reply::Bytes(self.gate.ports.entropy.bytes(count)))
            }
            PluginRuntimeCall::Random { bytes } => Err(CallError::Invalid(format!(
                "{bytes} random bytes are more than the {RANDOM_BYTES_MAX} that one call returns"
            ))),
            PluginRuntimeCall::Parameters => Ok(Reply::Document((*self.scope.parameters).clone())),
            PluginRuntimeCall::Wait { facts, ms } => wait::wait(self, facts, ms).await,
            PluginRuntimeCall::Probe(asked) => probe::probe(self, &asked).await,
            PluginRuntimeCall::Log { level, message } => {
                // A plan's messages are in its report. In the host's log they would describe things that did
                // not happen.
                if self.scope.mode == WriteMode::Live {
                    self.log(&level, &message);
                }
                Ok(Reply::Done)
            }
        }
    }

    /// Logs a message of the plugin. The span of the reconcile has the plugin's name and the object.
    #[expect(clippy::cognitive_complexity, reason = "each of tracing's macros counts as branches")]
    fn log(&self, level: &str, message: &str) {
        match level {
            "error" => error!(target: "plugin", "{message}"),
            "warn" => warn!(target: "plugin", "{message}"),
            "info" => info!(target: "plugin", "{message}"),
            "debug" => debug!(target: "plugin", "{message}"),
            _ => trace!(target: "plugin", "{message}"),
        }
    }
}

impl HostCalls for ReconcileContext {
    fn perform<'a>(
        &'a self,
        _context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            let key = self.recording_key(&call);
            let mut steps = Vec::new();
            let answer = self.within_budget(&call, &mut steps).await;
            if let Err(error) = &answer {
                debug!(function = call.function(), reason = error.reason(), %error, "call failed");
                // A call after the end of the plan is no step of it.
                if steps.is_empty() && !matches!(error, CallError::PlanEnds(_)) {
                    steps = self.steps_of_failed(&call, error);
                }
            }
            self.count(&call, &answer);
            self.record(call, key, answer.clone(), steps);
            answer
        })
    }

    fn spend_bytes(&self, bytes: usize) -> Result<(), CallError> {
        self.spend_memory(bytes)
    }
}
