//! Checks whether a node by itself suits a Pod: taints, selectors, resources, volumes.
//!
//! This module is pure. Other Pods matter here only for the resources that they request; [`super::affinity`]
//! and [`super::spread`] check which Pods may be near each other. The reasons are worded as by
//! kube-scheduler, because users search for these texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, Node, NodeAffinity, Pod, ResourceRequirements, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tholepin_agent::quantity::milli;

use super::snapshot::SchedulerSnapshot;
use crate::labels::{Labels, selects_node, term_selects_node};
use crate::reflector::NamespacedName;

/// An amount per resource name, in thousandths of its unit.
pub(super) type ResourceAmounts = BTreeMap<String, i128>;

/// A node with its Pods.
#[derive(Clone, Debug)]
pub(super) struct SchedulableNode<'a> {
    pub(super) name: &'a str,
    pub(super) labels: &'a Labels,
    pub(super) pods: Vec<&'a Pod>,
    node: &'a Node,
    allocatable: ResourceAmounts,
    requested: ResourceAmounts,
}

impl<'a> SchedulableNode<'a> {
    /// Collects, for a node, those of `pods` that are bound to it and have not finished.
    pub(super) fn new(node: &'a Node, pods: &'a [Arc<Pod>], none: &'a Labels) -> Self {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = |pod: &&'a Pod| node_of(pod) == Some(name) && !is_finished(pod);
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).filter(here).collect();
        let allocatable = node.status.as_ref().and_then(|status| {
            status.allocatable.as_ref().or(status.capacity.as_ref()).map(amounts)
        });
        let mut requested = ResourceAmounts::new();
        for pod in &pods {
            add(&mut requested, &requests(pod));
        }
        Self {
            name,
            labels: node.metadata.labels.as_ref().unwrap_or(none),
            pods,
            node,
            allocatable: allocatable.unwrap_or_default(),
            requested,
        }
    }

    /// Returns why the node by itself cannot take the Pod; empty if it can. Like kube-scheduler it stops at
    /// the first group of reasons.
    pub(super) fn obstacles(&self, pod: &Pod, snapshot: &SchedulerSnapshot) -> Vec<String> {
        let unschedulable = self.node.spec.as_ref().and_then(|spec| spec.unschedulable);
        if unschedulable == Some(true) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
        if let Some(taint) = self.untolerated(pod, &["NoSchedule", "NoExecute"]).next() {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !self.is_selected_by(pod) {
            return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
        }
        let full = self.shortages(pod);
        if !full.is_empty() {
            return full;
        }
        if !volumes_are_usable(pod, self, snapshot) {
            return vec!["node(s) had volume node affinity conflict".to_owned()];
        }
        Vec::new()
    }

    /// Returns the taints with those effects that the Pod does not tolerate.
    fn untolerated(&self, pod: &Pod, effects: &[&str]) -> impl Iterator<Item = &'a Taint> {
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
        let tolerations = tolerations.unwrap_or_default();
        let spec = self.node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        taints.iter().filter(move |taint| {
            effects.contains(&taint.effect.as_str())
                && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
        })
    }

    /// Returns the number of untolerated taints with the effect `PreferNoSchedule`.
    pub(super) fn discouraging_taints(&self, pod: &Pod) -> i64 {
        i64::try_from(self.untolerated(pod, &["PreferNoSchedule"]).count()).unwrap_or(i64::MAX)
    }

    /// Returns true if the Pod's node selector and its required node affinity match the node.
    pub(super) fn is_selected_by(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return true };
        let selected = spec.node_selector.iter().flatten();
        let mut selected = selected.into_iter();
        let required = node_affinity(pod).and_then(|affinity| {
            affinity.required_during_scheduling_ignored_during_execution.as_ref()
        });
        selected.all(|(key, value)| self.labels.get(key) == Some(value))
            && required.is_none_or(|required| selects_node(required, self.name, self.labels))
    }

    /// Returns the sum of the weights of the preferred node affinity terms that the node meets.
    pub(super) fn preference(&self, pod: &Pod) -> i64 {
        let preferred = node_affinity(pod).and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
        });
        let met = preferred.unwrap_or_default().iter();
        met.filter(|term| term_selects_node(&term.preference, self.name, self.labels))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    /// Returns a reason for each resource that the Pod requests and of which the node does not have enough
    /// left.
    fn shortages(&self, pod: &Pod) -> Vec<String> {
        let mut short = Vec::new();
        let pods_max = self.allocatable.get("pods").copied().unwrap_or(0) / 1_000;
        let pods = i128::try_from(self.pods.len()).unwrap_or(i128::MAX);
        if pods_max <= pods {
            short.push("Too many pods".to_owned());
        }
        for (name, requested_amount) in requests(pod) {
            let allocatable = self.allocatable.get(&name).copied().unwrap_or(0);
            let taken = self.requested.get(&name).copied().unwrap_or(0);
            if 0 < requested_amount && allocatable < taken.saturating_add(requested_amount) {
                short.push(format!("Insufficient {name}"));
            }
        }
        short
    }
}

