//! Formats reports for people.

use serde_json::Value;
use tholepin_core::{
    ObjectRef, PlanStep, PlanStepEffect, ReconcileKey, ReconcileReport, ReconcileResult,
    report::CallLine,
    step::{APPLY_STATUS, FieldChange, PlanStepChangeType, RedisCliCommand, StepSkipReason},
};

use super::super::text_style::TextStyle;

/// The longest value on one line.
const VALUE_BYTES_MAX: usize = 160;
/// The most lines of a text that changes.
const TEXT_LINES_MAX: usize = 40;

/// Formats a plan.
pub(super) fn plan(report: &ReconcileReport, paint: TextStyle) -> String {
    let mut out = PlanTextWriter(Vec::new());
    let what = object(&report.object);
    let who = plugin(report);
    out.add(0, paint.bold(&format!("Plan for {what} by {who}: one reconcile, nothing is written")));
    for remark in &report.remarks {
        out.add(0, paint.yellow(&format!("! {remark}")));
    }
    out.add(0, String::new());
    steps(&report.steps, 0, paint, &mut out);
    if let Some(stops) = &report.stops {
        let text = format!("The plan stops here: what follows depends on {stops}.");
        out.add(0, paint.yellow(&text));
        return out.text();
    }
    if report.steps.is_empty() && report.is_answered() {
        out.add(0, "Nothing to do.".to_owned());
    }
    end(&report.end, 0, paint, &mut out);
    out.text()
}

/// Formats the last reconciles of an object, the oldest first.
pub(super) fn calls(reports: &[ReconcileReport], paint: TextStyle) -> String {
    let mut out = PlanTextWriter(Vec::new());
    let Some(first) = reports.first() else {
        return "no kept reconcile wrote anything; without --writes all are shown\n".to_owned();
    };
    out.add(0, paint.bold(&format!("{} by {}", object(&first.object), first.object.plugin)));
    for report in reports {
        out.add(0, String::new());
        let causes = match report.causes.join(", ") {
            causes if causes.is_empty() => String::new(),
            causes => format!(", because: {causes}"),
        };
        let title = format!(
            "reconcile {} at {}, {} ms, revision {}{causes}",
            report.number,
            time(report.started_at_ms),
            report.took_ms,
            report.revision.short(),
        );
        out.add(0, paint.bold(&title));
        for remark in &report.remarks {
            out.add(1, paint.yellow(&format!("! {remark}")));
        }
        for CallLine { function, about, answer } in &report.calls {
            out.add(1, format!("{function:22} {about} -> {answer}"));
        }
        if 0 < report.calls_left_out {
            out.add(1, format!("{} more calls", report.calls_left_out));
        }
        steps(&report.steps, 1, paint, &mut out);
        end(&report.end, 1, paint, &mut out);
    }
    out.text()
}

fn object(key: &ReconcileKey) -> String {
    let ReconcileKey { plugin: _, kind, namespace, name } = key;
    named(&kind.kind, namespace, name)
}

fn named(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    }
}

fn plugin(report: &ReconcileReport) -> String {
    format!("{} (revision {})", report.object.plugin, report.revision.short())
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.strftime("%H:%M:%S%.3f UTC").to_string()).unwrap_or_default()
}

fn steps(all: &[PlanStep], indent: usize, paint: TextStyle, out: &mut PlanTextWriter) {
    for (number, step) in all.iter().enumerate() {
        let prefix = if step.not_done.is_none() { "" } else { "not done: " };
        let title = format!("{}. {prefix}{}", number + 1, title(&step.effect));
        let title = if step.not_done.is_none() { title } else { paint.red(&title) };
        out.add(indent, title);
        match &step.effect {
            PlanStepEffect::Object { fields, .. } => {
                for field in fields {
                    change(field, indent + 2, paint, out);
                }
            }
            PlanStepEffect::Verb { commands, .. } | PlanStepEffect::Commands { commands } => {
                for RedisCliCommand { pod, command } in commands {
                    out.add(indent + 2, format!("{pod}> {command}"));
                }
            }
            PlanStepEffect::Event { .. } => {}
        }
        if let Some(not_done) = &step.not_done {
            out.add(indent + 2, paint.red(&why(not_done)));
        }
    }
}

