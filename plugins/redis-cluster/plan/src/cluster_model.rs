//! Sorts a snapshot by seats and shards, so that decisions can ask it short questions.
//!
//! It judges nothing: who owns what is what the members say, the majority first.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use tholepin_redis_types::redis_cluster::RedisClusterSpec;
use tholepin_schema::{
    primitives::{NodeId, Role, SlotRange, SlotSet},
    snapshot::{Member, MemberAnswer, MemberFacts, NodeFlag, NodeRow, Snapshot, UnreachableReason},
};

use crate::{ClusterLayout, MemberPosition, ObjectNames, Observed};

/// A snapshot, sorted.
pub(crate) struct ClusterModel<'a> {
    pub names: ObjectNames<'a>,
    pub spec: &'a RedisClusterSpec,
    pub layout: ClusterLayout,
    pub observed: &'a Observed,
    /// The Pods in wanted seats, whether they answer or not.
    pub placed: BTreeMap<MemberPosition, &'a Member>,
    /// Those of them that answer as nodes and have read their data. Of two with one id neither is
    /// here.
    pub live: BTreeMap<MemberPosition, LiveMember<'a>>,
    /// All slots that somebody claims or is said to own, by node, whoever says so.
    pub claims: BTreeMap<NodeId, SlotSet>,
    /// The owner of each shard's slots, in order of the shards.
    pub owners: Vec<Option<NodeId>>,
}

/// A member that answers as a node of a cluster.
#[derive(Clone, Copy)]
pub(crate) struct LiveMember<'a> {
    pub position: MemberPosition,
    pub member: &'a Member,
    pub facts: &'a MemberFacts,
    /// What it calls itself.
    pub node: NodeId,
    /// How it sees itself.
    pub own: &'a NodeRow,
}

impl LiveMember<'_> {
    /// Whether it serves slots in its own view.
    pub(crate) fn serves(&self) -> bool {
        self.own.role == Role::Primary && !self.own.slots.is_empty()
    }

    /// Whether it knows nobody but itself.
    pub(crate) fn is_alone(&self) -> bool {
        self.facts.cluster.as_ref().is_some_and(|cluster| cluster.known_nodes == 1)
    }
}

