//! The state that all requests share.

use std::net::SocketAddr;

use tholepin_http::AllowedHostHeaders;
use tokio_util::sync::CancellationToken;

use crate::audit::ApiAuditLog;
use crate::credentials::TokenStore;
use crate::options::ApiServerOptions;
use crate::registry::KindRegistry;
use crate::service_addresses::ServiceAddressAllocator;
use crate::store::ObjectStore;

/// The state that all requests share.
pub(crate) struct ServerState {
    /// All objects.
    pub(crate) store: ObjectStore,
    /// All served kinds.
    pub(crate) registry: KindRegistry,
    /// All tokens.
    pub(crate) credentials: TokenStore,
    /// The audit log of writes.
    pub(crate) audit: ApiAuditLog,
    /// The addresses of Services.
    pub(crate) addresses: ServiceAddressAllocator,
    /// The options of the server.
    pub(crate) options: ApiServerOptions,
    /// The address on which the server listens.
    pub(crate) address: SocketAddr,
    /// The `Host` names that the server accepts.
    pub(crate) hosts: AllowedHostHeaders,
    /// Cancelled when the server stops.
    pub(crate) stop: CancellationToken,
}
