//! Decides who takes over a shard whose primary is gone or must go.
//!
//! Whether a primary is dead is proven by the host, right before the effect. What is decided here
//! rests on what the snapshot shows: nothing listens where the primary was, or its Pod is gone.

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
    promotion::{may_lead, vote},
    waits,
};
use crate::{
    Decision, REPLICA_BEHIND_BYTES_MAX, WaitReason,
    cluster_model::{ClusterModel, LiveMember, NodeAbsence},
};

/// The owner of a shard's slots does not answer.
pub(super) fn lost(
    picture: &ClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    fails_over: &mut bool,
) -> Decision {
    let address = picture.address(owner);
    let member = match picture.absence(owner, address.as_deref()) {
        NodeAbsence::Gone(None) if picture.is_reached(owner) => {
            let slots = slots(picture, owner);
            let address = address.unwrap_or_default();
            return Decision::Wait(WaitReason::OwnerNoMember { node: owner, address, slots });
        }
        NodeAbsence::Gone(member) => member,
        NodeAbsence::Silent(member) => {
            let (pod, slots) = (member.pod.clone(), slots(picture, owner));
            let silent = || match fence::hung(picture, owner) {
                Some(_) => WaitReason::PrimaryHangs { pod, slots },
                None => WaitReason::PrimarySilent { pod, slots },
            };
            return Decision::Wait(waits::refused(picture, member).unwrap_or_else(silent));
        }
        NodeAbsence::Loading(member) => {
            return Decision::Wait(WaitReason::Loading { pod: member.pod.clone() });
        }
    };
    let name = member.map_or_else(|| owner.short(), |member| member.pod.clone());
    let replicas: Vec<LiveMember<'_>> = picture
        .live
        .values()
        .filter(|live| live.own.role == Role::Replica && live.own.primary == Some(owner))
        .copied()
        .collect();
    if replicas.is_empty() {
        return nobody_left(picture, shard, owner, member);
    }
    if picture.spec.failover.on_pod_death == OnPodDeath::Wait {
        return Decision::Wait(WaitReason::LeftToTheCluster { pod: name });
    }
    let eligible: Vec<&LiveMember<'_>> =
        replicas.iter().filter(|live| may_lead(picture, live)).collect();
    // Of those that are not about to go themselves and that clients reach, the one that is furthest along;
    // among equals the lowest id, so that everybody who looks picks the same one.
    let order = |live: &&&LiveMember<'_>| {
        (live.member.deleting, waits::is_unready(live), Reverse(offset(live)), live.node)
    };
    // One whose process began anew has nothing of what it was in sync with: whether it may lead is the
    // host's question.
    let best = eligible.iter().filter(|live| !live.facts.has_never_synced()).min_by_key(order);
    if best.is_none() {
        let nothing_left = replicas.iter().all(|live| live.facts.keys == Some(0));
        let start = start_empty(picture, shard, owner, member).filter(|_| nothing_left);
        if let Some(start) = start {
            return start;
        }
    }
    let Some(best) = best.or_else(|| eligible.iter().min_by_key(order)) else {
        return not_in_sync(picture, &replicas, owner, name, fails_over);
    };
    let mode = match vote(picture) {
        Ok(mode) => mode,
        Err(reason) => return Decision::Wait(reason),
    };
    fail_over(picture, **best, owner, mode, fails_over)
}

