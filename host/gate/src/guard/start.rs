//! Guard of `allow-start` (a start without data), and the checks for giving up the data of a dead owner.
//!
//! A primary that starts without data makes its replicas delete theirs within seconds. The process therefore
//! waits in its Pod, and the host lets it start only when no other copy of its data can exist. A replica that
//! does not answer counts as having the data.

use std::collections::BTreeSet;

use tholepin_schema::{
    guard_id::GuardId,
    primitives::{NodeId, SlotSet},
    reserved::APPROVE_DATA_LOSS,
    snapshot::{Member, Snapshot},
};

use super::{GuardInput, GuardRefusal, LossClass};
use crate::ledger_document::Ledger;

/// Requires that the process that waits in this Pod may start as the empty node that it was.
pub(super) fn start(input: &GuardInput<'_>, pod: &str, node: NodeId) -> Result<(), GuardRefusal> {
    let refused = |text: String| Err(GuardRefusal::new(GuardId::Start, text));
    let Some(member) = input.snapshot.member(pod) else {
        return refused(format!("`{pod}` is no Pod of this instance"));
    };
    if !member.running {
        return refused(format!(
            "the container of `{pod}` does not run, so no process waits in it"
        ));
    }
    if member.node().is_some() {
        return refused(format!("`{pod}` answers already"));
    }
    let known = input.ledger.nodes.get(&node).filter(|known| known.pod_uid == member.pod_uid);
    if known.is_none() {
        return refused(format!("{} was not seen in this Pod `{pod}`", node.short()));
    }
    if slots_of(input, node).is_empty() {
        return refused(format!("{} had no slots, so it does not wait", node.short()));
    }
    if !input.deaths.get(&node).is_some_and(|proof| proof.allows_takeover()) {
        return refused(format!("nothing proves that the process of {} has ended", node.short()));
    }
    no_other_copy(input, node)
}

/// Requires that no replica of a node can have its data.
///
/// # Errors
///
/// Fails with the replica that has data, or that does not answer.
pub(super) fn no_other_copy(input: &GuardInput<'_>, node: NodeId) -> Result<(), GuardRefusal> {
    for follower in followers(input.snapshot, input.ledger, node) {
        let answering = input.snapshot.member_of(follower);
        let Some(facts) = answering.and_then(Member::facts) else {
            let known = input.ledger.nodes.get(&follower);
            let had_memory_only = known.is_some_and(|known| known.persistent == Some(false));
            let is_ended = input.deaths.get(&follower).is_some_and(|proof| proof.allows_takeover());
            if (had_memory_only && is_ended) || input.approved.nodes.contains(&node) {
                continue;
            }
            let name = known.map_or_else(|| follower.short(), |known| known.pod.clone());
            let not_answering = known.and_then(|known| input.snapshot.member(&known.pod));
            if not_answering.is_some_and(Member::refuses_password) {
                let text = format!(
                    "its replica `{name}` runs, refuses the password, and counts as having the data"
                );
                return Err(GuardRefusal::new(GuardId::Copies, text));
            }
            let text = format!(
                "its replica `{name}` does not answer as the node {}, and counts as having the data; bring it \
                 back, or give the data up: {}",
                follower.short(),
                remedy(input, node)
            );
            return Err(GuardRefusal::new(GuardId::Copies, text));
        };
        let is_syncing = facts
            .replication
            .as_ref()
            .and_then(|stream| stream.upstream.as_ref())
            .is_none_or(|upstream| upstream.sync_in_progress);
        if facts.keys != Some(0) || facts.loading != Some(false) || is_syncing {
            let name = answering.map(|member| member.pod.as_str()).unwrap_or_default();
            let text = format!(
                "its replica `{name}` has data, or is loading it, and must take over first"
            );
            return Err(GuardRefusal::new(GuardId::Copies, text));
        }
    }
    Ok(())
}

/// Returns the nodes that replicate a node, or did when they were last seen.
pub(super) fn followers(snapshot: &Snapshot, ledger: &Ledger, node: NodeId) -> BTreeSet<NodeId> {
    let recorded = ledger.nodes.iter().filter(|(_, known)| known.primary == Some(node));
    let recorded = recorded.map(|(follower, _)| *follower);
    let reported = |snapshot: &Snapshot| {
        let facts = snapshot.members.iter().filter_map(Member::facts);
        let rows = snapshot.view.iter().chain(facts.flat_map(|facts| &facts.differs));
        let following = rows.filter(|(_, row)| row.primary == Some(node));
        following.map(|(follower, _)| *follower).collect::<Vec<_>>()
    };
    recorded.chain(reported(snapshot)).filter(|follower| *follower != node).collect()
}

/// Returns what is lost with the data of nodes that are given up.
pub(super) fn class(input: &GuardInput<'_>, nodes: &[NodeId], slots: &SlotSet) -> LossClass {
    let is_approved = nodes.iter().all(|node| input.approved.nodes.contains(node));
    let may_lose = !input.ledger.may_hold_keys(slots).is_empty();
    if may_lose && !is_approved { LossClass::DataLoss } else { LossClass::Safe }
}

/// Returns the slots that a node had, by the ledger and by the views of all members.
pub(super) fn slots_of(input: &GuardInput<'_>, node: NodeId) -> SlotSet {
    let GuardInput { snapshot, ledger, .. } = input;
    let recorded = ledger.nodes.get(&node).map(|known| known.slots.clone()).unwrap_or_default();
    let seen = snapshot.members.iter().filter_map(|member| snapshot.row_seen_by(member, node));
    seen.fold(recorded, |all, row| all.union(&row.slots))
}

/// Returns how a person can give up the data of this node's process.
pub(super) fn remedy(input: &GuardInput<'_>, node: NodeId) -> String {
    match input.ledger.nodes.get(&node) {
        Some(known) => {
            let unknown = match input.approved.unknown.first() {
                Some(first) => {
                    format!(" (the present entry `{first}` names no process of this object)")
                }
                None => String::new(),
            };
            format!(
                "annotate the object with `{APPROVE_DATA_LOSS}={node}/{}`{unknown}",
                known.run_id
            )
        }
        None => format!(
            "{} is not in the ledger, so its data can only return with its Pod",
            node.short()
        ),
    }
}
