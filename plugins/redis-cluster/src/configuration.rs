//! The configuration's part of a reconcile: the ConfigMap of runtime settings, the settings to change on running
//! servers, stuck Pods to replace, unused revisions to delete, and the conditions about all this.
//!
//! The decisions are in `plan::configuration`, `plan::workload::revisions` and `plan::outdated`.

use serde_json::Value;
use tholepin_redis_cluster_plan::{
    ClusterStage, OutdatedPods, OutdatedRedisPodChoice, Plan, RedisClusterObjectNames,
    StatefulSetTemplateRevision, configuration,
    workload::{self, revisions, revisions::RedisConfigRevisionRef},
};
use tholepin_redis_types::redis_cluster::{Condition, MemberRole};
use tholepin_schema::snapshot::Snapshot;
use tholepin_sdk::{DeleteOptions, Error, Host, ObjectListQuery, ObjectRef, ReadMode};

use crate::{
    act::{self, ActionResults},
    observe::ParsedRedisCluster,
    report::{ConditionValue, MembersReconcileOutcome, ReconcileFindings, condition},
};

/// Returns the templates of the StatefulSets; none if they cannot be read, which counts as unknown.
pub(crate) fn templates(
    host: &dyn Host,
    target: &ParsedRedisCluster,
) -> Vec<StatefulSetTemplateRevision> {
    let fields = &[
        ".metadata.name",
        ".metadata.generation",
        ".status.observedGeneration",
        ".status.updateRevision",
    ];
    match list(host, target, "apps/v1", "StatefulSet", ReadMode::Cached, fields) {
        Ok(sets) => sets.iter().filter_map(StatefulSetTemplateRevision::of).collect(),
        Err(error) => {
            host.warn(&format!("the StatefulSets were not read: {error}"));
            Vec::new()
        }
    }
}

/// Applies the ConfigMap of runtime settings. Pods do not start without it.
///
/// # Errors
///
/// Fails if the ConfigMap cannot be read or applied.
pub(crate) fn apply(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    snapshot: Option<&Snapshot>,
) -> Result<(), Error> {
    let is_all_accepted =
        snapshot.is_some_and(|snapshot| configuration::is_all_accepted(&target.spec, snapshot));
    let before = if is_all_accepted { None } else { read(host, target)? };
    let before = before.as_ref().map(workload::read_runtime_config);
    let settings =
        configuration::runtime_settings(&target.spec, snapshot, &target.status, before.as_ref());
    host.apply(&workload::runtime_config(target.owner(), &settings), true).map(drop)
}

