//! The spec of a `RedisCluster`. `kubectl explain` shows these doc comments as descriptions.

use alloc::{borrow::ToOwned, collections::BTreeMap, string::String};

use serde::{Deserialize, Serialize};

use crate::setting::RedisSettingValue;

/// A Redis Cluster: 16384 slots divided among shards, each with a primary and its replicas.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RedisClusterSpec {
    /// Number of shards that the slots are divided among. With 3 or more, the cluster itself can elect a new
    /// primary; with 1 or 2, only Tholepin can promote a replica. Changing the number is not supported yet.
    #[serde(default = "default_shards")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 1, max = 100),
            extend("x-kubernetes-validations" = crate::definition::rules::shards())
        )
    )]
    pub shards: u16,
    /// Number of replicas of each shard, besides its primary. It can be increased, but not decreased yet.
    /// Without a replica, the slots of a shard are unavailable while its primary is down, and without storage
    /// its data is lost.
    #[serde(default = "default_replicas_per_shard")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 0, max = 5),
            extend("x-kubernetes-validations" = crate::definition::rules::replicas_per_shard())
        )
    )]
    pub replicas_per_shard: u16,
    /// Image of the server: Redis or Valkey, 6.2 or newer.
    #[serde(default = "default_image")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 500)))]
    pub image: String,
    /// Port for clients. The cluster bus uses this port plus 10000. Use a different port for each cluster
    /// where Pod addresses are reused quickly: a late message to a reused address then reaches a closed port
    /// instead of another cluster.
    #[serde(default = "default_port")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            range(min = 1024, max = 55_535),
            extend("x-kubernetes-validations" = crate::definition::rules::port())
        )
    )]
    pub port: u16,
    /// Resources of each Redis container.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Server settings by name, as in `redis.conf`. In the definition, the description lists the names of
    /// [`OFFERED`](crate::setting::OFFERED).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend(
            "maxProperties" = 64,
            "description" = crate::definition::settings_description()
        ))
    )]
    pub settings: BTreeMap<String, RedisSettingValue>,
    /// Secret that contains the password. Without it there is no password, and everybody who can connect to a
    /// Pod has full access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,
    /// A volume for each Pod, with an append-only file on it. Without it, data is only in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("x-kubernetes-validations" = crate::definition::rules::storage()))
    )]
    pub storage: Option<StorageSpec>,
    /// Behaviour when members fail.
    #[serde(default)]
    pub failover: FailoverSpec,
    /// Whether the data of a shard may be given up in order to serve its slots again: `never` (a person must
    /// approve it), or `acceptable`, for example for a cache.
    #[serde(default)]
    pub data_loss: DataLoss,
}

/// The Secret that contains the password of the ACL user `default`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// Name of the Secret, in the namespace of this object.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub secret_name: String,
    /// Key of the password in the Secret.
    #[serde(default = "default_password_key")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub key: String,
}

/// A volume for each Pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of each volume, such as `10Gi`. It must hold the data, a rewrite of the append-only file, and
    /// some reserve.
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
    /// Storage class of the volumes; the default class of the Kubernetes cluster if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub storage_class_name: Option<String>,
    /// What happens to the volumes when this object is deleted.
    #[serde(default)]
    pub on_delete: VolumeRetention,
}

/// What happens to the volumes when the object is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum VolumeRetention {
    /// The volumes are kept, and a new object of the same name uses their data.
    #[default]
    Retain,
    /// The volumes and their data are deleted.
    Delete,
}

/// Behaviour when members fail.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// What to do when the process or Pod of a primary is known to be dead.
    #[serde(default)]
    pub on_pod_death: OnPodDeath,
    /// Milliseconds without an answer after which the cluster suspects a node (`cluster-node-timeout`). It
    /// limits how long a hung primary blocks its slots; a dead primary is replaced sooner. A shorter time
    /// detects hung nodes sooner but can mistake slow nodes for hung ones.
    #[serde(default = "default_node_timeout_ms")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1000, max = 120_000)))]
    pub node_timeout_ms: u32,
    /// Whether the whole cluster stops answering while any slot has no healthy owner
    /// (`cluster-require-full-coverage`). Use `false` for caches.
    #[serde(default = "default_true")]
    pub require_full_coverage: bool,
}

/// What to do when a primary is known to be dead.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnPodDeath {
    /// Promote the best replica immediately. Writes that no replica had received are lost, as in any failover
    /// after a death.
    #[default]
    Force,
    /// Leave the failover to the cluster, which waits for its node timeout and then votes.
    Wait,
}

/// Whether the data of a shard may be given up in order to serve its slots again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DataLoss {
    /// Only with the approval of a person.
    #[default]
    Never,
    /// Without approval: the data can be restored from elsewhere.
    Acceptable,
}

/// Resources of a container, as Kubernetes quantities.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Requested resources, which the scheduler uses to place the Pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("additionalProperties" = crate::definition::rules::quantities()))
    )]
    pub requests: BTreeMap<String, RedisSettingValue>,
    /// Limits. A fork copies the memory that is written meanwhile: allow twice `maxmemory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(extend("additionalProperties" = crate::definition::rules::quantities()))
    )]
    pub limits: BTreeMap<String, RedisSettingValue>,
}

impl Resources {
    /// Returns true if neither requests nor limits are set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

impl Default for FailoverSpec {
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

/// A third of Redis' own default (15 s). Tholepin detects dead processes immediately, so the timeout matters
/// for hung processes and broken networks only. It must be longer than the pauses of a healthy process: a
/// fork takes 5-8 ms for 194 MB resident on the development machine, so about a second at 30 GB.
const fn default_node_timeout_ms() -> u32 {
    5000
}

const fn default_true() -> bool {
    true
}
