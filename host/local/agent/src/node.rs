//! The Node object and its lease, by which the cluster knows that this agent runs.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::backoff::RetryPauses;
use crate::options::NodeOptions;
use crate::pod::FIELD_MANAGER;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const LEASE_INTERVAL: Duration = Duration::from_secs(10);
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// The facts about this machine that `status.nodeInfo` requires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MachineFacts {
    machine_id: String,
    boot_id: String,
    kernel: String,
    os_image: String,
}

impl MachineFacts {
    fn read() -> Self {
        let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let release = line("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        }
    }
}

/// Returns the name that Kubernetes uses for this machine's architecture.
const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// Returns the Node object as this agent applies it.
fn declared(options: &NodeOptions) -> Value {
    let mut labels = options.labels.clone();
    labels.insert("kubernetes.io/hostname".into(), options.name.clone());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), architecture().into());
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": options.name, "labels": labels},
    })
}

/// Returns the Node's status. `since` is the time at which this agent started.
fn status(options: &NodeOptions, facts: &MachineFacts, since: Timestamp) -> Value {
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    let condition = |name: &str, status: &str, reason: &str, message: &str| {
        json!({"type": name, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": since, "lastTransitionTime": since})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": options.name},
        "status": {
            "capacity": options.capacity,
            "allocatable": options.capacity,
            "addresses": [
                {"type": "InternalIP", "address": options.address.to_string()},
                {"type": "Hostname", "address": options.name},
            ],
            "conditions": [
                condition("MemoryPressure", "False", "NotMeasured", "the agent limits no memory"),
                condition("DiskPressure", "False", "NotMeasured", "the agent limits no disk"),
                condition("PIDPressure", "False", "NotMeasured", "the agent limits no processes"),
                condition("Ready", "True", "AgentReady", "the node agent runs"),
            ],
            "nodeInfo": {
                "machineID": facts.machine_id,
                "systemUUID": facts.machine_id,
                "bootID": facts.boot_id,
                "kernelVersion": facts.kernel,
                "osImage": facts.os_image,
                "containerRuntimeVersion": concat!("tholepin://", env!("CARGO_PKG_VERSION")),
                "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-tholepin"),
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": architecture(),
            },
        },
    })
}

/// Creates the Node and writes its status; retries until the API server accepts both.
pub(crate) async fn register(client: &Client, options: &NodeOptions) {
    let api: Api<Node> = Api::all(client.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let since = Timestamp::now();
    let declared = Patch::Apply(declared(options));
    let status = Patch::Apply(status(options, &MachineFacts::read(), since));
    let mut pauses = RetryPauses::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let write = async {
            api.patch(&options.name, &parameters, &declared).await?;
            api.patch_status(&options.name, &parameters, &status).await
        };
        match timeout(WRITE_DEADLINE, write).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => tracing::warn!(node = options.name, %error, "node not registered"),
            Err(_) => tracing::warn!(node = options.name, "node not registered in time"),
        }
        sleep(pauses.after_failure()).await;
    }
}

/// Renews the node's lease until the future is dropped. A renewal that fails is retried after the normal
/// interval.
pub(crate) async fn renew_lease(client: Client, name: String) {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let mut ticks = interval(LEASE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut uid = None;
    loop {
        ticks.tick().await;
        let renew = async {
            if uid.is_none() {
                uid = nodes.get(&name).await?.uid();
            }
            let lease = Patch::Apply(lease(&name, uid.as_deref(), Timestamp::now()));
            leases.patch(&name, &parameters, &lease).await
        };
        match timeout(WRITE_DEADLINE, renew).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(node = name, %error, "node lease not renewed"),
            Err(_) => tracing::warn!(node = name, "node lease not renewed in time"),
        }
    }
}

fn lease(name: &str, uid: Option<&str>, now: Timestamp) -> Value {
    let owners: Vec<_> = uid
        .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}))
        .into_iter()
        .collect();
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": owners},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": MicroTime(now),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_node_is_what_kubernetes_reads() {
        let options = NodeOptions {
            name: "node-1".into(),
            address: Ipv4Addr::new(127, 23, 0, 2),
            labels: BTreeMap::from([("topology.kubernetes.io/zone".into(), "zone-1".into())]),
            capacity: BTreeMap::from([("cpu".into(), "8".into())]),
        };
        let node: Node = serde_json::from_value(declared(&options)).unwrap();
        assert_eq!(node.labels()["kubernetes.io/hostname"], "node-1");
        assert_eq!(node.labels()["topology.kubernetes.io/zone"], "zone-1");
        let now = Timestamp::from_second(1_000_000).unwrap();
        let node: Node =
            serde_json::from_value(status(&options, &MachineFacts::default(), now)).unwrap();
        let conditions = node.status.unwrap().conditions.unwrap();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True");
        let lease: Lease = serde_json::from_value(lease("node-1", Some("u"), now)).unwrap();
        assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(40));
    }
}
