//! Finds the revisions of the configuration that no Pod uses any more.
//!
//! Missing information deletes nothing: while a StatefulSet has not been read, no file is proven unused.

use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_redis_types::redis_cluster::RedisClusterSpec;

use super::{OwnerRedisCluster, revision_name};
use crate::RedisClusterObjectNames;

/// A ConfigMap that exists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RedisConfigRevisionRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Returns the revisions that no Pod and no template names. `pods` and `sets` are the objects with `.spec`;
/// the sets also with `.metadata.generation` and `.status.observedGeneration`.
///
/// Returns none while the controller of a StatefulSet has not seen its present generation, because it may
/// still create a Pod from the template before.
#[must_use]
pub fn unnamed<'a>(
    owner: OwnerRedisCluster<'_>,
    spec: &RedisClusterSpec,
    existing: &'a [RedisConfigRevisionRef],
    pods: &[Value],
    sets: &[Value],
) -> Vec<&'a RedisConfigRevisionRef> {
    let at = |set: &Value, path: &str| set.pointer(path).and_then(Value::as_i64);
    let is_settled = |set: &Value| {
        let generation = at(set, "/metadata/generation");
        generation.is_some() && generation == at(set, "/status/observedGeneration")
    };
    if sets.len() < usize::from(spec.shards) || !sets.iter().all(is_settled) {
        return Vec::new();
    }
    let mut named = BTreeSet::from([revision_name(owner, spec)]);
    let volumes = |object: &Value, path: &str| {
        object.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let of_pods = pods.iter().flat_map(|pod| volumes(pod, "/spec/volumes"));
    let of_sets = sets.iter().flat_map(|set| volumes(set, "/spec/template/spec/volumes"));
    named.extend(of_pods.chain(of_sets).flat_map(|volume| config_maps(&volume)));
    let names = RedisClusterObjectNames { cluster: owner.name };
    let revisions = existing.iter().filter(|map| names.is_revision(&map.name));
    revisions.filter(|map| !named.contains(&map.name)).collect()
}

/// Returns the ConfigMaps that a volume contains, directly or as one of several sources.
fn config_maps(volume: &Value) -> Vec<String> {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
    let all = core::iter::once(volume).chain(sources.into_iter().flatten());
    let names = all.filter_map(|source| source.pointer("/configMap/name")?.as_str());
    names.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use serde_json::json;

    use super::*;
    use crate::workload::objects;

    const OWNER: OwnerRedisCluster<'_> =
        OwnerRedisCluster { name: "demo", namespace: "default", uid: "u-1" };

    fn spec(settings: Value) -> RedisClusterSpec {
        serde_json::from_value(json!({"shards": 1, "replicasPerShard": 1, "settings": settings}))
            .unwrap()
    }

    #[test]
    fn only_what_a_restart_changes_makes_a_new_revision() {
        let name = |settings: Value| revision_name(OWNER, &spec(settings));
        let plain = name(json!({}));
        assert_eq!(plain, name(json!({"slowlog-max-len": 5, "activedefrag": "yes"})));
        assert_ne!(plain, name(json!({"hz": 20})));
        assert_ne!(name(json!({"hz": 20})), name(json!({"hz": 21})));
    }

    /// Returns the StatefulSets with this `observedGeneration`.
    fn sets(spec: &RedisClusterSpec, observed: i64) -> Vec<Value> {
        let all = objects(OWNER, spec).into_iter().filter(|object| object["kind"] == "StatefulSet");
        all.map(|mut set| {
            set["metadata"]["generation"] = 2.into();
            set["status"] = json!({"observedGeneration": observed});
            set
        })
        .collect()
    }

    #[test]
    fn a_revision_is_deleted_when_no_pod_and_no_template_names_it() {
        let (before, now) = (spec(json!({})), spec(json!({"hz": 20})));
        let [old, new] = [&before, &now].map(|spec| revision_name(OWNER, spec));
        let names = ["demo-config", &old, &new, "demo-live", "foreign"];
        let existing: Vec<RedisConfigRevisionRef> = names
            .iter()
            .map(|name| RedisConfigRevisionRef { name: (*name).into(), uid: "u".into() })
            .collect();
        let pod =
            |spec: &RedisClusterSpec| json!({"spec": sets(spec, 2)[0]["spec"]["template"]["spec"]});
        let first = json!({"spec": {"volumes": [{"configMap": {"name": "demo-config"}}]}});
        let cases = [
            (vec![pod(&now)], sets(&now, 2), vec!["demo-config", &old]),
            (vec![pod(&now), pod(&before)], sets(&now, 2), vec!["demo-config"]),
            (vec![first, pod(&before)], sets(&now, 2), vec![]),
            (vec![], sets(&before, 2), vec!["demo-config"]),
            (vec![pod(&now)], sets(&now, 1), vec![]),
            (vec![pod(&now)], vec![], vec![]),
        ];
        for (number, (pods, sets, expected)) in cases.into_iter().enumerate() {
            let unnamed = unnamed(OWNER, &now, &existing, &pods, &sets);
            let names: Vec<&str> = unnamed.iter().map(|map| map.name.as_str()).collect();
            assert_eq!(names, expected, "case {number}");
        }
    }
}
