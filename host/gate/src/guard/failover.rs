//! Guards of the three modes of `failover`: graceful, force and takeover.

use std::collections::BTreeSet;

use tholepin_schema::{
    action::{FailoverMode, Verb},
    guard_id::GuardId,
    primitives::{NodeId, Role},
    snapshot::{ClusterNodesRow, Member, NodeFlag, Snapshot},
};

use super::{GuardInput, GuardRefusal, absence, common, start};
use crate::{ledger::shard_changed_at_ms, ledger_document::Ledger};

/// How many bytes a replica may lag for a graceful failover. The primary holds writes until the replica has
/// caught up, which takes no noticeable time for this amount.
pub(super) const BEHIND_BYTES_MAX: u64 = 1024 * 1024;

pub(super) fn failover(
    input: &GuardInput<'_>,
    pod: &str,
    primary: NodeId,
    mode: FailoverMode,
) -> Result<(), GuardRefusal> {
    let snapshot = input.snapshot;
    let node = is_its_replica(snapshot, pod, primary)?;
    is_quiet(input, pod, primary)?;
    no_open_slots(snapshot, pod, primary)?;
    match mode {
        FailoverMode::Graceful => {
            has_majority(snapshot)?;
            let in_sync = snapshot.check_in_sync(pod, BEHIND_BYTES_MAX);
            in_sync.map_err(|error| GuardRefusal::new(GuardId::InSync, error.to_string()))
        }
        FailoverMode::Force => {
            has_majority(snapshot)?;
            is_lost(input, primary)?;
            is_furthest(snapshot, pod, node, primary)
        }
        FailoverMode::Takeover => {
            has_no_majority(input)?;
            are_proven_dead(input, [primary])?;
            is_furthest(snapshot, pod, node, primary)
        }
    }
}

/// Requires that the node in the Pod is a replica of this primary in its own view and in the majority's, and
/// that the primary has slots: Redis never elects a successor of a primary without slots.
fn is_its_replica(snapshot: &Snapshot, pod: &str, primary: NodeId) -> Result<NodeId, GuardRefusal> {
    let (node, row) = common::own_row(snapshot, pod)?;
    let (member, _) = common::answering(snapshot, pod)?;
    let refused = |text: String| Err(GuardRefusal::new(GuardId::Replica, text));
    if row.role != Role::Replica || row.primary != Some(primary) {
        return refused(format!("`{pod}` does not report to be a replica of {}", primary.short()));
    }
    let agreed = snapshot.view.get(&node);
    if !agreed.is_some_and(|row| row.role == Role::Replica && row.primary == Some(primary)) {
        return refused(format!(
            "the majority does not know `{pod}` as a replica of {}",
            primary.short()
        ));
    }
    if snapshot.view.get(&primary).is_none_or(|row| row.slots.is_empty()) {
        return refused(format!("{} has no slots in the majority's view", primary.short()));
    }
    if !member.has_loaded() {
        return refused(format!("`{pod}` is still loading its data"));
    }
    Ok(node)
}

/// Requires that for twice the node timeout and a second the shard has neither changed roles nor received a
/// failover command. Before that, the voters refuse, and the primary holds writes for five seconds without a
/// result.
fn is_quiet(input: &GuardInput<'_>, pod: &str, primary: NodeId) -> Result<(), GuardRefusal> {
    let (_, facts) = common::answering(input.snapshot, pod)?;
    let timeout = facts.settings.get("cluster-node-timeout").and_then(|value| value.parse().ok());
    let Some(timeout_ms): Option<u64> = timeout else {
        let text = format!("`{pod}` does not report its cluster-node-timeout");
        return Err(GuardRefusal::new(GuardId::Quiet, text));
    };
    let Some(changed_at_ms) = shard_changed_at_ms(input.ledger, input.snapshot, primary) else {
        return Ok(());
    };
    let since_ms = input.now_ms.saturating_sub(changed_at_ms);
    let quiet_ms_min = timeout_ms.saturating_mul(2).saturating_add(1_000);
    if since_ms < quiet_ms_min {
        // The text becomes the message of a condition, so it contains no number that changes while the plugin
        // waits.
        let text = format!(
            "the shard of {} changed roles or received a failover command less than {quiet_ms_min} ms ago",
            primary.short()
        );
        return Err(GuardRefusal::new(GuardId::Quiet, text));
    }
    Ok(())
}

/// Requires that no slot of the shard is being moved: a failover would take down the shard at the other end
/// of the move too.
fn no_open_slots(snapshot: &Snapshot, pod: &str, primary: NodeId) -> Result<(), GuardRefusal> {
    let both = [snapshot.member(pod), snapshot.member_of(primary)];
    let mut open = both.into_iter().flatten().filter_map(Member::facts);
    if let Some(slot) = open.find_map(|facts| facts.open_slots.first()) {
        return Err(GuardRefusal::new(
            GuardId::OpenSlots,
            format!("slot {} of the shard is being moved", slot.slot),
        ));
    }
    Ok(())
}

