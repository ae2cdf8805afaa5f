//! Bodies: requests are read up to a bound and a deadline, responses are never kept by a cache.

use std::{convert::Infallible, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tokio::time::timeout;

/// The body of every response.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// How much a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Its size.
    pub bytes_max: usize,
    /// How long it may take to arrive.
    pub deadline: Duration,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than allowed.
    #[error("it has more than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// It did not arrive in time.
    #[error("it did not arrive within {deadline:?}")]
    Late {
        /// The deadline.
        deadline: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("it cannot be read: {0}")]
    Broken(String),
}

/// Reads a whole body.
///
/// # Errors
///
/// Fails if it is too large, too late, or broken off.
pub async fn read_body(body: Incoming, limits: BodyLimits) -> Result<Bytes, BodyError> {
    let BodyLimits { bytes_max, deadline } = limits;
    match timeout(deadline, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { bytes_max }),
        Ok(Err(error)) => Err(BodyError::Broken(error.to_string())),
        Err(_) => Err(BodyError::Late { deadline }),
    }
}

/// A response whose body is known.
#[must_use]
pub fn whole(code: u16, content_type: &'static str, content: Vec<u8>) -> Response<ResponseBody> {
    respond(code, content_type, Full::new(Bytes::from(content)).boxed_unsync())
}

/// A response that no cache keeps. A code that is none becomes 500.
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
