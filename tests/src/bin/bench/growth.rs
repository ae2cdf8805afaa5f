//! How the cost of a reconcile grows: with the size of its cluster, and with the number of other clusters.
//!
//! A reconcile here uses all of the host but the queue and the network: the plugin in Wasm, the gate with its
//! ledger, the store with every object, and applies that change nothing. The replies of the Redis servers are
//! generated, and the Pods have no processes.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    guests,
    redis_cluster::NAMESPACE,
    wait::{Poll, until},
};
use tholepin_core::{ObjectRef, port::Kubernetes};
use tholepin_schema::manifest::KindName;

use crate::{
    engine::BenchEngine,
    objects,
    plugin::BenchPlugin,
    snapshot::{self, FakeRedis},
    table::{BenchRow, RowUnit},
};

/// Shards and replicas per shard: 3, 10, 30 and 100 nodes.
const SIZES: [(u16, u16); 4] = [(3, 0), (5, 1), (15, 1), (50, 1)];
/// The numbers of clusters of the size [`USUAL`].
const COUNTS: [usize; 3] = [1, 10, 100];
const USUAL: (u16, u16) = (3, 1);
/// The label of a cluster's Pods.
const CLUSTER_LABEL: &str = "redis.tholepin.dev/cluster";
/// The cases are measured in turns, so that the machine's load affects all alike.
const ROUNDS: usize = 8;
/// The number of measured reconciles of each case in a turn.
const RECONCILES: usize = 5;
/// Ten times the nodes may cost ten times as much.
const GOAL_TIMES: f64 = 10.0;
/// A hundred times the clusters may cost nothing more; a tenth is allowed for noise.
const GOAL_CONSTANT: f64 = 1.1;
/// How long a cluster may take to settle before the measurement is given up.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let mut rows = by_size().await?;
    rows.extend(by_count().await?);
    Ok(rows)
}

async fn by_size() -> Result<Vec<BenchRow>> {
    let env = GrowthEnvironment::open().await?;
    let mut cases = Vec::new();
    for (shards, replicas) in SIZES {
        let name = format!("c-{shards}-{replicas}");
        env.create(&name, (shards, replicas)).await?;
        let row = format!("reconcile, {} nodes", shards * (1 + replicas));
        cases.push(GrowthCase { env: &env, name, row });
    }
    measure_in_rounds(&cases, (3, 1), ("reconcile, 100 nodes ÷ 10 nodes", GOAL_TIMES)).await
}

async fn by_count() -> Result<Vec<BenchRow>> {
    let mut environments = Vec::new();
    for count in COUNTS {
        let env = GrowthEnvironment::open().await?;
        for number in 0..count {
            env.create(&format!("n-{number:03}"), USUAL).await?;
        }
        environments.push((env, format!("reconcile, 6 nodes, {count} clusters")));
    }
    let first = "n-000";
    let case =
        |(env, row): (_, &String)| GrowthCase { env, name: first.to_owned(), row: row.clone() };
    let cases: Vec<GrowthCase<'_>> =
        environments.iter().map(|(env, row)| case((env, row))).collect();
    measure_in_rounds(&cases, (2, 0), ("reconcile, 100 clusters ÷ 1 cluster", GOAL_CONSTANT)).await
}

/// A cluster whose reconciles are measured.
struct GrowthCase<'a> {
    env: &'a GrowthEnvironment,
    name: String,
    row: String,
}

