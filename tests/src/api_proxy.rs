//! A proxy between the host and the API server, whose link can be cut or made silent.
//!
//! Only the host connects through the proxy, by a kubeconfig that names it; everything else in a test talks
//! to the API server directly. The proxy also records the host's writes, and can kill the host at one of
//! them, so that the product needs no test hook.

use std::{
    convert::Infallible,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, future, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::process::signal;

/// How long to wait for the port to be free again after it was closed.
const BIND_DEADLINE: Duration = Duration::from_secs(5);

/// The state of the link between the proxy and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiLink {
    /// Requests and responses are forwarded.
    Clear,
    /// Open connections are closed and new ones are refused.
    Cut,
    /// Connections are accepted and stay open, but nothing is forwarded on any of them.
    Silent,
}

/// When the host is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMoment {
    /// Before the write is forwarded to the API server.
    Before,
    /// After the API server has performed the write, and before the host gets the response.
    After,
}

impl fmt::Display for KillMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// A running proxy; ends when dropped.
pub struct ApiProxy {
    shared: Arc<Shared>,
    link: watch::Sender<ApiLink>,
    kubeconfig: PathBuf,
    _tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    link: watch::Receiver<ApiLink>,
    /// Watches with a smaller number than this forward no more events and do not end.
    hangs_before: AtomicU64,
    watches: AtomicU64,
    expired: AtomicU64,
    /// If set, writes are refused whose [`short`] name contains this text.
    refused: Mutex<Option<&'static str>>,
    write_log: Mutex<WriteLog>,
}

/// The writes that the host sent, and the write at which it is to be killed.
#[derive(Default)]
struct WriteLog {
    writes: Vec<String>,
    trap: Option<KillTrap>,
}

struct KillTrap {
    at: usize,
    moment: KillMoment,
    pid: u32,
    killed: watch::Sender<bool>,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl ApiProxy {
    /// Starts a proxy for the API server of this kubeconfig, and writes a kubeconfig that names the proxy into
    /// `folder`.
    ///
    /// # Errors
    ///
    /// Fails if the kubeconfig cannot be read, the proxy cannot listen, or the new kubeconfig cannot be written.
    pub async fn start(kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let mut file = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(file.clone(), &options).await?;
        config.default_retry = false;
        let server: SocketAddr = config
            .cluster_url
            .authority()
            .and_then(|authority| authority.as_str().parse().ok())
            .context("the kubeconfig has no `IP:PORT` server")?;
        // An address in the cluster's own block, so that no other process takes it while the proxy does not listen.
        let std::net::IpAddr::V4(ip) = server.ip() else {
            anyhow::bail!("the API server's address is not IPv4")
        };
        let [a, b, c, d] = ip.octets();
        let address = SocketAddr::from(([a, b, c, d + 1], server.port()));
        for cluster in file.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("http://{address}"));
        }
        let kubeconfig = folder.join("proxied.kubeconfig");
        fs::write(&kubeconfig, serde_json::to_string(&file)?)?;

        let (link, receiver) = watch::channel(ApiLink::Clear);
        let shared = Arc::new(Shared {
            client: Client::try_from(config)?,
            link: receiver,
            hangs_before: AtomicU64::new(0),
            watches: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            refused: Mutex::default(),
            write_log: Mutex::default(),
        });
        let listener = TcpListener::bind(address).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(shared.clone(), listener, address));
        Ok(Self { shared, link, kubeconfig, _tasks: tasks })
    }

    /// Returns the kubeconfig with which the host is started.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Sets the state of the link, which applies to open connections too.
    pub fn set(&self, link: ApiLink) {
        self.link.send_replace(link);
    }

    /// Refuses writes whose short name contains `part`, as an admission webhook would; `None` ends that.
    pub fn refuse(&self, part: Option<&'static str>) {
        *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner) = part;
    }

    /// Stops every watch that is open now: it forwards no more events and does not end. Later watches work.
    pub fn hang_watches(&self) {
        let next = self.shared.watches.load(Ordering::SeqCst);
        self.shared.hangs_before.store(next, Ordering::SeqCst);
    }

    /// Returns how many watches got `410 Gone` because their resource version was too old.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.shared.expired.load(Ordering::SeqCst)
    }

    /// Returns the recorded writes and clears the record.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.write_log().writes)
    }

    /// Clears the record of writes and kills process `pid` at the write number `at` from now (the first is 1).
    /// The returned value turns true after the kill.
    pub fn kill_at(&self, at: usize, moment: KillMoment, pid: u32) -> watch::Receiver<bool> {
        let (killed, receiver) = watch::channel(false);
        let mut write_log = self.shared.write_log();
        write_log.writes.clear();
        write_log.trap = Some(KillTrap { at, moment, pid, killed });
        receiver
    }

    /// Cancels [`kill_at`](Self::kill_at).
    pub fn cancel_kill(&self) {
        self.shared.write_log().trap = None;
    }
}