/// No replica was in sync when the primary was last heard. The one with most keys may have nearly all: it takes
/// over if a person gives up what only the primary has.
fn not_in_sync(
    picture: &ClusterModel<'_>,
    replicas: &[LiveMember<'_>],
    owner: NodeId,
    primary: String,
    fails_over: &mut bool,
) -> Decision {
    let has_keys = replicas.iter().filter(|live| {
        let upstream = live.facts.replication.as_ref().and_then(|it| it.upstream.as_ref());
        let is_whole = upstream.is_some_and(|upstream| !upstream.sync_in_progress);
        is_whole && live.facts.keys.is_some_and(|keys| keys != 0)
    });
    let fullest = has_keys.max_by_key(|live| (live.facts.keys, Reverse(live.node)));
    let Some((fullest, mode)) = fullest.zip(vote(picture).ok()) else {
        return Decision::Wait(WaitReason::NoReplicaInSync { pod: primary });
    };
    let mut decision = fail_over(picture, *fullest, owner, mode, fails_over);
    if let Decision::Act(actions) = &mut decision {
        actions.iter_mut().for_each(|action| action.presume.approved = true);
    }
    decision
}

/// The Pod of a shard's primary is being deleted: a replica takes over first, without loss.
pub(super) fn hand_over(
    picture: &ClusterModel<'_>,
    shard: u16,
    owner: LiveMember<'_>,
    fails_over: &mut bool,
) -> Decision {
    let snapshot = picture.snapshot();
    let calls_failed = |live: &LiveMember<'_>| fence::calls_failed(picture, live, owner.node);
    let replicas = picture.live_of(shard).filter(|live| {
        live.own.role == Role::Replica
            && live.own.primary == Some(owner.node)
            && !live.member.deleting
            && snapshot.check_in_sync(&live.member.pod, REPLICA_BEHIND_BYTES_MAX).is_ok()
    });
    let best = replicas.min_by_key(|live| (calls_failed(live), Reverse(offset(live)), live.node));
    let pod = owner.member.pod.clone();
    match best {
        Some(best) if calls_failed(&best) => Decision::Wait(WaitReason::CalledFailed { pod }),
        Some(best) => fail_over(picture, best, owner.node, FailoverMode::Graceful, fails_over),
        None => Decision::Wait(WaitReason::NobodyToTakeOver { pod }),
    }
}

/// Nobody answers who could name an owner: those of the shard that wait are known by the last report.
pub(super) fn start_alone(picture: &ClusterModel<'_>, shard: u16) -> Option<Decision> {
    let previous = picture.observed.previous.shards.iter().flat_map(|shard| &shard.members);
    let node_of = |pod: &str| -> Option<NodeId> {
        let member = previous.clone().find(|member| member.pod == pod)?;
        member.node.as_deref()?.parse().ok()
    };
    if !picture.live.is_empty() {
        return None;
    }
    let mut seats = picture.layout.positions_of(shard);
    seats.find_map(|seat| {
        let member = picture.placed.get(&seat)?;
        start_empty(picture, shard, node_of(&member.pod)?, Some(member))
    })
}

/// The owner's process may wait to be told that it can start without data. Whether another copy can exist
/// is the host's question, and what becomes of the data is the object's policy; here it is only asked. It is
/// not asked while a member of the shard refuses the password: that one lives, and may have the data.
fn start_empty(
    picture: &ClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    member: Option<&Member>,
) -> Option<Decision> {
    let waits = |member: &&Member| {
        let refuses = matches!(
            member.answer,
            MemberAnswer::Unreachable { reason: UnreachableReason::Refused, .. }
        );
        refuses && member.running && !member.deleting
    };
    let member = member.filter(waits)?;
    let mut seated =
        picture.layout.positions_of(shard).filter_map(|seat| picture.placed.get(&seat));
    if let Some(reason) = seated.find_map(|member| waits::refused(picture, member)) {
        return Some(Decision::Wait(reason));
    }
    let pod = member.pod.clone();
    let presume = Preconditions {
        epoch: picture.snapshot().view.get(&owner).map(|row| row.epoch),
        ..Preconditions::default()
    };
    let id = Some(format!("start:{pod}"));
    let verb = Verb::AllowStart { pod, node: owner };
    Some(Decision::Act(vec![Action { id, verb, presume, after: Vec::new() }]))
}

/// No replica of the dead owner answers.
fn nobody_left(
    picture: &ClusterModel<'_>,
    shard: u16,
    owner: NodeId,
    member: Option<&Member>,
) -> Decision {
    if let Some(decision) = start_empty(picture, shard, owner, member) {
        return decision;
    }
    // With its Pod still there, or with volumes, it may return with what it had.
    let may_return = member.is_some() || picture.spec.storage.is_some();
    let seats = picture.layout.positions_of(shard);
    let absent = seats.filter(|seat| !picture.live.contains_key(seat)).count();
    if may_return && absent != 0 {
        let pod = member.map_or_else(|| picture.names.shard(shard), |member| member.pod.clone());
        let why = String::from("it owns the shard's slots and no replica is left");
        return Decision::Wait(WaitReason::PodsNotAnswering { count: absent, pod, why });
    }
    if absent != 0 {
        return Decision::Wait(WaitReason::SlotsLost { node: owner, slots: slots(picture, owner) });
    }
    // Everybody answers and nobody has the data: a new owner can begin when the dead one is forgotten,
    // if the host finds that nothing is given up that must not be.
    let presume = Preconditions {
        epoch: picture.snapshot().view.get(&owner).map(|row| row.epoch),
        ..Preconditions::default()
    };
    let id = Some(format!("forget:{owner}"));
    let verb = Verb::Forget { node: owner };
    Decision::Act(vec![Action { id, verb, presume, after: Vec::new() }])
}

/// The slots that a node owns, whoever says so.
fn slots(picture: &ClusterModel<'_>, owner: NodeId) -> String {
    picture.claims.get(&owner).map(waits::brief).unwrap_or_default()
}

/// Bytes of the primary's stream that a replica has applied.
fn offset(live: &LiveMember<'_>) -> u64 {
    live.facts.replication.as_ref().map_or(0, |stream| stream.offset_bytes)
}

fn fail_over(
    picture: &ClusterModel<'_>,
    replica: LiveMember<'_>,
    primary: NodeId,
    mode: FailoverMode,
    fails_over: &mut bool,
) -> Decision {
    if core::mem::replace(fails_over, true) {
        return Decision::Wait(WaitReason::OtherShardFirst);
    }
    let pod = replica.member.pod.clone();
    Decision::Act(vec![Action {
        id: Some(format!("failover:{pod}")),
        verb: Verb::Failover { pod, primary, mode },
        presume: Preconditions {
            node: Some(replica.node),
            run_id: replica.facts.run_id,
            role: Some(Role::Replica),
            epoch: picture.snapshot().view.get(&primary).map(|row| row.epoch),
            ..Preconditions::default()
        },
        after: Vec::new(),
    }])
}
