//! Decides about one shard: the owner of its slots, its replicas, and whether that is the desired state.

use alloc::{collections::BTreeMap, format, string::String, vec, vec::Vec};

use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{
    action::{Action, Preconditions, Verb},
    primitives::{NodeId, Role, SlotSet},
    snapshot::{NodeFlag, NotInSyncReason},
};

use super::{common::first_epoch_id, fence, heal, waits};
use crate::{
    ClusterPlanWaitReason, MemberPosition, MemberState, REPLICA_BEHIND_BYTES_MAX,
    RedisPlanDecision, ShardPlan,
    cluster_model::{AnsweringMember, ObservedClusterModel},
};

/// The longest time in seconds without a link for which a replica keeps its last known state.
const FRESH_S: u64 = 1;
/// The time in seconds without a link to its primary after which a replica needs a person.
const LINK_DOWN_S: u64 = 30;

/// Decides about one shard. `fails_over` is true if a failover is planned already, and is set if this shard
/// plans one.
pub(super) fn plan(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    fails_over: &mut bool,
) -> ShardPlan {
    let owner = model.owners.get(usize::from(shard)).copied().flatten();
    let answering_owner = owner.and_then(|id| model.answering_node(id));
    let decision = match (owner, answering_owner) {
        (None, _) => begin(model, shard),
        (Some(owner), None) => heal::replace_owner(model, shard, owner, fails_over),
        (Some(_), Some(owner)) => keep(model, shard, owner, fails_over),
    };
    let slots = answering_owner
        .filter(AnsweringMember::serves)
        .map(|answering| answering.own.slots.clone());
    ShardPlan {
        name: model.names.shard(shard),
        slots: slots.unwrap_or_else(|| model.layout.slots(shard)),
        primary: answering_owner
            .filter(AnsweringMember::serves)
            .map(|answering| answering.member.pod.clone()),
        members: members(model, shard),
        decision,
    }
}

/// Gives the shard's slots, which no node claims, to its first empty member.
fn begin(model: &ObservedClusterModel<'_>, shard: u16) -> RedisPlanDecision {
    let primaries =
        model.answering_of(shard).filter(|answering| answering.own.role == Role::Primary);
    let mut empty = primaries
        .filter(|answering| answering.facts.keys == Some(0) || was_primary(model, answering));
    let Some(chosen) = empty.next() else {
        let holds_keys =
            model.answering_of(shard).find(|answering| answering.facts.keys != Some(0));
        return match holds_keys {
            Some(answering) => RedisPlanDecision::Wait(ClusterPlanWaitReason::HoldsKeys {
                pod: answering.member.pod.clone(),
                keys: answering.facts.keys.unwrap_or_default(),
            }),
            None => heal::start_alone(model, shard).unwrap_or_else(|| {
                RedisPlanDecision::Wait(
                    waits::silent(model, shard).unwrap_or(ClusterPlanWaitReason::Gossip),
                )
            }),
        };
    };
    assign(model, shard, chosen).unwrap_or(RedisPlanDecision::Wait(ClusterPlanWaitReason::Gossip))
}

fn was_primary(model: &ObservedClusterModel<'_>, answering: &AnsweringMember<'_>) -> bool {
    let shards = &model.observed.previous.shards;
    let members = shards.iter().flat_map(|shard| &shard.members);
    members.into_iter().any(|member| {
        member.role == MemberRole::Primary
            && member.node.as_deref().and_then(|id| id.parse().ok()) == Some(answering.node)
    })
}

/// Plans to assign slots to the owner: those of the shard that no node owns, and those that only the owner
/// itself does not know to be its own. `None` if there are no such slots.
fn assign(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: AnsweringMember<'_>,
) -> Option<RedisPlanDecision> {
    let desired = model.layout.slots(shard);
    let free = desired.difference(&model.claimed());
    let slots = free.union(&dropped(model, owner));
    if slots.is_empty() {
        return None;
    }
    // A Pod that does not answer may own them: one that was killed right after it got slots still has them.
    if let Some(reason) = any_silent(model) {
        return Some(RedisPlanDecision::Wait(reason));
    }
    let verb = Verb::AssignSlots { pod: owner.member.pod.clone(), slots };
    let presume = Preconditions {
        node: Some(owner.node),
        run_id: owner.facts.run_id,
        role: Some(Role::Primary),
        ..Preconditions::default()
    };
    let id = Some(format!("slots:{}", owner.member.pod));
    let after = first_epoch_id(model, &owner).into_iter().collect();
    Some(RedisPlanDecision::Act(vec![Action { id, verb, presume, after }]))
}

