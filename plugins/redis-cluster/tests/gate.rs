//! What the plugin applies passes the host's gate under the grants that its manifest requests.
#![cfg(test)]

use std::sync::Arc;

use redis_cluster::RedisClusterPlugin;
use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, KubernetesCall, PluginCallerIdentity, ReconcileKey,
    RevisionDigest, WriteMode,
};
use tholepin_fakes::{FakeCluster, FixedClock};
use tholepin_gate::{Gate, GatePorts, ReconcileScope};
use tholepin_redis_cluster_plan::workload::{self, OwnerRedisCluster};
use tholepin_sdk::Reconciler;
use tokio_util::sync::CancellationToken;

const OWNER: OwnerRedisCluster<'_> =
    OwnerRedisCluster { name: "demo", namespace: "default", uid: "uid-demo" };

/// Applies objects in one live reconcile of a RedisCluster with this spec.
async fn apply(spec: &Value, objects: Vec<Value>) -> Vec<Answer> {
    let manifest = RedisClusterPlugin::describe();
    let kind = manifest.reconciles[0].name.clone();
    let object = json!({
        "apiVersion": kind.api_version, "kind": kind.kind, "spec": spec,
        "metadata": {"name": OWNER.name, "namespace": OWNER.namespace, "uid": OWNER.uid},
    });
    let world = Arc::new(FakeCluster::default());
    world.put(object.clone());
    let gate = Gate::new(GatePorts {
        kubernetes: world.clone(),
        redis: world.clone(),
        prober: world,
        clock: Arc::new(FixedClock),
        entropy: Arc::new(FixedClock),
    });
    let key = Arc::new(ReconcileKey {
        plugin: "redis-cluster".parse().unwrap(),
        kind,
        namespace: OWNER.namespace.into(),
        name: OWNER.name.into(),
    });
    let context = gate.open(ReconcileScope {
        key: key.clone(),
        object: Arc::new(object),
        grants: Arc::new(manifest.grants),
        secret_fields: Arc::new(manifest.secret_fields),
        parameters: Arc::new(json!({})),
        mode: WriteMode::Live,
        urgent: CancellationToken::new(),
        calls_max: 100,
        writes_max: 100,
        bytes_max: 1 << 30,
    });
    let caller = PluginCallerIdentity {
        plugin: key.plugin.clone(),
        revision: RevisionDigest("r".into()),
        object: Some(key),
    };
    let mut answers = Vec::new();
    for object in objects {
        let call = KubernetesCall::Apply { object, force: true };
        answers.push(context.perform(&caller, Call::Kubernetes(call)).await);
    }
    answers
}

fn objects(spec: &Value) -> Vec<Value> {
    workload::objects(OWNER, &serde_json::from_value(spec.clone()).unwrap())
}

#[tokio::test]
async fn the_workload_passes_the_gate() {
    let rows = [
        json!({"shards": 3}),
        json!({"shards": 3, "auth": {"secretName": "password"}, "storage": {"size": "1Gi"}}),
    ];
    for spec in rows {
        let made = objects(&spec);
        assert!(made.iter().any(|object| object["kind"] == "StatefulSet"));
        for (object, answer) in made.iter().zip(apply(&spec, made.clone()).await) {
            assert!(answer.is_ok(), "{}: {answer:?}", workload::title(object));
        }
    }
}

/// The same template, with one field more.
#[tokio::test]
async fn the_workload_cannot_get_more() {
    let spec = json!({"shards": 3});
    let sets = objects(&spec).into_iter().filter(|object| object["kind"] == "StatefulSet");
    for (field, value) in [
        ("hostPID", json!(true)),
        ("imagePullSecrets", json!([{"name": "other"}])),
        ("serviceAccountName", json!("admin")),
    ] {
        let mut set = sets.clone().next().unwrap();
        set["spec"]["template"]["spec"][field] = value;
        let answer = apply(&spec, vec![set]).await.remove(0);
        assert!(matches!(answer, Err(CallError::Denied(_))), "{field}: {answer:?}");
    }
}
