//! What is asked of the admin API, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_core::BoxedFuture;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminMethod {
    /// To look.
    Get,
    /// To have something done.
    Post,
}

/// One authenticated request.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminRequest {
    /// What it wants.
    pub method: AdminMethod,
    /// Of what: the path, such as `/v1/plan`.
    pub path: String,
    /// The decoded parameters after the `?`; of a repeated one the last counts.
    pub query: BTreeMap<String, String>,
    /// The document sent; null if none was.
    pub body: Value,
}

/// Why a request has no result. It travels as `{"error": {"reason": …, "message": …}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", content = "message")]
pub enum AdminError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Who asks has not shown the token.
    #[error("{0}")]
    Denied(String),
    /// There is no such path, object or recording.
    #[error("{0}")]
    NotFound(String),
    /// Not now: something else must happen before.
    #[error("{0}")]
    Conflict(String),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
    /// It went wrong on the way.
    #[error("{0}")]
    Failed(String),
}

impl AdminError {
    /// The HTTP status.
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

/// What the admin API can do.
pub trait AdminRoutes: Send + Sync + 'static {
    /// Answers one request. It is dropped when the client hangs up, and after a bound.
    ///
    /// # Errors
    ///
    /// [`AdminError::NotFound`] for a path that it does not have.
    fn handle(&self, request: AdminRequest) -> BoxedFuture<'_, Result<Value, AdminError>>;
}
