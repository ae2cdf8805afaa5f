//! Kubernetes as the host sees it: watches, the store they feed, and requests to the API server.
//!
//! The only crate of the host, besides the local one, that knows the `kube` client. It performs what it
//! is asked and decides nothing: whether a plugin may do something is the gate's question.
//!
//! Invariants:
//! - Every request has a deadline of five seconds, and is sent once: who asked decides about repeats.
//! - A Secret's clear value leaves only through `secret_value`; everywhere else is its fingerprint.
//! - A Secret in use can be read while the API server is away.
//! - An apply that would change nothing is not sent.

mod accepted;
mod api;
mod apply_cache;
mod crd;
mod error;
mod event_cache;
mod events;
mod fingerprint;
mod follow;
mod hub;
mod kinds;
mod lists;
mod meter;
mod names;
mod raw;
mod secrets;
mod selector;
mod status_writer;
mod store;
mod subscriptions;
mod template;
mod view;
mod watch_context;
mod whole;

#[cfg(test)]
mod testing;

pub use api::{KubernetesApi, KubernetesApiError, KubernetesApiOptions};
pub use fingerprint::SecretFingerprinter;
pub use hub::WatchReport;
pub use names::NamedKind;
pub use watch_context::WatchHubOptions;
