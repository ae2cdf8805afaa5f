//! The Kubernetes objects of one RedisCluster, as intents for server-side apply.
//!
//! They contain only desired fields, and the same spec always gives the same objects, so that applying them
//! again changes nothing. They contain no secret values, only the name of the Secret.
//!
//! Invariants:
//! - Every object has the RedisCluster as its controller: deleting the RedisCluster deletes all of them.
//! - No server binds to all addresses or to loopback: a member listens on its Pod's address.
//! - A change of the template restarts no Pod (`OnDelete`); restarts are a decision, one Pod at a time.

mod config;
pub mod revisions;
mod template;

use config::revision_name;
pub use config::{read_runtime_config, runtime_config};

use alloc::{string::String, vec, vec::Vec};

use serde_json::{Value, json};
use tholepin_redis_types::{
    API_VERSION,
    redis_cluster::{KIND, RedisClusterSpec, VolumeRetention},
};
use tholepin_schema::instance::{CredentialsRef, Instance};

use crate::NO_FAILOVER;

use crate::RedisClusterObjectNames;

/// The label with the name of the RedisCluster that a Pod belongs to.
pub const CLUSTER_LABEL: &str = "redis.tholepin.dev/cluster";
/// The label with the number of its shard.
pub const SHARD_LABEL: &str = "redis.tholepin.dev/shard";
/// The container that runs the server.
pub const CONTAINER: &str = "redis";
/// The difference between the port of the cluster bus and the client port.
const BUS_PORT_OFFSET: u16 = 10_000;

/// The RedisCluster that owns the objects.
#[derive(Clone, Copy, Debug)]
pub struct OwnerRedisCluster<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

/// Returns all objects but [`runtime_config`], in the order in which to apply them.
#[must_use]
pub fn objects(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Vec<Value> {
    let mut objects = vec![
        config::revision(owner, spec),
        headless_service(owner, spec),
        client_service(owner, spec),
    ];
    for shard in 0..spec.shards {
        objects.push(stateful_set(owner, spec, shard));
        objects.push(disruption_budget(owner, shard));
    }
    objects
}

/// Returns the instance for the host's Redis functions.
#[must_use]
pub fn instance(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Instance {
    let credentials = spec.auth.as_ref().map(|auth| CredentialsRef {
        secret: auth.secret_name.clone(),
        key: auth.key.clone(),
        user: None,
    });
    Instance {
        namespace: owner.namespace.into(),
        selector: alloc::format!("{CLUSTER_LABEL}={}", owner.name),
        container: CONTAINER.into(),
        port: spec.port,
        group: None,
        credentials,
        owner: None,
        // Snapshots show these settings, to compare them with the spec's.
        settings: spec.settings.keys().cloned().chain([NO_FAILOVER.into()]).collect(),
    }
}

fn names(owner: OwnerRedisCluster<'_>) -> RedisClusterObjectNames<'_> {
    RedisClusterObjectNames { cluster: owner.name }
}

/// Returns the labels of an object; `shard` adds the label of one shard.
fn labels(owner: OwnerRedisCluster<'_>, shard: Option<u16>) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "redis-cluster",
        "app.kubernetes.io/instance": owner.name,
        "app.kubernetes.io/managed-by": "tholepin",
        CLUSTER_LABEL: owner.name,
    });
    if let (Some(shard), Some(labels)) = (shard, labels.as_object_mut()) {
        labels.insert(SHARD_LABEL.into(), alloc::format!("{shard}").into());
    }
    labels
}

fn selector(owner: OwnerRedisCluster<'_>, shard: Option<u16>) -> Value {
    match shard {
        Some(shard) => {
            json!({CLUSTER_LABEL: owner.name, SHARD_LABEL: alloc::format!("{shard}")})
        }
        None => json!({CLUSTER_LABEL: owner.name}),
    }
}

fn metadata(owner: OwnerRedisCluster<'_>, name: &str, shard: Option<u16>) -> Value {
    json!({
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner, shard),
        "ownerReferences": [{
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": owner.name,
            "uid": owner.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

/// The headless Service. It publishes Pods that are not ready, because members must find each other before
/// that.
fn headless_service(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Value {
    let bus = spec.port.saturating_add(BUS_PORT_OFFSET);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, &names(owner).headless_service(), None),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(owner, None),
            "ports": [
                {"name": "redis", "port": spec.port, "targetPort": "redis", "protocol": "TCP"},
                {"name": "bus", "port": bus, "targetPort": "bus", "protocol": "TCP"},
            ],
        },
    })
}

/// The Service for clients. A client can start with any member, which reports all others.
fn client_service(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, &names(owner).client_service(), None),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(owner, None),
            "ports": [
                {"name": "redis", "port": spec.port, "targetPort": "redis", "protocol": "TCP"},
            ],
        },
    })
}

/// Allows evictions of at most one Pod of a shard at a time.
fn disruption_budget(owner: OwnerRedisCluster<'_>, shard: u16) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, &names(owner).shard(shard), Some(shard)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(owner, Some(shard))},
        },
    })
}

fn stateful_set(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec, shard: u16) -> Value {
    let mut set = json!({
        "replicas": spec.replicas_per_shard.saturating_add(1),
        "serviceName": names(owner).headless_service(),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": selector(owner, Some(shard))},
        "template": {
            "metadata": {"labels": labels(owner, Some(shard))},
            "spec": template::pod_spec(owner, spec, shard),
        },
    });
    if let (Some(storage), Some(fields)) = (&spec.storage, set.as_object_mut()) {
        let when_deleted = match storage.on_delete {
            VolumeRetention::Retain => "Retain",
            VolumeRetention::Delete => "Delete",
        };
        let policy = json!({"whenDeleted": when_deleted, "whenScaled": "Retain"});
        fields.insert("persistentVolumeClaimRetentionPolicy".into(), policy);
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": storage.size}},
        });
        if let (Some(class), Some(claim)) = (&storage.storage_class_name, claim.as_object_mut()) {
            claim.insert("storageClassName".into(), class.as_str().into());
        }
        let labels = labels(owner, Some(shard));
        let claims = json!([{"metadata": {"name": DATA, "labels": labels}, "spec": claim}]);
        fields.insert("volumeClaimTemplates".into(), claims);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(owner, &names(owner).shard(shard), Some(shard)),
        "spec": set,
    })
}

/// The name of the data volume, and of its claim template if there is one.
const DATA: &str = "data";

/// Returns the name of the volume claim of a Pod.
#[must_use]
pub fn claim(pod: &str) -> String {
    alloc::format!("{DATA}-{pod}")
}

/// Returns the title of an object for messages: `StatefulSet demo-shard-0`.
#[must_use]
pub fn title(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    alloc::format!("{} {}", text("/kind"), text("/metadata/name"))
}

#[cfg(test)]
mod tests;
