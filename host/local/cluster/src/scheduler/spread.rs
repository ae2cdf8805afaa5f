//! Checks how evenly the Pods of a selector must be spread over domains: `topologySpreadConstraints`.
//!
//! This module is pure. It counts, per domain, the Pods of the same namespace that a constraint selects,
//! except Pods that are being deleted. Nodes that the Pod's own node selector excludes are not counted as
//! domains (`nodeAffinityPolicy: Honor`, the default). Tainted nodes are counted (`nodeTaintsPolicy: Ignore`,
//! the default); `Honor` is not supported. Source:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};

use super::fit::SchedulableNode;
use crate::labels::{Labels, selects};

/// One constraint with the number of Pods in each of its domains.
#[derive(Debug)]
struct CountedSpreadConstraint<'a> {
    constraint: &'a TopologySpreadConstraint,
    pods: BTreeMap<&'a str, i64>,
    counts_itself: bool,
}

/// The spread constraints of a Pod, evaluated once for all nodes.
#[derive(Debug)]
pub(super) struct PodSpreadEvaluation<'a> {
    counted: Vec<CountedSpreadConstraint<'a>>,
}

impl<'a> PodSpreadEvaluation<'a> {
    /// Counts the domains of each of the Pod's constraints.
    pub(super) fn new(pod: &'a Pod, nodes: &'a [SchedulableNode<'a>]) -> Self {
        let constraints = || pod.spec.as_ref()?.topology_spread_constraints.as_deref();
        let counted = constraints().unwrap_or_default().iter();
        Self { counted: counted.map(|constraint| count(constraint, pod, nodes)).collect() }
    }

    /// Returns why a required constraint excludes the node; `None` if none does.
    pub(super) fn obstacle(&self, node: &SchedulableNode<'_>) -> Option<&'static str> {
        self.counted.iter().filter(|counted| is_required(counted.constraint)).find_map(|counted| {
            let Some(domain) = node.labels.get(&counted.constraint.topology_key) else {
                return Some(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let skew = counted.count_with_pod(domain).saturating_sub(counted.minimum());
            (i64::from(counted.constraint.max_skew) < skew)
                .then_some("node(s) didn't match pod topology spread constraints")
        })
    }

    /// Returns how crowded the node's domains are by the preferred constraints; less is better.
    pub(super) fn crowding(&self, node: &SchedulableNode<'_>) -> i64 {
        let preferred = self.counted.iter().filter(|counted| !is_required(counted.constraint));
        preferred
            .map(|counted| match node.labels.get(&counted.constraint.topology_key) {
                Some(domain) => counted.count_with_pod(domain),
                // A node without the label is worse than one in the fullest domain.
                None => counted.pods.values().max().map_or(1, |most| most.saturating_add(2)),
            })
            .sum()
    }
}

impl CountedSpreadConstraint<'_> {
    fn count_with_pod(&self, domain: &str) -> i64 {
        self.pods.get(domain).copied().unwrap_or(0) + i64::from(self.counts_itself)
    }

    /// Returns the count of the emptiest domain; 0 while there are fewer domains than the constraint
    /// requires.
    fn minimum(&self) -> i64 {
        let domains_min = usize::try_from(self.constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        if self.pods.len() < domains_min {
            return 0;
        }
        self.pods.values().min().copied().unwrap_or(0)
    }
}

fn is_required(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

fn count<'a>(
    constraint: &'a TopologySpreadConstraint,
    pod: &Pod,
    nodes: &'a [SchedulableNode<'a>],
) -> CountedSpreadConstraint<'a> {
    let honors_node_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let mut pods = BTreeMap::new();
    for node in nodes {
        let Some(domain) = node.labels.get(&constraint.topology_key) else { continue };
        if honors_node_affinity && !node.is_selected_by(pod) {
            continue;
        }
        let matching =
            node.pods.iter().filter(|existing| is_counted(constraint, pod, existing)).count();
        *pods.entry(domain.as_str()).or_insert(0) += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    CountedSpreadConstraint { constraint, pods, counts_itself: is_counted(constraint, pod, pod) }
}

fn is_counted(constraint: &TopologySpreadConstraint, pod: &Pod, existing: &Pod) -> bool {
    let empty = Labels::new();
    let labels = existing.metadata.labels.as_ref().unwrap_or(&empty);
    let own = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let mut match_keys = constraint.match_label_keys.iter().flatten();
    existing.metadata.deletion_timestamp.is_none()
        && existing.metadata.namespace == pod.metadata.namespace
        && selects(constraint.label_selector.as_ref(), labels)
        && match_keys.all(|key| own.get(key).is_none_or(|value| labels.get(key) == Some(value)))
}
