//! Combines the decisions about the parts of a cluster into a plan.

mod common;
mod fence;
mod heal;
mod promotion;
mod settings;
mod shard;
mod waits;

use alloc::vec::Vec;

use tholepin_redis_types::redis_cluster::RedisClusterSpec;
use tholepin_schema::primitives::{SlotRange, SlotSet};

use crate::{
    ClusterStage, ObservedRedisCluster, Plan, RedisPlanDecision, ShardPlan,
    cluster_model::ObservedClusterModel,
    outdated::{outdated, stuck},
};

/// Decides what to do next about a cluster.
///
/// `cluster` is the object's name, and `spec` must have passed validation. A plan contains at most one
/// failover. All other actions are planned together, because they do not disturb each other: handshakes and
/// settings are idempotent, and slots and replicas concern one node.
pub fn plan(cluster: &str, spec: &RedisClusterSpec, observed: &ObservedRedisCluster) -> Plan {
    let model = ObservedClusterModel::new(cluster, spec, observed);
    let mut fails_over = false;
    let mut shards: Vec<ShardPlan> =
        (0..model.layout.shards).map(|shard| shard::plan(&model, shard, &mut fails_over)).collect();
    let mut common = common::decide(&model);
    if let Some(reason) = waits::other_shards(&model) {
        shards
            .iter_mut()
            .for_each(|shard| shard.decision = RedisPlanDecision::Wait(reason.clone()));
        common = RedisPlanDecision::Wait(reason);
    }
    let done = common == RedisPlanDecision::Done
        && shards.iter().all(|shard| shard.decision == RedisPlanDecision::Done);
    let serving = model.answering.values().filter(|answering| answering.serves());
    let served = serving.fold(SlotSet::EMPTY, |all, answering| all.union(&answering.own.slots));
    // The members may know owners that have no position in the spec and do not answer.
    let done = done && SlotSet::from(SlotRange::ALL).difference(&served).is_empty();
    let stage = match (model.is_covered(), done) {
        (false, _) => ClusterStage::Forming,
        (true, false) => ClusterStage::Healing,
        (true, true) => ClusterStage::Steady,
    };
    let outdated = outdated(&model, stage, &shards);
    Plan {
        stage,
        shards,
        common,
        settings: settings::decide(&model),
        outdated,
        stuck: stuck(&model),
        fenced: fence::decide(&model),
        slots_served: served.slot_count(),
    }
}
