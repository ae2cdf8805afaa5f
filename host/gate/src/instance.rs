//! Resolves an instance to its members: which Pods belong to it, and how to connect to them.
//!
//! Invariants:
//! - Membership follows from the chains of controllers that the API server reports, and from the ledger. The
//!   selector and the labels that a plugin names only choose which members it is shown.
//! - The container and the port of a group of processes stay the same as long as its ledger exists.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef, ReconcileKey,
    port::{InstanceMembers, MemberPod, RedisCredentials, WatchedStoreView},
};
use tholepin_schema::{
    instance::{Instance, SETTING_NAME_BYTES_MAX, SETTINGS_MAX},
    manifest::KindName,
    snapshot::{CredentialsState, Snapshot},
};

use crate::{
    GatePorts, ReconcileScope,
    credentials::{self, CredentialsStore},
    ledger_document::{Ledger, LedgerProcessGroup},
    ownership::{descendants, text},
};

/// Returns the current members of an instance that was admitted.
///
/// Reads the newest view and not the view of the reconcile, because a call to Redis must fit the Pods that
/// exist now.
///
/// # Errors
///
/// Fails if Pods are not watched, or if the password cannot be read.
pub(crate) async fn members(
    store: &CredentialsStore,
    ports: &GatePorts,
    scope: &ReconcileScope,
    ledger: &Ledger,
    instance: &Instance,
) -> Result<InstanceMembers, CallError> {
    let InstancePodSelection { members, strangers } =
        select(&*ports.kubernetes.view(), scope, ledger, instance)?;
    let (name, credentials) = (name(scope, instance), RedisCredentials::default());
    let mut members = InstanceMembers {
        instance: name,
        owner: scope.key.clone(),
        members,
        strangers,
        credentials,
        credentials_facts: CredentialsState::default(),
    };
    credentials::put_in_force(store, ports, scope, ledger, instance, &mut members).await?;
    Ok(members)
}

/// Checks that the reconciled object may name this instance.
///
/// # Errors
///
/// Fails with the reason.
pub(crate) fn admit(scope: &ReconcileScope, instance: &Instance) -> Result<(), CallError> {
    let namespace = &scope.key.namespace;
    if instance.namespace != *namespace {
        let text = format!(
            "the instance is in namespace `{}`; members of `{namespace}` only",
            instance.namespace
        );
        return Err(CallError::Denied(text));
    }
    if !is_own(&scope.key, instance) {
        let text =
            "an instance of another owner cannot be granted yet; leave `owner` out".to_owned();
        return Err(CallError::Unsupported(text));
    }
    if instance.selector.is_empty() {
        let text = "the instance's selector is empty and would match every Pod".to_owned();
        return Err(CallError::Invalid(text));
    }
    check_settings(&instance.settings)
}

/// Checks that these settings are not too many, and that their names are not too long.
///
/// # Errors
///
/// Fails with the number or the length, and the limit.
pub(crate) fn check_settings(settings: &[String]) -> Result<(), CallError> {
    if SETTINGS_MAX < settings.len() {
        let count = settings.len();
        let text = format!("{count} settings are too many, {SETTINGS_MAX} are allowed");
        return Err(CallError::Invalid(text));
    }
    if let Some(long) = settings.iter().find(|name| SETTING_NAME_BYTES_MAX < name.len()) {
        let bytes = long.len();
        let text = format!(
            "the name of a setting has {bytes} bytes, {SETTING_NAME_BYTES_MAX} are allowed"
        );
        return Err(CallError::Invalid(text));
    }
    Ok(())
}

fn is_own(key: &ReconcileKey, instance: &Instance) -> bool {
    instance.owner.as_ref().is_none_or(|owner| {
        let kind = KindName { api_version: owner.api_version.clone(), kind: owner.kind.clone() };
        kind == key.kind && owner.name == key.name
    })
}

/// Returns the name of an instance of the reconciled object in caches.
pub(crate) fn name(scope: &ReconcileScope, instance: &Instance) -> String {
    format!("{}:{}", scope.uid(), instance.group())
}

