//! Snapshots: the state of an instance, read from all members concurrently.
//!
//! A snapshot combines the views of all members. [`Snapshot::view`] holds the view of the majority of the
//! voters. Each member only lists where its own view differs ([`MemberFacts::differs`],
//! [`MemberFacts::lacks`]); [`Snapshot::seen_by`] rebuilds a member's own view.
//!
//! Invariants:
//! - A number that a member did not report is absent; it is never zero or guessed.
//! - A member that did not answer is listed with the reason.
//! - Members, rows and strangers are in ascending order, so equal states are equal JSON.

mod queries;

pub use queries::{NotInSyncReason, Quorum, SYNC_LAG_S_MAX};

use alloc::{collections::BTreeMap, collections::BTreeSet, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::open_enum::open_enum;
use crate::primitives::{ConfigEpoch, NodeId, ReplicationId, Role, RunId, Slot, SlotSet};

/// The state of an instance at one moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When the host began to ask the members, in milliseconds since 1970. A member's answer is at most 300
    /// ms younger, the deadline for it.
    pub observed_at_ms: u64,
    /// The nodes in the majority's view, by id. It contains a node if more than half of the voters know it,
    /// with the row that most of these report. Voters are the members that report themselves as primaries
    /// with slots. If there are none, the voters are the members that know an owner of slots; else those that
    /// know any node but themselves; else all that answered.
    #[serde(default)]
    pub view: BTreeMap<NodeId, ClusterNodesRow>,
    /// All members, by the name of their Pod.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Names of Pods that match the selector but belong to another owner. The host sends them nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
    /// How the password in force compares with the one that the instance names.
    #[serde(default, skip_serializing_if = "CredentialsState::is_in_force")]
    pub credentials: CredentialsState,
}

/// How the password in force compares with the one that the instance names.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsState {
    /// The state of the password that the instance names.
    #[serde(default)]
    pub named: NamedPasswordState,
    /// Whether no password is in force yet, so that a Pod that reads the reserved Secret cannot start.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub pending: bool,
}

impl CredentialsState {
    /// Returns true if the password that the instance names is the one in force, or none is named and none is
    /// in force.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        *self == Self::default()
    }
}

/// The state of the password that an instance names. In every state the password in force stays in force.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NamedPasswordState {
    /// It is the password in force; or no password is named and none is in force.
    #[default]
    InForce,
    /// It is not the password in force: the two differ, or only one of them exists.
    Differs,
    /// Its Secret does not exist.
    SecretMissing,
    /// Its Secret does not have the key.
    KeyMissing,
    /// The value of the key is empty.
    Empty,
    /// The value is not UTF-8 text.
    NoText,
    /// The value contains a control character, such as the line break at the end of a file.
    ControlCharacter,
    /// Its Secret could not be read now.
    Unread,
    /// Running servers refuse it, none accepts it, and the host knows no other password.
    Refused,
    /// No running server answers, so nothing proves that it is right, and the host knows no other password.
    Unproven,
    /// A state that this version does not name.
    #[serde(other)]
    Other,
}

/// One node as shown by a `CLUSTER NODES` reply, without the ping times and the `myself` flag, so that equal
/// views are equal rows.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNodesRow {
    /// The node's role.
    pub role: Role,
    /// `ip:port` for clients; absent if unknown (`noaddr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The primary that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<NodeId>,
    /// Its configuration epoch; for a replica, that of its primary.
    pub epoch: ConfigEpoch,
    /// The slots that it owns.
    #[serde(default, skip_serializing_if = "SlotSet::is_empty")]
    pub slots: SlotSet,
    /// Its other flags.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub flags: BTreeSet<NodeFlag>,
    /// Whether the node that reports this row has a link to it. Always true for the reporting node's own row.
    pub connected: bool,
}

/// A flag of a `CLUSTER NODES` row.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum NodeFlag {
    /// The majority has marked the node as failed (`fail`).
    Fail,
    /// The reporting node cannot reach it (`fail?`).
    MaybeFail,
    /// A handshake is in progress; the id is random and will change (`handshake`).
    Handshake,
    /// Its address is unknown (`noaddr`). Redis 7.0 never fails over such a primary.
    NoAddress,
    /// It never starts an election to replace its primary (`nofailover`).
    NoFailover,
    /// A word that this version does not name.
    #[serde(other)]
    Other,
}

/// One Pod of the instance, and the answer of its process.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The Pod's name, by which actions name the member.
    pub pod: String,
    /// The Pod's uid.
    pub pod_uid: String,
    /// The Kubernetes node that it runs on; empty while it is not scheduled.
    #[serde(default)]
    pub kube_node: String,
    /// The container's id, new at each start; empty while there is no container.
    #[serde(default)]
    pub container_id: String,
    /// Whether the container is running.
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
    /// Further data from Kubernetes, unchanged: `phase`, `ready`, `graceSeconds`, `labels` and `annotations`
    /// of the Pod; `unplaced`, the scheduler's message if it found no Kubernetes node; `state`, `lastState`
    /// and `restartCount` of the container. A value that does not apply is `null`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub kubernetes: Value,
    /// The answer of the process, or why there is none.
    pub answer: MemberAnswer,
}

impl Member {
    /// Returns the facts that the process reported, if it answered.
    #[must_use]
    pub const fn facts(&self) -> Option<&MemberFacts> {
        match &self.answer {
            MemberAnswer::Answered(facts) => Some(facts),
            MemberAnswer::Unreachable { .. } | MemberAnswer::Other => None,
        }
    }