fn has_majority(snapshot: &Snapshot) -> Result<(), GuardRefusal> {
    let quorum = snapshot.quorum();
    if quorum.is_majority() {
        return Ok(());
    }
    let text = format!(
        "{} of {} primaries answered and {} agree on who owns what: no majority",
        quorum.heard, quorum.voters, quorum.agreeing
    );
    Err(GuardRefusal::new(GuardId::Majority, text))
}

/// Requires that the cluster cannot vote, and that every primary that did not answer is proven dead.
/// Otherwise it could be on the other side of a cut network and go on serving there.
fn has_no_majority(input: &GuardInput<'_>) -> Result<(), GuardRefusal> {
    let quorum = input.snapshot.quorum();
    if quorum.voters < quorum.heard * 2 {
        let text = format!("{} of {} primaries answer and can vote", quorum.heard, quorum.voters);
        return Err(GuardRefusal::new(GuardId::NoMajority, text));
    }
    are_proven_dead(input, unanswered_primaries(input.snapshot))
}

/// Returns the primaries with slots, in the view of the majority or of any member that answers, that did not
/// answer themselves.
fn unanswered_primaries(snapshot: &Snapshot) -> BTreeSet<NodeId> {
    let facts = snapshot.members.iter().filter_map(Member::facts);
    let rows = snapshot.view.iter().chain(facts.flat_map(|facts| &facts.differs));
    let votes = |row: &ClusterNodesRow| {
        row.role == Role::Primary
            && !row.slots.is_empty()
            && !row.flags.contains(&NodeFlag::Handshake)
    };
    let voters = rows.filter(|(_, row)| votes(row)).map(|(id, _)| *id);
    voters.filter(|id| snapshot.member_of(*id).is_none()).collect()
}

/// Returns the nodes whose death decides whether an action is allowed.
pub(crate) fn suspects(verb: &Verb, snapshot: &Snapshot, ledger: &Ledger) -> BTreeSet<NodeId> {
    let (node, mut suspects) = match verb {
        Verb::Failover { primary, mode: FailoverMode::Takeover, .. } => {
            (*primary, unanswered_primaries(snapshot))
        }
        Verb::Failover { primary, .. } => (*primary, BTreeSet::new()),
        // The node's data is given up, so none of its replicas may still have it.
        Verb::Forget { node } | Verb::AllowStart { node, .. } => {
            (*node, start::followers(snapshot, ledger, *node))
        }
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::AssignSlots { .. }
        | Verb::Replicate { .. }
        | Verb::Configure { .. } => return BTreeSet::new(),
    };
    suspects.insert(node);
    suspects
}

/// Requires that the primary is proven dead, or that the majority of the cluster reports it as failed or
/// without an address.
fn is_lost(input: &GuardInput<'_>, primary: NodeId) -> Result<(), GuardRefusal> {
    is_silent(input.snapshot, primary)?;
    let agreed = input.snapshot.view.get(&primary);
    let is_given_up = agreed.is_some_and(|row| {
        row.flags.contains(&NodeFlag::Fail) || row.flags.contains(&NodeFlag::NoAddress)
    });
    if is_given_up || input.deaths.contains_key(&primary) {
        return Ok(());
    }
    let text = format!(
        "nothing proves that {} is dead, and the majority does not report it as failed",
        primary.short()
    );
    Err(GuardRefusal::new(GuardId::Death, text))
}

/// Requires that each of these nodes is proven dead by more than the deletion of its Pod.
fn are_proven_dead(
    input: &GuardInput<'_>,
    nodes: impl IntoIterator<Item = NodeId>,
) -> Result<(), GuardRefusal> {
    let mut open = Vec::new();
    for node in nodes {
        is_silent(input.snapshot, node)?;
        if !input.deaths.get(&node).is_some_and(|proof| proof.allows_takeover()) {
            open.push((node, input.unproven.get(&node)));
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(GuardRefusal::new(GuardId::Death, absence::describe_missing(&open)))
    }
}

fn is_silent(snapshot: &Snapshot, node: NodeId) -> Result<(), GuardRefusal> {
    let mut answering = snapshot.members.iter().filter(|member| member.node() == Some(node));
    match answering.next() {
        Some(member) => {
            let text = format!("{} answers in `{}`", node.short(), member.pod);
            Err(GuardRefusal::new(GuardId::Death, text))
        }
        None => Ok(()),
    }
}

/// Requires that no other replica that answers has received more of the primary's writes.
fn is_furthest(
    snapshot: &Snapshot,
    pod: &str,
    node: NodeId,
    primary: NodeId,
) -> Result<(), GuardRefusal> {
    let stream = |node: NodeId| snapshot.member_of(node)?.facts()?.replication.as_ref();
    let Some(own) = stream(node) else {
        return Err(GuardRefusal::new(
            GuardId::Furthest,
            format!("`{pod}` does not report its replication offset"),
        ));
    };
    for (other, _) in snapshot.replicas_of(primary) {
        let further = stream(other)
            .filter(|theirs| theirs.id == own.id && own.offset_bytes < theirs.offset_bytes);
        if let Some(theirs) = further {
            let text = format!(
                "{} is at {} bytes, `{pod}` at {}",
                other.short(),
                theirs.offset_bytes,
                own.offset_bytes
            );
            return Err(GuardRefusal::new(GuardId::Furthest, text));
        }
    }
    Ok(())
}
