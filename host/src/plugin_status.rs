//! What the status of a `Plugin` object says: pure functions from a report and from how its objects are.

use serde_json::{Map, Value, json};
use tholepin_controller::PluginHealth;
use tholepin_core::{PAUSED, PluginName, RevisionDigest};
use tholepin_guest::{PluginReport, RejectReason, RevisionStage};
use tholepin_schema::manifest::KindName;

use crate::instance;

/// The condition, event and reason of a second host.
pub(crate) const ANOTHER_HOST: &str = "AnotherHost";
/// The reason of a status whose host was stopped.
const HOST_STOPPED: &str = "HostStopped";
/// The reason of a plugin that is called for none of its objects, because all are paused.
const ALL_PAUSED: &str = "AllPaused";

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
    /// How many there are; absent while that is not known.
    pub(crate) objects: Option<usize>,
    /// The kinds that the plugin reconciles, or did when it served last.
    pub(crate) kinds: Vec<KindName>,
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
    let is_bad = |it: &&Condition| {
        it.status == "False" || it.kind == ANOTHER_HOST || it.reason == ALL_PAUSED
    };
    // Of two hosts neither can do well.
    let hosts_clash = conditions.iter().find(|it| it.kind == ANOTHER_HOST);
    let unhealthy = hosts_clash.or_else(|| conditions.iter().find(is_bad));
    say("reason", reason.map(|it| it.to_string()).or(unhealthy.map(|it| it.reason.clone())));
    let told = (!message.is_empty()).then(|| message.clone());
    say("message", told.or(unhealthy.map(|it| it.message.clone())));
    let PluginHealth { quarantined, failing, .. } = seen.health;
    if let Some(objects) = seen.objects {
        status.insert("objects".to_owned(), json!(objects));
    }
    if !seen.kinds.is_empty() {
        status.insert("kinds".to_owned(), json!(seen.kinds));
    }
    status.insert("unhealthyObjects".to_owned(), json!(quarantined.saturating_add(failing)));
    let conditions = conditions.into_iter().map(|it| with_time(it, before, now_ms));
    status.insert("conditions".to_owned(), conditions.collect());
    status
}

/// The status of a plugin whose host stops: what it says of revisions stays true, and that they serve does not.
pub(crate) fn stopped_status(status: &Value, host: &str, now_ms: u64) -> Value {
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

/// Whether the host that wrote a status said that it stops.
pub(crate) fn reports_stop(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|it| it["type"] == "Serving" && it["reason"] == HOST_STOPPED)
}

/// The kinds that a plugin reconciled when this status was written.
pub(crate) fn kinds_of(status: &Value) -> Vec<KindName> {
    let kinds = status.get("kinds").cloned().unwrap_or_default();
    // What somebody else wrote there is nothing.
    serde_json::from_value(kinds).unwrap_or_default()
}

/// What is told of a `Plugin` object of which this host has no file, by the status that it has.
pub(crate) fn without_file(name: &PluginName, status: Option<&Value>) -> Option<PluginReport> {
    let host = status.and_then(|status| status.get("host")).and_then(Value::as_str);
    let mut report = PluginReport {
        name: name.clone(),
        stage: None,
        candidate: None,
        serving: None,
        reason: None,
        message: String::new(),
        object: None,
    };
    match (status, host) {
        (Some(status), Some(host)) if reports_stop(status) || instance::has_ended(host) => {
            report.stage = Some(RevisionStage::Unloaded);
        }
        // The host of another directory may well serve it.
        (_, Some(_)) => return None,
        (_, None) => {
            report.reason = Some(RejectReason::NoFile);
            report.message = format!(
                "no host has a file of it: a host makes this object from `{name}.yaml`, and no plugin from this \
                 object; put `{name}.wasm` and `{name}.yaml` into the directory of plugins, or delete the object"
            );
        }
    }
    Some(report)
}

/// Another host writes this status as well. Both reconcile the same objects, which no guard expects.
fn another_host(other: &str) -> Condition {
    let message = format!(
        "the host `{other}` writes this status as well: two hosts reconcile the same objects; stop one of them"
    );
    Condition { kind: ANOTHER_HOST, status: "True", reason: ANOTHER_HOST.to_owned(), message }
}

/// The host that wrote a status after this one had, if it is another; a status of an earlier process does not
/// count, because that has ended, nor does that of a host that says that it stops.
pub(crate) fn other_host<'a>(status: &'a Value, this: &str, has_written: bool) -> Option<&'a str> {
    let host = status.get("host").and_then(Value::as_str)?;
    (has_written && host != this && !reports_stop(status)).then_some(host)
}

/// Whether a status says already that several hosts write it.
pub(crate) fn reports_hosts(status: &Value) -> bool {
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
        (None, None) if *stage == Some(RevisionStage::Unloaded) => {
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
    let ObjectsSeen { health, missing_kinds, .. } = seen;
    let PluginHealth { objects, quarantined, failing, paused } = *health;
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
    let of_all = counted(objects, "object");
    let (status, reason, message) = match (&report.serving, quarantined, failing) {
        (None, ..) => ("Unknown", "NotServing", "no revision is called for its objects".to_owned()),
        (Some(_), 0, 0) if objects != 0 && objects <= paused => (
            "Unknown",
            ALL_PAUSED,
            format!(
                "of {of_all} all are paused by `{PAUSED}`, so that the plugin is called for none: whether it \
                 does well is not known"
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

/// `1 object`, `2 objects`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
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
mod tests;
