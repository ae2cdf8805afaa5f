//! An API server, a client and kubectl for one test.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Status};
use kube::{Api, Client, Config, config::Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::wait::{Poll, until};
use tholepin_apiserver::{ApiServer, ApiServerOptions, start};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// The longest time for anything in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Fixture {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) directory: TempDir,
}

impl Fixture {
    /// Starts a server with the default options of the tests.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with changed options.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ApiServerOptions)) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listen = SocketAddr::from((Ipv4Addr::new(127, 22, 1, 1), 0));
        let mut options = ApiServerOptions::new(listen, directory.path().join("api"));
        change(&mut options);
        let server = start(options).await?;
        let client = client(&server.kubeconfig).await?;
        Ok(Self { server, client, directory })
    }

    /// Returns an untyped API of a namespaced kind in `default`.
    pub(crate) fn api(&self, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), "default", &resource(api_version, kind, plural))
    }

    /// Returns the API of ConfigMaps in `default`.
    pub(crate) fn config_maps(&self) -> Api<DynamicObject> {
        self.api("v1", "ConfigMap", "configmaps")
    }

    /// Sends a request; returns the body of a successful response.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        ask(&self.client, method, path, media, serde_json::to_vec(body).expect("JSON")).await
    }

    /// Sends a GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Status> {
        ask(&self.client, "GET", path, "", Vec::new()).await
    }

    /// Creates an object from JSON.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, Status> {
        self.ask("POST", path, "application/json", object).await
    }

    /// Applies an object server-side as `manager`.
    pub(crate) async fn apply(
        &self,
        path: &str,
        manager: &str,
        object: &Value,
    ) -> Result<Value, Status> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}fieldManager={manager}");
        self.ask("PATCH", &path, "application/apply-patch+yaml", object).await
    }

    /// Returns a kubectl command with this server's kubeconfig.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(kubectl_program()?);
        command.arg("--kubeconfig").arg(&self.server.kubeconfig).args(arguments);
        command.env("HOME", self.directory.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs kubectl; returns its stdout if it succeeds and its stderr if not.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.run_with(arguments, "").await
    }

    /// The same with a text on stdin.
    pub(crate) async fn run_with(&self, arguments: &[&str], stdin: &str) -> Result<String, String> {
        let run = async {
            let mut child = self.kubectl(arguments)?.stdin(Stdio::piped()).spawn()?;
            let mut input = child.stdin.take().context("stdin is piped")?;
            input.write_all(stdin.as_bytes()).await?;
            drop(input);
            anyhow::Ok(child.wait_with_output().await?)
        };
        let output = timeout(DEADLINE, run).await;
        let output = output.map_err(|_| format!("kubectl {arguments:?} does not exit"))?;
        let output = output.map_err(|error| format!("{error:#}"))?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// Finds the first kubectl of `$KUBECTL`, `$KUBEBUILDER_ASSETS` and PATH.
fn kubectl_program() -> Result<PathBuf> {
    if let Some(named) = env::var_os("KUBECTL") {
        return Ok(named.into());
    }
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = assets.into_iter().chain(env::split_paths(&path));
    let found = folders.map(|folder| folder.join("kubectl")).find(|program| program.exists());
    found.context("no kubectl: set KUBECTL to one of version 1.27 or newer")
}

/// Creates a client that never retries a request.
pub(crate) async fn client(kubeconfig: &std::path::Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Returns the description of a kind for the untyped API.
pub(crate) fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Sends a request through kube's client.
pub(crate) async fn ask(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    body: Vec<u8>,
) -> Result<Value, Status> {
    let mut request =
        kube::core::Request::new("/").get("x", &Default::default()).expect("a request");
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = path.parse().expect("a path");
    if !media.is_empty() {
        request.headers_mut().insert("content-type", media.parse().expect("a media type"));
    }
    *request.body_mut() = body;
    match timeout(DEADLINE, client.request_text(request)).await.expect("an answer in time") {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        Err(kube::Error::Api(status)) => Err(*status),
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

/// Returns a ConfigMap.
pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Polls until `poll` returns a value.
pub(crate) async fn eventually<T, F>(what: &str, mut poll: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let poll = || {
        let found = poll();
        async move { Ok(found.await.map_or_else(|| Poll::NotYet("nothing".to_owned()), Poll::Done)) }
    };
    Ok(until(what, DEADLINE, poll).await?.0)
}

/// The path of the ConfigMaps in `default`.
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
