//! Finds why a shard is not in the desired state although no action can help now.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde_json::Value;
use tholepin_schema::{
    primitives::{NodeId, Role, SlotRange, SlotSet},
    snapshot::{Member, MemberAnswer, UnreachableReason},
};

use crate::{
    ClusterPlanWaitReason, MemberPosition,
    cluster_model::{AnsweringMember, ObservedClusterModel},
    last_output::last_output,
};

/// The age of a server, in seconds, from which on its readiness has been probed.
const PROBED_S: u64 = 10;
/// The most owners that a message lists.
const OWNERS_MAX: usize = 3;
/// The most characters of a message of Kubernetes that a reason repeats.
const WHY_CHARS_MAX: usize = 400;
/// The most characters of a list of slots in a message.
const SLOTS_CHARS_MAX: usize = 100;

/// Returns a reason for the positions of a shard that do not answer.
pub(super) fn silent(
    model: &ObservedClusterModel<'_>,
    shard: u16,
) -> Option<ClusterPlanWaitReason> {
    let absent: Vec<MemberPosition> = model
        .layout
        .positions_of(shard)
        .filter(|position| !model.answering.contains_key(position))
        .collect();
    // A refused password can be the cause why another member does not run.
    let mut placed = absent.iter().filter_map(|position| model.placed.get(position));
    if let Some(refused) = placed.find_map(|member| refused(model, member)) {
        return Some(refused);
    }
    if let Some(reason) = absent.iter().find_map(|position| start_failure(model, *position)) {
        return Some(reason);
    }
    let first = *absent.first()?;
    let pod = model.names.pod(first);
    let why = match model.placed.get(&first).map(|member| &member.answer) {
        Some(_) if model.placed.get(&first).is_some_and(|member| member.deleting) => {
            String::from("its Pod is being deleted")
        }
        None if model.snapshot().strangers.contains(&pod) => String::from(
            "a Pod of this name does not belong to this cluster: restore its owner reference and labels, or \
             delete it",
        ),
        None => match model.observed.obstacles.get(&pod) {
            Some(why) => return Some(ClusterPlanWaitReason::PodDoesNotRun { pod, why: cut(why) }),
            None => String::from("it does not exist yet"),
        },
        Some(MemberAnswer::Unreachable { reason: UnreachableReason::Refused, message }) => {
            format!(
                "{message}; `kubectl logs {pod}` shows whether its start guard waits, and for what"
            )
        }
        Some(MemberAnswer::Unreachable { message, .. }) => message.clone(),
        Some(MemberAnswer::Other) => {
            String::from("the host reports an answer that this plugin does not know")
        }
        Some(MemberAnswer::Answered(facts)) if facts.loading == Some(true) => {
            return Some(ClusterPlanWaitReason::Loading { pod });
        }
        Some(MemberAnswer::Answered(facts)) if facts.node.is_some() => {
            return Some(ClusterPlanWaitReason::TwoWithOneId { pod });
        }
        Some(MemberAnswer::Answered(facts)) => match facts.errors.iter().next() {
            Some((command, error)) => format!("it answers `{command}` with `{error}`"),
            None => String::from("it does not report its node id"),
        },
    };
    Some(ClusterPlanWaitReason::PodsNotAnswering { count: absent.len(), pod, why })
}

/// Returns a reason if a member answers but requires another password: its process is alive and does not
/// hang. If other members accept the password in force, the password of this member was changed by hand.
pub(super) fn refused(
    model: &ObservedClusterModel<'_>,
    member: &Member,
) -> Option<ClusterPlanWaitReason> {
    match &member.answer {
        MemberAnswer::Unreachable { reason: UnreachableReason::Auth, message } => {
            let (pod, why) = (member.pod.clone(), message.clone());
            let fix = if model.answering.is_empty() {
                "write the password that the servers have into the Secret of `.spec.auth`"
            } else {
                "other members accept it, so the password of this one was changed by hand: change it back \
                 (`requirepass` and `masterauth`), or delete its Pod when another member has its data"
            };
            Some(ClusterPlanWaitReason::CredentialsRefused { pod, why, fix })
        }
        MemberAnswer::Unreachable { .. } | MemberAnswer::Answered(_) | MemberAnswer::Other => None,
    }
}

