//! The one fake of the host's ports, for the unit tests of the crates that call them.
//!
//! [`FakeCluster`] implements every port of `tholepin_core::port` that reaches Kubernetes or Redis. A test
//! puts objects and a snapshot into it, runs the code under test, and reads which writes arrived.
//!
//! What it honours, because tests of the callers would otherwise pass for the wrong reason:
//! - label selectors, with the parser of the embedded API server;
//! - namespaces, controller references, uids and resource versions as preconditions;
//! - coverage: an object of a kind that is not watched is answered by requests and is not in the store.
//!
//! What it does not do: server-side apply (an apply replaces the whole object), admission, garbage collection,
//! and anything that Redis decides.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests use it: a panic there is a failed test"
)]

mod cluster;
mod kubernetes;
mod redis;
mod view;
mod watches;

pub use cluster::{FakeCluster, FixedClock, NOW_MS};
pub use view::{FakeView, Objects};
