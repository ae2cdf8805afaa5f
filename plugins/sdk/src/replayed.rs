//! A host for native tests that answers from a recording or from answers written by hand.

use std::{cell::RefCell, collections::BTreeMap};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tholepin_schema::{
    fact::{Fact, WaitOutcome},
    probe::{NetworkProbeOutcome, PodPortProbe},
};

use crate::{
    DeleteOptions, Error, EventType, Host, JsonDocument, LogLevel, ObjectListQuery, ObjectRef,
    Pipeline, ReadMode, RedisReply,
};

/// Answers each call by its key: interface, function, arguments, and how often the same call was made before.
/// The position of a call in the test does not matter, as in a replay by the host. A call without an answer
/// returns [`Error::Other`] and is listed in [`missing`](Self::missing).
#[derive(Debug, Default)]
pub struct ReplayHost {
    /// Rules of the test for calls without an answer of their own.
    rules: Vec<ReplayedAnswerRule>,
    /// By the canonical text of the call, or by the digest of a call that was recorded without its arguments.
    answers: BTreeMap<(String, u32), Result<RecordedAnswer, Error>>,
    /// The canonical text of each call made, in order.
    calls: RefCell<Vec<String>>,
    missing: RefCell<Vec<String>>,
    logged: RefCell<Vec<(LogLevel, String)>>,
}

/// A rule for all calls of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplayedAnswerRule {
    /// An object without an answer does not exist.
    NoOtherObjects,
    /// Every write succeeds.
    WritesAccepted,
}

/// Why a text is not a recording.
#[derive(Debug)]
pub struct RecordingParseError(serde_json::Error);

impl std::fmt::Display for RecordingParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this is not a recording of a reconcile")
    }
}

impl std::error::Error for RecordingParseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The result of a call, in the form in which recordings contain it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RecordedAnswer {
    Done,
    Document(Value),
    Documents(Vec<Value>),
    Results(Vec<Result<Value, Error>>),
    Number(u64),
    Bytes(Vec<u8>),
    Replies(Vec<RedisReply>),
    FanOut(Vec<Result<Vec<RedisReply>, Error>>),
}

#[derive(Deserialize)]
struct Recording {
    calls: Vec<AnswerRecord>,
}

#[derive(Deserialize)]
struct AnswerRecord {
    call: Value,
    occurrence: u32,
    answer: Result<RecordedAnswer, Error>,
}

impl ReplayHost {
    /// Parses a recording that the host wrote.
    ///
    /// # Errors
    ///
    /// Fails if the text is not a recording.
    pub fn from_recording(json: &str) -> Result<Self, RecordingParseError> {
        let recording: Recording = serde_json::from_str(json).map_err(RecordingParseError)?;
        let mut replayed = Self::default();
        for AnswerRecord { call, occurrence, answer } in recording.calls {
            // The host keeps the digest instead of the arguments of a call that failed.
            let digest = call.get("sha256").and_then(Value::as_str).map(str::to_owned);
            let key = digest.unwrap_or_else(|| canonical(&call));
            replayed.answers.insert((key, occurrence), answer);
        }
        Ok(replayed)
    }

    /// Adds an object that every `get` without a field mask returns, cached or live.
    #[must_use]
    pub fn with_object(self, object: &Value) -> Self {
        let Some(name) = ObjectRef::of(object) else { return self };
        let reads = [ReadMode::Cached, ReadMode::Live];
        reads.into_iter().fold(self, |host, read| {
            let call = get_call(&name, read, &[]);
            host.always(&call, Ok(RecordedAnswer::Document(object.clone())))
        })
    }

    /// Adds the answer of every `observe` of an instance.
    #[must_use]
    pub fn with_snapshot(self, instance: &Value, answer: Result<Value, Error>) -> Self {
        let call = call("redis", "observe", json!({"instance": instance}));
        self.always(&call, answer.map(RecordedAnswer::Document))
    }

    /// Adds the time that every call of the clock returns.
    #[must_use]
    pub fn with_now_ms(self, now_ms: u64) -> Self {
        let call = json!({"interface": "runtime", "function": "now"});
        self.always(&call, Ok(RecordedAnswer::Number(now_ms)))
    }

