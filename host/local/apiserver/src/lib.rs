//! Serves the Kubernetes API from memory, for one machine and one user.
//!
//! It stores objects and enforces the API's rules; it schedules nothing, runs nothing and forgets
//! everything when it stops. Schemas, patches, ownership of fields and tables are computed by
//! `tholepin-apimachinery`; this crate owns storage, time, sockets and the order of things.
//!
//! ```text
//! listener (TLS) ─► server (host, token, path) ─► verbs ─► store ─► history ─► watches
//!                                                  │ kinds, registry │
//!                                                  └─► audit         └─► collect
//! ```
//!
//! Invariants:
//! - One revision counts every change of every kind; a list and a watch that begins there miss nothing.
//! - No client can block a writer, and none is served without a token and the right `Host`.
//! - Every write of a client or of the collector leaves a line in the audit log.

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

pub use credentials::TokenError;
pub use options::{ApiServerOptions, LogError, LogOptions, LogStream, LogTarget, OpenLog, PodLogs};
pub use pki::TlsIdentityError;
pub use start::{ApiServer, StartError, start, start_on};
