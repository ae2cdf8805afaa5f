//! A Kubernetes cluster on one machine: the embedded API server, a node agent per node, and the few controllers
//! that a workload needs.
//!
//! The crate uses the API only through a `kube::Client`. Each controller consists of a pure decision over observed
//! objects and a thin loop that performs the writes.
//!
//! ```text
//! API server ─► reflectors (one watch per kind) ─► dirty keys ─► decide (pure) ─► writes ─► API server
//! ```
//!
//! Guarantees:
//! - A controller reads its own writes: the reflectors store the replies to them.
//! - A key is never reconciled twice concurrently, and a change is never dropped ([`worker`]).
//! - Every task is joined. A task that ends by itself ends the local host, with its reason.
//! - Two local hosts never share a directory or a block of addresses.
//!
//! There are controllers for StatefulSets, EndpointSlices and volume claims, a scheduler and a Service proxy. There
//! are none for Deployments, DaemonSets or Jobs, no network of Pods and no DNS server. The crate knows nothing of
//! Redis or of plugins.

pub mod addresses;
mod agents;
pub mod api_writer;
pub mod cluster;
pub mod events;
pub mod hosts_file_names;
pub mod labels;
mod name_hash;
pub mod reflector;
pub mod reflectors;
pub mod scheduler;
pub mod service;
pub mod service_proxy;
pub mod statefulset;
mod task_group;
pub mod volumes;
pub mod worker;

pub use cluster::{ImageTableSource, LocalCluster, LocalError, LocalOptions, start};
