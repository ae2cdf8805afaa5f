//! Builds the status of a `Plugin` object from a report of the registry and from the health of its objects. Pure, but
//! for [`host_name::has_ended`].

use serde_json::{Map, Value, json};
use tholepin_core::{
    EventType, PAUSED, PluginName, RevisionDigest,
    plugin_report::{PluginRejectReason, PluginStageReport, RevisionLoadStage},
};
use tholepin_schema::manifest::KindName;

use crate::{controller::ObjectHealthCounts, host_name};

/// The condition, event and reason for a second host.
pub(super) const ANOTHER_HOST: &str = "AnotherHost";
/// The reason of a status whose host was stopped.
const HOST_STOPPED: &str = "HostStopped";
/// The reason of a plugin that is called for none of its objects, because all are paused.
const ALL_PAUSED: &str = "AllPaused";

/// A condition without its transition time.
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// The objects of a plugin, by health, and its kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PluginObjectsSummary {
    pub(super) health: ObjectHealthCounts,
    /// How many objects exist; absent while that is not known.
    pub(super) objects: Option<usize>,
    /// The kinds that the plugin reconciles, or did when it was active last.
    pub(super) kinds: Vec<KindName>,
    /// The kinds among them that the API server does not serve.
    pub(super) missing_kinds: Vec<String>,
}

/// The hosts that write the status: this one, and another that wrote it since.
#[derive(Clone, Copy, Debug)]
pub(super) struct PluginStatusWriterHosts<'a> {
    pub(super) this: &'a str,
    pub(super) other: Option<&'a str>,
}

/// Returns the status of a plugin. `before` is the status that it replaces: a condition whose `status` does not change
/// keeps its transition time.
pub(super) fn plugin_status(
    report: &PluginStageReport,
    counts: &PluginObjectsSummary,
    hosts: PluginStatusWriterHosts<'_>,
    before: &Value,
    now_ms: u64,
) -> Map<String, Value> {
    let PluginStageReport { name: _, stage, candidate, serving, reason, message, object: _ } =
        report;
    let mut status = Map::new();
    let mut set = |field: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            status.insert(field.to_owned(), Value::String(text));
        }
    };
    let active = report.active();
    let candidate = candidate.as_ref().filter(|candidate| Some(*candidate) != active);
    set("stage", stage.map(|stage| stage.to_string()));
    set("active", active.map(ToString::to_string));
    set("revision", active.map(|active| active.short().to_owned()));
    set("candidate", candidate.map(ToString::to_string));
    set("candidateRevision", candidate.map(|candidate| candidate.short().to_owned()));
    set("version", serving.as_ref().map(|serving| serving.version.clone()));
    set("component", serving.as_ref().map(|serving| serving.component.clone()));
    set("activatedAt", serving.as_ref().and_then(|serving| time(serving.since_ms)));
    let previous = serving.as_ref().and_then(|serving| serving.previous.as_ref());
    set("previous", previous.map(ToString::to_string));
    set("host", Some(hosts.this.to_owned()));
    let conditions: Vec<Condition> = [serves(report), is_healthy(report, counts)]
        .into_iter()
        .chain(hosts.other.map(another_host))
        .collect();
    let is_bad = |condition: &&Condition| {
        condition.status == "False"
            || condition.kind == ANOTHER_HOST
            || condition.reason == ALL_PAUSED
    };
    // A second host is named first: while two hosts reconcile the same objects, no other condition is reliable.
    let second_host = conditions.iter().find(|condition| condition.kind == ANOTHER_HOST);
    let bad = second_host.or_else(|| conditions.iter().find(is_bad));
    let own_reason = reason.map(|reason| reason.to_string());
    set("reason", own_reason.or(bad.map(|condition| condition.reason.clone())));
    let own_message = (!message.is_empty()).then(|| message.clone());
    set("message", own_message.or(bad.map(|condition| condition.message.clone())));
    let ObjectHealthCounts { quarantined, failing, .. } = counts.health;
    if let Some(objects) = counts.objects {
        status.insert("objects".to_owned(), json!(objects));
    }
    if !counts.kinds.is_empty() {
        status.insert("kinds".to_owned(), json!(counts.kinds));
    }
    status.insert("unhealthyObjects".to_owned(), json!(quarantined.saturating_add(failing)));
    let conditions = conditions.into_iter().map(|condition| with_time(condition, before, now_ms));
    status.insert("conditions".to_owned(), conditions.collect());
    status
}

