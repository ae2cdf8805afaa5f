//! Finds the members of an instance: which Pods belong to it, and how to talk to them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tholepin_core::{
    CallError,
    port::{Kubernetes, Member, Members, StoreView},
};
use tholepin_schema::{instance::Instance, manifest::KindName};

use crate::{
    PassContext,
    credentials::{self, InForce, Kept},
    ownership::{leads_to, text},
};

/// The members of `instance` as the store has them now, for the object reconciled.
///
/// The newest view and not a pass' own: what a Redis call does must fit the Pods of now.
///
/// # Errors
///
/// Fails if the instance names somebody else's objects, if its Pods are not watched, or if its
/// password cannot be read.
pub(crate) async fn members(
    kept: &Kept,
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
    instance: &Instance,
) -> Result<Members, CallError> {
    let PassContext { key, object, .. } = context;
    let namespace = &key.namespace;
    if instance.namespace != *namespace {
        let text = format!(
            "the instance is in namespace `{}`; members of `{namespace}` only",
            instance.namespace
        );
        return Err(CallError::Denied(text));
    }
    let is_own = instance.owner.as_ref().is_none_or(|owner| {
        let kind = KindName { api_version: owner.api_version.clone(), kind: owner.kind.clone() };
        kind == key.kind && owner.name == key.name
    });
    if !is_own {
        let text =
            "an instance of another owner cannot be granted yet; leave `owner` out".to_owned();
        return Err(CallError::Unsupported(text));
    }
    if instance.selector.is_empty() {
        let text = "the instance's selector is empty and would match every Pod".to_owned();
        return Err(CallError::Invalid(text));
    }
    let (members, strangers) = select(&*kubernetes.view(), instance, uid(object))?;
    let in_force = credentials::in_force(kept, kubernetes, context, instance).await?;
    let InForce { credentials, facts: credentials_facts } = in_force;
    let instance = name(object, instance);
    Ok(Members { instance, members, strangers, credentials, credentials_facts })
}

/// What an instance of this object is called in caches, locks and the ledger.
pub(crate) fn name(object: &Value, instance: &Instance) -> String {
    format!("{}:{}", uid(object), instance.port)
}

/// The members anew, if they are others than these; the credentials stay.
pub(crate) fn renewed(
    view: &dyn StoreView,
    members: &Members,
    instance: &Instance,
    owner_uid: &str,
) -> Result<Option<Members>, CallError> {
    let (now, strangers) = select(view, instance, owner_uid)?;
    let is_same = now == members.members && strangers == members.strangers;
    Ok((!is_same).then(|| Members { members: now, strangers, ..members.clone() }))
}

fn select(
    view: &dyn StoreView,
    instance: &Instance,
    owner_uid: &str,
) -> Result<(Vec<Member>, Vec<String>), CallError> {
    let pods = KindName { api_version: "v1".to_owned(), kind: "Pod".to_owned() };
    if !view.covers(&pods) {
        let text = "Pods are not watched (yet): the manifest's `watches` must name v1/Pod";
        return Err(CallError::Transient(text.to_owned()));
    }
    let mut members = Vec::new();
    let mut strangers = Vec::new();
    for pod in view.list(&pods, &instance.namespace, &instance.selector)? {
        if leads_to(view, &pod, owner_uid) {
            members.push(member(&pod, instance));
        } else {
            strangers.push(text(&pod, "/metadata/name").to_owned());
        }
    }
    Ok((members, strangers))
}

fn member(pod: &Value, instance: &Instance) -> Member {
    let container = container_status(pod, &instance.container);
    let address: Option<IpAddr> = text(pod, "/status/podIP").parse().ok();
    Member {
        pod: text(pod, "/metadata/name").to_owned(),
        pod_uid: uid(pod).to_owned(),
        kube_node: text(pod, "/spec/nodeName").to_owned(),
        container_id: container
            .map(|status| text(status, "/containerID"))
            .unwrap_or_default()
            .to_owned(),
        running: container.is_some_and(|status| status.pointer("/state/running").is_some()),
        address: address.map(|address| SocketAddr::new(address, instance.port)),
        facts: facts(pod, container),
    }
}

/// What a snapshot shows of a Pod, beside what [`Member`] has.
fn facts(pod: &Value, container: Option<&Value>) -> Value {
    let is_ready = |condition: &Value| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    };
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    json!({
        "phase": text(pod, "/status/phase"),
        "ready": conditions.is_some_and(|conditions| conditions.iter().any(is_ready)),
        "deleting": pod.pointer("/metadata/deletionTimestamp").is_some(),
        "labels": pod.pointer("/metadata/labels"),
        "annotations": pod.pointer("/metadata/annotations"),
        "state": container.and_then(|status| status.get("state")),
        "lastState": container.and_then(|status| status.get("lastState")),
        "restartCount": container.and_then(|status| status.get("restartCount")),
    })
}

/// The status of a Pod's container.
pub(crate) fn container_status<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let statuses = pod.pointer("/status/containerStatuses")?.as_array()?;
    statuses.iter().find(|status| text(status, "/name") == name)
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}
