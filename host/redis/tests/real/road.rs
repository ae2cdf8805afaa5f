//! A road to a server that can be closed in the middle of a reply.

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

/// What happens to replies once the bytes that may pass have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepliesEnd {
    /// Nothing more comes, and the connection stays open.
    Silence,
    /// The connection is closed.
    Cut,
}

/// How far replies get; without a limit if none is set.
type ReplyLimit = Arc<Mutex<Option<(usize, RepliesEnd)>>>;

/// The road; it ends with this value.
pub(crate) struct ReplyProxy {
    pub(crate) address: SocketAddr,
    limit: ReplyLimit,
    _tasks: JoinSet<()>,
}

impl ReplyProxy {
    /// A road to this server. It lies on another port of the server's own address.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = ReplyLimit::default();
        let shared = limit.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut travellers = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                travellers.spawn(travel(client, server, shared.clone()));
            }
        });
        Self { address, limit, _tasks: tasks }
    }

    /// Lets so many bytes of replies through, on all connections together, and then does this.
    pub(crate) fn limit(&self, bytes: usize, end: RepliesEnd) {
        *self.limit.lock().unwrap() = Some((bytes, end));
    }

    /// Lets everything through again.
    pub(crate) fn open(&self) {
        *self.limit.lock().unwrap() = None;
    }
}

async fn travel(client: TcpStream, server: TcpStream, limit: ReplyLimit) {
    let ((mut from_client, to_client), (from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = replies(from_server, to_client, limit) => {}
    }
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: ReplyLimit) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let (passes, end) = {
            let mut limit = limit.lock().unwrap();
            match limit.as_mut() {
                None => (count, None),
                Some((left, end)) => {
                    let passes = count.min(*left);
                    *left -= passes;
                    (passes, (passes < count).then_some(*end))
                }
            }
        };
        if to.write_all(&buffer[..passes]).await.is_err() {
            return;
        }
        match end {
            None => {}
            Some(RepliesEnd::Cut) => return,
            // Until the client gives up.
            Some(RepliesEnd::Silence) => std::future::pending().await,
        }
    }
}
