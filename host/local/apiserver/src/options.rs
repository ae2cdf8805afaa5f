//! What a server is started with, and the one thing it asks of others: the logs of containers.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hyper::body::Bytes;

/// How to start the API server.
#[derive(Clone)]
pub struct ApiServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `ca.crt`, `kubeconfig` and `audit.jsonl` are written; made private to this user (0700).
    pub directory: PathBuf,
    /// First and last address given to Services, both included.
    pub service_addresses: (Ipv4Addr, Ipv4Addr),
    /// Where container logs come from; without it the `log` subresource answers 501.
    pub pod_logs: Option<Arc<dyn PodLogs>>,
    /// Changes kept per resource for watches that begin in the past; an older position gets 410. Fewer
    /// are kept where they are older than five minutes or weigh too much together.
    pub watch_cache_events_max: usize,
    /// How often a quiet watch is told the current resourceVersion.
    pub bookmark_interval: Duration,
    /// How long a watch lasts that names no `timeoutSeconds`.
    pub watch_timeout: Duration,
    /// How long connections may take to end once the server stops.
    pub shutdown_grace: Duration,
    /// Size at which `audit.jsonl` is rotated to `audit.jsonl.1`; at most two files of it exist.
    pub audit_bytes_max: u64,
}

impl ApiServerOptions {
    /// The usual values for a server at `listen` that keeps its files in `directory`.
    ///
    /// Services get `127.22.240.0` to `127.22.255.254` until the caller says otherwise.
    pub fn new(listen: SocketAddr, directory: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            directory: directory.into(),
            service_addresses: (Ipv4Addr::new(127, 22, 240, 0), Ipv4Addr::new(127, 22, 255, 254)),
            pod_logs: None,
            watch_cache_events_max: 2_048,
            bookmark_interval: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(30 * 60),
            shutdown_grace: Duration::from_secs(5),
            audit_bytes_max: 64 * 1024 * 1024,
        }
    }
}

impl fmt::Debug for ApiServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServerOptions")
            .field("listen", &self.listen)
            .field("directory", &self.directory)
            .field("service_addresses", &self.service_addresses)
            .finish_non_exhaustive()
    }
}

/// Which part of a log is wanted, as `PodLogOptions` of the API says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is written from now on, until the container ends.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Begin each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only lines younger than this.
    pub since: Option<Duration>,
    /// Only lines from this moment on, RFC 3339.
    pub since_time: Option<String>,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Whose log is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: String,
    /// The Pod's uid.
    pub uid: String,
    /// The node that runs it; empty while it is not scheduled.
    pub node: String,
    /// The container.
    pub container: String,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The container has not run, or not before.
    #[error("{0}")]
    NotFound(String),
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

/// A log: pieces of bytes until its end.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// The answer to come of [`PodLogs::open`].
pub type OpenLog<'a> = Pin<Box<dyn Future<Output = Result<LogStream, LogError>> + Send + 'a>>;

/// Gives the logs of containers.
pub trait PodLogs: Send + Sync {
    /// Opens one container's log. The stream ends when the reader drops it.
    fn open(&self, target: LogTarget, options: LogOptions) -> OpenLog<'_>;
}
