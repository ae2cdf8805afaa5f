//! The names that Pods can resolve: those of Services, and of the Pods behind headless Services.
//!
//! The pure function [`host_names`] decides which names exist. They are written to the Pods' hosts files with
//! the addresses that a cluster's DNS would return: a headless Service resolves to its ready endpoints, and
//! one that publishes Pods before they are ready says so in its slices. Names in the Pod's own namespace also
//! have their short form.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use tholepin_agent::HostAliasSource;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::reflector::ReflectorObjectChange;
use crate::reflectors::LocalClusterReflectors;
use crate::service::slices::{SERVICE_NAME, is_headless};

/// The domain of the cluster.
const DOMAIN: &str = "cluster.local";

/// The hosts file lines of each namespace that an agent has requested, kept up to date.
#[derive(Debug)]
pub struct NamespaceHostsFileLines {
    reflectors: LocalClusterReflectors,
    changed: Notify,
    lines: Mutex<BTreeMap<String, watch::Sender<Arc<str>>>>,
}

impl NamespaceHostsFileLines {
    /// Registers listeners at the reflectors, which must not have been started yet.
    pub fn new(reflectors: &LocalClusterReflectors) -> Arc<Self> {
        let names = Arc::new(Self {
            reflectors: reflectors.clone(),
            changed: Notify::new(),
            lines: Mutex::default(),
        });
        // The references are weak, because the reflectors hold the listeners and this value holds the
        // reflectors.
        let on_service = Arc::downgrade(&names);
        reflectors.services.listen(move |_: &ReflectorObjectChange<'_, Service>| {
            on_service.upgrade().into_iter().for_each(|names| names.changed.notify_one());
        });
        let on_slice = Arc::downgrade(&names);
        reflectors.slices.listen(move |_: &ReflectorObjectChange<'_, EndpointSlice>| {
            on_slice.upgrade().into_iter().for_each(|names| names.changed.notify_one());
        });
        names
    }

    /// Updates the lines at each change, until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => self.update(),
            }
        }
    }

    fn update(&self) {
        let (services, slices) = (self.reflectors.services.all(), self.reflectors.slices.all());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // An agent that requests the lines again gets a new channel.
        lines.retain(|_, sender| 0 < sender.receiver_count());
        for (namespace, sender) in lines.iter() {
            let text = text(&host_names(namespace, &services, &slices));
            sender.send_if_modified(|stored| {
                let is_new = **stored != *text;
                *stored = text.into();
                is_new
            });
        }
    }
}

impl HostAliasSource for NamespaceHostsFileLines {
    fn lines(&self, namespace: &str) -> watch::Receiver<Arc<str>> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = lines.entry(namespace.to_owned()).or_insert_with(|| {
            let (services, slices) = (self.reflectors.services.all(), self.reflectors.slices.all());
            watch::Sender::new(text(&host_names(namespace, &services, &slices)).into())
        });
        sender.subscribe()
    }
}

/// Returns the lines of a hosts file.
fn text(names: &BTreeMap<IpAddr, Vec<String>>) -> String {
    names.iter().fold(String::new(), |text, (address, names)| {
        format!("{text}{address} {}\n", names.join(" "))
    })
}

/// Returns the names of each address for a Pod of `namespace`, the longest name first.
pub fn host_names(
    namespace: &str,
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> BTreeMap<IpAddr, Vec<String>> {
    let mut names: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut add = |address: IpAddr, forms: Vec<String>| {
        let line = names.entry(address).or_default();
        line.extend(forms.into_iter().filter(|form| seen.insert((address, form.clone()))));
    };
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let forms = |of: &str| forms(of, home, namespace);
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            add(address, forms(name));
            continue;
        }
        if !is_headless(service) {
            continue;
        }
        for (address, hostname) in ready_endpoints(name, home, slices) {
            if let Some(hostname) = hostname {
                add(address, forms(&format!("{hostname}.{name}")));
            }
            add(address, forms(name));
        }
    }
    names
}

/// Returns all forms of a name in namespace `home` that can be used in `namespace`.
fn forms(name: &str, home: &str, namespace: &str) -> Vec<String> {
    let mut forms = vec![
        format!("{name}.{home}.svc.{DOMAIN}"),
        format!("{name}.{home}.svc"),
        format!("{name}.{home}"),
    ];
    if home == namespace {
        forms.push(name.to_owned());
    }
    forms
}

fn ready_endpoints<'a>(
    service: &'a str,
    namespace: &'a str,
    slices: &'a [Arc<EndpointSlice>],
) -> impl Iterator<Item = (IpAddr, Option<&'a str>)> {
    let of_service = slices.iter().filter(move |slice| {
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        slice.metadata.namespace.as_deref() == Some(namespace)
            && label.is_some_and(|label| label == service)
    });
    let endpoints = of_service.flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
    });
    ready.flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
        addresses.map(|address| (address, endpoint.hostname.as_deref()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let metadata = json!({"namespace": namespace, "name": name});
        let service = json!({"metadata": metadata, "spec": {"clusterIP": ip}});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn slice(namespace: &str, service: &str, endpoints: Value) -> Arc<EndpointSlice> {
        let labels = json!({SERVICE_NAME: service});
        let metadata = json!({"namespace": namespace, "name": service, "labels": labels});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn lines(
        namespace: &str,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> Vec<String> {
        text(&host_names(namespace, services, slices)).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_service_has_its_address_and_short_names_at_home_only() {
        let services = [service("a", "db", "127.9.240.1")];
        let full = "127.9.240.1 db.a.svc.cluster.local db.a.svc db.a";
        assert_eq!(lines("a", &services, &[]), [format!("{full} db")]);
        assert_eq!(lines("b", &services, &[]), [full]);
    }

    #[test]
    fn a_headless_service_is_its_ready_pods() {
        let services = [service("a", "peers", "None")];
        let endpoints = json!([
            {"addresses": ["127.9.1.1"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["127.9.1.2"], "hostname": "db-1", "conditions": {"ready": false}},
            {"addresses": ["127.9.1.3"], "conditions": {"ready": true}},
        ]);
        let slices = [slice("a", "peers", endpoints.clone()), slice("b", "peers", endpoints)];
        let expected = [
            "127.9.1.1 db-0.peers.a.svc.cluster.local db-0.peers.a.svc db-0.peers.a db-0.peers \
             peers.a.svc.cluster.local peers.a.svc peers.a peers",
            "127.9.1.3 peers.a.svc.cluster.local peers.a.svc peers.a peers",
        ];
        assert_eq!(lines("a", &services, &slices), expected);
    }

    #[test]
    fn a_service_without_any_address_has_no_name() {
        assert_eq!(lines("a", &[service("a", "outside", "")], &[]), [""; 0]);
    }
}
