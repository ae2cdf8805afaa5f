//! Decides about a primary whose process hangs: the process is ended before a replica takes its place.
//!
//! A process that hangs can continue at any moment. Redis elects a replica 0.5 to 1 s after the majority has
//! marked the primary as failed, even if it answers again by then. Writes that the old primary acknowledges
//! until it learns of the new one are lost (measured with Redis 7.0: 1 to 6 writes in 8 of 9 failovers of a
//! primary that was stopped for 3 to 4 s). The order is therefore: forbid the election, end the process, and
//! fail over when the end is proven. A primary that answers again before the majority has marked it as failed
//! continues. After that it is ended even if it answers, because the other nodes refuse it for twice the node
//! timeout. A process that does not end in time is left to the election.
//!
//! Not fenced are: a cache, for which a short outage matters more than lost writes; a primary without a
//! replica that could take over; a primary that does not answer the host but is not marked as failed by the
//! majority.

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
    cluster_model::{AbsentNodeState, AnsweringMember, ObservedClusterModel},
};

/// Returns the Pods to delete, each with its uid. Their processes hang, or hung until recently, and their
/// replicas have marked them as failed, which Redis does when the majority of the primaries agrees.
pub(super) fn decide(model: &ObservedClusterModel<'_>) -> Vec<(String, String)> {
    let is_failed = |owner: &NodeId| {
        model.answering.values().any(|successor| {
            can_succeed(model, successor, *owner) && calls_failed(model, successor, *owner)
        })
    };
    let failed = model.owners.iter().flatten().filter(|owner| is_failed(owner));
    let hung = failed.filter_map(|owner| hung(model, *owner));
    hung.filter(|member| !member.deleting)
        .map(|member| (member.pod.clone(), member.pod_uid.clone()))
        .collect()
}

/// Returns the member of this primary if its process hangs and must end before a replica takes its place.
/// While there is such a member, the cluster must not elect a replica.
pub(super) fn hung<'a>(model: &ObservedClusterModel<'a>, primary: NodeId) -> Option<&'a Member> {
    let spec = model.spec;
    if spec.data_loss == DataLoss::Acceptable || spec.failover.on_pod_death == OnPodDeath::Wait {
        return None;
    }
    let answering = model.answering_node(primary);
    let member = answering
        .map_or_else(|| silent_member(model, primary), |answering| Some(answering.member))?;
    let silence = model.observed.silent.get(&member.pod_uid)?;
    let limit_ms = u64::from(spec.failover.node_timeout_ms) + FENCE_MS_MAX;
    let in_time = silence.for_ms < limit_ms && !silence.is_unfenced;
    let has_vote = promotion::vote(model) == Ok(FailoverMode::Force);
    let takes_over = |successor: &AnsweringMember<'_>| {
        can_succeed(model, successor, primary)
            && (answering.is_none() || calls_failed(model, successor, primary))
    };
    let has_successor = || model.answering.values().any(takes_over);
    (member.running && in_time && has_vote && has_successor()).then_some(member)
}

/// Returns true if a member has marked a node as failed. Redis refuses a graceful failover of a primary that
/// its replica has marked as failed.
pub(super) fn calls_failed(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
    node: NodeId,
) -> bool {
    let row = model.snapshot().row_seen_by(answering.member, node);
    row.is_some_and(|row| row.flags.contains(&NodeFlag::Fail))
}

/// Returns the member of a primary whose process does not answer in time, but accepts connections or may do
/// so.
fn silent_member<'a>(model: &ObservedClusterModel<'a>, primary: NodeId) -> Option<&'a Member> {
    let address = model.address(primary);
    let AbsentNodeState::Silent(member) = model.absence(primary, address.as_deref()) else {
        return None;
    };
    let MemberAnswer::Unreachable { reason, .. } = &member.answer else { return None };
    (*reason == UnreachableReason::Timeout).then_some(member)
}

/// Returns true if a replica's link to the primary is up, so that it has received all writes until now, and
/// it may be promoted.
fn can_succeed(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
    primary: NodeId,
) -> bool {
    let upstream = answering.facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
    answering.own.primary == Some(primary)
        && upstream.is_some_and(|upstream| upstream.link_up)
        && promotion::may_be_promoted(model, answering)
}
