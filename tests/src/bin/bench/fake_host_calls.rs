//! Answers to a guest's calls where Kubernetes and Redis are not measured.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::json;
use tholepin_core::{
    Answer, BoxedFuture, Call, CallError, HostCalls, KubernetesCall, PluginCallerIdentity,
    PluginRuntimeCall, RecordedCallKey, Recording, Reply,
};

/// Answers calls from a recording, by key; a call without an answer is an error.
pub(crate) struct RecordedCalls {
    answers: Arc<BTreeMap<RecordedCallKey, Answer>>,
    asked: Mutex<Recording>,
}

impl RecordedCalls {
    /// Creates the answers for one reconcile.
    pub(crate) fn of(answers: &Arc<BTreeMap<RecordedCallKey, Answer>>) -> Arc<Self> {
        Arc::new(Self { answers: answers.clone(), asked: Mutex::default() })
    }
}

impl HostCalls for RecordedCalls {
    fn perform<'a>(&'a self, _: &'a PluginCallerIdentity, call: Call) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            let key = self.asked.lock().unwrap_or_else(PoisonError::into_inner).key(&call);
            let found = self.answers.get(&key).cloned();
            found.unwrap_or_else(|| {
                Err(CallError::Other(format!("no answer recorded for {}", call.to_json())))
            })
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}

/// Accepts every write immediately, as the API server would, and records it.
#[derive(Default)]
pub(crate) struct FakeKubernetes {
    written: Mutex<Vec<serde_json::Value>>,
}

impl FakeKubernetes {
    /// Returns the applied objects, in order.
    pub(crate) fn written(&self) -> Vec<serde_json::Value> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, object: serde_json::Value) -> Answer {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push(object.clone());
        Ok(Reply::Document(object))
    }
}

impl HostCalls for FakeKubernetes {
    fn perform<'a>(&'a self, _: &'a PluginCallerIdentity, call: Call) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            match call {
                Call::Kubernetes(
                    KubernetesCall::Apply { object, .. } | KubernetesCall::ApplyStatus { object },
                ) => self.write(object),
                Call::Runtime(PluginRuntimeCall::Parameters) => Ok(Reply::Document(json!({}))),
                Call::Runtime(PluginRuntimeCall::Log { .. }) => Ok(Reply::Done),
                other @ (Call::Kubernetes(_) | Call::Redis(_) | Call::Runtime(_)) => {
                    Err(CallError::Unsupported(other.function().to_owned()))
                }
            }
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}
