//! The requests and errors of the admin API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_core::BoxedFuture;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminMethod {
    /// Reads something.
    Get,
    /// Changes something.
    Post,
}

/// One authenticated request.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminRequest {
    /// The method.
    pub method: AdminMethod,
    /// The path, such as `/v1/plan`.
    pub path: String,
    /// The decoded parameters of the query; of a repeated parameter, the last value.
    pub query: BTreeMap<String, String>,
    /// The document in the body; null if there is none.
    pub body: Value,
}

/// Why a request has no result. It travels as `{"error": {"reason": …, "message": …}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", content = "message")]
pub enum AdminError {
    /// The request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The request has no valid token, or was sent to another host name.
    #[error("{0}")]
    Denied(String),
    /// The path, object or recording does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The current state does not allow the request; it may succeed later.
    #[error("{0}")]
    Conflict(String),
    /// There was no reply in time.
    #[error("{0}")]
    Timeout(String),
    /// The host failed to perform the request.
    #[error("{0}")]
    Failed(String),
}

impl AdminError {
    /// Returns the HTTP status.
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::Denied(_) => 401,
            Self::NotFound(_) => 404,
            Self::Conflict(_) => 409,
            Self::Timeout(_) => 504,
            Self::Failed(_) => 500,
        }
    }
}

/// The routes of the admin API.
pub trait AdminRoutes: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client disconnects, and after 90 s.
    ///
    /// # Errors
    ///
    /// Fails with [`AdminError::NotFound`] if there is no such path, and with other errors of the route.
    fn handle(&self, request: AdminRequest) -> BoxedFuture<'_, Result<Value, AdminError>>;
}
