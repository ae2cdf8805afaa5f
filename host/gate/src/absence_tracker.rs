//! Keeps in memory what the proof of a long absence needs: since when no member has a link to a node, and
//! which Lease its Kubernetes node had when its process should have ended.
//!
//! Nothing of this is in the ledger, because it changes with every snapshot. A host that restarts begins to
//! count again.
//!
//! Invariants:
//! - Time counts only while snapshots follow each other closely. Nothing is assumed about a longer gap.
//! - A link counts as connected if two snapshots in a row show it so, and immediately if the member has heard
//!   from the node. A single snapshot may show an attempt: a member dials a lost node ten times a second, and
//!   `CLUSTER NODES` shows the link as connected while the dial is under way (measured: 2 % of the snapshots
//!   of a dead process on one machine).
//! - A renewal of a Lease is a change that this host has seen. The clock of a Kubernetes node is never
//!   compared with the host's clock.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use tholepin_schema::{
    primitives::NodeId,
    snapshot::{Member, MemberFacts, NodeFlag, Snapshot},
};

use crate::{
    guard,
    ledger_document::{KnownNode, Ledger},
    ownership::text,
};

/// The longest gap, in milliseconds, between two snapshots for the time between them to count. Reconciles
/// come twice a second while a shard has no primary.
const SNAPSHOT_GAP_MS_MAX: u64 = 5_000;

/// What is remembered of the nodes that do not answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct AbsentNodeTracker(BTreeMap<NodeId, UnansweringNode>);

#[derive(Clone, Debug, Default)]
struct UnansweringNode {
    /// When its Pod was deleted, by the ledger. Another time means another absence.
    gone_at_ms: Option<u64>,
    down: Option<ClusterLinkDowntime>,
    /// The members that may have been dialling the node in the last snapshot.
    dialling: BTreeSet<NodeId>,
    lease: Option<LeaseRenewals>,
}

/// How long no member has had a link to a node.
#[derive(Clone, Copy, Debug)]
struct ClusterLinkDowntime {
    since_ms: u64,
    seen_at_ms: u64,
}

/// The renewals of a Lease.
#[derive(Clone, Debug)]
struct LeaseRenewals {
    /// `spec.renewTime` at the first read after the process should have ended.
    first: String,
    /// Whether a later read had another value.
    changed: bool,
}

/// The fields read from the Lease of a Kubernetes node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedNodeLease {
    /// `spec.renewTime`, verbatim.
    renew_time: String,
    /// When the Kubernetes node joined, in milliseconds since 1970.
    created_at_ms: i64,
}

impl ObservedNodeLease {
    /// Reads a Lease.
    pub(crate) fn of(lease: &Value) -> Option<Self> {
        let created: Timestamp = text(lease, "/metadata/creationTimestamp").parse().ok()?;
        let renew_time = text(lease, "/spec/renewTime").to_owned();
        let created_at_ms = created.as_millisecond();
        (!renew_time.is_empty()).then_some(Self { renew_time, created_at_ms })
    }
}

impl AbsentNodeTracker {
    /// Records a snapshot that the ledger has recorded before.
    pub(crate) fn update(&mut self, ledger: &Ledger, snapshot: &Snapshot, now_ms: u64) {
        let answers = |node| snapshot.members.iter().any(|member| member.node() == Some(node));
        self.0.retain(|node, _| ledger.nodes.contains_key(node) && !answers(*node));
        for (node, known) in ledger.nodes.iter().filter(|(node, _)| !answers(**node)) {
            let absent = self.0.entry(*node).or_default();
            if absent.gone_at_ms != known.gone_at_ms {
                *absent =
                    UnansweringNode { gone_at_ms: known.gone_at_ms, ..UnansweringNode::default() };
            }
            let links = LinkSummary::of(snapshot, *node, &absent.dialling);
            absent.update_links(&links, now_ms);
        }
    }

    /// Returns how long, in milliseconds, no member has had a link to a node.
    pub(crate) fn link_down_ms(&self, node: NodeId) -> Option<u64> {
        let down = self.0.get(&node)?.down?;
        Some(down.seen_at_ms - down.since_ms)
    }

    /// Records the Lease of an absent node's Kubernetes node, and checks that it was renewed since the
    /// process should have ended.
    ///
    /// # Errors
    ///
    /// Fails with the condition that does not hold.
    pub(crate) fn renewed(
        &mut self,
        (node, known): (NodeId, &KnownNode),
        lease: &Result<ObservedNodeLease, String>,
        now_ms: u64,
    ) -> Result<(), String> {
        let name = &known.kube_node;
        let not_yet = || format!("the Kubernetes node `{name}` must renew its Lease after that");
        let is_due = guard::due_at_ms(known).is_some_and(|due_at_ms| due_at_ms <= now_ms);
        let absent = self.0.get_mut(&node).filter(|_| is_due);
        let (Some(absent), Some(gone_at_ms)) = (absent, known.gone_at_ms) else {
            return Err(not_yet());
        };
        let lease = lease.as_ref().map_err(|error| {
            format!("the Lease of the Kubernetes node `{name}` cannot be read ({error})")
        })?;
        if i64::try_from(gone_at_ms).is_ok_and(|gone_at_ms| gone_at_ms <= lease.created_at_ms) {
            absent.lease = None;
            return Err(format!(
                "the Kubernetes node `{name}` joined after the Pod was gone: it may be another machine"
            ));
        }
        let first = || LeaseRenewals { first: lease.renew_time.clone(), changed: false };
        let renewals = absent.lease.get_or_insert_with(first);
        renewals.changed |= renewals.first != lease.renew_time;
        if renewals.changed { Ok(()) } else { Err(not_yet()) }
    }
}

