//! The processor time of a reconcile, beside two other ways to run policy as plugins: a shell hook that is
//! started for each event, and an HTTP hook that is called over a new connection.
//!
//! All three create the same ConfigMap and status for the same object, which is checked.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::guests;
use tholepin_core::port::PluginExports;
use tholepin_schema::reconcile::ReconcileRequest;

use crate::{
    fake_host_calls::FakeKubernetes,
    plugin::BenchPlugin,
    proc,
    table::{BenchRow, RowUnit},
};

/// How many times all three are measured in turn.
const TURNS: usize = 5;
/// The calls of a turn: so many that the resolution of a hundredth of a second does not matter.
const WASM_CALLS: u32 = 4_000;
const SHELL_CALLS: u32 = 40;
const HTTP_CALLS: u32 = 600;
/// The goals: how many times less processor time than a shell hook and than an HTTP hook.
const TIMES_LESS_THAN_SHELL: f64 = 150.0;
const TIMES_LESS_THAN_HTTP: f64 = 6.0;
/// How long an HTTP hook may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Reads the object from a file, as shell-operator passes it, and prints the objects to apply.
const SHELL_HOOK: &str = r#"#!/usr/bin/env bash
set -euo pipefail
jq --compact-output '
  ("Hello, " + .spec.text) as $text
  | [
      {apiVersion: "v1", kind: "ConfigMap",
       metadata: {name: .metadata.name, namespace: .metadata.namespace,
         ownerReferences: [{apiVersion: "tests.tholepin.dev/v1", kind: "Greeting",
           name: .metadata.name, uid: .metadata.uid, controller: true}]},
       data: {greeting: $text}},
      {apiVersion: "tests.tholepin.dev/v1", kind: "Greeting",
       metadata: {name: .metadata.name, namespace: .metadata.namespace},
       status: {greeting: $text, observedGeneration: .metadata.generation}}
    ]' "$1"
"#;

/// Gets the object in a request, as metacontroller sends it, and returns the objects to apply. Prints its port.
const HTTP_HOOK: &str = r#"
import http.server, json

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        object = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        meta, text = object["metadata"], "Hello, " + object["spec"]["text"]
        kind = {"apiVersion": "tests.tholepin.dev/v1", "kind": "Greeting"}
        name = {"name": meta["name"], "namespace": meta["namespace"]}
        owner = {**kind, "name": meta["name"], "uid": meta["uid"], "controller": True}
        wanted = [
            {"apiVersion": "v1", "kind": "ConfigMap",
             "metadata": {**name, "ownerReferences": [owner]}, "data": {"greeting": text}},
            {**kind, "metadata": name,
             "status": {"greeting": text, "observedGeneration": meta["generation"]}},
        ]
        body = json.dumps(wanted).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let home = tempfile::Builder::new().prefix("tholepin-bench-").tempdir()?;
    let plugin = BenchPlugin::load("config-maker", &guests::config_maker("Hello")?).await?;
    let _processor = proc::OneProcessor::choose()?;
    let http = HttpHook::start(&home)?;
    let script = home.path().join("hook.sh");
    fs::write(&script, SHELL_HOOK)?;
    let object = greeting();
    let (mut wasm, mut shell, mut over_http) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn warms up.
    for turn in 0..=TURNS {
        let (expected, in_wasm) = run_wasm(&plugin, &object).await?;
        let (by_shell, in_shell) = run_shell(&script, &object)?;
        let (by_http, in_http) = http.turn(&object)?;
        ensure!(by_shell == expected, "the shell hook returned {by_shell}, the plugin {expected}");
        ensure!(by_http == expected, "the HTTP hook returned {by_http}, the plugin {expected}");
        if turn != 0 {
            wasm.push(in_wasm);
            shell.push(in_shell);
            over_http.push(in_http);
        }
    }
    let ratios = |others: &[Duration]| -> Vec<f64> {
        wasm.iter().zip(others).map(|(one, other)| one.div_duration_f64(*other)).collect()
    };
    let row = |name, others| BenchRow::new(name, RowUnit::Ratio, ratios(others));
    Ok(vec![
        row("processor, Wasm ÷ shell hook", &shell).goal(1.0 / TIMES_LESS_THAN_SHELL),
        row("processor, Wasm ÷ HTTP hook", &over_http).goal(1.0 / TIMES_LESS_THAN_HTTP),
        BenchRow::us("processor per call, Wasm", &wasm),
        BenchRow::us("processor per call, shell hook (bash, jq)", &shell),
        BenchRow::us("processor per call, HTTP hook (python3)", &over_http),
    ])
}

