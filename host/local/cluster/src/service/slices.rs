//! Decides which EndpointSlices a Service has: which Pods serve it, at which address, in which state.
//!
//! This module is pure. Source of the rules:
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>.
//!
//! Invariants:
//! - Equal inputs give equal slices with equal names, so that applying them twice changes nothing.
//! - A Pod without an address, or one that has ended, is not an endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::labels::{Labels, selects_equal};
use crate::name_hash::hash;

/// The label with the name of a slice's Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label with the name of the controller that manages a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The manager of this controller's slices.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The maximum number of endpoints per slice, as in Kubernetes.
const ENDPOINTS_MAX: usize = 100;

/// Returns the desired slices of a Service. There are none for a Service without a selector, whose slices are
/// managed by others.
///
/// `pods` are those of the Service's namespace.
pub(crate) fn slices(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let publishes_not_ready = spec.publish_not_ready_addresses == Some(true);
    let service_ports = spec.ports.unwrap_or_default();
    // Pods may have different numbers for the same port name: there is one group of slices per set of
    // numbers.
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    let empty = Labels::new();
    for pod in pods {
        let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
        if !selects_equal(&selector, labels) {
            continue;
        }
        let Some(endpoint) = endpoint(service, pod, nodes, publishes_not_ready) else { continue };
        let ports = endpoint_ports(&service_ports, pod);
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint);
    }
    let slice = |(identity, (ports, endpoints)): (String, (Vec<EndpointPort>, Vec<Endpoint>))| {
        let chunks: Vec<Vec<Endpoint>> =
            endpoints.chunks(ENDPOINTS_MAX).map(<[Endpoint]>::to_vec).collect();
        let numbered = chunks.into_iter().enumerate();
        let all: Vec<EndpointSlice> = numbered
            .map(|(number, endpoints)| EndpointSlice {
                metadata: metadata(service, &format!("{identity}{number}")),
                address_type: "IPv4".to_owned(),
                ports: Some(ports.clone()),
                endpoints,
            })
            .collect();
        all
    };
    groups.into_iter().flat_map(slice).collect()
}

fn metadata(service: &Service, identity: &str) -> ObjectMeta {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    ObjectMeta {
        name: Some(format!("{name}-{}", hash(identity).get(..5).unwrap_or_default())),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name,
            uid: service.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// Returns true if the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    address == Some("None")
}

/// Returns true if the Pod's condition `Ready` is `True`.
fn is_ready(pod: &Pod) -> bool {
    let conditions = || pod.status.as_ref()?.conditions.as_deref();
    let mut conditions = conditions().unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    nodes: &[Arc<Node>],
    publishes_not_ready: bool,
) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|address| !address.is_empty())?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let spec = pod.spec.as_ref();
    let node_name = spec.and_then(|spec| spec.node_name.clone());
    let node = nodes.iter().find(|node| node.metadata.name == node_name);
    let zone = node.and_then(|node| {
        node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
    });
    let is_of_service =
        spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref();
    let hostname = spec.and_then(|spec| spec.hostname.clone()).filter(|_| is_of_service);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready || (serving && !terminating)),
            serving: Some(publishes_not_ready || serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name,
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// Returns the ports of the Service with this Pod's numbers. A port whose name the Pod does not have is left
/// out.
fn endpoint_ports(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    let number = |port: &ServicePort| match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(if *number == 0 { port.port } else { *number }),
        Some(IntOrString::String(name)) => named_port(pod, name, protocol(port)),
    };
    let port = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number(port)?),
            protocol: Some(protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(port).collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    named.map(|port| port.container_port)
}

/// The writes that turn the existing slices into the desired ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SliceWrites {
    /// Slices to create or replace.
    pub(crate) apply: Vec<EndpointSlice>,
    /// The names of slices to delete.
    pub(crate) delete: Vec<String>,
}

