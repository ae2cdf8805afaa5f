//! Decides how a Redis Cluster moves from what was observed towards what its spec wants.
//!
//! This is the *planner* half of the plugin `redis-cluster`: it names what to do next and never does
//! it. The crate is `no_std`, so it cannot read a clock, open a socket, or walk a map in random
//! order; whatever it needs to know arrives as an argument.
//!
//! ```text
//! observe (I/O) ─► Observed ─► plan (this crate) ─► Plan ─► act (I/O) ─► observe …
//! ```
//!
//! Invariants:
//! - Equal inputs give equal plans, on any machine and in any order of members.
//! - Nothing is remembered: each step is the difference between what is wanted and what is seen, so
//!   a plan can be dropped half way and the next one goes on from there.
//! - A plan leaves nothing to choose: an action names its Pod and the state it presumes.
//! - A slot that anybody claims is never assigned; a node that may return is never forgotten.
//! - Waiting is part of a plan, and says for what.

#![no_std]
extern crate alloc;

#[cfg(test)]
extern crate std;

mod check;
mod cluster_model;
pub mod configuration;
mod decide;
mod last_words;
mod layout;
mod names;
mod observed;
mod outdated;
mod plan;
mod reason;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod tests;
pub mod workload;

pub use check::Violation;
pub use decide::plan;
pub use last_words::last_words;
pub use layout::{ClusterLayout, MemberPosition};
pub use names::ObjectNames;
pub use observed::{Observed, PodSilence, TemplateRevision};
pub use plan::{ClusterStage, Decision, MemberView, NextPod, OutdatedPods, Plan, ShardPlan};
pub use reason::WaitReason;

// ── The policy ──────────────────────────────────────────────────────────────────────────────────
// Change a value, run `make plugins`, and the running host uses it: no process restarts.

/// Milliseconds until a cluster that is as wanted is looked at again. Changes wake the plugin sooner;
/// this is for what nobody reports.
pub const HEALTHY_REQUEUE_MS: u64 = 10_000;

/// Milliseconds until a cluster that is being formed or healed is looked at again: short, because
/// each look lets the next step follow at once; not zero, because gossip needs time.
pub const BUSY_REQUEUE_MS: u64 = 50;

/// Milliseconds until a cluster that waits for somebody else (a Pod, a vote, a person) is looked at
/// again.
pub const WAITING_REQUEUE_MS: u64 = 500;

/// The setting that keeps the cluster itself from electing a replica.
pub(crate) const NO_FAILOVER: &str = "cluster-replica-no-failover";

/// Milliseconds beyond the node timeout in which the process of a primary that hangs may be ended, before its
/// replacement is left to the cluster's election. Kubernetes needs 1 to 3 s to end it, and 1 s to say so.
pub const FENCE_MS_MAX: u64 = 8_000;

/// How many bytes of the stream of writes a replica may lack and still count as in sync. Only such a
/// one is promoted.
pub const REPLICA_BEHIND_BYTES_MAX: u64 = 1024 * 1024;

/// The node timeout of a node that does not know all slots yet, in milliseconds. Gossip runs at half
/// of it and a node becomes writable after it, so that 6 nodes form in 0.5 s instead of 5 s. A node
/// that serves clients never has it for long: it gets the spec's timeout back as soon as it knows
/// all slots and finds the cluster well.
pub const FORMING_NODE_TIMEOUT_MS: u32 = 500;

/// The most settings that members are given in one pass.
pub const SETTINGS_MAX: usize = 128;

/// The most meetings in one plan. A full mesh of 32 nodes fits; gossip does the rest.
pub const MEETINGS_MAX: usize = 496;
