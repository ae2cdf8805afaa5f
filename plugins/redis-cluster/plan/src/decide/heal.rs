//! Decides which member takes over a shard whose primary has ended or must end.
//!
//! The decisions here rest on the snapshot only: nothing listens at the primary's address, or its Pod is deleted.
//! Right before the failover, the host checks that the primary is proven dead or that the majority reports it as
//! failed. A failover without a vote needs the proof.

use alloc::{format, string::String, vec, vec::Vec};
use core::cmp::Reverse;

use tholepin_redis_types::redis_cluster::OnPodDeath;
use tholepin_schema::{
    action::{Action, FailoverMode, Preconditions, Verb},
    primitives::{NodeId, Role},
    snapshot::{Member, MemberAnswer, UnreachableReason},
};

use super::{
    fence,
    promotion::{may_be_promoted, vote},
    waits,
};
use crate::{
    ClusterPlanWaitReason, REPLICA_BEHIND_BYTES_MAX, RedisPlanDecision,
    cluster_model::{AbsentNodeState, AnsweringMember, ObservedClusterModel},
};

/// Decides about a shard whose owner does not answer.
pub(super) fn replace_owner(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    fails_over: &mut bool,
) -> RedisPlanDecision {
    let address = model.address(owner);
    let member = match model.absence(owner, address.as_deref()) {
        AbsentNodeState::Gone(None) if model.is_reached(owner) => {
            let slots = slots(model, owner);
            let address = address.unwrap_or_default();
            return RedisPlanDecision::Wait(ClusterPlanWaitReason::OwnerNoMember {
                node: owner,
                address,
                slots,
            });
        }
        AbsentNodeState::Gone(member) => member,
        AbsentNodeState::Silent(member) => {
            let (pod, slots) = (member.pod.clone(), slots(model, owner));
            let silent = || match fence::hung(model, owner) {
                Some(_) => ClusterPlanWaitReason::PrimaryHangs { pod, slots },
                None => ClusterPlanWaitReason::PrimarySilent { pod, slots },
            };
            return RedisPlanDecision::Wait(waits::refused(model, member).unwrap_or_else(silent));
        }
        AbsentNodeState::Loading(member) => {
            return RedisPlanDecision::Wait(ClusterPlanWaitReason::Loading {
                pod: member.pod.clone(),
            });
        }
    };
    let name = member.map_or_else(|| owner.short(), |member| member.pod.clone());
    let replicas: Vec<AnsweringMember<'_>> = model
        .answering
        .values()
        .filter(|answering| {
            answering.own.role == Role::Replica && answering.own.primary == Some(owner)
        })
        .copied()
        .collect();
    if replicas.is_empty() {
        return no_replica_left(model, shard, owner, member);
    }
    if model.spec.failover.on_pod_death == OnPodDeath::Wait {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::LeftToTheCluster { pod: name });
    }
    let eligible: Vec<&AnsweringMember<'_>> =
        replicas.iter().filter(|answering| may_be_promoted(model, answering)).collect();
    // Prefers replicas that are not being deleted and that clients reach, then the largest offset, then the
    // lowest id, so that every observer picks the same one.
    let order = |answering: &&&AnsweringMember<'_>| {
        (
            answering.member.deleting,
            waits::is_unready(answering),
            Reverse(offset(answering)),
            answering.node,
        )
    };
    // A replica whose process restarted has lost what it had in sync; the host decides whether it may be
    // promoted.
    let best =
        eligible.iter().filter(|answering| !answering.facts.has_never_synced()).min_by_key(order);
    if best.is_none() {
        let nothing_left = replicas.iter().all(|answering| answering.facts.keys == Some(0));
        let start = start_empty(model, shard, owner, member).filter(|_| nothing_left);
        if let Some(start) = start {
            return start;
        }
    }
    let Some(best) = best.or_else(|| eligible.iter().min_by_key(order)) else {
        return not_in_sync(model, &replicas, owner, name, fails_over);
    };
    let mode = match vote(model) {
        Ok(mode) => mode,
        Err(reason) => return RedisPlanDecision::Wait(reason),
    };
    fail_over(model, **best, owner, mode, fails_over)
}

/// Decides about a shard of which no replica was in sync when its primary last answered. The replica with the
/// most keys may have nearly all data: it takes over if a person approves the loss of what only the primary
/// has.
fn not_in_sync(
    model: &ObservedClusterModel<'_>,
    replicas: &[AnsweringMember<'_>],
    owner: NodeId,
    primary: String,
    fails_over: &mut bool,
) -> RedisPlanDecision {
    let has_keys = replicas.iter().filter(|answering| {
        let upstream =
            answering.facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
        let is_whole = upstream.is_some_and(|upstream| !upstream.sync_in_progress);
        is_whole && answering.facts.keys.is_some_and(|keys| keys != 0)
    });
    let fullest = has_keys.max_by_key(|answering| (answering.facts.keys, Reverse(answering.node)));
    let Some((fullest, mode)) = fullest.zip(vote(model).ok()) else {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::NoReplicaInSync { pod: primary });
    };
    let mut decision = fail_over(model, *fullest, owner, mode, fails_over);
    if let RedisPlanDecision::Act(actions) = &mut decision {
        actions.iter_mut().for_each(|action| action.presume.approved = true);
    }
    decision
}

