//! Accepts connections up to a bound, and ends them within a bound.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::body::ResponseBody;

/// Pause after a failed accept, for instance when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// The most connections served at once; more wait to be accepted.
    pub connections_max: usize,
    /// How long connections may go on after the stop.
    pub grace: Duration,
}

/// Answers requests.
pub trait HttpService: Send + Sync + 'static {
    /// Answers one request; whatever goes wrong is an answer too.
    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Serves each connection until `stop`, then lets them end.
pub async fn accept_each<F>(
    listener: TcpListener,
    limits: ListenerLimits,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let ListenerLimits { connections_max, grace } = limits;
    let mut connections = JoinSet::new();
    while let Some(stream) = next(&listener, connections_max, &mut connections, stop).await {
        connections.spawn(serve(stream));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Waits for a connection, joins those that have ended, and gives nothing once it is time to stop.
async fn next(
    listener: &TcpListener,
    connections_max: usize,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Option<TcpStream> {
    loop {
        let room = connections.len() < connections_max;
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if room => accepted,
        };
        match accepted {
            Ok((stream, _)) => return Some(stream),
            Err(error) => warn!(%error, "cannot accept a connection"),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Serves one HTTP/1.1 connection until the client closes it, is silent for longer than `headers`, or
/// `stop`: then a request in flight is still answered.
///
/// # Errors
///
/// Fails if the client breaks off or does not speak HTTP.
pub async fn serve_http1<S: HttpService>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: Arc<S>,
    headers: Duration,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.serve(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
