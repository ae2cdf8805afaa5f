//! What a plan can wait for. Each reason becomes a condition's `reason` and `message`.

use alloc::string::String;

use tholepin_schema::primitives::{NodeId, Slot};

/// Why nothing may be done about something yet. Its text says what is waited for and, where a person
/// is needed, the way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum WaitReason {
    /// A primary's process is gone and no replica may take its place.
    #[error(
        "the primary `{pod}` is gone and no replica was in sync with it; if its volume is lost too, \
         restore a backup"
    )]
    NoReplicaInSync {
        /// The primary, by its Pod or else by its id.
        pod: String,
    },
    /// A shard's slots belong to a node that is gone for good.
    #[error(
        "the node {node} owns the slots {slots} but is gone, and no replica is left: the data is \
         lost unless the Pod returns with its volume"
    )]
    SlotsLost {
        /// The node's id.
        node: NodeId,
        /// The slots.
        slots: String,
    },
    /// Too few primaries answer to elect one, and not all others are known to be dead.
    #[error(
        "{heard} of {voters} primaries answer, which is no majority; waiting for the others. If the \
         Kubernetes node of one is off for good, taint it with `node.kubernetes.io/out-of-service`"
    )]
    NoMajority {
        /// How many answer.
        heard: usize,
        /// How many there are.
        voters: usize,
    },
    /// A primary does not answer, but nothing says that it is dead.
    #[error(
        "the primary `{pod}` of the slots {slots} does not answer; a process that hangs is left to the \
         node timeout. If its Kubernetes node is off for good, taint it with `node.kubernetes.io/out-of-service`"
    )]
    PrimarySilent {
        /// Its Pod.
        pod: String,
        /// Its slots, in a text of bounded length.
        slots: String,
    },
    /// The process of a primary hangs, and a replica is to take over.
    #[error(
        "the primary `{pod}` of the slots {slots} does not answer; as soon as the majority of the primaries \
         calls it failed, its Pod is deleted, so that it acknowledges nothing more, and a replica takes over \
         when its container has ended"
    )]
    PrimaryHangs {
        /// Its Pod.
        pod: String,
        /// Its slots, in a text of bounded length.
        slots: String,
    },
    /// A member wants another password than the one in force.
    #[error("`{pod}` refuses the password in force ({why}): {way_out}")]
    CredentialsRefused {
        /// Its Pod.
        pod: String,
        /// In the engine's words.
        why: String,
        /// What helps.
        way_out: &'static str,
    },
    /// The spec leaves failing over to the cluster.
    #[error(
        "the primary `{pod}` is gone; `.spec.failover.onPodDeath` is `wait`, so the cluster itself \
         elects a replica after its node timeout"
    )]
    LeftToTheCluster {
        /// Its Pod, or else its id.
        pod: String,
    },
    /// Two failovers are never under way at once.
    #[error("another shard fails over first")]
    OtherShardFirst,
    /// A primary's Pod is being deleted and nobody can take over without loss.
    #[error(
        "the Pod of the primary `{pod}` is being deleted and no replica is in sync to take over"
    )]
    NobodyToTakeOver {
        /// Its Pod.
        pod: String,
    },
    /// A primary's Pod is being deleted and its replica does not take over from one that it calls failed.
    #[error(
        "the primary `{pod}` answers, but its replica calls it failed; its Pod is deleted, and the replica takes \
         over when its container has ended"
    )]
    CalledFailed {
        /// Its Pod.
        pod: String,
    },
    /// A process that is no member takes part in the cluster.
    #[error(
        "the node {node} at `{address}` takes part in the cluster but is no Pod of it; if it does not \
         vanish, find out whose it is (`kubectl get pods --all-namespaces -o wide`): of another cluster, \
         the two have merged, and the one whose slots were taken has to be made anew; a process of no Pod \
         can be stopped"
    )]
    ForeignNode {
        /// Its id.
        node: NodeId,
        /// Where it is.
        address: String,
    },
    /// Pods do not answer yet.
    #[error("{count} of the Pods wanted do not answer, the first is `{pod}`: {why}")]
    PodsNotAnswering {
        /// How many.
        count: usize,
        /// The first of them.
        pod: String,
        /// Why, as far as it is known.
        why: String,
    },
    /// A server ends by itself as soon as it is started.
    #[error(
        "the server of `{pod}` does not start: it says `{words}`; mend what it names, in the spec or \
         on its volume"
    )]
    DoesNotStart {
        /// The first such Pod.
        pod: String,
        /// What it said last.
        words: String,
    },
    /// Kubernetes does not call a Pod ready whose server answers the host.
    #[error(
        "the server of `{pod}` answers the host, but its Pod is not ready, so that no Service leads \
         there: see `kubectl describe pod {pod}`, and whether the server takes new connections with the \
         password that Pods have"
    )]
    PodNotReady {
        /// The first such Pod.
        pod: String,
    },
    /// A slot was left half moved.
    #[error(
        "`{pod}` has the slot {slot} open ({count} in all): clients are sent away for keys that are not \
         there; if nobody moves slots now, close each with `CLUSTER SETSLOT {slot} STABLE` on that server"
    )]
    SlotOpen {
        /// The first such Pod.
        pod: String,
        /// Its first open slot.
        slot: Slot,
        /// How many it has.
        count: usize,
    },
    /// The owner of slots takes another node for their owner, so that nobody serves them.
    #[error(
        "nobody serves the slots {slots}: all others name `{pod}` as their owner, which itself names `{other}`; \
         on the server of `{pod}` send `CLUSTER SETSLOT SLOT NODE {node}` for each of them"
    )]
    SlotsDisowned {
        /// The Pod that the others name.
        pod: String,
        /// Its node id.
        node: NodeId,
        /// The Pod that it names.
        other: String,
        /// The slots.
        slots: String,
    },
    /// The members hold a cluster of another shape than the object wants.
    #[error(
        "the data of the members, `{pod}` among them, is of a cluster whose slots lie otherwise than {shards} \
         shards have them ({slots} are those of one owner), as volumes that were kept have it; nothing was \
         changed: create the object with the number of shards that the data was written with"
    )]
    OtherShards {
        /// A member whose slots do not fit.
        pod: String,
        /// How many shards are wanted.
        shards: u16,
        /// Its slots.
        slots: String,
    },
    /// A Pod cannot be placed, or its container cannot be made.
    #[error("the Pod `{pod}` does not run: {why}")]
    PodDoesNotRun {
        /// The first such Pod.
        pod: String,
        /// Why, in the words of Kubernetes.
        why: String,
    },
    /// The owner of a shard's slots lives and is no member.
    #[error(
        "the node {node} at `{address}` owns the slots {slots} and answers the others, but its Pod is \
         no member: if a Pod of this cluster is there, put its owner reference and labels back; if it is \
         another cluster's, the two have merged, and the one whose slots were taken has to be made anew"
    )]
    OwnerNoMember {
        /// The node's id.
        node: NodeId,
        /// Where it is.
        address: String,
        /// The slots.
        slots: String,
    },
    /// A member reads its data from disk.
    #[error("`{pod}` reads its data from disk")]
    Loading {
        /// The member.
        pod: String,
    },
    /// A former primary has not heard yet that another serves its slots.
    #[error("`{pod}` has not heard yet that another node serves its slots")]
    OldPrimary {
        /// The member.
        pod: String,
    },
    /// Two processes say to be one node.
    #[error(
        "`{pod}` has the node id of another Pod, as after copying a volume: delete the Pod and the \
         volume that hold the copy"
    )]
    TwoWithOneId {
        /// One of the two.
        pod: String,
    },
    /// A member that should follow holds keys of its own.
    #[error(
        "`{pod}` should follow its shard's primary but holds {keys} keys of its own: save what you \
         need and empty it"
    )]
    HoldsKeys {
        /// The member.
        pod: String,
        /// How many.
        keys: u64,
    },
    /// The nodes do not know each other yet.
    #[error("the nodes are getting to know each other")]
    Gossip,
    /// Replicas copy their primary's data.
    #[error("`{pod}` is not in sync yet: {why}")]
    Syncing {
        /// The first such replica.
        pod: String,
        /// What is missing.
        why: &'static str,
    },
    /// A replica does not reach its primary.
    #[error(
        "`{pod}` has had no link to its primary for half a minute: `kubectl logs {pod}` says why, such as a \
         `masterauth` that was changed by hand; if nothing else helps, delete the Pod"
    )]
    LinkDown {
        /// The first such replica.
        pod: String,
    },
    /// The members do not find the cluster well yet.
    #[error("`{pod}` does not say `cluster_state:ok`: {why}")]
    StateNotOk {
        /// The first such member.
        pod: String,
        /// Which slots are not covered in its view, and whose they are.
        why: String,
    },
}

impl WaitReason {
    /// The reason as a condition, an event and a label show it.
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

    /// For how many seconds the cluster may be otherwise than wanted until this is a fault. Copying and
    /// reading data take time in proportion to the data.
    #[must_use]
    pub const fn patience_s(&self) -> u64 {
        if matches!(self, Self::Loading { .. } | Self::Syncing { .. }) { 600 } else { 120 }
    }

    /// Whether something is broken, other than merely not finished.
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
