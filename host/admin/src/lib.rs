//! The host's HTTP side: the admin API for its own command line with its client, and the vital signs for
//! Prometheus and the kubelet.
//!
//! ```text
//! tholepin plan ─► AdminClient ─ reads admin.json ─► 127.0.0.1:PORT ─► AdminServer ─► dyn AdminRoutes
//! Prometheus, kubelet ──────────────────► --metrics-address ─► VitalsServer ─► dyn Vitals
//! ```
//!
//! It moves documents and decides nothing: what a route does, and what is healthy, is the business of
//! whoever implements [`AdminRoutes`] and [`HealthSource`].
//!
//! Invariants:
//! - The admin API listens on a loopback address only, and answers nobody without the token in the admin
//!   file, which this user alone can read.
//! - Vital signs are told to everybody who asks, and hold no name of an object.
//! - Everything has a bound: connections, bodies, headers, and the time of each of them.

mod api;
mod client;
mod file;
mod health;
mod message;
mod query;
mod report;

pub use api::{AdminServer, StartError};
pub use client::{AdminClient, AdminClientError};
pub use file::{AdminFile, FileError};
pub use health::{HealthServer, HealthSource, ListenError};
pub use message::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
pub use report::{Check, CheckOutcome, CheckReport};