/// Decides about a shard whose primary's Pod is being deleted: a replica takes over first, without loss.
pub(super) fn hand_over(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: AnsweringMember<'_>,
    fails_over: &mut bool,
) -> RedisPlanDecision {
    let snapshot = model.snapshot();
    let calls_failed =
        |answering: &AnsweringMember<'_>| fence::calls_failed(model, answering, owner.node);
    let replicas = model.answering_of(shard).filter(|answering| {
        answering.own.role == Role::Replica
            && answering.own.primary == Some(owner.node)
            && !answering.member.deleting
            && snapshot.check_in_sync(&answering.member.pod, REPLICA_BEHIND_BYTES_MAX).is_ok()
    });
    let best = replicas.min_by_key(|answering| {
        (calls_failed(answering), Reverse(offset(answering)), answering.node)
    });
    let pod = owner.member.pod.clone();
    match best {
        Some(best) if calls_failed(&best) => {
            RedisPlanDecision::Wait(ClusterPlanWaitReason::CalledFailed { pod })
        }
        Some(best) => fail_over(model, best, owner.node, FailoverMode::Graceful, fails_over),
        None => RedisPlanDecision::Wait(ClusterPlanWaitReason::NobodyToTakeOver { pod }),
    }
}

/// Decides about a shard of which no member answers that could name an owner. Its waiting processes are known
/// from the last status.
pub(super) fn start_alone(
    model: &ObservedClusterModel<'_>,
    shard: u16,
) -> Option<RedisPlanDecision> {
    let previous = model.observed.previous.shards.iter().flat_map(|shard| &shard.members);
    let node_of = |pod: &str| -> Option<NodeId> {
        let member = previous.clone().find(|member| member.pod == pod)?;
        member.node.as_deref()?.parse().ok()
    };
    if !model.answering.is_empty() {
        return None;
    }
    let mut positions = model.layout.positions_of(shard);
    positions.find_map(|position| {
        let member = model.placed.get(&position)?;
        start_empty(model, shard, node_of(&member.pod)?, Some(member))
    })
}

/// Plans to let the owner's process start without data, if it waits for that. The host decides whether
/// another copy can exist, and the object's policy decides whether the data may be lost. The plan does not
/// ask for it while a member of the shard refuses the password: that process is alive and may have the data.
fn start_empty(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    member: Option<&Member>,
) -> Option<RedisPlanDecision> {
    let waits = |member: &&Member| {
        let refuses = matches!(
            member.answer,
            MemberAnswer::Unreachable { reason: UnreachableReason::Refused, .. }
        );
        refuses && member.running && !member.deleting
    };
    let member = member.filter(waits)?;
    let mut placed =
        model.layout.positions_of(shard).filter_map(|position| model.placed.get(&position));
    if let Some(reason) = placed.find_map(|member| waits::refused(model, member)) {
        return Some(RedisPlanDecision::Wait(reason));
    }
    let pod = member.pod.clone();
    let presume = Preconditions {
        epoch: model.snapshot().view.get(&owner).map(|row| row.epoch),
        ..Preconditions::default()
    };
    let id = Some(format!("start:{pod}"));
    let verb = Verb::AllowStart { pod, node: owner };
    Some(RedisPlanDecision::Act(vec![Action { id, verb, presume, after: Vec::new() }]))
}

/// Decides about a shard of which no replica of the dead owner answers.
fn no_replica_left(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    member: Option<&Member>,
) -> RedisPlanDecision {
    if let Some(decision) = start_empty(model, shard, owner, member) {
        return decision;
    }
    // While its Pod exists, or if there are volumes, the owner may return with its data.
    let may_return = member.is_some() || model.spec.storage.is_some();
    let positions = model.layout.positions_of(shard);
    let absent = positions.filter(|position| !model.answering.contains_key(position)).count();
    if may_return && absent != 0 {
        let pod = member.map_or_else(|| model.names.shard(shard), |member| member.pod.clone());
        let why = String::from("it owns the shard's slots and no replica is left");
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::PodsNotAnswering {
            count: absent,
            pod,
            why,
        });
    }
    if absent != 0 {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::SlotsLost {
            node: owner,
            slots: slots(model, owner),
        });
    }
    // All members answer and none has the data. A new owner can get the slots once the dead one is forgotten;
    // the host checks that this loses nothing that must be kept.
    let presume = Preconditions {
        epoch: model.snapshot().view.get(&owner).map(|row| row.epoch),
        ..Preconditions::default()
    };
    let id = Some(format!("forget:{owner}"));
    let verb = Verb::Forget { node: owner };
    RedisPlanDecision::Act(vec![Action { id, verb, presume, after: Vec::new() }])
}

/// Returns the slots that a node owns in any member's view, as bounded text.
fn slots(model: &ObservedClusterModel<'_>, owner: NodeId) -> String {
    model.claims.get(&owner).map(waits::bounded_text).unwrap_or_default()
}

/// Returns the bytes of the primary's stream that a replica has applied.
fn offset(answering: &AnsweringMember<'_>) -> u64 {
    answering.facts.replication.as_ref().map_or(0, |stream| stream.offset_bytes)
}

fn fail_over(
    model: &ObservedClusterModel<'_>,
    replica: AnsweringMember<'_>,
    primary: NodeId,
    mode: FailoverMode,
    fails_over: &mut bool,
) -> RedisPlanDecision {
    if core::mem::replace(fails_over, true) {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::OtherShardFirst);
    }
    let pod = replica.member.pod.clone();
    RedisPlanDecision::Act(vec![Action {
        id: Some(format!("failover:{pod}")),
        verb: Verb::Failover { pod, primary, mode },
        presume: Preconditions {
            node: Some(replica.node),
            run_id: replica.facts.run_id,
            role: Some(Role::Replica),
            epoch: model.snapshot().view.get(&primary).map(|row| row.epoch),
            ..Preconditions::default()
        },
        after: Vec::new(),
    }])
}