impl UnansweringNode {
    /// Records the links of one snapshot. A snapshot that shows a dial proves neither that the link is up nor
    /// that it is down.
    fn update_links(&mut self, links: &LinkSummary, now_ms: u64) {
        if links.connected || links.knowing == 0 {
            self.down = None;
        } else if links.dialling.is_empty() {
            let since_ms = self.down.map_or(now_ms, |down| down.since_ms(now_ms));
            self.down = Some(ClusterLinkDowntime { since_ms, seen_at_ms: now_ms });
        }
        self.dialling.clone_from(&links.dialling);
    }
}

impl ClusterLinkDowntime {
    /// Returns since when the link is down if it is still down now.
    fn since_ms(&self, now_ms: u64) -> u64 {
        let apart_ms = now_ms.checked_sub(self.seen_at_ms);
        let is_close = apart_ms.is_some_and(|apart_ms| apart_ms <= SNAPSHOT_GAP_MS_MAX);
        if is_close { self.since_ms } else { now_ms }
    }
}

/// The links to a node, as reported by the members that answer and know it.
struct LinkSummary {
    /// How many members know the node.
    knowing: usize,
    /// Whether one of them is connected.
    connected: bool,
    /// The members that may be dialling the node right now.
    dialling: BTreeSet<NodeId>,
}

impl LinkSummary {
    /// Summarises a snapshot. `before` are the members that may have been dialling in the previous one.
    fn of(snapshot: &Snapshot, node: NodeId, before: &BTreeSet<NodeId>) -> Self {
        let mut links = Self { knowing: 0, connected: false, dialling: BTreeSet::new() };
        for member in &snapshot.members {
            let (Some(own), Some(row)) = (member.node(), snapshot.row_seen_by(member, node)) else {
                continue;
            };
            if row.flags.contains(&NodeFlag::Handshake) {
                continue;
            }
            links.knowing += 1;
            // The member still suspects the node, so it has heard nothing on this connection: it may be a
            // dial.
            if row.connected && row.is_failing() && !before.contains(&own) {
                links.dialling.insert(own);
            } else {
                links.connected |= row.connected;
            }
        }
        links
    }
}

