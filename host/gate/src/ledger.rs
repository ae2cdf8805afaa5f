//! How the ledger changes: pure functions from what was seen to what is remembered.
//!
//! Reading and writing the ConfigMap is another's work; nothing here knows where the ledger is kept.
//!
//! Invariants:
//! - A container is recorded for a process only if no other container can have been it: a wrong pair
//!   would prove the death of a process that lives.
//! - Equal sights change nothing the second time, so that the ledger is written on change only.

mod identity;
mod merge;
pub(crate) mod repairs;
mod returned;
mod suspend;

pub(crate) use identity::silent_member_at;
pub use identity::{NodeIdentity, foreign_nodes, identify};
pub(crate) use merge::merge;
pub use suspend::{lifts, restored, settle, suspend};

use crate::container_end::is_reported_terminated;
use tholepin_schema::{
    action::{Action, Verb},
    ledger::{FORGOTTEN_MAX, KnownNode, Ledger},
    primitives::{NodeId, Role, RunId, SlotSet},
    snapshot::{Member, MemberFacts, Snapshot},
};

/// Takes in a snapshot. Says whether the ledger has changed and must be written.
pub fn learn(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) -> bool {
    let before = ledger.clone();
    end_future(ledger, now_ms);
    if ledger.keys_known_since_ms.is_none() && snapshot.is_agreed() {
        ledger.keys_known_since_ms = Some(now_ms);
    }
    for member in &snapshot.members {
        let Some(facts) = member.facts() else { continue };
        if let (Some(node), Some(run_id)) = (facts.node, facts.run_id) {
            learn_node(ledger, snapshot, (member, facts), (node, run_id), now_ms);
        }
    }
    // One that died before all had agreed has told who it was, too.
    let has_told =
        |member: &Member| ledger.nodes.values().any(|known| known.pod_uid == member.pod_uid);
    if ledger.adopted_at_ms.is_none() && snapshot.is_agreed_but_for(has_told) {
        ledger.adopted_at_ms = Some(now_ms);
    }
    learn_absent(ledger, snapshot, now_ms);
    drop_unknown(ledger, snapshot, now_ms);
    returned::returned(ledger, snapshot, now_ms);
    repairs::drop_old(ledger, now_ms);
    *ledger != before
}

/// Makes times that are to come times of now. They come from a host whose clock was ahead: with them a
/// guard would wait until its own clock has come that far, perhaps for years. Nobody knows how long ago
/// they are, so that every wait for them begins anew.
fn end_future(ledger: &mut Ledger, now_ms: u64) {
    let end = |time: &mut u64| *time = (*time).min(now_ms);
    ledger.adopted_at_ms.iter_mut().for_each(end);
    ledger.keys_known_since_ms.iter_mut().for_each(end);
    ledger.forgotten.values_mut().for_each(end);
    ledger.suspensions.iter_mut().for_each(|suspension| end(&mut suspension.since_ms));
    ledger.repairs.values_mut().flat_map(|repair| &mut repair.tries_at_ms).for_each(end);
    ledger.stopped.values_mut().for_each(|stopped| end(&mut stopped.at_ms));
    for known in ledger.nodes.values_mut() {
        end(&mut known.changed_at_ms);
        let others = [
            &mut known.ended_at_ms,
            &mut known.gone_at_ms,
            &mut known.role_changed_at_ms,
            &mut known.failover_tried_at_ms,
        ];
        others.into_iter().flatten().for_each(end);
    }
}

/// Takes in what others say of nodes that did not answer. Kubernetes: that the recorded container has
/// terminated, which the Pod's status tells only until the next restart. The majority: a primary that
/// was replaced while it was away has lost its slots then, not when it comes back.
fn learn_absent(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) {
    for (node, known) in &mut ledger.nodes {
        if snapshot.members.iter().any(|member| member.node() == Some(*node)) {
            continue;
        }
        let has_pod = snapshot.members.iter().any(|member| member.pod_uid == known.pod_uid);
        if has_pod == known.gone_at_ms.is_some() {
            known.gone_at_ms = (!has_pod).then_some(now_ms);
            known.changed_at_ms = now_ms;
        }
        if known.ended_at_ms.is_none() && is_reported_terminated(known, snapshot) {
            known.ended_at_ms = Some(now_ms);
            known.changed_at_ms = now_ms;
        }
        if let Some(row) = snapshot.view.get(node).filter(|row| row.slots != known.slots) {
            known.slots = row.slots.clone();
            known.changed_at_ms = now_ms;
        }
    }
}

fn learn_node(
    ledger: &mut Ledger,
    snapshot: &Snapshot,
    (member, facts): (&Member, &MemberFacts),
    (node, run_id): (NodeId, RunId),
    now_ms: u64,
) {
    let old = ledger.nodes.get(&node);
    // The member's own word for its role; the majority's for the slots, because a primary that was
    // away still claims what it has lost.
    let own = snapshot.row_seen_by(member, node);
    let role = own.map(|row| row.role).or(facts.role).unwrap_or(Role::Primary);
    let seen = snapshot.view.get(&node).or(own);
    let slots = seen.map(|row| row.slots.clone()).unwrap_or_default();
    let stale = stale_container(old, member, run_id);
    let is_certain = stale.is_none() && member.running;
    let new = KnownNode {
        pod: member.pod.clone(),
        pod_uid: member.pod_uid.clone(),
        container_id: if is_certain { member.container_id.clone() } else { String::new() },
        stale_container_id: stale,
        ended_at_ms: None,
        run_id,
        kube_node: member.kube_node.clone(),
        address: member.address.clone(),
        role,
        primary: own.and_then(|row| row.primary),
        restart_count: number(member, "restartCount"),
        persistent: persistent(facts),
        grace_s: number(member, "graceSeconds"),
        gone_at_ms: None,
        role_changed_at_ms: role_change(
            old,
            role,
            own.is_some_and(|row| !row.slots.is_empty()),
            now_ms,
        ),
        slots,
        changed_at_ms: old.map_or(now_ms, |old| old.changed_at_ms),
        failover_tried_at_ms: old.and_then(|old| old.failover_tried_at_ms),
        unknown: old.map(|old| old.unknown.clone()).unwrap_or_default(),
    };
    if role == Role::Primary && facts.keys.is_some_and(|keys| keys != 0) {
        ledger.held_keys = ledger.held_keys.union(&new.slots);
    }
    let old = ledger.nodes.get(&node);
    if old != Some(&new) {
        ledger.nodes.insert(node, KnownNode { changed_at_ms: now_ms, ..new });
    }
}