/// Accepts connections, except while the link is cut.
async fn serve(shared: Arc<Shared>, first: TcpListener, address: SocketAddr) {
    let mut listener = Some(first);
    let mut link = shared.link.clone();
    loop {
        if link.wait_for(|link| *link != ApiLink::Cut).await.is_err() {
            return;
        }
        let Some(listening) = listener_on(listener.take(), address).await else { return };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listening.accept() => if let Ok((stream, _)) = accepted {
                    stream.set_nodelay(true).ok();
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| answer(shared.clone(), request));
                        let connection =
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                        // An error means that the client closed the connection.
                        connection.await.ok();
                    });
                },
                cut = link.wait_for(|link| *link == ApiLink::Cut) => {
                    if cut.is_err() {
                        return;
                    }
                    break;
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listening);
        connections.shutdown().await;
    }
}

/// Returns the given listener, or binds a new one: closed connections may hold the port for a moment.
async fn listener_on(listener: Option<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
    if listener.is_some() {
        return listener;
    }
    let poll = || async { Ok(crate::wait::Poll::Done(TcpListener::bind(address).await?)) };
    let bound = crate::wait::until("the proxy's port", BIND_DEADLINE, poll).await;
    bound.ok().map(|(listener, _)| listener)
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let answered = shared.forward(request).await;
    Ok(answered.unwrap_or_else(|error| {
        let text = Bytes::from(format!("{error:#}"));
        let body = http_body_util::Full::new(text).map_err(|never| match never {});
        let mut answer = Response::new(body.boxed_unsync());
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    }))
}