fn title(effect: &PlanStepEffect) -> String {
    match effect {
        PlanStepEffect::Object { by, object, change, fields: _ } => {
            let ObjectRef { kind, namespace, name } = object;
            let what = named(&kind.kind, namespace, name);
            match (change, by.as_str()) {
                (PlanStepChangeType::Changed, APPLY_STATUS) => {
                    format!("change the status of {what}")
                }
                (PlanStepChangeType::Changed, _) => format!("change {what}"),
                (PlanStepChangeType::Created, _) => format!("create {what}"),
                (PlanStepChangeType::Deleted, _) => format!("delete {what}"),
                (PlanStepChangeType::Unknown, by) => format!("{by} {what}"),
            }
        }
        PlanStepEffect::Verb { verb, args, commands: _ } => format!("{verb} {}", arguments(args)),
        PlanStepEffect::Commands { commands } => match commands.first() {
            Some(first) => format!("{} commands to {}", commands.len(), first.pod),
            None => "no commands".to_owned(),
        },
        PlanStepEffect::Event { event_type, reason, message } => {
            format!("publish an event, {event_type:?} {reason}: {message}")
        }
    }
}

fn arguments(args: &Value) -> String {
    let fields = args.as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| short(value), str::to_owned);
    fields.map(|(name, value)| format!("{name} {}", text(value))).collect::<Vec<_>>().join(", ")
}

fn why(not_done: &StepSkipReason) -> String {
    match not_done {
        StepSkipReason::Refused { guard, message } => {
            format!("refused by the guard `{guard}`: {message}")
        }
        StepSkipReason::Failed { reason, message, may_have_run } => {
            let unsure = if *may_have_run { " (it may have run all the same)" } else { "" };
            format!("{reason}: {message}{unsure}")
        }
        StepSkipReason::Skipped { after } if after.is_empty() => {
            "skipped: the host has no result of it".to_owned()
        }
        StepSkipReason::Skipped { after } => format!("depends on `{after}`, which is not done"),
    }
}

fn change(field: &FieldChange, indent: usize, paint: TextStyle, out: &mut PlanTextWriter) {
    let FieldChange { field, from, to } = field;
    match (from, to) {
        (Some(Value::String(from)), Some(Value::String(to)))
            if from.contains('\n') || to.contains('\n') =>
        {
            out.add(indent, paint.yellow(&format!("~ {field}:")));
            for line in text_changes(from, to) {
                out.add(indent + 2, line.painted(paint));
            }
        }
        (None, Some(Value::String(to))) if to.contains('\n') => {
            out.add(indent, paint.green(&format!("+ {field}:")));
            for line in text_changes("", to) {
                out.add(indent + 2, line.painted(paint));
            }
        }
        (None, Some(to)) => out.add(indent, paint.green(&format!("+ {field}: {}", short(to)))),
        (Some(from), None) => out.add(indent, paint.red(&format!("- {field}: {}", short(from)))),
        (from, to) => {
            let (from, to) = (from.as_ref().map(short), to.as_ref().map(short));
            let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
            out.add(indent, paint.yellow(&format!("~ {field}: {from} -> {to}")));
        }
    }
}

/// One line of a text that changes.
#[derive(Debug, PartialEq, Eq)]
enum DiffLine<'a> {
    Removed(&'a str),
    Added(&'a str),
    More(usize),
}

impl DiffLine<'_> {
    fn painted(&self, paint: TextStyle) -> String {
        match self {
            Self::Removed(line) => paint.red(&format!("-{line}")),
            Self::Added(line) => paint.green(&format!("+{line}")),
            Self::More(count) => format!(" {count} more lines"),
        }
    }
}

