//! Makes a Kubernetes for one machine out of the embedded API server, the node agent and the few controllers a workload needs.
//!
//! Everything here speaks to the API through a `kube::Client` and knows no Redis and no plugin. Each
//! controller is a pure decision over observed objects and a thin loop that performs it.
//!
//! ```text
//! API server ─► mirrors (one watch per kind) ─► marks ─► decide (pure) ─► writes ─► API server
//! ```

pub mod addresses;
mod agents;
pub mod cluster;
pub mod events;
pub mod forwarder;
pub mod labels;
pub mod mirror;
pub mod mirrors;
pub mod names;
pub mod scheduler;
pub mod service;
pub mod statefulset;
pub mod volumes;
pub mod work;
pub mod writes;

pub use cluster::{ImageSource, LocalCluster, LocalError, LocalOptions, start};
