//! The host's access to one Kubernetes API server: watches, the store that they feed, and requests.
//!
//! ```text
//! lease()      ─► WatchHub ─► one task per watch ─► ObjectStore ─► view(), changes()
//! apply(), …   ─► request to the API server ─► the reply enters ObjectStore if a watch follows the object
//! ```
//!
//! Besides the local cluster, this is the only crate of the host that uses the `kube` client. It performs
//! the requests of its callers and takes no decision about them: the gate decides what a plugin may do.
//!
//! Invariants:
//! - Every request has a deadline of five seconds and is sent once; the caller decides about retries. The
//!   requests of a watch have a longer deadline, because a watch stays open, and are retried with a pause.
//! - A Secret's clear value leaves this crate only through `secret_value`; everything else shows its
//!   fingerprint.
//! - A Secret in use can be read while the API server does not answer.
//! - An apply that repeats the last one of its field manager is not sent while the object in the store is
//!   as the server returned it.

mod accepted;
mod api;
mod apply_cache;
mod crd;
mod error;
mod event_cache;
mod events;
mod fingerprint;
mod follow;
mod host_fields;
mod hub;
mod kinds;
mod lists;
mod lock;
mod meter;
mod names;
mod raw;
mod secrets;
mod selector;
mod store;
mod subscriptions;
mod template;
mod view;
mod watch_context;
mod whole;

#[cfg(test)]
mod testing;

pub use api::{KubernetesApi, KubernetesApiOptions, KubernetesClientBuildError};
pub use fingerprint::SecretFingerprinter;
pub use hub::WatchReport;
pub use names::KindFoundByName;
pub use watch_context::WatchHubOptions;
