//! Guards of the verbs that build a cluster: `meet`, `set-config-epoch`, `assign-slots`, `replicate`.

use std::collections::BTreeMap;

use tholepin_schema::{
    guard_id::GuardId,
    primitives::{ConfigEpoch, NodeId, Role, SlotSet},
    snapshot::{ClusterNodesRow, NodeFlag, Snapshot},
};

use super::{GuardInput, GuardRefusal, common};
use crate::ledger::{RedisNodeIdRelation, identify};

/// Requires that neither member knows a node that is foreign to this instance, and that no slot is owned by
/// nodes of both sides. One meeting with a foreign node merges two clusters within a second, and the nodes
/// with the lower epochs lose their keys.
pub(super) fn meet(input: &GuardInput<'_>, pod: &str, with: &str) -> Result<(), GuardRefusal> {
    let snapshot = input.snapshot;
    if pod == with {
        return Err(GuardRefusal::new(GuardId::Meet, format!("`{pod}` cannot meet itself")));
    }
    let (here, there) = (known_nodes(input, pod)?, known_nodes(input, with)?);
    for (id, row) in here.iter().filter(|(_, row)| !row.slots.is_empty()) {
        for (other, claim) in there.iter().filter(|(_, row)| !row.slots.is_empty()) {
            let both = row.slots.intersection(&claim.slots);
            // A failover that one side has not learnt of yet is no conflict between two clusters.
            let is_known = here.contains_key(other) && there.contains_key(id);
            let returns = is_replaced(input, (*id, row), (*other, claim))
                || is_replaced(input, (*other, claim), (*id, row));
            if id != other && !is_known && !returns && !both.is_empty() {
                let text = format!(
                    "`{pod}` knows {} as owner of slots {both}, `{with}` knows {}: one of them would \
                     lose its keys",
                    id.short(),
                    other.short()
                );
                return Err(GuardRefusal::new(GuardId::MeetSlots, text));
            }
        }
    }
    // Both addresses belong to Pods that run now: `common::answering` has checked it.
    match snapshot.member(with).and_then(|member| member.address.as_ref()) {
        Some(_) => Ok(()),
        None => Err(GuardRefusal::new(GuardId::Member, format!("`{with}` has no address"))),
    }
}

/// Returns true if a node that this instance has forgotten returns and claims slots that were given to
/// another node since. Its lower epoch makes it lose the claim, and its keys are older than the failover.
fn is_replaced(
    input: &GuardInput<'_>,
    (old, claim): (NodeId, &ClusterNodesRow),
    (_, owner): (NodeId, &ClusterNodesRow),
) -> bool {
    input.ledger.forgotten.contains_key(&old)
        && claim.epoch < owner.epoch
        && claim.slots.difference(&owner.slots).is_empty()
}

/// Returns the rows of all nodes that a member knows. Each of them must belong to this instance.
fn known_nodes(
    input: &GuardInput<'_>,
    pod: &str,
) -> Result<BTreeMap<NodeId, ClusterNodesRow>, GuardRefusal> {
    let GuardInput { snapshot, ledger, .. } = input;
    let (own, _) = common::own_row(snapshot, pod)?;
    let (member, _) = common::answering(snapshot, pod)?;
    let mut rows = snapshot.seen_by(member).unwrap_or_default();
    rows.retain(|_, row| !row.flags.contains(&NodeFlag::Handshake));
    for id in rows.keys().filter(|id| **id != own) {
        let is_ours = match identify(*id, snapshot, ledger) {
            RedisNodeIdRelation::Member
            | RedisNodeIdRelation::Absent
            | RedisNodeIdRelation::Handshake => true,
            // No member reaches it now, but it may be a whole cluster that is down.
            RedisNodeIdRelation::Unreachable => ledger.forgotten.contains_key(id),
            RedisNodeIdRelation::Foreign => false,
        };
        if !is_ours {
            let text = format!("`{pod}` knows {}, which is no node of this instance", id.short());
            return Err(GuardRefusal::new(GuardId::MeetForeign, text));
        }
    }
    Ok(rows)
}

/// Requires a node that knows no other node and has epoch 0. Redis itself refuses later, and an epoch set by
/// hand could take slots from other nodes.
pub(super) fn set_epoch(
    input: &GuardInput<'_>,
    pod: &str,
    epoch: ConfigEpoch,
) -> Result<(), GuardRefusal> {
    let (_, row) = common::own_row(input.snapshot, pod)?;
    let (member, _) = common::answering(input.snapshot, pod)?;
    if row.epoch == epoch {
        return Ok(());
    }
    let known = input.snapshot.seen_by(member).unwrap_or_default().len();
    if known != 1 {
        return Err(GuardRefusal::new(
            GuardId::LoneNode,
            format!("`{pod}` knows {known} nodes, not itself alone"),
        ));
    }
    if row.epoch != ConfigEpoch(0) {
        let text = format!("`{pod}` has the epoch {} already", row.epoch);
        return Err(GuardRefusal::new(GuardId::LoneNode, text));
    }
    Ok(())
}

