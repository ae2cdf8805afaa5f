//! Maintains the history of a StatefulSet's Pod template as ControllerRevisions.
//!
//! This module is pure. A revision is named by a hash of the template. So the same template always gets the
//! same name, and a template that is restored finds its old revision again. Pods carry the name in their
//! label `controller-revision-hash`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::pods::owner_reference;
use crate::name_hash::hash;

/// How many old revisions are kept unless the spec says otherwise; the default of the API.
const HISTORY_DEFAULT: i32 = 10;

/// The revisions of one StatefulSet at one moment.
#[derive(Clone, Debug)]
pub(super) struct StatefulSetRevisions {
    /// The current revision, to which Pods below the partition belong.
    pub(super) current: ControllerRevision,
    /// The revision of the template in the spec.
    pub(super) update: ControllerRevision,
    /// Whether the update revision must be created.
    pub(super) is_new: bool,
    /// The new number of the update revision, if it exists with an older one.
    pub(super) raise: Option<i64>,
    /// The names of revisions that are not needed any more.
    pub(super) surplus: Vec<String>,
}

/// Finds the current and the update revision among the existing ones (`owned` by the set), and those beyond
/// the history limit. `in_use` are the names of the revisions of existing Pods.
pub(super) fn revisions(
    set: &StatefulSet,
    owned: &[&ControllerRevision],
    in_use: &BTreeSet<&str>,
) -> StatefulSetRevisions {
    let template = template_of(set);
    let latest = owned.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let equal = owned.iter().filter(|revision| data(revision) == Some(&template));
    let existing = equal.max_by_key(|revision| revision.revision).copied();
    let update = existing.cloned().unwrap_or_else(|| new_revision(set, &template, latest + 1));
    let current_name = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let current = owned.iter().find(|revision| revision.metadata.name.as_deref() == current_name);
    let current = current.map_or_else(|| update.clone(), |current| (*current).clone());
    let raise = existing.filter(|existing| existing.revision < latest).map(|_| latest + 1);

    let mut live = in_use.clone();
    live.extend(
        [&update, &current].iter().filter_map(|revision| revision.metadata.name.as_deref()),
    );
    let surplus = surplus(set, owned, &live);
    StatefulSetRevisions { current, update, is_new: existing.is_none(), raise, surplus }
}

fn surplus(set: &StatefulSet, owned: &[&ControllerRevision], live: &BTreeSet<&str>) -> Vec<String> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let limit = usize::try_from(limit.unwrap_or(HISTORY_DEFAULT)).unwrap_or(0);
    let mut old: Vec<(i64, &str)> = owned
        .iter()
        .filter_map(|revision| Some((revision.revision, revision.metadata.name.as_deref()?)))
        .filter(|(_, name)| !live.contains(name))
        .collect();
    old.sort_unstable();
    let surplus = old.len().saturating_sub(limit);
    old.into_iter().take(surplus).map(|(_, name)| name.to_owned()).collect()
}

/// Returns the StatefulSet with the template of a revision.
pub(super) fn at_revision(set: &StatefulSet, revision: &ControllerRevision) -> StatefulSet {
    let mut at = set.clone();
    let template = data(revision).and_then(|data| data.get("spec")?.get("template"));
    let template = template.and_then(|template| serde_json::from_value(template.clone()).ok());
    if let (Some(spec), Some(template)) = (&mut at.spec, template) {
        spec.template = template;
    }
    at
}

fn data(revision: &ControllerRevision) -> Option<&Value> {
    revision.data.as_ref().map(|data| &data.0)
}

/// Returns the data of a revision: the template as a patch that replaces it.
fn template_of(set: &StatefulSet) -> Value {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    json!({ "spec": { "template": template } })
}

fn new_revision(set: &StatefulSet, template: &Value, number: i64) -> ControllerRevision {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash(&format!("{template}{collisions}"));
    let mut labels = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    labels.get_or_insert_default().insert("controller.kubernetes.io/hash".to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: set.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(template.clone())),
        revision: number,
    }
}
