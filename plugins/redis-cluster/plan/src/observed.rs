//! The observations that a plan rests on, as plain data.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_redis_types::redis_cluster::RedisClusterStatus;
use tholepin_schema::snapshot::Snapshot;

/// All observations that a plan rests on.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct ObservedRedisCluster {
    /// The snapshot of all members.
    pub snapshot: Snapshot,
    /// The last status, from which a plan takes what cannot be observed any more: which replicas were in sync
    /// while their primary still answered, which nodes were primaries, and the node ids of members that do not
    /// answer.
    pub previous: RedisClusterStatus,
    /// The templates of the StatefulSets.
    #[serde(default)]
    pub templates: Vec<StatefulSetTemplateRevision>,
    /// Why Kubernetes does not create a Pod or its volume, by Pod; only for Pods for which events were read.
    #[serde(default)]
    pub obstacles: BTreeMap<String, String>,
    /// The Pods that do not answer in time, and those that did not until recently, by uid.
    #[serde(default)]
    pub silent: BTreeMap<String, PodSilence>,
}

/// How long a Pod has not answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSilence {
    /// The time in milliseconds.
    pub for_ms: u64,
    /// Whether its deletion was tried and failed.
    #[serde(default)]
    pub is_unfenced: bool,
}

/// The template revision of a StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StatefulSetTemplateRevision {
    /// The StatefulSet's name.
    pub set: String,
    /// The revision of its template; `None` while its controller has not seen the present generation.
    pub revision: Option<String>,
}

impl StatefulSetTemplateRevision {
    /// Reads the revision from the object; `None` if the object has no name.
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
