//! Performs the action of a probe or a hook: a program in the container, a TCP connection, an HTTP GET, a
//! pause.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::container::{
    ContainerExecSpec, ContainerLauncherCommand, ContainerProcessSpec, ProcessSpec,
};
use crate::orphans;
use crate::processes::{ProcessOutput, ProcessSpawner};

/// How many bytes of an HTTP response are read: enough for the status line.
const STATUS_LINE_BYTES_MAX: usize = 256;

/// The action of a probe or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HandlerAction {
    Exec(Vec<String>),
    Connect {
        host: String,
        port: u16,
    },
    Get {
        host: String,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Sleep(Duration),
    /// The action is not supported or its definition is invalid; the text says why.
    Unsupported(String),
}

impl HandlerAction {
    /// Returns the action of `probe` of `container`.
    pub(crate) fn of_probe(probe: &Probe, container: &Container, pod_ip: &str) -> Self {
        if let Some(exec) = &probe.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &probe.http_get {
            Self::of_get(get, container, pod_ip)
        } else if let Some(socket) = &probe.tcp_socket {
            Self::of_socket(socket, container, pod_ip)
        } else {
            Self::Unsupported("only exec, httpGet and tcpSocket probes are supported".into())
        }
    }

    /// Returns the action of a hook of `container`.
    pub(crate) fn of_hook(hook: &LifecycleHandler, container: &Container, pod_ip: &str) -> Self {
        if let Some(exec) = &hook.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &hook.http_get {
            Self::of_get(get, container, pod_ip)
        } else if let Some(sleep) = &hook.sleep {
            Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default()))
        } else if let Some(socket) = &hook.tcp_socket {
            Self::of_socket(socket, container, pod_ip)
        } else {
            Self::Unsupported("the hook has no action".into())
        }
    }

    fn of_get(get: &HTTPGetAction, container: &Container, pod_ip: &str) -> Self {
        if get.scheme.as_deref() == Some("HTTPS") {
            return Self::Unsupported("httpGet with scheme HTTPS is not supported".into());
        }
        let Some(port) = port_number(&get.port, container) else { return Self::no_port(&get.port) };
        let headers = get.http_headers.iter().flatten();
        Self::Get {
            host: get.host.clone().unwrap_or_else(|| pod_ip.to_owned()),
            port,
            path: get.path.clone().unwrap_or_else(|| "/".into()),
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        }
    }

    fn of_socket(socket: &TCPSocketAction, container: &Container, pod_ip: &str) -> Self {
        match port_number(&socket.port, container) {
            Some(port) => Self::Connect {
                host: socket.host.clone().unwrap_or_else(|| pod_ip.to_owned()),
                port,
            },
            None => Self::no_port(&socket.port),
        }
    }

    fn no_port(port: &IntOrString) -> Self {
        let port = match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        };
        Self::Unsupported(format!("the container has no port `{port}`"))
    }
}

fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            let number = named.map(|port| port.container_port);
            number.and_then(|number| u16::try_from(number).ok()).or_else(|| name.parse().ok())
        }
    }
}

