//! The node agent: runs each Pod that is bound to its node as real processes of this machine.
//!
//! It is a kubelet without a container runtime. It knows the API server through a [`kube::Client`] only,
//! so the same agent serves the embedded API server of the local host and a real control plane.
//!
//! ```text
//! agent ── one watch ──► Pod task ── Lifecycle (pure: what next?) ──► start · stop · probe
//!                           │                                            │
//!                           └─ status (pure) ─► API server   processes (one thread starts them all)
//!                                                                        └─► container_main: private root, exec
//! ```
//!
//! What a container gets: a private root ([`container_main`]), volumes, environment, probes, hooks,
//! restarts and logs as in Kubernetes. What it does not get: its own network (Pods bind the address that
//! the agent gave them), its own process ids, limits on memory or CPU, another user (`runAsUser` and
//! `fsGroup` are ignored: everything runs as the user who started the agent), Service environment
//! variables, service account tokens, gRPC and HTTPS probes.
//!
//! SECURITY: a private root shields the machine from accidents. It is no boundary against a hostile
//! program; whoever may create Pods may do whatever the agent's user may.
//!
//! Invariants:
//! - Processes die with the agent, however it ends; what they leave is found by [`clean_up`].
//! - The end of a process is reported at once, with the id of the container that it was.
//! - Decisions ([`run`]'s life cycle, environment, volumes, images, status) are pure; I/O decides nothing.

mod agent;
mod backoff;
mod chain;
mod config_source;
mod config_watches;
mod container;
mod directory;
mod downward;
mod env;
mod events;
mod expand;
mod handler_actions;
mod images;
mod lifecycle;
mod log;
mod namespaces;
mod node;
mod options;
mod orphans;
mod pod;
mod probe;
mod processes;
pub mod quantity;
mod rootfs;
mod status;
mod storage;
mod volume;

pub use agent::{AgentError, run};
pub use container::{ContainerError, START_FAILED_EXIT_CODE, container_main};
pub use images::{ImageError, ImageTable};
pub use log::{LogError, LogOptions, PodLogFiles};
pub use namespaces::{NamespaceError, probe_namespaces};
pub use options::{AddressPool, AgentOptions, HostAliasSource, NodeOptions};
pub use orphans::{OrphanCleanup, clean_up};
