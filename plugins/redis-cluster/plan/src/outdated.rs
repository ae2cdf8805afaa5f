//! Which Pods were made from an older template than their StatefulSet has now.
//!
//! A change of the template restarts no Pod (`OnDelete`), so a new image or a setting that only a
//! restart can change waits until somebody deletes the Pods.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{primitives::Role, snapshot::Member};

use crate::{ClusterStage, MemberPosition, ShardPlan, cluster_model::ClusterModel};

/// The label that names the revision of the template that a Pod was made from.
const REVISION_LABEL: &str = "controller-revision-hash";

/// A StatefulSet, as far as it tells about its template.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TemplateRevision {
    /// The StatefulSet's name.
    pub set: String,
    /// The revision of its template; none while its controller has not seen its present generation.
    pub revision: Option<String>,
}

impl TemplateRevision {
    /// Reads it from the object; none if that has no name.
    #[must_use]
    pub fn of(set: &Value) -> Option<Self> {
        let at = |path: &str| set.pointer(path);
        let generation = at("/metadata/generation").and_then(Value::as_i64);
        let observed = at("/status/observedGeneration").and_then(Value::as_i64);
        let revision = at("/status/updateRevision").and_then(Value::as_str);
        let revision = revision.filter(|_| generation.is_some() && generation == observed);
        let name = at("/metadata/name").and_then(Value::as_str)?;
        Some(Self { set: name.to_string(), revision: revision.map(ToString::to_string) })
    }
}

/// How many Pods are of an older template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutdatedPods {
    /// A StatefulSet does not tell the revision of its template (yet).
    Unknown,
    /// All Pods are of their StatefulSet's template.
    Nobody,
    /// Some are of an older one.
    Some {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// Which may be deleted now.
        next: NextPod,
    },
}

/// Which Pod of an older template may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPod {
    /// This one: a replica if there is one.
    Pod(String),
    /// None while the cluster is not as wanted: the last one that was deleted may not be back.
    NotYet,
    /// None: each holds the only copy of its shard's data, in memory. The first is named.
    OnlyCopy(String),
}

/// Pods of an older template whose containers do not run, and in which nothing ever ran or that never
/// answered: a mended spec reaches them only if they are replaced, and nothing is lost with them. Each
/// with its uid.
pub(crate) fn stuck(picture: &ClusterModel<'_>) -> Vec<(String, String)> {
    let Some(older) = older(picture) else { return Vec::new() };
    let reported = picture.observed.previous.shards.iter().flat_map(|shard| &shard.members);
    let answered: Vec<&str> =
        reported.filter(|it| it.node.is_some()).map(|it| it.pod.as_str()).collect();
    let members = older.iter().filter_map(|(_, seat)| picture.placed.get(*seat));
    let stuck = members.filter(|member| {
        let runs = member.running || member.facts().is_some();
        let is_new = never_ran(member) || !answered.contains(&member.pod.as_str());
        !runs && !member.deleting && is_new
    });
    stuck.map(|member| (member.pod.clone(), member.pod_uid.clone())).collect()
}

/// Whether no container of this Pod has run yet. The Pod that had its name before may have been a member.
fn never_ran(member: &Member) -> bool {
    let last = member.kubernetes.pointer("/lastState").and_then(Value::as_object);
    member.container_id.is_empty() && last.is_none_or(Map::is_empty)
}

/// Compares each Pod in a wanted seat with the StatefulSet of its shard.
pub(crate) fn outdated(
    picture: &ClusterModel<'_>,
    stage: ClusterStage,
    shards: &[ShardPlan],
) -> OutdatedPods {
    let Some(mut older) = older(picture) else { return OutdatedPods::Unknown };
    older.sort_unstable();
    let Some((_, first)) = older.first() else { return OutdatedPods::Nobody };
    let has_copy = |seat: &MemberPosition| {
        let members = shards.get(usize::from(seat.shard)).map(|shard| &shard.members);
        let pod = picture.names.pod(*seat);
        let mut others = members.into_iter().flatten().filter(|(name, _)| **name != pod);
        picture.spec.storage.is_some()
            || others.any(|(_, member)| {
                member.role == MemberRole::Primary || member.is_replica_in_sync()
            })
    };
    let next = older.iter().find(|(_, seat)| has_copy(seat));
    let next = match next {
        _ if stage != ClusterStage::Steady => NextPod::NotYet,
        Some((_, seat)) => NextPod::Pod(picture.names.pod(**seat)),
        None => NextPod::OnlyCopy(picture.names.pod(**first)),
    };
    OutdatedPods::Some { count: older.len(), of: picture.placed.len(), next }
}

/// The seats whose Pods are of an older template, and whether a primary is in them; none while a
/// StatefulSet does not tell.
fn older<'a>(picture: &'a ClusterModel<'_>) -> Option<Vec<(bool, &'a MemberPosition)>> {
    let templates = &picture.observed.templates;
    let revisions: BTreeMap<&str, Option<&str>> =
        templates.iter().map(|it| (it.set.as_str(), it.revision.as_deref())).collect();
    let mut older = Vec::new();
    for (seat, member) in &picture.placed {
        let set = picture.names.shard(seat.shard);
        let (Some(Some(revision)), Some(labels)) =
            (revisions.get(set.as_str()), member.kubernetes.get("labels"))
        else {
            return None;
        };
        if labels.get(REVISION_LABEL).and_then(Value::as_str) != Some(*revision) {
            let is_primary = picture.live.get(seat).is_some_and(|it| it.own.role == Role::Primary);
            older.push((is_primary, seat));
        }
    }
    Some(older)
}
