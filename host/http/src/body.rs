//! Bodies of requests, which are read with a limit and a deadline, and responses, which caches must not store.

use std::{convert::Infallible, error::Error, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tokio::time::timeout;

/// The body of every response.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// The limits of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The largest size in bytes.
    pub bytes_max: usize,
    /// The time in which the whole body must arrive.
    pub deadline: Duration,
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body is larger than allowed.
    #[error("the body has more than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {deadline:?}")]
    Late {
        /// The deadline.
        deadline: Duration,
    },
    /// The connection ended early, or the body is not valid HTTP.
    #[error("the body cannot be read")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// Reads a whole body.
///
/// # Errors
///
/// Fails if the body is too large, does not arrive in time, or is incomplete.
pub async fn read_body(body: Incoming, limits: BodyLimits) -> Result<Bytes, BodyError> {
    let BodyLimits { bytes_max, deadline } = limits;
    match timeout(deadline, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { bytes_max }),
        Ok(Err(error)) => Err(BodyError::Broken(error)),
        Err(_) => Err(BodyError::Late { deadline }),
    }
}

/// Returns a response with a complete body.
#[must_use]
pub fn whole(code: u16, content_type: &'static str, content: Vec<u8>) -> Response<ResponseBody> {
    respond(code, content_type, Full::new(Bytes::from(content)).boxed_unsync())
}

/// Returns a response that caches must not store. An invalid status code becomes 500.
#[must_use]
pub fn respond(
    code: u16,
    content_type: &'static str,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