/// A number that the snapshot shows of a member's Pod.
fn number(member: &Member, field: &str) -> Option<u64> {
    member.kubernetes.get(field).and_then(serde_json::Value::as_u64)
}

/// Whether a process writes its data to disk, as its settings say.
fn persistent(facts: &MemberFacts) -> Option<bool> {
    let setting = |name: &str| facts.settings.get(name).map(String::as_str);
    let (appends, saves) = (setting("appendonly")?, setting("save")?);
    Some(appends != "no" || !saves.is_empty())
}

/// A container that is not that of the process which answered, though the Pod's status names it.
///
/// The status was read before the process was asked. A container that it calls running and that is
/// not the one recorded has therefore replaced it, and what answered runs in the new one. But another
/// *process* than the one recorded, in the container that is, means that the status is older than the
/// process: its container is not known until the status names another.
fn stale_container(old: Option<&KnownNode>, member: &Member, run_id: RunId) -> Option<String> {
    let old = old.filter(|old| old.pod_uid == member.pod_uid)?;
    let is_stale = old.run_id != run_id && old.container_id == member.container_id;
    let was_stale = old.stale_container_id.as_ref() == Some(&member.container_id);
    (is_stale || was_stale).then(|| member.container_id.clone())
}

/// When the node last became primary of slots that it had followed, or a replica after it had them.
fn role_change(
    old: Option<&KnownNode>,
    role: Role,
    claims_slots: bool,
    now_ms: u64,
) -> Option<u64> {
    let old = old?;
    let promoted = old.role == Role::Replica && role == Role::Primary && claims_slots;
    let demoted = old.role == Role::Primary && role == Role::Replica && !old.slots.is_empty();
    if promoted || demoted { Some(now_ms) } else { old.role_changed_at_ms }
}

/// Drops nodes that nobody knows any more, if everybody could have told. A fresh member cannot: while
/// slots that held keys have no other owner, their last one is kept and so are its replicas, because
/// their data can be lost.
fn drop_unknown(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) {
    let all_answered = snapshot.members.iter().all(|member| member.node().is_some());
    if !all_answered || snapshot.members.is_empty() {
        return;
    }
    let is_known = |node: NodeId| {
        snapshot.members.iter().any(|member| snapshot.row_seen_by(member, node).is_some())
    };
    let owned = snapshot.primaries().fold(SlotSet::EMPTY, |all, (_, row)| all.union(&row.slots));
    let is_last_owner = |node: NodeId| {
        let slots = ledger.nodes.get(&node).map(|known| known.slots.difference(&owned));
        slots.is_some_and(|slots| !slots.intersection(&ledger.held_keys).is_empty())
    };
    let had_the_last_data = |node: NodeId, known: &KnownNode| {
        is_last_owner(node) || known.primary.is_some_and(is_last_owner)
    };
    let mut gone = Vec::new();
    for (node, known) in &ledger.nodes {
        if !is_known(*node) && !had_the_last_data(*node, known) {
            gone.push(*node);
        }
    }
    for node in gone {
        forgot(ledger, node, now_ms);
    }
}

/// Takes in that a node was forgotten everywhere.
pub fn forgot(ledger: &mut Ledger, node: NodeId, now_ms: u64) {
    ledger.nodes.remove(&node);
    ledger.forgotten.insert(node, now_ms);
    while FORGOTTEN_MAX < ledger.forgotten.len() {
        let oldest = ledger.forgotten.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
        if let Some(oldest) = oldest {
            ledger.forgotten.remove(&oldest);
        }
    }
}

/// Takes in that an action is about to be sent, as far as a later guard must know: when a failover was
/// last tried, with whatever result. Write the ledger before sending.
pub fn tried(ledger: &mut Ledger, action: &Action, now_ms: u64) {
    if let Verb::Failover { pod, primary, .. } = &action.verb {
        for (node, known) in &mut ledger.nodes {
            if node == primary || known.pod == *pod {
                known.failover_tried_at_ms = Some(now_ms);
            }
        }
    }
}

/// When the shard of this primary last changed roles, or was last told to; none if never seen.
#[must_use]
pub fn shard_changed_at_ms(ledger: &Ledger, snapshot: &Snapshot, primary: NodeId) -> Option<u64> {
    let replicas = snapshot.replicas_of(primary).map(|(node, _)| node);
    let known = replicas.chain([primary]).filter_map(|node| ledger.nodes.get(&node));
    known.flat_map(|node| [node.role_changed_at_ms, node.failover_tried_at_ms]).flatten().max()
}

#[cfg(test)]
mod tests;
