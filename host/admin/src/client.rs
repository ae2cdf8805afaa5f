//! The client of the admin API: for the command line, on the same machine and as the same user.

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
use tholepin_http::{BodyLimits, read_body};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    file::{AdminFile, FileError},
    message::{AdminError, AdminMethod},
    query,
};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A host that can be asked.
#[derive(Clone)]
pub struct AdminClient {
    path: PathBuf,
    file: AdminFile,
}

/// Why a host gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminClientError {
    /// There is no admin file to go by.
    #[error(
        "no running host is known: is `tholepin run` or `tholepin local` running? --admin-file names its file"
    )]
    NoFile(#[from] FileError),
    /// The host that left the file does not listen any more.
    #[error(
        "no host answers at {address}, which `{}` names: is `tholepin run` or `tholepin local` running? \
         --admin-file names another", .path.display()
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
        /// The file that says so.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The answer did not come in time.
    #[error("the host at {address} did not answer `{route}` within {deadline:?}")]
    Late {
        /// Where.
        address: SocketAddr,
        /// What was asked.
        route: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The connection broke, or what answers is no host.
    #[error("the host at {address} gave no answer to `{route}` that can be read: {message}")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// What was asked.
        route: String,
        /// What went wrong.
        message: String,
    },
    /// The host answered why not.
    #[error(transparent)]
    Refused(#[from] AdminError),
}

impl AdminClient {
    /// The host that left this admin file.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file, or if it is none.
    pub fn of_file(path: &Path) -> Result<Self, AdminClientError> {
        Ok(Self { path: path.to_owned(), file: AdminFile::read(path)? })
    }

    /// What the admin file says.
    #[must_use]
    pub const fn file(&self) -> &AdminFile {
        &self.file
    }

    /// Looks: `GET path?parameters`.
    ///
    /// # Errors
    ///
    /// Fails if no host answers in time, or with what it answers.
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
        self.ask(AdminMethod::Get, &route, Bytes::new(), deadline).await
    }

    /// Has something done: `POST path` with a document.
    ///
    /// # Errors
    ///
    /// Fails if no host answers in time, or with what it answers.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Value, AdminClientError> {
        self.ask(AdminMethod::Post, path, body.to_string().into(), deadline).await
    }

    async fn ask(
        &self,
        method: AdminMethod,
        route: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Value, AdminClientError> {
        let address = self.file.address;
        let asked = async {
            let stream = TcpStream::connect(address).await;
            let path = self.path.clone();
            let stream =
                stream.map_err(|source| AdminClientError::NoAnswer { address, path, source })?;
            let broken =
                |message| AdminClientError::Broken { address, route: route.to_owned(), message };
            let answer = self.exchange(stream, method, route, body, deadline).await;
            answer.map_err(broken)?.map_err(AdminClientError::Refused)
        };
        timeout(deadline, asked).await.unwrap_or_else(|_| {
            Err(AdminClientError::Late { address, route: route.to_owned(), deadline })
        })
    }

    /// One request on a connection of its own. The outer error is one of the transport.
    async fn exchange(
        &self,
        stream: TcpStream,
        method: AdminMethod,
        route: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Result<Value, AdminError>, String> {
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
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let answered = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let code = answer.status().as_u16();
            let limits = BodyLimits { bytes_max: ANSWER_BYTES_MAX, deadline };
            let body = read_body(answer.into_body(), limits).await;
            read(code, &body.map_err(|error| error.to_string())?)
        };
        let mut connection = std::pin::pin!(connection);
        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            // The connection may be over before the answer is taken from it.
            _ = &mut connection => answered.await,
        }
    }
}

/// Reads an answer: a result, or an error of the host.
fn read(code: u16, body: &[u8]) -> Result<Result<Value, AdminError>, String> {
    let mut document: Value = serde_json::from_slice(body)
        .map_err(|_| format!("HTTP {code}, and what follows is no JSON"))?;
    if code == 200 {
        return Ok(Ok(document));
    }
    let error = document.get_mut("error").map(Value::take).unwrap_or_default();
    let error = serde_json::from_value(error);
    error.map(Err).map_err(|_| format!("HTTP {code} without a reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_result_or_a_typed_error_or_neither() {
        assert_eq!(read(200, b"{\"a\":1}"), Ok(Ok(serde_json::json!({"a": 1}))));
        let refused = br#"{"error":{"reason":"NotFound","message":"no such object"}}"#;
        let expected = AdminError::NotFound("no such object".to_owned());
        assert_eq!(read(404, refused), Ok(Err(expected)));
        for (code, text) in [(404, "{}"), (502, "<html>"), (500, "{\"error\":{\"reason\":\"X\"}}")]
        {
            let error = read(code, text.as_bytes()).unwrap_err();
            assert!(error.contains(&code.to_string()), "{error}");
        }
    }
}
