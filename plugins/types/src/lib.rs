//! The Redis kinds that users declare: their specs, their statuses and what a spec may say.
//!
//! Types only: no decision is made here and nothing is read or written. The definitions in `crds/`
//! are made from these types (feature `schema`), so a field cannot be in one and not in the other.
//!
//! Invariants:
//! - A default of a field is its default in the definition: the API server fills it in, and reading
//!   an object that it did not fill in gives the same.
//! - What the definition can say (ranges, what must not change) it says; [`validation`] holds the
//!   rest. No rule is in both.

#![no_std]
extern crate alloc;

pub mod redis_cluster;
pub mod setting;
pub mod validation;

#[cfg(feature = "schema")]
pub mod definition;

/// The API group of the Redis kinds.
pub const GROUP: &str = "redis.tholepin.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";
/// Group and version as objects name them.
pub const API_VERSION: &str = "redis.tholepin.dev/v1alpha1";
