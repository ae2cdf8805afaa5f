//! The host's functions as a trait, so that a plugin's code is independent of what answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use tholepin_schema::{
    fact::{Fact, WaitOutcome},
    probe::{NetworkProbeOutcome, PodPortProbe},
};

use crate::{Error, JsonDocument, KindName, ObjectRef, RedisReply};

/// The functions that the host offers to a plugin. `wit/` documents each one: what it does, what it does not
/// promise, its errors.
pub trait Host {
    /// `kubernetes/objects.get`: returns one object. `fields` lists the field paths to keep; empty keeps all.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn get(&self, object: &ObjectRef, read: ReadMode, fields: &[&str]) -> Result<Value, Error>;

    /// `kubernetes/objects.list`: returns the objects of a kind.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn list(&self, query: &ObjectListQuery) -> Result<Vec<Value>, Error>;

    /// `kubernetes/objects.apply`: applies an object server-side and returns it as stored. `force` takes
    /// fields over from other managers.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn apply(&self, object: &Value, force: bool) -> Result<JsonDocument, Error>;

    /// `kubernetes/objects.apply-status`: applies an object's status server-side and returns the object as
    /// stored.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn apply_status(&self, object: &Value) -> Result<JsonDocument, Error>;

    /// `kubernetes/objects.merge-patch`: sends a JSON merge patch and returns the object as stored.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn merge_patch(&self, object: &ObjectRef, patch: &Value) -> Result<JsonDocument, Error>;

    /// `kubernetes/objects.delete`: deletes one object; it may still exist when this returns.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<(), Error>;

    /// `kubernetes/events.publish`: publishes an event about the object reconciled.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn publish(&self, event_type: EventType, reason: &str, message: &str) -> Result<(), Error>;

    /// `kubernetes/events.warnings`: returns the warnings of others about an object, newest first, at most
    /// 20.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn warnings(&self, object: &ObjectRef) -> Result<Vec<Value>, Error>;

    /// `redis/commands.pipeline`: sends commands to one member and returns one reply per command.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, Error>;

    /// `redis/commands.fan-out`: sends several pipelines concurrently and returns one result per pipeline.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn fan_out(&self, pipelines: &[Pipeline])
    -> Result<Vec<Result<Vec<RedisReply>, Error>>, Error>;

    /// `redis/topology.observe`: returns a snapshot of the instance.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn observe(&self, instance: &Value) -> Result<JsonDocument, Error>;

    /// `redis/topology.act`: performs actions and returns one result per action.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn act(
        &self,
        instance: &Value,
        actions: &[Value],
    ) -> Result<Vec<Result<JsonDocument, Error>>, Error>;

    /// `runtime/clock.now`: returns the wall clock in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn now_ms(&self) -> Result<u64, Error>;

    /// `runtime/random.random`: returns this many random bytes, at most 1024. They are recorded and therefore
    /// not secret.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn random(&self, bytes: u32) -> Result<Vec<u8>, Error>;

    /// `runtime/parameters.parameters`: returns the parameters of the `Plugin` object.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn parameters(&self) -> Result<Value, Error>;

    /// `runtime/waiting.wait`: waits at most `ms` milliseconds (1 to 2000) until all facts hold.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn wait(&self, facts: &[Fact], ms: u32) -> Result<WaitOutcome, Error>;

    /// `runtime/probing.probe`: connects to a port of a Pod, or sends one HTTP GET.
    ///
    /// # Errors
    ///
    /// As listed in `wit/`.
    fn probe(&self, probe: &PodPortProbe) -> Result<NetworkProbeOutcome, Error>;

    /// `runtime/logging.log`: writes a line to the host's log.
    fn log(&self, level: LogLevel, message: &str);

    /// Logs a change.
    fn info(&self, message: &str) {
        self.log(LogLevel::Info, message);
    }

    /// Logs something that a person should know.
    fn warn(&self, message: &str) {
        self.log(LogLevel::Warn, message);
    }
}

/// Where a read is answered from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// From the host's store: no round trip; one revision per reconcile, plus this reconcile's own writes.
    #[default]
    Cached,
    /// From the API server: costs one round trip.
    Live,
}

/// The type of an event, as Kubernetes defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum EventType {
    /// Something ordinary happened.
    Normal,
    /// Something happened that a person may want to check.
    Warning,
}

/// The severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// Details for finding a fault.
    Debug,
    /// A change.
    Info,
    /// Something that a person should know.
    Warn,
    /// A failure.
    Error,
}

/// A query for objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectListQuery {
    /// The kind.
    pub kind: KindName,
    /// The namespace; empty for all namespaces, or for a cluster-scoped kind.
    pub namespace: String,
    /// A label selector in kubectl's syntax; empty selects all.
    pub selector: String,
    /// Where the query is answered from.
    pub read: ReadMode,
    /// The field paths to keep; empty keeps all fields.
    pub fields: Vec<String>,
}

impl ObjectListQuery {
    /// Returns a query for all objects of a kind in a namespace, whole, from the host's store.
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

/// Preconditions and grace period of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Deletes only if the object has this uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Deletes only if the object has this resource version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Seconds until the processes are killed; the object's own grace period if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
}

/// Commands for one member of an instance, in order, on one connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// The instance, as JSON.
    pub instance: Value,
    /// The name of the member's Pod.
    pub pod: String,
    /// The commands; each is a list of arguments, which are arbitrary bytes.
    pub commands: Vec<Vec<Vec<u8>>>,
    /// The time for the whole pipeline, in milliseconds; at most 5000.
    pub deadline_ms: u32,
}

impl Pipeline {
    /// The default time for a pipeline, in milliseconds.
    pub const DEADLINE_MS_DEFAULT: u32 = 1000;

    /// Returns a pipeline of commands written as text, each a list of arguments.
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