    /// Adds the plugin's parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Value) -> Self {
        let call = json!({"interface": "runtime", "function": "parameters"});
        self.always(&call, Ok(RecordedAnswer::Document(parameters)))
    }

    /// Adds the outcome of every wait for these facts with this `ms`.
    #[must_use]
    pub fn with_wait(self, facts: &[Fact], ms: u32, outcome: &WaitOutcome) -> Self {
        self.always(&wait_call(facts, ms), Ok(RecordedAnswer::Document(json!(outcome))))
    }

    /// Adds the outcome of every such probe.
    #[must_use]
    pub fn with_probe(self, probe: &PodPortProbe, outcome: &NetworkProbeOutcome) -> Self {
        self.always(&probe_call(probe), Ok(RecordedAnswer::Document(json!(outcome))))
    }

    /// Makes `get` return [`Error::NotFound`] for all objects that were not added.
    #[must_use]
    pub fn without_other_objects(mut self) -> Self {
        self.rules.push(ReplayedAnswerRule::NoOtherObjects);
        self
    }

    /// Makes every apply return the object as it was sent, and every deletion and event succeed.
    #[must_use]
    pub fn with_writes_accepted(mut self) -> Self {
        self.rules.push(ReplayedAnswerRule::WritesAccepted);
        self
    }

    /// Returns the objects applied so far, in order.
    #[must_use]
    pub fn applied(&self) -> Vec<Value> {
        self.arguments("apply", "object")
    }

    /// Returns the objects whose status was applied so far, in order.
    #[must_use]
    pub fn statuses_applied(&self) -> Vec<Value> {
        self.arguments("apply-status", "object")
    }

    /// Returns the reasons of the events published so far, in order.
    #[must_use]
    pub fn published(&self) -> Vec<String> {
        let reasons = self.arguments("publish", "reason");
        reasons.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Returns the calls made so far as canonical JSON, in order and without `log`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// Returns the calls that had no answer.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.missing.borrow().clone()
    }

    /// Returns the lines logged so far.
    #[must_use]
    pub fn logged(&self) -> Vec<(LogLevel, String)> {
        self.logged.borrow().clone()
    }

    /// Returns one argument of each call of a function so far.
    fn arguments(&self, function: &str, argument: &str) -> Vec<Value> {
        let recorded = self.calls.borrow();
        let calls = recorded.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let of_function =
            calls.filter(|call| call.get("function").is_some_and(|name| name == function));
        let path = format!("/arguments/{argument}");
        of_function.map(|call| call.pointer(&path).cloned().unwrap_or_default()).collect()
    }

    /// Returns the answer that the rules give to a call without an answer of its own.
    fn by_rule(&self, call: &Value) -> Option<Result<RecordedAnswer, Error>> {
        let rule = |rule: ReplayedAnswerRule| self.rules.contains(&rule);
        let object = call.pointer("/arguments/object").unwrap_or(&Value::Null);
        match call.get("function")?.as_str()? {
            "get" if rule(ReplayedAnswerRule::NoOtherObjects) => {
                Some(Err(Error::NotFound(object.to_string())))
            }
            "apply" | "apply-status" if rule(ReplayedAnswerRule::WritesAccepted) => {
                Some(Ok(RecordedAnswer::Document(object.clone())))
            }
            "delete" | "publish" if rule(ReplayedAnswerRule::WritesAccepted) => {
                Some(Ok(RecordedAnswer::Done))
            }
            _ => None,
        }
    }

    fn always(mut self, call: &Value, answer: Result<RecordedAnswer, Error>) -> Self {
        self.answers.insert((canonical(call), ALWAYS), answer);
        self
    }

    fn answer(&self, call: &Value) -> Result<RecordedAnswer, Error> {
        let text = canonical(call);
        let calls_before = self.calls.borrow().iter().filter(|made| **made == text).count();
        self.calls.borrow_mut().push(text.clone());
        let occurrence = u32::try_from(calls_before).unwrap_or(ALWAYS);
        let found = self
            .answers
            .get(&(text.clone(), occurrence))
            .or_else(|| self.answers.get(&(digest(call), occurrence)))
            .or_else(|| self.answers.get(&(text.clone(), ALWAYS)));
        found.cloned().or_else(|| self.by_rule(call)).unwrap_or_else(|| {
            self.missing.borrow_mut().push(text.clone());
            Err(Error::Other(format!("the replay has no answer number {occurrence} to {text}")))
        })
    }
}

/// The occurrence number of an answer that is valid for every occurrence.
const ALWAYS: u32 = u32::MAX;

impl Host for ReplayHost {
    fn get(&self, object: &ObjectRef, read: ReadMode, fields: &[&str]) -> Result<Value, Error> {
        document(self.answer(&get_call(object, read, fields))?)
    }

