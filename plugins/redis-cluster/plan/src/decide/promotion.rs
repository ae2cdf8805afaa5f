//! Whether a replica may take the place of its primary, and whose votes it needs.

use alloc::vec::Vec;

use tholepin_redis_types::redis_cluster::DataLoss;
use tholepin_schema::{action::FailoverMode, primitives::NodeId};

use crate::{
    WaitReason,
    cluster_model::{ClusterModel, LiveMember, NodeAbsence},
};

/// Whether a replica of a dead primary may take its place. A replica that was not in sync would throw
/// away more than the tail: it may have nothing at all.
pub(super) fn may_lead(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> bool {
    let upstream = live.facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
    let is_whole = upstream.is_some_and(|upstream| !upstream.sync_in_progress);
    let was_in_sync = picture.was_in_sync(&live.member.pod, live.node);
    is_whole && (was_in_sync || picture.spec.data_loss == DataLoss::Acceptable)
}

/// How a replica of a dead primary can be promoted: by a vote if a majority of the primaries answers;
/// without one only if all that do not answer are gone as well.
pub(super) fn vote(picture: &ClusterModel<'_>) -> Result<FailoverMode, WaitReason> {
    let voters: Vec<NodeId> = picture.snapshot().primaries().map(|(id, _)| id).collect();
    let heard = voters.iter().filter(|id| picture.live_node(**id).is_some()).count();
    if voters.len() < heard * 2 {
        return Ok(FailoverMode::Force);
    }
    let absent = voters.iter().filter(|id| picture.live_node(**id).is_none());
    let all_gone = absent.copied().all(|id| {
        matches!(picture.absence(id, picture.address(id).as_deref()), NodeAbsence::Gone(_))
    });
    if all_gone {
        Ok(FailoverMode::Takeover)
    } else {
        Err(WaitReason::NoMajority { heard, voters: voters.len() })
    }
}