/// Why the action of a probe or hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeOrHookError {
    #[error("{0}")]
    Unsupported(String),
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    #[error("prepare the command")]
    Prepare(#[source] io::Error),
    #[error("start the command")]
    Start(#[source] io::Error),
    #[error("command {argv:?} timed out after {limit:?}")]
    CommandTimedOut { argv: Vec<String>, limit: Duration },
    #[error("command {argv:?} exited with {code}: {output}")]
    Exited { argv: Vec<String>, code: i32, output: String },
    #[error("the node agent is stopping")]
    AgentStopping,
    #[error("connect to {host}:{port}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("GET {url}")]
    Get { url: String, source: io::Error },
    #[error("GET {url}: status {code}")]
    Status { url: String, code: u16 },
    #[error("GET {url}: the response is not HTTP")]
    NotHttp { url: String },
}

/// A running container, with the facts that a program started in it needs.
#[derive(Debug)]
pub(crate) struct ExecTarget {
    pub processes: ProcessSpawner,
    /// The pid of the container's main process.
    pub pid: u32,
    pub user_namespace: bool,
    pub env: BTreeMap<String, String>,
    pub workdir: PathBuf,
    /// The directory to which specifications are written.
    pub directory: PathBuf,
}

/// Performs `action`.
///
/// `name` distinguishes concurrent actions in one container. A program that runs for longer than `limit` is
/// killed.
pub(crate) async fn perform(
    action: &HandlerAction,
    inside: &ExecTarget,
    name: &str,
    limit: Duration,
) -> Result<(), ProbeOrHookError> {
    match action {
        HandlerAction::Exec(argv) => exec(argv, inside, name, limit).await,
        HandlerAction::Connect { host, port } => {
            within(limit, connect(host, *port)).await.map(drop)
        }
        HandlerAction::Get { host, port, path, headers } => {
            within(limit, get(host, *port, path, headers)).await
        }
        HandlerAction::Sleep(pause) => {
            tokio::time::sleep((*pause).min(limit)).await;
            Ok(())
        }
        HandlerAction::Unsupported(why) => Err(ProbeOrHookError::Unsupported(why.clone())),
    }
}

async fn within<T>(
    limit: Duration,
    action: impl Future<Output = Result<T, ProbeOrHookError>>,
) -> Result<T, ProbeOrHookError> {
    timeout(limit, action).await.unwrap_or(Err(ProbeOrHookError::TimedOut(limit)))
}

async fn exec(
    argv: &[String],
    inside: &ExecTarget,
    name: &str,
    limit: Duration,
) -> Result<(), ProbeOrHookError> {
    let spec_file = inside.directory.join(format!("{name}.json"));
    let spec = ContainerProcessSpec {
        parent_pid: i32::try_from(std::process::id()).unwrap_or_default(),
        error_file: inside.directory.join(format!("{name}.error")),
        task: ContainerLauncherCommand::Join(ContainerExecSpec {
            pid: inside.pid,
            user_namespace: inside.user_namespace,
            process: ProcessSpec {
                argv: argv.to_vec(),
                env: inside.env.clone(),
                workdir: inside.workdir.clone(),
            },
        }),
    };
    spec.write(&spec_file).map_err(ProbeOrHookError::Prepare)?;
    let launched = inside.processes.launch(spec_file, ProcessOutput::Capture).await;
    let mut launched = launched.map_err(ProbeOrHookError::Start)?;
    let exit = match timeout(limit, &mut launched.exit).await {
        Ok(exit) => exit,
        Err(_) => {
            orphans::kill_session(launched.pid);
            let _ = timeout(Duration::from_secs(1), &mut launched.exit).await;
            return Err(ProbeOrHookError::CommandTimedOut { argv: argv.to_vec(), limit });
        }
    };
    let exit = exit.map_err(|_| ProbeOrHookError::AgentStopping)?;
    if exit.code == 0 {
        return Ok(());
    }
    let why = std::fs::read_to_string(&spec.error_file).unwrap_or_default();
    let output = if why.is_empty() { exit.output } else { why };
    Err(ProbeOrHookError::Exited { argv: argv.to_vec(), code: exit.code, output })
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, ProbeOrHookError> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|source| ProbeOrHookError::Connect { host: host.to_owned(), port, source })
}

async fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), ProbeOrHookError> {
    let mut stream = connect(host, port).await?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let named = |header: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header));
    if !named("host") {
        request.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    if !named("user-agent") {
        request.push_str("User-Agent: kube-probe/tholepin\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let url = format!("http://{host}:{port}{path}");
    let failed = |source| ProbeOrHookError::Get { url: url.clone(), source };
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut response = Vec::new();
    let mut chunk = [0_u8; STATUS_LINE_BYTES_MAX];
    while !response.contains(&b'\n') && response.len() < STATUS_LINE_BYTES_MAX {
        let length = stream.read(&mut chunk).await.map_err(failed)?;
        if length == 0 {
            break;
        }
        response.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    match status_code(&response) {
        Some(200..400) => Ok(()),
        Some(code) => Err(ProbeOrHookError::Status { url, code }),
        None => Err(ProbeOrHookError::NotHttp { url }),
    }
}

fn status_code(response: &[u8]) -> Option<u16> {
    let line = response.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/")?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn container() -> Container {
        serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "redis", "containerPort": 6379}]}),
        )
        .unwrap()
    }

    #[test]
    fn a_probe_becomes_an_action() {
        let connect = |host: &str, port| HandlerAction::Connect { host: host.into(), port };
        let cases = [
            (json!({"exec": {"command": ["true"]}}), HandlerAction::Exec(vec!["true".into()])),
            (json!({"tcpSocket": {"port": "redis"}}), connect("127.23.1.7", 6379)),
            (json!({"tcpSocket": {"port": 80, "host": "h"}}), connect("h", 80)),
            (
                json!({"tcpSocket": {"port": "none"}}),
                HandlerAction::Unsupported("the container has no port `none`".into()),
            ),
            (
                json!({"httpGet": {"port": 80, "path": "/ok"}}),
                HandlerAction::Get {
                    host: "127.23.1.7".into(),
                    port: 80,
                    path: "/ok".into(),
                    headers: Vec::new(),
                },
            ),
        ];
        for (probe, action) in cases {
            let text = probe.to_string();
            let probe = serde_json::from_value(probe).unwrap();
            assert_eq!(
                HandlerAction::of_probe(&probe, &container(), "127.23.1.7"),
                action,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_get_passes_or_fails_by_its_status() {
        for (response, passes) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 503 Busy\r\n\r\n", false),
            ("+PONG\r\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.23.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0_u8; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(response.as_bytes()).await.unwrap();
            };
            let (result, ()) = tokio::join!(get("127.23.0.1", port, "/ok", &[]), serve);
            assert_eq!(result.is_ok(), passes, "{response}: {result:?}");
        }
    }
}
