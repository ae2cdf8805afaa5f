//! The options of the server, and the trait through which it reads container logs.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hyper::body::Bytes;
use jiff::Timestamp;

/// The options of the API server.
#[derive(Clone)]
pub struct ApiServerOptions {
    /// The address to listen on; port 0 means a free port.
    pub listen: SocketAddr,
    /// The directory of `ca.crt`, `kubeconfig` and `audit.jsonl`; the server makes it private (mode 0700).
    pub directory: PathBuf,
    /// The first and the last address for Services, both included.
    pub service_addresses: (Ipv4Addr, Ipv4Addr),
    /// The source of container logs; without it the `log` subresource answers 501.
    pub pod_logs: Option<Arc<dyn PodLogs>>,
    /// The most changes that are kept per resource for watches that start in the past; a watch from an older revision
    /// gets 410. Changes older than five minutes are dropped, and older ones first if all changes use too much memory.
    pub watch_cache_events_max: usize,
    /// The interval of bookmarks, which report the current resourceVersion to a watch without changes.
    pub bookmark_interval: Duration,
    /// The duration of a watch without `timeoutSeconds`.
    pub watch_timeout: Duration,
    /// The longest wait for connections to end when the server stops.
    pub shutdown_grace: Duration,
    /// The size at which `audit.jsonl` is rotated to `audit.jsonl.1`; at most these two files exist.
    pub audit_bytes_max: u64,
}

impl ApiServerOptions {
    /// Returns the default options for a server at `listen` that keeps its files in `directory`.
    ///
    /// Services get addresses from `127.22.240.0` to `127.22.255.254` unless the caller sets `service_addresses`.
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

/// The requested part of a log, as in `PodLogOptions` of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Continue with lines that are written later, until the container ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Prefix each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only lines that are at most this old.
    pub since: Option<Duration>,
    /// Only lines from this time on, RFC 3339.
    pub since_time: Option<Timestamp>,
    /// End after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// The container whose log is requested.
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
    /// The container's name.
    pub container: String,
}

/// The error of opening a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The container has no such log: it has not run, or has no previous run.
    #[error(transparent)]
    NotFound(Box<dyn Error + Send + Sync>),
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

/// The bytes of a log, in pieces.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// The future that [`PodLogs::open`] returns.
pub type OpenLog<'a> = Pin<Box<dyn Future<Output = Result<LogStream, LogError>> + Send + 'a>>;

/// A source of container logs.
pub trait PodLogs: Send + Sync {
    /// Opens one container's log. The reader may drop the stream before its end.
    fn open(&self, target: LogTarget, options: LogOptions) -> OpenLog<'_>;
}
