//! Implements the Redis port: pipelines, snapshots, verbs and polling on the members of an instance.
//!
//! The gate decides whether a call is allowed; this crate performs it. It connects only to the addresses in
//! [`InstanceMembers`]. The addresses that a node reports for other nodes go into the snapshot and are never
//! dialled.
//!
//! ```text
//! Members ─► pool (connections, AUTH, bounds) ─► resp (bytes ↔ arena) ─► parse (pure) ─► observe
//!                                                                                    └─► act
//! ```
//!
//! The crate implements the protocol itself instead of using a client library, because a call that exceeds its
//! deadline must close its connection, replies must be bounded, and no task may run detached.
//!
//! Invariants:
//! - Every wait has a deadline; dropping a call closes its connection.
//! - A connection returns to the pool only after every reply on it was read.
//! - Passwords are kept in memory only and appear in no error text.
//!
//! [`InstanceMembers`]: tholepin_core::port::InstanceMembers

mod act;
mod connection;
mod ended_containers;
pub mod error;
mod limits;
mod lock;
mod observe;
pub mod parse;
mod poll;
mod pool;
mod port;
pub mod resp;

pub use limits::RedisClientLimits;
pub use port::RedisClient;
