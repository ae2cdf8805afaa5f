//! The calls of one reconcile with their answers.
//!
//! Invariants:
//! - A call that failed is kept without its arguments: as its digest, one line about it, and the error. A
//!   plugin that is denied everything therefore cannot fill the host's memory.
//! - A replay finds the answer to a call by the digest of the call, whether the arguments are kept or not.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufWriter, Write as _},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Answer, Call, CallError, PlanStep, about::about};

/// One call with its answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RecordedCall {
    /// The call.
    pub call: CallRecord,
    /// How many equal calls the reconcile made before.
    pub occurrence: u32,
    /// The answer.
    pub answer: Answer,
    /// The steps of the call, done or planned; empty for a read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<PlanStep>,
}

/// What a recording keeps of a call.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum CallRecord {
    /// A call that failed, without its arguments.
    Failed {
        /// The WIT function, such as `kubernetes/apply`.
        function: String,
        /// The arguments, shortened for people; empty if the call was throttled.
        about: String,
        /// The digest of the call.
        sha256: CallDigest,
    },
    /// A call that was answered.
    Whole(Call),
}

impl CallRecord {
    /// Returns the WIT function, such as `kubernetes/apply`.
    #[must_use]
    pub fn function(&self) -> &str {
        match self {
            Self::Failed { function, .. } => function,
            Self::Whole(call) => call.function(),
        }
    }

    /// Returns the digest of the call.
    #[must_use]
    pub fn digest(&self) -> CallDigest {
        match self {
            Self::Failed { sha256, .. } => *sha256,
            Self::Whole(call) => CallDigest::of(call),
        }
    }

    /// Returns the call if its arguments are kept.
    #[must_use]
    pub const fn whole(&self) -> Option<&Call> {
        match self {
            Self::Whole(call) => Some(call),
            Self::Failed { .. } => None,
        }
    }
}

/// The SHA-256 of a call's JSON, as [`Call::to_json`] returns it. Displayed and serialised in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallDigest([u8; 32]);

impl CallDigest {
    /// Returns the digest of a call.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        // The writer hashes what it is given instead of keeping it: a call can be large.
        let mut writer = BufWriter::with_capacity(4096, HashWriter(Sha256::new()));
        // Neither the hash nor the serialisation of a call fails.
        serde_json::to_writer(&mut writer, call).ok();
        writer.flush().ok();
        let (HashWriter(hash), _) = writer.into_parts();
        Self(hash.finalize().into())
    }
}

impl fmt::Display for CallDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CallDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<CallDigest> for String {
    fn from(digest: CallDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for CallDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit =
            |at: usize| text.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no SHA-256 in hex"))
    }
}

/// The key of a recorded answer: the call, and how many equal calls the reconcile made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub struct RecordedCallKey {
    /// The digest of the call.
    pub call: CallDigest,
    /// How many equal calls the reconcile made before.
    pub occurrence: u32,
}

/// A writer that hashes.
struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The calls of one reconcile in the order in which they were answered.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Recording {
    calls: Vec<RecordedCall>,
    #[serde(skip)]
    seen: BTreeMap<CallDigest, u32>,
}

impl Recording {
    /// Returns the key of the next call equal to `call`, and counts it as made.
    pub fn key(&mut self, call: &Call) -> RecordedCallKey {
        let call = CallDigest::of(call);
        let next = self.seen.entry(call).or_insert(0);
        let occurrence = *next;
        *next += 1;
        RecordedCallKey { call, occurrence }
    }

    /// Adds a call with its answer and steps, under the key that [`key`](Self::key) returned. The arguments of
    /// a call that failed are dropped.
    pub fn keep(&mut self, call: Call, key: RecordedCallKey, answer: Answer, steps: Vec<PlanStep>) {
        let RecordedCallKey { call: sha256, occurrence } = key;
        let failed =
            |about| CallRecord::Failed { function: call.function().to_owned(), about, sha256 };
        let call = match &answer {
            Ok(_) => CallRecord::Whole(call),
            // There can be thousands of these.
            Err(CallError::Throttled(_)) => failed(String::new()),
            Err(_) => failed(about(&call)),
        };
        self.calls.push(RecordedCall { call, occurrence, answer, steps });
    }

    /// Returns the calls in the order in which they were answered.
    #[must_use]
    pub fn calls(&self) -> &[RecordedCall] {
        &self.calls
    }

    /// Returns the answers by key, for a replay.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<RecordedCallKey, Answer> {
        let entry = |recorded: &RecordedCall| {
            let RecordedCall { call, occurrence, answer, steps: _ } = recorded;
            (RecordedCallKey { call: call.digest(), occurrence: *occurrence }, answer.clone())
        };
        self.calls.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KubernetesCall, PluginRuntimeCall, Reply};
    use serde_json::json;

    #[test]
    fn equal_calls_are_distinguished_by_occurrence_and_found_again() {
        let mut recording = Recording::default();
        let now = Call::Runtime(PluginRuntimeCall::Now);
        for number in [5, 7] {
            let key = recording.key(&now);
            recording.keep(now.clone(), key, Ok(Reply::Number(number)), Vec::new());
        }
        let text = serde_json::to_string(&recording).unwrap();
        let answers = serde_json::from_str::<Recording>(&text).unwrap().answers();
        let mut again = Recording::default();
        assert_eq!(answers.get(&again.key(&now)), Some(&Ok(Reply::Number(5))));
        assert_eq!(answers.get(&again.key(&now)), Some(&Ok(Reply::Number(7))));
        assert_eq!(answers.get(&again.key(&now)), None);
    }

    #[test]
    fn a_failed_call_is_kept_without_its_arguments_and_found_again() {
        let object = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "x".repeat(5000)}});
        let call = Call::Kubernetes(KubernetesCall::Apply { object, force: true });
        for error in [CallError::Denied("no grant".into()), CallError::Throttled(7)] {
            let mut recording = Recording::default();
            let key = recording.key(&call);
            recording.keep(call.clone(), key, Err(error.clone()), Vec::new());
            let text = serde_json::to_string(&recording).unwrap();
            assert!(text.len() < 500 && text.contains("kubernetes/apply"), "{text}");
            assert_eq!(text.contains("ConfigMap a"), error.text().is_some(), "{text}");
            let back: Recording = serde_json::from_str(&text).unwrap();
            assert_eq!(back.calls(), recording.calls());
            let key = Recording::default().key(&call);
            assert_eq!(back.answers().get(&key), Some(&Err(error)));
        }
    }
}