fn read(host: &dyn Host, target: &ParsedRedisCluster) -> Result<Option<Value>, Error> {
    let name = RedisClusterObjectNames { cluster: &target.name }.runtime_config();
    let object = ObjectRef::new("v1", "ConfigMap", &target.namespace, &name);
    match host.get(&object, ReadMode::Cached, &[".data", ".metadata.annotations"]) {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Performs [`Plan::settings`]: the spec's settings that running servers do not have, and the ban on elections.
///
/// # Errors
///
/// Fails like [`act::perform`]; the results of single settings are not errors.
pub(crate) fn set(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    plan: &Plan,
) -> Result<ActionResults, Error> {
    act::perform(host, target, &plan.settings)
}

/// Deletes the revisions that no Pod and no template names. Checks the cached objects first, so that a
/// cluster whose Pods still use an older revision causes no live reads.
pub(crate) fn forget(host: &dyn Host, target: &ParsedRedisCluster, plan: &Plan) {
    if plan.stage != ClusterStage::Steady {
        return;
    }
    let gone = [ReadMode::Cached, ReadMode::Live].into_iter().try_fold(
        None,
        |before: Option<Vec<RedisConfigRevisionRef>>, read| match before {
            Some(none) if none.is_empty() => Ok(Some(none)),
            _ => unnamed(host, target, read).map(Some),
        },
    );
    let outcome = gone.and_then(|gone| {
        gone.unwrap_or_default().into_iter().try_for_each(|map| delete(host, target, map))
    });
    if let Err(error) = outcome {
        // No Pod reads them: the next reconcile tries again.
        host.warn(&format!("old revisions of the configuration were not deleted: {error}"));
    }
}

/// Deletes the Pods that never ran or never answered, and that a corrected template may let run.
pub(crate) fn replace_stuck(host: &dyn Host, target: &ParsedRedisCluster, plan: &Plan) {
    for (pod, uid) in &plan.stuck {
        let object = ObjectRef::new("v1", "Pod", &target.namespace, pod);
        let options = DeleteOptions { uid: Some(uid.clone()), ..DeleteOptions::default() };
        match host.delete(&object, &options) {
            Ok(()) => {
                let text = format!(
                    "`{pod}` never ran or never answered, and is replaced by a Pod of the present template"
                );
                host.info(&text);
            }
            // The Pod has changed meanwhile: the next reconcile observes again.
            Err(error) => host.warn(&format!("`{pod}` was not replaced: {error}")),
        }
    }
}

fn unnamed(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    read: ReadMode,
) -> Result<Vec<RedisConfigRevisionRef>, Error> {
    let maps = list(host, target, "v1", "ConfigMap", read, &[".metadata.name", ".metadata.uid"])?;
    let names = RedisClusterObjectNames { cluster: &target.name };
    let text =
        |map: &Value, path: &str| map.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let existing: Vec<RedisConfigRevisionRef> = maps
        .iter()
        .filter_map(|map| {
            Some(RedisConfigRevisionRef {
                name: text(map, "/metadata/name")?,
                uid: text(map, "/metadata/uid")?,
            })
        })
        .filter(|map| names.is_revision(&map.name))
        .collect();
    if existing.len() <= 1 {
        return Ok(Vec::new());
    }
    // Reads all Pods of the namespace: one whose labels or owner were changed by hand still reads its file.
    let pods = ObjectListQuery {
        read,
        fields: vec![".spec.volumes".into()],
        ..ObjectListQuery::new("v1", "Pod", &target.namespace)
    };
    let pods = host.list(&pods)?;
    let fields =
        &[".metadata.generation", ".spec.template.spec.volumes", ".status.observedGeneration"];
    let sets = list(host, target, "apps/v1", "StatefulSet", read, fields)?;
    let unnamed = revisions::unnamed(target.owner(), &target.spec, &existing, &pods, &sets);
    Ok(unnamed.into_iter().cloned().collect())
}

fn delete(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    gone: RedisConfigRevisionRef,
) -> Result<(), Error> {
    let object = ObjectRef::new("v1", "ConfigMap", &target.namespace, &gone.name);
    let options = DeleteOptions { uid: Some(gone.uid), ..DeleteOptions::default() };
    match host.delete(&object, &options) {
        // It was deleted already, or another object of that name was created.
        Ok(()) | Err(Error::NotFound(_) | Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the objects of one kind with the cluster's labels.
fn list(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    api_version: &str,
    kind: &str,
    read: ReadMode,
    fields: &[&str],
) -> Result<Vec<Value>, Error> {
    host.list(&ObjectListQuery {
        selector: target.instance.selector.clone(),
        read,
        fields: fields.iter().map(|&field| field.into()).collect(),
        ..ObjectListQuery::new(api_version, kind, &target.namespace)
    })
}

/// Returns `Outdated` and `LiveConfigApplied`. A condition that this reconcile cannot determine keeps its
/// last value.
pub(crate) fn conditions(
    target: &ParsedRedisCluster,
    findings: &ReconcileFindings,
    now_ms: u64,
) -> Vec<Condition> {
    let condition_values = match &findings.seen {
        MembersReconcileOutcome::Planned { plan, set, .. } => {
            [outdated(plan), configured(plan, set)]
        }
        MembersReconcileOutcome::Interrupted | MembersReconcileOutcome::NotObserved(_) => {
            [None, None]
        }
    };
    let named = ["Outdated", "LiveConfigApplied"].into_iter().zip(condition_values);
    let conditions = named.filter_map(|(name, value)| match value {
        Some(value) => Some(condition(target, name, value, now_ms)),
        None => target
            .status
            .conditions
            .iter()
            .find(|condition| condition.condition_type == name)
            .cloned(),
    });
    conditions.collect()
}

fn outdated(plan: &Plan) -> Option<ConditionValue> {
    match &plan.outdated {
        OutdatedPods::Unknown => None,
        OutdatedPods::UpToDate => Some(ConditionValue::new(
            false,
            "AsWanted",
            "every Pod runs its StatefulSet's template",
        )),
        OutdatedPods::Some { count, of, next } => {
            let fix = match next {
                OutdatedRedisPodChoice::Pod(pod) => format!(
                    "delete them one at a time, replicas first, and wait for `Ready` after each; the next \
                     is `{pod}`"
                ),
                OutdatedRedisPodChoice::NotYet => {
                    "delete none before the cluster is `Ready`: `Ready` and `Degraded` say what it waits for"
                        .into()
                }
                OutdatedRedisPodChoice::OnlyCopy(pod) => format!(
                    "`{pod}` holds the only copy of its shard's data, in memory: raise \
                     `.spec.replicasPerShard` before you delete it, or accept the loss of the data"
                ),
            };
            let message = format!("{count} of {of} Pods run an older template: {fix}");
            Some(ConditionValue::new(true, "OlderTemplate", message))
        }
    }
}

/// Returns `LiveConfigApplied`: whether every server that answers has the runtime settings. It does not report
/// whether the ConfigMap was applied; a failure of that is a fault.
fn configured(plan: &Plan, set: &ActionResults) -> Option<ConditionValue> {
    let mut members = plan.shards.iter().flat_map(|shard| shard.members.values());
    if let Some(first) = set.blocked.first() {
        let message = format!(
            "{}; the servers keep the values that they have and start with them: change or remove \
             the setting",
            first.message
        );
        return Some(ConditionValue::new(false, &first.reason, message));
    }
    if !plan.settings.is_empty() {
        return Some(ConditionValue::new(false, "Pending", "new settings are sent to the servers"));
    }
    let message = "every server that answers has the settings that can be changed while it runs";
    let answers = members.any(|member| member.role != MemberRole::Silent);
    answers.then(|| ConditionValue::new(true, "AsWanted", message))
}
