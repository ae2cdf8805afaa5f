//! The downward API: values of `fieldRef` and `resourceFieldRef`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Where a Pod runs. Before the first status the API object does not contain these values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DownwardApiPlacement {
    /// The Kubernetes node.
    pub node: String,
    /// The node's address.
    pub host_ip: Ipv4Addr,
    /// The Pod's address.
    pub pod_ip: Ipv4Addr,
    /// The node's capacity, which is the limit of a container that sets none.
    pub capacity: BTreeMap<String, Quantity>,
}

/// Why a field has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DownwardApiError {
    #[error("`{0}` is not a field that a container can refer to")]
    UnknownField(String),
    #[error("`{0}` is not a resource that a container can refer to")]
    UnknownResource(String),
    #[error("container `{0}` is not in this pod")]
    UnknownContainer(String),
    #[error("`{value}` divided by `{divisor}` is not a number")]
    NotANumber { value: String, divisor: String },
}

/// Returns the value of `path`. In a volume, `metadata.labels` and `metadata.annotations` stand for the whole
/// map.
pub(crate) fn field(
    pod: &Pod,
    placement: &DownwardApiPlacement,
    path: &str,
) -> Result<String, DownwardApiError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| Ok(value.clone().unwrap_or_default());
    if let Some((map, key)) =
        path.split_once("['").and_then(|(map, key)| Some((map, key.strip_suffix("']")?)))
    {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return Err(DownwardApiError::UnknownField(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => text(&metadata.name),
        "metadata.namespace" => text(&metadata.namespace),
        "metadata.uid" => text(&metadata.uid),
        "metadata.labels" => Ok(map_lines(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(map_lines(metadata.annotations.as_ref())),
        "spec.nodeName" => Ok(placement.node.clone()),
        "spec.serviceAccountName" => {
            let named = spec.and_then(|spec| spec.service_account_name.clone());
            Ok(named.unwrap_or_else(|| "default".into()))
        }
        "status.hostIP" | "status.hostIPs" => Ok(placement.host_ip.to_string()),
        "status.podIP" | "status.podIPs" => Ok(placement.pod_ip.to_string()),
        _ => Err(DownwardApiError::UnknownField(path.to_owned())),
    }
}

/// Formats a map as one `key="value"` per line, as Kubernetes writes it into downward API files.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the value of a resource of the container that the selector names, or else of `container`.
pub(crate) fn resource(
    pod: &Pod,
    placement: &DownwardApiPlacement,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, DownwardApiError> {
    let container = match &selector.container_name {
        Some(name) => find_container(pod, name)
            .ok_or_else(|| DownwardApiError::UnknownContainer(name.clone()))?,
        None => container.ok_or_else(|| DownwardApiError::UnknownContainer(String::new()))?,
    };
    let unknown = || DownwardApiError::UnknownResource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let find =
        |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|map| map.get(name)).cloned();
    let value = match kind {
        "limits" => find(limits).or_else(|| placement.capacity.get(name).cloned()),
        "requests" => find(requests).or_else(|| find(limits)),
        _ => return Err(unknown()),
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return Err(unknown());
    }
    let value = value.map_or_else(|| "0".to_owned(), |quantity| quantity.0);
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor = if divisor == "0" || divisor.is_empty() { "1" } else { divisor };
    quantity::divided(&value, divisor)
        .map(|number| number.to_string())
        .ok_or_else(|| DownwardApiError::NotANumber { value, divisor: divisor.to_owned() })
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.into_iter().find(|container| container.name == name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn placement() -> DownwardApiPlacement {
        DownwardApiPlacement {
            node: "node-1".into(),
            host_ip: Ipv4Addr::new(127, 23, 0, 2),
            pod_ip: Ipv4Addr::new(127, 23, 1, 7),
            capacity: BTreeMap::from([("memory".into(), Quantity("8Gi".into()))]),
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a-0", "namespace": "ns", "uid": "u1",
                "labels": {"app": "a", "b": "x\"y"}, "annotations": {"n/k": "v"}},
            "spec": {"containers": [
                {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "bare"}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_have_their_values() {
        let cases = [
            ("metadata.name", "a-0"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u1"),
            ("metadata.labels['app']", "a"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['n/k']", "v"),
            ("metadata.labels", "app=\"a\"\nb=\"x\\\"y\""),
            ("spec.nodeName", "node-1"),
            ("spec.serviceAccountName", "default"),
            ("status.podIP", "127.23.1.7"),
            ("status.podIPs", "127.23.1.7"),
            ("status.hostIP", "127.23.0.2"),
        ];
        for (path, value) in cases {
            assert_eq!(field(&pod(), &placement(), path).as_deref(), Ok(value), "{path}");
        }
        assert!(field(&pod(), &placement(), "spec.replicas").is_err());
    }

    #[test]
    fn resources_have_their_values() {
        let cases = [
            ("c", "limits.memory", "1Mi", "64"),
            ("c", "requests.memory", "1", "67108864"),
            ("c", "requests.cpu", "1m", "250"),
            ("c", "requests.cpu", "0", "1"),
            ("bare", "limits.memory", "1Gi", "8"),
            ("bare", "requests.cpu", "1", "0"),
        ];
        for (container, resource_name, divisor, value) in cases {
            let selector = ResourceFieldSelector {
                container_name: Some(container.into()),
                resource: resource_name.into(),
                divisor: Some(Quantity(divisor.into())),
            };
            let found = resource(&pod(), &placement(), None, &selector);
            assert_eq!(found.as_deref(), Ok(value), "{container} {resource_name}");
        }
    }
}
