//! The host's HTTP side: the admin API for its own command line, and the client of it.
//!
//! ```text
//! tholepin plan ─► AdminClient ─ reads admin.json ─► 127.0.0.1:PORT ─► AdminServer ─► dyn AdminRoutes
//! ```
//!
//! It moves JSON and decides nothing: what a route does is the business of whoever implements
//! [`AdminRoutes`].
//!
//! Invariants:
//! - The admin API listens on a loopback address only, and answers nobody without the token in the admin
//!   file, which this user alone can read.
//! - Everything has a bound: connections, bodies, headers, and the time of each of them.

mod api;
mod client;
mod file;
mod message;
mod query;

pub use api::{AdminServer, StartError};
pub use client::{AdminClient, AskError};
pub use file::{AdminFile, FileError};
pub use message::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