/// Returns a reason to wait if any Pod exists that does not report its node id.
fn any_silent(model: &ObservedClusterModel<'_>) -> Option<ClusterPlanWaitReason> {
    let mut positions = model.layout.positions();
    if let Some(reason) = positions.find_map(|position| waits::start_failure(model, position)) {
        return Some(reason);
    }
    let members = &model.snapshot().members;
    let mut silent = members.iter().filter(|member| member.node().is_none());
    let count = silent.clone().count();
    silent.next().map(|member| ClusterPlanWaitReason::PodsNotAnswering {
        count,
        pod: member.pod.clone(),
        why: String::from(
            "slots are assigned only when every Pod has reported which slots it owns",
        ),
    })
}

/// Returns the slots that the majority assigns to the owner and that the owner assigns to no node, as after a
/// `CLUSTER DELSLOTS` on it.
fn dropped(model: &ObservedClusterModel<'_>, owner: AnsweringMember<'_>) -> SlotSet {
    let agreed = model.snapshot().view.get(&owner.node).map(|row| &row.slots);
    let rows = model.snapshot().seen_by(owner.member).unwrap_or_default();
    let known = rows.values().fold(SlotSet::EMPTY, |all, row| all.union(&row.slots));
    agreed.map_or(SlotSet::EMPTY, |slots| slots.difference(&known))
}

/// Decides about a shard whose owner answers: hands over if its Pod is being deleted, completes its slots,
/// and makes the other members follow.
fn keep(
    model: &ObservedClusterModel<'_>,
    shard: u16,
    owner: AnsweringMember<'_>,
    fails_over: &mut bool,
) -> RedisPlanDecision {
    if fence::hung(model, owner.node).is_some() {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::CalledFailed {
            pod: owner.member.pod.clone(),
        });
    }
    if owner.member.deleting && owner.serves() {
        return heal::hand_over(model, shard, owner, fails_over);
    }
    if owner.own.role == Role::Primary
        && let Some(decision) = assign(model, shard, owner)
    {
        return decision;
    }
    let mut actions = Vec::new();
    let mut reasons = Vec::new();
    for answering in model.answering_of(shard).filter(|answering| answering.node != owner.node) {
        match follow(model, answering, owner) {
            RedisPlanDecision::Act(more) => actions.extend(more),
            RedisPlanDecision::Wait(reason) => reasons.push(reason),
            RedisPlanDecision::Done => {}
        }
    }
    if !actions.is_empty() {
        return RedisPlanDecision::Act(actions);
    }
    reasons.extend(waits::silent(model, shard));
    reasons.extend(waits::not_ok(model, shard));
    reasons.extend(waits::slot_open(owner));
    reasons.extend(waits::slots_disowned(model, owner));
    reasons.extend(waits::not_ready(model, shard));
    // A reason that needs a person comes first, then the first in the order of positions.
    let fault = reasons.iter().position(ClusterPlanWaitReason::is_fault).unwrap_or_default();
    if reasons.is_empty() {
        RedisPlanDecision::Done
    } else {
        RedisPlanDecision::Wait(reasons.swap_remove(fault))
    }
}

/// Makes one member follow the shard's owner.
fn follow(
    model: &ObservedClusterModel<'_>,
    answering: AnsweringMember<'_>,
    owner: AnsweringMember<'_>,
) -> RedisPlanDecision {
    let pod = &answering.member.pod;
    if answering.serves() {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::OldPrimary { pod: pod.clone() });
    }
    if answering.own.role == Role::Replica && answering.own.primary == Some(owner.node) {
        return match model.snapshot().check_in_sync(pod, REPLICA_BEHIND_BYTES_MAX) {
            Ok(()) => RedisPlanDecision::Done,
            Err(NotInSyncReason::LinkDown(_)) if is_long_down(answering) => {
                RedisPlanDecision::Wait(ClusterPlanWaitReason::LinkDown { pod: pod.clone() })
            }
            Err(why) => RedisPlanDecision::Wait(ClusterPlanWaitReason::Syncing {
                pod: pod.clone(),
                why: stage(&why),
            }),
        };
    }
    let keys = answering.facts.keys.unwrap_or_default();
    if answering.own.role == Role::Primary && keys != 0 {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::HoldsKeys {
            pod: pod.clone(),
            keys,
        });
    }
    let known = model.snapshot().row_seen_by(answering.member, owner.node);
    if known.is_none_or(|row| row.flags.contains(&NodeFlag::Handshake)) || !owner.serves() {
        return RedisPlanDecision::Wait(ClusterPlanWaitReason::Gossip);
    }
    let agreed = model.snapshot().view.get(&owner.node);
    RedisPlanDecision::Act(vec![Action {
        id: Some(format!("follow:{pod}")),
        verb: Verb::Replicate { pod: pod.clone(), primary: owner.node },
        presume: Preconditions {
            node: Some(answering.node),
            run_id: answering.facts.run_id,
            role: Some(answering.own.role),
            epoch: agreed.map(|row| row.epoch),
            ..Preconditions::default()
        },
        after: Vec::new(),
    }])
}

