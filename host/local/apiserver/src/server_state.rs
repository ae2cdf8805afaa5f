//! What all requests share.

use std::net::SocketAddr;

use tholepin_http::AllowedHosts;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;
use crate::credentials::TokenStore;
use crate::options::ApiServerOptions;
use crate::registry::KindRegistry;
use crate::service_addresses::ServiceAddressAllocator;
use crate::store::ObjectStore;

/// What all requests share.
pub(crate) struct ServerState {
    /// Every object.
    pub(crate) store: ObjectStore,
    /// Every kind.
    pub(crate) registry: KindRegistry,
    /// Every token.
    pub(crate) credentials: TokenStore,
    /// Where writes are noted.
    pub(crate) audit: AuditLog,
    /// The addresses of Services.
    pub(crate) addresses: ServiceAddressAllocator,
    /// What it was started with.
    pub(crate) options: ApiServerOptions,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The `Host` names it answers to.
    pub(crate) hosts: AllowedHosts,
    /// Cancelled once the server stops.
    pub(crate) stop: CancellationToken,
}