/// Records the container and the port of a group at its first use.
///
/// # Errors
///
/// Fails if the ledger has others: the guards would check other processes than the calls go to.
pub(crate) fn fix_group(ledger: &mut Ledger, instance: &Instance) -> Result<(), CallError> {
    let named = LedgerProcessGroup {
        container: instance.container.clone(),
        port: instance.port,
        unknown: Default::default(),
    };
    let known = ledger.groups.entry(instance.group().to_owned()).or_insert_with(|| named.clone());
    if (&known.container, known.port) == (&named.container, named.port) {
        return Ok(());
    }
    Err(CallError::Invalid(format!(
        "the group `{}` of this object is the container `{}` with port {}, as its first use fixed it; \
         container `{}` with port {} is another group: name it in the instance's `group`",
        instance.group(),
        known.container,
        known.port,
        named.container,
        named.port
    )))
}

/// Returns the current members if they differ from these; the credentials stay.
pub(crate) fn renewed(
    view: &dyn WatchedStoreView,
    members: &InstanceMembers,
    scope: &ReconcileScope,
    ledger: &Ledger,
    instance: &Instance,
) -> Result<Option<InstanceMembers>, CallError> {
    let InstancePodSelection { members: now, strangers } = select(view, scope, ledger, instance)?;
    let is_same = now == members.members && strangers == members.strangers;
    Ok((!is_same).then(|| InstanceMembers { members: now, strangers, ..members.clone() }))
}

/// Removes the members that the instance's selector does not match from a snapshot.
///
/// # Errors
///
/// Fails if none is left: a plugin could take an empty list for a healthy instance.
pub(crate) fn narrow(
    view: &dyn WatchedStoreView,
    scope: &ReconcileScope,
    instance: &Instance,
    snapshot: &mut Snapshot,
) -> Result<(), CallError> {
    let all = snapshot.members.len();
    let matching = matching(view, instance)?;
    let shown: BTreeSet<&str> = matching.iter().map(|pod| text(pod, "/metadata/name")).collect();
    snapshot.members.retain(|member| shown.contains(member.pod.as_str()));
    if !snapshot.members.is_empty() || snapshot.credentials.pending {
        return Ok(());
    }
    let (object, group) = (scope.reference(), instance.group());
    Err(CallError::NotFound(format!(
        "a Pod of {object} in group `{group}` that matches `{}` ({all} do not match)",
        instance.selector
    )))
}

/// Checks that there is at least one member.
///
/// # Errors
///
/// Fails if there is none: a plugin could take an empty list for a healthy instance.
pub(crate) fn some(
    scope: &ReconcileScope,
    instance: &Instance,
    members: &InstanceMembers,
) -> Result<(), CallError> {
    // A problem with the password keeps Pods from being created, and the plugin must learn of it.
    if !members.members.is_empty() || members.credentials_facts.pending {
        return Ok(());
    }
    let (object, group) = (scope.reference(), instance.group());
    Err(CallError::NotFound(format!("a Pod of {object} in group `{group}`")))
}

struct InstancePodSelection {
    members: Vec<MemberPod>,
    strangers: Vec<String>,
}

fn select(
    view: &dyn WatchedStoreView,
    scope: &ReconcileScope,
    ledger: &Ledger,
    instance: &Instance,
) -> Result<InstancePodSelection, CallError> {
    let matching = matching(view, instance)?;
    let pods = pods(view, scope, ledger);
    let of_group = pods.iter().filter(|pod| belongs_to_group(pod, ledger, instance.group()));
    let mut members: Vec<MemberPod> = of_group.map(|pod| member(pod, instance)).collect();
    members.sort_by(|a, b| a.pod.cmp(&b.pod));
    let is_known = |pod: &&Arc<Value>| pods.iter().any(|known| uid(known) == uid(pod));
    let strangers = matching.iter().filter(|pod| !is_known(pod));
    let strangers = strangers.map(|pod| text(pod, "/metadata/name").to_owned()).collect();
    Ok(InstancePodSelection { members, strangers })
}

