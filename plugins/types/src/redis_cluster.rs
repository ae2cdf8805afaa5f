//! `RedisCluster`: one Redis Cluster, with its shards and its failover policy.

mod spec;
mod status;

pub use spec::{
    AuthSpec, DataLoss, FailoverSpec, OnPodDeath, RedisClusterSpec, Resources, StorageSpec,
    VolumeRetention,
};
pub use status::{
    Condition, ConditionStatus, MemberRole, MemberStatus, RedisClusterStatus, ShardStatus,
};

/// The kind's name.
pub const KIND: &str = "RedisCluster";
/// The longest name of an object, in characters: the names of its Services and Pods must be DNS labels.
pub const NAME_LENGTH_MAX: usize = 40;
