//! Plans how a StatefulSet gets from the existing Pods to the desired ones.
//!
//! This module is pure: observed objects and the time in, writes out. The plan follows Kubernetes'
//! `stateful_set_control.go`, with one deliberate difference: the status counts the observed Pods, not those
//! that the plan is about to create or delete, because the watch delivers the difference immediately.
//!
//! Invariants:
//! - With `OrderedReady`, a Pod is created only when all Pods before it are available, and at most one Pod is
//!   created or deleted per reconcile.
//! - A claim is created, and its owner set, before the Pod that uses it is created or deleted.
//! - No Pod is created while a claim of its predecessor is still being deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claims::{are_being_deleted, claim_owners, owners_at_creation};
use super::pods::{
    StatefulSetPodState, new_claims, new_pod, ordinal_of, owner_reference, pod_name,
};
use super::revision::{StatefulSetRevisions, at_revision, revisions};
use crate::labels::selects;

/// All inputs of a plan for one StatefulSet.
#[derive(Clone, Debug)]
pub struct StatefulSetPlanInput<'a> {
    /// The set itself.
    pub set: &'a StatefulSet,
    /// The Pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// The claims of its namespace.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// The ControllerRevisions of its namespace.
    pub revisions: &'a [Arc<ControllerRevision>],
    /// The time of the observation.
    pub now: Timestamp,
}

/// One write, performed in the order of the plan. A failure ends the reconcile.
#[derive(Clone, Debug, PartialEq)]
pub enum StatefulSetWrite {
    /// Creates the revision of a new template.
    CreateRevision(Box<ControllerRevision>),
    /// Gives a revision the highest number, because the spec has returned to its template.
    RaiseRevision {
        /// Its name.
        name: String,
        /// Its new number.
        revision: i64,
    },
    /// Deletes a revision beyond the history limit.
    DeleteRevision {
        /// Its name.
        name: String,
    },
    /// Creates a claim.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Changes the owners of a claim, and so with which object it is deleted.
    SetClaimOwners {
        /// The claim's name.
        name: String,
        /// The claim's resourceVersion when observed. The write fails if it has changed since.
        resource_version: Option<String>,
        /// All owners after the write.
        owners: Vec<OwnerReference>,
    },
    /// Makes the set the controller of a matching Pod that has none.
    AdoptPod(OwnerReferenceAdoption),
    /// Makes the set the controller of a matching revision that has none.
    AdoptRevision(OwnerReferenceAdoption),
    /// Creates a Pod.
    CreatePod(Box<Pod>),
    /// Deletes a Pod gracefully, if it still has this uid.
    DeletePod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: Option<String>,
    },
    /// Writes the status of the set.
    SetStatus(Box<StatefulSetStatus>),
}

/// An object to which its set is added as controller, besides its existing owners.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerReferenceAdoption {
    /// Its name.
    pub name: String,
    /// Its resourceVersion when observed. The write fails if it has changed since.
    pub resource_version: Option<String>,
    /// All owners after the write.
    pub owners: Vec<OwnerReference>,
}

/// The plan of one reconcile of one StatefulSet.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a plan that is not performed leaves the set as it is"]
pub struct StatefulSetPlan {
    /// The writes, in order.
    pub writes: Vec<StatefulSetWrite>,
    /// When to plan again although nothing changes, because a ready Pod becomes available then.
    pub requeue_at: Option<Timestamp>,
}

/// Plans the writes for a StatefulSet.
pub fn plan(observed: &StatefulSetPlanInput<'_>) -> StatefulSetPlan {
    let mut plan = StatefulSetPlan { writes: Vec::new(), requeue_at: None };
    if observed.set.metadata.deletion_timestamp.is_some() || observed.set.spec.is_none() {
        return plan;
    }
    let view = StatefulSetReconcileState::new(observed);
    plan.requeue_at = view.pods.values().filter_map(|pod| pod.available_at).min();

    plan.writes.extend(view.adoptions.iter().cloned());
    let StatefulSetRevisions { update, is_new, raise, surplus, .. } = &view.revisions;
    if *is_new {
        plan.writes.push(StatefulSetWrite::CreateRevision(Box::new(update.clone())));
    }
    let update_name = update.metadata.name.clone().unwrap_or_default();
    let raise =
        raise.map(|revision| StatefulSetWrite::RaiseRevision { name: update_name, revision });
    plan.writes.extend(raise);
    view.set_claim_owners(&mut plan.writes);
    // The Pods come before the bookkeeping, so that a successor does not wait for it.
    let _: ControlFlow<()> = view.reconcile_pods(&mut plan.writes);
    let surplus = surplus.iter().cloned().map(|name| StatefulSetWrite::DeleteRevision { name });
    plan.writes.extend(surplus);
    let status = view.status();
    if observed.set.status.as_ref() != Some(&status) {
        plan.writes.push(StatefulSetWrite::SetStatus(Box::new(status)));
    }
    plan
}

