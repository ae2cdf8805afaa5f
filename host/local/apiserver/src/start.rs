//! The start and the shutdown of the server: its files, its listener and its tasks.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tholepin_http::{AllowedHostHeaders, private_directory, write_private};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::credentials::{ADMIN, TokenIssueError, TokenStore, write_kubeconfig};
use crate::http::listener;
use crate::options::ApiServerOptions;
use crate::pki::{self, CertificateGenerationError};
use crate::registry::KindRegistry;
use crate::server_state::ServerState;
use crate::service_addresses::ServiceAddressAllocator;
use crate::status::ApiError;
use crate::store::{ApiStoreHistoryLimits, ObjectStore};
use crate::verbs::create::{FieldOwnersOnCreate, create};
use crate::{audit, collect, kinds};

/// The error of starting the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiServerStartError {
    /// The directory, or a file in it, cannot be created or made private.
    #[error("cannot use the directory `{}` for the API server's files", .path.display())]
    Directory {
        /// The directory, or a file in it.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The server cannot listen on the address.
    #[error("cannot listen on {address}; choose another address or stop what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system call.
        source: io::Error,
    },
    /// Keys or certificates cannot be generated.
    #[error("cannot generate the server's TLS identity")]
    Identity(#[from] CertificateGenerationError),
    /// A token cannot be issued.
    #[error("cannot issue a token")]
    Token(#[from] TokenIssueError),
    /// The initial namespaces cannot be created.
    #[error("cannot create the initial namespaces")]
    Initial(#[source] Box<dyn Error + Send + Sync>),
}

/// A running server. [`ApiServer::shutdown`] stops it; dropping it aborts its tasks without a grace period.
pub struct ApiServer {
    /// The path of the admin's kubeconfig, which only this system user can read.
    pub kubeconfig: PathBuf,
    /// The address on which the server listens.
    pub address: SocketAddr,
    /// The certificate of the server's authority, PEM.
    pub authority_pem: String,
    server: Arc<ServerState>,
    tasks: JoinSet<()>,
    writer: JoinSet<()>,
    running: DropGuard,
    grace: Duration,
}

/// Starts a server, which accepts requests when this returns.
///
/// # Errors
///
/// Fails if the files cannot be written, the address cannot be bound, the certificates or the token cannot be
/// generated, or the initial namespaces cannot be created.
pub async fn start(options: ApiServerOptions) -> Result<ApiServer, ApiServerStartError> {
    let listener = std::net::TcpListener::bind(options.listen);
    let listener = listener
        .map_err(|source| ApiServerStartError::Listen { address: options.listen, source })?;
    start_on(listener, options).await
}

/// Starts a server as [`start`] does, on a socket that listens already on the address of the options.
///
/// # Errors
///
/// As [`start`].
pub async fn start_on(
    listener: std::net::TcpListener,
    options: ApiServerOptions,
) -> Result<ApiServer, ApiServerStartError> {
    let directory = options.directory.clone();
    let in_directory = |path: &Path| {
        let path = path.to_owned();
        move |source| ApiServerStartError::Directory { path, source }
    };
    private_directory(&directory).map_err(in_directory(&directory))?;
    let unusable = |source| ApiServerStartError::Listen { address: options.listen, source };
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
        store: ObjectStore::new(ApiStoreHistoryLimits::of_events(options.watch_cache_events_max)),
        registry: KindRegistry::builtin(),
        credentials,
        audit,
        addresses: ServiceAddressAllocator::new(options.service_addresses),
        options,
        address,
        hosts: AllowedHostHeaders::new(address.ip(), &pki::NAMES),
        stop: stop.clone(),
    });
    create_initial_namespaces(&server)
        .map_err(|error| ApiServerStartError::Initial(error.into()))?;
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

/// Creates the initial namespaces.
///
/// # Errors
///
/// Fails if one of them cannot be created.
fn create_initial_namespaces(server: &Arc<ServerState>) -> Result<(), ApiError> {
    let (cx, namespaces) = kinds::initial_namespaces(server)?;
    for object in namespaces {
        create(&cx, object, FieldOwnersOnCreate::Create)?;
    }
    Ok(())
}

impl ApiServer {
    /// Issues a token; the audit log names `user` for its requests.
    ///
    /// # Errors
    ///
    /// Fails if the system returns no random bytes, or if a thousand tokens exist already.
    pub fn token_for(&self, user: &str) -> Result<String, TokenIssueError> {
        self.server.credentials.issue(user)
    }

    /// Writes a kubeconfig with a new token for `user`. Only this system user can read the file.
    ///
    /// # Errors
    ///
    /// Fails if the token cannot be issued or the file cannot be written.
    pub fn write_kubeconfig(&self, user: &str, path: &Path) -> Result<(), ApiServerStartError> {
        let token = self.token_for(user)?;
        write_kubeconfig(path, self.address, &self.authority_pem, user, &token)
            .map_err(|source| ApiServerStartError::Directory { path: path.to_owned(), source })
    }

    /// Stops the server: ends watches, answers requests in flight, and joins all tasks. Waits at most three times the
    /// grace period of the options, and one second.
    pub async fn shutdown(self) {
        let Self { server, mut tasks, mut writer, running, grace, .. } = self;
        drop(running);
        let twice = grace.saturating_mul(2) + Duration::from_secs(1);
        if timeout(twice, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tasks.shutdown().await;
        }
        // The audit writer ends when its last sender is dropped, which is part of the server's state.
        drop(server);
        if timeout(grace, async { while writer.join_next().await.is_some() {} }).await.is_err() {
            writer.shutdown().await;
        }
    }
}