/// The longest `cluster-node-timeout` that a member reports, in milliseconds.
pub(crate) fn node_timeout_ms(snapshot: &Snapshot) -> Option<u64> {
    let timeout =
        |facts: &MemberFacts| facts.settings.get("cluster-node-timeout")?.parse::<u64>().ok();
    snapshot.members.iter().filter_map(Member::facts).filter_map(timeout).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NODE: char = 'a';

    fn node(digit: char) -> NodeId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn ledger(gone_at_ms: u64) -> Ledger {
        serde_json::from_value(json!({"nodes": {node(NODE).to_string(): {
            "pod": "p", "podUid": "u", "runId": "b".repeat(40), "kubeNode": "n", "role": "primary",
            "changedAtMs": 1, "goneAtMs": gone_at_ms, "graceS": 45,
        }}}))
        .unwrap()
    }

    /// The link to the node as one member reports it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum LinkState {
        Unknown,
        Down,
        /// Connected, but the member has heard nothing on the connection.
        Mute,
        Up,
    }
    use LinkState::{Mute, Unknown, Up};

    /// The links in each snapshot, with its time.
    type AbsenceInput<'a> = &'a [(u64, &'a [LinkState])];
    /// The Lease at each read, with the time of the read: `renewTime`, and when the Kubernetes node joined.
    type LeaseReads<'a> = &'a [(u64, &'a str, &'a str)];

    fn snapshot(links: &[LinkState]) -> Snapshot {
        let member = |(index, link): (usize, &LinkState)| {
            let flags = if *link == Up { json!([]) } else { json!(["maybe-fail"]) };
            let row = json!({"role": "primary", "epoch": 1, "flags": flags,
                "connected": matches!(link, Mute | Up)});
            let differs = match link {
                Unknown => json!({}),
                LinkState::Down | Mute | Up => json!({node(NODE).to_string(): row}),
            };
            json!({"pod": index.to_string(), "podUid": index.to_string(), "running": true,
                "answer": {"answered": {"answeredAtMs": 1, "node": format!("{index:040}"),
                    "settings": {"cluster-node-timeout": format!("{}", 1000 * (index + 1))},
                    "differs": differs}}})
        };
        let members: Vec<_> = links.iter().enumerate().map(member).collect();
        serde_json::from_value(json!({"observedAtMs": 1, "members": members})).unwrap()
    }

    #[test]
    fn a_link_is_down_while_consecutive_snapshots_show_it_down() {
        const DOWN: &[LinkState] = &[LinkState::Down, Unknown, LinkState::Down];
        const ONE_UP: &[LinkState] = &[LinkState::Down, Unknown, Up];
        const ONE_MUTE: &[LinkState] = &[LinkState::Down, Unknown, Mute];
        const OTHER_MUTE: &[LinkState] = &[Mute, Unknown, LinkState::Down];
        let cases: [(AbsenceInput<'_>, Option<u64>); 10] = [
            (&[(10, DOWN)], Some(0)),
            (&[(10, DOWN), (5_010, DOWN), (10_010, DOWN)], Some(10_000)),
            (&[(10, DOWN), (5_011, DOWN)], Some(0)),
            (&[(10, DOWN), (20, ONE_UP)], None),
            (&[(10, DOWN), (20, ONE_UP), (30, DOWN), (40, DOWN)], Some(10)),
            (&[(10, DOWN), (20, &[Unknown])], None),
            // One snapshot shows a dial of one member, the next a dial of another.
            (&[(10, DOWN), (20, ONE_MUTE), (30, OTHER_MUTE), (40, DOWN)], Some(30)),
            (&[(10, DOWN), (20, ONE_MUTE), (30, OTHER_MUTE)], Some(0)),
            // A hung process: the connection stays, and nothing is heard on it.
            (&[(10, DOWN), (20, ONE_MUTE), (30, ONE_MUTE), (40, DOWN)], Some(0)),
            // The clock went back.
            (&[(10, DOWN), (9, DOWN)], Some(0)),
        ];
        for (snapshots, expected) in cases {
            let mut absences = AbsentNodeTracker::default();
            for (now_ms, links) in snapshots {
                absences.update(&ledger(5), &snapshot(links), *now_ms);
            }
            assert_eq!(absences.link_down_ms(node(NODE)), expected, "{snapshots:?}");
        }
        assert_eq!(node_timeout_ms(&snapshot(DOWN)), Some(3_000));
        assert_eq!(node_timeout_ms(&snapshot(&[])), None);
    }

    #[test]
    fn a_node_that_returned_is_not_absent() {
        let mut absences = AbsentNodeTracker::default();
        let down = snapshot(&[LinkState::Down]);
        absences.update(&ledger(5), &down, 10);
        let mut back = down.clone();
        back.members.extend(snapshot(&[Unknown, Unknown]).members.pop());
        let mut json = serde_json::to_value(&back).unwrap();
        json["members"][1]["answer"]["answered"]["node"] = json!(node(NODE));
        absences.update(&ledger(5), &serde_json::from_value(json).unwrap(), 20);
        absences.update(&ledger(5), &down, 30);
        assert_eq!(absences.link_down_ms(node(NODE)), Some(0));
        absences.update(&ledger(25), &down, 40);
        assert_eq!(absences.link_down_ms(node(NODE)), Some(0), "another absence has begun");
    }

    /// The Pod is gone since 01:00:00, so the process should have ended 55 s later.
    #[test]
    fn a_lease_counts_from_a_change_that_was_seen_after_the_process_should_have_ended() {
        const DUE_MS: u64 = 3_600_000 + 55_000;
        let gone = ledger(3_600_000);
        let known = &gone.nodes[&node(NODE)];
        let lease = |renewed: &str, created: &str| {
            let json = json!({"metadata": {"creationTimestamp": created},
                "spec": {"renewTime": renewed}});
            ObservedNodeLease::of(&json).ok_or_else(|| "no Lease".to_owned())
        };
        let old = "1970-01-01T00:30:00Z";
        let read = |reads: &[(u64, &str, &str)]| {
            let mut absences = AbsentNodeTracker::default();
            absences.update(&gone, &snapshot(&[LinkState::Down]), 3_600_001);
            let mut last = Ok(());
            for (now_ms, renewed, created) in reads {
                last = absences.renewed((node(NODE), known), &lease(renewed, created), *now_ms);
            }
            last.is_ok()
        };
        let cases: [(LeaseReads<'_>, bool); 7] = [
            (&[(DUE_MS, "1", old)], false),
            (&[(DUE_MS, "1", old), (DUE_MS + 1, "1", old)], false),
            (&[(DUE_MS, "1", old), (DUE_MS + 1, "2", old)], true),
            (&[(DUE_MS - 1, "1", old), (DUE_MS, "2", old)], false),
            // A failed read changes nothing: a renewal that was seen before still counts.
            (&[(DUE_MS, "1", old), (DUE_MS + 1, "", old), (DUE_MS + 2, "2", old)], true),
            (&[(DUE_MS, "1", old), (DUE_MS + 1, "", old)], false),
            // The Lease is of another machine, which has the name of the lost one.
            (
                &[(DUE_MS, "1", "1970-01-01T01:00:20Z"), (DUE_MS + 1, "2", "1970-01-01T01:00:20Z")],
                false,
            ),
        ];
        for (reads, expected) in cases {
            assert_eq!(read(reads), expected, "{reads:?}");
        }
    }
}