    fn list(&self, query: &ObjectListQuery) -> Result<Vec<Value>, Error> {
        documents(self.answer(&call("kubernetes", "list", json!(query)))?)
    }

    fn apply(&self, object: &Value, force: bool) -> Result<JsonDocument, Error> {
        let arguments = arguments([("object", object.clone()), ("force", force.into())]);
        unparsed(self.answer(&call("kubernetes", "apply", arguments))?)
    }

    fn apply_status(&self, object: &Value) -> Result<JsonDocument, Error> {
        unparsed(self.answer(&call(
            "kubernetes",
            "apply-status",
            arguments([("object", object.clone())]),
        ))?)
    }

    fn merge_patch(&self, object: &ObjectRef, patch: &Value) -> Result<JsonDocument, Error> {
        let arguments = json!({"object": object, "patch": patch});
        unparsed(self.answer(&call("kubernetes", "merge-patch", arguments))?)
    }

    fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<(), Error> {
        let mut arguments = json!(options);
        if let Some(arguments) = arguments.as_object_mut() {
            arguments.insert("object".to_owned(), json!(object));
        }
        done(self.answer(&call("kubernetes", "delete", arguments))?)
    }

    fn publish(&self, event_type: EventType, reason: &str, message: &str) -> Result<(), Error> {
        let arguments = json!({"eventType": event_type, "reason": reason, "message": message});
        done(self.answer(&call("kubernetes", "publish", arguments))?)
    }

