//! The model of a cluster: a snapshot sorted by shards and positions, with the queries that decisions need.
//!
//! It makes no decisions. The owners of slots are those that the members report, the majority's view first.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use tholepin_redis_types::redis_cluster::RedisClusterSpec;
use tholepin_schema::{
    primitives::{NodeId, Role, SlotRange, SlotSet},
    snapshot::{
        ClusterNodesRow, Member, MemberAnswer, MemberFacts, NodeFlag, Snapshot, UnreachableReason,
    },
};

use crate::{MemberPosition, ObservedRedisCluster, RedisClusterObjectNames, ShardAndReplicaCounts};

/// A snapshot, sorted by shards and positions.
pub(crate) struct ObservedClusterModel<'a> {
    pub names: RedisClusterObjectNames<'a>,
    pub spec: &'a RedisClusterSpec,
    pub layout: ShardAndReplicaCounts,
    pub observed: &'a ObservedRedisCluster,
    /// The members at desired positions, whether they answer or not.
    pub placed: BTreeMap<MemberPosition, &'a Member>,
    /// Those of them that answer as nodes and have loaded their data. If two members report the same node id,
    /// neither is included.
    pub answering: BTreeMap<MemberPosition, AnsweringMember<'a>>,
    /// All slots that a node claims or is said to own, by node, from the views of all members.
    pub claims: BTreeMap<NodeId, SlotSet>,
    /// The owner of each shard's slots, in order of the shards.
    pub owners: Vec<Option<NodeId>>,
}

/// A member that answers as a node of a cluster.
#[derive(Clone, Copy)]
pub(crate) struct AnsweringMember<'a> {
    pub position: MemberPosition,
    pub member: &'a Member,
    pub facts: &'a MemberFacts,
    /// The node id that it reports.
    pub node: NodeId,
    /// Its row in its own view.
    pub own: &'a ClusterNodesRow,
}

impl AnsweringMember<'_> {
    /// Returns true if it owns slots in its own view.
    pub(crate) fn serves(&self) -> bool {
        self.own.role == Role::Primary && !self.own.slots.is_empty()
    }

    /// Returns true if it knows no node but itself.
    pub(crate) fn is_alone(&self) -> bool {
        self.facts.cluster.as_ref().is_some_and(|cluster| cluster.known_nodes == 1)
    }
}

