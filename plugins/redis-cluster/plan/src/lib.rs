//! The planner of the plugin `redis-cluster`: decides how a Redis Cluster moves from the observed state
//! towards its spec.
//!
//! It only decides; the plugin performs the plan. The crate is `no_std`, so it cannot read a clock, open a
//! socket, or iterate over a map in random order. All its inputs are arguments.
//!
//! ```text
//! observe (I/O) ─► ObservedRedisCluster ─► plan (this crate) ─► Plan ─► act (I/O) ─► observe …
//! ```
//!
//! Invariants:
//! - Equal inputs give equal plans, on any machine and in any order of members.
//! - The planner keeps nothing itself: each step is the difference between the desired and the observed state.
//!   What must survive from one plan to the next is in the last status, which is an input. A plan can be
//!   abandoned half way, and the next one continues from there.
//! - A plan is complete: an action names its Pod and its preconditions.
//! - A slot that any node claims is never assigned, and a node that may return is never forgotten.
//! - A plan that cannot act contains a [`ClusterPlanWaitReason`].

#![no_std]
extern crate alloc;

#[cfg(test)]
extern crate std;

mod check;
mod cluster_model;
pub mod configuration;
mod decide;
mod last_output;
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

pub use check::RedisClusterPlanViolation;
pub use decide::plan;
pub use last_output::last_output;
pub use layout::{MemberPosition, ShardAndReplicaCounts};
pub use names::RedisClusterObjectNames;
pub use observed::{ObservedRedisCluster, PodSilence, StatefulSetTemplateRevision};
pub use plan::{
    ClusterStage, MemberState, OutdatedPods, OutdatedRedisPodChoice, Plan, RedisPlanDecision,
    ShardPlan,
};
pub use reason::ClusterPlanWaitReason;

// ── The policy ──────────────────────────────────────────────────────────────────────────────────
// Change a value and run `make plugins`: a running host uses it without restarting any process.

/// Milliseconds until a cluster in the desired state is observed again. Changes wake the plugin sooner; this
/// is for changes that nothing reports.
pub const HEALTHY_REQUEUE_MS: u64 = 10_000;

/// Milliseconds until a cluster that is being formed or healed is observed again. Short, because the next
/// step can follow each observation immediately; not zero, because gossip needs time.
pub const BUSY_REQUEUE_MS: u64 = 50;

/// Milliseconds until a cluster that waits for something else (a Pod, a vote, a person) is observed again.
pub const WAITING_REQUEUE_MS: u64 = 500;

/// The setting that keeps the cluster from electing this replica.
pub(crate) const NO_FAILOVER: &str = "cluster-replica-no-failover";

/// Milliseconds beyond the node timeout within which the process of a hanging primary must end; after that
/// its replacement is left to the cluster's election. Kubernetes needs 1 to 3 s to end it, and 1 s to report
/// the end.
pub const FENCE_MS_MAX: u64 = 8_000;

/// Bytes of the replication stream that a replica may lack and still count as in sync. Only a replica in sync
/// is promoted.
pub const REPLICA_BEHIND_BYTES_MAX: u64 = 1024 * 1024;

/// The node timeout, in milliseconds, of a node that does not know the owners of all slots yet. Gossip runs
/// at half of it, and a node becomes writable after it, so that 6 nodes form in 0.5 s instead of 5 s. A node
/// that serves clients never keeps it for long: it gets the spec's timeout as soon as it knows all owners and
/// reports `cluster_state:ok`.
pub const FORMING_NODE_TIMEOUT_MS: u32 = 500;

/// The most settings that are changed in one reconcile.
pub const SETTINGS_MAX: usize = 128;

/// The most `meet` actions in one plan. A full mesh of 32 nodes fits; gossip introduces the others.
pub const HANDSHAKES_MAX: usize = 496;
