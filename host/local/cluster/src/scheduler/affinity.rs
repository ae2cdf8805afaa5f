//! Checks which nodes a Pod may share with which other Pods: required and preferred affinity and
//! anti-affinity.
//!
//! This module is pure. Pods are near each other if their nodes are in one domain, which is a value of a node
//! label (`topologyKey`). A required anti-affinity holds in both directions: an existing Pod also keeps new
//! Pods away.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};

use super::fit::SchedulableNode;
use super::snapshot::SchedulerSnapshot;
use crate::labels::{Labels, selects};

/// The weight of an existing Pod's required affinity towards the new Pod, among the preferences.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

/// The affinities of one Pod, computed once for all nodes.
#[derive(Debug)]
pub(super) struct PodAffinities<'a> {
    /// Domains (label, value) from which an existing Pod's anti-affinity excludes this Pod.
    excluded_by_existing: Vec<(&'a str, &'a str)>,
    /// Domains from which this Pod's own anti-affinity excludes it.
    excluded_by_pod: Vec<(&'a str, &'a str)>,
    /// For each required affinity term: its label, and the values of that label where matching Pods are.
    required_domains: Vec<(&'a str, Vec<&'a str>)>,
    /// Whether no Pod matches the required terms yet except this Pod itself.
    is_first_match: bool,
    /// The score of each domain, from the preferences of this Pod and of its neighbours.
    scores: BTreeMap<(&'a str, &'a str), i64>,
}

