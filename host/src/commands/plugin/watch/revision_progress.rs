//! Reads the progress of a revision from its `Plugin` object, and selects the reports to show. Pure.

use serde_json::Value;
use tholepin_core::ReconcileReport;

/// How far a host has come with a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PluginRevisionProgress {
    /// It is active.
    Active,
    /// The host refuses it for this reason.
    Refused(String),
    /// The `Plugin` object does not name it yet.
    Waiting,
}

impl PluginRevisionProgress {
    /// Returns the progress of a revision by its `Plugin` object.
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

/// Returns the number of the last report of an object; 0 if there is none.
pub(super) fn last_number(reports: &[ReconcileReport]) -> u64 {
    reports.iter().map(|report| report.number).max().unwrap_or_default()
}

/// Returns the reports of this revision after number `known` that wrote something, or else its last report. Without the
/// single calls, which `tholepin calls` shows.
pub(super) fn new_reports(
    reports: Vec<ReconcileReport>,
    revision: &str,
    known: u64,
) -> Vec<ReconcileReport> {
    let mut own: Vec<_> = reports
        .into_iter()
        .filter(|report| report.revision.0 == revision)
        .map(without_calls)
        .collect();
    let last = own.pop();
    own.retain(|report| known < report.number && !report.steps.is_empty());
    match last {
        Some(last) if own.is_empty() || !last.steps.is_empty() => own.push(last),
        Some(_) | None => {}
    }
    own
}

fn without_calls(report: ReconcileReport) -> ReconcileReport {
    ReconcileReport { calls: Vec::new(), calls_left_out: 0, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_of_this_revision_and_no_other() {
        let rows = [
            (json!({}), PluginRevisionProgress::Waiting),
            (json!({"active": "new", "stage": "Active"}), PluginRevisionProgress::Active),
            (json!({"active": "old", "stage": "Active"}), PluginRevisionProgress::Waiting),
            (
                json!({"active": "old", "candidate": "new", "stage": "Compiled"}),
                PluginRevisionProgress::Waiting,
            ),
            (
                json!({"active": "old", "candidate": "new", "reason": "KindClaimed", "message": "by b"}),
                PluginRevisionProgress::Refused("KindClaimed: by b".to_owned()),
            ),
            (
                json!({"active": "old", "candidate": "other", "reason": "KindClaimed"}),
                PluginRevisionProgress::Waiting,
            ),
        ];
        for (status, expected) in rows {
            assert_eq!(
                PluginRevisionProgress::of(&json!({"status": status}), "new"),
                expected,
                "{status}"
            );
        }
    }

    /// Returns a report from `NUMBER REVISION`, followed by `!` if it wrote something.
    fn report(text: &str) -> ReconcileReport {
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
    fn new_reports_are_those_with_writes_or_else_the_last_one() {
        let rows: [(&[&str], u64, &[u64]); 6] = [
            (&[], 0, &[]),
            (&["1 old!"], 1, &[]),
            (&["1 old!", "2 new", "3 new"], 1, &[3]),
            (&["1 old!", "2 new!", "3 new"], 1, &[2]),
            (&["1 new!", "2 old", "3 new!", "4 new!"], 2, &[3, 4]),
            (&["1 new!", "2 new"], 2, &[2]),
        ];
        for (reports, known, expected) in rows {
            let found =
                new_reports(reports.iter().map(|text| report(text)).collect(), "new", known);
            let numbers: Vec<_> = found.iter().map(|report| report.number).collect();
            assert_eq!(numbers, expected, "{reports:?} after {known}");
            assert!(
                found.iter().all(|report| report.calls.is_empty() && report.calls_left_out == 0)
            );
        }
    }

    #[test]
    fn the_last_number_is_the_highest() {
        assert_eq!(last_number(&[]), 0);
        assert_eq!(last_number(&[report("4 new"), report("7 old!")]), 7);
    }
}
