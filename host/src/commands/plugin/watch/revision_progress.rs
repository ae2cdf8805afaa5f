//! Judges what a host says of a revision, and which of its passes are news. Pure.

use serde_json::Value;
use tholepin_core::ReconcileReport;

/// How far a host has come with a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RevisionProgress {
    /// It serves.
    Active,
    /// It will not serve, for this reason.
    Refused(String),
    /// Nothing is said of it yet.
    Waiting,
}

impl RevisionProgress {
    /// What a `Plugin` object says of a revision.
    pub(super) fn of(plugin: &Value, revision: &str) -> Self {
        let status = |field: &str| {
            let text = plugin.pointer(&format!("/status/{field}")).and_then(Value::as_str);
            text.unwrap_or_default()
        };
        if status("active") == revision {
            return Self::Active;
        }
        match (status("candidate") == revision, status("reason")) {
            (true, reason) if !reason.is_empty() => {
                Self::Refused(format!("{reason}: {}", status("message")))
            }
            _ => Self::Waiting,
        }
    }
}

/// The number of the last pass of an object; 0 if there is none.
pub(super) fn last_number(passes: &[ReconcileReport]) -> u64 {
    passes.iter().map(|pass| pass.number).max().unwrap_or_default()
}

/// What is worth telling of an object's passes: those of this revision after number `known` that did
/// something, or else its last one. Without the single calls, which `tholepin calls` shows.
pub(super) fn news(
    passes: Vec<ReconcileReport>,
    revision: &str,
    known: u64,
) -> Vec<ReconcileReport> {
    let mut own: Vec<_> =
        passes.into_iter().filter(|pass| pass.revision.0 == revision).map(without_calls).collect();
    let last = own.pop();
    own.retain(|pass| known < pass.number && !pass.steps.is_empty());
    match last {
        Some(last) if own.is_empty() || !last.steps.is_empty() => own.push(last),
        Some(_) | None => {}
    }
    own
}

fn without_calls(pass: ReconcileReport) -> ReconcileReport {
    ReconcileReport { calls: Vec::new(), calls_left_out: 0, ..pass }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_of_this_revision_and_no_other() {
        let rows = [
            (json!({}), RevisionProgress::Waiting),
            (json!({"active": "new", "stage": "Active"}), RevisionProgress::Active),
            (json!({"active": "old", "stage": "Active"}), RevisionProgress::Waiting),
            (
                json!({"active": "old", "candidate": "new", "stage": "Compiled"}),
                RevisionProgress::Waiting,
            ),
            (
                json!({"active": "old", "candidate": "new", "reason": "KindClaimed", "message": "by b"}),
                RevisionProgress::Refused("KindClaimed: by b".to_owned()),
            ),
            (
                json!({"active": "old", "candidate": "other", "reason": "KindClaimed"}),
                RevisionProgress::Waiting,
            ),
        ];
        for (status, expected) in rows {
            assert_eq!(
                RevisionProgress::of(&json!({"status": status}), "new"),
                expected,
                "{status}"
            );
        }
    }

    /// A pass from `NUMBER REVISION`, with `!` behind if it did something.
    fn pass(text: &str) -> ReconcileReport {
        let (number, revision) = text.trim_end_matches('!').split_once(' ').unwrap();
        let event = json!({"kind": "event", "eventType": "Normal", "reason": "R", "message": "m"});
        let steps = if text.ends_with('!') { vec![event] } else { Vec::new() };
        let document = json!({
            "version": 1, "mode": "live", "revision": revision,
            "object": {"plugin": "p", "kind": {"apiVersion": "a/v1", "kind": "K"},
                "namespace": "n", "name": "x"},
            "number": number.parse::<u64>().unwrap(), "startedAtMs": 0, "tookMs": 3, "causes": [],
            "steps": steps, "end": {"answered": {"summary": "well"}},
            "calls": [{"function": "get", "about": "a", "answer": "b"}], "callsLeftOut": 1,
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn news_is_what_the_revision_did_or_else_how_it_is() {
        let rows: [(&[&str], u64, &[u64]); 6] = [
            (&[], 0, &[]),
            (&["1 old!"], 1, &[]),
            (&["1 old!", "2 new", "3 new"], 1, &[3]),
            (&["1 old!", "2 new!", "3 new"], 1, &[2]),
            (&["1 new!", "2 old", "3 new!", "4 new!"], 2, &[3, 4]),
            (&["1 new!", "2 new"], 2, &[2]),
        ];
        for (passes, known, expected) in rows {
            let found = news(passes.iter().map(|text| pass(text)).collect(), "new", known);
            let numbers: Vec<_> = found.iter().map(|pass| pass.number).collect();
            assert_eq!(numbers, expected, "{passes:?} after {known}");
            assert!(found.iter().all(|pass| pass.calls.is_empty() && pass.calls_left_out == 0));
        }
    }

    #[test]
    fn the_last_number_is_the_highest() {
        assert_eq!(last_number(&[]), 0);
        assert_eq!(last_number(&[pass("4 new"), pass("7 old!")]), 7);
    }
}
