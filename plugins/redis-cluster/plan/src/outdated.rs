//! Finds Pods that were created from an older template than their StatefulSet has now.
//!
//! A change of the template restarts no Pod (`OnDelete`). A new image, or a setting that only a restart can
//! change, takes effect when a person deletes the Pods.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde_json::{Map, Value};
use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{primitives::Role, snapshot::Member};

use crate::{
    ClusterStage, MemberPosition, OutdatedPods, OutdatedRedisPodChoice, ShardPlan,
    cluster_model::ObservedClusterModel,
};

/// The label with the revision of the template from which a Pod was created.
const REVISION_LABEL: &str = "controller-revision-hash";

/// Returns Pods of an older template whose containers do not run, and which never ran a container or never
/// answered, each with its uid. A corrected spec reaches them only if they are replaced, and replacing them
/// loses nothing.
pub(crate) fn stuck(model: &ObservedClusterModel<'_>) -> Vec<(String, String)> {
    let Some(older) = older(model) else { return Vec::new() };
    let reported = model.observed.previous.shards.iter().flat_map(|shard| &shard.members);
    let answered: Vec<&str> =
        reported.filter(|member| member.node.is_some()).map(|member| member.pod.as_str()).collect();
    let members = older.iter().filter_map(|(_, position)| model.placed.get(*position));
    let stuck = members.filter(|member| {
        let runs = member.running || member.facts().is_some();
        let is_new = never_ran(member) || !answered.contains(&member.pod.as_str());
        !runs && !member.deleting && is_new
    });
    stuck.map(|member| (member.pod.clone(), member.pod_uid.clone())).collect()
}

/// Returns true if no container of this Pod has run yet. An earlier Pod of the same name may have been a
/// member.
fn never_ran(member: &Member) -> bool {
    let last = member.kubernetes.pointer("/lastState").and_then(Value::as_object);
    member.container_id.is_empty() && last.is_none_or(Map::is_empty)
}

/// Compares each Pod at a desired position with the StatefulSet of its shard.
pub(crate) fn outdated(
    model: &ObservedClusterModel<'_>,
    stage: ClusterStage,
    shards: &[ShardPlan],
) -> OutdatedPods {
    let Some(mut older) = older(model) else { return OutdatedPods::Unknown };
    older.sort_unstable();
    let Some((_, first)) = older.first() else { return OutdatedPods::UpToDate };
    let has_copy = |position: &MemberPosition| {
        let members = shards.get(usize::from(position.shard)).map(|shard| &shard.members);
        let pod = model.names.pod(*position);
        let mut others = members.into_iter().flatten().filter(|(name, _)| **name != pod);
        model.spec.storage.is_some()
            || others.any(|(_, member)| {
                member.role == MemberRole::Primary || member.is_replica_in_sync()
            })
    };
    let next = older.iter().find(|(_, position)| has_copy(position));
    let next = match next {
        _ if stage != ClusterStage::Steady => OutdatedRedisPodChoice::NotYet,
        Some((_, position)) => OutdatedRedisPodChoice::Pod(model.names.pod(**position)),
        None => OutdatedRedisPodChoice::OnlyCopy(model.names.pod(**first)),
    };
    OutdatedPods::Some { count: older.len(), of: model.placed.len(), next }
}

/// Returns the positions whose Pods are of an older template, each with whether its member is a primary;
/// `None` while the revision of a StatefulSet is not known.
fn older<'a>(model: &'a ObservedClusterModel<'_>) -> Option<Vec<(bool, &'a MemberPosition)>> {
    let templates = &model.observed.templates;
    let revisions: BTreeMap<&str, Option<&str>> = templates
        .iter()
        .map(|template| (template.set.as_str(), template.revision.as_deref()))
        .collect();
    let mut older = Vec::new();
    for (position, member) in &model.placed {
        let set = model.names.shard(position.shard);
        let (Some(Some(revision)), Some(labels)) =
            (revisions.get(set.as_str()), member.kubernetes.get("labels"))
        else {
            return None;
        };
        if labels.get(REVISION_LABEL).and_then(Value::as_str) != Some(*revision) {
            let is_primary = model
                .answering
                .get(position)
                .is_some_and(|answering| answering.own.role == Role::Primary);
            older.push((is_primary, position));
        }
    }
    Some(older)
}
