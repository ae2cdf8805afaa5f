//! The imports of the package `tholepin:runtime`.

use tholepin_core::{Call, PluginRuntimeCall, Reply};

use super::wrong_type;
use crate::{
    bindings::tholepin::{
        runtime::{clock, logging, parameters, probing, random, waiting},
        types::types::Error,
    },
    state::GuestState,
};

/// The most random bytes that one call returns.
const RANDOM_BYTES_MAX: u32 = 1024;

impl logging::Host for GuestState {
    async fn log(&mut self, level: logging::Level, message: String) {
        let level = match level {
            logging::Level::Trace => "trace",
            logging::Level::Debug => "debug",
            logging::Level::Info => "info",
            logging::Level::Warn => "warn",
            logging::Level::Error => "error",
        };
        Self::log(self, level, message).await;
    }
}

impl clock::Host for GuestState {
    async fn now(&mut self) -> Result<u64, Error> {
        let Reply::Number(now_ms) = self.call_host(Call::Runtime(PluginRuntimeCall::Now)).await?
        else {
            return Err(wrong_type("a number"));
        };
        Ok(now_ms)
    }
}

impl random::Host for GuestState {
    async fn random(&mut self, bytes: u32) -> Result<Vec<u8>, Error> {
        if RANDOM_BYTES_MAX < bytes {
            let text = format!("`bytes` is {bytes}, at most {RANDOM_BYTES_MAX}");
            return Err(Error::Invalid(text));
        }
        let Reply::Bytes(found) =
            self.call_host(Call::Runtime(PluginRuntimeCall::Random { bytes })).await?
        else {
            return Err(wrong_type("bytes"));
        };
        Ok(found)
    }
}

impl parameters::Host for GuestState {
    async fn parameters(&mut self) -> Result<String, Error> {
        let answer = self.call_host(Call::Runtime(PluginRuntimeCall::Parameters)).await;
        self.document(answer)
    }
}

impl waiting::Host for GuestState {
    async fn wait(&mut self, facts: Vec<String>, ms: u32) -> Result<String, Error> {
        let facts = facts
            .iter()
            .map(|fact| self.parse_argument("facts", fact))
            .collect::<Result<_, _>>()?;
        let answer = self.call_host(Call::Runtime(PluginRuntimeCall::Wait { facts, ms })).await;
        self.document(answer)
    }
}

impl probing::Host for GuestState {
    async fn probe(&mut self, request: String) -> Result<String, Error> {
        let probe = self.parse_argument("request", &request)?;
        let answer = self.call_host(Call::Runtime(PluginRuntimeCall::Probe(probe))).await;
        self.document(answer)
    }
}
