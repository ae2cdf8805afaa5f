//! A real Prometheus that scrapes one target, and its checks of an exposition.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{http, process::Process};

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    /// The process. It is declared before its directory, so that it ends before the directory is deleted.
    pub process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes this target every second.
    ///
    /// # Errors
    ///
    /// Fails if the program is missing; `./setup --tests` installs it.
    pub fn scraping(target: SocketAddr) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tholepin-prometheus-").tempdir()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n  - job_name: tholepin\n    static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        fs::write(path("prometheus.yml"), config)?;
        let address = free_address()?;
        let arguments = [
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address={address}"),
        ];
        let log = directory.path().join("prometheus.log");
        let process =
            Process::spawn("prometheus", Command::new("prometheus").args(arguments), &log)?;
        Ok(Self { process, address, _directory: directory })
    }

    /// Returns the results of an instant query.
    ///
    /// # Errors
    ///
    /// Fails if Prometheus does not answer (yet), or refuses the query.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (code, text) = http::get(self.address, &format!("/api/v1/query?query={escaped}"))?;
        ensure!(code == 200, "{query}: {code} {text}");
        let answer: Value = serde_json::from_str(&text)?;
        let results = answer.pointer("/data/result").and_then(Value::as_array);
        Ok(results.context("the answer has no results")?.clone())
    }
}

/// Returns the complaints of `promtool` about an exposition; empty if there are none.
///
/// # Errors
///
/// Fails if the program is missing; `./setup --tests` installs it.
pub fn lint(exposition: &str) -> Result<String> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().context("cannot start promtool; run ./setup --tests")?;
    promtool.stdin.take().context("stdin is piped")?.write_all(exposition.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let mut complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    complaints.push_str(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() && complaints.is_empty() {
        complaints = output.status.to_string();
    }
    Ok(complaints)
}

/// Returns the value of the first series of a family that has these labels.
#[must_use]
pub fn value(exposition: &str, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let expected: Vec<_> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let line = exposition.lines().find(|line| {
        let name = line.split(['{', ' ']).next();
        name == Some(family) && expected.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Returns an address of 127.0.0.1 with a port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
