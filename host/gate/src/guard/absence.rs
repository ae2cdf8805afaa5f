//! Proof that a process has ended whose Pod is gone: by all that must be so for long enough, or by the
//! word of a person.
//!
//! A forced deletion removes a Pod before its process ends, and a cut network looks like a dead machine.
//! So no part of this proves anything by itself: a dial that is not answered in time, a Kubernetes node
//! that is gone, or the time that has passed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tholepin_core::CONFIRM_DEAD;
use tholepin_schema::{ledger::KnownNode, primitives::NodeId};

use super::{DeathProof, DialOutcome, NodeLiveness, proof_of_death};

/// How long, in milliseconds, a Pod must be gone beyond its grace period: the kubelet hears of the
/// deletion, ends the process, and the API server hears of that.
const GONE_MARGIN_MS: u64 = 10_000;

/// The taint by which a person says that a Kubernetes node is off.
pub(crate) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What is known of a recorded node that does not answer.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAbsence {
    /// What live reads say of its Pod and its Kubernetes node, and the dial.
    pub witness: NodeLiveness,
    /// Whether its Kubernetes node has the taint `node.kubernetes.io/out-of-service`.
    pub out_of_service: bool,
    /// Whether a person said on the object that its process has ended.
    pub confirmed: bool,
    /// What a person wrote there that names no process of the object.
    pub unknown_word: Option<String>,
    /// Whether its Kubernetes node was seen to renew its Lease after [`due_at_ms`]; if not, why.
    pub renewed: Result<(), String>,
    /// How long, in milliseconds, every member that answered and knows it has seen the link to it
    /// disconnected, without interruption; none if one sees it connected, or nobody knows it.
    pub link_down_ms: Option<u64>,
    /// The longest `cluster-node-timeout` that a member tells.
    pub node_timeout_ms: Option<u64>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What was found out about a node that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathFinding {
    /// What proves its death.
    pub proof: Option<DeathProof>,
    /// What a takeover still lacks; none if nothing.
    pub unproven: Option<MissingProof>,
}

/// Why a node does not count as dead for a takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingProof {
    /// Its Pod's name.
    pub pod: String,
    /// Its Pod's uid.
    pub pod_uid: String,
    /// Its Kubernetes node; empty if none is recorded.
    pub kube_node: String,
    /// Whether its Pod is gone.
    pub pod_gone: bool,
    /// What is missing.
    pub missing: Vec<String>,
    /// What a person wrote as a confirmation, and names no process of the object.
    pub unknown_word: Option<String>,
}

/// From when on a renewed Lease says that whatever ran in the Pod has had its time to end; none if it is
/// not known how long that is.
#[must_use]
pub fn due_at_ms(known: &KnownNode) -> Option<u64> {
    let grace_ms = known.grace_s?.checked_mul(1_000)?;
    known.gone_at_ms?.checked_add(grace_ms)?.checked_add(GONE_MARGIN_MS)
}

/// Judges what is known of a node that does not answer.
#[must_use]
pub fn find(known: &KnownNode, absence: &NodeAbsence) -> DeathFinding {
    let weak = proof_of_death(known, &absence.witness);
    let pod_gone = absence.witness.container_status.is_none();
    let is_confirmed = absence.out_of_service || absence.confirmed && pod_gone;
    let proof = match weak {
        Some(DeathProof::Terminated) => Some(DeathProof::Terminated),
        _ if is_confirmed => Some(DeathProof::Confirmed),
        weak => weak,
    };
    if matches!(proof, Some(DeathProof::Terminated | DeathProof::Confirmed)) {
        return DeathFinding { proof, unproven: None };
    }
    let missing = missing(known, absence);
    if missing.is_empty() {
        return DeathFinding { proof: Some(DeathProof::LongGone), unproven: None };
    }
    let KnownNode { pod, pod_uid, kube_node, .. } = known.clone();
    let unknown_word = absence.unknown_word.clone();
    let unproven = MissingProof { pod, pod_uid, kube_node, pod_gone, missing, unknown_word };
    DeathFinding { proof, unproven: Some(unproven) }
}

