//! Accepts a limited number of connections, and ends them within a limited time after the stop.

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

/// The pause after a failed accept, for example when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// The most connections that are served concurrently; further ones wait to be accepted.
    pub connections_max: usize,
    /// How long connections may continue after the stop.
    pub grace: Duration,
}

/// A server that answers requests.
pub trait HttpService: Send + Sync + 'static {
    /// Answers one request. Errors are returned as responses.
    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Accepts connections and serves each in a task until `stop`. Then waits until the connections have ended, for the
/// grace period at most, and aborts those that have not.
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
    while let Some(stream) =
        next_connection(&listener, connections_max, &mut connections, stop).await
    {
        connections.spawn(serve(stream));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Waits for the next connection, and joins those that have ended meanwhile. Returns `None` after the stop.
async fn next_connection(
    listener: &TcpListener,
    connections_max: usize,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Option<TcpStream> {
    loop {
        let has_room = connections.len() < connections_max;
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if has_room => accepted,
        };
        match accepted {
            Ok((stream, _)) => return Some(stream),
            Err(error) => warn!(%error, "cannot accept a connection"),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Serves one HTTP/1.1 connection until the client closes it, sends no complete request headers for the time
/// `headers_deadline`, or until `stop`. A request that is in progress at the stop is still answered.
///
/// # Errors
///
/// Fails if the client disconnects during a request or does not send HTTP.
pub async fn serve_http1<S: HttpService>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: Arc<S>,
    headers_deadline: Duration,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.serve(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers_deadline)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    const LIMITS: ListenerLimits =
        ListenerLimits { connections_max: 2, grace: Duration::from_millis(100) };
    /// Longer than a slow machine needs.
    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_and_those_that_outlast_the_grace_are_aborted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let (stop, release) = (CancellationToken::new(), Semaphore::new(0));
        let release = Arc::new(release);
        let (active, peak) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let (sender, mut accepted) = mpsc::unbounded_channel();
        let serving = accept_each(listener, LIMITS, &stop, |stream| {
            let (release, active) = (release.clone(), active.clone());
            peak.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sender.send(()).unwrap();
            async move {
                release.acquire().await.unwrap().forget();
                active.fetch_sub(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        let using = async {
            accepted.recv().await.unwrap();
            accepted.recv().await.unwrap();
            release.add_permits(1);
            accepted.recv().await.unwrap();
            stop.cancel();
            Instant::now()
        };
        let ((), stopped_at) =
            timeout(DEADLINE, async { tokio::join!(serving, using) }).await.unwrap();
        assert_eq!(peak.load(Ordering::SeqCst), LIMITS.connections_max);
        let took = stopped_at.elapsed();
        assert!(LIMITS.grace <= took, "ended after {took:?}");
    }
}
