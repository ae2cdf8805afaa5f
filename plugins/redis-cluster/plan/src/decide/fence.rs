//! Decides about a primary whose process hangs: it is ended before another takes its place.
//!
//! A process that hangs may go on at any moment. Redis elects a replica 0.5 to 1 s after the majority has
//! called the primary failed, whether it answers again by then or not, and what the old primary acknowledges
//! until it hears of the new one is lost (measured on 7.0: 1 to 6 writes in 8 of 9 failovers of a primary that
//! was stopped for 3 to 4 s). So the order is: no election, then the end of the process, then the failover on
//! the proof of that end. One that answers again before the majority has called it failed goes on; afterwards it
//! is ended all the same, because the others refuse it for twice the node timeout. A process that does not end in
//! time is left to the election.
//!
//! Not fenced: a cache, for which being served soon counts more; a primary without a replica that could take
//! over; one that the host does not hear and the majority does.

use alloc::{string::String, vec::Vec};

use tholepin_redis_types::redis_cluster::{DataLoss, OnPodDeath};
use tholepin_schema::{
    action::FailoverMode,
    primitives::NodeId,
    snapshot::{Member, MemberAnswer, NodeFlag, UnreachableReason},
};

use super::promotion;
use crate::{
    FENCE_MS_MAX,
    cluster_model::{ClusterModel, LiveMember, NodeAbsence},
};

/// The Pods to delete, each with its uid: their processes hang, or did, and their replicas call them failed, as
/// Redis does when the majority of the primaries agrees.
pub(super) fn decide(picture: &ClusterModel<'_>) -> Vec<(String, String)> {
    let is_failed = |owner: &NodeId| {
        picture
            .live
            .values()
            .any(|heir| is_heir(picture, heir, *owner) && calls_failed(picture, heir, *owner))
    };
    let failed = picture.owners.iter().flatten().filter(|owner| is_failed(owner));
    let hung = failed.filter_map(|owner| hung(picture, *owner));
    hung.filter(|member| !member.deleting)
        .map(|member| (member.pod.clone(), member.pod_uid.clone()))
        .collect()
}

/// The member whose process is this primary, hangs, and is to be ended before another takes its place. Until
/// then the cluster may elect nobody.
pub(super) fn hung<'a>(picture: &ClusterModel<'a>, primary: NodeId) -> Option<&'a Member> {
    let spec = picture.spec;
    if spec.data_loss == DataLoss::Acceptable || spec.failover.on_pod_death == OnPodDeath::Wait {
        return None;
    }
    let live = picture.live_node(primary);
    let member = live.map_or_else(|| mute(picture, primary), |live| Some(live.member))?;
    let silence = picture.observed.silent.get(&member.pod_uid)?;
    let patience_ms = u64::from(spec.failover.node_timeout_ms) + FENCE_MS_MAX;
    let in_time = silence.for_ms < patience_ms && !silence.is_unfenced;
    let has_vote = promotion::vote(picture) == Ok(FailoverMode::Force);
    let takes_over = |heir: &LiveMember<'_>| {
        is_heir(picture, heir, primary) && (live.is_none() || calls_failed(picture, heir, primary))
    };
    let has_heir = || picture.live.values().any(takes_over);
    (member.running && in_time && has_vote && has_heir()).then_some(member)
}

/// Whether a member calls a node failed. Redis refuses a graceful failover of a primary that its replica
/// calls failed.
pub(super) fn calls_failed(
    picture: &ClusterModel<'_>,
    live: &LiveMember<'_>,
    node: NodeId,
) -> bool {
    let row = picture.snapshot().row_seen_by(live.member, node);
    row.is_some_and(|row| row.flags.contains(&NodeFlag::Fail))
}

/// The member of a primary that accepts connections, or may, and does not answer in time.
fn mute<'a>(picture: &ClusterModel<'a>, primary: NodeId) -> Option<&'a Member> {
    let address = picture.address(primary);
    let NodeAbsence::Silent(member) = picture.absence(primary, address.as_deref()) else {
        return None;
    };
    let MemberAnswer::Unreachable { reason, .. } = &member.answer else { return None };
    (*reason == UnreachableReason::Timeout).then_some(member)
}

/// Whether a replica has heard everything up to now: its link to the primary has not fallen.
fn is_heir(picture: &ClusterModel<'_>, live: &LiveMember<'_>, primary: NodeId) -> bool {
    let upstream = live.facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
    live.own.primary == Some(primary)
        && upstream.is_some_and(|upstream| upstream.link_up)
        && promotion::may_lead(picture, live)
}