/// What is known of a node that does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AbsentNodeState<'a> {
    /// Nothing listens at its address, or its Pod is deleted. The host decides whether that proves its death.
    Gone(Option<&'a Member>),
    /// Something exists at its address and does not answer, or not yet.
    Silent(&'a Member),
    /// It is loading its data.
    Loading(&'a Member),
}

impl<'a> ObservedClusterModel<'a> {
    pub(crate) fn new(
        cluster: &'a str,
        spec: &'a RedisClusterSpec,
        observed: &'a ObservedRedisCluster,
    ) -> Self {
        let names = RedisClusterObjectNames { cluster };
        let layout = ShardAndReplicaCounts::of(spec);
        let snapshot = &observed.snapshot;
        let positions = snapshot.members.iter().filter_map(|member| {
            names
                .position(&member.pod)
                .filter(|position| layout.has(*position))
                .map(|position| (position, member))
        });
        let placed: BTreeMap<MemberPosition, &Member> = positions.collect();
        let answering =
            placed.iter().filter_map(|(position, member)| answering(snapshot, *position, member));
        let answering: BTreeMap<MemberPosition, AnsweringMember<'_>> =
            answering.map(|answering| (answering.position, answering)).collect();
        let mut model = Self {
            names,
            spec,
            layout,
            observed,
            placed,
            answering,
            claims: BTreeMap::new(),
            owners: Vec::new(),
        };
        model.claims = model.claims();
        model.owners = (0..layout.shards).map(|shard| model.owner(shard)).collect();
        model
    }

    pub(crate) const fn snapshot(&self) -> &'a Snapshot {
        &self.observed.snapshot
    }

    /// Iterates over the rows of all views, the majority's first. Handshakes in progress are left out,
    /// because their ids are random.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (NodeId, &'a ClusterNodesRow)> {
        let snapshot = self.snapshot();
        let facts = snapshot.members.iter().filter_map(Member::facts);
        let rows = snapshot.view.iter().chain(facts.flat_map(|facts| &facts.differs));
        rows.filter(|(_, row)| !row.flags.contains(&NodeFlag::Handshake))
            .map(|(id, row)| (*id, row))
    }

    /// Iterates over the members of a shard that answer, in order.
    pub(crate) fn answering_of(&self, shard: u16) -> impl Iterator<Item = AnsweringMember<'a>> {
        self.answering.values().filter(move |answering| answering.position.shard == shard).copied()
    }

    /// Returns the member with this id, if it answers.
    pub(crate) fn answering_node(&self, node: NodeId) -> Option<AnsweringMember<'a>> {
        self.answering.values().find(|answering| answering.node == node).copied()
    }

    /// Returns true if every slot has an owner in some member's view.
    pub(crate) fn is_covered(&self) -> bool {
        self.claimed() == SlotSet::from(SlotRange::ALL)
    }

    /// Returns all slots that any node claims.
    pub(crate) fn claimed(&self) -> SlotSet {
        self.claims.values().fold(SlotSet::EMPTY, |all, slots| all.union(slots))
    }

    /// Returns the last known address of a node, from the majority's view, else from any member's.
    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        let mut rows = self.rows().filter(|(id, _)| *id == node);
        rows.find_map(|(_, row)| row.address.clone())
    }

    /// Returns why a known node does not answer. `address` is its last known address in the views of the
    /// others.
    pub(crate) fn absence(&self, node: NodeId, address: Option<&str>) -> AbsentNodeState<'a> {
        let at = |member: &&Member| address.is_some() && member.address.as_deref() == address;
        let Some(member) = self.snapshot().members.iter().find(at) else {
            return AbsentNodeState::Gone(None);
        };
        match &member.answer {
            MemberAnswer::Answered(facts) if facts.node == Some(node) => {
                AbsentNodeState::Loading(member)
            }
            // Another node answers at the address, so this node's process has ended.
            MemberAnswer::Answered(MemberFacts { node: Some(_), .. }) => {
                AbsentNodeState::Gone(Some(member))
            }
            MemberAnswer::Answered(_) => AbsentNodeState::Loading(member),
            MemberAnswer::Unreachable { reason, .. } => match reason {
                UnreachableReason::NotRunning
                | UnreachableReason::Refused
                | UnreachableReason::Gone => AbsentNodeState::Gone(Some(member)),
                UnreachableReason::NoAddress
                | UnreachableReason::Timeout
                | UnreachableReason::Auth
                | UnreachableReason::Protocol
                | UnreachableReason::Other => AbsentNodeState::Silent(member),
            },
            // What a later host reports is no proof that the process has ended.
            MemberAnswer::Other => AbsentNodeState::Silent(member),
        }
    }

    /// Returns true if a member that answers has a link to a node and does not consider it failed. Its process is
    /// then alive, whether its Pod is a member or not.
    pub(crate) fn is_reached(&self, node: NodeId) -> bool {
        self.answering.values().any(|answering| {
            let row = self.snapshot().row_seen_by(answering.member, node);
            row.is_some_and(|row| row.connected && !row.is_failing())
        })
    }

    /// Returns true if the last status reported the member in this Pod as in sync, and the Pod still has the
    /// same node.
    pub(crate) fn was_in_sync(&self, pod: &str, node: NodeId) -> bool {
        let shards = &self.observed.previous.shards;
        let member =
            shards.iter().flat_map(|shard| &shard.members).find(|member| member.pod == pod);
        member.is_some_and(|member| {
            let same = member.node.as_deref().and_then(|id| id.parse().ok()) == Some(node);
            same && member.in_sync == Some(true)
        })
    }

    fn claims(&self) -> BTreeMap<NodeId, SlotSet> {
        let mut claims: BTreeMap<NodeId, SlotSet> = BTreeMap::new();
        for (id, row) in self.rows().filter(|(_, row)| !row.slots.is_empty()) {
            let slots = claims.entry(id).or_default();
            *slots = slots.union(&row.slots);
        }
        claims
    }

    /// Returns the node that owns most slots of a shard, according to the majority; else according to the
    /// owner itself; else according to any member. Among equals the lowest id wins.
    fn owner(&self, shard: u16) -> Option<NodeId> {
        let desired = self.layout.slots(shard);
        let most = |rows: &mut dyn Iterator<Item = (NodeId, &SlotSet)>| {
            let counts = rows.map(|(id, slots)| (desired.intersection(slots).slot_count(), id));
            let counts = counts.filter(|(count, _)| *count != 0);
            counts.max_by_key(|(count, id)| (*count, core::cmp::Reverse(*id))).map(|(_, id)| id)
        };
        let agreed = most(&mut self.snapshot().primaries().map(|(id, row)| (id, &row.slots)));
        let serving = self.answering.values().filter(|answering| answering.serves());
        agreed
            .or_else(|| most(&mut serving.map(|answering| (answering.node, &answering.own.slots))))
            .or_else(|| most(&mut self.claims.iter().map(|(id, slots)| (*id, slots))))
    }
}

fn answering<'a>(
    snapshot: &'a Snapshot,
    position: MemberPosition,
    member: &'a Member,
) -> Option<AnsweringMember<'a>> {
    let facts = member.facts().filter(|facts| facts.loading != Some(true))?;
    let node = facts.node?;
    // If two members report this id, it is not known which of them is meant.
    snapshot.member_of(node)?;
    let own = snapshot.row_seen_by(member, node)?;
    Some(AnsweringMember { position, member, facts, node, own })
}
