//! The embedded Kubernetes API server, for one machine and one user.
//!
//! It serves HTTPS, keeps all objects in memory and enforces the rules of the API. It does not schedule or run Pods,
//! runs no controllers except garbage collection, and loses all objects when it stops. `tholepin-apimachinery` computes
//! schemas, patches, field ownership and tables; this crate owns storage, time and sockets.
//!
//! ```text
//! listener (TLS) ─► server (host, token, path) ─► verbs ─► store ─► history ─► watches
//!                                                  │ kinds, registry │
//!                                                  └─► audit         └─► collect
//! ```
//!
//! Invariants:
//! - One revision counter covers the changes of all kinds; a watch that starts at the revision of a list reports every
//!   later change.
//! - A slow reader does not block a writer. A request without a valid token and an allowed `Host` is refused.
//! - Every write by a client has a line in the audit log, and every write by the collector except the deletion of
//!   events and the removal of owner references.

mod access;
mod audit;
mod collect;
mod credentials;
mod discovery;
mod http;
mod kinds;
mod object;
mod options;
mod pki;
mod registry;
mod selection;
mod server;
mod server_state;
mod service_addresses;
mod start;
mod status;
mod store;
mod verbs;
mod view;
mod write_context;

pub use credentials::TokenIssueError;
pub use options::{ApiServerOptions, LogError, LogOptions, LogStream, LogTarget, OpenLog, PodLogs};
pub use pki::CertificateGenerationError;
pub use start::{ApiServer, ApiServerStartError, start, start_on};
