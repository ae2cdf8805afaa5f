//! Tests of the admin API over a real socket: authentication, refusals, and the errors of the client.
#![cfg(test)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tholepin_admin::{
    AdminClient, AdminClientError, AdminError, AdminMethod, AdminRequest, AdminRoutes, AdminServer,
    HealthCheckOutcome, HealthCheckReport, HealthCheckResult, HealthServer, HealthSource,
};
use tholepin_core::BoxedFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(5);

/// Replies with the request. One of its paths fails, and one never replies.
struct EchoRoutes;

impl AdminRoutes for EchoRoutes {
    fn handle(&self, request: AdminRequest) -> BoxedFuture<'_, Result<Value, AdminError>> {
        Box::pin(async move {
            match request.path.as_str() {
                "/v1/echo" => Ok(json!({
                    "posted": request.method == AdminMethod::Post,
                    "query": request.query,
                    "body": request.body,
                })),
                "/v1/busy" => Err(AdminError::Conflict("another pass holds it".to_owned())),
                "/v1/never" => std::future::pending().await,
                path => Err(AdminError::NotFound(format!("no `{path}`"))),
            }
        })
    }
}

/// A host that is alive and not ready.
struct UnreadyHealth;

impl HealthSource for UnreadyHealth {
    fn metrics(&self) -> String {
        "a 1\n".to_owned()
    }

    fn health(&self) -> BoxedFuture<'_, HealthCheckReport> {
        let checks =
            vec![HealthCheckResult { name: "x".to_owned(), verdict: HealthCheckOutcome::Pass }];
        Box::pin(async { HealthCheckReport { checks } })
    }

    fn readiness(&self) -> BoxedFuture<'_, HealthCheckReport> {
        let verdict = HealthCheckOutcome::Fail("stale".to_owned());
        let checks = vec![HealthCheckResult { name: "x".to_owned(), verdict }];
        Box::pin(async { HealthCheckReport { checks } })
    }
}

/// Both servers and a client. Dropping the value aborts the servers.
struct RunningServer {
    client: AdminClient,
    folder: TempDir,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl RunningServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.json");
        let health = HealthServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let server =
            AdminServer::bind(file.clone(), health.address(), Arc::new(EchoRoutes)).await.unwrap();
        let client = AdminClient::of_file(&file).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(server.run(stop.clone()));
        tasks.spawn(health.run(Arc::new(UnreadyHealth), stop.clone()));
        Self { client, folder, stop, tasks }
    }

    /// Sends a raw request to the admin API, and returns the status of the reply.
    async fn raw(&self, request: &str) -> u16 {
        let request = request.replace("TOKEN", &self.client.file().token);
        send(self.client.file().address, &request).await.0
    }

    /// Sends a raw request to the health endpoints, and returns status and body.
    async fn health(&self, request: &str) -> (u16, String) {
        send(self.client.file().metrics_address, request).await
    }
}

