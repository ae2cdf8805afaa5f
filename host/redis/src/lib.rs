//! Speaks to the processes of an instance: pipelines, the snapshot, the verbs, the watch.
//!
//! This crate performs; whether something may be done is the gate's question. It takes addresses from
//! the [`InstanceMembers`] it is given and from nowhere else: what a node says about other nodes is a fact to
//! report, never a place to connect to.
//!
//! ```text
//! Members ─► pool (connections, AUTH, bounds) ─► resp (bytes ↔ arena) ─► parse (pure) ─► observe
//!                                                                                    └─► act
//! ```
//!
//! The protocol is spoken here and not by a client library, because each call has a deadline after
//! which its connection must be closed, each reply has a bound, and nothing may run detached.
//!
//! Invariants:
//! - Every wait has a deadline; dropping a call closes its connection.
//! - A connection goes back to the pool only after every reply on it was read.
//! - A password is in memory only, and in no error text.
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
pub use port::RedisPort;
