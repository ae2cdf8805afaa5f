//! What a user asks for. The doc comments are the descriptions that `kubectl explain` shows.

use alloc::{borrow::ToOwned, collections::BTreeMap, string::String};

use serde::{Deserialize, Serialize};

use crate::setting::SettingValue;

/// A Redis Cluster: 16384 slots over some shards, each a primary with its replicas.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RedisClusterSpec {
    /// How many shards the slots are spread over. At least 3 let the cluster elect a new primary by
    /// itself; with 1 or 2 only Tholepin can promote a replica. Changing it is not served yet.
    #[serde(default = "default_shards")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 1, max = 100),
            extend("x-kubernetes-validations" = crate::definition::rules::shards())
        )
    )]
    pub shards: u16,
    /// How many replicas each shard has beside its primary. It may grow; shrinking it is not served
    /// yet. Without a replica the death of a primary makes its slots unavailable, and without
    /// storage its data is lost.
    #[serde(default = "default_replicas_per_shard")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 0, max = 5),
            extend("x-kubernetes-validations" = crate::definition::rules::replicas_per_shard())
        )
    )]
    pub replicas_per_shard: u16,
    /// The image of the engine: Redis or Valkey, 6.2 or newer.
    #[serde(default = "default_image")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 500)))]
    pub image: String,
    /// The port for clients; the cluster bus uses this plus 10000. Give each cluster a port of its
    /// own where Pod addresses are reused quickly: a late message to a reused address then meets a
    /// closed port instead of another cluster.
    #[serde(default = "default_port")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 1024, max = 55_535),
            extend("x-kubernetes-validations" = crate::definition::rules::port())
        )
    )]
    pub port: u16,
    /// What each Redis container asks of its node.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Settings of the engine by name, as in `redis.conf`. Known ones only; those that Tholepin
    /// manages are refused with the field to use instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 64)))]
    pub settings: BTreeMap<String, SettingValue>,
    /// Where the password is kept. Without it there is none, and everybody who reaches a Pod may do
    /// anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// A volume per Pod, and an append-only file on it. Without it data lives in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("x-kubernetes-validations" = crate::definition::rules::storage()))
    )]
    pub storage: Option<Storage>,
    /// What happens when members fail.
    #[serde(default)]
    pub failover: Failover,
    /// Whether the data of a shard may be given up to serve its slots again: `never` (a person must approve it),
    /// or `acceptable`, as for a cache.
    #[serde(default)]
    pub data_loss: DataLoss,
}

/// The Secret that holds the password of the ACL user `default`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// The Secret's name, in the object's own namespace.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub secret_name: String,
    /// The key of the password in the Secret.
    #[serde(default = "default_password_key")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub key: String,
}

/// A volume per Pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The size of each volume, such as `10Gi`: the data, its rewrite and some room.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 20),
            extend(
                "pattern" = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
                "x-kubernetes-validations" = crate::definition::rules::storage_size()
            )
        )
    )]
    pub size: String,
    /// The storage class; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the object is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// What becomes of the volumes when the object is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnDelete {
    /// They stay, and an object of the same name finds its data again.
    #[default]
    Retain,
    /// They go, and the data with them.
    Delete,
}

/// What happens when members fail.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// What to do when a primary's process or Pod is known to be dead.
    #[serde(default)]
    pub on_pod_death: OnPodDeath,
    /// Milliseconds without an answer after which the cluster suspects a node
    /// (`cluster-node-timeout`). It bounds how long a hung primary blocks its slots; a dead one is
    /// replaced sooner. Shorter finds hung nodes sooner but takes slow ones for hung.
    #[serde(default = "default_node_timeout_ms")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1000, max = 120_000)))]
    pub node_timeout_ms: u32,
    /// Whether the whole cluster stops answering while some slot has no healthy owner
    /// (`cluster-require-full-coverage`). Caches are better off with `false`.
    #[serde(default = "default_true")]
    pub require_full_coverage: bool,
}

/// What to do when a primary is known to be dead.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnPodDeath {
    /// Promote the best replica at once. Writes that no replica had received yet are lost, as in any
    /// failover after a death.
    #[default]
    Force,
    /// Leave it to the cluster, which waits for its node timeout and then votes.
    Wait,
}

/// Whether the data of a shard may be given up to serve its slots again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DataLoss {
    /// Only with a person's approval.
    #[default]
    Never,
    /// Without asking: the data can be had again from elsewhere.
    Acceptable,
}

/// What a container asks of its node: quantities as Kubernetes writes them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// The least it needs; Pods are placed by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("additionalProperties" = crate::definition::rules::quantities()))
    )]
    pub requests: BTreeMap<String, SettingValue>,
    /// The most it may use. A fork copies memory that is written meanwhile: allow twice `maxmemory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("additionalProperties" = crate::definition::rules::quantities()))
    )]
    pub limits: BTreeMap<String, SettingValue>,
}

impl Resources {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            on_pod_death: OnPodDeath::default(),
            node_timeout_ms: default_node_timeout_ms(),
            require_full_coverage: default_true(),
        }
    }
}

const fn default_shards() -> u16 {
    3
}

const fn default_replicas_per_shard() -> u16 {
    1
}

fn default_image() -> String {
    "redis:7".to_owned()
}

const fn default_port() -> u16 {
    6379
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// A third of Redis' own default: deaths are seen by Tholepin at once, so this is for hung processes
/// and cut networks only, and must outlast what keeps a healthy process from answering. A fork takes
/// 5-8 ms for 194 MB resident on this class of machine, so about a second at 30 GB.
const fn default_node_timeout_ms() -> u32 {
    5000
}

const fn default_true() -> bool {
    true
}
