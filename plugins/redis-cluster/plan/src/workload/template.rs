//! The Pod template.
//!
//! A Pod is ready when its server answers, whatever the state of the cluster, because members must be
//! reachable while the cluster is formed and healed. The liveness probe kills a server that hangs for a
//! minute. Loading data, waiting in the start guard, and a cluster that is down are no reasons to kill it.

use alloc::{vec, vec::Vec};

use serde_json::{Map, Value, json};
use tholepin_redis_types::redis_cluster::{KIND, RedisClusterSpec};
use tholepin_schema::reserved::{self, MAY_START};

use super::{BUS_PORT_OFFSET, CONTAINER, DATA, OwnerRedisCluster, names, revision_name, selector};

/// The longest time in seconds that the preStop hook waits for another member to take over.
const HAND_OVER_S_MAX: u32 = 20;
/// The time in seconds that the server then has to stop. It waits up to 10 s for its replicas, and writes the
/// rest of its append-only file.
const SHUTDOWN_S_MAX: u32 = 25;
/// The volume with the annotation by which the host lets a process start without data.
const PODINFO: &str = "podinfo";

pub(super) fn pod_spec(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec, shard: u16) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": HAND_OVER_S_MAX + SHUTDOWN_S_MAX,
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": selector(owner, Some(shard))},
            },
        }]}},
        "topologySpreadConstraints": [
            spread("topology.kubernetes.io/zone", &selector(owner, Some(shard))),
            spread("kubernetes.io/hostname", &selector(owner, None)),
        ],
        "containers": [container(owner, spec)],
        "volumes": volumes(owner, spec),
    })
}

fn spread(topology_key: &str, selector: &Value) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
    })
}

fn container(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Value {
    let bus = spec.port.saturating_add(BUS_PORT_OFFSET);
    let script = |name: &str| json!({"command": ["sh", alloc::format!("/etc/redis/{name}.sh")]});
    let mut container = json!({
        "name": CONTAINER,
        "image": spec.image,
        "command": ["sh", "/etc/redis/start.sh"],
        "env": environment(owner, spec),
        "ports": [
            {"name": "redis", "containerPort": spec.port, "protocol": "TCP"},
            {"name": "bus", "containerPort": bus, "protocol": "TCP"},
        ],
        "volumeMounts": [
            {"name": DATA, "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/redis", "readOnly": true},
            {"name": "run", "mountPath": "/run/redis"},
            {"name": PODINFO, "mountPath": "/etc/podinfo", "readOnly": true},
        ],
        "readinessProbe": {
            "exec": script("ready"),
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "successThreshold": 1,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "exec": script("alive"),
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "successThreshold": 1,
            "failureThreshold": 6,
        },
        // If a server does not start, Kubernetes keeps its last output, which a condition of the RedisCluster
        // repeats.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"exec": script("stop")}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    if let Some(fields) = container.as_object_mut().filter(|_| !spec.resources.is_empty()) {
        fields.insert("resources".into(), resources(spec));
    }
    container
}

fn resources(spec: &RedisClusterSpec) -> Value {
    let mut resources = Map::new();
    for (name, quantities) in
        [("requests", &spec.resources.requests), ("limits", &spec.resources.limits)]
    {
        if !quantities.is_empty() {
            resources.insert(name.into(), json!(quantities));
        }
    }
    resources.into()
}

fn environment(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Vec<Value> {
    vec![
        json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
        json!({"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}),
        json!({"name": "PORT", "value": alloc::format!("{}", spec.port)}),
        json!({"name": "NODES", "value": names(owner).headless_service()}),
        json!({"name": "INSTANCE", "value": alloc::format!("{}/{}", owner.namespace, owner.name)}),
        json!({"name": "DURABLE", "value": if spec.storage.is_some() { "yes" } else { "no" }}),
        json!({"name": "HAND_OVER_S", "value": alloc::format!("{HAND_OVER_S_MAX}")}),
        password(owner),
    ]
}

/// Returns the variable with the password in force, empty if there is none. It has the name that redis-cli
/// reads; the server gets the password from `start.sh`.
///
/// It is read from the host's Secret and not from the user's: if the user's Secret changes, a restarted Pod
/// still has the same password as the others. The reference is not optional, because without the Secret a
/// server would run without a password.
fn password(owner: OwnerRedisCluster<'_>) -> Value {
    let name = reserved::name(reserved::ReservedObjectPurpose::Credentials, KIND, owner.uid);
    json!({
        "name": "REDISCLI_AUTH",
        "valueFrom": {"secretKeyRef": {"name": name, "key": reserved::CREDENTIALS_KEY}},
    })
}

fn volumes(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Vec<Value> {
    let sources = [revision_name(owner, spec), names(owner).runtime_config()]
        .map(|name| json!({"configMap": {"name": name}}));
    let mut volumes = vec![
        json!({"name": "config", "projected": {"sources": sources}}),
        json!({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"name": PODINFO, "downwardAPI": {"items": [{
            "path": "may-start",
            "fieldRef": {"fieldPath": alloc::format!("metadata.annotations['{MAY_START}']")},
        }]}}),
    ];
    if spec.storage.is_none() {
        volumes.push(json!({"name": DATA, "emptyDir": {}}));
    }
    volumes
}
