//! Decides on which node a Pod runs, or why on none.
//!
//! This module is pure: equal snapshots give equal decisions. Of the suitable nodes, the one with the best
//! score wins. Among equal scores, the node with the fewest siblings of the Pod wins (in its zone, then on
//! itself), then the one with the fewest Pods, then the first name. So replicas spread even without a
//! constraint.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::affinity::PodAffinities;
use super::fit::{SchedulableNode, claims_of};
use super::snapshot::SchedulerSnapshot;
use super::spread::PodSpreadEvaluation;
use crate::labels::Labels;

/// The label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The weights of the scores, as in kube-scheduler's default profile.
const TAINT_WEIGHT: i64 = 3;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const POD_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;

/// The decision about one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a Pod whose decision is not performed stays pending without a reason"]
pub enum SchedulingDecision {
    /// Bind it to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// A volume of the Pod does not exist or is not bound yet, which is normal for a moment.
    AwaitVolumes {
        /// The reason, worded as by kube-scheduler.
        message: String,
    },
    /// No node suits now.
    Unschedulable {
        /// The reason, worded as by kube-scheduler.
        message: String,
    },
}

/// Decides about one Pod that is not bound yet.
pub fn decide(pod: &Pod, snapshot: &SchedulerSnapshot) -> SchedulingDecision {
    if snapshot.nodes.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return SchedulingDecision::Unschedulable { message };
    }
    if let Some(reason) = missing_volume(pod, snapshot) {
        let message = format!("0/{} nodes are available: {reason}.", snapshot.nodes.len());
        return SchedulingDecision::AwaitVolumes { message };
    }
    let none = Labels::new();
    let nodes: Vec<SchedulableNode<'_>> = snapshot
        .nodes
        .iter()
        .map(|node| SchedulableNode::new(node, &snapshot.pods, &none))
        .collect();
    let affinities = PodAffinities::new(pod, &nodes, snapshot);
    let spread = PodSpreadEvaluation::new(pod, &nodes);

    let mut reasons = BTreeMap::new();
    let mut suitable = Vec::new();
    for node in &nodes {
        let mut obstacles = node.obstacles(pod, snapshot);
        if obstacles.is_empty() {
            let other = spread.obstacle(node).or_else(|| affinities.obstacle(node));
            obstacles.extend(other.map(str::to_owned));
        }
        if obstacles.is_empty() {
            suitable.push(node);
        }
        for obstacle in obstacles {
            *reasons.entry(obstacle).or_insert(0) += 1;
        }
    }
    let Some(best) = best(pod, &suitable, &nodes, &affinities, &spread) else {
        return unschedulable(nodes.len(), reasons);
    };
    SchedulingDecision::Bind { node: best.name.to_owned() }
}

/// Formats `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn unschedulable(nodes: usize, reasons: BTreeMap<String, usize>) -> SchedulingDecision {
    let texts = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}"));
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    let message = format!("0/{nodes} nodes are available: {}.", texts.join(", "));
    SchedulingDecision::Unschedulable { message }
}

/// Returns why the Pod's claims exclude every node.
fn missing_volume(pod: &Pod, snapshot: &SchedulerSnapshot) -> Option<String> {
    claims_of(pod).find_map(|key| {
        let Some(claim) = snapshot.claims.get(&key) else {
            return Some(format!("persistentvolumeclaim \"{}\" not found", key.name));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!("persistentvolumeclaim \"{}\" is being deleted", key.name));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        (phase != Some("Bound"))
            .then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
    })
}

fn best<'a>(
    pod: &Pod,
    suitable: &[&'a SchedulableNode<'a>],
    nodes: &[SchedulableNode<'_>],
    affinities: &PodAffinities<'_>,
    spread: &PodSpreadEvaluation<'_>,
) -> Option<&'a SchedulableNode<'a>> {
    let scores = [
        (TAINT_WEIGHT, scaled(suitable, |node| -node.discouraging_taints(pod))),
        (NODE_AFFINITY_WEIGHT, scaled(suitable, |node| node.preference(pod))),
        (POD_AFFINITY_WEIGHT, scaled(suitable, |node| affinities.preference(node))),
        (SPREAD_WEIGHT, scaled(suitable, |node| -spread.crowding(node))),
    ];
    let weighted_score = |index: usize| -> i64 {
        let at = scores.iter().map(|(weight, scores)| weight * scores.get(index).unwrap_or(&0));
        at.sum()
    };
    let siblings = |node: &SchedulableNode<'_>| {
        node.pods.iter().filter(|existing| are_siblings(pod, existing)).count()
    };
    let in_zone = |node: &SchedulableNode<'_>| -> usize {
        let zone = node.labels.get(ZONE);
        nodes.iter().filter(|other| other.labels.get(ZONE) == zone).map(siblings).sum()
    };
    let rank = |index: usize, node: &SchedulableNode<'a>| {
        (Reverse(weighted_score(index)), in_zone(node), siblings(node), node.pods.len(), node.name)
    };
    let ranked = suitable.iter().enumerate();
    ranked.min_by_key(|(index, node)| rank(*index, node)).map(|(_, node)| *node)
}

/// Scales scores to 0 to 100: the best node gets 100, the worst 0; all get 0 if all scores are equal.
fn scaled(nodes: &[&SchedulableNode<'_>], score: impl Fn(&SchedulableNode<'_>) -> i64) -> Vec<i64> {
    let raw: Vec<i64> = nodes.iter().map(|node| score(node)).collect();
    let least = raw.iter().min().copied().unwrap_or(0);
    let range = raw.iter().max().copied().unwrap_or(0).saturating_sub(least);
    raw.iter()
        .map(|score| (score - least).saturating_mul(100).checked_div(range).unwrap_or(0))
        .collect()
}

fn are_siblings(pod: &Pod, other: &Pod) -> bool {
    let controller = |pod: &Pod| {
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
    };
    controller(pod).is_some_and(|uid| controller(other) == Some(uid))
}

#[cfg(test)]
mod tests;
