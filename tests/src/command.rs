//! The `tholepin` command line, run against the host of a test as a user would run it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cluster::LocalClusterProcess, process::tholepin};

/// Runs `tholepin` commands against one host.
#[derive(Clone, Debug)]
pub struct CommandLine {
    admin_file: PathBuf,
}

/// The exit code and output of a command.
#[derive(Clone, Debug)]
pub struct CommandResult {
    /// The exit code.
    pub code: i32,
    /// The text on stdout.
    pub stdout: String,
    /// The text on stderr.
    pub stderr: String,
}

impl CommandLine {
    /// Returns the command line for this cluster's host.
    #[must_use]
    pub fn of(cluster: &LocalClusterProcess) -> Self {
        Self { admin_file: cluster.admin_file() }
    }

    /// Runs `tholepin` with these arguments and waits for it to exit.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started, or was ended by a signal.
    pub fn run(&self, arguments: &[&str]) -> Result<CommandResult> {
        let mut command = Command::new(tholepin()?);
        command.args(arguments).env("THOLEPIN_ADMIN_FILE", &self.admin_file);
        let output = command.env_remove("KUBECONFIG").output()?;
        Ok(CommandResult {
            code: output.status.code().context("tholepin was ended by a signal")?,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs `tholepin plan --json …`: the exit code and the report.
    ///
    /// # Errors
    ///
    /// Fails if stdout is not a report; the error has the text on stderr.
    pub fn plan(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let finished = self.run(&[&["plan", "--json"], arguments].concat())?;
        let report = serde_json::from_str(&finished.stdout);
        Ok((finished.code, report.with_context(|| finished.stderr.clone())?))
    }

    /// Runs `tholepin calls --json …`: the recorded reconciles, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails if the host has recorded nothing of the object.
    pub fn calls(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let CommandResult { code, stdout, stderr } =
            self.run(&[&["calls", "--json"], arguments].concat())?;
        ensure!(code == 0, "{stderr}");
        let document: Value = serde_json::from_str(&stdout)?;
        let reconciles = document.get("reconciles").and_then(Value::as_array);
        Ok(reconciles.context("the output of `calls` has no `passes`")?.clone())
    }
}

/// Returns a report's steps with the values masked that differ in any two runs: times, resource versions and
/// the uids of objects.
#[must_use]
pub fn masked_steps(report: &Value) -> Value {
    let mut steps = report.get("steps").cloned().unwrap_or_default();
    mask(&mut steps);
    steps
}

fn mask(value: &mut Value) {
    match value {
        Value::String(text) if is_time(text) => "TIME".clone_into(text),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "resourceVersion" || name == "uid" {
                    *value = Value::from("MASKED");
                } else {
                    mask(value);
                }
            }
        }
    }
}

/// Returns true for a time in Kubernetes' format: `2026-01-02T03:04:05Z`, possibly with a fraction.
fn is_time(text: &str) -> bool {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    bytes.last() == Some(&b'Z')
        && separators.iter().all(|(at, separator)| bytes.get(*at) == Some(separator))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_times_versions_and_uids_are_masked() {
        let report = json!({"steps": [{"from": "2026-01-02T03:04:05Z", "to": "2026-01-02T03:04:05.123Z",
            "text": "2026-01-02", "uid": "u", "resourceVersion": "7", "n": 5}]});
        let expected = json!([{"from": "TIME", "to": "TIME", "text": "2026-01-02",
            "uid": "MASKED", "resourceVersion": "MASKED", "n": 5}]);
        assert_eq!(masked_steps(&report), expected);
    }
}
