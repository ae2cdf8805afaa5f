//! `tholepin plugin list`: prints the `Plugin` objects as a table, and whether the hosts that wrote them still run.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tholepin_admin::AdminClient;
use tholepin_controller::host_name;
use tholepin_core::port::Kubernetes;

use super::super::{print, table::table};
use crate::{
    cli::{AdminFileArgs, KubernetesClusterArgs, OutputFormat},
    engine,
    plugin_kind::plugin_kind,
    user_files::admin_file,
};

/// How long a running host may take to answer.
const HOST_DEADLINE: Duration = Duration::from_secs(2);

/// Prints the `Plugin` objects of the API server.
///
/// # Errors
///
/// Fails if the API server does not answer.
pub(super) async fn run(
    cluster: KubernetesClusterArgs,
    output: OutputFormat,
    admin: AdminFileArgs,
) -> Result<()> {
    let kubernetes = engine::connect(cluster.kubeconfig).await?;
    let plugins = kubernetes.list(plugin_kind(), String::new(), String::new()).await?;
    let answering = answering(admin).await;
    if output == OutputFormat::Json {
        print(&format!("{:#}\n", json!({"plugins": plugins, "answeringHost": answering})))?;
        return Ok(());
    }
    print(&format_plugins(&plugins))?;
    for line in silent(&plugins, answering.as_deref(), host_name::has_ended) {
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

/// Returns the host that the admin file names, if it answers.
async fn answering(admin: AdminFileArgs) -> Option<String> {
    let client = AdminClient::of_file(&admin_file(admin.admin_file).ok()?).ok()?;
    let answer = client.get("/v1/version", &[], HOST_DEADLINE).await.ok()?;
    let pid = answer.get("pid").and_then(Value::as_u64)?;
    Some(host_name::name_of(u32::try_from(pid).ok()?))
}

fn format_plugins(plugins: &[Value]) -> String {
    let head =
        ["NAME", "SERVING", "VERSION", "SINCE", "CANDIDATE", "OBJECTS", "UNHEALTHY", "REASON"];
    let mut rows = vec![head.map(str::to_owned)];
    for plugin in plugins {
        let text = |pointer: &str| match plugin.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "-".to_owned(),
        };
        let reason = match text("/status/message") {
            message if message == "-" => text("/status/reason"),
            message => format!("{}: {message}", text("/status/reason")),
        };
        rows.push([
            text("/metadata/name"),
            text("/status/revision"),
            text("/status/version"),
            text("/status/activatedAt"),
            text("/status/candidateRevision"),
            text("/status/objects"),
            text("/status/unhealthyObjects"),
            reason,
        ]);
    }
    table(&rows)
}

/// Returns a line for each host that wrote a status and does not answer.
fn silent(
    plugins: &[Value],
    answering: Option<&str>,
    has_ended: impl Fn(&str) -> bool,
) -> Vec<String> {
    let is_stopped = |plugin: &&Value| {
        plugin.pointer("/status/reason").and_then(Value::as_str) == Some("HostStopped")
    };
    let running = plugins.iter().filter(|plugin| !is_stopped(plugin));
    let hosts = running.filter_map(|plugin| plugin.pointer("/status/host")?.as_str());
    let hosts: BTreeSet<&str> = hosts.filter(|host| Some(*host) != answering).collect();
    let line = |host: &str| {
        if has_ended(host) {
            return format!(
                "The host `{host}`, which wrote this, has ended: nothing is reconciled until one is started \
                 (`tholepin run`)."
            );
        }
        format!(
            "The host `{host}`, which wrote this, does not answer here: whether it still runs is not known \
             (--admin-file names the file of another host)."
        )
    };
    hosts.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_each_host_that_neither_answers_nor_was_stopped() {
        let plugin = |host: &str, reason: Option<&str>| json!({"metadata": {"name": "p"}, "status": {"host": host, "reason": reason}});
        let plugins = [
            plugin("here", None),
            plugin("here", Some("TakenBack")),
            plugin("ended", None),
            plugin("stopped", Some("HostStopped")),
            json!({"metadata": {"name": "never-seen"}}),
        ];
        let lines = |answering| silent(&plugins, answering, |host| host == "ended");
        assert_eq!(lines(Some("here")).len(), 1);
        assert!(lines(Some("here"))[0].contains("`ended`, which wrote this, has ended"));
        let silent = lines(None);
        assert_eq!(silent.len(), 2, "{silent:?}");
        assert!(silent[1].contains("`here`, which wrote this, does not answer here"), "{silent:?}");
    }
}