/// Measures the cases in turns. Returns a row per case, and last the ratio of two of them per turn, with its goal.
async fn measure_in_rounds(
    cases: &[GrowthCase<'_>],
    (one, other): (usize, usize),
    (ratio, goal): (&str, f64),
) -> Result<Vec<BenchRow>> {
    let (mut times, mut medians) = (vec![Vec::new(); cases.len()], Vec::new());
    for _ in 0..ROUNDS {
        let mut round = Vec::new();
        for (case, times) in cases.iter().zip(&mut times) {
            let reconciles = case.env.reconciles(&case.name).await?;
            round.push(BenchRow::ms("", &reconciles).median());
            times.extend(reconciles);
        }
        medians.push(round);
    }
    let of = |round: &Vec<f64>, index: usize| round.get(index).copied().unwrap_or(f64::NAN);
    let ratios = medians.iter().map(|round| of(round, one) / of(round, other)).collect();
    let rows = cases.iter().zip(&times).map(|(case, times)| BenchRow::ms(case.row.clone(), times));
    Ok(rows.chain([BenchRow::new(ratio, RowUnit::Ratio, ratios).goal(goal)]).collect())
}

/// An API server, the host's parts, and the plugin.
struct GrowthEnvironment {
    engine: BenchEngine,
    plugin: BenchPlugin,
    client: Client,
    cluster: LocalClusterProcess,
}

impl GrowthEnvironment {
    async fn open() -> Result<Self> {
        let cluster = LocalClusterProcess::start_api_only()?;
        let client = cluster.client().await?;
        let plugin = BenchPlugin::load("redis-cluster", &guests::redis_cluster()?).await?;
        let mut engine = BenchEngine::connect(cluster.kubeconfig(), Arc::new(FakeRedis)).await?;
        let manifest = &plugin.loaded.manifest;
        for definition in manifest.reconciles.iter().filter_map(|kind| kind.crd.as_ref()) {
            engine.kubernetes.install_crd(definition).await?;
        }
        engine.follow_all(manifest).await?;
        Ok(Self { engine, plugin, client, cluster })
    }

    /// Creates a cluster with its Pods, and reconciles it until nothing is left to do.
    async fn create(&self, name: &str, (shards, replicas): (u16, u16)) -> Result<()> {
        let object = json!({
            "apiVersion": "redis.tholepin.dev/v1alpha1",
            "kind": "RedisCluster",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "shards": shards,
                "replicasPerShard": replicas,
                "failover": {"nodeTimeoutMs": snapshot::NODE_TIMEOUT_MS},
            },
        });
        let kind = ["redis.tholepin.dev", "v1alpha1", "RedisCluster"];
        objects::create(&objects::api(&self.client, kind), "bench", [object]).await?;
        let object = snapshot::object(name);
        self.in_store(&object, 1).await?;
        // This reconcile creates everything but the Pods.
        self.engine.reconcile(&self.plugin.loaded, &object).await?;
        self.create_pods(name).await?;
        let pods = usize::from(shards * (1 + replicas));
        self.in_store(&pods_like(name), pods).await?;
        let poll = || async {
            let summary =
                self.engine.reconcile(&self.plugin.loaded, &object).await?.outcome.summary;
            let is_ready = summary.starts_with(&format!("ready: {shards}/{shards} shards"));
            Ok(if is_ready { Poll::Done(()) } else { Poll::NotYet(summary) })
        };
        until(format!("{name} to be ready"), SETTLE_MAX, poll).await.map(drop)
    }

    /// Creates the Pods of the cluster's StatefulSets, running.
    async fn create_pods(&self, cluster: &str) -> Result<()> {
        let sets = objects::api(&self.client, ["apps", "v1", "StatefulSet"]);
        let selector = format!("{CLUSTER_LABEL}={cluster}");
        let sets = sets.list(&ListParams::default().labels(&selector)).await?;
        let pods = objects::api(&self.client, ["", "v1", "Pod"]);
        let made = sets.iter().map(|set| pods_of(&serde_json::to_value(set)?));
        let made = made.collect::<Result<Vec<_>>>()?.concat();
        objects::create(&pods, "bench", made.clone()).await?;
        let numbered = made.iter().enumerate();
        objects::run_all(numbered.map(|(number, pod)| run(&pods, pod, number))).await
    }

    /// Waits until the store has this many complete objects of a kind whose names begin with this one's.
    async fn in_store(&self, like: &ObjectRef, count: usize) -> Result<()> {
        let poll = || async {
            let view = self.engine.kubernetes.view();
            let all = view.references(&like.kind, &like.namespace);
            let ours = all.iter().filter(|object| object.name.starts_with(&like.name));
            let is_whole = |object: &&ObjectRef| {
                let is_pod = object.kind.kind == "Pod";
                let object = view.get(object);
                !is_pod || object.is_some_and(|pod| pod.pointer("/status/podIP").is_some())
            };
            let complete = ours.filter(is_whole).count();
            let wait = || Poll::NotYet(format!("{complete} of {count}"));
            Ok(if complete == count { Poll::Done(()) } else { wait() })
        };
        until(format!("{} in the store", like.name), SETTLE_MAX, poll).await.map(drop)
    }

    /// Returns the times of reconciles that have nothing to do; fails if one writes.
    async fn reconciles(&self, name: &str) -> Result<Vec<Duration>> {
        let object = snapshot::object(name);
        let mut times = Vec::new();
        let mut written = 0;
        // The first reconcile warms up, and may write what the last watch event requires.
        for number in 0..=RECONCILES {
            let measured = self.engine.reconcile(&self.plugin.loaded, &object).await?;
            let summary = measured.outcome.summary;
            ensure!(summary.starts_with("ready:"), "{name}: {summary}");
            if number == 0 {
                written = self.written()?;
            } else {
                times.push(measured.took);
            }
        }
        ensure!(
            self.written()? == written,
            "{name}: a reconcile with nothing to do wrote something"
        );
        Ok(times)
    }

    /// Returns the size of the API server's audit log.
    fn written(&self) -> Result<u64> {
        Ok(fs::metadata(self.cluster.audit_log())?.len())
    }
}

/// Returns the Pods of a StatefulSet.
fn pods_of(set: &Value) -> Result<Vec<Value>> {
    let part = |path: &str| set.pointer(path).cloned().with_context(|| format!("no {path}"));
    let (name, labels) = (part("/metadata/name")?, part("/spec/template/metadata/labels")?);
    let (uid, spec) = (part("/metadata/uid")?, part("/spec/template/spec")?);
    let name = name.as_str().unwrap_or_default();
    let count = part("/spec/replicas")?.as_u64().unwrap_or_default();
    let pod = |ordinal: u64| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": format!("{name}-{ordinal}"),
                "namespace": NAMESPACE,
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": name,
                    "uid": uid,
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": spec,
        })
    };
    Ok((0..count).map(pod).collect())
}

/// Writes the status of a running Pod, as its node would.
async fn run(pods: &Api<DynamicObject>, pod: &Value, number: usize) -> Result<()> {
    let since = "2026-11-20T08:15:09Z";
    let address = format!("10.0.{}.{}", number >> 8 & 255, number & 255);
    let condition =
        |name: &str| json!({"type": name, "status": "True", "lastTransitionTime": since});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let status = json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "redis",
            "ready": true,
            "started": true,
            "restartCount": 0,
            "image": "redis:7.0",
            "imageID": "local://redis-server@7.0.15",
            "containerID": format!("local://{number:032x}"),
            "state": {"running": {"startedAt": since}},
            "lastState": {},
        }],
    });
    let name =
        pod.pointer("/metadata/name").and_then(Value::as_str).context("the Pod has no name")?;
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Returns a reference whose name is the beginning of the names of a cluster's Pods.
fn pods_like(cluster: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "Pod".to_owned() },
        namespace: NAMESPACE.to_owned(),
        name: format!("{cluster}-shard-"),
    }
}
