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
