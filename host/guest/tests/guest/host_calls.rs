//! Implementations of `HostCalls` for tests: scripted, replaying, and one that waits for the test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tholepin_core::{
    Answer, BoxedFuture, Call, CallError, CallRecord, HostCalls, PluginCallerIdentity,
    PluginRuntimeCall, RecordedCallKey, Recording, Reply, RespNode, RespReply,
};
use tokio::sync::Semaphore;

/// Answers calls by a function, and records them.
pub(crate) struct FunctionCalls {
    answer: Box<dyn Fn(&Call) -> Answer + Send + Sync>,
    recording: Mutex<Recording>,
}

impl FunctionCalls {
    /// Answers each call successfully with a value of the right type.
    pub(crate) fn friendly() -> Arc<Self> {
        Self::new(friendly)
    }

    pub(crate) fn new(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Box::new(answer), recording: Mutex::default() })
    }

    pub(crate) fn recording(&self) -> Recording {
        self.recording.lock().unwrap().clone()
    }

    /// Returns the functions called, in order.
    pub(crate) fn called(&self) -> Vec<String> {
        self.recording()
            .calls()
            .iter()
            .map(|recorded| recorded.call.function().to_owned())
            .collect()
    }

    /// Returns the lines logged, in order.
    pub(crate) fn logged(&self) -> Vec<String> {
        let line = |call: &CallRecord| {
            let Call::Runtime(PluginRuntimeCall::Log { level, message }) = call.whole()? else {
                return None;
            };
            Some(format!("{level}: {message}"))
        };
        self.recording().calls().iter().filter_map(|recorded| line(&recorded.call)).collect()
    }
}

impl HostCalls for FunctionCalls {
    fn perform<'a>(
        &'a self,
        _context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            let answer = (self.answer)(&call);
            let mut recording = self.recording.lock().unwrap();
            let key = recording.key(&call);
            recording.keep(call, key, answer.clone(), Vec::new());
            answer
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}

/// Returns a successful answer of the type that the call has.
pub(crate) fn friendly(call: &Call) -> Answer {
    let reply = || vec![RespReply { nodes: vec![RespNode::Status("PONG".to_owned())] }];
    Ok(match call.function() {
        "kubernetes/list" | "kubernetes/warnings" => {
            Reply::Documents(vec![json!({"kind": "ConfigMap"})])
        }
        "kubernetes/delete" | "kubernetes/publish" | "runtime/log" => Reply::Done,
        "redis/pipeline" => Reply::Replies(reply()),
        "redis/fan-out" => Reply::FanOut(vec![Ok(reply()), Err(CallError::Gone("a-0".to_owned()))]),
        "redis/act" => Reply::Results(vec![Err(CallError::Refused("G3".to_owned()))]),
        "runtime/now" => Reply::Number(1_700_000_000_123),
        "runtime/random" => {
            let Call::Runtime(PluginRuntimeCall::Random { bytes }) = call else {
                panic!("{call:?}")
            };
            Reply::Bytes((0..*bytes).map(|byte| u8::try_from(byte % 256).unwrap()).collect())
        }
        "runtime/wait" => Reply::Document(json!({"held": {"tookMs": 7}})),
        "runtime/probe" => Reply::Document(json!({"connected": {"tookMs": 7}})),
        "runtime/parameters" => Reply::Document(json!({"suffix": "!"})),
        _ => Reply::Document(json!({"kind": "ConfigMap"})),
    })
}

/// Answers calls from a saved recording, by key. A call that is not in the recording fails and is listed as
/// missing.
pub(crate) struct RecordedCalls {
    answers: BTreeMap<RecordedCallKey, Answer>,
    asked: Mutex<Recording>,
    missing: Mutex<Vec<String>>,
}

impl RecordedCalls {
    pub(crate) fn of(recording: &Recording) -> Arc<Self> {
        let answers = recording.answers();
        Arc::new(Self { answers, asked: Mutex::default(), missing: Mutex::default() })
    }

    /// Returns the JSON of the calls that had no answer.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap().clone()
    }
}

impl HostCalls for RecordedCalls {
    fn perform<'a>(
        &'a self,
        _context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            let key = self.asked.lock().unwrap().key(&call);
            self.answers.get(&key).cloned().unwrap_or_else(|| {
                self.missing.lock().unwrap().push(call.to_json());
                Err(CallError::Other(format!("no answer recorded for {}", call.to_json())))
            })
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}

/// Delays the answers of one function until the test releases them; answers other calls immediately.
pub(crate) struct GatedCalls {
    pub(crate) function: &'static str,
    pub(crate) reached: Semaphore,
    pub(crate) released: Semaphore,
}

impl GatedCalls {
    pub(crate) fn at(function: &'static str) -> Arc<Self> {
        Arc::new(Self { function, reached: Semaphore::new(0), released: Semaphore::new(0) })
    }
}

impl HostCalls for GatedCalls {
    fn perform<'a>(
        &'a self,
        _context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        Box::pin(async move {
            if call.function() == self.function {
                self.reached.add_permits(1);
                self.released.acquire().await.unwrap().forget();
            }
            friendly(&call)
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}
