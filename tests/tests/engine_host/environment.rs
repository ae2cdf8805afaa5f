//! The environment of each test of the engine: a cluster, a host, and helpers for kubectl and plugin files.

use std::{fs, time::Duration};

use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    guests,
    kubectl::Kubectl,
    process::Process,
    wait::{Poll, until},
};
use tholepin_schema::reserved;

/// How long anything may take; an idle machine needs a hundredth of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster with its host. `host` is declared first, so that it ends first.
pub(crate) struct HostEnvironment {
    pub(crate) host: Process,
    pub(crate) client: Client,
    pub(crate) kubectl: Kubectl,
    pub(crate) cluster: LocalClusterProcess,
}

impl HostEnvironment {
    /// Starts a cluster with a namespace and a host that serves these plugins, each granted what it asks for.
    pub(crate) async fn with(plugins: &[(&str, &[u8])], namespace: &str) -> Self {
        let cluster = LocalClusterProcess::start_api_only().unwrap();
        let (kubectl, client) = (cluster.kubectl().unwrap(), cluster.client().await.unwrap());
        let make =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        kubectl.run_with(&["apply", "-f", "-"], &make.to_string()).unwrap();
        kubectl.run_with(&["apply", "-f", "-"], guests::PROBES).unwrap();
        for (name, component) in plugins {
            let directory = cluster.plugins().unwrap();
            guests::install(&directory, name, component).unwrap();
        }
        let host = cluster.host().unwrap();
        Self { host, client, kubectl, cluster }
    }

    /// Writes a file into the plugin directory by a rename.
    pub(crate) fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        guests::put(&self.cluster.plugins().unwrap(), file, bytes.as_ref()).unwrap();
    }

    /// Runs `kubectl apply` with one object.
    pub(crate) fn apply(&self, object: &Value) {
        self.apply_all([object.clone()]);
    }

    /// Runs `kubectl apply` with several objects as one stream.
    pub(crate) fn apply_all(&self, objects: impl IntoIterator<Item = Value>) {
        let stream: Vec<String> = objects.into_iter().map(|object| object.to_string()).collect();
        self.kubectl.run_with(&["apply", "-f", "-"], &stream.join("\n---\n")).unwrap();
    }

    /// Reads an object; `None` if it does not exist.
    pub(crate) async fn get(&self, kind: &TestKind, namespace: &str, name: &str) -> Option<Value> {
        let found = self.api(kind, namespace).get_opt(name).await.unwrap();
        found.map(|object| serde_json::to_value(object).unwrap())
    }

    /// Returns the number of objects of a kind in a namespace, without those that the host keeps for itself.
    pub(crate) async fn count(&self, kind: &TestKind, namespace: &str) -> usize {
        let all = self.api(kind, namespace).list(&ListParams::default()).await.unwrap();
        let is_kept = |object: &DynamicObject| object.name_any().starts_with(reserved::PREFIX);
        all.items.iter().filter(|object| !is_kept(object)).count()
    }

    fn api(&self, kind: &TestKind, namespace: &str) -> Api<DynamicObject> {
        let (group, version, kind_name, plural) = *kind;
        let kind = GroupVersionKind::gvk(group, version, kind_name);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// Waits until the value at a path of an object contains this text; returns the object and how long that took.
    pub(crate) async fn until_contains(
        &self,
        kind: &TestKind,
        (namespace, name): (&str, &str),
        pointer: &str,
        expected: &str,
    ) -> (Value, Duration) {
        let what = format!("{} {name}{pointer} to contain {expected:?}", kind.2);
        let poll = || async {
            let Some(object) = self.get(kind, namespace, name).await else {
                return Ok(Poll::NotYet("no such object".to_owned()));
            };
            let found = object.pointer(pointer).cloned().unwrap_or_default();
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            if text.contains(expected) {
                return Ok(Poll::Done(object));
            }
            Ok(Poll::NotYet(object.to_string()))
        };
        until(what, DEADLINE, poll).await.unwrap()
    }

    /// Waits until a plugin serves another revision than this one (any, if it is empty), and returns it. The `Plugin`
    /// object shows new settings before it shows that they are active.
    pub(crate) async fn active(&self, plugin: &str, other_than: &str) -> String {
        let poll = || async {
            let object = self.get(&PLUGIN, "", plugin).await.unwrap_or_default();
            let active = object.pointer("/status/active").and_then(Value::as_str);
            let other = active.filter(|active| *active != other_than);
            Ok(other.map_or_else(
                || Poll::NotYet(object.to_string()),
                |active| Poll::Done(active.to_owned()),
            ))
        };
        until(format!("another revision of {plugin}"), DEADLINE, poll).await.unwrap().0
    }

    /// Waits until an object is deleted.
    pub(crate) async fn until_deleted(&self, kind: &TestKind, namespace: &str, name: &str) {
        let poll = || async {
            let found = self.get(kind, namespace, name).await;
            Ok(found.map_or(Poll::Done(()), |object| Poll::NotYet(object.to_string())))
        };
        until(format!("{} {name} to be deleted", kind.2), DEADLINE, poll).await.unwrap();
    }

    /// Waits until the host's log has a line with all these texts; returns the line.
    pub(crate) async fn until_logged(&self, texts: &[&str]) -> String {
        let poll = || async {
            let lines = self.log();
            let found = lines.lines().find(|line| texts.iter().all(|text| line.contains(text)));
            let last = lines.lines().last().unwrap_or_default();
            Ok(found
                .map_or_else(|| Poll::NotYet(last.to_owned()), |line| Poll::Done(line.to_owned())))
        };
        until(format!("the host to log {texts:?}"), DEADLINE, poll).await.unwrap().0
    }

    /// Returns the host's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.cluster.directory().join("host.log")).unwrap()
    }

    /// Returns the host's writes in the API server's audit log, without the events about plugins, which report the
    /// files that a test has put into the directory.
    pub(crate) fn writes(&self) -> Vec<Value> {
        let log = self.cluster.audit_log();
        let text = fs::read_to_string(log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_host = |line: &Value| {
            line["field_manager"].as_str().unwrap_or_default().starts_with("tholepin")
        };
        let is_of_plugin =
            |line: &Value| line["resource"] == "events" && line["namespace"] == "default";
        lines.filter(|line| is_host(line) && !is_of_plugin(line)).collect()
    }

    /// Starts the host again after it was killed or has ended.
    pub(crate) fn restart(&mut self) {
        self.host = self.cluster.host().unwrap();
    }
}

/// Group, version, kind, plural.
pub(crate) type TestKind = (&'static str, &'static str, &'static str, &'static str);

pub(crate) const GREETING: TestKind = ("tests.tholepin.dev", "v1", "Greeting", "greetings");
pub(crate) const PROBE: TestKind = ("tests.tholepin.dev", "v1", "Probe", "probes");
pub(crate) const CONFIG_MAP: TestKind = ("", "v1", "ConfigMap", "configmaps");
pub(crate) const PLUGIN: TestKind = ("tholepin.dev", "v1alpha1", "Plugin", "plugins");
pub(crate) const EVENT: TestKind = ("events.k8s.io", "v1", "Event", "events");

/// Returns a `Greeting`.
pub(crate) fn greeting(namespace: &str, name: &str, text: &str) -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Greeting",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"text": text}
    })
}

/// Returns a `Probe`, whose spec tells the guest `probe` what to do.
pub(crate) fn probe_object(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Probe",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec
    })
}

/// Returns a `Plugin` object, granted what the plugin asks for, with additional lines of `spec`.
pub(crate) fn settings(name: &str, more: &str) -> String {
    guests::settings(name) + more
}