/// Returns the name of the node to which a Pod is bound.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref();
    node.filter(|node| !node.is_empty())
}

/// Returns true if a Pod has ended for good, so that it takes no resources and counts as no neighbour.
pub(super) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns the claims of the Pod's volumes.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = NamespacedName> + '_ {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .map(move |claim| NamespacedName::new(namespace, &*claim.claim_name))
}

/// Returns true if every volume of the Pod's claims can be used on the node.
fn volumes_are_usable(pod: &Pod, node: &SchedulableNode<'_>, snapshot: &SchedulerSnapshot) -> bool {
    claims_of(pod).all(|claim| {
        let claim = snapshot.claims.get(&claim);
        let bound = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.as_ref());
        let volume = bound.and_then(|name| snapshot.volumes.get(name));
        let affinity = volume
            .and_then(|volume| volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref());
        affinity.is_none_or(|required| selects_node(required, node.name, node.labels))
    })
}

fn node_affinity(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

/// Checks one toleration. An empty key tolerates every taint, an empty effect tolerates every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => key.is_empty() || key == taint.key,
        _ => key == taint.key && text(&toleration.value) == text(&taint.value),
    }
}

/// Returns the requests of a Pod: the sum of its containers and sidecars, or its largest init step, whichever
/// is more, plus the overhead of its runtime class.
pub(super) fn requests(pod: &Pod) -> ResourceAmounts {
    let Some(spec) = &pod.spec else { return ResourceAmounts::new() };
    let mut running = ResourceAmounts::new();
    for container in &spec.containers {
        add(&mut running, &container_requests(container));
    }
    let mut sidecars = ResourceAmounts::new();
    let mut peak = ResourceAmounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut step = container_requests(container);
        add(&mut step, &sidecars);
        raise(&mut peak, &step);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &container_requests(container));
        }
    }
    add(&mut running, &sidecars);
    raise(&mut running, &peak);
    add(&mut running, &spec.overhead.as_ref().map(amounts).unwrap_or_default());
    running
}

fn container_requests(container: &Container) -> ResourceAmounts {
    let requirements = |resources: &ResourceRequirements| {
        // A limit without a request counts as the request. The API server's defaulting may have set it
        // already.
        let mut requests = resources.limits.as_ref().map(amounts).unwrap_or_default();
        requests.extend(resources.requests.as_ref().map(amounts).unwrap_or_default());
        requests
    };
    container.resources.as_ref().map(requirements).unwrap_or_default()
}

fn amounts(quantities: &BTreeMap<String, Quantity>) -> ResourceAmounts {
    let read = quantities.iter();
    read.filter_map(|(name, quantity)| Some((name.clone(), milli(&quantity.0)?))).collect()
}

fn add(sum: &mut ResourceAmounts, more: &ResourceAmounts) {
    for (name, amount) in more {
        let sum = sum.entry(name.clone()).or_insert(0);
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(most: &mut ResourceAmounts, step: &ResourceAmounts) {
    for (name, amount) in step {
        let most = most.entry(name.clone()).or_insert(0);
        *most = (*most).max(*amount);
    }
}
