//! What the status of a `Plugin` object says: pure functions from a report and from how its objects are.

use serde_json::{Map, Value, json};
use tholepin_controller::PluginHealth;
use tholepin_core::RevisionDigest;
use tholepin_guest::{PluginReport, Stage};

/// The condition, event and reason of a second host.
pub(crate) const ANOTHER_HOST: &str = "AnotherHost";

/// A condition without its time.
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// How the objects of a plugin are, and which of its kinds the API server does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectsSeen {
    pub(crate) health: PluginHealth,
    pub(crate) missing_kinds: Vec<String>,
}

/// What is known of hosts: this one, and another that wrote the status since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hosts<'a> {
    pub(crate) this: &'a str,
    pub(crate) other: Option<&'a str>,
}

/// The status of a plugin. `before` is the one that it replaces: a condition whose status stays keeps its
/// time.
pub(crate) fn plugin_status(
    report: &PluginReport,
    seen: &ObjectsSeen,
    hosts: Hosts<'_>,
    before: &Value,
    now_ms: u64,
) -> Map<String, Value> {
    let PluginReport { name: _, stage, candidate, serving, reason, message, object: _ } = report;
    let mut status = Map::new();
    let mut say = |field: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            status.insert(field.to_owned(), Value::String(text));
        }
    };
    let active = report.active();
    let candidate = candidate.as_ref().filter(|candidate| Some(*candidate) != active);
    say("stage", stage.map(|stage| stage.to_string()));
    say("active", active.map(ToString::to_string));
    say("revision", active.map(|active| active.short().to_owned()));
    say("candidate", candidate.map(ToString::to_string));
    say("candidateRevision", candidate.map(|candidate| candidate.short().to_owned()));
    say("version", serving.as_ref().map(|serving| serving.version.clone()));
    say("component", serving.as_ref().map(|serving| serving.component.clone()));
    say("activatedAt", serving.as_ref().and_then(|serving| time(serving.since_ms)));
    let previous = serving.as_ref().and_then(|serving| serving.previous.as_ref());
    say("previous", previous.map(ToString::to_string));
    say("host", Some(hosts.this.to_owned()));
    let conditions: Vec<Condition> = [serves(report), is_healthy(report, seen)]
        .into_iter()
        .chain(hosts.other.map(another_host))
        .collect();
    let is_bad = |it: &&Condition| it.status == "False" || it.kind == ANOTHER_HOST;
    let unhealthy = conditions.iter().find(is_bad);
    say("reason", reason.map(|it| it.to_string()).or(unhealthy.map(|it| it.reason.clone())));
    let told = (!message.is_empty()).then(|| message.clone());
    say("message", told.or(unhealthy.map(|it| it.message.clone())));
    let PluginHealth { objects, quarantined, failing } = seen.health;
    status.insert("objects".to_owned(), json!(objects));
    status.insert("unhealthyObjects".to_owned(), json!(quarantined.saturating_add(failing)));
    let conditions = conditions.into_iter().map(|it| with_time(it, before, now_ms));
    status.insert("conditions".to_owned(), conditions.collect());
    status
}

/// Another host writes this status as well. Both reconcile the same objects, which no guard expects.
fn another_host(other: &str) -> Condition {
    let message = format!(
        "the host `{other}` writes this status as well: two hosts reconcile the same objects; stop one of them"
    );
    Condition { kind: ANOTHER_HOST, status: "True", reason: ANOTHER_HOST.to_owned(), message }
}

/// The host that wrote a status after this one had, if it is another; a status of an earlier process does not
/// count, because that has ended.
pub(crate) fn other_host<'a>(status: &'a Value, this: &str, has_written: bool) -> Option<&'a str> {
    let host = status.get("host").and_then(Value::as_str)?;
    (has_written && host != this).then_some(host)
}

/// Whether a status says already that several hosts write it.
pub(crate) fn tells_of_hosts(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|it| it["type"] == ANOTHER_HOST && it["status"] == "True")
}

/// Whether a revision serves, and whether it is the file's.
fn serves(report: &PluginReport) -> Condition {
    let PluginReport { stage, serving, reason, message, .. } = report;
    let (status, reason, message) = match (serving, reason) {
        (Some(serving), None) => {
            ("True", "Active".to_owned(), format!("version {} serves", serving.version))
        }
        (Some(_), Some(_)) => ("True", "EarlierRevision".to_owned(), message.clone()),
        (None, Some(reason)) => ("False", reason.to_string(), message.clone()),
        (None, None) if *stage == Some(Stage::Unloaded) => {
            let text = "its files are gone from the directory of plugins: nothing is reconciled until they \
                        are put back";
            ("False", "Unloaded".to_owned(), text.to_owned())
        }
        (None, None) => ("False", "Loading".to_owned(), "it is being loaded".to_owned()),
    };
    Condition { kind: "Serving", status, reason, message }
}

