//! The status of a `RedisCluster`. It contains no offsets or ages, so it does not change while nothing
//! happens.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Observed state of the cluster.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RedisClusterStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["type"]
        ))
    )]
    pub conditions: Vec<Condition>,
    /// Number of shards in the desired state and number of all shards: `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready_shards: String,
    /// Number of slots that a healthy primary serves, of 16384.
    #[serde(default)]
    pub slots_served: u16,
    /// Whether the cluster has reached the desired state once. Until then, data that members already have
    /// must match the spec.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub formed: bool,
    /// The shards in order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"]
        ))
    )]
    pub shards: Vec<ShardStatus>,
}

/// Observed state of one shard.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Name of the shard, which is also the name of its StatefulSet.
    pub name: String,
    /// Slots that the shard serves: `0-5460`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slots: String,
    /// Pod of the shard's primary; absent while no primary answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Number of replicas that are in sync with the primary.
    #[serde(default)]
    pub replicas_in_sync: u16,
    /// What the shard is waiting for; absent when it is in the desired state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Members of the shard, by Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["pod"]
        ))
    )]
    pub members: Vec<MemberStatus>,
}

/// Observed state of one member. While the member does not answer, its last known values are kept.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Pod of the member.
    pub pod: String,
    /// Node id of the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Role of the member.
    pub role: MemberRole,
    /// Whether the replica was in sync when its primary last answered, also for a replica that does not
    /// answer now. Only such a replica is promoted after a death.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync: Option<bool>,
}

/// Role of a member in its shard.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    /// The member serves the slots of the shard.
    Primary,
    /// The member follows the primary of the shard.
    Replica,
    /// The member does not belong to the cluster yet.
    Joining,
    /// The member does not answer.
    Silent,
}

/// A condition that is true, false or unknown.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether the condition is true.
    pub status: ConditionStatus,
    /// Reason of the status, one CamelCase word.
    pub reason: String,
    /// Reason of the status for people, with the way to fix it.
    #[serde(default)]
    pub message: String,
    /// Time of the last change of `status` (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub last_transition_time: Option<String>,
    /// Generation of the spec that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether a condition is true.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// The condition is true.
    True,
    /// The condition is false.
    False,
    /// It is not known whether the condition is true.
    Unknown,
}
