//! Guard of `forget`: the node cannot return, owns no slots and has no replicas; or it is an owner
//! that is proven dead and of which no copy is left.

use tholepin_schema::{guard_id::GuardId, primitives::NodeId};

use super::{GuardInput, GuardRefusal, absence, start};
use crate::ledger::{RedisNodeIdRelation, identify, silent_member_at};

pub(super) fn forget(input: &GuardInput<'_>, node: NodeId) -> Result<(), GuardRefusal> {
    let GuardInput { snapshot, ledger, .. } = input;
    let refused = |text: String| Err(GuardRefusal::new(GuardId::Ghost, text));
    match identify(node, snapshot, ledger) {
        RedisNodeIdRelation::Absent | RedisNodeIdRelation::Unreachable => {}
        RedisNodeIdRelation::Member => {
            return refused(format!("{} is a member that answers", node.short()));
        }
        RedisNodeIdRelation::Handshake => {
            return refused(format!("a meeting with {} is under way", node.short()));
        }
        RedisNodeIdRelation::Foreign => {
            return refused(format!("a process that is no member answers as {}", node.short()));
        }
    }
    // A Pod that does not answer may return with this very id.
    let known = ledger.nodes.get(&node).and_then(|known| snapshot.member(&known.pod));
    let not_answering = known.filter(|member| member.node().is_none());
    if let Some(member) = not_answering.or_else(|| silent_member_at(snapshot, node)) {
        return refused(format!("{} may return in `{}`", node.short(), member.pod));
    }
    // An owner that is proven dead must have no copy left. Whether its data may be lost is decided by the
    // action's class.
    let is_given_up = input.deaths.get(&node).is_some_and(|proof| proof.allows_takeover());
    if is_given_up && !start::slots_of(input, node).is_empty() {
        start::no_other_copy(input, node)?;
    }
    for member in snapshot.members.iter().filter(|member| member.running) {
        let Some(rows) = snapshot.seen_by(member) else {
            return refused(format!(
                "`{}` does not answer, and would introduce it again",
                member.pod
            ));
        };
        let owned = rows.get(&node).filter(|row| !row.slots.is_empty());
        if let Some(row) = owned.filter(|_| !is_given_up) {
            return refused(format!(
                "`{}` knows it as owner of {}; {}",
                member.pod,
                row.slots,
                absence::describe_missing(&[(node, input.unproven.get(&node))])
            ));
        }
        if let Some((follower, _)) = rows.iter().find(|(_, row)| row.primary == Some(node)) {
            return refused(format!("`{}` knows {} as its replica", member.pod, follower.short()));
        }
    }
    Ok(())
}