/// Returns the status of a plugin whose host stops. The fields about revisions stay; the conditions become `Unknown`.
pub(super) fn stopped_status(status: &Value, host: &str, now_ms: u64) -> Value {
    let message = format!(
        "the host `{host}` was stopped: nothing is reconciled until one runs again (`tholepin run`)"
    );
    let mut stopped = status.clone();
    let condition = |kind| {
        let (reason, message) = (HOST_STOPPED.to_owned(), message.clone());
        with_time(Condition { kind, status: "Unknown", reason, message }, status, now_ms)
    };
    if let Some(fields) = stopped.as_object_mut() {
        fields.insert("reason".to_owned(), json!(HOST_STOPPED));
        fields.insert("message".to_owned(), json!(message));
        fields.insert("conditions".to_owned(), json!([condition("Serving"), condition("Healthy")]));
    }
    stopped
}

/// Returns true if the host that wrote a status wrote there that it stops.
pub(super) fn reports_stop(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Serving" && condition["reason"] == HOST_STOPPED)
}

/// Returns the kinds that a plugin reconciled when this status was written.
pub(super) fn kinds_of(status: &Value) -> Vec<KindName> {
    let kinds = status.get("kinds").cloned().unwrap_or_default();
    // A field that another writer changed to something else counts as empty.
    serde_json::from_value(kinds).unwrap_or_default()
}

/// Returns the report of a `Plugin` object of which this host has no file, judged by its status; `None` if another host
/// may have the file.
pub(super) fn without_file(name: &PluginName, status: Option<&Value>) -> Option<PluginStageReport> {
    let host = status.and_then(|status| status.get("host")).and_then(Value::as_str);
    let mut report = PluginStageReport {
        name: name.clone(),
        stage: None,
        candidate: None,
        serving: None,
        reason: None,
        message: String::new(),
        object: None,
    };
    match (status, host) {
        (Some(status), Some(host)) if reports_stop(status) || host_name::has_ended(host) => {
            report.stage = Some(RevisionLoadStage::Unloaded);
        }
        // A host with another directory of plugins may have it.
        (_, Some(_)) => return None,
        (_, None) => {
            report.reason = Some(PluginRejectReason::NoFile);
            report.message = format!(
                "no host has a file of it: a host makes this object from `{name}.yaml`, and never a plugin from this \
                 object; put `{name}.wasm` and `{name}.yaml` into the directory of plugins, or delete the object"
            );
        }
    }
    Some(report)
}

/// Returns the condition for a second host. Both hosts reconcile the same objects, and no guard checks for that.
fn another_host(other: &str) -> Condition {
    let message = format!(
        "the host `{other}` writes this status as well: two hosts reconcile the same objects; stop one of them"
    );
    Condition { kind: ANOTHER_HOST, status: "True", reason: ANOTHER_HOST.to_owned(), message }
}

/// Returns the other host that wrote a status after this one had written it. A status from before this process
/// (`has_written` is false) does not count, because that process has ended; nor does one of a host that stops.
pub(super) fn other_host<'a>(status: &'a Value, this: &str, has_written: bool) -> Option<&'a str> {
    let host = status.get("host").and_then(Value::as_str)?;
    (has_written && host != this && !reports_stop(status)).then_some(host)
}

/// Returns true if a status has the condition for a second host.
pub(super) fn reports_hosts(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == ANOTHER_HOST && condition["status"] == "True")
}

/// Returns the condition `Serving`: whether a revision is active, and whether it is that of the files.
fn serves(report: &PluginStageReport) -> Condition {
    let PluginStageReport { stage, serving, reason, message, .. } = report;
    let (status, reason, message) = match (serving, reason) {
        (Some(serving), None) => {
            ("True", "Active".to_owned(), format!("version {} serves", serving.version))
        }
        (Some(_), Some(_)) => ("True", "EarlierRevision".to_owned(), message.clone()),
        (None, Some(reason)) => ("False", reason.to_string(), message.clone()),
        (None, None) if *stage == Some(RevisionLoadStage::Unloaded) => {
            let text = "its files are gone from the directory of plugins: nothing is reconciled until they \
                        are put back";
            ("False", "Unloaded".to_owned(), text.to_owned())
        }
        (None, None) => ("False", "Loading".to_owned(), "it is being loaded".to_owned()),
    };
    Condition { kind: "Serving", status, reason, message }
}

