//! A proxy to a server that can stop in the middle of a reply.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// What happens to the replies beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepliesEnd {
    /// Nothing more is sent, and the connection stays open.
    Silence,
    /// The connection is closed.
    Cut,
}

/// The remaining bytes of replies and what follows; absent without a limit.
type ReplyLimit = Arc<Mutex<Option<(usize, RepliesEnd)>>>;

/// A proxy; dropping it stops it.
pub(crate) struct ReplyProxy {
    pub(crate) address: SocketAddr,
    limit: ReplyLimit,
    _tasks: JoinSet<()>,
}

impl ReplyProxy {
    /// Starts a proxy to this server, on another port of the server's own address.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = ReplyLimit::default();
        let shared = limit.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                connections.spawn(forward(client, server, shared.clone()));
            }
        });
        Self { address, limit, _tasks: tasks }
    }

    /// Forwards at most this many bytes of replies, on all connections together.
    pub(crate) fn limit(&self, bytes: usize, end: RepliesEnd) {
        *self.limit.lock().unwrap() = Some((bytes, end));
    }

    /// Removes the limit.
    pub(crate) fn open(&self) {
        *self.limit.lock().unwrap() = None;
    }
}

async fn forward(client: TcpStream, server: TcpStream, limit: ReplyLimit) {
    let ((mut from_client, to_client), (from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = forward_replies(from_server, to_client, limit) => {}
    }
}

async fn forward_replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: ReplyLimit) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let (forwarded, end) = {
            let mut limit = limit.lock().unwrap();
            match limit.as_mut() {
                None => (count, None),
                Some((left, end)) => {
                    let forwarded = count.min(*left);
                    *left -= forwarded;
                    (forwarded, (forwarded < count).then_some(*end))
                }
            }
        };
        if to.write_all(&buffer[..forwarded]).await.is_err() {
            return;
        }
        match end {
            None => {}
            Some(RepliesEnd::Cut) => return,
            // Waits until the client closes the connection.
            Some(RepliesEnd::Silence) => std::future::pending().await,
        }
    }
}