/// Returns why the server at a position does not run and will not start by itself: it ended with an error
/// message, or Kubernetes reports why there is no container.
pub(super) fn start_failure(
    model: &ObservedClusterModel<'_>,
    position: MemberPosition,
) -> Option<ClusterPlanWaitReason> {
    let member = model.placed.get(&position)?;
    let MemberAnswer::Unreachable { reason, .. } = &member.answer else { return None };
    let pod = member.pod.clone();
    match reason {
        // A server that accepts connections has started.
        UnreachableReason::NotRunning | UnreachableReason::Refused => {}
        UnreachableReason::NoAddress => {
            return Some(ClusterPlanWaitReason::PodDoesNotRun {
                pod,
                why: creation_failure(model, member)?,
            });
        }
        UnreachableReason::Timeout
        | UnreachableReason::Auth
        | UnreachableReason::Gone
        | UnreachableReason::Protocol
        | UnreachableReason::Other => return None,
    }
    match last_output(member) {
        Some(output) => Some(ClusterPlanWaitReason::DoesNotStart { pod, output }),
        None => Some(ClusterPlanWaitReason::PodDoesNotRun {
            pod,
            why: creation_failure(model, member)?,
        }),
    }
}

/// Returns why no Kubernetes node accepts a Pod, or why its container cannot be created.
fn creation_failure(model: &ObservedClusterModel<'_>, member: &Member) -> Option<String> {
    /// States that pass by themselves.
    const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    let text = |path: &str| member.kubernetes.pointer(path).and_then(Value::as_str);
    if let Some(why) = text("/unplaced") {
        return Some(match model.observed.obstacles.get(&member.pod) {
            Some(obstacle) => cut(&format!("{why} ({obstacle})")),
            None => cut(why),
        });
    }
    let reason = text("/state/waiting/reason").filter(|reason| !USUAL.contains(reason))?;
    let why = match text("/state/waiting/message") {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_string(),
    };
    Some(cut(&why))
}

fn cut(why: &str) -> String {
    why.chars().take(WHY_CHARS_MAX).collect()
}

/// Returns a reason for the first member of a shard that does not report `cluster_state:ok`.
pub(super) fn not_ok(
    model: &ObservedClusterModel<'_>,
    shard: u16,
) -> Option<ClusterPlanWaitReason> {
    let mut answering = model.answering_of(shard);
    let not_ok_member = answering
        .find(|answering| !answering.facts.cluster.as_ref().is_some_and(|cluster| cluster.ok))?;
    Some(ClusterPlanWaitReason::StateNotOk {
        pod: not_ok_member.member.pod.clone(),
        why: uncovered(model, not_ok_member),
    })
}

/// Returns a reason if a move of a slot was left unfinished on the owner. This plugin moves no slots.
pub(super) fn slot_open(owner: AnsweringMember<'_>) -> Option<ClusterPlanWaitReason> {
    let first = owner.facts.open_slots.first()?;
    let (pod, count) = (owner.member.pod.clone(), owner.facts.open_slots.len());
    Some(ClusterPlanWaitReason::SlotOpen { pod, slot: first.slot, count })
}

/// Returns a reason for slots that the majority assigns to the owner, while the owner assigns them to another
/// member that answers and does not have them either, as after a `CLUSTER SETSLOT … NODE` on the owner alone.
pub(super) fn slots_disowned(
    model: &ObservedClusterModel<'_>,
    owner: AnsweringMember<'_>,
) -> Option<ClusterPlanWaitReason> {
    let agreed = &model.snapshot().view.get(&owner.node)?.slots;
    let given_away = agreed.difference(&owner.own.slots);
    let rows = model.snapshot().seen_by(owner.member)?;
    rows.iter().find_map(|(id, row)| {
        let other = model.answering_node(*id).filter(|other| other.node != owner.node)?;
        let slots = row.slots.intersection(&given_away).difference(&other.own.slots);
        (!slots.is_empty()).then(|| ClusterPlanWaitReason::SlotsDisowned {
            pod: owner.member.pod.clone(),
            node: owner.node,
            other: other.member.pod.clone(),
            slots: bounded_text(&slots),
        })
    })
}

