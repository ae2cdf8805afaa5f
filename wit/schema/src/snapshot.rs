//! What an instance looks like, taken from every member at one moment.
//!
//! A snapshot is never one node's opinion. What most of those who may vote see is told once
//! ([`Snapshot::view`]); each member tells only where it differs ([`MemberFacts::differs`],
//! [`MemberFacts::lacks`]). [`Snapshot::seen_by`] puts a member's own view together again.
//!
//! Invariants:
//! - A number that was not told is absent; it is never zero or guessed.
//! - A member that did not answer is there all the same, with the reason.
//! - Members, rows and strangers are in ascending order, so that equal states are equal JSON.

mod queries;

pub use queries::{NotInSync, Quorum, SYNC_LAG_S_MAX};

use alloc::{collections::BTreeMap, collections::BTreeSet, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::primitives::{ConfigEpoch, NodeId, ReplicationId, Role, RunId, Slot, SlotSet};

/// An instance at one moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When the fan-out began, in milliseconds since 1970. What a member says is at most the
    /// fan-out's deadline (300 ms) younger.
    pub observed_at_ms: u64,
    /// The nodes as the majority sees them, by id. A node is here if more than half of the voters
    /// know it, with the row that most of them have. Voters are the members that say of themselves
    /// to be primaries with slots; if there are none, those that know an owner of slots; else those
    /// that know anybody but themselves; else all that answered.
    #[serde(default)]
    pub view: BTreeMap<NodeId, NodeRow>,
    /// All members, by the name of their Pod.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Names of Pods that match the selector and belong elsewhere: seen, never asked, never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
    /// How the password in force compares with the one that the instance names.
    #[serde(default, skip_serializing_if = "CredentialsFacts::is_usual")]
    pub credentials: CredentialsFacts,
}

/// How the password in force compares with the one that the instance names.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsFacts {
    /// What there is to say of the password that the instance names.
    #[serde(default)]
    pub named: NamedPassword,
    /// Whether none is in force yet: a Pod that reads the reserved Secret cannot start.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub pending: bool,
}

impl CredentialsFacts {
    /// Whether the password that the instance names is the one in force.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What there is to say of the password that an instance names. The one in force stays in any case.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NamedPassword {
    /// It is the one in force, or none is named and none is in force.
    #[default]
    InForce,
    /// Another one is in force, or none, or one is in force and none is named.
    Differs,
    /// Its Secret does not exist.
    SecretMissing,
    /// Its Secret has no such key.
    KeyMissing,
    /// It is empty.
    Empty,
    /// It is no UTF-8 text.
    NoText,
    /// It has a line break or another control character, as a file that ends with a line has one.
    ControlCharacter,
    /// Its Secret could not be read now.
    Unread,
    /// Servers that run refuse it, none accepts it, and the host knows no other.
    Refused,
    /// No server that runs answers, so that nothing proves it, and the host knows no other.
    Unproven,
    /// Something that this version of the vocabulary does not know.
    #[serde(other)]
    Other,
}

/// One node as a `CLUSTER NODES` reply shows it; equal rows mean an equal opinion. Times of pings are
/// left out, and so is the `myself` flag.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Whether it has slots of its own or follows.
    pub role: Role,
    /// `ip:port` for clients; absent while unknown (`noaddr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whom it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<NodeId>,
    /// Its configuration epoch; a replica shows its primary's.
    pub epoch: ConfigEpoch,
    /// The slots it serves.
    #[serde(default, skip_serializing_if = "SlotSet::is_empty")]
    pub slots: SlotSet,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub flags: BTreeSet<NodeFlag>,
    /// Whether the one who says this has a link to it. Always so for its own row.
    pub connected: bool,
}

/// A flag of a `CLUSTER NODES` row.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum NodeFlag {
    /// The majority calls it failed (`fail`).
    Fail,
    /// The one who says this cannot reach it (`fail?`).
    MaybeFail,
    /// A meeting is under way; the id is made up and will change.
    Handshake,
    /// Its address is unknown. Such a primary is never failed over by Redis 7.0.
    NoAddress,
    /// It never asks to be elected.
    NoFailover,
}

/// One Pod of the instance and what its process says.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The Pod's name: how actions name the member.
    pub pod: String,
    /// The Pod's uid.
    pub pod_uid: String,
    /// The Kubernetes node it runs on; empty while it runs on none.
    #[serde(default)]
    pub kube_node: String,
    /// The container's id, new at each start; empty while it has none.
    #[serde(default)]
    pub container_id: String,
    /// Whether the container runs.
    pub running: bool,
    /// Whether the Pod is ready.
    #[serde(default)]
    pub ready: bool,
    /// Whether the Pod is being deleted.
    #[serde(default)]
    pub deleting: bool,
    /// `ip:port` as the Pod's status gives it; absent while the Pod has no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Further facts from Kubernetes, as they are: `phase`, `ready`, `graceSeconds`, `labels` and
    /// `annotations` of the Pod; `unplaced`, why no node takes it, in the scheduler's words; `state`,
    /// `lastState` and `restartCount` of the container. What is not so is `null`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub kubernetes: Value,
    /// What the process said, or why it said nothing.
    pub answer: MemberAnswer,
}

