//! The Redis kinds that users declare: their specs, their statuses, and the rules for valid specs.
//!
//! The CustomResourceDefinitions in `crds/` are generated from these types (feature `schema`), so a field is
//! never in one and missing in the other. The crate contains types and checks only: it makes no decisions and
//! performs no I/O.
//!
//! Invariants:
//! - A field has the same default in the type and in the definition. The API server fills it in; parsing an
//!   object in which it did not gives the same result.
//! - Rules that the definition can express (ranges, immutable fields) are in the definition only;
//!   [`validation`] has the others.

#![no_std]
extern crate alloc;

pub mod redis_cluster;
pub mod setting;
pub mod validation;

#[cfg(feature = "schema")]
pub mod definition;

/// The API group of the Redis kinds.
pub const GROUP: &str = "redis.tholepin.dev";
/// The served version of the kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version, as in `apiVersion` of an object.
pub const API_VERSION: &str = "redis.tholepin.dev/v1alpha1";
