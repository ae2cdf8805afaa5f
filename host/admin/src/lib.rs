//! The host's HTTP servers: the admin API for its command line, with the client, and the health and metrics
//! endpoints for Prometheus and the kubelet.
//!
//! ```text
//! tholepin plan ─► AdminClient ─ reads admin.json ─► 127.0.0.1:PORT ─► AdminServer ─► dyn AdminRoutes
//! Prometheus, kubelet ──────────────────► --metrics-address ─► HealthServer ─► dyn HealthSource
//! ```
//!
//! The crate transports documents. The binary decides what a route does and what is healthy: it implements
//! [`AdminRoutes`] and [`HealthSource`].
//!
//! Invariants:
//! - The admin API listens on a loopback address only, and serves only requests with the token of the admin file,
//!   which only this user can read.
//! - The health and metrics endpoints answer every client, and contain no names of objects.
//! - Connections and bodies have a limit, and connections, headers, bodies and replies a deadline.

mod api;
mod client;
mod file;
mod health;
mod message;
mod query;
mod report;

pub use api::{AdminApiStartError, AdminServer};
pub use client::{AdminClient, AdminClientError, AdminReplyError};
pub use file::{AdminFile, AdminFileError};
pub use health::{HealthListenError, HealthServer, HealthSource};
pub use message::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
pub use report::{HealthCheckOutcome, HealthCheckReport, HealthCheckResult};
