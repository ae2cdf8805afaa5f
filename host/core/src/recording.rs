//! The calls of one reconcile with their answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Answer, Call, PlanStep, RecordedCallKey};

/// One call with its answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RecordedCall {
    /// The call.
    pub call: Call,
    /// How many equal calls the reconcile made before.
    pub occurrence: u32,
    /// The answer.
    pub answer: Answer,
    /// The steps of the call, done or planned; empty for a read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<PlanStep>,
}

/// The calls of one reconcile in the order in which they were answered.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Recording {
    calls: Vec<RecordedCall>,
    #[serde(skip)]
    seen: BTreeMap<String, u32>,
}

impl Recording {
    /// Returns the key of the next call equal to `call`, and counts it as made.
    pub fn key(&mut self, call: &Call) -> RecordedCallKey {
        let text = call.to_json();
        let next = self.seen.entry(text.clone()).or_insert(0);
        let occurrence = *next;
        *next += 1;
        RecordedCallKey { call: text, occurrence }
    }

    /// Adds a call with its answer and steps, under the occurrence that [`key`](Self::key) returned.
    pub fn keep(&mut self, call: Call, occurrence: u32, answer: Answer, steps: Vec<PlanStep>) {
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
            let key =
                RecordedCallKey { call: recorded.call.to_json(), occurrence: recorded.occurrence };
            (key, recorded.answer.clone())
        };
        self.calls.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PluginRuntimeCall, Reply};

    #[test]
    fn equal_calls_are_distinguished_by_occurrence_and_found_again() {
        let mut recording = Recording::default();
        let now = Call::Runtime(PluginRuntimeCall::Now);
        for number in [5, 7] {
            let key = recording.key(&now);
            recording.keep(now.clone(), key.occurrence, Ok(Reply::Number(number)), Vec::new());
        }
        let text = serde_json::to_string(&recording).unwrap();
        let answers = serde_json::from_str::<Recording>(&text).unwrap().answers();
        let mut again = Recording::default();
        assert_eq!(answers.get(&again.key(&now)), Some(&Ok(Reply::Number(5))));
        assert_eq!(answers.get(&again.key(&now)), Some(&Ok(Reply::Number(7))));
        assert_eq!(answers.get(&again.key(&now)), None);
    }
}
