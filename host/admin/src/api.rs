//! The server of the admin API: on a loopback address, with a token that is new at each start.
//!
//! A request is checked in this order: `Host`, token, method, body.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header::AUTHORIZATION,
    http::request::Parts,
};
use serde_json::{Value, json};
use tholepin_core::ErrorChain;
use tholepin_http::{
    AllowedHostHeaders, BodyLimits, HttpService, ListenerLimits, RandomError, ResponseBody,
    TokenDigest, accept_each, bearer, new_token, read_body, serve_http1, whole,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    file::{AdminFile, AdminFileGuard},
    message::{AdminError, AdminMethod, AdminRequest, AdminRoutes},
    query,
};

/// The command line has one request at a time, a web page a few.
const LIMITS: ListenerLimits =
    ListenerLimits { connections_max: 32, grace: Duration::from_secs(5) };
/// The longest time between two requests on a connection, and for the headers of one.
const HEADERS_DEADLINE: Duration = Duration::from_secs(30);
/// The limits of the body of a request.
const BODY_LIMITS: BodyLimits =
    BodyLimits { bytes_max: 4 << 20, deadline: Duration::from_secs(10) };
/// How long a reply may take. A plan is a whole reconcile of a plugin (30 s), and may wait for another one.
const REPLY_DEADLINE: Duration = Duration::from_secs(90);

/// Why the admin API could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminApiStartError {
    /// The server cannot listen on the loopback address.
    #[error("cannot listen on {address} for the admin API")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The token cannot be made.
    #[error("cannot make the admin API's token")]
    Token(#[from] RandomError),
    /// The file for the command line cannot be written.
    #[error("cannot write `{}`; name another file with --admin-file", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The listening admin API. Dropping it removes its admin file.
pub struct AdminServer {
    listener: TcpListener,
    server: Arc<AdminHttpService>,
    file_guard: AdminFileGuard,
}

struct AdminHttpService {
    hosts: AllowedHostHeaders,
    token: TokenDigest,
    routes: Arc<dyn AdminRoutes>,
}

impl AdminServer {
    /// Listens on a free port of 127.0.0.1, and writes the admin file: address and token of the admin API, and the
    /// address of the health and metrics endpoints.
    ///
    /// # Errors
    ///
    /// Fails if it cannot listen, if no token can be made, or if the file cannot be written.
    pub async fn bind(
        file: PathBuf,
        metrics_address: SocketAddr,
        routes: Arc<dyn AdminRoutes>,
    ) -> Result<Self, AdminApiStartError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let refused = |source| AdminApiStartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let token = new_token()?;
        let server = Arc::new(AdminHttpService {
            hosts: AllowedHostHeaders::new(address.ip(), &["localhost"]),
            token: TokenDigest::of(&token),
            routes,
        });
        let content = AdminFile { address, token, pid: std::process::id(), metrics_address };
        let file_guard = AdminFileGuard::write(file.clone(), content)
            .map_err(|source| AdminApiStartError::File { path: file, source })?;
        Ok(Self { listener, server, file_guard })
    }

    /// Serves until `stop`. A request that is in progress then is still answered, within five seconds.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, server, file_guard } = self;
        accept_each(listener, LIMITS, &stop, |stream| {
            let (server, stop) = (server.clone(), stop.clone());
            async move {
                if let Err(error) = serve_http1(stream, server, HEADERS_DEADLINE, stop).await {
                    debug!(%error, "a connection to the admin API ended");
                }
            }
        })
        .await;
        drop(file_guard);
    }
}

impl HttpService for AdminHttpService {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let (parts, body) = request.into_parts();
        let reply = match self.check(&parts) {
            Ok(method) => self.reply(method, &parts, body).await,
            Err(error) => Err(error),
        };
        let (code, document) = match reply {
            Ok(document) => (200, document),
            Err(error) => (error.code(), json!({"error": error})),
        };
        whole(code, "application/json", format!("{document}\n").into_bytes())
    }
}

impl AdminHttpService {
    /// Checks the `Host`, the token and the method of a request, and returns the method.
    fn check(&self, parts: &Parts) -> Result<AdminMethod, AdminError> {
        self.hosts.check(parts).map_err(|foreign| AdminError::Denied(foreign.to_string()))?;
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if !bearer(header).is_some_and(|token| self.token.is_of(token)) {
            return Err(AdminError::Denied(
                "send the token of the host's admin file as `Authorization: Bearer`".to_owned(),
            ));
        }
        match parts.method {
            Method::GET => Ok(AdminMethod::Get),
            Method::POST => Ok(AdminMethod::Post),
            _ => Err(AdminError::Invalid(format!("{} is not served", parts.method))),
        }
    }

    async fn reply(
        &self,
        method: AdminMethod,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Value, AdminError> {
        let body = read_body(body, BODY_LIMITS).await;
        let body = body.map_err(|error| AdminError::Invalid(ErrorChain(&error).to_string()))?;
        let path = parts.uri.path().to_owned();
        let query = query::decode(parts.uri.query().unwrap_or_default())
            .ok_or_else(|| AdminError::Invalid("malformed escape in the URL".to_owned()))?;
        let request = AdminRequest { method, path, query, body: parse_body(&body)? };
        timeout(REPLY_DEADLINE, self.routes.handle(request)).await.unwrap_or_else(|_| {
            let message = format!("the host had no reply within {REPLY_DEADLINE:?}");
            Err(AdminError::Timeout(message))
        })
    }
}

fn parse_body(body: &Bytes) -> Result<Value, AdminError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body)
        .map_err(|error| AdminError::Invalid(format!("the body is not JSON: {error}")))
}