/// Returns the lines that differ between the common start and the common end of two texts.
fn text_changes<'a>(from: &'a str, to: &'a str) -> Vec<DiffLine<'a>> {
    let (from, to): (Vec<_>, Vec<_>) = (from.lines().collect(), to.lines().collect());
    let equal = |(one, other): &(&&str, &&str)| one == other;
    let start = from.iter().zip(&to).take_while(equal).count();
    let (from, to) = (from.get(start..).unwrap_or_default(), to.get(start..).unwrap_or_default());
    let end = from.iter().rev().zip(to.iter().rev()).take_while(equal).count();
    let until = |lines: &[&'a str]| lines.len().saturating_sub(end);
    let removed = from.iter().take(until(from)).copied().map(DiffLine::Removed);
    let added = to.iter().take(until(to)).copied().map(DiffLine::Added);
    let mut lines: Vec<_> = removed.chain(added).collect();
    let more = lines.len().saturating_sub(TEXT_LINES_MAX);
    if 0 < more {
        lines.truncate(TEXT_LINES_MAX);
        lines.push(DiffLine::More(more));
    }
    lines
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= VALUE_BYTES_MAX {
        return text;
    }
    let kept = text.get(..text.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
    format!("{kept}… ({} bytes)", text.len())
}

fn end(end: &ReconcileResult, indent: usize, paint: TextStyle, out: &mut PlanTextWriter) {
    match end {
        ReconcileResult::Answered { summary, requeue_ms, finished } => {
            let again = requeue_ms.map(|ms| format!("; requeued in {ms} ms"));
            let again = again.unwrap_or_default();
            let finished = if *finished { "; it has finished with the object" } else { "" };
            out.add(indent, format!("The plugin says: {summary}{again}{finished}"));
        }
        ReconcileResult::Failed(failure) => {
            let again = if failure.retry { "; a live reconcile would be retried" } else { "" };
            let text = format!("The plugin fails: {}: {}{again}", failure.reason, failure.message);
            out.add(indent, paint.red(&text));
        }
        ReconcileResult::Invalid { violations } => {
            out.add(indent, paint.red("The plugin refuses the spec:"));
            for violation in violations {
                let text = format!("{}: {}", violation.field, violation.message);
                out.add(indent + 2, paint.red(&text));
            }
        }
        ReconcileResult::Trapped { message } => out.add(indent, paint.red(message)),
        ReconcileResult::NotCalled { why } => {
            out.add(indent, format!("The plugin is not called: {why}"))
        }
    }
}

/// Collects the lines of the output.
struct PlanTextWriter(Vec<String>);

impl PlanTextWriter {
    fn add(&mut self, indent: usize, line: String) {
        self.0.push(format!("{}{line}", " ".repeat(indent * 2)).trim_end().to_owned());
    }

    fn text(self) -> String {
        self.0.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn format_steps(steps_json: Value, rest: Value) -> String {
        let mut document = json!({
            "version": 1, "mode": "plan", "revision": "0123456789abcdef",
            "object": {"plugin": "p", "kind": {"apiVersion": "a/v1", "kind": "K"},
                "namespace": "n", "name": "x"},
            "startedAtMs": 0, "tookMs": 3, "causes": ["plan"], "steps": steps_json,
            "end": {"answered": {"summary": "well", "requeueMs": 500}},
        });
        document.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        plan(&serde_json::from_value(document).unwrap(), TextStyle::Plain)
    }

    #[test]
    fn a_plan_shows_each_step() {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": "n", "name": "c"});
        let steps = json!([
            {"kind": "object", "by": "apply", "object": object, "change": "changed", "fields": [
                {"field": ".data.a", "from": "1\n2\n3", "to": "1\nx\n3"},
                {"field": ".data.b", "to": "2"},
                {"field": ".data.c", "from": 3}]},
            {"kind": "verb", "verb": "failover", "args": {"mode": "takeover", "pod": "p-0-1"},
                "commands": [{"pod": "p-0-1", "command": "CLUSTER FAILOVER TAKEOVER"}]},
            {"kind": "verb", "verb": "meet", "args": {"pod": "a", "with": "b"},
                "notDone": {"refused": {"guard": "foreign", "message": "one is known"}}},
            {"kind": "event", "eventType": "Normal", "reason": "R", "message": "m"},
        ]);
        let expected = "\
Plan for K n/x by p (revision 0123456789ab): one reconcile, nothing is written
! paused

1. change ConfigMap n/c
    ~ .data.a:
        -2
        +x
    + .data.b: \"2\"
    - .data.c: 3
2. failover mode takeover, pod p-0-1
    p-0-1> CLUSTER FAILOVER TAKEOVER
3. not done: meet pod a, with b
    refused by the guard `foreign`: one is known
4. publish an event, Normal R: m
The plugin says: well; requeued in 500 ms
";
        assert_eq!(format_steps(steps, json!({"remarks": ["paused"]})), expected);
        let none = format_steps(json!([]), json!({}));
        assert!(none.contains("\n\nNothing to do.\nThe plugin says: well;"), "{none}");
        let stops = format_steps(json!([]), json!({"stops": "the reply to `INCR a` on `p-0`"}));
        let last = "The plan stops here: what follows depends on the reply to `INCR a` on `p-0`.\n";
        assert!(stops.ends_with(last), "{stops}");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(TextStyle::Plain.red("x"), "x");
        assert_eq!(TextStyle::Ansi.red("x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_long_text_shows_what_changes_and_counts_the_rest() {
        let to: String = (0..100).map(|number| format!("{number}\n")).collect();
        let lines = text_changes("", &to);
        assert_eq!(lines.len(), TEXT_LINES_MAX + 1);
        assert_eq!(lines.last(), Some(&DiffLine::More(60)));
    }
}
