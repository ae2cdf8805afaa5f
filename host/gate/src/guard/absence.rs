//! Proof that a process has ended whose Pod is gone: several conditions that must hold for long enough, or
//! the confirmation of a person.
//!
//! A forced deletion removes a Pod before its process ends, and a machine that is cut off from the network
//! cannot be told from one that is off. None of the following alone proves a death: a dial that times out, a
//! Kubernetes node that is deleted, the time that has passed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tholepin_core::CONFIRM_DEAD;
use tholepin_schema::primitives::NodeId;

use super::{DeathProof, DialOutcome, RedisNodeLiveReads, proof_of_death};
use crate::ledger_document::KnownNode;

/// How long, in milliseconds, a Pod must be gone beyond its grace period: in this time the kubelet learns of
/// the deletion, ends the process and reports that.
const GONE_MARGIN_MS: u64 = 10_000;

/// The taint by which a person states that a Kubernetes node is switched off.
pub(crate) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What is known of a recorded node that does not answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AbsentNodeEvidence {
    /// Live reads of its Pod and its Kubernetes node, and the dial.
    pub(crate) liveness: RedisNodeLiveReads,
    /// Whether its Kubernetes node has the taint `node.kubernetes.io/out-of-service`.
    pub(crate) out_of_service: bool,
    /// Whether a person confirmed on the object that its process has ended.
    pub(crate) confirmed: bool,
    /// An entry of that annotation that names no process of the object.
    pub(crate) unknown_entry: Option<String>,
    /// `Ok` if its Kubernetes node renewed its Lease after [`due_at_ms`]; otherwise why that is not known.
    pub(crate) renewed: Result<(), String>,
    /// How long, in milliseconds, every member that answered and knows the node has seen its link to it
    /// disconnected, without interruption; `None` if one sees it connected, or if no member knows the node.
    pub(crate) link_down_ms: Option<u64>,
    /// The longest `cluster-node-timeout` that a member reports.
    pub(crate) node_timeout_ms: Option<u64>,
    /// Now, in milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// The conclusion about a node that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisNodeDeathVerdict {
    /// The proof of its death, if there is one.
    pub(crate) proof: Option<DeathProof>,
    /// What is missing for a takeover; `None` if nothing is.
    pub(crate) unproven: Option<MissingDeathProof>,
}

/// Why a node does not count as dead for a takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingDeathProof {
    /// Its Pod's name.
    pub(crate) pod: String,
    /// Its Pod's uid.
    pub(crate) pod_uid: String,
    /// Its Kubernetes node; empty if none is recorded.
    pub(crate) kube_node: String,
    /// Whether its Pod is gone.
    pub(crate) pod_gone: bool,
    /// The conditions that do not hold.
    pub(crate) missing: Vec<String>,
    /// An entry of the confirming annotation that names no process of the object.
    pub(crate) unknown_entry: Option<String>,
}

/// Returns the time from which on a renewed Lease proves that the processes of the Pod had their time to end;
/// `None` if that time is not known.
#[must_use]
pub(crate) fn due_at_ms(known: &KnownNode) -> Option<u64> {
    let grace_ms = known.grace_s?.checked_mul(1_000)?;
    known.gone_at_ms?.checked_add(grace_ms)?.checked_add(GONE_MARGIN_MS)
}

/// Returns the conclusion from what is known of a node that does not answer.
#[must_use]
pub(crate) fn conclude(known: &KnownNode, absence: &AbsentNodeEvidence) -> RedisNodeDeathVerdict {
    let weak = proof_of_death(known, &absence.liveness);
    let pod_gone = absence.liveness.container_status.is_none();
    let is_confirmed = absence.out_of_service || absence.confirmed && pod_gone;
    let proof = match weak {
        Some(DeathProof::Terminated) => Some(DeathProof::Terminated),
        _ if is_confirmed => Some(DeathProof::Confirmed),
        weak => weak,
    };
    if matches!(proof, Some(DeathProof::Terminated | DeathProof::Confirmed)) {
        return RedisNodeDeathVerdict { proof, unproven: None };
    }
    let missing = missing(known, absence);
    if missing.is_empty() {
        return RedisNodeDeathVerdict { proof: Some(DeathProof::LongGone), unproven: None };
    }
    let KnownNode { pod, pod_uid, kube_node, .. } = known.clone();
    let unknown_entry = absence.unknown_entry.clone();
    let unproven = MissingDeathProof { pod, pod_uid, kube_node, pod_gone, missing, unknown_entry };
    RedisNodeDeathVerdict { proof, unproven: Some(unproven) }
}

