//! Proofs that the process of a node has ended.
//!
//! A Redis that does not answer proves nothing: a hung process and a cut network look the same, and the
//! process may go on acknowledging writes. Two things prove that a process has ended. Kubernetes reports that
//! the container that ran it has terminated. Or its Pod is deleted, the Kubernetes node that it ran on is
//! alive, and its last address refuses connections; for a takeover this must have been so for long enough
//! ([`super::conclude`]).

use std::collections::BTreeMap;

use serde_json::Value;
use tholepin_schema::{
    primitives::NodeId,
    snapshot::{Member, Snapshot},
};

use super::GuardInput;
use crate::{
    container_ended::{ended_at_ms, is_reported_terminated, is_terminated},
    ledger_document::{KnownNode, Ledger},
};

/// The assumed maximum difference, in seconds, between the clocks of the host and of a Kubernetes node.
const CLOCK_DIFFERENCE_S_MAX: u64 = 1;

/// What proves that a node is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeathProof {
    /// The container recorded for its process is reported as terminated.
    Terminated,
    /// A person confirmed it: by an annotation on the object, for a Pod that is deleted, or by the taint
    /// `node.kubernetes.io/out-of-service` on its Kubernetes node.
    Confirmed,
    /// Its Pod has been gone for longer than its process had to end, its Kubernetes node has renewed its
    /// Lease since, a dial was refused, and every member that knows it has lost the link to it.
    LongGone,
    /// A live read shows that its Pod is gone, its Kubernetes node is Ready, and a dial was refused. A forced
    /// deletion removes the Pod before the process ends, so this alone never allows a takeover.
    PodGone,
}

impl DeathProof {
    /// Returns true if it proves beyond doubt that the process has ended, so that a takeover needs no vote.
    #[must_use]
    pub(crate) const fn allows_takeover(self) -> bool {
        match self {
            Self::Terminated | Self::Confirmed | Self::LongGone => true,
            Self::PodGone => false,
        }
    }
}

/// Live reads about a recorded node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RedisNodeLiveReads {
    /// The status of its container in the Pod with the recorded *uid*; `None` if that Pod is gone.
    pub(crate) container_status: Option<Value>,
    /// Whether its Kubernetes node is Ready.
    pub(crate) kube_node_ready: bool,
    /// The result of a dial to its last address.
    pub(crate) dial: DialOutcome,
}

/// The result of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialOutcome {
    /// The connection was refused: no process listens.
    Refused,
    /// The connection was accepted or timed out, or no dial was tried.
    Inconclusive,
}

/// Returns the proof in these live reads that the recorded process has ended, if there is one.
#[must_use]
pub(crate) fn proof_of_death(
    known: &KnownNode,
    liveness: &RedisNodeLiveReads,
) -> Option<DeathProof> {
    match &liveness.container_status {
        Some(status) => is_terminated(known, status).then_some(DeathProof::Terminated),
        None => {
            let is_gone = liveness.kube_node_ready && liveness.dial == DialOutcome::Refused;
            is_gone.then_some(DeathProof::PodGone)
        }
    }
}

/// Returns the recorded nodes that are dead by the Pod facts of the snapshot or by an end in the ledger. A
/// node that answers is not dead, whatever is reported of its container.
#[must_use]
pub(crate) fn deaths(snapshot: &Snapshot, ledger: &Ledger) -> BTreeMap<NodeId, DeathProof> {
    let is_dead = |(node, known): &(&NodeId, &KnownNode)| {
        let answers = snapshot.members.iter().any(|member| member.node() == Some(**node));
        !answers && (known.ended_at_ms.is_some() || is_reported_terminated(known, snapshot))
    };
    ledger.nodes.iter().filter(is_dead).map(|(node, _)| (*node, DeathProof::Terminated)).collect()
}

/// Returns true if a replica had lost the link to its primary before the primary ended, so that the primary
/// alone has the writes in between. Returns false if Kubernetes does not report when the container ended.
pub(super) fn lost_link_before(input: &GuardInput<'_>, pod: &str, primary: NodeId) -> bool {
    let facts = input.snapshot.member(pod).and_then(Member::facts);
    let upstream = facts.and_then(|facts| facts.replication.as_ref()?.upstream.as_ref());
    let Some(down_s) = upstream.and_then(|upstream| upstream.down_since_s) else { return false };
    let known = input.ledger.nodes.get(&primary);
    let ended_at_ms = known.and_then(|known| ended_at_ms(known, input.snapshot));
    // Both times are cut to seconds. The comparison requires that the link fell first beyond that and beyond
    // the clock difference.
    ended_at_ms.is_some_and(|ended_at_ms| {
        let ended_s = input.now_ms.saturating_sub(ended_at_ms) / 1_000;
        ended_s + CLOCK_DIFFERENCE_S_MAX < down_s
    })
}