impl Member {
    /// What the process said, if it answered.
    #[must_use]
    pub const fn facts(&self) -> Option<&MemberFacts> {
        match &self.answer {
            MemberAnswer::Answered(facts) => Some(facts),
            MemberAnswer::Unreachable { .. } => None,
        }
    }

    /// Whether the process lives and wants another password than the one in force.
    #[must_use]
    pub const fn refuses_password(&self) -> bool {
        matches!(self.answer, MemberAnswer::Unreachable { reason: UnreachableReason::Auth, .. })
    }

    /// Returns true if the process answered and has loaded its data.
    #[must_use]
    pub fn has_loaded(&self) -> bool {
        self.facts().is_some_and(|facts| facts.loading == Some(false))
    }

    /// The id that the process says to have.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.facts()?.node
    }
}

/// What a member said, or why it said nothing.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every member answers, so that a box would save nothing"
)]
pub enum MemberAnswer {
    /// It answered, perhaps not everything: see [`MemberFacts::errors`].
    Answered(MemberFacts),
    /// It did not answer.
    #[serde(rename_all = "camelCase")]
    Unreachable {
        /// Why, from a closed set.
        reason: UnreachableReason,
        /// Why, for people.
        message: String,
    },
}

/// Why a member did not answer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum UnreachableReason {
    /// Its container does not run, so it was not asked.
    NotRunning,
    /// Its Pod has no address yet, so it was not asked.
    NoAddress,
    /// The address refuses connections: no process listens there.
    Refused,
    /// No answer in time. A hung process and a cut network look alike.
    Timeout,
    /// It wants other credentials.
    Auth,
    /// The connection broke while waiting for the answer.
    Gone,
    /// What came back is not what Redis says.
    Protocol,
}

/// What a member's process says of itself and of the others.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberFacts {
    /// When its answer was complete, in milliseconds since 1970: the age of every fact here.
    pub answered_at_ms: u64,
    /// Its own id (`CLUSTER NODES`, the row `myself`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// This process (`INFO server`, `run_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// `INFO server`, `redis_version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since the process started (`INFO server`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// Whether it still reads its data from disk (`INFO persistence`). Most other facts are absent
    /// meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<bool>,
    /// How many keys it holds (`DBSIZE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// `INFO memory`, `used_memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_memory_bytes: Option<u64>,
    /// What it is (`INFO replication`, `role`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where it stands in the stream of writes (`INFO replication`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// How it judges the cluster (`CLUSTER INFO`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterFacts>,
    /// Slots that it says are being moved (its own row in `CLUSTER NODES`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_slots: Vec<OpenSlot>,
    /// Settings by name (`CONFIG GET`): those of every snapshot and those that the instance names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The nodes that it sees otherwise than [`Snapshot::view`], and those that the view has not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub differs: BTreeMap<NodeId, NodeRow>,
    /// The nodes of [`Snapshot::view`] that it does not know.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lacks: BTreeSet<NodeId>,
    /// What it would not tell, by the command asked, with the error as Redis gave it or with what
    /// was unreadable in the reply.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
}

/// Where a process stands in the stream of writes.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// Which history of writes it has (`master_replid`).
    pub id: ReplicationId,
    /// The history it had before it was promoted (`master_replid2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_id: Option<ReplicationId>,
    /// Bytes of the stream: on a primary those written, on a replica those applied
    /// (`slave_repl_offset`, not `slave_read_repl_offset`, which counts what is only received).
    pub offset_bytes: u64,
    /// On a replica: the link to its primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// On a primary: who follows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<AttachedReplica>,
}

/// A replica's link to its primary.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// `master_host:master_port`.
    pub address: String,
    /// `master_link_status` is `up`.
    pub link_up: bool,
    /// A full synchronisation is under way.
    pub sync_in_progress: bool,
    /// How many bytes of a full synchronisation under way have been received; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_read_bytes: Option<u64>,
    /// Seconds since the primary was last heard; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_io_s: Option<u64>,
    /// Seconds since the link went down; absent while it is up or if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since_s: Option<u64>,
}

/// A replica as its primary sees it (`slaveN` of `INFO replication`).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttachedReplica {
    /// `ip:port` that the replica announces.
    pub address: String,
    /// `online`, or which stage of a synchronisation it is in.
    pub state: String,
    /// What it has acknowledged.
    pub offset_bytes: u64,
    /// Seconds since its last acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_s: Option<u64>,
}

/// How a node judges the cluster (`CLUSTER INFO`).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFacts {
    /// `cluster_state` is `ok`.
    pub ok: bool,
    /// How many nodes it knows, itself included.
    pub known_nodes: u64,
    /// How many primaries with slots it knows: those who vote.
    pub size: u64,
    /// The highest epoch it has seen.
    pub current_epoch: u64,
    /// Its own configuration epoch, or its primary's.
    pub epoch: ConfigEpoch,
    /// How many slots have an owner.
    pub slots_assigned: u64,
    /// How many slots have an owner that has not failed.
    pub slots_ok: u64,
}

/// A slot that is being moved.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct OpenSlot {
    /// Which slot.
    pub slot: Slot,
    /// Away from here or to here.
    pub direction: SlotDirection,
    /// The other end.
    pub peer: NodeId,
}

/// Which way an open slot moves.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum SlotDirection {
    /// Away from the node that says so.
    Migrating,
    /// To the node that says so.
    Importing,
}
