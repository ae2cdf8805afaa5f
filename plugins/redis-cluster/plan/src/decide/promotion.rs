//! Checks whether a replica may replace its primary, and whose votes that needs.

use alloc::vec::Vec;

use tholepin_redis_types::redis_cluster::DataLoss;
use tholepin_schema::{action::FailoverMode, primitives::NodeId};

use crate::{
    ClusterPlanWaitReason,
    cluster_model::{AbsentNodeState, AnsweringMember, ObservedClusterModel},
};

/// Returns true if a replica of a dead primary may take its place. Promoting a replica that was not in sync
/// would lose more than the last writes: it may have no data at all.
pub(super) fn may_be_promoted(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
) -> bool {
    let upstream = answering.facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
    let is_whole = upstream.is_some_and(|upstream| !upstream.sync_in_progress);
    let was_in_sync = model.was_in_sync(&answering.member.pod, answering.node);
    is_whole && (was_in_sync || model.spec.data_loss == DataLoss::Acceptable)
}

/// Returns how a replica of a dead primary can be promoted: by a vote if a majority of the primaries answers;
/// without a vote only if all primaries that do not answer have ended.
pub(super) fn vote(
    model: &ObservedClusterModel<'_>,
) -> Result<FailoverMode, ClusterPlanWaitReason> {
    let voters: Vec<NodeId> = model.snapshot().primaries().map(|(id, _)| id).collect();
    let heard = voters.iter().filter(|id| model.answering_node(**id).is_some()).count();
    if voters.len() < heard * 2 {
        return Ok(FailoverMode::Force);
    }
    let absent = voters.iter().filter(|id| model.answering_node(**id).is_none());
    let all_gone = absent.copied().all(|id| {
        matches!(model.absence(id, model.address(id).as_deref()), AbsentNodeState::Gone(_))
    });
    if all_gone {
        Ok(FailoverMode::Takeover)
    } else {
        Err(ClusterPlanWaitReason::NoMajority { heard, voters: voters.len() })
    }
}