/// Requires a primary, and slots that no node owns in the view of any member. A member that does not answer
/// might own them.
pub(super) fn assign(
    input: &GuardInput<'_>,
    pod: &str,
    slots: &SlotSet,
) -> Result<(), GuardRefusal> {
    let snapshot = input.snapshot;
    let (own, row) = common::own_row(snapshot, pod)?;
    if slots.is_empty() {
        return Err(GuardRefusal::new(GuardId::Slots, "no slot is named"));
    }
    if row.role != Role::Primary {
        return Err(GuardRefusal::new(
            GuardId::Role,
            format!("`{pod}` is {}, slots need a primary", row.role),
        ));
    }
    for member in &snapshot.members {
        let Some(rows) = snapshot.seen_by(member) else {
            let text = format!("`{}` does not answer and may own them", member.pod);
            return Err(GuardRefusal::new(GuardId::Slots, text));
        };
        for (owner, row) in rows.iter().filter(|(id, _)| **id != own) {
            let owned = row.slots.intersection(slots);
            if !owned.is_empty() {
                let text = format!("`{}` knows {} as owner of {owned}", member.pod, owner.short());
                return Err(GuardRefusal::new(GuardId::Slots, text));
            }
        }
    }
    Ok(())
}

/// Requires that the node is a replica, or has neither slots nor keys, and that the primary is a member that
/// answers. The only copy of another shard must not be moved.
pub(super) fn replicate(
    input: &GuardInput<'_>,
    pod: &str,
    primary: NodeId,
) -> Result<(), GuardRefusal> {
    let snapshot = input.snapshot;
    let (own, row) = common::own_row(snapshot, pod)?;
    let (member, facts) = common::answering(snapshot, pod)?;
    if own == primary {
        return Err(GuardRefusal::new(GuardId::Primary, format!("`{pod}` cannot follow itself")));
    }
    if row.role == Role::Replica && row.primary == Some(primary) {
        return Ok(());
    }
    is_living_primary(snapshot, primary)?;
    let primary_row = snapshot.row_seen_by(member, primary);
    if !primary_row
        .is_some_and(|row| row.role == Role::Primary && !row.flags.contains(&NodeFlag::Handshake))
    {
        let text = format!("`{pod}` does not know {} as a primary (yet)", primary.short());
        return Err(GuardRefusal::new(GuardId::Primary, text));
    }
    for other in &snapshot.members {
        let slots = snapshot.row_seen_by(other, own).map(|row| row.slots.clone());
        if let Some(slots) = slots.filter(|slots| !slots.is_empty()) {
            let text = format!("`{}` knows `{pod}` as owner of {slots}", other.pod);
            return Err(GuardRefusal::new(GuardId::Slots, text));
        }
    }
    match (row.role, row.primary, facts.keys) {
        (Role::Primary, _, Some(0)) => Ok(()),
        (Role::Primary, _, keys) => {
            let keys =
                keys.map_or_else(|| "an unknown number of".to_owned(), |keys| keys.to_string());
            let text = format!("`{pod}` holds {keys} keys of its own, which it would drop");
            Err(GuardRefusal::new(GuardId::Empty, text))
        }
        // The replica leaves another shard, which must not depend on this copy alone.
        (Role::Replica, Some(old), _) => match is_living_primary(snapshot, old) {
            Err(refusal) if snapshot.view.get(&old).is_some_and(|row| !row.slots.is_empty()) => {
                let text =
                    format!("`{pod}` may be the only copy of its shard: {}", refusal.message);
                Err(GuardRefusal::new(GuardId::OnlyCopy, text))
            }
            _ => Ok(()),
        },
        (Role::Replica, None, _) => Ok(()),
        (Role::Other, _, _) => {
            let text = format!("the role of `{pod}` is not known to this host");
            Err(GuardRefusal::new(GuardId::Empty, text))
        }
    }
}

/// Requires that the node is a member that answers and reports to be a primary.
fn is_living_primary(snapshot: &Snapshot, node: NodeId) -> Result<(), GuardRefusal> {
    let Some(member) = snapshot.member_of(node) else {
        let text = format!("no member answers as {}", node.short());
        return Err(GuardRefusal::new(GuardId::Primary, text));
    };
    let (_, row) = common::own_row(snapshot, &member.pod)?;
    if row.role != Role::Primary {
        let text = format!("{} is {}", node.short(), row.role);
        return Err(GuardRefusal::new(GuardId::Primary, text));
    }
    Ok(())
}