impl<'a> PodAffinities<'a> {
    /// Evaluates the terms of the new Pod and of all Pods on all nodes.
    pub(super) fn new(
        pod: &'a Pod,
        nodes: &'a [SchedulableNode<'a>],
        snapshot: &'a SchedulerSnapshot,
    ) -> Self {
        let required = required(pod);
        let anti_terms = required_anti(pod);
        let affinity_nodes = AffinityInput { snapshot, nodes };
        let excluded_by_existing = affinity_nodes.domains(|existing| {
            required_anti(existing)
                .iter()
                .filter(|term| affinity_nodes.term_is_met(term, existing, pod))
                .collect()
        });
        let excluded_by_pod = affinity_nodes.domains(|existing| {
            anti_terms
                .iter()
                .filter(|term| affinity_nodes.term_is_met(term, pod, existing))
                .collect()
        });
        // Only Pods that meet all required terms count.
        let matches_all_terms = |existing: &Pod| {
            required.iter().all(|term| affinity_nodes.term_is_met(term, pod, existing))
        };
        let matching_domains = affinity_nodes.domains(|existing| {
            if matches_all_terms(existing) { required.iter().collect() } else { Vec::new() }
        });
        let values = |key: &str| {
            matching_domains
                .iter()
                .filter(|(label, _)| *label == key)
                .map(|(_, value)| *value)
                .collect()
        };
        let has_match =
            nodes.iter().flat_map(|node| &node.pods).any(|existing| matches_all_terms(existing));
        Self {
            excluded_by_existing,
            excluded_by_pod,
            required_domains: required
                .iter()
                .map(|term| (term.topology_key.as_str(), values(&term.topology_key)))
                .collect(),
            is_first_match: !has_match && matches_all_terms(pod),
            scores: affinity_nodes.scores(pod),
        }
    }

    /// Returns why an affinity excludes the node; `None` if none does.
    pub(super) fn obstacle(&self, node: &SchedulableNode<'_>) -> Option<&'static str> {
        let value = |key: &str| node.labels.get(key).map(String::as_str);
        let near = self.required_domains.iter().all(|(key, values)| {
            value(key).is_some_and(|value| self.is_first_match || values.contains(&value))
        });
        if !near {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.excluded_by_pod.iter().any(|(key, excluded)| value(key) == Some(excluded)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        if self.excluded_by_existing.iter().any(|(key, excluded)| value(key) == Some(excluded)) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    /// Returns the score of the preferences for the node (below 0: against it).
    pub(super) fn preference(&self, node: &SchedulableNode<'_>) -> i64 {
        let here = self.scores.iter();
        here.filter(|((key, value), _)| node.labels.get(*key).is_some_and(|label| label == value))
            .map(|(_, score)| score)
            .sum()
    }
}

/// The nodes with their Pods, and the namespaces that terms refer to.
struct AffinityInput<'a> {
    snapshot: &'a SchedulerSnapshot,
    nodes: &'a [SchedulableNode<'a>],
}

impl<'a> AffinityInput<'a> {
    /// Returns the domains of all terms that `terms` returns for the Pods on the nodes.
    fn domains<'t: 'a>(
        &self,
        terms: impl Fn(&'a Pod) -> Vec<&'t PodAffinityTerm>,
    ) -> Vec<(&'a str, &'a str)> {
        let mut domains = Vec::new();
        for node in self.nodes {
            for existing in &node.pods {
                for term in terms(existing) {
                    if let Some(value) = node.labels.get(&term.topology_key) {
                        domains.push((term.topology_key.as_str(), value.as_str()));
                    }
                }
            }
        }
        domains.sort_unstable();
        domains.dedup();
        domains
    }

    /// Sums up the scores of the domains: the preferences of the new Pod towards each existing Pod, and
    /// theirs towards the new Pod.
    fn scores(&self, pod: &'a Pod) -> BTreeMap<(&'a str, &'a str), i64> {
        let mut scores = BTreeMap::new();
        for node in self.nodes {
            for existing in &node.pods {
                let mut count = |term: &'a PodAffinityTerm, weight: i64| {
                    if let Some(value) = node.labels.get(&term.topology_key) {
                        *scores.entry((term.topology_key.as_str(), value.as_str())).or_insert(0) +=
                            weight;
                    }
                };
                for (owner, other) in [(pod, *existing), (*existing, pod)] {
                    for (sign, preferred) in [(1, preferred(owner)), (-1, preferred_anti(owner))] {
                        for weighted in preferred {
                            let term = &weighted.pod_affinity_term;
                            if self.term_is_met(term, owner, other) {
                                count(term, sign * i64::from(weighted.weight));
                            }
                        }
                    }
                }
                for term in required(existing) {
                    if self.term_is_met(term, existing, pod) {
                        count(term, REQUIRED_AFFINITY_WEIGHT);
                    }
                }
            }
        }
        scores
    }

    /// Returns true if a term of `owner` selects `other`.
    fn term_is_met(&self, term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
        let empty = Labels::new();
        let labels = other.metadata.labels.as_ref().unwrap_or(&empty);
        let own = owner.metadata.labels.as_ref().unwrap_or(&empty);
        let mut match_keys = term.match_label_keys.iter().flatten();
        let mut mismatch_keys = term.mismatch_label_keys.iter().flatten();
        self.is_in_namespaces(term, owner, other)
            && selects(term.label_selector.as_ref(), labels)
            && match_keys.all(|key| own.get(key).is_none_or(|value| labels.get(key) == Some(value)))
            && mismatch_keys
                .all(|key| own.get(key).is_none_or(|value| labels.get(key) != Some(value)))
    }

    fn is_in_namespaces(&self, term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
        let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
        let named = term.namespaces.as_deref().unwrap_or_default();
        if named.is_empty() && term.namespace_selector.is_none() {
            return owner.metadata.namespace.as_deref().unwrap_or_default() == namespace;
        }
        let empty = Labels::new();
        let labels = self.snapshot.namespaces.get(namespace).unwrap_or(&empty);
        named.iter().any(|name| name == namespace)
            || selects(term.namespace_selector.as_ref(), labels)
    }
}

fn required(pod: &Pod) -> &[PodAffinityTerm] {
    let terms = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.pod_affinity.as_ref()?;
        affinity.required_during_scheduling_ignored_during_execution.as_deref()
    };
    terms().unwrap_or_default()
}

fn preferred(pod: &Pod) -> &[WeightedPodAffinityTerm] {
    let terms = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.pod_affinity.as_ref()?;
        affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
    };
    terms().unwrap_or_default()
}

fn required_anti(pod: &Pod) -> &[PodAffinityTerm] {
    let terms = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.pod_anti_affinity.as_ref()?;
        affinity.required_during_scheduling_ignored_during_execution.as_deref()
    };
    terms().unwrap_or_default()
}

fn preferred_anti(pod: &Pod) -> &[WeightedPodAffinityTerm] {
    let terms = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.pod_anti_affinity.as_ref()?;
        affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
    };
    terms().unwrap_or_default()
}