/// Whether all objects of a plugin are well, as far as the plugin is concerned.
fn is_healthy(report: &PluginReport, seen: &ObjectsSeen) -> Condition {
    let ObjectsSeen { health: PluginHealth { objects, quarantined, failing }, missing_kinds } =
        seen;
    let (objects, quarantined, failing) = (*objects, *quarantined, *failing);
    if let (Some(_), false) = (&report.serving, missing_kinds.is_empty()) {
        let message = format!(
            "the API server does not know {}, so that there can be no such objects; install the definitions: \
             `tholepin plugin inspect --crds {}.wasm | kubectl apply --server-side -f -`",
            missing_kinds.join(", "),
            report.name
        );
        let reason = "KindMissing".to_owned();
        return Condition { kind: "Healthy", status: "False", reason, message };
    }
    let (status, reason, message) = match (&report.serving, quarantined, failing) {
        (None, ..) => ("Unknown", "NotServing", "no revision is called for its objects".to_owned()),
        (Some(_), 0, 0) => ("True", "AllWell", format!("it reconciles {objects} objects")),
        (Some(_), 0, failing) => (
            "False",
            "ObjectsFailing",
            format!(
                "the last call failed for {failing} of {objects} objects, or their spec is refused; the \
                 condition `Reconciled` of each says why"
            ),
        ),
        (Some(_), quarantined, failing) => (
            "False",
            "ObjectsQuarantined",
            format!(
                "it went wrong twice in a row for {quarantined} of {objects} objects and is not called for \
                 them, and {failing} more fail; the condition `Quarantined` of each says why"
            ),
        ),
    };
    Condition { kind: "Healthy", status, reason: reason.to_owned(), message }
}

fn with_time(condition: Condition, before: &Value, now_ms: u64) -> Value {
    let Condition { kind, status, reason, message } = condition;
    let known = before.pointer("/conditions").and_then(Value::as_array);
    let same = known.into_iter().flatten().find(|it| it["type"] == kind && it["status"] == status);
    let kept = same.and_then(|it| it["lastTransitionTime"].as_str()).map(str::to_owned);
    json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": kept.or_else(|| time(now_ms))})
}

