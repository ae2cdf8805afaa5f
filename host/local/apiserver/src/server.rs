//! The handling of one request: authentication, routing, and dispatch to `verbs` or `discovery`.
//!
//! The checks run in this order: `Host` header, token, path, query and `Accept` header, body.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tholepin_http::{BodyError, BodyLimits, HttpService, ResponseBody};
use tracing::debug;

use crate::http::answer::{ApiResponse, refusal};
use crate::http::negotiate;
use crate::http::query::QueryParameters;
use crate::http::request::AuthenticatedRequest;
use crate::http::route::{self, ApiRouteTarget};
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::{discovery, verbs};

/// The largest request body, as in Kubernetes, and the longest time in which a client must send it.
const BODY: BodyLimits =
    BodyLimits { bytes_max: 3 * 1024 * 1024, deadline: Duration::from_secs(60) };

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
            let message = format!("{foreign}; use the address `{}`", self.address);
            ApiError::new(421, "MisdirectedRequest", message)
        })?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let user = self
            .credentials
            .user(header(AUTHORIZATION))
            .ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))?;
        if parts.headers.contains_key("impersonate-user") {
            return Err(ApiError::forbidden(
                "impersonation is not supported; use a kubeconfig of that user",
            ));
        }
        let target = route::parse(parts.uri.path())?;
        let media = header(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("");
        let call = AuthenticatedRequest {
            user,
            agent: header(USER_AGENT).unwrap_or("").to_owned(),
            method: parts.method.clone(),
            query: QueryParameters::parse(parts.uri.query().unwrap_or(""))?,
            format: negotiate::choose(header(ACCEPT))?,
            content_type: media.trim().to_ascii_lowercase(),
            body: read_body(body).await?,
        };
        if let ApiRouteTarget::Resource(path) = target {
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
/// 413 if the body is too large, 408 if it arrives too late, 400 if it breaks off.
async fn read_body(body: Incoming) -> Result<Bytes, ApiError> {
    tholepin_http::read_body(body, BODY).await.map_err(|error| match &error {
        BodyError::TooLarge { bytes_max } => {
            let message = format!("Request entity too large: limit is {bytes_max}");
            ApiError::new(413, "RequestEntityTooLarge", message)
        }
        BodyError::Late { .. } => {
            ApiError::new(408, "Timeout", "the request body did not arrive in time")
        }
        BodyError::Broken(source) => {
            ApiError::bad_request(format!("the request body cannot be read: {source}"))
        }
    })
}
