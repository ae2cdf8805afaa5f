//! A Kubernetes cluster on one machine: the embedded API server, a node agent per node, and the few
//! controllers that a workload needs.
//!
//! The crate uses the API only through a `kube::Client`. Each controller consists of a pure decision over
//! observed objects and a thin loop that performs the writes.
//!
//! ```text
//! API server ─► reflectors (one watch per kind) ─► dirty keys ─► decide (pure) ─► writes ─► API server
//! ```

pub mod addresses;
mod agents;
pub mod api_writer;
pub mod cluster;
pub mod events;
pub mod hosts_file_names;
pub mod labels;
mod name_hash;
mod parts;
pub mod reflector;
pub mod reflectors;
pub mod scheduler;
pub mod service;
pub mod service_proxy;
pub mod statefulset;
pub mod volumes;
pub mod worker;

pub use cluster::{ImageSource, LocalCluster, LocalError, LocalOptions, start};