/// What a long absence lacks to prove that the process has ended. The texts hold no numbers that change
/// while one waits: they become a condition.
fn missing(known: &KnownNode, absence: &NodeAbsence) -> Vec<String> {
    let NodeAbsence { witness, renewed, link_down_ms, node_timeout_ms, now_ms, .. } = absence;
    let mut missing = Vec::new();
    match &witness.container_status {
        None => {}
        Some(Value::Null) => {
            missing.push("whether its Pod is gone cannot be read".to_owned());
        }
        Some(_) => {
            missing.push("its Pod is there, and no end of its container is known".to_owned())
        }
    }
    match (due_at_ms(known), known.grace_s) {
        (Some(due_at_ms), _) if due_at_ms <= *now_ms => {
            missing.extend(renewed.clone().err());
        }
        (_, Some(grace_s)) => missing.push(format!(
            "its Pod must be gone for its grace period of {grace_s} s and {} s more",
            GONE_MARGIN_MS / 1_000
        )),
        (_, None) => missing.push("the grace period of its Pod is not known".to_owned()),
    }
    if witness.dial != DialOutcome::Refused {
        let address = known.address.as_deref().unwrap_or("which is not known");
        missing.push(format!("its last address, {address}, does not refuse connections"));
    }
    match (link_down_ms, node_timeout_ms) {
        (_, None) => missing.push("no member tells its cluster-node-timeout".to_owned()),
        (Some(down_ms), Some(timeout_ms)) if timeout_ms <= down_ms => {}
        (_, Some(timeout_ms)) => missing.push(format!(
            "every member that knows it must see the link to it disconnected for {timeout_ms} ms"
        )),
    }
    missing
}

/// Says of nodes that they are not proven dead, what is missing, and how a person can say that they are.
pub(super) fn say(nodes: &[(NodeId, Option<&MissingProof>)]) -> String {
    let each = nodes.iter().map(|(node, unproven)| match unproven {
        Some(MissingProof { pod, missing, .. }) => {
            format!("{} (Pod `{pod}`): {}", node.short(), missing.join("; "))
        }
        None => format!(
            "{}: the ledger does not know it, so that nothing can prove its end; if you know that its process \
             has ended, send `CLUSTER FAILOVER TAKEOVER` to the replica that has most of its data",
            node.short()
        ),
    });
    let each: Vec<String> = each.collect();
    format!("nothing proves that these have ended: {}{}", each.join(". "), way_out(nodes))
}

/// A person's word is asked for where the Pod is gone; elsewhere only what the Kubernetes node is counts.
fn way_out(nodes: &[(NodeId, Option<&MissingProof>)]) -> String {
    let known = || nodes.iter().filter_map(|(node, unproven)| Some((node, (*unproven)?)));
    let gone: Vec<String> = known()
        .filter(|(_, unproven)| unproven.pod_gone)
        .map(|(node, unproven)| format!("{node}/{}", unproven.pod_uid))
        .collect();
    let kube_nodes: BTreeSet<&str> = known()
        .map(|(_, unproven)| unproven.kube_node.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let mut ways = Vec::new();
    if !gone.is_empty() {
        let word = known().find_map(|(_, unproven)| unproven.unknown_word.as_ref());
        let word = word
            .map(|word| format!(" (`{word}`, which is there, names no process of this object)"));
        ways.push(format!(
            "annotate the object with `{CONFIRM_DEAD}={}`{}",
            gone.join(","),
            word.unwrap_or_default()
        ));
    }
    if !kube_nodes.is_empty() {
        let names: Vec<&str> = kube_nodes.into_iter().collect();
        ways.push(format!(
            "taint the Kubernetes node `{}` with `{OUT_OF_SERVICE}`",
            names.join("`, `")
        ));
    }
    if ways.is_empty() {
        return String::new();
    }
    format!(". If you know that they have, {}", ways.join(", or "))
}

/// What a person said on the object of nodes that are dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeathConfirmations {
    /// The nodes named, each with the uid of the Pod that it was in.
    pub nodes: BTreeSet<(NodeId, String)>,
    /// The first word that is no such pair of the object, shortened.
    pub unknown: Option<String>,
}

/// Reads the confirmations on the object; `is_known` says whether it has such a process.
#[must_use]
pub fn confirmed(
    annotations: &BTreeMap<String, String>,
    is_known: impl Fn(&NodeId, &str) -> bool,
) -> DeathConfirmations {
    const WORD_CHARS_MAX: usize = 90;
    let text = annotations.get(CONFIRM_DEAD).map(String::as_str).unwrap_or_default();
    let words = text.split(|it: char| it == ',' || it.is_whitespace());
    let mut confirmations = DeathConfirmations::default();
    for word in words.filter(|word| !word.is_empty()) {
        let pair = word.split_once('/').and_then(|(node, uid)| Some((node.parse().ok()?, uid)));
        match pair.filter(|(node, uid)| is_known(node, uid)) {
            Some((node, uid)) => drop(confirmations.nodes.insert((node, uid.to_owned()))),
            None if confirmations.unknown.is_none() => {
                confirmations.unknown = Some(word.chars().take(WORD_CHARS_MAX).collect());
            }
            None => {}
        }
    }
    confirmations
}

#[cfg(test)]
mod tests;
