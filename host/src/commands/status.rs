//! `tholepin status`: prints the status of the running host on one screen.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tholepin_admin::AdminClient;
use tholepin_controller::{
    DEGRADED, HostStatusMember, HostStatusReport, PluginStatus, ReconciledObjectStatus,
};
use tokio::time::sleep;

use super::{print, table::table, text_style::TextStyle};
use crate::{
    admin_routes::STATUS_ROUTE,
    cli::{OutputFormat, StatusArgs},
    exit,
    user_files::admin_file,
};

/// How long the host may take: it reads every member.
const DEADLINE: Duration = Duration::from_secs(30);
/// The pause between two requests with --watch.
const PAUSE: Duration = Duration::from_secs(2);
/// Clears a terminal and moves the cursor to its start.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Prints the status, once or until Ctrl-C.
///
/// # Errors
///
/// Fails if the host does not answer, or the object does not exist.
pub(super) async fn run(arguments: StatusArgs) -> Result<u8> {
    let StatusArgs { object, namespace, output, watch, admin } = arguments;
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let mut parameters = Vec::new();
    if let Some(object) = &object {
        parameters.extend([("kind", object.kind.as_str()), ("name", object.name.as_str())]);
    }
    parameters.extend(namespace.as_deref().map(|namespace| ("namespace", namespace)));
    loop {
        let answer = client.get(STATUS_ROUTE, &parameters, DEADLINE).await?;
        let text = match output {
            OutputFormat::Json => format!("{answer:#}\n"),
            OutputFormat::Text => {
                let status = serde_json::from_value(answer);
                let status: HostStatusReport =
                    status.context("the host's answer is no status; is it older?")?;
                format_status(&status, object.is_some(), TextStyle::of_stdout())
            }
        };
        let clear = if watch && stdout().is_terminal() { CLEAR } else { "" };
        print(&format!("{clear}{text}"))?;
        if !watch {
            return Ok(exit::DONE);
        }
        sleep(PAUSE).await;
    }
}

/// Formats the whole screen; with `all` every condition of the objects.
fn format_status(status: &HostStatusReport, all: bool, paint: TextStyle) -> String {
    let HostStatusReport { plugins, objects, left_out } = status;
    let mut text = String::new();
    if !all {
        text.push_str(&format_plugins(plugins, paint));
    }
    for object in objects {
        text.push_str(&format_object(object, all, paint));
    }
    if objects.is_empty() {
        text.push_str("There are no objects of the kinds that these plugins reconcile.\n");
    }
    if *left_out != 0 {
        text.push_str(&format!("{left_out} more objects are left out; name one as KIND/NAME.\n"));
    }
    text
}

fn format_plugins(plugins: &[PluginStatus], paint: TextStyle) -> String {
    let head = ["PLUGIN", "SERVING", "VERSION", "SINCE", "OBJECTS", "UNHEALTHY", "STATE"];
    let mut rows = vec![head.map(str::to_owned)];
    for PluginStatus { name, status } in plugins {
        let text = |field: &str| match status.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "-".to_owned(),
        };
        let state = match text("reason") {
            reason if reason == "-" => paint.green("healthy"),
            reason => paint.red(&format!("{reason}: {}", text("message"))),
        };
        let cells = ["revision", "version", "activatedAt", "objects", "unhealthyObjects"].map(text);
        let [revision, version, since, objects, unhealthy] = cells;
        rows.push([name.clone(), revision, version, since, objects, unhealthy, state]);
    }
    if plugins.is_empty() {
        return "No plugin is loaded.\n\n".to_owned();
    }
    format!("{}\n", table(&rows))
}

fn format_object(object: &ReconciledObjectStatus, all: bool, paint: TextStyle) -> String {
    let name = &object.object;
    let title = match name.namespace.as_str() {
        "" => format!("{} {}", name.kind.kind, name.name),
        namespace => format!("{} {namespace}/{}", name.kind.kind, name.name),
    };
    let mut text = format!("{}  {}\n", paint.bold(&title), format_state(object, paint));
    if !object.is_served {
        let warning = format!("not reconciled: the plugin `{}` is not loaded", object.plugin);
        text.push_str(&format!("  {}\n", paint.red(&warning)));
    }
    if all {
        for condition in &object.conditions {
            let field = |name: &str| condition[name].as_str().unwrap_or_default();
            text.push_str(&format!(
                "  {}={} {}: {}\n",
                field("type"),
                field("status"),
                field("reason"),
                field("message")
            ));
        }
    }
    for (group, members) in &object.members {
        text.push_str(&format_members(group, members, paint));
    }
    if let Some(why) = object.unasked.as_ref().filter(|_| object.is_served) {
        text.push_str(&format!("  {}\n", paint.yellow(&format!("members not read: {why}"))));
    }
    text.push('\n');
    text
}