/// Returns the conditions that a long absence does not fulfil yet to prove the end of the process. The texts
/// become the message of a condition, so they contain no numbers that change while the plugin waits.
fn missing(known: &KnownNode, absence: &AbsentNodeEvidence) -> Vec<String> {
    let AbsentNodeEvidence { liveness, renewed, link_down_ms, node_timeout_ms, now_ms, .. } =
        absence;
    let mut missing = Vec::new();
    match &liveness.container_status {
        None => {}
        Some(Value::Null) => {
            missing.push("whether its Pod is gone cannot be read".to_owned());
        }
        Some(_) => {
            missing.push("its Pod exists, and its container is not known to have ended".to_owned())
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
    if liveness.dial != DialOutcome::Refused {
        let address = known.address.as_deref().unwrap_or("which is not known");
        missing.push(format!("its last address, {address}, does not refuse connections"));
    }
    match (link_down_ms, node_timeout_ms) {
        (_, None) => missing.push("no member reports its cluster-node-timeout".to_owned()),
        (Some(down_ms), Some(timeout_ms)) if timeout_ms <= down_ms => {}
        (_, Some(timeout_ms)) => missing.push(format!(
            "every member that knows it must see the link to it disconnected for {timeout_ms} ms"
        )),
    }
    missing
}

/// Returns a text: these nodes are not proven dead, what is missing, and how a person can confirm that they
/// are.
pub(super) fn describe_missing(nodes: &[(NodeId, Option<&MissingDeathProof>)]) -> String {
    let each = nodes.iter().map(|(node, unproven)| match unproven {
        Some(MissingDeathProof { pod, missing, .. }) => {
            format!("{} (Pod `{pod}`): {}", node.short(), missing.join("; "))
        }
        None => format!(
            "{}: it is not in the ledger, so nothing can prove that it has ended; if you know that its \
             process has ended, send `CLUSTER FAILOVER TAKEOVER` to the replica that has most of its data",
            node.short()
        ),
    });
    let each: Vec<String> = each.collect();
    format!("nothing proves that these have ended: {}{}", each.join(". "), remedy(nodes))
}

/// Returns how a person can confirm the end of these nodes. The annotation counts only where the Pod is gone;
/// in all cases the taint of the Kubernetes node does.
fn remedy(nodes: &[(NodeId, Option<&MissingDeathProof>)]) -> String {
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
        let entry = known().find_map(|(_, unproven)| unproven.unknown_entry.as_ref());
        let entry = entry
            .map(|entry| format!(" (the present entry `{entry}` names no process of this object)"));
        ways.push(format!(
            "annotate the object with `{CONFIRM_DEAD}={}`{}",
            gone.join(","),
            entry.unwrap_or_default()
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

/// The nodes that a person confirmed as dead, by the annotation on the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodesConfirmedByPerson {
    /// The nodes named, each with the uid of its Pod.
    pub(crate) nodes: BTreeSet<(NodeId, String)>,
    /// The first entry that is no such pair of this object, shortened.
    pub(crate) unknown: Option<String>,
}

/// Reads the confirmations in the object's annotations. `is_known` returns true if the object has such a
/// process.
#[must_use]
pub(crate) fn confirmed(
    annotations: &BTreeMap<String, String>,
    is_known: impl Fn(&NodeId, &str) -> bool,
) -> NodesConfirmedByPerson {
    const ENTRY_CHARS_MAX: usize = 90;
    let text = annotations.get(CONFIRM_DEAD).map(String::as_str).unwrap_or_default();
    let entries = text.split(|char: char| char == ',' || char.is_whitespace());
    let mut confirmations = NodesConfirmedByPerson::default();
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let pair = entry.split_once('/').and_then(|(node, uid)| Some((node.parse().ok()?, uid)));
        match pair.filter(|(node, uid)| is_known(node, uid)) {
            Some((node, uid)) => drop(confirmations.nodes.insert((node, uid.to_owned()))),
            None if confirmations.unknown.is_none() => {
                confirmations.unknown = Some(entry.chars().take(ENTRY_CHARS_MAX).collect());
            }
            None => {}
        }
    }
    confirmations
}

#[cfg(test)]
mod tests;
