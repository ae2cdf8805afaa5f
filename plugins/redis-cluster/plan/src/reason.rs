//! The reasons for which a plan waits. Each becomes the `reason` and `message` of a condition.

use alloc::string::String;

use tholepin_schema::primitives::{NodeId, Slot};

/// Why nothing can be done about something yet. The text says what the plan waits for and, where a person is
/// needed, how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ClusterPlanWaitReason {
    /// A primary's process has ended and no replica may take its place.
    #[error(
        "the primary `{pod}` has ended and no replica was in sync with it; if its volume is lost too, \
         restore a backup"
    )]
    NoReplicaInSync {
        /// The primary: its Pod, or its id if the Pod is not known.
        pod: String,
    },
    /// A shard's slots belong to a node that has ended for good.
    #[error(
        "the node {node} owns the slots {slots} but has ended, and no replica is left: the data is \
         lost unless the Pod returns with its volume"
    )]
    SlotsLost {
        /// The node's id.
        node: NodeId,
        /// The slots.
        slots: String,
    },
    /// Too few primaries answer for an election, and some of the others are not proven dead.
    #[error(
        "{heard} of {voters} primaries answer, which is no majority; waiting for the others. If the \
         Kubernetes node of one is off for good, taint it with `node.kubernetes.io/out-of-service`"
    )]
    NoMajority {
        /// The number of primaries that answer.
        heard: usize,
        /// The number of all primaries.
        voters: usize,
    },
    /// A primary does not answer, and nothing proves that it is dead.
    #[error(
        "the primary `{pod}` of the slots {slots} does not answer; if its process hangs, the cluster replaces \
         it after its node timeout. If its Kubernetes node is off for good, taint it with \
         `node.kubernetes.io/out-of-service`"
    )]
    PrimarySilent {
        /// The primary's Pod.
        pod: String,
        /// The primary's slots, as text of bounded length.
        slots: String,
    },
    /// The process of a primary hangs, and a replica is to take over.
    #[error(
        "the primary `{pod}` of the slots {slots} does not answer; as soon as the majority of the primaries \
         has marked it as failed, its Pod is deleted, so that it accepts no more writes, and a replica takes \
         over when its container has ended"
    )]
    PrimaryHangs {
        /// The primary's Pod.
        pod: String,
        /// The primary's slots, as text of bounded length.
        slots: String,
    },
    /// A member requires another password than the one in force.
    #[error("`{pod}` refuses the password in force ({why}): {fix}")]
    CredentialsRefused {
        /// The member's Pod.
        pod: String,
        /// The server's error text.
        why: String,
        /// How to fix it.
        fix: &'static str,
    },
    /// The spec leaves failovers to the cluster.
    #[error(
        "the primary `{pod}` has ended; `.spec.failover.onPodDeath` is `wait`, so the cluster itself \
         elects a replica after its node timeout"
    )]
    LeftToTheCluster {
        /// The primary's Pod, or its id if the Pod is not known.
        pod: String,
    },
    /// Another shard's failover is planned; only one is planned at a time.
    #[error("another shard fails over first")]
    OtherShardFirst,
    /// A primary's Pod is being deleted and no replica can take over without loss.
    #[error(
        "the Pod of the primary `{pod}` is being deleted and no replica is in sync to take over"
    )]
    NobodyToTakeOver {
        /// The primary's Pod.
        pod: String,
    },
    /// A primary answers, but its replica has marked it as failed and therefore cannot take over gracefully.
    #[error(
        "the primary `{pod}` answers, but its replica has marked it as failed; its Pod is deleted, and the \
         replica takes over when its container has ended"
    )]
    CalledFailed {
        /// The primary's Pod.
        pod: String,
    },
    /// A node that is not a member takes part in the cluster.
    #[error(
        "the node {node} at `{address}` takes part in the cluster but is not a Pod of it; if it does not \
         disappear, find out what it belongs to (`kubectl get pods --all-namespaces -o wide`): if it is a Pod \
         of another cluster, the two clusters have merged, and the one whose slots were taken must be created \
         again; if it is no Pod, stop the process"
    )]
    ForeignNode {
        /// The node's id.
        node: NodeId,
        /// The node's address.
        address: String,
    },
    /// Some Pods do not answer yet.
    #[error("{count} of the Pods do not answer, the first is `{pod}`: {why}")]
    PodsNotAnswering {
        /// The number of these Pods.
        count: usize,
        /// The first of them.
        pod: String,
        /// Why, as far as it is known.
        why: String,
    },
    /// A server ends by itself immediately after each start.
    #[error(
        "the server of `{pod}` does not start: it reports `{output}`; fix that in the spec or on its volume"
    )]
    DoesNotStart {
        /// The first such Pod.
        pod: String,
        /// Its last output.
        output: String,
    },
    /// Kubernetes does not consider a Pod ready although its server answers the host.
    #[error(
        "the server of `{pod}` answers the host, but its Pod is not ready, so no Service routes to it: \
         see `kubectl describe pod {pod}`, and check whether the server accepts new connections with the \
         password that Pods have"
    )]
    PodNotReady {
        /// The first such Pod.
        pod: String,
    },
    /// A move of a slot was left unfinished.
    #[error(
        "`{pod}` has the slot {slot} open ({count} in total): it redirects clients for keys that it does not \
         have; if nobody is moving slots now, close each one with `CLUSTER SETSLOT {slot} STABLE` on that server"
    )]
    SlotOpen {
        /// The first such Pod.
        pod: String,
        /// The first open slot.
        slot: Slot,
        /// The number of its open slots.
        count: usize,
    },
    /// The owner of slots considers another node their owner, so that no node serves them.
    #[error(
        "no node serves the slots {slots}: all others name `{pod}` as their owner, which itself names `{other}`; \
         send `CLUSTER SETSLOT SLOT NODE {node}` for each of them to the server of `{pod}`"
    )]
    SlotsDisowned {
        /// The Pod that the others consider the owner.
        pod: String,
        /// The node id of that Pod.
        node: NodeId,
        /// The Pod that the owner names.
        other: String,
        /// The slots.
        slots: String,
    },
    /// The members hold the data of a cluster with another number of shards than the spec has.
    #[error(
        "the data of the members, `{pod}` among them, is of a cluster with another division of the slots than \
         {shards} shards have ({slots} belong to one owner), probably because volumes were kept; nothing was \
         changed: create the object with the number of shards with which the data was written"
    )]
    OtherShards {
        /// A member whose slots do not match the spec.
        pod: String,
        /// The number of shards in the spec.
        shards: u16,
        /// The slots of that member.
        slots: String,
    },
    /// A Pod cannot be scheduled, or its container cannot be created.
    #[error("the Pod `{pod}` does not run: {why}")]
    PodDoesNotRun {
        /// The first such Pod.
        pod: String,
        /// The reason in the words of Kubernetes.
        why: String,
    },
    /// The owner of a shard's slots is alive and is not a member.
    #[error(
        "the node {node} at `{address}` owns the slots {slots} and answers the others, but its Pod is not a \
         member: if it is a Pod of this cluster, restore its owner reference and labels; if it is a Pod of \
         another cluster, the two clusters have merged, and the one whose slots were taken must be created again"
    )]
    OwnerNoMember {
        /// The node's id.
        node: NodeId,
        /// The node's address.
        address: String,
        /// The slots.
        slots: String,
    },
    /// A member is loading its data from disk.
    #[error("`{pod}` is loading its data from disk")]
    Loading {
        /// The member.
        pod: String,
    },
    /// A former primary has not learned yet that another node serves its slots.
    #[error("`{pod}` has not learned yet that another node serves its slots")]
    OldPrimary {
        /// The member.
        pod: String,
    },
    /// Two processes report the same node id.
    #[error(
        "`{pod}` has the node id of another Pod, as after copying a volume: delete the Pod and the \
         volume that hold the copy"
    )]
    TwoWithOneId {
        /// One of the two.
        pod: String,
    },
    /// A member that should become a replica has keys of its own.
    #[error(
        "`{pod}` should follow its shard's primary but holds {keys} keys of its own: save what you \
         need and empty it"
    )]
    HoldsKeys {
        /// The member.
        pod: String,
        /// The number of keys.
        keys: u64,
    },
    /// The nodes do not know each other yet.
    #[error("the nodes do not know each other yet")]
    Gossip,
    /// A replica is copying its primary's data.
    #[error("`{pod}` is not in sync yet: {why}")]
    Syncing {
        /// The first such replica.
        pod: String,
        /// What is missing.
        why: &'static str,
    },
    /// A replica has no link to its primary.
    #[error(
        "`{pod}` has had no link to its primary for half a minute: `kubectl logs {pod}` shows the cause, for \
         example a `masterauth` that was changed by hand; if nothing else helps, delete the Pod"
    )]
    LinkDown {
        /// The first such replica.
        pod: String,
    },
    /// A member does not report `cluster_state:ok` yet.
    #[error("`{pod}` does not report `cluster_state:ok`: {why}")]
    StateNotOk {
        /// The first such member.
        pod: String,
        /// The slots that are not covered in its view, and their owners.
        why: String,
    },
}

