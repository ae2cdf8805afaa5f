//! What the plugin reports. Nothing here changes while nothing happens: no offsets, no ages.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// How the cluster is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RedisClusterStatus {
    /// The generation that this status tells about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds and what does not, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["type"]
        ))
    )]
    pub conditions: Vec<Condition>,
    /// How many shards are as wanted, of how many: `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready_shards: String,
    /// How many slots a healthy primary serves, of 16384.
    #[serde(default)]
    pub slots_served: u16,
    /// Whether the cluster was once as wanted. Until then, data that members bring along must fit the spec.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub formed: bool,
    /// The shards, in order of their numbers.
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

/// How one shard is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// The shard's name, which is its StatefulSet's.
    pub name: String,
    /// The slots it serves: `0-5460`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slots: String,
    /// The Pod of its primary; absent while it has none that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// How many replicas are in sync with the primary.
    #[serde(default)]
    pub replicas_in_sync: u16,
    /// What it waits for; absent when it is as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Its members, by Pod.
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

/// One member as it was last seen. While it does not answer, what it said last stays.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its Pod.
    pub pod: String,
    /// Its node id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What it is.
    pub role: MemberRole,
    /// Of a replica, also one that does not answer now: whether it was in sync while its primary was last
    /// heard. Only such a one is promoted after a death.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync: Option<bool>,
}

/// What a member is for its shard.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    /// It serves the shard's slots.
    Primary,
    /// It follows the shard's primary.
    Replica,
    /// It does not belong to the cluster yet.
    Joining,
    /// It does not answer.
    Silent,
}

/// One thing that holds, does not hold, or is not known.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one CamelCase word.
    pub reason: String,
    /// Why, for people, with the way out.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub last_transition_time: Option<String>,
    /// The generation that this tells about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known.
    Unknown,
}
