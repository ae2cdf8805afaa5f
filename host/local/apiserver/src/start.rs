//! Starts and stops the server: its files, its listener and its tasks.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tholepin_http::{AllowedHosts, private_directory, write_private};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::credentials::{ADMIN, TokenError, TokenStore, write_kubeconfig};
use crate::http::listener;
use crate::options::ApiServerOptions;
use crate::pki::{self, TlsIdentityError};
use crate::registry::KindRegistry;
use crate::server_state::ServerState;
use crate::service_addresses::ServiceAddressAllocator;
use crate::status::ApiError;
use crate::store::{HistoryRetention, ObjectStore};
use crate::verbs::create::{FieldOwnership, create};
use crate::{audit, collect, kinds};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory cannot be made or made private.
    #[error("cannot use the directory `{}` for the API server's files", .path.display())]
    Directory {
        /// The directory, or a file in it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another address or stop what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Keys or certificates cannot be made.
    #[error("cannot make the server's identity")]
    Identity(#[from] TlsIdentityError),
    /// A token cannot be made.
    #[error("cannot make the admin's token")]
    Token(#[from] TokenError),
    /// The first objects cannot be made.
    #[error("cannot create the initial namespaces: {0}")]
    Initial(String),
}

/// A server that runs until [`ApiServer::shutdown`]. Dropping it ends its tasks without grace.
pub struct ApiServer {
    /// The admin's kubeconfig, readable by this user only.
    pub kubeconfig: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate of its authority, PEM.
    pub authority_pem: String,
    server: Arc<ServerState>,
    tasks: JoinSet<()>,
    writer: JoinSet<()>,
    running: DropGuard,
    grace: Duration,
}

/// Starts a server. It is ready when this returns.
///
/// # Errors
///
/// Its files cannot be written, or its address cannot be had.
pub async fn start(options: ApiServerOptions) -> Result<ApiServer, StartError> {
    let listener = std::net::TcpListener::bind(options.listen);
    let listener =
        listener.map_err(|source| StartError::Listen { address: options.listen, source })?;
    start_on(listener, options).await
}

/// As [`start`], on a socket that listens on the address of the options already.
///
/// # Errors
///
/// Its files cannot be written.
pub async fn start_on(
    listener: std::net::TcpListener,
    options: ApiServerOptions,
) -> Result<ApiServer, StartError> {
    let directory = options.directory.clone();
    let in_directory = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Directory { path, source }
    };
    private_directory(&directory).map_err(in_directory(&directory))?;
    let unusable = |source| StartError::Listen { address: options.listen, source };
    listener.set_nonblocking(true).map_err(unusable)?;
    let listener = TcpListener::from_std(listener).map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let identity = pki::generate(address.ip())?;
    let authority = directory.join("ca.crt");
    write_private(&authority, identity.authority_pem.as_bytes())
        .map_err(in_directory(&authority))?;
    let credentials = TokenStore::default();
    let kubeconfig = directory.join("kubeconfig");
    let token = credentials.issue(ADMIN)?;
    write_kubeconfig(&kubeconfig, address, &identity.authority_pem, ADMIN, &token)
        .map_err(in_directory(&kubeconfig))?;
    let audit_path = directory.join("audit.jsonl");
    let (audit, writer) = audit::open(audit_path.clone(), options.audit_bytes_max)
        .await
        .map_err(in_directory(&audit_path))?;

    let stop = CancellationToken::new();
    let running = stop.clone().drop_guard();
    let grace = options.shutdown_grace;
    let server = Arc::new(ServerState {
        store: ObjectStore::new(HistoryRetention::of_events(options.watch_cache_events_max)),
        registry: KindRegistry::builtin(),
        credentials,
        audit,
        addresses: ServiceAddressAllocator::new(options.service_addresses),
        options,
        address,
        hosts: AllowedHosts::new(address.ip(), &pki::NAMES),
        stop: stop.clone(),
    });
    create_initial_namespaces(&server).map_err(|failure| StartError::Initial(failure.message))?;
    let (mut tasks, mut writing) = (JoinSet::new(), JoinSet::new());
    writing.spawn(writer.run());
    tasks.spawn(collect::run(Arc::clone(&server)));
    tasks.spawn(listener::run(listener, identity.tls, Arc::clone(&server), stop, grace));
    Ok(ApiServer {
        kubeconfig,
        address,
        authority_pem: identity.authority_pem,
        server,
        tasks,
        writer: writing,
        running,
        grace,
    })
}

/// Creates the namespaces that are always there.
///
/// # Errors
///
/// One cannot be created.
fn create_initial_namespaces(server: &Arc<ServerState>) -> Result<(), ApiError> {
    let (cx, namespaces) = kinds::initial_namespaces(server)?;
    for object in namespaces {
        create(&cx, object, FieldOwnership::Create)?;
    }
    Ok(())
}

impl ApiServer {
    /// Makes a token under which `user` appears in the audit log.
    ///
    /// # Errors
    ///
    /// The system gives no random bytes, or a thousand tokens exist already.
    pub fn token_for(&self, user: &str) -> Result<String, TokenError> {
        self.server.credentials.issue(user)
    }

    /// Writes a kubeconfig for `user`, with a token of its own, that only this system user can read.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, user: &str, path: &Path) -> Result<(), StartError> {
        let token = self.token_for(user)?;
        write_kubeconfig(path, self.address, &self.authority_pem, user, &token)
            .map_err(|source| StartError::Directory { path: path.to_owned(), source })
    }

    /// Stops: watches end, requests in flight are answered, all tasks are joined. Takes at most three
    /// times the grace of the options.
    pub async fn shutdown(self) {
        let Self { server, mut tasks, mut writer, running, grace, .. } = self;
        drop(running);
        let twice = grace.saturating_mul(2) + Duration::from_secs(1);
        if timeout(twice, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tasks.shutdown().await;
        }
        // The writer ends when the last of those who can write has gone.
        drop(server);
        if timeout(grace, async { while writer.join_next().await.is_some() {} }).await.is_err() {
            writer.shutdown().await;
        }
    }
}
