//! The server of `/metrics`, `/healthz` and `/readyz`: read-only, for every client that can reach the address.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, body::Incoming, header::ACCEPT, http::request::Parts};
use tholepin_core::BoxedFuture;
use tholepin_http::{HttpService, ListenerLimits, ResponseBody, accept_each, serve_http1, whole};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::report::{HealthCheckReport, HealthReportFormat, TEXT};

/// Prometheus and the kubelet keep one connection each.
const LIMITS: ListenerLimits =
    ListenerLimits { connections_max: 64, grace: Duration::from_secs(1) };
/// The longest time between two requests on a connection: Prometheus keeps one between two scrapes, a minute apart.
const HEADERS_DEADLINE: Duration = Duration::from_secs(120);
/// How long a reply may take.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// The media type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The source of metrics and health reports.
pub trait HealthSource: Send + Sync + 'static {
    /// Returns all metrics in Prometheus' text format.
    fn metrics(&self) -> String;

    /// Checks that the process is alive; if it is not, it should be restarted.
    fn health(&self) -> BoxedFuture<'_, HealthCheckReport>;

    /// Checks that the host can do its work now.
    fn readiness(&self) -> BoxedFuture<'_, HealthCheckReport>;
}

/// The server cannot listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; choose another with --metrics-address")]
pub struct HealthListenError {
    /// The address.
    pub address: SocketAddr,
    /// The error of the system.
    pub source: io::Error,
}

/// The listening server of the health and metrics endpoints.
pub struct HealthServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HealthServer {
    /// Listens on an address. Requests wait until [`run`](Self::run) is called.
    ///
    /// # Errors
    ///
    /// Fails if the server cannot listen on the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, HealthListenError> {
        let refused = |source| HealthListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// Returns the address on which the server listens, with the actual port if port 0 was requested.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, source: Arc<dyn HealthSource>, stop: CancellationToken) {
        let server = Arc::new(HealthHttpService(source));
        accept_each(self.listener, LIMITS, &stop, |stream| {
            let (server, stop) = (server.clone(), stop.clone());
            async move {
                if let Err(error) = serve_http1(stream, server, HEADERS_DEADLINE, stop).await {
                    debug!(%error, "a connection to the health endpoints ended");
                }
            }
        })
        .await;
    }
}

struct HealthHttpService(Arc<dyn HealthSource>);

impl HttpService for HealthHttpService {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        // The body is not read; the connection is closed after the reply if there is one.
        let (parts, _) = request.into_parts();
        if parts.method != Method::GET {
            return text(405, "only GET is served\n");
        }
        let outcome = match parts.uri.path() {
            "/metrics" => return whole(200, EXPOSITION, self.0.metrics().into_bytes()),
            "/healthz" => {
                timeout(REPLY_DEADLINE, self.0.health()).await.map(|report| (report, "healthz"))
            }
            "/readyz" => {
                timeout(REPLY_DEADLINE, self.0.readiness()).await.map(|report| (report, "readyz"))
            }
            _ => return text(404, "ask for /metrics, /healthz or /readyz\n"),
        };
        let Ok((report, endpoint)) = outcome else {
            return text(503, "no reply in time\n");
        };
        let (code, content_type, content) = report.show(endpoint, format_of(&parts));
        whole(code, content_type, content.into_bytes())
    }
}

fn text(code: u16, text: &str) -> Response<ResponseBody> {
    whole(code, TEXT, text.as_bytes().to_vec())
}

fn format_of(parts: &Parts) -> HealthReportFormat {
    let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let query = parts.uri.query().unwrap_or_default();
    if accept.is_some_and(|accept| accept.contains("application/json")) {
        HealthReportFormat::Json
    } else if query
        .split('&')
        .any(|parameter| parameter == "verbose" || parameter.starts_with("verbose="))
    {
        HealthReportFormat::Verbose
    } else {
        HealthReportFormat::Short
    }
}
