//! The client of the admin API, for the command line on the same machine and as the same user.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tholepin_http::{BodyError, BodyLimits, read_body};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    file::{AdminFile, AdminFileError},
    message::{AdminError, AdminMethod},
    query,
};

/// The largest reply that is read, in bytes.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A client for the host that wrote an admin file.
#[derive(Clone)]
pub struct AdminClient {
    path: PathBuf,
    file: AdminFile,
}

/// Why a request to a host has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminClientError {
    /// There is no usable admin file.
    #[error(
        "no running host is known: is `tholepin run` or `tholepin local` running? --admin-file names its file"
    )]
    NoFile(#[from] AdminFileError),
    /// The host that wrote the file does not listen any more.
    #[error(
        "no host answers at {address}, which `{}` names: is `tholepin run` or `tholepin local` running? \
         --admin-file names another", .path.display()
    )]
    NoAnswer {
        /// The address in the admin file.
        address: SocketAddr,
        /// The admin file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The host did not reply in time.
    #[error("the host at {address} did not answer `{route}` within {deadline:?}")]
    Late {
        /// The address of the host.
        address: SocketAddr,
        /// The path and query of the request.
        route: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The connection ended early, or the reply is not one of a host.
    #[error("the host at {address} gave no usable reply to `{route}`")]
    Broken {
        /// The address of the host.
        address: SocketAddr,
        /// The path and query of the request.
        route: String,
        /// What went wrong.
        source: AdminReplyError,
    },
    /// The host replied with an error.
    #[error(transparent)]
    Refused(#[from] AdminError),
}

/// Why a reply could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminReplyError {
    /// The path or the token cannot be sent in a request.
    #[error("the request is not valid HTTP")]
    Request(#[source] hyper::http::Error),
    /// The connection failed, or the server does not speak HTTP.
    #[error("the connection failed")]
    Connection(#[source] hyper::Error),
    /// The body of the reply is too large, too late or incomplete.
    #[error("cannot read the reply")]
    Body(#[source] BodyError),
    /// The reply is not a document.
    #[error("HTTP {code} with a body that is not JSON")]
    NotJson {
        /// The HTTP status.
        code: u16,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// The reply is an error document without a reason that this client knows.
    #[error("HTTP {code} without a known reason")]
    NoReason {
        /// The HTTP status.
        code: u16,
        /// The error of the parser.
        source: serde_json::Error,
    },
}

impl AdminClient {
    /// Returns the client for the host that wrote this admin file.
    ///
    /// # Errors
    ///
    /// Fails if the file does not exist, is accessible to other users, or is not an admin file.
    pub fn of_file(path: &Path) -> Result<Self, AdminClientError> {
        Ok(Self { path: path.to_owned(), file: AdminFile::read(path)? })
    }

    /// Returns the content of the admin file.
    #[must_use]
    pub const fn file(&self) -> &AdminFile {
        &self.file
    }

    /// Sends `GET path?parameters`, for a route that only reads.
    ///
    /// # Errors
    ///
    /// Fails if no host answers in time, or with the error of the host.
    pub async fn get(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<Value, AdminClientError> {
        let route = match parameters {
            [] => path.to_owned(),
            parameters => format!("{path}?{}", query::encode(parameters)),
        };
        self.send(AdminMethod::Get, &route, Bytes::new(), deadline).await
    }

    /// Sends `POST path` with a document, for a route that changes something.
    ///
    /// # Errors
    ///
    /// Fails if no host answers in time, or with the error of the host.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Value, AdminClientError> {
        self.send(AdminMethod::Post, path, body.to_string().into(), deadline).await
    }

    async fn send(
        &self,
        method: AdminMethod,
        route: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Value, AdminClientError> {
        let address = self.file.address;
        let request = async {
            let stream = TcpStream::connect(address).await;
            let path = self.path.clone();
            let stream =
                stream.map_err(|source| AdminClientError::NoAnswer { address, path, source })?;
            let broken =
                |source| AdminClientError::Broken { address, route: route.to_owned(), source };
            let reply = self.exchange(stream, method, route, body, deadline).await;
            reply.map_err(broken)?.map_err(AdminClientError::Refused)
        };
        timeout(deadline, request).await.unwrap_or_else(|_| {
            Err(AdminClientError::Late { address, route: route.to_owned(), deadline })
        })
    }

    /// Sends one request on a new connection. The outer error is one of the transport, the inner one of the host.
    async fn exchange(
        &self,
        stream: TcpStream,
        method: AdminMethod,
        route: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Result<Value, AdminError>, AdminReplyError> {
        let method = match method {
            AdminMethod::Get => Method::GET,
            AdminMethod::Post => Method::POST,
        };
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header(HOST, self.file.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.file.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(AdminReplyError::Request)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(AdminReplyError::Connection)?;
        let response = async {
            let reply = sender.send_request(request).await.map_err(AdminReplyError::Connection)?;
            let code = reply.status().as_u16();
            let limits = BodyLimits { bytes_max: REPLY_BYTES_MAX, deadline };
            let body = read_body(reply.into_body(), limits).await;
            parse_reply(code, &body.map_err(AdminReplyError::Body)?)
        };
        let mut connection = std::pin::pin!(connection);
        let mut response = std::pin::pin!(response);
        tokio::select! {
            reply = &mut response => reply,
            // The server may close the connection before the reply was read from it.
            _ = &mut connection => response.await,
        }
    }
}

/// Parses a reply: a result, or an error of the host. The outer error means that it is neither.
fn parse_reply(code: u16, body: &[u8]) -> Result<Result<Value, AdminError>, AdminReplyError> {
    let mut document: Value =
        serde_json::from_slice(body).map_err(|source| AdminReplyError::NotJson { code, source })?;
    if code == 200 {
        return Ok(Ok(document));
    }
    let error = document.get_mut("error").map(Value::take).unwrap_or_default();
    let error = serde_json::from_value(error);
    error.map(Err).map_err(|source| AdminReplyError::NoReason { code, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_result_or_a_typed_error_or_neither() {
        let result = parse_reply(200, b"{\"a\":1}").unwrap();
        assert_eq!(result, Ok(serde_json::json!({"a": 1})));
        let refused = br#"{"error":{"reason":"NotFound","message":"no such object"}}"#;
        let expected = AdminError::NotFound("no such object".to_owned());
        assert_eq!(parse_reply(404, refused).unwrap(), Err(expected));
        for (code, text) in [(404, "{}"), (502, "<html>"), (500, "{\"error\":{\"reason\":\"X\"}}")]
        {
            let error = parse_reply(code, text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(&code.to_string()), "{error}");
        }
    }
}
