//! The `tholepin` command line against a running host, as a person at a terminal uses it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cluster::LocalClusterProcess, process::tholepin};

/// The command line of a cluster's host.
#[derive(Clone, Debug)]
pub struct CommandLine {
    admin_file: PathBuf,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct CommandResult {
    /// The exit code.
    pub code: i32,
    /// What was printed on stdout.
    pub stdout: String,
    /// What was printed on stderr.
    pub stderr: String,
}

impl CommandLine {
    /// The command line that asks this cluster's host.
    #[must_use]
    pub fn of(cluster: &LocalClusterProcess) -> Self {
        Self { admin_file: cluster.admin_file() }
    }

    /// Runs `tholepin` with these arguments to its end.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started, or was killed.
    pub fn run(&self, arguments: &[&str]) -> Result<CommandResult> {
        let mut command = Command::new(tholepin()?);
        command.args(arguments).env("THOLEPIN_ADMIN_FILE", &self.admin_file);
        let output = command.env_remove("KUBECONFIG").output()?;
        Ok(CommandResult {
            code: output.status.code().context("tholepin was killed")?,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// `tholepin plan … --json`: the exit code and the report.
    ///
    /// # Errors
    ///
    /// Fails if there is no report.
    pub fn plan(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let finished = self.run(&[&["plan", "--json"], arguments].concat())?;
        let report = serde_json::from_str(&finished.stdout);
        Ok((finished.code, report.with_context(|| finished.stderr.clone())?))
    }

    /// `tholepin calls … --json`: the passes, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails if the host knows nothing of the object.
    pub fn calls(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let CommandResult { code, stdout, stderr } =
            self.run(&[&["calls", "--json"], arguments].concat())?;
        ensure!(code == 0, "{stderr}");
        let document: Value = serde_json::from_str(&stdout)?;
        let passes = document.get("passes").and_then(Value::as_array);
        Ok(passes.context("calls prints passes")?.clone())
    }
}

/// A report's steps without what two runs cannot have in common: times, resource versions, and the uids
/// of objects that a plan did not make.
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

/// Whether it is a time as Kubernetes writes it: `2026-01-02T03:04:05Z`, possibly with a fraction.
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
