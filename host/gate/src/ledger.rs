//! How the ledger changes: pure functions that record what was observed and done.
//!
//! The ledger is the host's record of an instance: for each node, in which Pod and process it ran.
//! `ledger_store` reads and writes the ConfigMap.
//!
//! Invariants:
//! - A container is recorded for a process only if no other container can have run it. A wrong pair would
//!   prove the death of a process that still runs.
//! - Recording an equal snapshot again changes nothing, so that the ledger is written on change only.

mod finished_stops;
mod identity;
mod merge;
pub(crate) mod repairs;
mod suspend;

pub(crate) use identity::silent_member_at;
pub(crate) use identity::{RedisNodeIdRelation, foreign_nodes, identify};
pub(crate) use merge::merge;
pub(crate) use suspend::{drop_replaced, drop_restored, restore_actions, suspend};

use crate::{
    container_ended::is_reported_terminated,
    ledger_document::{FORGOTTEN_MAX, KnownNode, Ledger},
};
use tholepin_schema::{
    action::{Action, Verb},
    primitives::{NodeId, Role, RunId, SlotSet},
    snapshot::{Member, MemberFacts, Snapshot},
};

/// Records a snapshot. Returns true if the ledger has changed and must be written.
pub(crate) fn record(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) -> bool {
    let before = ledger.clone();
    clamp_future_times(ledger, now_ms);
    if ledger.keys_known_since_ms.is_none() && snapshot.is_agreed() {
        ledger.keys_known_since_ms = Some(now_ms);
    }
    for member in &snapshot.members {
        let Some(facts) = member.facts() else { continue };
        if let (Some(node), Some(run_id)) = (facts.node, facts.run_id) {
            record_node(ledger, snapshot, (member, facts), (node, run_id), now_ms);
        }
    }
    // A member that ended before all members agreed has reported its identity too.
    let has_answered =
        |member: &Member| ledger.nodes.values().any(|known| known.pod_uid == member.pod_uid);
    if ledger.adopted_at_ms.is_none() && snapshot.is_agreed_but_for(has_answered) {
        ledger.adopted_at_ms = Some(now_ms);
    }
    record_absent(ledger, snapshot, now_ms);
    drop_unknown(ledger, snapshot, now_ms);
    finished_stops::drop_finished(ledger, snapshot, now_ms);
    repairs::drop_old(ledger, now_ms);
    *ledger != before
}

/// Replaces times in the future by now. They come from a host whose clock was ahead; with them a guard would
/// wait until this host's clock has caught up, perhaps for years. How long ago they are is not known, so
/// every wait for them begins again.
fn clamp_future_times(ledger: &mut Ledger, now_ms: u64) {
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

/// Records what others report about nodes that did not answer. Kubernetes: that the recorded container has
/// terminated, which the Pod's status shows only until the next restart. The majority: a primary that was
/// replaced while it was away lost its slots then, and not when it returns.
fn record_absent(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) {
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

fn record_node(
    ledger: &mut Ledger,
    snapshot: &Snapshot,
    (member, facts): (&Member, &MemberFacts),
    (node, run_id): (NodeId, RunId),
    now_ms: u64,
) {
    let old = ledger.nodes.get(&node);
    // The role is what the member itself reports. The slots are what the majority reports, because a primary
    // that was away still claims the slots that it has lost.
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

/// Returns a number from the Kubernetes facts of a member.
fn number(member: &Member, field: &str) -> Option<u64> {
    member.kubernetes.get(field).and_then(serde_json::Value::as_u64)
}

/// Returns true if a process writes its data to disk, by its settings; `None` if they are not known.
fn persistent(facts: &MemberFacts) -> Option<bool> {
    let setting = |name: &str| facts.settings.get(name).map(String::as_str);
    let (appends, saves) = (setting("appendonly")?, setting("save")?);
    Some(appends != "no" || !saves.is_empty())
}

/// Returns the container in the Pod's status if it is not the container of the process that answered.
///
/// The status was read before the process answered. If the status shows a running container other than the
/// recorded one, that container has replaced the recorded one, and the process runs in it. But if *another
/// process* than the recorded one answers while the status still shows the recorded container, the status is
/// older than the process: the container of the process is not known until the status shows another.
fn stale_container(old: Option<&KnownNode>, member: &Member, run_id: RunId) -> Option<String> {
    let old = old.filter(|old| old.pod_uid == member.pod_uid)?;
    let is_stale = old.run_id != run_id && old.container_id == member.container_id;
    let was_stale = old.stale_container_id.as_ref() == Some(&member.container_id);
    (is_stale || was_stale).then(|| member.container_id.clone())
}

/// Returns when the node last became primary of slots that it had replicated, or a replica after it had owned
/// slots.
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

/// Removes nodes that no member knows any more, once all members have answered. Fresh members know no other
/// nodes, so the last owner of slots that held keys stays until the slots have another owner, and so do its
/// replicas: their data could be lost.
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
        record_forgotten(ledger, node, now_ms);
    }
}

/// Records that a node was forgotten everywhere.
pub(crate) fn record_forgotten(ledger: &mut Ledger, node: NodeId, now_ms: u64) {
    ledger.nodes.remove(&node);
    ledger.forgotten.insert(node, now_ms);
    while FORGOTTEN_MAX < ledger.forgotten.len() {
        let oldest = ledger.forgotten.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
        if let Some(oldest) = oldest {
            ledger.forgotten.remove(&oldest);
        }
    }
}

/// Records that an action is about to be sent, as far as later guards need it: when a failover was last
/// tried, whatever its result. The ledger must be written before the action is sent.
pub(crate) fn record_failover_try(ledger: &mut Ledger, action: &Action, now_ms: u64) {
    if let Verb::Failover { pod, primary, .. } = &action.verb {
        for (node, known) in &mut ledger.nodes {
            if node == primary || known.pod == *pod {
                known.failover_tried_at_ms = Some(now_ms);
            }
        }
    }
}

/// Returns when the shard of this primary last changed roles or last received a failover command; `None` if
/// it never did.
#[must_use]
pub(crate) fn shard_changed_at_ms(
    ledger: &Ledger,
    snapshot: &Snapshot,
    primary: NodeId,
) -> Option<u64> {
    let replicas = snapshot.replicas_of(primary).map(|(node, _)| node);
    let known = replicas.chain([primary]).filter_map(|node| ledger.nodes.get(&node));
    known.flat_map(|node| [node.role_changed_at_ms, node.failover_tried_at_ms]).flatten().max()
}

#[cfg(test)]
mod tests;
