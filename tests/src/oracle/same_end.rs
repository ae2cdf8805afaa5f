//! The oracle Same end: the state reached by a change equals the state of a fresh start.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kube::{Api, Client, api::ListParams, core::DynamicObject};
use serde_json::{Map, Value};
use tholepin_schema::{
    manifest::KindName,
    reserved::{self, PREFIX},
};

use super::quiet::kinds;

/// Fields that differ between any two equal clusters: identities, addresses, times, and which of two equal
/// members is the primary. A template's revision is an identity too: the template names the Secret of the
/// credentials, whose name contains the object's uid.
const OWN: &[&str] = &[
    "clusterIP",
    "clusterIPs",
    "containerID",
    "controller-revision-hash",
    "creationTimestamp",
    "currentRevision",
    "finishedAt",
    "generation",
    "hostIP",
    "hostIPs",
    "inSync",
    "lastState",
    "lastTransitionTime",
    "managedFields",
    "node",
    "nodeName",
    "observedGeneration",
    "podIP",
    "podIPs",
    "primary",
    "resourceVersion",
    "restartCount",
    "role",
    "startTime",
    "startedAt",
    "uid",
    "updateRevision",
    "volumeName",
];

/// Returns the objects of a namespace by kind and name, without the fields that differ between any two equal
/// clusters and without the objects that the host keeps for itself.
///
/// # Errors
///
/// Fails if the objects cannot be listed.
pub async fn shape(client: &Client, namespace: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for resource in kinds(client).await? {
        if ["ControllerRevision", "EndpointSlice", "PersistentVolume"].contains(&&*resource.kind) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list(&ListParams::default()).await? {
            if object.metadata.namespace.as_deref() != Some(namespace) {
                continue;
            }
            let name = object.metadata.name.clone().unwrap_or_default();
            let kind = KindName { api_version: "v1".to_owned(), kind: resource.kind.clone() };
            if resource.group.is_empty() && reserved::is_reserved(&kind, &name) {
                continue;
            }
            let mut value = serde_json::to_value(object)?;
            strip(&mut value);
            objects.insert(format!("{} {name}", resource.kind), value);
        }
    }
    Ok(objects)
}

/// Returns the differences between two shapes: one line per object that is missing, additional or different.
#[must_use]
pub fn differences(
    expected: &BTreeMap<String, Value>,
    found: &BTreeMap<String, Value>,
) -> Vec<String> {
    let missing = expected.keys().filter(|name| !found.contains_key(*name));
    let missing = missing.map(|name| format!("{name} is missing"));
    let different = found.iter().filter_map(|(name, value)| match expected.get(name) {
        None => Some(format!("{name} is left behind")),
        Some(before) => {
            let mut paths = Vec::new();
            differing(String::new(), before, value, &mut paths);
            (!paths.is_empty()).then(|| format!("{name} differs at {}", paths.join(", ")))
        }
    });
    missing.chain(different).collect()
}

fn differing(path: String, one: &Value, other: &Value, paths: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for name in names {
                let field =
                    |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                differing(format!("{path}.{name}"), &field(one), &field(other), paths);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                differing(format!("{path}[{at}]"), one, other, paths);
            }
        }
        _ if one == other => {}
        _ => paths.push(format!("{path} ({one} became {other})")),
    }
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !OWN.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(strip);
            // Conditions are a map by type: their order has no meaning.
            let kind = |item: &Value| item.get("type").map(ToString::to_string);
            if items.iter().all(|item| kind(item).is_some()) {
                items.sort_by_key(kind);
            }
        }
        // The names of objects that the host keeps contain the uid of the object that they belong to.
        Value::String(text) if text.starts_with(PREFIX) => text.truncate(PREFIX.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