/// The observed objects, arranged for one set.
struct StatefulSetReconcileState<'a> {
    set: &'a StatefulSet,
    pods: BTreeMap<i32, StatefulSetPodState<'a>>,
    /// Names of Pods that another controller owns, or that have no controller yet.
    taken_names: BTreeSet<&'a str>,
    /// Adoptions of matching objects without a controller, which remain when a set is deleted with orphaning.
    adoptions: Vec<StatefulSetWrite>,
    claims: BTreeMap<&'a str, &'a PersistentVolumeClaim>,
    revisions: StatefulSetRevisions,
    desired: Range<i32>,
    is_ordered: bool,
}

impl<'a> StatefulSetReconcileState<'a> {
    fn new(observed: &'a StatefulSetPlanInput<'a>) -> Self {
        let set = observed.set;
        let uid = set.metadata.uid.as_deref();
        let spec = set.spec.as_ref();
        let ready_seconds_min = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let mut pods = BTreeMap::new();
        let mut taken_names = BTreeSet::new();
        let mut adoptions = Vec::new();
        for pod in observed.pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let Some(ordinal) = ordinal_of(set, name) else { continue };
            if is_owned(pod.metadata.owner_references.as_deref(), uid) {
                let state = StatefulSetPodState::new(pod, ordinal, ready_seconds_min, observed.now);
                pods.insert(ordinal, state);
            } else {
                taken_names.insert(name);
                adoptions.extend(adoption(set, &pod.metadata).map(StatefulSetWrite::AdoptPod));
            }
        }
        let mut owned: Vec<&ControllerRevision> = Vec::new();
        for revision in observed.revisions {
            let adoption = adoption(set, &revision.metadata).map(StatefulSetWrite::AdoptRevision);
            if is_owned(revision.metadata.owner_references.as_deref(), uid) || adoption.is_some() {
                owned.push(revision);
            }
            adoptions.extend(adoption);
        }
        let in_use = pods.values().map(StatefulSetPodState::revision).collect();
        let claims = observed.claims.iter();
        let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0);
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        let policy = spec.and_then(|spec| spec.pod_management_policy.as_deref());
        Self {
            set,
            revisions: revisions(set, &owned, &in_use),
            pods,
            taken_names,
            adoptions,
            claims: claims
                .filter_map(|claim| Some((claim.metadata.name.as_deref()?, &**claim)))
                .collect(),
            desired: start..start.saturating_add(replicas),
            is_ordered: policy != Some("Parallel"),
        }
    }

    /// Creates, deletes and replaces Pods. `Break` means that the rest must wait.
    fn reconcile_pods(&self, writes: &mut Vec<StatefulSetWrite>) -> ControlFlow<()> {
        for ordinal in self.desired.clone() {
            self.ensure_pod(ordinal, writes)?;
        }
        self.scale_down(writes)?;
        self.roll_out(writes)
    }

    /// Creates or replaces a desired Pod. If order matters, `Break` means that it is not available yet.
    fn ensure_pod(&self, ordinal: i32, writes: &mut Vec<StatefulSetWrite>) -> ControlFlow<()> {
        let Some(pod) = self.pods.get(&ordinal) else {
            self.create(ordinal, writes);
            return self.wait_if_ordered();
        };
        if pod.is_finished {
            delete(pod, writes);
            return self.wait_if_ordered();
        }
        if !pod.is_terminating {
            self.create_claims(ordinal, writes);
        }
        if pod.is_healthy() { ControlFlow::Continue(()) } else { self.wait_if_ordered() }
    }

    fn create(&self, ordinal: i32, writes: &mut Vec<StatefulSetWrite>) {
        let name = pod_name(self.set, ordinal);
        if self.taken_names.contains(name.as_str())
            || are_being_deleted(self.set, ordinal, &self.claims)
        {
            return;
        }
        self.create_claims(ordinal, writes);
        let revision = self.revision_for(ordinal);
        let revision_name = revision.metadata.name.as_deref().unwrap_or_default();
        let pod = new_pod(&at_revision(self.set, revision), revision_name, ordinal);
        writes.push(StatefulSetWrite::CreatePod(Box::new(pod)));
    }

    fn create_claims(&self, ordinal: i32, writes: &mut Vec<StatefulSetWrite>) {
        let claims = new_claims(self.set, ordinal, &owners_at_creation(self.set));
        let missing = claims.into_iter().filter(|claim| {
            !claim.metadata.name.as_deref().is_some_and(|name| self.claims.contains_key(name))
        });
        writes.extend(missing.map(|claim| StatefulSetWrite::CreateClaim(Box::new(claim))));
    }

    /// Returns the revision for a missing Pod: the current one below the partition; the update revision from
    /// the partition on, and without rolling updates.
    fn revision_for(&self, ordinal: i32) -> &ControllerRevision {
        match self.partition() {
            Some(partition) if ordinal < self.desired.start.saturating_add(partition) => {
                &self.revisions.current
            }
            _ => &self.revisions.update,
        }
    }

    /// Deletes the Pods that are not desired any more, the highest ordinal first.
    fn scale_down(&self, writes: &mut Vec<StatefulSetWrite>) -> ControlFlow<()> {
        let first_unhealthy =
            self.pods.values().find(|pod| !pod.is_healthy()).map(|pod| pod.ordinal);
        for pod in self.pods.values().rev().filter(|pod| !self.desired.contains(&pod.ordinal)) {
            // An unhealthy Pod may be deleted only if no Pod with a lower ordinal is unhealthy.
            let may_be_deleted = pod.is_healthy() || first_unhealthy == Some(pod.ordinal);
            if !pod.is_terminating && (may_be_deleted || !self.is_ordered) {
                delete(pod, writes);
            }
            self.wait_if_ordered()?;
        }
        ControlFlow::Continue(())
    }

    /// Replaces Pods of another revision one by one, the highest ordinal first, down to the partition.
    fn roll_out(&self, writes: &mut Vec<StatefulSetWrite>) -> ControlFlow<()> {
        let Some(partition) = self.partition() else { return ControlFlow::Continue(()) };
        let first = self.desired.start.saturating_add(partition);
        let update = self.revisions.update.metadata.name.as_deref();
        for ordinal in (first..self.desired.end).rev() {
            let Some(pod) = self.pods.get(&ordinal) else { return ControlFlow::Break(()) };
            if update != Some(pod.revision()) && !pod.is_terminating {
                delete(pod, writes);
                return ControlFlow::Break(());
            }
            if !pod.is_healthy() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Returns the partition of rolling updates; `None` if Pods are replaced only when a user deletes them.
    fn partition(&self) -> Option<i32> {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        Some(rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0))
    }

    fn wait_if_ordered(&self) -> ControlFlow<()> {
        if self.is_ordered { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Sets the owners of the existing claims according to the retention policy.
    fn set_claim_owners(&self, writes: &mut Vec<StatefulSetWrite>) {
        let ordinals: BTreeSet<i32> =
            self.desired.clone().chain(self.pods.keys().copied()).collect();
        for ordinal in ordinals {
            let pod = self.pods.get(&ordinal).map(|state| state.pod);
            let is_desired = self.desired.contains(&ordinal);
            for (claim, owners) in claim_owners(self.set, ordinal, is_desired, pod, &self.claims) {
                writes.push(StatefulSetWrite::SetClaimOwners {
                    name: claim.metadata.name.clone().unwrap_or_default(),
                    resource_version: claim.metadata.resource_version.clone(),
                    owners,
                });
            }
        }
    }

    fn status(&self) -> StatefulSetStatus {
        let before = self.set.status.clone().unwrap_or_default();
        let name = |revision: &ControllerRevision| revision.metadata.name.clone();
        let (current, update) = (name(&self.revisions.current), name(&self.revisions.update));
        let count = |counted: &dyn Fn(&StatefulSetPodState<'_>) -> bool| {
            i32::try_from(self.pods.values().filter(|pod| counted(pod)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &Option<String>| {
            count(&|pod| !pod.is_terminating && revision.as_deref() == Some(pod.revision()))
        };
        let mut status = StatefulSetStatus {
            replicas: count(&|_| true),
            ready_replicas: Some(count(&|pod| pod.is_ready)),
            available_replicas: Some(count(&|pod| pod.is_available)),
            current_replicas: Some(of(&current)),
            updated_replicas: Some(of(&update)),
            current_revision: current,
            update_revision: update,
            observed_generation: self.set.metadata.generation,
            collision_count: Some(before.collision_count.unwrap_or(0)),
            conditions: before.conditions,
        };
        let all = Some(self.desired.end.saturating_sub(self.desired.start));
        let is_complete = status.updated_replicas == all
            && status.ready_replicas == all
            && Some(status.replicas) == all;
        if self.partition().is_some() && is_complete {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
        status
    }
}

fn delete(pod: &StatefulSetPodState<'_>, writes: &mut Vec<StatefulSetWrite>) {
    if !pod.is_terminating {
        writes.push(StatefulSetWrite::DeletePod {
            name: pod.pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.pod.metadata.uid.clone(),
        });
    }
}

/// Returns the adoption of an object that the set selects and that has no controller; `None` for any other
/// one, and for one that is being deleted.
fn adoption(set: &StatefulSet, metadata: &ObjectMeta) -> Option<OwnerReferenceAdoption> {
    let owners = metadata.owner_references.clone().unwrap_or_default();
    let is_controlled = owners.iter().any(|owner| owner.controller == Some(true));
    let labels = metadata.labels.clone().unwrap_or_default();
    let is_selected = selects(set.spec.as_ref().map(|spec| &spec.selector), &labels);
    if is_controlled || !is_selected || metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = metadata.name.clone()?;
    let owners = owners.into_iter().chain([owner_reference(set)]).collect();
    Some(OwnerReferenceAdoption {
        name,
        resource_version: metadata.resource_version.clone(),
        owners,
    })
}

fn is_owned(owners: Option<&[OwnerReference]>, uid: Option<&str>) -> bool {
    let mut owners = owners.unwrap_or_default().iter();
    owners.any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
}

#[cfg(test)]
mod tests;