    /// Returns true if the process is alive and requires another password than the one in force.
    #[must_use]
    pub const fn refuses_password(&self) -> bool {
        matches!(self.answer, MemberAnswer::Unreachable { reason: UnreachableReason::Auth, .. })
    }

    /// Returns true if the process answered and has loaded its data.
    #[must_use]
    pub fn has_loaded(&self) -> bool {
        self.facts().is_some_and(|facts| facts.loading == Some(false))
    }

    /// Returns the node id that the process reports.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.facts()?.node
    }
}

/// The answer of a member, or why there is none.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every member answers, so that a box would save nothing"
)]
pub enum MemberAnswer {
    /// It answered, perhaps not to everything: see [`MemberFacts::errors`].
    Answered(MemberFacts),
    /// It did not answer.
    #[serde(rename_all = "camelCase")]
    Unreachable {
        /// The reason, from a closed set.
        reason: UnreachableReason,
        /// The reason, for people.
        message: String,
    },
    /// An answer that this version does not name.
    Other,
}

open_enum!(MemberAnswer: "answered", "unreachable", "other");

/// Why a member did not answer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum UnreachableReason {
    /// Its container is not running; it was not asked.
    NotRunning,
    /// Its Pod has no address yet; it was not asked.
    NoAddress,
    /// The address refuses connections: no process listens there.
    Refused,
    /// No answer within the deadline. A hung process and a broken network look the same.
    Timeout,
    /// It requires other credentials.
    Auth,
    /// The connection broke while waiting for the answer.
    Gone,
    /// The reply was not valid RESP, or not what the command replies.
    Protocol,
    /// A word that this version does not name.
    #[serde(other)]
    Other,
}

/// The facts that a member's process reports about itself and the other nodes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberFacts {
    /// When its answer was complete, in milliseconds since 1970; all facts here have this age.
    pub answered_at_ms: u64,
    /// Its own node id (`CLUSTER NODES`, the row with the flag `myself`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The id of the process (`INFO server`, `run_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// `INFO server`, `redis_version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since the process started (`INFO server`, `uptime_in_seconds`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// Whether it is still reading its data from disk (`INFO persistence`, `loading`). Most other facts are
    /// absent meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<bool>,
    /// The number of keys (`DBSIZE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// `INFO memory`, `used_memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_memory_bytes: Option<u64>,
    /// Its role (`INFO replication`, `role`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Its position in the replication stream (`INFO replication`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Its view of the cluster's state (`CLUSTER INFO`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterInfo>,
    /// Slots that it reports as being moved (its own row in `CLUSTER NODES`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_slots: Vec<OpenSlot>,
    /// Settings by name (`CONFIG GET`): those that every snapshot shows, and those that the instance names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The nodes whose rows differ from [`Snapshot::view`] or are missing in it, as this member reports them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub differs: BTreeMap<NodeId, ClusterNodesRow>,
    /// The nodes of [`Snapshot::view`] that this member does not know.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lacks: BTreeSet<NodeId>,
    /// Failed reads by command: Redis' error, or what could not be parsed in the reply.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
}

/// The position of a process in the replication stream.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// The id of its history of writes (`master_replid`).
    pub id: ReplicationId,
    /// The id of the history before its promotion (`master_replid2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_id: Option<ReplicationId>,
    /// The offset in the stream, in bytes: on a primary what it wrote, on a replica what it applied
    /// (`slave_repl_offset`; `slave_read_repl_offset` also counts what is received and not yet applied).
    pub offset_bytes: u64,
    /// On a replica: the link to its primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// On a primary: the replicas that follow it.
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
    /// A full synchronisation is in progress.
    pub sync_in_progress: bool,
    /// The bytes of the full synchronisation received so far; absent if none is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_read_bytes: Option<u64>,
    /// Seconds since the last data from the primary; absent if there never was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_io_s: Option<u64>,
    /// Seconds since the link went down; absent while it is up or if it never was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since_s: Option<u64>,
}

/// A replica as its primary sees it (`slaveN` of `INFO replication`).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttachedReplica {
    /// `ip:port` that the replica announces.
    pub address: String,
    /// `online`, or the stage of its synchronisation.
    pub state: String,
    /// The offset that it has acknowledged, in bytes.
    pub offset_bytes: u64,
    /// Seconds since its last acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_s: Option<u64>,
}

/// A node's view of the cluster's state (`CLUSTER INFO`).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInfo {
    /// `cluster_state` is `ok`.
    pub ok: bool,
    /// The number of nodes that it knows, including itself.
    pub known_nodes: u64,
    /// The number of primaries with slots that it knows: the voters.
    pub size: u64,
    /// The highest epoch that it has seen.
    pub current_epoch: u64,
    /// Its own configuration epoch; for a replica, that of its primary.
    pub epoch: ConfigEpoch,
    /// The number of slots that have an owner.
    pub slots_assigned: u64,
    /// The number of slots whose owner has not failed.
    pub slots_ok: u64,
}

/// A slot that is being moved.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct OpenSlot {
    /// The slot.
    pub slot: Slot,
    /// The direction of the move.
    pub direction: SlotDirection,
    /// The node at the other end.
    pub peer: NodeId,
}

/// The direction in which a slot moves.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum SlotDirection {
    /// Away from the reporting node.
    Migrating,
    /// To the reporting node.
    Importing,
    /// A word that this version does not name.
    #[serde(other)]
    Other,
}