/// Formats the state of an object in one line.
fn format_state(object: &ReconciledObjectStatus, paint: TextStyle) -> String {
    let mut parts = Vec::new();
    if object.is_deleting {
        parts.push(paint.yellow("being deleted"));
    }
    if object.is_paused {
        parts.push(paint.yellow("paused: its status may be outdated"));
    }
    let mut messages = Vec::new();
    for kind in ["Ready", "Reconciled", "Quarantined", DEGRADED] {
        let Some([status, reason, message]) = object.condition(kind) else { continue };
        let is_good = [DEGRADED, "Quarantined"].contains(&kind) != (status == "True");
        // A message that an earlier condition has is not repeated.
        if messages.contains(&message) || is_good && kind == DEGRADED {
            continue;
        }
        messages.push(message);
        let text = format!("{kind}={status} {reason}: {message}");
        parts.push(match (is_good, status) {
            (true, _) => paint.green(&text),
            (false, "Unknown") => paint.yellow(&text),
            (false, _) => paint.red(&text),
        });
    }
    if parts.is_empty() {
        parts.push(match object.conditions.as_slice() {
            [] => paint.yellow("no conditions"),
            conditions => conditions.iter().map(format_condition).collect::<Vec<_>>().join(", "),
        });
    }
    parts.join("; ")
}

/// Formats a condition as one short text, for an object that has none of the conditions above.
fn format_condition(condition: &Value) -> String {
    let field = |name: &str| condition[name].as_str().unwrap_or_default();
    format!("{}={} {}", field("type"), field("status"), field("reason")).trim_end().to_owned()
}

fn format_members(group: &str, members: &[HostStatusMember], paint: TextStyle) -> String {
    let head = ["POD", "ADDRESS", "NODE", "ROLE", "OF", "SLOTS", "KEYS", "LINK", "BEHIND", "STATE"];
    let mut rows = vec![head.map(str::to_owned)];
    let dash = || "-".to_owned();
    for member in members {
        let state = match &member.fault {
            None => paint.green("ok"),
            Some(fault) => paint.red(fault),
        };
        rows.push([
            member.pod.clone(),
            member.address.clone().unwrap_or_else(dash),
            member.node.as_deref().map_or_else(dash, |node| node.chars().take(8).collect()),
            member.role.clone().unwrap_or_else(dash),
            member.follows.clone().unwrap_or_else(dash),
            member.slots.clone().unwrap_or_else(dash),
            member.keys.map_or_else(dash, |keys| keys.to_string()),
            member.link.clone().unwrap_or_else(dash),
            member.behind_bytes.map_or_else(dash, |bytes| format!("{bytes} B")),
            state,
        ]);
    }
    let table = table(&rows);
    let lines = table.lines().map(|line| format!("    {line}\n"));
    format!("  {group}: {}\n{}", counts(members), lines.collect::<String>())
}

/// Formats the number of members of each role.
fn counts(members: &[HostStatusMember]) -> String {
    let of =
        |role: &str| members.iter().filter(|member| member.role.as_deref() == Some(role)).count();
    let silent = members.iter().filter(|member| member.role.is_none()).count();
    let mut parts =
        vec![format!("{} primaries", of("primary")), format!("{} replicas", of("replica"))];
    if silent != 0 {
        parts.push(format!("{silent} without an answer"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> HostStatusReport {
        let member = |pod: &str, role: Option<&str>, fault: Option<&str>| HostStatusMember {
            pod: pod.to_owned(),
            role: role.map(str::to_owned),
            fault: fault.map(str::to_owned),
            ..HostStatusMember::default()
        };
        let object: ReconciledObjectStatus = serde_json::from_value(json!({
            "object": {"apiVersion": "a/v1", "kind": "Thing", "namespace": "n", "name": "x"},
            "plugin": "p", "isServed": true, "isPaused": true, "isDeleting": false,
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "Bad", "message": "why"},
                {"type": "Reconciled", "status": "False", "reason": "Bad", "message": "why"},
                {"type": "Degraded", "status": "True", "reason": "Broken", "message": "so"},
            ],
            "members": {"servers": [
                member("a", Some("primary"), None), member("b", None, Some("does not answer")),
            ]},
        }))
        .unwrap();
        let plugin = PluginStatus {
            name: "p".to_owned(),
            status: json!({"revision": "abc", "objects": 1, "reason": "TakenBack", "message": "it trapped"}),
        };
        HostStatusReport { plugins: vec![plugin], objects: vec![object], left_out: 2 }
    }

    #[test]
    fn one_screen_shows_what_is_unhealthy() {
        let text = format_status(&status(), false, TextStyle::Plain);
        for expected in [
            "TakenBack: it trapped",
            "Thing n/x  paused: its status may be outdated; Ready=False Bad: why; Degraded=True Broken: so\n",
            "servers: 1 primaries, 0 replicas, 1 without an answer",
            "does not answer",
            "2 more objects are left out",
        ] {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
        let one = format_status(&status(), true, TextStyle::Plain);
        assert!(!one.contains("PLUGIN") && one.contains("  Ready=False Bad: why"), "{one}");
    }

    #[test]
    fn an_object_is_healthy_if_its_plugin_conditions_and_members_are() {
        let mut object = status().objects.remove(0);
        assert!(!object.is_healthy());
        object.is_paused = false;
        object.conditions = vec![json!({"type": "Ready", "status": "True"})];
        assert!(!object.is_healthy(), "a member does not answer");
        object.members.clear();
        assert!(object.is_healthy());
        object.is_served = false;
        assert!(!object.is_healthy());
    }
}