/// A time as the API writes it.
fn time(at_ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// What happened to a plugin since the last report about it, as the event that tells it; none if that is no
/// news.
pub(crate) fn event(
    before: Option<&PluginReport>,
    report: &PluginReport,
) -> Option<(bool, String, String)> {
    let was = before.and_then(PluginReport::active);
    let told =
        before.is_some_and(|it| (it.reason, &it.message) == (report.reason, &report.message));
    match (report.active(), report.reason) {
        (_, Some(reason)) if !told => Some((true, reason.to_string(), report.message.clone())),
        (_, Some(_)) => None,
        (Some(now), None) if Some(now) == was && before.is_some_and(|it| it.reason.is_none()) => {
            None
        }
        (Some(now), None) => {
            let version = report.serving.as_ref().map(|it| it.version.as_str()).unwrap_or_default();
            let instead = was.filter(|was| *was != now).map(RevisionDigest::short);
            let instead = instead.map(|was| format!(" in place of {was}")).unwrap_or_default();
            let text = format!("the revision {} (version {version}) serves{instead}", now.short());
            Some((false, "Activated".to_owned(), text))
        }
        (None, None) if was.is_some() => {
            let Condition { reason, message, .. } = serves(report);
            Some((true, reason, message))
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use tholepin_guest::{RejectReason, ServingRevision};

    use super::*;

    fn seen(health: PluginHealth) -> ObjectsSeen {
        ObjectsSeen { health, missing_kinds: Vec::new() }
    }

    const ALONE: Hosts<'_> = Hosts { this: "h", other: None };

    #[test]
    fn a_second_host_is_told_of_and_an_earlier_process_is_none() {
        let well = PluginHealth { objects: 1, quarantined: 0, failing: 0 };
        let theirs = json!({"host": "other"});
        assert_eq!(other_host(&theirs, "h", false), None, "it was there when this one started");
        assert_eq!(other_host(&json!({"host": "h"}), "h", true), None);
        let other = other_host(&theirs, "h", true);
        let hosts = Hosts { this: "h", other };
        let told = plugin_status(&report(Some("c"), None), &seen(well), hosts, &theirs, 1_000);
        assert!(tells_of_hosts(&told.into()) && !tells_of_hosts(&theirs));
    }

    fn digest(name: &str) -> RevisionDigest {
        RevisionDigest(name.repeat(64))
    }

    fn report(serving: Option<&str>, reason: Option<RejectReason>) -> PluginReport {
        PluginReport {
            name: "p".parse().unwrap(),
            stage: Some(Stage::Active),
            candidate: Some(digest("c")),
            serving: serving.map(|name| ServingRevision {
                revision: digest(name),
                component: "f".repeat(64),
                version: "1.2".to_owned(),
                since_ms: 0,
                previous: None,
            }),
            reason,
            message: reason.map(|_| "why".to_owned()).unwrap_or_default(),
            object: None,
        }
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_the_reason() {
        let well = PluginHealth { objects: 3, quarantined: 0, failing: 0 };
        let failing = PluginHealth { failing: 1, ..well };
        let quarantined = PluginHealth { quarantined: 2, ..failing };
        let refused = Some(RejectReason::TakenBack);
        // serving, refused, health, Serving, Healthy, reason, unhealthy objects
        let rows = [
            (Some("c"), None, well, "True Active", "True AllWell", None, 0),
            (
                Some("c"),
                None,
                failing,
                "True Active",
                "False ObjectsFailing",
                Some("ObjectsFailing"),
                1,
            ),
            (
                Some("c"),
                None,
                quarantined,
                "True Active",
                "False ObjectsQuarantined",
                Some("ObjectsQuarantined"),
                3,
            ),
            (
                Some("b"),
                refused,
                failing,
                "True EarlierRevision",
                "False ObjectsFailing",
                Some("TakenBack"),
                1,
            ),
            (None, refused, well, "False TakenBack", "Unknown NotServing", Some("TakenBack"), 0),
            (None, None, well, "False Loading", "Unknown NotServing", Some("Loading"), 0),
        ];
        for (serving, refused, health, serves, healthy, reason, unhealthy) in rows {
            let report = report(serving, refused);
            let status = plugin_status(&report, &seen(health), ALONE, &Value::Null, 5_000);
            let text = |index: usize| {
                let condition = &status["conditions"][index];
                let text = |field: &str| condition[field].as_str().unwrap().to_owned();
                format!("{} {}", text("status"), text("reason"))
            };
            assert_eq!((text(0).as_str(), text(1).as_str()), (serves, healthy));
            assert_eq!(status.get("reason").and_then(Value::as_str), reason, "{serves} {healthy}");
            assert_eq!(status["unhealthyObjects"], unhealthy);
            assert_eq!(status.contains_key("candidate"), serving != Some("c"));
        }
    }

    #[test]
    fn a_kind_that_is_not_installed_is_told_with_the_command() {
        let missing =
            ObjectsSeen { missing_kinds: vec!["a/v1/K".to_owned()], ..ObjectsSeen::default() };
        let status = plugin_status(&report(Some("c"), None), &missing, ALONE, &Value::Null, 0);
        assert_eq!(status["reason"], "KindMissing");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("a/v1/K") && message.contains("--crds p.wasm"), "{message}");
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let well = PluginHealth { objects: 1, quarantined: 0, failing: 0 };
        let first =
            plugin_status(&report(Some("c"), None), &seen(well), ALONE, &Value::Null, 1_000);
        let first = Value::Object(first);
        let failing = PluginHealth { failing: 1, ..well };
        let then = plugin_status(&report(Some("c"), None), &seen(failing), ALONE, &first, 9_000);
        let at = |status: &Value, index: usize| {
            status["conditions"][index]["lastTransitionTime"].clone()
        };
        let then = Value::Object(then);
        assert_eq!((at(&then, 0), at(&first, 1)), (at(&first, 0), json!("1970-01-01T00:00:01Z")));
        assert_eq!(at(&then, 1), "1970-01-01T00:00:09Z");
    }

    #[test]
    fn what_is_news_is_told_once() {
        let refused = Some(RejectReason::TakenBack);
        // before, now, the event's reason
        let rows = [
            (None, report(Some("c"), None), Some("Activated")),
            (Some(report(Some("c"), None)), report(Some("c"), None), None),
            (Some(report(Some("c"), None)), report(Some("d"), None), Some("Activated")),
            (Some(report(Some("c"), None)), report(Some("b"), refused), Some("TakenBack")),
            (Some(report(Some("b"), refused)), report(Some("b"), refused), None),
            (Some(report(Some("b"), refused)), report(Some("b"), None), Some("Activated")),
            (Some(report(Some("b"), None)), report(None, None), Some("Loading")),
            (None, report(None, None), None),
        ];
        for (before, now, expected) in rows {
            let told = event(before.as_ref(), &now).map(|(_, reason, _)| reason);
            assert_eq!(told.as_deref(), expected, "{before:?} {now:?}");
        }
    }
}
