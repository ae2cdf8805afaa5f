//! Decides on which addresses to listen for Services, and which endpoints serve them.
//!
//! This module is pure. Only ready endpoints count. If a Service has none, the endpoints that still serve
//! while they terminate count, as in kube-proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::service::slices::SERVICE_NAME;

/// The endpoints of one Service port, sorted. Never empty in a route.
pub(crate) type ServiceBackends = Vec<SocketAddr>;

/// Returns the endpoints of each ClusterIP and TCP port that has any.
pub(crate) fn routes(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> BTreeMap<SocketAddr, ServiceBackends> {
    let mut routes = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
        let Some(address) = address else { continue };
        let of_service: Vec<&EndpointSlice> =
            slices.iter().map(|slice| &**slice).filter(|slice| is_of(slice, service)).collect();
        let tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        for port in spec.ports.iter().flatten().filter(tcp) {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let backends = backends(port, &of_service);
            if !backends.is_empty() {
                routes.insert(SocketAddr::new(address, number), backends);
            }
        }
    }
    routes
}

fn is_of(slice: &EndpointSlice, service: &Service) -> bool {
    let labels = slice.metadata.labels.as_ref();
    slice.metadata.namespace == service.metadata.namespace
        && labels.and_then(|labels| labels.get(SERVICE_NAME)) == service.metadata.name.as_ref()
}

fn backends(port: &ServicePort, slices: &[&EndpointSlice]) -> ServiceBackends {
    let ready = collect(port, slices, |ready, _, _| ready);
    if !ready.is_empty() {
        return ready;
    }
    collect(port, slices, |_, serving, terminating| serving && terminating)
}

fn collect(
    port: &ServicePort,
    slices: &[&EndpointSlice],
    admits: impl Fn(bool, bool, bool) -> bool,
) -> ServiceBackends {
    let name = port.name.as_deref().unwrap_or_default();
    let mut backends = ServiceBackends::new();
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let named = ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name);
        let number = named.and_then(|port| u16::try_from(port.port?).ok());
        let Some(number) = number else { continue };
        let admitted = slice.endpoints.iter().filter(|endpoint| {
            let (ready, serving, terminating) = state(endpoint);
            admits(ready, serving, terminating)
        });
        let addresses = admitted.flat_map(|endpoint| &endpoint.addresses);
        let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
        backends.extend(addresses.map(|address| SocketAddr::new(address, number)));
    }
    backends.sort_unstable();
    backends.dedup();
    backends
}

/// Returns ready, serving, terminating. An absent condition means ready, as the API defines it.
fn state(endpoint: &Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    (ready, conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn route(service: Value, endpoints: Value) -> Vec<(String, Vec<String>)> {
        let mut spec =
            json!({"clusterIP": "127.9.240.1", "ports": [{"name": "redis", "port": 6379}]});
        spec.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        let service = json!({"metadata": {"namespace": "a", "name": "s"}, "spec": spec});
        let slice = json!({
            "metadata": {"namespace": "a", "name": "s-x", "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "redis", "port": 7000}],
            "endpoints": endpoints,
        });
        let other = json!({
            "metadata": {"namespace": "b", "name": "s-x", "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "redis", "port": 7000}],
            "endpoints": [{"addresses": ["127.9.9.9"]}],
        });
        let slices = [slice, other].map(|slice| Arc::new(serde_json::from_value(slice).unwrap()));
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let text = |backends: ServiceBackends| backends.iter().map(ToString::to_string).collect();
        let routes = routes(&services, &slices).into_iter();
        routes.map(|(address, backends)| (address.to_string(), text(backends))).collect()
    }

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn to(backends: &[&str]) -> Vec<(String, Vec<String>)> {
        let backends = backends.iter().map(|backend| (*backend).to_owned()).collect();
        vec![("127.9.240.1:6379".to_owned(), backends)]
    }

    #[test]
    fn ready_endpoints_serve_and_without_any_there_is_no_route() {
        let (a, b) = ("127.9.1.1", "127.9.1.2");
        let cases = [
            (
                json!([endpoint(b, true, true, false), endpoint(a, true, true, false)]),
                to(&["127.9.1.1:7000", "127.9.1.2:7000"]),
            ),
            (
                json!([endpoint(a, true, true, false), endpoint(b, false, true, true)]),
                to(&["127.9.1.1:7000"]),
            ),
            (json!([endpoint(b, false, true, true)]), to(&["127.9.1.2:7000"])),
            (json!([endpoint(a, false, false, false)]), vec![]),
            (json!([{"addresses": [a]}]), to(&["127.9.1.1:7000"])),
            (json!([]), vec![]),
        ];
        for (endpoints, expected) in cases {
            assert_eq!(route(json!({}), endpoints.clone()), expected, "{endpoints}");
        }
    }

    #[test]
    fn only_addresses_and_tcp_ports_are_listened_on() {
        let endpoints = json!([{"addresses": ["127.9.1.1"]}]);
        for service in [
            json!({"clusterIP": "None"}),
            json!({"clusterIP": ""}),
            json!({"ports": [{"name": "redis", "port": 53, "protocol": "UDP"}]}),
            json!({"ports": [{"name": "other", "port": 6379}]}),
        ] {
            assert_eq!(route(service.clone(), endpoints.clone()), vec![], "{service}");
        }
    }
}