/// Returns a reason if the members hold the data of a cluster with another number of shards and this object
/// has never reached the desired state: it was created with volumes that were kept. Slots that a person moves
/// later are not reported here.
pub(super) fn other_shards(model: &ObservedClusterModel<'_>) -> Option<ClusterPlanWaitReason> {
    if model.observed.previous.formed {
        return None;
    }
    let layout = model.layout;
    let shards_of = |slots: &SlotSet| {
        (0..layout.shards)
            .filter(|shard| !layout.slots(*shard).intersection(slots).is_empty())
            .count()
    };
    let owners = || model.answering.values().filter(|answering| answering.serves());
    let crossing = owners().find(|answering| 1 < shards_of(&answering.own.slots));
    let shares = |answering: &&AnsweringMember<'_>| {
        let mut others = owners().filter(|other| other.node != answering.node);
        let shard = (0..layout.shards).map(|shard| layout.slots(shard));
        let mut shard = shard.filter(|slots| !slots.intersection(&answering.own.slots).is_empty());
        let Some(shard) = shard.next() else { return false };
        // Owners that the volumes still name and that have no position here count as well.
        let lacking = shard.difference(&answering.own.slots);
        let remembered =
            model.snapshot().seen_by(answering.member).into_iter().flatten().any(|(id, row)| {
                id != answering.node && !row.slots.intersection(&lacking).is_empty()
            });
        remembered || others.any(|other| !shard.intersection(&other.own.slots).is_empty())
    };
    let unfit = crossing.or_else(|| owners().find(shares))?;
    Some(ClusterPlanWaitReason::OtherShards {
        pod: unfit.member.pod.clone(),
        shards: layout.shards,
        slots: bounded_text(&unfit.own.slots),
    })
}

/// Returns a reason for the first member of a shard whose Pod is not ready although its server has run for a
/// while: new clients cannot connect, although the host still has its connection.
pub(super) fn not_ready(
    model: &ObservedClusterModel<'_>,
    shard: u16,
) -> Option<ClusterPlanWaitReason> {
    let unready = model.answering_of(shard).find(is_unready)?;
    Some(ClusterPlanWaitReason::PodNotReady { pod: unready.member.pod.clone() })
}

pub(super) fn is_unready(answering: &AnsweringMember<'_>) -> bool {
    let ready = answering.member.kubernetes.get("ready").and_then(Value::as_bool);
    ready == Some(false) && answering.facts.uptime_s.is_some_and(|uptime_s| PROBED_S <= uptime_s)
}

/// Returns which slots are not covered in a member's own view, and which nodes own them.
fn uncovered(model: &ObservedClusterModel<'_>, answering: AnsweringMember<'_>) -> String {
    let rows = model.snapshot().seen_by(answering.member).unwrap_or_default();
    let owners = rows.iter().filter(|(_, row)| row.role == Role::Primary && !row.slots.is_empty());
    let owned = owners.clone().fold(SlotSet::EMPTY, |all, (_, row)| all.union(&row.slots));
    let unowned = SlotSet::from(SlotRange::ALL).difference(&owned);
    let failed: Vec<_> = owners.filter(|(_, row)| row.is_failing() || !row.connected).collect();
    let mut parts = Vec::new();
    for (id, row) in failed.iter().take(OWNERS_MAX) {
        let (slots, node_name) = (bounded_text(&row.slots), node_name(model, **id));
        parts.push(format!("the slots {slots} belong to {node_name}, which it does not reach"));
    }
    match failed.len().saturating_sub(OWNERS_MAX) {
        0 => {}
        more => parts.push(format!("it does not reach {more} more owners either")),
    }
    if !unowned.is_empty() {
        parts.push(format!("the slots {} have no owner that it knows", bounded_text(&unowned)));
    }
    if parts.is_empty() {
        return String::from("it reaches an owner of every slot and will report `ok` soon");
    }
    parts.join("; ")
}

/// Writes slots as text of bounded length: all of them, or the first ones and the total number.
pub(super) fn bounded_text(slots: &SlotSet) -> String {
    let all = slots.to_string();
    let Some(beginning) = all.get(..SLOTS_CHARS_MAX) else { return all };
    let whole = beginning.rsplit_once(' ').map_or("", |(whole, _)| whole);
    format!("{whole} and more ({} in total)", slots.slot_count())
}

/// Returns the name of a node for messages: its Pod if known, else its id.
fn node_name(model: &ObservedClusterModel<'_>, node: NodeId) -> String {
    let answers = model.answering_node(node).map(|answering| answering.member.pod.clone());
    let known = || {
        let shards = &model.observed.previous.shards;
        let mut members = shards.iter().flat_map(|shard| &shard.members);
        let is_it = |id: &str| id.parse() == Ok(node);
        members
            .find(|member| member.node.as_deref().is_some_and(is_it))
            .map(|member| member.pod.clone())
    };
    match answers.or_else(known) {
        Some(pod) => format!("`{pod}`"),
        None => format!("the node {}", node.short()),
    }
}