/// What can be said about a node from which no answer came.
#[derive(Clone, Copy)]
pub(crate) enum NodeAbsence<'a> {
    /// Nothing listens where it was, or its Pod is gone. Whether that is proof enough is the host's
    /// question.
    Gone(Option<&'a Member>),
    /// Somebody is there and says nothing, or not yet.
    Silent(&'a Member),
    /// It reads its data.
    Loading(&'a Member),
}

impl<'a> ClusterModel<'a> {
    pub(crate) fn new(
        cluster: &'a str,
        spec: &'a RedisClusterSpec,
        observed: &'a Observed,
    ) -> Self {
        let names = ObjectNames { cluster };
        let layout = ClusterLayout::of(spec);
        let snapshot = &observed.snapshot;
        let seats = snapshot.members.iter().filter_map(|member| {
            names.position(&member.pod).filter(|seat| layout.has(*seat)).map(|seat| (seat, member))
        });
        let seated: BTreeMap<MemberPosition, &Member> = seats.collect();
        let live = seated.iter().filter_map(|(seat, member)| live(snapshot, *seat, member));
        let live: BTreeMap<MemberPosition, LiveMember<'_>> =
            live.map(|live| (live.position, live)).collect();
        let mut picture = Self {
            names,
            spec,
            layout,
            observed,
            placed: seated,
            live,
            claims: BTreeMap::new(),
            owners: Vec::new(),
        };
        picture.claims = picture.claims();
        picture.owners = (0..layout.shards).map(|shard| picture.owner(shard)).collect();
        picture
    }

    pub(crate) const fn snapshot(&self) -> &'a Snapshot {
        &self.observed.snapshot
    }

    /// Every row that somebody has, the majority's first; meetings under way are left out, because
    /// their ids are made up.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (NodeId, &'a NodeRow)> {
        let snapshot = self.snapshot();
        let facts = snapshot.members.iter().filter_map(Member::facts);
        let rows = snapshot.view.iter().chain(facts.flat_map(|facts| &facts.differs));
        rows.filter(|(_, row)| !row.flags.contains(&NodeFlag::Handshake))
            .map(|(id, row)| (*id, row))
    }

    /// The live members of a shard, in order.
    pub(crate) fn live_of(&self, shard: u16) -> impl Iterator<Item = LiveMember<'a>> {
        self.live.values().filter(move |live| live.position.shard == shard).copied()
    }

    /// The live member with this id.
    pub(crate) fn live_node(&self, node: NodeId) -> Option<LiveMember<'a>> {
        self.live.values().find(|live| live.node == node).copied()
    }

    /// Whether every slot has an owner in somebody's eyes.
    pub(crate) fn is_covered(&self) -> bool {
        self.claimed() == SlotSet::from(SlotRange::ALL)
    }

    /// All slots that somebody claims.
    pub(crate) fn claimed(&self) -> SlotSet {
        self.claims.values().fold(SlotSet::EMPTY, |all, slots| all.union(slots))
    }

    /// Where a node was seen last: by the majority, else by anybody.
    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        let mut rows = self.rows().filter(|(id, _)| *id == node);
        rows.find_map(|(_, row)| row.address.clone())
    }

    /// Why a node that is known does not answer. `address` is where the others saw it last.
    pub(crate) fn absence(&self, node: NodeId, address: Option<&str>) -> NodeAbsence<'a> {
        let at = |member: &&Member| address.is_some() && member.address.as_deref() == address;
        let Some(member) = self.snapshot().members.iter().find(at) else {
            return NodeAbsence::Gone(None);
        };
        match &member.answer {
            MemberAnswer::Answered(facts) if facts.node == Some(node) => {
                NodeAbsence::Loading(member)
            }
            // Another node answers there: this one's memory is gone.
            MemberAnswer::Answered(MemberFacts { node: Some(_), .. }) => {
                NodeAbsence::Gone(Some(member))
            }
            MemberAnswer::Answered(_) => NodeAbsence::Loading(member),
            MemberAnswer::Unreachable { reason, .. } => match reason {
                UnreachableReason::NotRunning
                | UnreachableReason::Refused
                | UnreachableReason::Gone => NodeAbsence::Gone(Some(member)),
                UnreachableReason::NoAddress
                | UnreachableReason::Timeout
                | UnreachableReason::Auth
                | UnreachableReason::Protocol => NodeAbsence::Silent(member),
            },
        }
    }

    /// Whether a member that answers has a link to a node and does not call it failed: then its process
    /// lives, whether its Pod is a member or not.
    pub(crate) fn is_reached(&self, node: NodeId) -> bool {
        self.live.values().any(|live| {
            let row = self.snapshot().row_seen_by(live.member, node);
            row.is_some_and(|row| row.connected && !row.is_failing())
        })
    }

    /// Whether the member in a Pod was reported last as a replica in sync, if it still is the same node.
    pub(crate) fn was_in_sync(&self, pod: &str, node: NodeId) -> bool {
        let shards = &self.observed.previous.shards;
        let member = shards.iter().flat_map(|shard| &shard.members).find(|it| it.pod == pod);
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

    /// Who owns most of a shard's slots: as the majority says, else as the owner itself says, else as
    /// anybody says; among equals the lowest id.
    fn owner(&self, shard: u16) -> Option<NodeId> {
        let wanted = self.layout.slots(shard);
        let most = |rows: &mut dyn Iterator<Item = (NodeId, &SlotSet)>| {
            let counts = rows.map(|(id, slots)| (wanted.intersection(slots).slot_count(), id));
            let counts = counts.filter(|(count, _)| *count != 0);
            counts.max_by_key(|(count, id)| (*count, core::cmp::Reverse(*id))).map(|(_, id)| id)
        };
        let agreed = most(&mut self.snapshot().primaries().map(|(id, row)| (id, &row.slots)));
        let serving = self.live.values().filter(|live| live.serves());
        agreed
            .or_else(|| most(&mut serving.map(|live| (live.node, &live.own.slots))))
            .or_else(|| most(&mut self.claims.iter().map(|(id, slots)| (*id, slots))))
    }
}

fn live<'a>(
    snapshot: &'a Snapshot,
    seat: MemberPosition,
    member: &'a Member,
) -> Option<LiveMember<'a>> {
    let facts = member.facts().filter(|facts| facts.loading != Some(true))?;
    let node = facts.node?;
    // Two with one id: whoever is meant, it is not known who.
    snapshot.member_of(node)?;
    let own = snapshot.row_seen_by(member, node)?;
    Some(LiveMember { position: seat, member, facts, node, own })
}