/// Returns the condition `Healthy`: whether the plugin fails for none of its objects.
fn is_healthy(report: &PluginStageReport, counts: &PluginObjectsSummary) -> Condition {
    let PluginObjectsSummary { health, missing_kinds, .. } = counts;
    let ObjectHealthCounts { objects, quarantined, failing, paused } = *health;
    if let (Some(_), false) = (&report.serving, missing_kinds.is_empty()) {
        let message = format!(
            "the API server does not know {}, so no such objects can exist; install the definitions: \
             `tholepin plugin inspect --crds {}.wasm | kubectl apply --server-side -f -`",
            missing_kinds.join(", "),
            report.name
        );
        let reason = "KindMissing".to_owned();
        return Condition { kind: "Healthy", status: "False", reason, message };
    }
    let of_all = counted(objects, "object");
    let (status, reason, message) = match (&report.serving, quarantined, failing) {
        (None, ..) => ("Unknown", "NotServing", "no revision is called for its objects".to_owned()),
        (Some(_), 0, 0) if objects != 0 && objects <= paused => (
            "Unknown",
            ALL_PAUSED,
            format!(
                "of {of_all} all are paused by `{PAUSED}`, so that the plugin is called for none: whether it \
                 is healthy is not known"
            ),
        ),
        (Some(_), 0, 0) => {
            let of_which =
                if paused == 0 { String::new() } else { format!(", {paused} of them paused") };
            ("True", "AllWell", format!("it reconciles {of_all}{of_which}"))
        }
        (Some(_), 0, failing) => (
            "False",
            "ObjectsFailing",
            format!(
                "the last call failed for {failing} of {of_all}, or their spec is refused; the condition \
                 `Reconciled` of each says why"
            ),
        ),
        (Some(_), quarantined, failing) => {
            let more = match failing {
                0 => String::new(),
                1 => ", and 1 more fails".to_owned(),
                failing => format!(", and {failing} more fail"),
            };
            let message = format!(
                "it went wrong twice in a row for {quarantined} of {of_all} and is not called for them{more}; \
                 the condition `Quarantined` of each says why"
            );
            ("False", "ObjectsQuarantined", message)
        }
    };
    Condition { kind: "Healthy", status, reason: reason.to_owned(), message }
}

/// Formats a count: `1 object`, `2 objects`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn with_time(condition: Condition, before: &Value, now_ms: u64) -> Value {
    let Condition { kind, status, reason, message } = condition;
    let known = before.pointer("/conditions").and_then(Value::as_array);
    let is_same = |known: &&Value| known["type"] == kind && known["status"] == status;
    let same = known.into_iter().flatten().find(is_same);
    let kept = same.and_then(|same| same["lastTransitionTime"].as_str()).map(str::to_owned);
    json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": kept.or_else(|| time(now_ms))})
}

/// Formats a time as RFC 3339.
fn time(at_ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// An event about a `Plugin` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventAboutPluginObject {
    pub(super) event_type: EventType,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Returns the event for a report, unless the report differs from the one before in nothing that people need to know.
pub(super) fn event(
    before: Option<&PluginStageReport>,
    report: &PluginStageReport,
) -> Option<EventAboutPluginObject> {
    let warning = |reason, message| {
        Some(EventAboutPluginObject { event_type: EventType::Warning, reason, message })
    };
    let was = before.and_then(PluginStageReport::active);
    let is_known = before
        .is_some_and(|before| (before.reason, &before.message) == (report.reason, &report.message));
    match (report.active(), report.reason) {
        (_, Some(reason)) if !is_known => warning(reason.to_string(), report.message.clone()),
        (_, Some(_)) => None,
        (Some(now), None)
            if Some(now) == was && before.is_some_and(|before| before.reason.is_none()) =>
        {
            None
        }
        (Some(now), None) => {
            let serving = report.serving.as_ref();
            let version = serving.map(|serving| serving.version.as_str()).unwrap_or_default();
            let instead = was.filter(|was| *was != now).map(RevisionDigest::short);
            let instead = instead.map(|was| format!(" in place of {was}")).unwrap_or_default();
            let text = format!("the revision {} (version {version}) serves{instead}", now.short());
            let (event_type, reason) = (EventType::Normal, "Activated".to_owned());
            Some(EventAboutPluginObject { event_type, reason, message: text })
        }
        (None, None) if was.is_some() => {
            let Condition { reason, message, .. } = serves(report);
            warning(reason, message)
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests;