/// Returns true if a replica has had no link to its primary for so long that it will not reconnect by itself.
fn is_long_down(answering: AnsweringMember<'_>) -> bool {
    down_s(answering).is_some_and(|down_s| LINK_DOWN_S <= down_s)
}

/// Returns the seconds since the link to the primary went down.
fn down_s(answering: AnsweringMember<'_>) -> Option<u64> {
    answering.facts.replication.as_ref()?.upstream.as_ref()?.down_since_s
}

/// Returns what a replica lacks to be in sync, without numbers: these change all the time, and the status
/// must not.
const fn stage(why: &NotInSyncReason) -> &'static str {
    match why {
        NotInSyncReason::NoReplica(_) => "it is not a replica yet",
        NotInSyncReason::NoPrimary(_) => "its primary does not answer",
        NotInSyncReason::LinkDown(_) => "it is not linked to its primary",
        NotInSyncReason::Syncing(_) => "it is copying the data",
        NotInSyncReason::WrongAddress { .. } => "it follows an old address of its primary",
        NotInSyncReason::OtherHistory(_) => "it has another history of writes than its primary",
        NotInSyncReason::NotOnline { .. } => "its primary does not report it as online",
        NotInSyncReason::Behind { .. } => "it is behind",
        NotInSyncReason::Silent { .. } => "it does not acknowledge",
    }
}

/// Returns the present members of a shard; for those that do not answer, their last status.
fn members(model: &ObservedClusterModel<'_>, shard: u16) -> BTreeMap<String, MemberState> {
    let previous = model.observed.previous.shards.iter().flat_map(|shard| &shard.members);
    let previous: BTreeMap<&str, _> =
        previous.map(|member| (member.pod.as_str(), member)).collect();
    let has_primary = model.answering_of(shard).any(|answering| answering.serves());
    let view = |position: MemberPosition| {
        let pod = model.names.pod(position);
        let view = match model.answering.get(&position) {
            Some(answering) => state_of(model, answering),
            None => {
                let before = previous.get(pod.as_str());
                let id = before.and_then(|member| member.node.as_deref());
                let node: Option<NodeId> = id.and_then(|id| id.parse().ok());
                // While its primary does not answer either, the last status is the newest information.
                let was_in_sync = node.is_some_and(|node| model.was_in_sync(&pod, node));
                MemberState { node, role: MemberRole::Silent, in_sync: was_in_sync && !has_primary }
            }
        };
        (pod, view)
    };
    model.layout.positions_of(shard).map(view).collect()
}

fn state_of(model: &ObservedClusterModel<'_>, answering: &AnsweringMember<'_>) -> MemberState {
    let pod = &answering.member.pod;
    let role = match answering.own.role {
        Role::Primary if answering.own.slots.is_empty() => MemberRole::Joining,
        Role::Primary => MemberRole::Primary,
        Role::Replica => MemberRole::Replica,
        Role::Other => MemberRole::Joining,
    };
    let owner = model.owners.get(usize::from(answering.position.shard)).copied().flatten();
    let in_sync = match model.snapshot().check_in_sync(pod, REPLICA_BEHIND_BYTES_MAX) {
        // A replica of another shard's primary has no data of this shard.
        Ok(()) => answering.own.primary == owner,
        // The primary cannot be asked any more: the last status counts.
        Err(NotInSyncReason::NoPrimary(_)) => model.was_in_sync(pod, answering.node),
        // A primary that ends during the observation may have answered before its replica lost the link. The
        // host, which knows when the process ended, judges what was written in up to two more seconds.
        Err(NotInSyncReason::LinkDown(_))
            if down_s(*answering).is_some_and(|down_s| down_s <= FRESH_S) =>
        {
            model.was_in_sync(pod, answering.node)
        }
        Err(_) => false,
    };
    MemberState {
        node: Some(answering.node),
        role,
        in_sync: in_sync && role == MemberRole::Replica,
    }
}