    fn warnings(&self, object: &ObjectRef) -> Result<Vec<Value>, Error> {
        documents(self.answer(&call("kubernetes", "warnings", json!({"object": object})))?)
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, Error> {
        let RecordedAnswer::Replies(replies) =
            self.answer(&call("redis", "pipeline", json!(pipeline)))?
        else {
            return Err(wrong_answer("replies"));
        };
        Ok(replies)
    }

    fn fan_out(
        &self,
        pipelines: &[Pipeline],
    ) -> Result<Vec<Result<Vec<RedisReply>, Error>>, Error> {
        let RecordedAnswer::FanOut(results) =
            self.answer(&call("redis", "fan-out", json!({"pipelines": pipelines})))?
        else {
            return Err(wrong_answer("results of a fan-out"));
        };
        Ok(results)
    }

    fn observe(&self, instance: &Value) -> Result<JsonDocument, Error> {
        unparsed(self.answer(&call(
            "redis",
            "observe",
            arguments([("instance", instance.clone())]),
        ))?)
    }

    fn act(
        &self,
        instance: &Value,
        actions: &[Value],
    ) -> Result<Vec<Result<JsonDocument, Error>>, Error> {
        let arguments = json!({"instance": instance, "actions": actions});
        let RecordedAnswer::Results(results) = self.answer(&call("redis", "act", arguments))?
        else {
            return Err(wrong_answer("results"));
        };
        Ok(results.into_iter().map(|result| result.map(JsonDocument::from)).collect())
    }

    fn now_ms(&self) -> Result<u64, Error> {
        let RecordedAnswer::Number(number) =
            self.answer(&json!({"interface": "runtime", "function": "now"}))?
        else {
            return Err(wrong_answer("a number"));
        };
        Ok(number)
    }

    fn random(&self, bytes: u32) -> Result<Vec<u8>, Error> {
        let RecordedAnswer::Bytes(bytes) =
            self.answer(&call("runtime", "random", json!({"bytes": bytes})))?
        else {
            return Err(wrong_answer("bytes"));
        };
        Ok(bytes)
    }

    fn parameters(&self) -> Result<Value, Error> {
        document(self.answer(&json!({"interface": "runtime", "function": "parameters"}))?)
    }

    fn wait(&self, facts: &[Fact], ms: u32) -> Result<WaitOutcome, Error> {
        unparsed(self.answer(&wait_call(facts, ms))?)?.read()
    }

    fn probe(&self, probe: &PodPortProbe) -> Result<NetworkProbeOutcome, Error> {
        unparsed(self.answer(&probe_call(probe))?)?.read()
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.logged.borrow_mut().push((level, message.to_owned()));
    }
}

/// Returns a call in the form in which recordings contain it; `Value` sorts the keys.
fn call(interface: &str, function: &str, named: Value) -> Value {
    let parts = [("interface", interface.into()), ("function", function.into())];
    arguments(parts.into_iter().chain([("arguments", named)]))
}

fn arguments(named: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn canonical(call: &Value) -> String {
    serde_json::to_string(call).unwrap_or_default()
}

/// Returns the digest under which the host records a call that failed: of its JSON with the parts of the call in
/// this order, and all fields within in alphabetical order.
fn digest(call: &Value) -> String {
    let part = |name: &str| call.get(name).map(canonical).unwrap_or_default();
    let (interface, function) = (part("interface"), part("function"));
    let mut text = format!(r#"{{"interface":{interface},"function":{function}"#);
    if call.get("arguments").is_some() {
        text.push_str(&format!(r#","arguments":{}"#, part("arguments")));
    }
    text.push('}');
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wait_call(facts: &[Fact], ms: u32) -> Value {
    call("runtime", "wait", json!({"facts": facts, "ms": ms}))
}

fn probe_call(probe: &PodPortProbe) -> Value {
    call("runtime", "probe", json!(probe))
}

fn get_call(object: &ObjectRef, read: ReadMode, fields: &[&str]) -> Value {
    call("kubernetes", "get", json!({"object": object, "read": read, "fields": fields}))
}

fn document(answer: RecordedAnswer) -> Result<Value, Error> {
    let RecordedAnswer::Document(document) = answer else {
        return Err(wrong_answer("a document"));
    };
    Ok(document)
}

fn documents(answer: RecordedAnswer) -> Result<Vec<Value>, Error> {
    let RecordedAnswer::Documents(documents) = answer else {
        return Err(wrong_answer("documents"));
    };
    Ok(documents)
}

fn unparsed(answer: RecordedAnswer) -> Result<JsonDocument, Error> {
    document(answer).map(JsonDocument::from)
}

fn done(answer: RecordedAnswer) -> Result<(), Error> {
    let RecordedAnswer::Done = answer else {
        return Err(wrong_answer("nothing"));
    };
    Ok(())
}

fn wrong_answer(expected: &str) -> Error {
    Error::Other(format!("the recorded answer does not fit the call: it is not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_object_is_found_and_another_is_missing() {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "b"}
        });
        let host = ReplayHost::default().with_object(&object).with_now_ms(7);
        let name = ObjectRef::new("v1", "Secret", "b", "a");
        for read in [ReadMode::Cached, ReadMode::Live, ReadMode::Live] {
            assert_eq!(host.get(&name, read, &[]), Ok(object.clone()));
        }
        assert_eq!(host.now_ms(), Ok(7));
        assert_eq!(host.missing(), Vec::<String>::new());
        let other = ObjectRef::new("v1", "Secret", "b", "c");
        assert!(matches!(host.get(&other, ReadMode::Cached, &[]), Err(Error::Other(_))));
        assert_eq!(host.missing().len(), 1);
    }

    #[test]
    fn rules_answer_calls_without_an_answer_of_their_own() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let name = ObjectRef::new("v1", "ConfigMap", "", "b");
        let host = ReplayHost::default().with_object(&object).without_other_objects();
        assert!(matches!(host.get(&name, ReadMode::Live, &[]), Err(Error::NotFound(_))));
        assert!(
            matches!(host.apply(&object, true), Err(Error::Other(_))),
            "no rule accepts writes"
        );
        let host = ReplayHost::default().with_writes_accepted();
        assert_eq!(host.apply(&object, true), Ok(object.clone().into()));
        assert_eq!(host.publish(EventType::Normal, "Seen", "it"), Ok(()));
        assert_eq!((host.applied(), host.published()), (vec![object], vec!["Seen".to_owned()]));
        assert!(matches!(host.get(&name, ReadMode::Live, &[]), Err(Error::Other(_))));
        assert_eq!(host.missing().len(), 1);
    }

    #[test]
    fn equal_calls_are_answered_by_occurrence() {
        let recording = r#"{"calls": [
            {"call": {"interface": "runtime", "function": "now"}, "occurrence": 0, "answer": {"Ok": {"number": 5}}},
            {"call": {"interface": "runtime", "function": "now"}, "occurrence": 1, "answer": {"Err": {"timeout": "slow"}}}
        ]}"#;
        let host = ReplayHost::from_recording(recording).unwrap();
        assert_eq!(host.now_ms(), Ok(5));
        assert_eq!(host.now_ms(), Err(Error::Timeout("slow".to_owned())));
        assert!(matches!(host.now_ms(), Err(Error::Other(_))));
        assert!(ReplayHost::from_recording("{}").is_err());
    }
}
