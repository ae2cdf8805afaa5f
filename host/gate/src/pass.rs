//! One pass through the gate: every call of one guest call comes here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tholepin_core::{
    Answer, Boxed, Call, CallContext, CallError, ObjectRef, Perform, Recording, Reply, RuntimeCall,
    port::{Members, StoreView},
};
use tholepin_schema::{
    instance::Instance,
    manifest::{KindName, KubernetesGrant},
};
use tracing::{debug, error, info, trace, warn};

use crate::{Gate, PassContext, grant, instance, kubernetes, redis};

/// The most random bytes that one call gives.
const RANDOM_BYTES_MAX: u32 = 1024;

/// Performs the calls of one guest call under its grants, guards, budget and mode, and records them.
pub struct Pass {
    pub(crate) gate: Arc<Gate>,
    pub(crate) context: PassContext,
    progress: Mutex<Progress>,
}

/// What changes while a pass goes on.
struct Progress {
    /// The store at the pass' start, plus the pass' own writes.
    view: Arc<dyn StoreView>,
    recording: Recording,
    calls: u32,
    writes: u32,
}

impl Pass {
    pub(crate) fn new(gate: Arc<Gate>, context: PassContext) -> Self {
        let view = gate.ports.kubernetes.view();
        let recording = Recording::default();
        Self {
            gate,
            context,
            progress: Mutex::new(Progress { view, recording, calls: 0, writes: 0 }),
        }
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.progress().recording.clone()
    }

    pub(crate) fn view(&self) -> Arc<dyn StoreView> {
        self.progress().view.clone()
    }

    /// Makes a written object visible to the reads that follow in this pass.
    pub(crate) fn saw(&self, object: Value) {
        let mut progress = self.progress();
        progress.view = progress.view.with(object);
    }

    /// Makes a deleted object invisible to the reads that follow in this pass.
    pub(crate) fn lost(&self, object: &ObjectRef) {
        let mut progress = self.progress();
        progress.view = progress.view.without(object);
    }

    /// The members of an instance that the plugin names, as the store has them now.
    pub(crate) async fn members(&self, instance: &Instance) -> Result<Members, CallError> {
        let PassContext { key, object, .. } = &self.context;
        instance::members(&*self.gate.ports.kubernetes, key, object, instance).await
    }

    pub(crate) fn granted(
        &self,
        kind: &KindName,
        verb: &str,
    ) -> Result<&KubernetesGrant, CallError> {
        grant::kubernetes(&self.context.grants, kind, verb)
    }

    /// A poisoned lock is taken as it is: each change of the progress is a single assignment.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call against the pass' budget.
    fn spend(&self, call: &Call) -> Result<(), CallError> {
        let PassContext { calls_max, writes_max, .. } = self.context;
        let mut progress = self.progress();
        progress.calls = progress.calls.saturating_add(1);
        progress.writes = progress.writes.saturating_add(u32::from(call.is_write()));
        if progress.calls <= calls_max && progress.writes <= writes_max {
            return Ok(());
        }
        // The pass cannot get more: what helps is the next one.
        Err(CallError::Throttled(1000))
    }

    async fn answer(&self, call: Call) -> Answer {
        self.spend(&call)?;
        match call {
            Call::Kubernetes(call) => kubernetes::perform(self, call).await,
            Call::Redis(call) => redis::perform(self, call).await,
            Call::Runtime(call) => self.runtime(call),
        }
    }

    fn runtime(&self, call: RuntimeCall) -> Answer {
        match call {
            RuntimeCall::Now => Ok(Reply::Number(self.gate.ports.clock.now_ms())),
            RuntimeCall::Random { bytes } if bytes <= RANDOM_BYTES_MAX => {
                let count = usize::try_from(bytes).unwrap_or_default();
                Ok(Reply::Bytes(self.gate.ports.entropy.bytes(count)))
            }
            RuntimeCall::Random { bytes } => Err(CallError::Invalid(format!(
                "{bytes} random bytes are more than the {RANDOM_BYTES_MAX} that one call gives"
            ))),
            RuntimeCall::Parameters => Ok(Reply::Document((*self.context.parameters).clone())),
            RuntimeCall::Log { level, message } => {
                self.log(&level, &message);
                Ok(Reply::Done)
            }
        }
    }

    /// The plugin's name and the object are in the span of the reconcile.
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

impl Perform for Pass {
    fn perform<'a>(&'a self, _context: &'a CallContext, call: Call) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let key = self.progress().recording.key(&call);
            let answer = self.answer(call.clone()).await;
            if let Err(error) = &answer {
                debug!(function = call.function(), reason = error.reason(), %error, "call failed");
            }
            self.progress().recording.keep(call, key.occurrence, answer.clone());
            answer
        })
    }
}
