//! Takes one request from its headers to its answer: who asks, for what, and in which shape.
//!
//! Order of the checks: the `Host` it was sent to, the token, the path, the body. What a verb does
//! is the business of `verbs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tholepin_http::{AllowedHosts, BodyError, BodyLimits, HttpService, ResponseBody};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::audit::AuditLog;
use crate::credentials::TokenStore;
use crate::http::answer::{ApiResponse, refusal};
use crate::http::negotiate::{self, ResponseFormat};
use crate::http::query::QueryParameters;
use crate::http::route::{self, RouteTarget};
use crate::options::ApiServerOptions;
use crate::registry::KindRegistry;
use crate::service_addresses::ServiceAddressAllocator;
use crate::status::ApiError;
use crate::store::ObjectStore;
use crate::{discovery, verbs};

/// The largest request body, as in Kubernetes, and the longest a client may take to send it.
const BODY: BodyLimits =
    BodyLimits { bytes_max: 3 * 1024 * 1024, deadline: Duration::from_secs(60) };

/// What all requests share.
pub(crate) struct ServerState {
    /// Every object.
    pub(crate) store: ObjectStore,
    /// Every kind.
    pub(crate) registry: KindRegistry,
    /// Every token.
    pub(crate) credentials: TokenStore,
    /// Where writes are noted.
    pub(crate) audit: AuditLog,
    /// The addresses of Services.
    pub(crate) addresses: ServiceAddressAllocator,
    /// What it was started with.
    pub(crate) options: ApiServerOptions,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The `Host` names it answers to.
    pub(crate) hosts: AllowedHosts,
    /// Cancelled once the server stops.
    pub(crate) stop: CancellationToken,
}

/// One authenticated request.
#[derive(Debug)]
pub(crate) struct AuthenticatedRequest {
    /// The name behind the token.
    pub(crate) user: String,
    /// The `User-Agent`, possibly empty.
    pub(crate) agent: String,
    /// The HTTP method.
    pub(crate) method: Method,
    /// The query parameters.
    pub(crate) query: QueryParameters,
    /// The shape wanted.
    pub(crate) shape: ResponseFormat,
    /// The body's media type without parameters, in lower case, possibly empty.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: Bytes,
}

impl AuthenticatedRequest {
    /// The field manager: as named, else the first word of the user agent, as Kubernetes does.
    pub(crate) fn field_manager(&self) -> String {
        let agent = self.agent.split('/').next().unwrap_or("");
        let named = self.query.text("fieldManager").unwrap_or(agent);
        named.chars().filter(|c| !c.is_control()).take(128).collect()
    }

    /// Whether nothing is to be stored.
    ///
    /// # Errors
    ///
    /// 400 for any other value than `All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        let values = self.query.all("dryRun");
        if let Some(other) = values.iter().find(|value| !value.is_empty() && *value != "All") {
            let message = format!("dryRun: `{other}` is not supported; the only value is `All`");
            return Err(ApiError::bad_request(message));
        }
        Ok(values.iter().any(|value| value == "All"))
    }
}

impl HttpService for ServerState {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let (parts, body) = request.into_parts();
        match self.answer(&parts, body).await {
            Ok(answer) => answer.into_response(),
            Err(failure) => {
                debug!(code = failure.code, message = %failure.message, "refused");
                refusal(&failure)
            }
        }
    }
}

impl ServerState {
    async fn answer(
        self: &Arc<Self>,
        parts: &Parts,
        body: Incoming,
    ) -> Result<ApiResponse, ApiError> {
        self.hosts.check(parts).map_err(|foreign| {
            let message = format!("{foreign}; ask it as `{}`", self.address);
            ApiError::new(421, "MisdirectedRequest", message)
        })?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let user = self
            .credentials
            .user(header(AUTHORIZATION))
            .ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))?;
        if parts.headers.contains_key("impersonate-user") {
            return Err(ApiError::forbidden(
                "impersonation is not served; use a kubeconfig of that user",
            ));
        }
        let target = route::parse(parts.uri.path())?;
        let media = header(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("");
        let call = AuthenticatedRequest {
            user,
            agent: header(USER_AGENT).unwrap_or("").to_owned(),
            method: parts.method.clone(),
            query: QueryParameters::parse(parts.uri.query().unwrap_or(""))?,
            shape: negotiate::choose(header(ACCEPT))?,
            content_type: media.trim().to_ascii_lowercase(),
            body: read_body(body).await?,
        };
        if let RouteTarget::Resource(path) = target {
            return verbs::dispatch(self, &call, &path).await;
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        discovery::answer(self, &call, &target)
    }
}

/// Reads the body of a request.
///
/// # Errors
///
/// 413 where it is too large, 408 where it is late, 400 where it breaks off.
async fn read_body(body: Incoming) -> Result<Bytes, ApiError> {
    tholepin_http::read_body(body, BODY).await.map_err(|error| match &error {
        BodyError::TooLarge { bytes_max } => {
            let message = format!("Request entity too large: limit is {bytes_max}");
            ApiError::new(413, "RequestEntityTooLarge", message)
        }
        BodyError::Late { .. } => ApiError::new(408, "Timeout", "the body did not arrive in time"),
        BodyError::Broken(_) => ApiError::bad_request(format!("the body: {error}")),
    })
}