/// Returns an object as the store has it, with the fields that kubectl and the host add.
fn greeting() -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Greeting",
        "metadata": {
            "name": "greeting-of-the-house",
            "namespace": "default",
            "uid": "2f6b7c1e-5a0d-4f1c-9d3f-0c8f4a2f7b11",
            "resourceVersion": "184467",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": "greeting", "team": "reception"},
            "annotations": {"example.org/owner": "reception@example.org"},
            "finalizers": ["tholepin.dev/config-maker"],
        },
        "spec": {"text": "world, and everybody who lives in it"},
        "status": {"greeting": "Hello, world", "observedGeneration": 2},
    })
}

/// Runs a turn of the plugin: the objects that it applies, and the processor time of a call.
async fn run_wasm(plugin: &BenchPlugin, object: &Value) -> Result<(Value, Duration)> {
    let before = proc::cpu_of_this()?;
    let mut host_calls = Arc::new(FakeKubernetes::default());
    for _ in 0..WASM_CALLS {
        host_calls = Arc::new(FakeKubernetes::default());
        let request = ReconcileRequest {
            object: object.clone(),
            deleting: false,
            causes: Vec::new(),
            memo: None,
        };
        let context = plugin.loaded.context(None);
        let outcome = plugin.loaded.reconcile(context, request, host_calls.clone()).await?;
        outcome.map_err(|failure| anyhow!("{failure:?}"))?;
    }
    let used = proc::cpu_of_this()?.saturating_sub(before);
    Ok((Value::Array(host_calls.written()), used / WASM_CALLS))
}

/// Runs a turn of the shell hook: its processor time includes that of the process that starts it.
fn run_shell(script: &Path, object: &Value) -> Result<(Value, Duration)> {
    let file = script.with_file_name("object.json");
    let before = proc::cpu_of_this()?;
    let mut expected = Value::Null;
    for _ in 0..SHELL_CALLS {
        fs::write(&file, object.to_string())?;
        let output = Command::new("bash").arg(script).arg(&file).output();
        let output = output.context("cannot start bash")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the shell hook failed (is jq installed?): {stderr}");
        expected = serde_json::from_slice(&output.stdout)?;
    }
    Ok((expected, (proc::cpu_of_this()?.saturating_sub(before)) / SHELL_CALLS))
}

/// The process of the HTTP hook.
struct HttpHook {
    child: Child,
    port: u16,
}

impl HttpHook {
    fn start(home: &TempDir) -> Result<Self> {
        let script = home.path().join("hook.py");
        fs::write(&script, HTTP_HOOK)?;
        let mut command = Command::new("python3");
        let child = command.arg(&script).stdout(Stdio::piped()).spawn();
        let mut hook = Self { child: child.context("cannot start python3")?, port: 0 };
        let stdout = hook.child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        hook.port = line.trim().parse().context("the HTTP hook did not print its port")?;
        Ok(hook)
    }

    /// Runs a turn of the HTTP hook: its processor time includes that of the caller.
    fn turn(&self, object: &Value) -> Result<(Value, Duration)> {
        let used = || anyhow::Ok(proc::cpu_of_this()? + proc::cpu(self.child.id())?);
        let before = used()?;
        let mut expected = Value::Null;
        for _ in 0..HTTP_CALLS {
            expected = self.ask(object)?;
        }
        Ok((expected, (used()?.saturating_sub(before)) / HTTP_CALLS))
    }

    fn ask(&self, object: &Value) -> Result<Value> {
        let body = object.to_string();
        let request = format!(
            "POST / HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(ANSWER_MAX))?;
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for HttpHook {
    fn drop(&mut self) {
        // It serves until it is killed; an error means that it has already ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
