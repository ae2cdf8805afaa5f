//! Proof that a primary is dead.
//!
//! A silent Redis proves nothing: a hung process and a cut network look the same, and the process may
//! go on taking writes. What proves that a process has ended: Kubernetes reports that the container
//! which ran it has terminated; or its Pod is gone, the machine it ran on is alive to say so, and nobody
//! listens where it listened. For a takeover the latter must be so for long enough ([`super::find`]).

use std::collections::BTreeMap;

use serde_json::Value;
use tholepin_schema::{
    ledger::{KnownNode, Ledger},
    primitives::NodeId,
    snapshot::{Member, Snapshot},
};

use super::GuardInput;
use crate::container_end::{ended_at_ms, is_reported_terminated, is_terminated};

/// How far apart, in seconds, the clocks of the host and of a Kubernetes node may be.
const CLOCKS_S: u64 = 1;

/// What proves that a node is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathProof {
    /// The container recorded for its process is reported terminated.
    Terminated,
    /// A person said so: by an annotation on the object, for a Pod that is gone, or by the taint
    /// `node.kubernetes.io/out-of-service` on its Kubernetes node.
    Confirmed,
    /// Its Pod is gone for longer than its process had to end, its Kubernetes node has renewed its Lease
    /// since, a dial was refused, and every member that knows it has lost the link to it.
    LongGone,
    /// Its Pod is gone from a live read, its Kubernetes node is Ready, and a dial was refused.
    /// A forced deletion removes the Pod before the process ends, so that this alone never allows a
    /// takeover.
    PodGone,
}

impl DeathProof {
    /// Whether it proves that the process has ended beyond doubt, so that nobody need be asked.
    #[must_use]
    pub const fn allows_takeover(self) -> bool {
        match self {
            Self::Terminated | Self::Confirmed | Self::LongGone => true,
            Self::PodGone => false,
        }
    }
}

/// What live reads say about a node that is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeLiveness {
    /// The status of its container in the Pod that has the recorded *uid*; none if that Pod is gone.
    pub container_status: Option<Value>,
    /// Whether its Kubernetes node is Ready.
    pub kube_node_ready: bool,
    /// What a dial to its last address gave.
    pub dial: DialOutcome,
}

/// What a dial gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialOutcome {
    /// Nobody listens.
    Refused,
    /// Somebody answered, or nobody did in time, or it was not tried.
    Inconclusive,
}

/// Whether what live reads say proves that the recorded process has ended.
#[must_use]
pub fn proof_of_death(known: &KnownNode, witness: &NodeLiveness) -> Option<DeathProof> {
    match &witness.container_status {
        Some(status) => is_terminated(known, status).then_some(DeathProof::Terminated),
        None => {
            let is_gone = witness.kube_node_ready && witness.dial == DialOutcome::Refused;
            is_gone.then_some(DeathProof::PodGone)
        }
    }
}

/// The recorded nodes whose death the snapshot's own Pod facts prove, or whose end was recorded. A
/// node that answers is not dead, whatever is reported of its container.
#[must_use]
pub fn deaths(snapshot: &Snapshot, ledger: &Ledger) -> BTreeMap<NodeId, DeathProof> {
    let is_dead = |(node, known): &(&NodeId, &KnownNode)| {
        let answers = snapshot.members.iter().any(|member| member.node() == Some(**node));
        !answers && (known.ended_at_ms.is_some() || is_reported_terminated(known, snapshot))
    };
    ledger.nodes.iter().filter(is_dead).map(|(node, _)| (*node, DeathProof::Terminated)).collect()
}

/// Whether a replica had lost the link to its primary before that one ended, so that what was written in
/// between is on the primary alone. Only where Kubernetes tells when the container ended.
pub(super) fn fell_away_before(scene: &GuardInput<'_>, pod: &str, primary: NodeId) -> bool {
    let facts = scene.snapshot.member(pod).and_then(Member::facts);
    let upstream = facts.and_then(|facts| facts.replication.as_ref()?.upstream.as_ref());
    let Some(down_s) = upstream.and_then(|upstream| upstream.down_since_s) else { return false };
    let known = scene.ledger.nodes.get(&primary);
    let ended_at_ms = known.and_then(|known| ended_at_ms(known, scene.snapshot));
    // Both times are cut to seconds, so that the link fell first beyond doubt, but for two clocks.
    ended_at_ms.is_some_and(|ended_at_ms| {
        let ended_s = scene.now_ms.saturating_sub(ended_at_ms) / 1_000;
        ended_s + CLOCKS_S < down_s
    })
}
