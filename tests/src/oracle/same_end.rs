//! The state reached by a change equals the state of a fresh start.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::{Api, Client, api::ListParams, core::DynamicObject};
use serde_json::Value;

use super::quiet::kinds;

/// Fields that differ between any two clusters although nothing is different about them.
const OWN: &[&str] = &[
    "clusterIP",
    "clusterIPs",
    "containerID",
    "creationTimestamp",
    "finishedAt",
    "generation",
    "hostIP",
    "hostIPs",
    "lastState",
    "lastTransitionTime",
    "managedFields",
    "nodeName",
    "observedGeneration",
    "podIP",
    "podIPs",
    "resourceVersion",
    "restartCount",
    "startTime",
    "startedAt",
    "uid",
    "volumeName",
];

/// The objects in a namespace by kind and name, without what differs between any two clusters:
/// identities, addresses and times. The names of members' nodes and the host's own ledger are left
/// out too.
///
/// # Errors
///
/// Fails if the objects cannot be read.
pub async fn shape(client: &Client, namespace: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for resource in kinds(client).await? {
        if ["EndpointSlice", "PersistentVolume"].contains(&&*resource.kind) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list(&ListParams::default()).await? {
            if object.metadata.namespace.as_deref() != Some(namespace) {
                continue;
            }
            let name = object.metadata.name.clone().unwrap_or_default();
            if name.ends_with("-ledger") {
                continue;
            }
            let mut value = serde_json::to_value(object)?;
            strip(&mut value);
            objects.insert(format!("{} {name}", resource.kind), value);
        }
    }
    Ok(objects)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !OWN.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