/// Sends a raw request on a new connection, and returns status and body.
async fn send(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = request.replace("\n\n", "\nConnection: close\n\n").replace('\n', "\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    let all = stream.read_to_string(&mut response);
    tokio::time::timeout(DEADLINE, all).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn health_endpoints_are_open_and_read_only() {
    let running = RunningServer::start().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\nHost: anything\n\n");
    let failed = "[-]x failed: stale\nreadyz check failed\n";
    let document = r#"{"checks":[{"message":"stale","name":"x","verdict":"fail"}],"passes":false}"#;
    let rows = [
        (get("/metrics"), 200, "a 1\n"),
        (get("/healthz"), 200, "ok\n"),
        (get("/healthz?verbose"), 200, "[+]x ok\nhealthz check passed\n"),
        (get("/readyz"), 503, failed),
        (get("/readyz").replace("\n\n", "\nAccept: application/json\n\n"), 503, document),
        (get("/elsewhere"), 404, "ask for"),
        (get("/v1/echo"), 404, "ask for"),
        (get("/metrics").replace("GET", "POST"), 405, "only GET"),
    ];
    for (request, code, text) in rows {
        let (found_code, found) = running.health(&request).await;
        assert_eq!(found_code, code, "{request}");
        assert!(found.starts_with(text), "{request}: {found}");
    }
}

#[tokio::test]
async fn documents_are_transferred_both_ways() {
    let running = RunningServer::start().await;
    let echoed = running.client.get("/v1/echo", &[("a", "x y&z")], DEADLINE).await.unwrap();
    assert_eq!(echoed, json!({"posted": false, "query": {"a": "x y&z"}, "body": null}));
    let body = json!({"large": "x".repeat(1 << 20)});
    let echoed = running.client.post("/v1/echo", &body, DEADLINE).await.unwrap();
    assert_eq!(echoed, json!({"posted": true, "query": {}, "body": body}));
}

#[tokio::test]
async fn an_error_of_the_host_arrives_typed() {
    let running = RunningServer::start().await;
    let get = async |path| running.client.get(path, &[], DEADLINE).await.unwrap_err();
    let AdminClientError::Refused(error) = get("/v1/busy").await else { panic!("not refused") };
    assert_eq!(error, AdminError::Conflict("another pass holds it".to_owned()));
    let AdminClientError::Refused(AdminError::NotFound(text)) = get("/v1/none").await else {
        panic!("not refused")
    };
    assert!(text.contains("/v1/none"), "{text}");
    let body = json!("x".repeat(5 << 20));
    let error = running.client.post("/v1/echo", &body, DEADLINE).await.unwrap_err();
    // The server may close the connection before it has read the whole body.
    assert!(matches!(
        error,
        AdminClientError::Refused(AdminError::Invalid(_)) | AdminClientError::Broken { .. }
    ));
}

#[tokio::test]
async fn a_request_without_token_or_to_another_name_is_denied() {
    let running = RunningServer::start().await;
    let host = running.client.file().address;
    let with = |host: &str, token: &str| {
        format!("GET /v1/echo HTTP/1.1\nHost: {host}\nAuthorization: {token}\n\n")
    };
    let host = host.to_string();
    let rows = [
        (with(&host, "Bearer TOKEN"), 200),
        (with("localhost", "bearer TOKEN"), 200),
        (with("evil.example", "Bearer TOKEN"), 401),
        (with(&host, "Bearer TOKE"), 401),
        (with(&host, "Bearer "), 401),
        (with(&host, "Basic TOKEN"), 401),
        (format!("GET /v1/echo HTTP/1.1\nHost: {host}\n\n"), 401),
        (format!("GET /v1/echo?token=TOKEN HTTP/1.1\nHost: {host}\n\n"), 401),
        (with(&host, "Bearer TOKEN").replace("GET", "DELETE"), 400),
        (with(&host, "Bearer TOKEN").replace("echo", "echo?a=%zz"), 400),
    ];
    for (request, expected) in rows {
        assert_eq!(running.raw(&request).await, expected, "{request}");
    }
}

#[tokio::test]
async fn a_client_keeps_its_deadline_and_names_the_address_of_a_missing_host() {
    let mut running = RunningServer::start().await;
    let short = Duration::from_millis(50);
    let error = running.client.get("/v1/never", &[], short).await.unwrap_err();
    assert!(matches!(&error, AdminClientError::Late { .. }), "{error}");
    running.stop.cancel();
    while running.tasks.join_next().await.is_some() {}
    let error = running.client.get("/v1/echo", &[], DEADLINE).await.unwrap_err().to_string();
    for part in ["no host answers at 127.0.0.1:", "tholepin run", "--admin-file"] {
        assert!(error.contains(part), "{error}");
    }
    let file = running.folder.path().join("admin.json");
    assert!(!file.exists(), "the file goes with its host");
    let Err(error) = AdminClient::of_file(&file) else { panic!("there is no file") };
    assert!(error.to_string().contains("--admin-file"), "{error}");
}
