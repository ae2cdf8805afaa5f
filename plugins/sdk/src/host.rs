//! The host's functions as a trait, so that a plugin's code does not know who answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use tholepin_schema::{
    fact::{Fact, WaitOutcome},
    probe::{PodProbe, ProbeOutcome},
};

use crate::{Document, Error, KindName, ObjectRef, RedisReply};

/// The host, as a plugin sees it. `wit/` documents each function: what it does, what it does not
/// promise, its errors.
pub trait Host {
    /// `kubernetes/objects.get`: one object; `fields` are the paths to keep, all if empty.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn get(&self, object: &ObjectRef, read: ReadMode, fields: &[&str]) -> Result<Value, Error>;

    /// `kubernetes/objects.list`.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn list(&self, query: &ListQuery) -> Result<Vec<Value>, Error>;

    /// `kubernetes/objects.apply`: the object as stored.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn apply(&self, object: &Value, force: bool) -> Result<Document, Error>;

    /// `kubernetes/objects.apply-status`: the object as stored.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn apply_status(&self, object: &Value) -> Result<Document, Error>;

    /// `kubernetes/objects.merge-patch`: the object as stored.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn merge_patch(&self, object: &ObjectRef, patch: &Value) -> Result<Document, Error>;

    /// `kubernetes/objects.delete`.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<(), Error>;

    /// `kubernetes/events.publish`.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn publish(&self, event_type: EventType, reason: &str, message: &str) -> Result<(), Error>;

    /// `kubernetes/events.warnings`: what others say about an object, the newest first.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn warnings(&self, object: &ObjectRef) -> Result<Vec<Value>, Error>;

    /// `redis/commands.pipeline`: one reply per command.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, Error>;

    /// `redis/commands.fan-out`: one result per pipeline.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn fan_out(&self, pipelines: &[Pipeline])
    -> Result<Vec<Result<Vec<RedisReply>, Error>>, Error>;

    /// `redis/topology.observe`: a snapshot of the instance.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn observe(&self, instance: &Value) -> Result<Document, Error>;

    /// `redis/topology.act`: one result per action.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn act(
        &self,
        instance: &Value,
        actions: &[Value],
    ) -> Result<Vec<Result<Document, Error>>, Error>;

    /// `runtime/clock.now`: milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn now_ms(&self) -> Result<u64, Error>;

    /// `runtime/random.random`: this many bytes, recorded and so no secret.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn random(&self, bytes: u32) -> Result<Vec<u8>, Error>;

    /// `runtime/parameters.parameters`: the settings that the installer gave.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn parameters(&self) -> Result<Value, Error>;

    /// `runtime/waiting.wait`: until all facts hold, `ms` milliseconds at most.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn wait(&self, facts: &[Fact], ms: u32) -> Result<WaitOutcome, Error>;

    /// `runtime/probing.probe`.
    ///
    /// # Errors
    ///
    /// As the contract lists them.
    fn probe(&self, probe: &PodProbe) -> Result<ProbeOutcome, Error>;

    /// `runtime/logging.log`.
    fn log(&self, level: LogLevel, message: &str);

    /// Logs what changed.
    fn info(&self, message: &str) {
        self.log(LogLevel::Info, message);
    }

    /// Logs what somebody should know.
    fn warn(&self, message: &str) {
        self.log(LogLevel::Warn, message);
    }
}

/// Where a read is answered from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// From the host's store: no round trip, one revision per pass, plus the pass' own writes.
    #[default]
    Cached,
    /// From the API server.
    Live,
}

/// Whether an event tells of something ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum EventType {
    /// Something ordinary.
    Normal,
    /// Something that somebody may want to look at.
    Warning,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What changed.
    Info,
    /// What somebody should know.
    Warn,
    /// What went wrong.
    Error,
}

/// Which objects to list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListQuery {
    /// Of which kind.
    pub kind: KindName,
    /// In which namespace; empty for all, or for a cluster-scoped kind.
    pub namespace: String,
    /// A label selector as kubectl writes it; empty for all.
    pub selector: String,
    /// Where from.
    pub read: ReadMode,
    /// Field paths to keep; everything if empty.
    pub fields: Vec<String>,
}

impl ListQuery {
    /// All objects of a kind in a namespace, whole, from the store.
    #[must_use]
    pub fn new(api_version: &str, kind: &str, namespace: &str) -> Self {
        Self {
            kind: KindName { api_version: api_version.to_owned(), kind: kind.to_owned() },
            namespace: namespace.to_owned(),
            selector: String::new(),
            read: ReadMode::Cached,
            fields: Vec::new(),
        }
    }
}

/// On which conditions, and how fast, to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Only if it still has this uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Only if it still has this resource version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Seconds until it is killed; the object's own grace period if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
}

/// Commands for one member of an instance, in order, on one connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// The instance.
    pub instance: Value,
    /// The member, by the name of its Pod.
    pub pod: String,
    /// The commands with their arguments: any bytes.
    pub commands: Vec<Vec<Vec<u8>>>,
    /// How long the whole may take, at most 5000 ms.
    pub deadline_ms: u32,
}

impl Pipeline {
    /// How long a pipeline may take if nobody says otherwise.
    pub const DEADLINE_MS_DEFAULT: u32 = 1000;

    /// Commands written as text, each a list of words.
    #[must_use]
    pub fn new(instance: &Value, pod: &str, commands: &[&[&str]]) -> Self {
        let words =
            |command: &&[&str]| command.iter().map(|word| word.as_bytes().to_vec()).collect();
        Self {
            instance: instance.clone(),
            pod: pod.to_owned(),
            commands: commands.iter().map(words).collect(),
            deadline_ms: Self::DEADLINE_MS_DEFAULT,
        }
    }
}
