//! Forwards the connections of one listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::routes::ServiceBackends;

/// How long one endpoint may take to accept. Endpoints are on this machine, so only a stopped process exceeds
/// it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// The pause after an error of `accept`, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The state that the connections of one listener share.
pub(super) struct ServiceListenerState {
    /// The current endpoints.
    pub(super) backends: watch::Receiver<ServiceBackends>,
    /// One permit per connection, over all listeners.
    pub(super) permits: Arc<Semaphore>,
    /// Stops accepting new connections.
    pub(super) accepting: CancellationToken,
    /// Ends all connections too.
    pub(super) stop: CancellationToken,
}

/// Accepts connections until it is told to stop, then waits for the remaining ones.
pub(super) async fn accept(listener: TcpListener, connections: ServiceListenerState) {
    let mut running = JoinSet::new();
    let mut turn: usize = 0;
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections.permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = connections.accepting.cancelled() => break,
            () = connections.stop.cancelled() => break,
            Some(_) = running.join_next() => {}
            (permit, accepted) = accepted => match (permit, accepted) {
                (Ok(permit), Ok((client, _))) => {
                    turn = turn.wrapping_add(1);
                    let backends = rotated(&connections.backends.borrow(), turn);
                    running.spawn(async move {
                        forward(client, &backends).await;
                        drop(permit);
                    });
                }
                (_, Err(error)) => {
                    debug!(%error, "a connection was not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
                // The semaphore is never closed. Without a permit no connection may be accepted.
                (Err(_), Ok(_)) => break,
            },
        }
    }
    drop(listener);
    let drain = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = drain => {}
        () = connections.stop.cancelled() => {}
    }
    running.shutdown().await;
}

/// Returns all endpoints, starting with the one whose turn it is.
fn rotated(backends: &[SocketAddr], turn: usize) -> ServiceBackends {
    let mut ordered = backends.to_vec();
    if !ordered.is_empty() {
        let first = turn % ordered.len();
        ordered.rotate_left(first);
    }
    ordered
}

/// Connects a client to the first endpoint that accepts, and copies bytes until one side ends.
async fn forward(mut client: TcpStream, backends: &[SocketAddr]) {
    let Some(mut server) = dial(backends).await else {
        // The client sees a reset as an error. An ordinary end would look like an empty reply.
        let _ = client.set_zero_linger();
        return;
    };
    // Without this, small requests wait for acknowledgements.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
        let is_usual = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        );
        if !is_usual {
            debug!(%error, "a forwarded connection broke");
        }
        let _ = client.set_zero_linger();
    }
}

async fn dial(backends: &[SocketAddr]) -> Option<TcpStream> {
    for backend in backends {
        match timeout(CONNECT_DEADLINE, TcpStream::connect(backend)).await {
            Ok(Ok(server)) => return Some(server),
            Ok(Err(error)) => debug!(%backend, %error, "an endpoint refused a connection"),
            Err(_) => debug!(%backend, "an endpoint did not accept a connection in time"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn endpoints_take_turns() {
        let backends: ServiceBackends = ["127.24.1.1:1", "127.24.1.2:1", "127.24.1.3:1"]
            .map(|address| address.parse().unwrap())
            .into();
        let firsts: Vec<_> = (0..4).map(|turn| rotated(&backends, turn)[0]).collect();
        assert_eq!(firsts, [backends[0], backends[1], backends[2], backends[0]]);
        assert!(rotated(&[], 7).is_empty());
    }

    /// Starts a server that answers `ping` with its name and then closes the connection.
    async fn server(name: &'static str) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.24.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4];
                if stream.read_exact(&mut request).await.is_ok() {
                    stream.write_all(name.as_bytes()).await.unwrap();
                }
            }
        });
        (address, tasks)
    }

    async fn ping(address: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"ping").await?;
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap()?;
        Ok(answer)
    }

    #[tokio::test]
    async fn connections_reach_endpoints_and_skip_dead_ones() {
        let (one, _one) = server("one").await;
        let (two, _two) = server("two").await;
        let dead = {
            let listener = TcpListener::bind("127.24.0.2:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let listener = TcpListener::bind("127.24.0.3:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (backends, receiver) = watch::channel(vec![one, two, dead]);
        let (accepting, stop) = (CancellationToken::new(), CancellationToken::new());
        let connections = ServiceListenerState {
            backends: receiver,
            permits: Arc::new(Semaphore::new(1)),
            accepting: accepting.clone(),
            stop: stop.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, connections));

        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(ping(address).await.unwrap());
        }
        let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
        assert!(0 < count("one") && 0 < count("two") && count("one") + count("two") == 6);

        backends.send_replace(vec![dead]);
        let refused = ping(address).await;
        assert!(refused.is_err(), "a client of dead endpoints is reset, not answered: {refused:?}");

        accepting.cancel();
        timeout(DEADLINE, tasks.join_next()).await.unwrap().unwrap().unwrap();
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
