//! The memory of a watched Pod in the host's store, measured with many realistic Pods.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tests::{cluster::LocalClusterProcess, redis_cluster::NAMESPACE};
use tholepin_core::{ObjectRef, port::Kubernetes};
use tholepin_schema::manifest::KindName;

use crate::{
    engine::BenchEngine,
    live_bytes::grown,
    objects,
    snapshot::FakeRedis,
    table::{BenchRow, RowUnit},
};

const PODS: u32 = 10_000;
const GOAL_BYTES: f64 = 8_000.0;

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let cluster = LocalClusterProcess::start_api_only()?;
    let client = cluster.client().await?;
    let pods = objects::api(&client, ["", "v1", "Pod"]);
    objects::create(&pods, "kube-controller-manager", (0..PODS).map(pod)).await?;
    objects::run_all((0..PODS).map(|number| report(&pods, number))).await?;
    let received = serde_json::to_string(&pods.get(&name(0)).await?)?;

    let mut engine = BenchEngine::connect(cluster.kubeconfig(), Arc::new(FakeRedis)).await?;
    let kind = |kind: &str| KindName { api_version: "v1".to_owned(), kind: kind.to_owned() };
    // The first watch opens the connection, which must not be counted.
    engine.follow(kind("ConfigMap")).await?;
    let (followed, bytes) = grown(engine.follow(kind("Pod"))).await;
    followed?;
    let view = engine.kubernetes.view();
    let held = view.references(&kind("Pod"), "").len();
    ensure!(held == usize::try_from(PODS)?, "the store holds {held} Pods");
    let first = ObjectRef { kind: kind("Pod"), namespace: NAMESPACE.to_owned(), name: name(0) };
    let text = view.get(&first).context("the first Pod is not in the store")?.to_string();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let [bytes, received, text] =
        [bytes as f64 / f64::from(PODS), received.len() as f64, text.len() as f64];
    let text = BenchRow::new("a Pod without managedFields, its JSON", RowUnit::Bytes, vec![text]);
    Ok(vec![
        BenchRow::new("store, per Pod", RowUnit::Bytes, vec![bytes])
            .goal(GOAL_BYTES)
            .beside("its JSON", &text),
        BenchRow::new("a Pod as received", RowUnit::Bytes, vec![received]),
        text,
    ])
}

fn name(number: u32) -> String {
    // As the ReplicaSet of a Deployment names its Pods.
    format!("checkout-service-{:09x}-{:05x}", 0x7_5bc_d15 + number / 5, number)
}

/// Returns a Pod as a ReplicaSet's controller creates it.
fn pod(number: u32) -> Value {
    let hash = format!("{:09x}", 0x7_5bc_d15 + number / 5);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(number),
            "generateName": format!("checkout-service-{hash}-"),
            "namespace": NAMESPACE,
            "labels": {
                "app.kubernetes.io/name": "checkout-service",
                "app.kubernetes.io/part-of": "shop",
                "app.kubernetes.io/version": "2026.11.3",
                "pod-template-hash": hash,
            },
            "annotations": {
                "kubectl.kubernetes.io/restartedAt": "2026-11-20T08:15:02Z",
                "prometheus.io/scrape": "true",
            },
            "ownerReferences": [{
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": format!("checkout-service-{hash}"),
                "uid": format!("{number:08x}-3c1d-4f6e-9b8a-1f2e3d4c5b6a"),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": format!("node-{}", number % 100),
            "containers": [container()],
            "volumes": [
                {"name": "config", "configMap": {"name": "checkout-service"}},
                {"name": "tmp", "emptyDir": {}},
            ],
            "terminationGracePeriodSeconds": 45,
            "tolerations": [toleration("not-ready"), toleration("unreachable")],
        },
    })
}

fn toleration(taint: &str) -> Value {
    json!({
        "key": format!("node.kubernetes.io/{taint}"),
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    })
}

fn container() -> Value {
    json!({
        "name": "checkout-service",
        "image": "registry.example.org/shop/checkout-service:2026.11.3",
        "args": ["--listen=:8080", "--config=/etc/checkout/config.yaml"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LOG_LEVEL", "value": "info"},
            {"name": "REDIS_ADDRESS", "value": "cache.shop.svc:6379"},
        ],
        "resources": {
            "requests": {"cpu": "250m", "memory": "256Mi"},
            "limits": {"memory": "512Mi"},
        },
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"},
            "periodSeconds": 5,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/checkout", "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    })
}

/// Writes a Pod's status as its node does.
async fn report(pods: &Api<DynamicObject>, number: u32) -> Result<()> {
    let since = "2026-11-20T08:15:09Z";
    let condition = |name: &str| json!({"type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": since});
    let address = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let conditions = conditions.map(condition);
    let status = json!({
        "phase": "Running",
        "startTime": since,
        "hostIP": format!("192.168.0.{}", number % 100),
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "checkout-service",
            "ready": true,
            "started": true,
            "restartCount": 0,
            "image": "registry.example.org/shop/checkout-service:2026.11.3",
            "imageID": format!("registry.example.org/shop/checkout-service@sha256:{}", "c0ffee12".repeat(8)),
            "containerID": format!("containerd://{number:08x}{}", "5eed1234".repeat(7)),
            "state": {"running": {"startedAt": since}},
            "lastState": {},
        }],
    });
    let patch = Patch::Merge(json!({ "status": status }));
    let params =
        PatchParams { field_manager: Some("kubelet".to_owned()), ..PatchParams::default() };
    let patched = pods.patch_status(&name(number), &params, &patch).await;
    patched.map(drop).context("cannot write a status")
}
