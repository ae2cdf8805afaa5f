//! The plugin `redis-cluster` without a sandbox, with which the benchmark compares the Wasm build.
//!
//! It is a program of its own, so that it is built with the profile of plugins.
//!
//! Reads a request and a recording, one per line, and then orders: `json COUNT` or `values COUNT`. For each
//! order it prints a line of JSON with the nanoseconds of each reconcile and with the outcome.

use std::{
    error::Error,
    io::{self, Write},
    time::Instant,
};

use redis_cluster::RedisClusterPlugin;
use serde_json::{Value, json};
use tholepin_sdk::{
    DeleteOptions, EventType, Fact, Host, JsonDocument, LogLevel, NetworkProbeOutcome,
    ObjectListQuery, ObjectRef, Pipeline, PodPortProbe, ReadMode, ReconcileOutcome,
    ReconcileRequest, Reconciler, RedisReply, ReplayHost, WaitOutcome,
};

type NativeError = Box<dyn Error>;

fn main() -> Result<(), NativeError> {
    let mut lines = io::stdin().lines();
    let mut line = || lines.next().transpose();
    let request: ReconcileRequest = serde_json::from_str(&line()?.ok_or("no request")?)?;
    let recording = line()?.ok_or("no recording")?;
    while let Some(order) = line()? {
        let (format, count) =
            order.split_once(' ').ok_or("an order is `json COUNT` or `values COUNT`")?;
        let reconcile: fn(&ReplayHost, ReconcileRequest) -> Result<ReconcileOutcome, NativeError> =
            match format {
                "json" => through_json,
                "values" => |host, request| with_values(host, request),
                _ => return Err(format!("`{format}` is neither json nor values").into()),
            };
        let mut times_ns = Vec::new();
        let mut outcome = ReconcileOutcome::default();
        for _ in 0..count.parse::<u32>()? {
            let (host, request_copy) = (ReplayHost::from_recording(&recording)?, request.clone());
            let start = Instant::now();
            outcome = reconcile(&host, request_copy)?;
            times_ns.push(u64::try_from(start.elapsed().as_nanos())?);
            if let Some(missing) = host.missing().first() {
                return Err(format!("the recording has no answer to {missing}").into());
            }
        }
        let answer = json!({"takenNs": times_ns, "outcome": outcome});
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

/// Runs a reconcile in which every document is serialised and parsed, as at the border of a Wasm guest.
fn through_json(
    host: &ReplayHost,
    request: ReconcileRequest,
) -> Result<ReconcileOutcome, NativeError> {
    let request: ReconcileRequest = serde_json::from_str(&serde_json::to_string(&request)?)?;
    let outcome = with_values(&NativeHost(host), request)?;
    Ok(serde_json::from_str(&serde_json::to_string(&outcome)?)?)
}

/// Runs a reconcile that gets the host's values directly.
fn with_values(
    host: &dyn Host,
    request: ReconcileRequest,
) -> Result<ReconcileOutcome, NativeError> {
    let outcome = RedisClusterPlugin::reconcile(host, request);
    Ok(outcome.map_err(|failure| format!("{failure:?}"))?)
}

/// Serialises and parses each argument and each answer that is a document, as the contract requires.
struct NativeHost<'a>(&'a ReplayHost);

type NativeReply<T> = Result<T, tholepin_sdk::Error>;

fn through_json_value(document: &Value) -> NativeReply<Value> {
    let read = serde_json::to_string(document).and_then(|text| serde_json::from_str(&text));
    read.map_err(|error| tholepin_sdk::Error::Other(error.to_string()))
}

fn through_json_text(document: JsonDocument) -> NativeReply<JsonDocument> {
    let text = serde_json::to_string(&document.value()?);
    text.map(JsonDocument::text).map_err(|error| tholepin_sdk::Error::Other(error.to_string()))
}

fn through_json_values(documents: &[Value]) -> NativeReply<Vec<Value>> {
    documents.iter().map(through_json_value).collect()
}

impl Host for NativeHost<'_> {
    fn get(&self, object: &ObjectRef, read: ReadMode, fields: &[&str]) -> NativeReply<Value> {
        through_json_value(&self.0.get(object, read, fields)?)
    }

    fn list(&self, query: &ObjectListQuery) -> NativeReply<Vec<Value>> {
        through_json_values(&self.0.list(query)?)
    }

    fn apply(&self, object: &Value, force: bool) -> NativeReply<JsonDocument> {
        through_json_text(self.0.apply(&through_json_value(object)?, force)?)
    }

    fn apply_status(&self, object: &Value) -> NativeReply<JsonDocument> {
        through_json_text(self.0.apply_status(&through_json_value(object)?)?)
    }

    fn merge_patch(&self, object: &ObjectRef, patch: &Value) -> NativeReply<JsonDocument> {
        through_json_text(self.0.merge_patch(object, &through_json_value(patch)?)?)
    }

    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> NativeReply<()> {
        self.0.delete(object, options)
    }

    fn publish(&self, event_type: EventType, reason: &str, message: &str) -> NativeReply<()> {
        self.0.publish(event_type, reason, message)
    }

    fn warnings(&self, object: &ObjectRef) -> NativeReply<Vec<Value>> {
        through_json_values(&self.0.warnings(object)?)
    }

    fn pipeline(&self, pipeline: &Pipeline) -> NativeReply<Vec<RedisReply>> {
        self.0.pipeline(pipeline)
    }

    fn fan_out(&self, pipelines: &[Pipeline]) -> NativeReply<Vec<NativeReply<Vec<RedisReply>>>> {
        self.0.fan_out(pipelines)
    }

    fn observe(&self, instance: &Value) -> NativeReply<JsonDocument> {
        through_json_text(self.0.observe(&through_json_value(instance)?)?)
    }

    fn act(
        &self,
        instance: &Value,
        actions: &[Value],
    ) -> NativeReply<Vec<NativeReply<JsonDocument>>> {
        let results = self.0.act(&through_json_value(instance)?, &through_json_values(actions)?)?;
        Ok(results.into_iter().map(|result| through_json_text(result?)).collect())
    }

    fn now_ms(&self) -> NativeReply<u64> {
        self.0.now_ms()
    }

    fn random(&self, bytes: u32) -> NativeReply<Vec<u8>> {
        self.0.random(bytes)
    }

    fn parameters(&self) -> NativeReply<Value> {
        through_json_value(&self.0.parameters()?)
    }

    fn wait(&self, facts: &[Fact], ms: u32) -> NativeReply<WaitOutcome> {
        let facts: Vec<Fact> = serde_json::from_str(&json!(facts).to_string())
            .map_err(|error| tholepin_sdk::Error::Other(error.to_string()))?;
        self.0.wait(&facts, ms)
    }

    fn probe(&self, probe: &PodPortProbe) -> NativeReply<NetworkProbeOutcome> {
        self.0.probe(probe)
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level, message);
    }
}
