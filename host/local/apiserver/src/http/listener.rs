//! The TLS listener, which passes each request to the server.
//!
//! Every connection is a task of one set, which is joined when the listener ends. ALPN selects HTTP/1.1 or HTTP/2.
//! Detecting the version from the first bytes would need a read without a deadline.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tholepin_http::{HttpService, ListenerLimits, accept_each, serve_http1};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::status::error_text;

/// The longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest an HTTP/1.1 connection may wait for a request's headers. Clients keep idle connections for up to
/// 90 s; a longer limit here makes the client close an idle connection first.
const HEADERS: Duration = Duration::from_secs(120);
/// The interval of HTTP/2 keep-alive pings, and the longest wait for the reply.
const PING: Duration = Duration::from_secs(30);
/// The most concurrent connections.
const CONNECTIONS_MAX: usize = 1_024;
/// The most concurrent requests of one HTTP/2 connection, including watches.
const STREAMS_MAX: u32 = 1_000;

/// Runs the streams of HTTP/2 connections as tasks of a tracker that can be awaited.
#[derive(Clone)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Serves until `stop` is cancelled, then waits for connections to end, at most `grace`.
pub(crate) async fn run<S: HttpService>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    server: Arc<S>,
    stop: CancellationToken,
    grace: Duration,
) {
    let acceptor = TlsAcceptor::from(tls);
    let streams = TaskTracker::new();
    let limits = ListenerLimits { connections_max: CONNECTIONS_MAX, grace };
    accept_each(listener, limits, &stop, |stream| {
        let (acceptor, server) = (acceptor.clone(), Arc::clone(&server));
        let (stop, tracked) = (stop.clone(), TrackedExecutor(streams.clone()));
        async move {
            if let Err(error) = connection(stream, acceptor, server, stop, tracked).await {
                debug!(error = error_text(&*error), "a connection ended with an error");
            }
        }
    })
    .await;
    streams.close();
    if timeout(grace, streams.wait()).await.is_err() {
        warn!(left = streams.len(), "requests were still running when the server stopped");
    }
}

async fn connection<S: HttpService>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    server: Arc<S>,
    stop: CancellationToken,
    tracked: TrackedExecutor,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let handshake = timeout(HANDSHAKE, acceptor.accept(stream));
    let stream = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        stream = handshake => {
            stream.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(stream, server, stop, tracked).await?;
    } else {
        serve_http1(stream, server, HEADERS, stop).await?;
    }
    Ok(())
}

async fn http2<S: HttpService>(
    stream: TlsStream<TcpStream>,
    server: Arc<S>,
    stop: CancellationToken,
    tracked: TrackedExecutor,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.serve(request).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(tracked)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