impl Shared {
    fn write_log(&self) -> MutexGuard<'_, WriteLog> {
        self.write_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn forward(self: &Arc<Self>, request: Request<Incoming>) -> Result<Answer> {
        self.until_clear().await;
        let (mut parts, body) = request.into_parts();
        for name in [HOST, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let path = parts.uri.path_and_query().context("the request has no path")?.to_string();
        let is_watch = path.contains("watch=true");
        let trap = if parts.method == Method::GET || path.contains("dryRun") {
            None
        } else {
            self.record_write(&parts.method, &path)
        };
        if let Some(KillTrap { moment: KillMoment::Before, .. }) = &trap {
            return self.kill_host(trap).await;
        }
        if parts.method != Method::GET && self.refuses(&parts.method, &path) {
            return forbidden();
        }
        parts.uri = path.parse()?;
        let body = body.collect().await?.to_bytes();
        let sent = self.client.send(Request::from_parts(parts, Body::from(body))).await?;
        if trap.is_some() {
            return self.kill_host(trap).await;
        }
        self.until_clear().await;
        let (mut parts, body) = sent.into_parts();
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let number = is_watch.then(|| self.watches.fetch_add(1, Ordering::SeqCst));
        Ok(Response::from_parts(parts, self.forwarded_body(body, number)))
    }

    /// Records a write, and returns the kill trap if it is set at this write.
    fn record_write(&self, method: &Method, path: &str) -> Option<KillTrap> {
        let mut write_log = self.write_log();
        write_log.writes.push(short(method, path));
        let count = write_log.writes.len();
        write_log.trap.take_if(|trap| trap.at == count)
    }

    fn refuses(&self, method: &Method, path: &str) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|part| short(method, path).contains(part))
    }

    /// Kills the host and never answers its request.
    async fn kill_host(&self, trap: Option<KillTrap>) -> Result<Answer> {
        if let Some(KillTrap { pid, killed, .. }) = trap {
            signal(pid, "KILL")?;
            killed.send_replace(true);
        }
        std::future::pending().await
    }

    /// Returns a response body that forwards each frame only while the link is clear.
    fn forwarded_body(
        self: &Arc<Self>,
        body: Body,
        watch: Option<u64>,
    ) -> UnsyncBoxBody<Bytes, io::Error> {
        let shared = self.clone();
        let hangs = {
            let shared = shared.clone();
            move || watch.is_some_and(|own| own < shared.hangs_before.load(Ordering::SeqCst))
        };
        let ends = hangs.clone();
        let frames = TryStreamExt::map_err(BodyStream::new(body), io::Error::other);
        let frames = frames.then(move |frame: io::Result<Frame<Bytes>>| {
            let (shared, hangs) = (shared.clone(), hangs.clone());
            async move {
                shared.until_clear().await;
                if hangs() {
                    std::future::pending::<()>().await;
                }
                let is_expired = |bytes: &Bytes| {
                    let text = String::from_utf8_lossy(bytes);
                    text.contains("\"type\":\"ERROR\"") && text.contains("410")
                };
                if frame.as_ref().ok().and_then(Frame::data_ref).is_some_and(is_expired) {
                    shared.expired.fetch_add(1, Ordering::SeqCst);
                }
                frame
            }
        });
        // A hung watch does not end either.
        let end = stream::once(async move {
            if ends() {
                std::future::pending::<()>().await;
            }
            None
        });
        BodyExt::boxed_unsync(StreamBody::new(frames.chain(end.filter_map(future::ready))))
    }

    /// Waits until the link is clear.
    async fn until_clear(&self) {
        let mut link = self.link.clone();
        if link.wait_for(|link| *link == ApiLink::Clear).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns the response of an API server whose admission webhook denied the request.
fn forbidden() -> Result<Answer> {
    let status = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "reason": "Forbidden",
        "code": 403,
        "message": "admission webhook \"tests.tholepin.dev\" denied the request: refused by the test",
    });
    let body = http_body_util::Full::new(Bytes::from(status.to_string()));
    let body = BodyExt::boxed_unsync(body.map_err(|never| match never {}));
    let answer = Response::builder().status(StatusCode::FORBIDDEN);
    Ok(answer.header(hyper::header::CONTENT_TYPE, "application/json").body(body)?)
}

/// Returns a short name of a write: `patch statefulsets/cache-0 (tholepin:redis-cluster)`.
fn short(method: &Method, path: &str) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    // The path begins with `api/v1` or `apis/GROUP/VERSION`; for most kinds `namespaces/NAME` follows.
    let after_version = if segments.first() == Some(&"api") { 2 } else { 3 };
    let mut segments = segments.into_iter().skip(after_version).collect::<Vec<_>>();
    if segments.first() == Some(&"namespaces") && 2 < segments.len() {
        segments.drain(..2);
    }
    let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
    let manager = manager.map(|name| format!(" ({})", name.replace("%3A", ":")));
    let method = method.as_str().to_lowercase();
    format!("{method} {}{}", segments.join("/"), manager.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_has_a_short_name() {
        let cases = [
            (
                "/apis/apps/v1/namespaces/default/statefulsets/a?fieldManager=tholepin%3Ap&force=true",
                "patch statefulsets/a (tholepin:p)",
            ),
            ("/api/v1/namespaces/default/configmaps/a", "patch configmaps/a"),
            ("/api/v1/namespaces/default", "patch namespaces/default"),
            ("/apis/tholepin.dev/v1alpha1/plugins/p/status", "patch plugins/p/status"),
        ];
        for (path, segments) in cases {
            assert_eq!(short(&Method::PATCH, path), segments);
        }
    }
}