/// Returns the Pods of the reconciled object: those whose chain of controllers ends there, and those whose
/// uid the ledger has, whoever controls them now.
pub(crate) fn pods(
    view: &dyn WatchedStoreView,
    scope: &ReconcileScope,
    ledger: &Ledger,
) -> Vec<Arc<Value>> {
    let kind = pod_kind();
    let mut found: Vec<Arc<Value>> = Vec::new();
    for meta in descendants(view, scope.uid()).iter().filter(|meta| meta.object.kind == kind) {
        found.extend(view.get(&meta.object));
    }
    for known in ledger.nodes.values() {
        let (kind, namespace) = (pod_kind(), scope.key.namespace.clone());
        let name = ObjectRef { kind, namespace, name: known.pod.clone() };
        if found.iter().any(|pod| uid(pod) == known.pod_uid) {
            continue;
        }
        found.extend(view.get(&name).filter(|pod| uid(pod) == known.pod_uid));
    }
    found
}

/// Returns true if a Pod belongs to this group: it runs the group's container, or no group's container. The
/// latter counts as a member that does not answer.
pub(crate) fn belongs_to_group(pod: &Value, ledger: &Ledger, group: &str) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let runs = |name: &str| {
        containers.into_iter().flatten().any(|container| text(container, "/name") == name)
    };
    let runs_own = ledger.groups.get(group).is_some_and(|group| runs(&group.container));
    let mut others = ledger.groups.iter().filter(|(name, _)| *name != group);
    runs_own || !others.any(|(_, group)| runs(&group.container))
}

/// Returns the Pods that the selector matches, whoever controls them.
fn matching(
    view: &dyn WatchedStoreView,
    instance: &Instance,
) -> Result<Vec<Arc<Value>>, CallError> {
    let pods = pod_kind();
    if !view.covers(&pods) {
        let text = "Pods are not watched (yet): the manifest's `watches` must name v1/Pod";
        return Err(CallError::Transient(text.to_owned()));
    }
    view.list(&pods, &instance.namespace, &instance.selector)
}

pub(crate) fn pod_kind() -> KindName {
    KindName { api_version: "v1".to_owned(), kind: "Pod".to_owned() }
}

fn member(pod: &Value, instance: &Instance) -> MemberPod {
    let container = container_status(pod, &instance.container);
    let address: Option<IpAddr> = text(pod, "/status/podIP").parse().ok();
    MemberPod {
        pod: text(pod, "/metadata/name").to_owned(),
        pod_uid: uid(pod).to_owned(),
        kube_node: text(pod, "/spec/nodeName").to_owned(),
        container_id: container
            .map(|status| text(status, "/containerID"))
            .unwrap_or_default()
            .to_owned(),
        running: container.is_some_and(|status| status.pointer("/state/running").is_some()),
        address: address.map(|address| SocketAddr::new(address, instance.port)),
        kubernetes: kubernetes_facts(pod, container),
    }
}

/// Returns what a snapshot shows of a Pod besides the fields of [`MemberPod`].
fn kubernetes_facts(pod: &Value, container: Option<&Value>) -> Value {
    let is_ready = |condition: &Value| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    };
    let is_unplaced = |condition: &&Value| {
        text(condition, "/type") == "PodScheduled" && text(condition, "/status") == "False"
    };
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let unplaced = conditions.and_then(|conditions| conditions.iter().find(is_unplaced));
    json!({
        "phase": text(pod, "/status/phase"),
        "ready": conditions.is_some_and(|conditions| conditions.iter().any(is_ready)),
        "deleting": pod.pointer("/metadata/deletionTimestamp").is_some(),
        // Why no Kubernetes node takes the Pod, by the scheduler's message.
        "unplaced": unplaced.and_then(|condition| condition.get("message")),
        "graceSeconds": pod.pointer("/spec/terminationGracePeriodSeconds"),
        "labels": pod.pointer("/metadata/labels"),
        "annotations": pod.pointer("/metadata/annotations"),
        "state": container.and_then(|status| status.get("state")),
        "lastState": container.and_then(|status| status.get("lastState")),
        "restartCount": container.and_then(|status| status.get("restartCount")),
    })
}

/// Returns the status of a Pod's container.
pub(crate) fn container_status<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let statuses = pod.pointer("/status/containerStatuses")?.as_array()?;
    statuses.iter().find(|status| text(status, "/name") == name)
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}
