//! What was asked and what was answered during one pass.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Answer, Call, CallKey, PlanStep};

/// One call with its answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Recorded {
    /// What was asked.
    pub call: Call,
    /// How many equal calls came before in the same pass.
    pub occurrence: u32,
    /// What was answered.
    pub answer: Answer,
    /// What it changed outside, or would change; empty for a read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<PlanStep>,
}

/// The calls of one pass in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Recording {
    calls: Vec<Recorded>,
    #[serde(skip)]
    seen: BTreeMap<String, u32>,
}

impl Recording {
    /// Gives the key under which the next call equal to `call` is kept, and counts it as made.
    pub fn key(&mut self, call: &Call) -> CallKey {
        let text = call.to_json();
        let next = self.seen.entry(text.clone()).or_insert(0);
        let occurrence = *next;
        *next += 1;
        CallKey { call: text, occurrence }
    }

    /// Keeps an answer, and what the call changed, under the occurrence that [`key`](Self::key) gave.
    pub fn keep(&mut self, call: Call, occurrence: u32, answer: Answer, steps: Vec<PlanStep>) {
        self.calls.push(Recorded { call, occurrence, answer, steps });
    }

    /// The calls in the order in which they were answered.
    #[must_use]
    pub fn calls(&self) -> &[Recorded] {
        &self.calls
    }

    /// The answers by key, as replay looks them up.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<CallKey, Answer> {
        let entry = |recorded: &Recorded| {
            let key = CallKey { call: recorded.call.to_json(), occurrence: recorded.occurrence };
            (key, recorded.answer.clone())
        };
        self.calls.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reply, RuntimeCall};

    #[test]
    fn equal_calls_are_told_apart_by_occurrence_and_found_again() {
        let mut recording = Recording::default();
        let now = Call::Runtime(RuntimeCall::Now);
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
