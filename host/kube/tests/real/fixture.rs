//! The fixture of these tests: an embedded API server, and a connection of the host to it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, LocalRecorderGuard, Metadata, Recorder, SharedString,
    Unit,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tholepin_apiserver::{ApiServer, ApiServerOptions, start};
use tholepin_core::{
    ObjectRef,
    port::{ApplyRequest, Kubernetes, WatchedStoreView},
};
use tholepin_kube::{KubernetesApi, KubernetesApiOptions, SecretFingerprinter, WatchHubOptions};
use tholepin_schema::manifest::KindName;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) struct KubeFixture {
    pub(crate) api: Arc<KubernetesApi>,
    server: Option<ApiServer>,
    directory: TempDir,
    stop: CancellationToken,
    running: JoinSet<()>,
    fence_count: AtomicU64,
}

impl KubeFixture {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from((Ipv4Addr::new(127, 27, 0, 1), 0));
        let server = start(ApiServerOptions::new(listen, directory.path())).await.unwrap();
        let api = connect(&server).await;
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        let (run, until) = (api.clone(), stop.clone());
        running.spawn(async move { run.run(until).await });
        Self { api, server: Some(server), directory, stop, running, fence_count: AtomicU64::new(0) }
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        self.running.join_next().await.unwrap().unwrap();
        drop(self.api);
        if let Some(server) = self.server {
            server.shutdown().await;
        }
    }

    /// Returns another client of the same server, with its own store.
    pub(crate) async fn other_client(&self) -> Arc<KubernetesApi> {
        connect(self.server.as_ref().unwrap()).await
    }

    /// Stops the API server.
    pub(crate) async fn stop_server(&mut self) {
        self.server.take().unwrap().shutdown().await;
    }

    /// Applies an object as a plugin would.
    pub(crate) async fn apply(&self, object: Value) -> Value {
        self.api.apply(apply(object)).await.unwrap()
    }

    pub(crate) fn view(&self) -> Arc<dyn WatchedStoreView> {
        self.api.view()
    }

    /// Reads `metadata.managedFields` of an object, which the host itself removes from every reply.
    pub(crate) async fn managed_fields(&self, version: &str, plural: &str, name: &str) -> Value {
        let file = Kubeconfig::read_from(&self.server.as_ref().unwrap().kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
        let path = format!("/apis/{version}/namespaces/default/{plural}/{name}");
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let object: Value = Client::try_from(config).unwrap().request(request).await.unwrap();
        object["metadata"]["managedFields"].clone()
    }

    /// Counts the writes of an object in the server's audit log. A last write of another object ensures that
    /// the lines of all earlier writes are in the file.
    pub(crate) async fn writes(&self, resource: &str, name: &str) -> usize {
        let fence = format!("fence-{}", self.fence_count.fetch_add(1, Ordering::SeqCst));
        self.apply(config_map(&fence, json!({}))).await;
        let lines = || -> Vec<Value> {
            let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        until(|| lines().iter().any(|line| line["name"] == *fence)).await;
        let is_write_of_object =
            |line: &&Value| line["resource"] == resource && line["name"] == name;
        lines().iter().filter(is_write_of_object).count()
    }
}

async fn connect(server: &ApiServer) -> Arc<KubernetesApi> {
    let hub = WatchHubOptions {
        linger: Duration::from_millis(50),
        missing_kind_pause: (Duration::from_millis(20), Duration::from_millis(100)),
        failure_pause: (Duration::from_millis(20), Duration::from_millis(100)),
        watch_lasts_seconds: 30,
    };
    let options = KubernetesApiOptions {
        kubeconfig: Some(server.kubeconfig.clone()),
        fingerprinter: SecretFingerprinter::new([27; 32]),
        reporting_instance: "test".to_owned(),
        hub,
    };
    KubernetesApi::connect(options).await.unwrap()
}

/// Counts the GET requests of this thread, which runs all tasks of a test.
#[derive(Default)]
pub(crate) struct ReadCounter(Arc<AtomicU64>);

impl ReadCounter {
    pub(crate) fn count(&self) -> LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Recorder for ReadCounter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let is_get = key.labels().any(|label| (label.key(), label.value()) == ("method", "GET"));
        if key.name() == "rest_client_requests_total" && is_get {
            Counter::from_arc(self.0.clone())
        } else {
            Counter::noop()
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

pub(crate) fn apply(object: Value) -> ApplyRequest {
    ApplyRequest {
        field_manager: "tholepin:test".to_owned(),
        object,
        force: false,
        status: false,
        dry_run: false,
    }
}

pub(crate) fn kind(api_version: &str, kind: &str) -> KindName {
    KindName { api_version: api_version.to_owned(), kind: kind.to_owned() }
}

pub(crate) fn reference(kind: KindName, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: "default".to_owned(), name: name.to_owned() }
}

pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": name}, "data": data})
}

pub(crate) fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

/// Returns the definition of a kind with a status subresource, whose conditions are a map list.
pub(crate) fn definition(plural: &str, kind: &str) -> Value {
    let conditions = json!({"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "required": ["type", "status"],
            "properties": {"type": {"type": "string"}, "status": {"type": "string"},
                "reason": {"type": "string"}, "message": {"type": "string"},
                "lastTransitionTime": {"type": "string"},
                "observedGeneration": {"type": "integer", "format": "int64"}}}});
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": spec,
        "status": {"type": "object", "properties": {"conditions": conditions}}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.test.tholepin.dev")},
        "spec": {
            "group": "test.tholepin.dev", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

/// Waits until a condition holds; panics after ten seconds.
#[track_caller]
pub(crate) fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(10), "waited too long at {caller}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}
