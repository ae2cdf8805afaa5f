//! Tests of the controllers against the real API server. The test plays the agents of the Pods: each Pod
//! becomes ready immediately, at an address where the test listens, and ends when it is deleted.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event as WatchEvent, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tholepin_local::{LocalCluster, LocalOptions, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(30);

/// A local host without agents, three Node objects, and a task that plays their agents.
struct ControllerFixture {
    cluster: LocalCluster,
    client: Client,
    tasks: JoinSet<()>,
    directory: tempfile::TempDir,
}

impl ControllerFixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = LocalOptions::new(directory.path().join("state"), PathBuf::from("/none"));
        options.nodes = 0;
        options.lock_directory = directory.path().join("locks");
        // Tests of one binary run concurrently. Each takes the next block of a range that only this crate
        // uses.
        static NEXT: AtomicU16 = AtomicU16::new(240);
        options.block = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).ok();
        let cluster = start(options).await.unwrap();
        let client = cluster.client("test").unwrap();
        let mut fixture = Self { cluster, client, tasks: JoinSet::new(), directory };
        for zone in ["a", "b", "c"] {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            let node = json!({"metadata": {"name": format!("n-{zone}"), "labels": labels}});
            let name =
                fixture.create::<Node>(Api::all(fixture.client.clone()), node).await.name_any();
            let status =
                json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
            let nodes = Api::<Node>::all(fixture.client.clone());
            nodes
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .unwrap();
        }
        let pods = Api::<Pod>::all(fixture.client.clone());
        fixture.tasks.spawn(play_agents(fixture.client.clone(), pods, fixture.cluster.block));
        fixture
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, api: Api<K>, object: Value) -> K
    where
        K: Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    async fn patch_set(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let api = self.api::<StatefulSet>();
        api.patch("db", &PatchParams::default(), &patch).await.unwrap();
    }

    async fn pods(&self) -> BTreeMap<String, Pod> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.unwrap();
        pods.into_iter().map(|pod| (pod.name_any(), pod)).collect()
    }

    /// Waits until the status of the set reports that all replicas of the newest revision are ready.
    async fn wait_ready(&self, replicas: i32) {
        let api = self.api::<StatefulSet>();
        eventually(&format!("{replicas} ready"), async || {
            let set = api.get("db").await.unwrap();
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation == set.metadata.generation;
            let all = [status.ready_replicas, status.updated_replicas, status.available_replicas];
            (seen
                && status.replicas == replicas
                && all.iter().all(|item| item.unwrap_or(0) == replicas))
            .then_some(())
        })
        .await;
    }

    async fn end(mut self) {
        self.tasks.shutdown().await;
        self.cluster.shutdown().await;
    }
}

/// Polls `ask` until it returns an answer, for at most [`DEADLINE`].
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let start_time = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start_time.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Makes each bound Pod ready at an address where a server replies with the Pod's name, and deletes it on
/// request.
async fn play_agents(client: Client, pods: Api<Pod>, block: u8) {
    let mut servers = BTreeMap::new();
    let mut next = 0_u8;
    let mut stream = std::pin::pin!(watcher(pods, watcher::Config::default()));
    while let Ok(Some(event)) = stream.try_next().await {
        let (WatchEvent::Apply(pod) | WatchEvent::InitApply(pod)) = event else { continue };
        let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
        let uid = pod.uid().unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            servers.remove(&uid);
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        } else if pod.spec.as_ref().unwrap().node_name.is_some() && !servers.contains_key(&uid) {
            next += 1;
            let address = format!("127.{block}.1.{next}");
            servers.insert(uid, serve(&address, pod.name_any()).await);
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let status = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}});
            let params = PatchParams::apply("test-agent").force();
            let _ = api.patch_status(&pod.name_any(), &params, &Patch::Apply(status)).await;
        }
    }
}

async fn serve(address: &str, name: String) -> JoinSet<()> {
    let listener = TcpListener::bind(format!("{address}:6379")).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
    tasks
}

