//! The last output of a server that ended by itself, as far as Kubernetes kept it.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use serde_json::Value;
use tholepin_schema::snapshot::Member;

/// The most characters that a condition repeats.
const CHARS_MAX: usize = 400;
/// The most lines that a condition repeats.
const LINES_MAX: usize = 3;
/// The beginning of a server's message about its configuration file.
const FATAL: &str = "*** FATAL CONFIG FILE ERROR";
/// Exit codes from this one on are those of signals: the output before a signal explains nothing.
const SIGNALS: i64 = 128;

/// Returns the last output of a container that ended by itself with an error; `None` for one that never ended
/// or was killed.
#[must_use]
pub fn last_output(member: &Member) -> Option<String> {
    let state = |name: &str| member.kubernetes.get(name)?.get("terminated");
    let terminated = state("state").or_else(|| state("lastState"))?;
    let code = terminated.get("exitCode").and_then(Value::as_i64)?;
    if code == 0 || SIGNALS <= code {
        return None;
    }
    let message = terminated.get("message").and_then(Value::as_str)?;
    let output = essence(message);
    (!output.is_empty()).then_some(output)
}

/// Returns the lines that matter, without process ids and times: these differ at every start, and a status
/// must not.
fn essence(message: &str) -> String {
    let from = message.rfind(FATAL).and_then(|at| message.get(at..)).unwrap_or(message);
    let lines: Vec<&str> =
        from.lines().map(without_prefix).filter(|line| !line.is_empty()).collect();
    let lines = if from.starts_with(FATAL) {
        lines.get(1..).unwrap_or_default()
    } else {
        lines.get(lines.len().saturating_sub(LINES_MAX)..).unwrap_or_default()
    };
    let text = lines.iter().take(LINES_MAX).copied().collect::<Vec<_>>().join(" ");
    text.replace('`', "'").chars().take(CHARS_MAX).collect::<String>().trim().to_string()
}

/// Removes what the server writes before a line: `1:M 30 Nov 2026 20:14:25.703 # `.
fn without_prefix(line: &str) -> &str {
    let parts: Vec<&str> = line.splitn(7, ' ').collect();
    let text = match parts.as_slice() {
        [process, _, _, _, time, level, text]
            if process.contains(':') && time.contains(':') && level.len() == 1 =>
        {
            text
        }
        _ => line,
    };
    text.trim()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn member(kubernetes: Value) -> Member {
        let member = json!({"pod": "a", "podUid": "u", "running": false, "kubernetes": kubernetes,
            "answer": {"unreachable": {"reason": "not-running", "message": "m"}}});
        serde_json::from_value(member).unwrap()
    }

    #[test]
    fn the_relevant_lines_of_the_output_are_kept() {
        let fatal = "1:C 30 Nov 2026 20:14:25.703 # Warning: a warning\n\n\
            *** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\n\
            Reading the configuration file, at line 12\n\
            >>> 'activedefrag yes'\n\
            Active defragmentation cannot be enabled\n";
        let config = "Reading the configuration file, at line 12 >>> 'activedefrag yes' Active \
            defragmentation cannot be enabled";
        let log = "7:M 30 Nov 2026 20:14:25.703 # Can't open the append-only file\n";
        let ended = |code: i64, message: &str| json!({"exitCode": code, "message": message});
        let cases = [
            (json!({"lastState": {"terminated": ended(1, fatal)}}), Some(config)),
            (
                json!({"state": {"terminated": ended(1, log)}}),
                Some("Can't open the append-only file"),
            ),
            (json!({"state": {"terminated": ended(1, "a\nb\nc\nd")}}), Some("b c d")),
            // Seven words are no prefix if only some of their parts look like one.
            (json!({"state": {"terminated": ended(1, "a: b c d e # g")}}), Some("a: b c d e # g")),
            (
                json!({"state": {"terminated": ended(1, "a b c d 1:2 # g")}}),
                Some("a b c d 1:2 # g"),
            ),
            (
                json!({"state": {"terminated": ended(1, "a: b c d 1:2 ## g")}}),
                Some("a: b c d 1:2 ## g"),
            ),
            (json!({"state": {"terminated": ended(137, log)}}), None),
            (json!({"state": {"terminated": ended(0, log)}}), None),
            (json!({"state": {"terminated": {"exitCode": 1}}}), None),
            (json!({"state": {"running": {}}, "lastState": {}}), None),
            (Value::Null, None),
        ];
        for (kubernetes, expected) in cases {
            let output = last_output(&member(kubernetes.clone()));
            assert_eq!(output.as_deref(), expected, "{kubernetes}");
        }
    }

    #[test]
    fn long_output_is_cut() {
        let message = "x".repeat(10_000);
        let ended = json!({"state": {"terminated": {"exitCode": 1, "message": message}}});
        assert_eq!(last_output(&member(ended)).unwrap().len(), CHARS_MAX);
    }
}