impl ClusterPlanWaitReason {
    /// Returns the reason as conditions, events and labels show it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoReplicaInSync { .. } => "NoReplicaInSync",
            Self::SlotsLost { .. } => "SlotsLost",
            Self::NoMajority { .. } => "NoMajority",
            Self::PrimarySilent { .. } => "PrimarySilent",
            Self::PrimaryHangs { .. } => "PrimaryHangs",
            Self::CredentialsRefused { .. } => "CredentialsRefused",
            Self::LeftToTheCluster { .. } => "LeftToTheCluster",
            Self::OtherShardFirst => "OtherShardFirst",
            Self::NobodyToTakeOver { .. } => "NobodyToTakeOver",
            Self::CalledFailed { .. } => "CalledFailed",
            Self::ForeignNode { .. } => "ForeignNode",
            Self::PodsNotAnswering { .. } => "PodsNotAnswering",
            Self::DoesNotStart { .. } => "DoesNotStart",
            Self::PodNotReady { .. } => "PodNotReady",
            Self::SlotOpen { .. } => "SlotOpen",
            Self::SlotsDisowned { .. } => "SlotsDisowned",
            Self::OtherShards { .. } => "OtherShards",
            Self::PodDoesNotRun { .. } => "PodDoesNotRun",
            Self::OwnerNoMember { .. } => "OwnerNoMember",
            Self::Loading { .. } => "Loading",
            Self::OldPrimary { .. } => "OldPrimary",
            Self::TwoWithOneId { .. } => "TwoWithOneId",
            Self::HoldsKeys { .. } => "HoldsKeys",
            Self::Gossip => "Gossip",
            Self::Syncing { .. } => "Syncing",
            Self::LinkDown { .. } => "LinkDown",
            Self::StateNotOk { .. } => "StateNotOk",
        }
    }

    /// Returns the seconds after which waiting for this reason counts as a fault. Copying and loading data
    /// take time in proportion to the data.
    #[must_use]
    pub const fn patience_s(&self) -> u64 {
        if matches!(self, Self::Loading { .. } | Self::Syncing { .. }) { 600 } else { 120 }
    }

    /// Returns true if something is broken, as opposed to merely unfinished.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        match self {
            Self::NoReplicaInSync { .. }
            | Self::SlotsLost { .. }
            | Self::NoMajority { .. }
            | Self::PrimarySilent { .. }
            | Self::PrimaryHangs { .. }
            | Self::CredentialsRefused { .. }
            | Self::LeftToTheCluster { .. }
            | Self::OtherShardFirst
            | Self::NobodyToTakeOver { .. }
            | Self::CalledFailed { .. }
            | Self::ForeignNode { .. }
            | Self::DoesNotStart { .. }
            | Self::PodNotReady { .. }
            | Self::LinkDown { .. }
            | Self::SlotOpen { .. }
            | Self::SlotsDisowned { .. }
            | Self::OtherShards { .. }
            | Self::PodDoesNotRun { .. }
            | Self::OwnerNoMember { .. }
            | Self::TwoWithOneId { .. }
            | Self::HoldsKeys { .. } => true,
            Self::PodsNotAnswering { .. }
            | Self::Loading { .. }
            | Self::OldPrimary { .. }
            | Self::Gossip
            | Self::Syncing { .. }
            | Self::StateNotOk { .. } => false,
        }
    }
}
