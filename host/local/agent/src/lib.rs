//! The node agent: runs each Pod that is bound to its node as real processes of this machine.
//!
//! The agent is a kubelet without a container runtime. It reaches the API server only through a
//! [`kube::Client`], so the same agent serves the embedded API server of the local host and a real control
//! plane. One watch brings the Pods of the node; each Pod has a task, which asks the pure life cycle what to
//! do next, does it, and writes the Pod's status.
//!
//! ```text
//! agent ── one watch ──► Pod task ── Lifecycle (pure: next actions) ──► start · stop · probe
//!                           │                                            │
//!                           └─ status (pure) ─► API server   processes (one thread starts them all)
//!                                                                        └─► container_main: private root, exec
//! ```
//!
//! A container gets a private root ([`container_main`]), volumes, environment variables, probes, hooks,
//! restarts and logs as in Kubernetes. It does not get a network of its own (a Pod must bind the address that
//! the agent allocated for it), a pid namespace, limits on memory or CPU, another user (`runAsUser` and
//! `fsGroup` are ignored: everything runs as the user who started the agent), Service environment variables
//! or service account tokens. gRPC and HTTPS probes are not supported.
//!
//! SECURITY: a private root protects the machine from accidents. It is not a security boundary against a
//! hostile program: whoever may create Pods may do everything that the agent's user may do.
//!
//! Invariants:
//! - The processes of containers are killed when the agent ends, however it ends. [`clean_up`] finds and ends
//!   the processes that these have left behind.
//! - The end of a process is reported immediately, with the id of its container.
//! - Decisions (life cycle, environment, volumes, images, status) are pure functions; the code that does I/O
//!   decides nothing.

mod agent;
mod backoff;
mod config_source;
mod config_watches;
mod container;
mod directory;
mod downward;
mod env;
mod error_chain;
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
pub use backoff::{RetryPauses, retry_pause};
pub use container::{ContainerError, START_FAILED_EXIT_CODE, container_main};
pub use error_chain::error_chain;
pub use images::{ImageError, ImageTable};
pub use log::{LogError, LogOptions, PodLogFiles};
pub use namespaces::{LinuxNamespaceError, probe_namespaces};
pub use options::{AgentOptions, HostAliasSource, NodeOptions, PodAddressAllocator};
pub use orphans::{OrphanCleanupResult, clean_up};