/// Returns the name of the Pod that answers at the address of a Service.
async fn ask(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(format!("{address}:6379")).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn set(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "db"},
        "spec": {
            "serviceName": "peers",
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "redis:7", "ports": [{"name": "redis", "containerPort": 6379}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    })
}

fn service(name: &str, spec: Value) -> Value {
    let mut full = json!({"selector": {"app": "db"}, "ports": [{"name": "redis", "port": 6379, "targetPort": "redis"}]});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": full})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_scales_up_serves_scales_down_and_is_deleted() {
    let fixture = ControllerFixture::new().await;
    fixture.create(fixture.api::<Service>(), service("peers", json!({"clusterIP": "None"}))).await;
    let client = fixture.create(fixture.api::<Service>(), service("client", json!({}))).await;
    let address = client.spec.unwrap().cluster_ip.unwrap();
    assert!(ask(&address).await.is_err(), "without endpoints there is no listener");

    fixture.create(fixture.api::<StatefulSet>(), set(3)).await;
    fixture.wait_ready(3).await;
    let pods = fixture.pods().await;
    let node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
    let nodes: Vec<String> = pods.values().map(node).collect();
    assert_eq!(nodes, ["n-a", "n-b", "n-c"], "replicas spread by themselves");

    let answers = eventually("all Pods answer", async || {
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(ask(&address).await.ok()?);
        }
        answers.sort();
        (answers == ["db-0", "db-1", "db-2"]).then_some(answers)
    });
    answers.await;
    let slices = fixture.api::<EndpointSlice>().list(&ListParams::default()).await.unwrap();
    assert_eq!(slices.items.len(), 2);
    assert!(slices.iter().all(|slice| slice.endpoints.len() == 3));

    let claims = fixture.api::<PersistentVolumeClaim>();
    let claim = claims.get("data-db-1").await.unwrap();
    let volume = claim.spec.unwrap().volume_name.unwrap();
    let data = fixture.directory.path().join("state/volumes").join(&volume).join("data");
    assert!(data.is_dir());

    fixture.patch_set(json!({"replicas": 1})).await;
    fixture.wait_ready(1).await;
    assert_eq!(fixture.pods().await.keys().collect::<Vec<_>>(), ["db-0"]);
    assert_eq!(claims.list(&ListParams::default()).await.unwrap().items.len(), 3);
    claims.delete("data-db-1", &DeleteParams::default()).await.unwrap();
    eventually("the volume goes with its claim", async || {
        let volumes = Api::<PersistentVolume>::all(fixture.client.clone());
        (volumes.get_opt(&volume).await.unwrap().is_none() && !data.exists()).then_some(())
    })
    .await;

    let claim_in_use = claims.delete("data-db-0", &DeleteParams::default()).await.unwrap();
    assert!(claim_in_use.is_left(), "a claim in use stays until its Pod is deleted");
    fixture.api::<StatefulSet>().delete("db", &DeleteParams::default()).await.unwrap();
    eventually("only the unused claim is left", async || {
        let left = claims.list(&ListParams::default()).await.unwrap();
        let names: Vec<String> = left.iter().map(PersistentVolumeClaim::name_any).collect();
        (fixture.pods().await.is_empty() && names == ["data-db-2"]).then_some(())
    })
    .await;
    eventually("the listener is closed", async || ask(&address).await.is_err().then_some(())).await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_immediately() {
    let fixture = ControllerFixture::new().await;
    fixture.create(fixture.api::<StatefulSet>(), set(1)).await;
    fixture.wait_ready(1).await;
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let before = fixture.pods().await.remove("db-0").unwrap();
        let mut events = std::pin::pin!(watcher(fixture.api::<Pod>(), watcher::Config::default()));
        while !matches!(events.next().await, Some(Ok(WatchEvent::InitDone))) {}
        let params = DeleteParams::default().grace_period(0);
        fixture.api::<Pod>().delete("db-0", &params).await.unwrap();
        let mut deleted_at = None;
        let pause = loop {
            match tokio::time::timeout(DEADLINE, events.next()).await.unwrap() {
                Some(Ok(WatchEvent::Delete(_))) => deleted_at = Some(Instant::now()),
                Some(Ok(WatchEvent::Apply(pod))) if pod.uid() != before.uid() => {
                    break deleted_at.unwrap().elapsed();
                }
                _ => {}
            }
        };
        pauses.push(pause);
        fixture.wait_ready(1).await;
    }
    pauses.sort();
    assert!(pauses[pauses.len() / 2] < Duration::from_millis(50), "{pauses:?}");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_roll_by_partition_and_on_delete_waits() {
    let fixture = ControllerFixture::new().await;
    fixture.create(fixture.api::<StatefulSet>(), set(3)).await;
    fixture.wait_ready(3).await;
    let image = |image: &str| json!({"template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "redis", "containerPort": 6379}], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}});
    let images = async || {
        let pods = fixture.pods().await;
        let ready = pods
            .values()
            .filter(|pod| pod.status.as_ref().is_some_and(|item| item.pod_ip.is_some()));
        let images =
            ready.map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap());
        images.map(|image| image.replace("redis:", "")).collect::<Vec<_>>().join(" ")
    };
    fixture.patch_set(json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}})).await;
    fixture.patch_set(image("redis:8")).await;
    eventually("7 8 8", async || (images().await == "7 8 8").then_some(())).await;
    fixture.patch_set(json!({"updateStrategy": {"rollingUpdate": {"partition": 0}}})).await;
    fixture.wait_ready(3).await;
    assert_eq!(images().await, "8 8 8");

    fixture.patch_set(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}})).await;
    fixture.patch_set(image("redis:9")).await;
    fixture.api::<Pod>().delete("db-1", &DeleteParams::default()).await.unwrap();
    eventually("8 9 8", async || (images().await == "8 9 8").then_some(())).await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_reports_why_and_is_bound_when_it_fits() {
    let fixture = ControllerFixture::new().await;
    let pod = json!({"metadata": {"name": "picky"}, "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "redis:7"}]}});
    fixture.create(fixture.api::<Pod>(), pod).await;
    // The scheduler may process the Pod before the last node. It reports again then.
    let expected = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    eventually(expected, async || {
        let pod = fixture.api::<Pod>().get("picky").await.unwrap();
        let conditions = pod.status?.conditions?;
        let scheduled = conditions.into_iter().find(|item| item.type_ == "PodScheduled")?;
        let matches = scheduled.message.as_deref() == Some(expected);
        (matches && scheduled.reason.as_deref() == Some("Unschedulable")).then_some(())
    })
    .await;
    eventually("the event", async || {
        let events = fixture.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling")).then_some(())
    })
    .await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let nodes = Api::<Node>::all(fixture.client.clone());
    nodes.patch("n-b", &PatchParams::default(), &label).await.unwrap();
    let pod = eventually("it is bound", async || {
        let pod = fixture.api::<Pod>().get("picky").await.unwrap();
        pod.status.as_ref()?.pod_ip.as_ref()?;
        Some(pod)
    })
    .await;
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("n-b"));
    let conditions = pod.status.unwrap().conditions.unwrap();
    let scheduled = conditions.iter().find(|item| item.type_ == "PodScheduled").unwrap();
    assert_eq!(scheduled.status, "True");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_and_a_block_have_one_local_host() {
    let fixture = ControllerFixture::new().await;
    let mut options =
        LocalOptions::new(fixture.directory.path().join("state"), PathBuf::from("/none"));
    options.nodes = 0;
    options.lock_directory = fixture.directory.path().join("locks");
    let Err(error) = start(options.clone()).await else { panic!("two in one directory") };
    assert!(error.to_string().contains("another local host uses"), "{error}");
    options.directory = fixture.directory.path().join("other");
    options.block = Some(fixture.cluster.block);
    let Err(error) = start(options).await else { panic!("two in one block") };
    assert!(error.to_string().contains("is held by another local host"), "{error}");
    fixture.end().await;
}
