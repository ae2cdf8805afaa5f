//! `tholepin plugin history` and `rollback`: reads the last revisions of a plugin from the running host, and
//! activates one of them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tholepin_admin::AdminClient;
use tholepin_core::{PluginName, RevisionDigest};
use tholepin_guest::PluginHistory;

use super::super::{print, table::table};
use crate::{
    admin_routes::{HISTORY_ROUTE, ROLLBACK_ROUTE, RollbackRequest},
    cli::{AdminFileArgs, OutputFormat},
    user_files::admin_file,
};

/// How long the host may take: it loads the revision first.
const DEADLINE: Duration = Duration::from_secs(30);

/// Prints the last revisions of a plugin, the newest last.
///
/// # Errors
///
/// Fails if the host does not answer, or keeps none.
pub(super) async fn history(
    name: &PluginName,
    output: OutputFormat,
    admin: AdminFileArgs,
) -> Result<()> {
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let answer = client.get(HISTORY_ROUTE, &[("name", name.as_str())], DEADLINE).await?;
    if output == OutputFormat::Json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let history = answer.get("history").cloned().unwrap_or_default();
    let history: PluginHistory =
        serde_json::from_value(history).context("the host's answer is no history; is it older?")?;
    let serving = answer.get("serving").and_then(Value::as_str).unwrap_or_default();
    print(&format_history(&history, serving))?;
    Ok(())
}

fn format_history(history: &PluginHistory, serving: &str) -> String {
    let mut rows = vec![["REVISION", "VERSION", "SINCE", "STATE"].map(str::to_owned)];
    for record in &history.revisions {
        let at = i64::try_from(record.activated_at_ms).ok();
        let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let state = match &record.rolled_back {
            _ if record.revision.0 == serving => "serves".to_owned(),
            Some(why) => format!("rolled back: {why}"),
            None => "-".to_owned(),
        };
        rows.push([
            record.revision.short().to_owned(),
            record.version.clone(),
            at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            state,
        ]);
    }
    let mut text = table(&rows);
    if let Some(rollback) = &history.rollback {
        text.push_str(&format!(
            "The files' revision {} is refused until the component or `spec` of the settings is another: {}\n",
            rollback.refused.short(),
            rollback.why
        ));
    }
    text
}

/// Activates an earlier revision, and prints which.
///
/// # Errors
///
/// Fails if the host does not answer, or refuses.
pub(super) async fn roll_back(
    name: PluginName,
    revision: Option<String>,
    admin: AdminFileArgs,
) -> Result<()> {
    let client = AdminClient::of_file(&admin_file(admin.admin_file)?)?;
    let request = serde_json::to_value(RollbackRequest { name: name.clone(), revision })?;
    let answer = client.post(ROLLBACK_ROUTE, &request, DEADLINE).await?;
    let serving = answer.get("serving").and_then(Value::as_str).unwrap_or_default();
    let serving = RevisionDigest(serving.to_owned());
    print(&format!("the revision {} of `{name}` serves now\n", serving.short()))?;
    Ok(())
}
