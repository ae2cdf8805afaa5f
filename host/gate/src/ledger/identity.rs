//! Classifies node ids: member, absent, unreachable, handshake or foreign.

use std::collections::BTreeSet;

use tholepin_schema::{
    primitives::NodeId,
    snapshot::{ClusterNodesRow, Member, NodeFlag, Snapshot},
};

use crate::ledger_document::Ledger;

/// The relation of a node id to the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RedisNodeIdRelation {
    /// A member answers with this id.
    Member,
    /// No member answers with this id now, but the ledger has it, or it is at the address of a member that
    /// does not answer.
    Absent,
    /// No member that knows it can reach it, and the ledger does not have it. It may be forgotten, but must
    /// not be met.
    Unreachable,
    /// A meeting is under way, and the id is a temporary one.
    Handshake,
    /// A process that is no member answers with this id: two clusters may have merged.
    Foreign,
}

/// Returns the relation of a node id to the instance.
#[must_use]
pub(crate) fn identify(node: NodeId, snapshot: &Snapshot, ledger: &Ledger) -> RedisNodeIdRelation {
    if snapshot.members.iter().any(|member| member.node() == Some(node)) {
        return RedisNodeIdRelation::Member;
    }
    if ledger.nodes.contains_key(&node) || silent_member_at(snapshot, node).is_some() {
        return RedisNodeIdRelation::Absent;
    }
    let rows: Vec<&ClusterNodesRow> = rows(snapshot, node).collect();
    let reaches = |row: &&ClusterNodesRow| {
        row.connected && !row.is_failing() && !row.flags.contains(&NodeFlag::NoAddress)
    };
    if rows.iter().any(|row| row.flags.contains(&NodeFlag::Handshake)) {
        return RedisNodeIdRelation::Handshake;
    }
    if rows.iter().any(reaches) && !ledger.forgotten.contains_key(&node) {
        return RedisNodeIdRelation::Foreign;
    }
    RedisNodeIdRelation::Unreachable
}

/// Returns the ids in any member's view with which a process answers that is no member.
#[must_use]
pub(crate) fn foreign_nodes(snapshot: &Snapshot, ledger: &Ledger) -> BTreeSet<NodeId> {
    let differing = snapshot.members.iter().filter_map(|member| member.facts());
    let ids = differing.flat_map(|facts| facts.differs.keys()).chain(snapshot.view.keys());
    let ids: BTreeSet<NodeId> = ids.copied().collect();
    ids.into_iter()
        .filter(|id| identify(*id, snapshot, ledger) == RedisNodeIdRelation::Foreign)
        .collect()
}

/// Returns the member that does not answer and at whose address some member sees this node: very likely the
/// node is that member's.
pub(crate) fn silent_member_at(snapshot: &Snapshot, node: NodeId) -> Option<&Member> {
    let addresses: BTreeSet<&String> =
        rows(snapshot, node).filter_map(|row| row.address.as_ref()).collect();
    snapshot.members.iter().find(|member| {
        let is_there = member.address.as_ref().is_some_and(|there| addresses.contains(there));
        is_there && member.node().is_none()
    })
}

/// Returns the rows in which members report a node.
fn rows(snapshot: &Snapshot, node: NodeId) -> impl Iterator<Item = &ClusterNodesRow> {
    snapshot.members.iter().filter_map(move |member| snapshot.row_seen_by(member, node))
}
