//! Probes a port: connects, or sends one HTTP GET and reads the answer.
//!
//! The crate gets an address and does not know Pods. The gate decides whether a probe is allowed.
//!
//! Invariants:
//! - A probe is one connection with at most one request, within one deadline. It is not retried and follows no
//!   redirect.
//! - The number of bytes read of an answer is bounded: 16 KiB for its headers, and `PROBE_BODY_BYTES_MAX` for its body.

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use tholepin_core::{BoxedFuture, port::PodPortProber};
use tholepin_schema::probe::{NetworkProbeOutcome, PROBE_BODY_BYTES_MAX};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The number of bytes reserved for the status line and headers when the answer is bounded.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The prober that uses the network of this machine.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPodPortProber;

impl PodPortProber for NetworkPodPortProber {
    fn probe<'a>(
        &'a self,
        address: SocketAddr,
        get: Option<&'a str>,
        deadline: Duration,
    ) -> BoxedFuture<'a, NetworkProbeOutcome> {
        Box::pin(async move {
            let outcome = timeout(deadline, connect_and_get(address, get)).await;
            outcome.unwrap_or_else(|_| {
                let what = if get.is_some() { "an answer" } else { "a connection" };
                NetworkProbeOutcome::Silent { why: format!("waited {deadline:?} for {what}") }
            })
        })
    }
}

async fn connect_and_get(address: SocketAddr, get: Option<&str>) -> NetworkProbeOutcome {
    let began = Instant::now();
    let took_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return connect_failure(&error),
    };
    let Some(path) = get else { return NetworkProbeOutcome::Connected { took_ms: took_ms() } };
    match exchange(&mut stream, address, path).await {
        Ok(answer) => parse_answer(&answer, took_ms()),
        Err(error) => NetworkProbeOutcome::Failed { why: error.to_string() },
    }
}

fn connect_failure(error: &Error) -> NetworkProbeOutcome {
    if error.kind() == ErrorKind::ConnectionRefused {
        NetworkProbeOutcome::Refused
    } else {
        NetworkProbeOutcome::Silent { why: error.to_string() }
    }
}

/// Sends the request and reads the answer. Uses HTTP/1.0, for which servers neither use chunked encoding nor keep
/// the connection open.
async fn exchange(
    stream: &mut TcpStream,
    address: SocketAddr,
    path: &str,
) -> Result<Vec<u8>, Error> {
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: tholepin\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let bound = HEAD_BYTES_MAX + PROBE_BODY_BYTES_MAX + 1;
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    stream.take(bound).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Parses an answer, of which at most the bound was read.
fn parse_answer(answer: &[u8], took_ms: u64) -> NetworkProbeOutcome {
    let failed = |why: &str| NetworkProbeOutcome::Failed { why: why.to_owned() };
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return failed("the answer is not HTTP: its headers have no end");
    };
    let (head, body) = answer.split_at(end);
    let Some(status) = status(head) else {
        return failed("the answer is not HTTP: it does not begin with a status line");
    };
    let body = body.get(4..).unwrap_or_default();
    let shown = body.get(..PROBE_BODY_BYTES_MAX).unwrap_or(body);
    NetworkProbeOutcome::Answered {
        status,
        body: String::from_utf8_lossy(shown).into_owned(),
        cut: shown.len() < body.len(),
        took_ms,
    }
}

/// Parses the status code of a status line such as `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut fields = std::str::from_utf8(line).ok()?.split(' ');
    fields.next().filter(|version| version.starts_with("HTTP/1."))?;
    let is_status =
        |field: &&str| field.len() == 3 && field.bytes().all(|byte| byte.is_ascii_digit());
    fields.next().filter(is_status)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// Probes a server that sends this answer, and returns the outcome and the request.
    async fn probe_server(
        answer: &'static [u8],
        get: Option<&str>,
    ) -> (NetworkProbeOutcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            // The write fails if the prober has closed the connection.
            stream.write_all(answer).await.ok();
            String::from_utf8(request[..count].to_vec()).unwrap()
        };
        tokio::join!(NetworkPodPortProber.probe(address, get, DEADLINE), serve)
    }

    #[tokio::test]
    async fn a_get_returns_status_and_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nloading";
        let (outcome, request) = probe_server(answer, Some("/healthz?full=1")).await;
        let NetworkProbeOutcome::Answered { status, body, cut, took_ms: _ } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((status, body.as_str(), cut), (503, "loading", false));
        assert!(
            request.starts_with("GET /healthz?full=1 HTTP/1.0\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\n"), "{request}");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_is_a_failure() {
        for answer in [
            b"-ERR unknown command\r\n".as_slice(),
            b"SSH-2.0 hello\r\n\r\n",
            b"HTTP/1.1 20x OK\r\n\r\n",
            b"HTTP/1.1 +20 OK\r\n\r\nx",
            b"",
        ] {
            let (outcome, _) = probe_server(answer, Some("/")).await;
            assert!(matches!(outcome, NetworkProbeOutcome::Failed { .. }), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn the_body_is_cut_at_the_bound() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
        let endless: &'static [u8] = Vec::leak([head, &[b'x'; 1 << 20]].concat());
        let (outcome, _) = probe_server(endless, Some("/")).await;
        let NetworkProbeOutcome::Answered { body, cut, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((body.len(), cut), (PROBE_BODY_BYTES_MAX, true));
    }

    #[tokio::test]
    async fn connect_timeout_and_refusal_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = NetworkPodPortProber.probe(address, None, DEADLINE).await;
        assert!(matches!(connected, NetworkProbeOutcome::Connected { .. }), "{connected:?}");
        let silent =
            NetworkPodPortProber.probe(address, Some("/"), Duration::from_millis(20)).await;
        assert!(matches!(silent, NetworkProbeOutcome::Silent { .. }), "{silent:?}");
        drop(listener);
        assert_eq!(
            NetworkPodPortProber.probe(address, Some("/"), DEADLINE).await,
            NetworkProbeOutcome::Refused
        );
    }
}