/// Compares the existing slices with the desired ones. `existing` are all slices of the namespace.
pub(crate) fn slice_writes(
    service: &str,
    desired: Vec<EndpointSlice>,
    existing: &[Arc<EndpointSlice>],
) -> SliceWrites {
    let is_ours = |slice: &&Arc<EndpointSlice>| {
        let label = |key: &str| slice.metadata.labels.as_ref()?.get(key).map(String::as_str);
        label(SERVICE_NAME) == Some(service) && label(MANAGED_BY) == Some(MANAGER)
    };
    let ours: Vec<&Arc<EndpointSlice>> = existing.iter().filter(is_ours).collect();
    let is_desired = |slice: &&&Arc<EndpointSlice>| {
        desired.iter().any(|desired| desired.metadata.name == slice.metadata.name)
    };
    let delete = ours.iter().filter(|slice| !is_desired(slice));
    let delete = delete.filter_map(|slice| slice.metadata.name.clone()).collect();
    let is_same = |desired: &EndpointSlice, slice: &EndpointSlice| {
        desired.metadata.name == slice.metadata.name
            && desired.metadata.labels == slice.metadata.labels
            && desired.metadata.owner_references == slice.metadata.owner_references
            && desired.ports == slice.ports
            && desired.endpoints == slice.endpoints
    };
    let apply = desired.iter().filter(|desired| !ours.iter().any(|slice| is_same(desired, slice)));
    let apply = apply.cloned().collect();
    SliceWrites { apply, delete }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn service(spec: Value) -> Service {
        let mut full =
            json!({"selector": {"app": "db"}, "ports": [{"name": "redis", "port": 6379}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata =
            json!({"namespace": "a", "name": "svc", "uid": "svc-uid", "labels": {"team": "x"}});
        parse(json!({"metadata": metadata, "spec": full}))
    }

    fn pod(name: &str, ip: &str, ready: bool, more: Value) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let mut pod = json!({
            "metadata": {"namespace": "a", "name": name, "uid": format!("uid-{name}"), "labels": {"app": "db"}},
            "spec": {"nodeName": "n1", "hostname": name, "subdomain": "svc", "containers": [
                {"name": "c", "ports": [{"name": "client", "containerPort": 7000}]}]},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        for (key, value) in more.as_object().unwrap() {
            pod[key].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        }
        Arc::new(parse(pod))
    }

    fn nodes() -> Vec<Arc<Node>> {
        let labels = json!({"topology.kubernetes.io/zone": "zone-a"});
        vec![Arc::new(parse(json!({"metadata": {"name": "n1", "labels": labels}})))]
    }

    fn states(service: &Service, pods: &[Arc<Pod>]) -> Vec<Value> {
        let slices = slices(service, pods, &nodes());
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        endpoints
            .map(|endpoint| json!([endpoint.addresses[0], endpoint.conditions.clone().unwrap()]))
            .collect()
    }

    fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"ready": ready, "serving": serving, "terminating": terminating})
    }

    #[test]
    fn endpoints_have_the_state_of_their_pods() {
        let terminating_pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let pods = [
            pod("ready", "127.1.1.0", true, json!({})),
            pod("starting", "127.1.1.1", false, json!({})),
            pod("going", "127.1.1.2", true, terminating_pod),
            pod("no-address", "", true, json!({})),
            pod("done", "127.1.1.3", false, json!({"status": {"phase": "Succeeded"}})),
            pod("other", "127.1.1.4", true, json!({"metadata": {"labels": {"app": "web"}}})),
        ];
        let expected = [
            json!(["127.1.1.0", conditions(true, true, false)]),
            json!(["127.1.1.1", conditions(false, false, false)]),
            json!(["127.1.1.2", conditions(false, true, true)]),
        ];
        assert_eq!(states(&service(json!({})), &pods), expected);
        let all = service(json!({"publishNotReadyAddresses": true}));
        let expected = [
            json!(["127.1.1.0", conditions(true, true, false)]),
            json!(["127.1.1.1", conditions(true, true, false)]),
            json!(["127.1.1.2", conditions(true, true, true)]),
        ];
        assert_eq!(states(&all, &pods), expected);
    }

    #[test]
    fn an_endpoint_names_its_pod_and_place() {
        let slices =
            slices(&service(json!({})), &[pod("p", "127.1.1.0", true, json!({}))], &nodes());
        let slice = serde_json::to_value(&slices[0]).unwrap();
        let endpoint = &slice["endpoints"][0];
        assert_eq!(
            endpoint["targetRef"],
            json!({"kind": "Pod", "name": "p", "namespace": "a", "uid": "uid-p"})
        );
        assert_eq!(endpoint["nodeName"], "n1");
        assert_eq!(endpoint["zone"], "zone-a");
        assert_eq!(endpoint["hostname"], "p");
        assert_eq!(slice["metadata"]["labels"][SERVICE_NAME], "svc");
        assert_eq!(slice["metadata"]["labels"]["team"], "x");
        assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "svc-uid");
        assert!(slice["metadata"]["name"].as_str().unwrap().starts_with("svc-"));
    }

    #[test]
    fn ports_are_numbered_as_the_pod_has_them() {
        let cases = [
            (json!({}), Some(6379)),
            (json!({"targetPort": 7001}), Some(7001)),
            (json!({"targetPort": "client"}), Some(7000)),
            (json!({"targetPort": "missing"}), None),
        ];
        for (target, expected) in cases {
            let mut port = json!({"name": "redis", "port": 6379});
            port.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
            let service = service(json!({"ports": [port]}));
            let slices = slices(&service, &[pod("p", "127.1.1.0", true, json!({}))], &nodes());
            let ports = slices[0].ports.as_ref().unwrap();
            assert_eq!(ports.first().and_then(|port| port.port), expected, "{target}");
        }
    }

    #[test]
    fn pods_with_other_numbers_get_their_own_slice_and_names_stay() {
        let named =
            service(json!({"ports": [{"name": "redis", "port": 6379, "targetPort": "client"}]}));
        let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "client", "containerPort": 7002}]}]}});
        let pods = [pod("p", "127.1.1.0", true, json!({})), pod("q", "127.1.1.1", true, other)];
        let first = slices(&named, &pods, &nodes());
        assert_eq!(first.len(), 2);
        let again = slices(&named, &pods[..1], &nodes());
        assert!(first.iter().any(|slice| slice.metadata.name == again[0].metadata.name));
    }

    #[test]
    fn more_than_a_hundred_endpoints_take_another_slice() {
        let pods: Vec<_> = (0..150)
            .map(|n| pod(&format!("p{n}"), &format!("127.1.1.{n}"), true, json!({})))
            .collect();
        let sizes: Vec<usize> = slices(&service(json!({})), &pods, &nodes())
            .iter()
            .map(|slice| slice.endpoints.len())
            .collect();
        assert_eq!(sizes, [100, 50]);
    }

    #[test]
    fn only_differences_are_written() {
        let service = service(json!({}));
        let pods = [pod("p", "127.1.1.0", true, json!({}))];
        let desired = || slices(&service, &pods, &nodes());
        let existing: Vec<_> = desired().into_iter().map(Arc::new).collect();
        assert_eq!(slice_writes("svc", desired(), &existing), SliceWrites::default());
        assert_eq!(slice_writes("svc", desired(), &[]).apply.len(), 1);
        let gone = slice_writes("svc", Vec::new(), &existing);
        assert_eq!(gone.delete.len(), 1);
        assert!(slice_writes("other", Vec::new(), &existing).delete.is_empty());
    }
}
