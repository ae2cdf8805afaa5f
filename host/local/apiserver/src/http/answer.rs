//! Conversion of results of the verbs to HTTP responses.

use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use hyper::header::{HeaderValue, RETRY_AFTER};
use serde_json::Value;
use tholepin_http::{ResponseBody, respond, whole};

use crate::status::ApiError;

/// A successful response.
pub(crate) enum ApiResponse {
    /// A JSON document.
    Json {
        /// The HTTP status.
        code: u16,
        /// The document.
        value: Value,
        /// Warnings that the client shows to its user.
        warnings: Vec<String>,
    },
    /// A JSON document with a media type of its own, or plain text.
    Text {
        /// The media type.
        content_type: &'static str,
        /// The document.
        text: Vec<u8>,
    },
    /// A stream of pieces, each sent as soon as it is available.
    Stream {
        /// The media type.
        content_type: &'static str,
        /// The pieces.
        pieces: BoxStream<'static, Bytes>,
    },
}

impl ApiResponse {
    /// Returns a response with status 200 and a document.
    pub(crate) fn ok(value: Value) -> Self {
        Self::Json { code: 200, value, warnings: Vec::new() }
    }

    /// Returns the HTTP status.
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::Json { code, .. } => *code,
            Self::Text { .. } | Self::Stream { .. } => 200,
        }
    }

    /// Converts to the HTTP response.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        match self {
            Self::Json { code, value, warnings } => {
                let mut text = serde_json::to_vec(&value).unwrap_or_default();
                text.push(b'\n');
                let mut response = whole(code, "application/json", text);
                for warning in warnings {
                    let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
                    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                        response.headers_mut().append("warning", value);
                    }
                }
                response
            }
            Self::Text { content_type, text } => whole(200, content_type, text),
            Self::Stream { content_type, pieces } => {
                let frames = pieces.map(|piece| Ok(Frame::data(piece)));
                respond(200, content_type, BodyExt::boxed_unsync(StreamBody::new(frames)))
            }
        }
    }
}

/// Converts an error to the HTTP response.
pub(crate) fn refusal(failure: &ApiError) -> Response<ResponseBody> {
    let mut text = serde_json::to_vec(&failure.to_value()).unwrap_or_default();
    text.push(b'\n');
    let mut response = whole(failure.code, "application/json", text);
    if let Some(seconds) = failure.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
