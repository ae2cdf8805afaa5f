//! `RedisCluster`: one Redis Cluster, its shards and how it is kept alive.

mod spec;
mod status;

pub use spec::{
    Auth, DataLoss, Failover, OnDelete, OnPodDeath, RedisClusterSpec, Resources, Storage,
};
pub use status::{
    Condition, ConditionStatus, MemberRole, MemberStatus, RedisClusterStatus, ShardStatus,
};

/// The kind's name.
pub const KIND: &str = "RedisCluster";
/// The longest name of an object: the Services and Pods made from it must have DNS labels as names.
pub const NAME_LENGTH_MAX: usize = 40;
