//! Reads the object, and takes a snapshot of all members.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tholepin_redis_cluster_plan::{
    ObservedRedisCluster, RedisClusterObjectNames, ShardAndReplicaCounts,
    workload::{self, OwnerRedisCluster},
};
use tholepin_redis_types::redis_cluster::{KIND, RedisClusterSpec, RedisClusterStatus};
use tholepin_schema::{
    instance::Instance,
    reserved,
    snapshot::{CredentialsState, NamedPasswordState, Snapshot},
};
use tholepin_sdk::{Error, Host, ObjectRef, ReconcileFailure, topology};

use crate::{apply::RedisClusterProblem, configuration};

/// The object to reconcile, parsed once.
#[derive(Debug)]
pub(crate) struct ParsedRedisCluster {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub spec: RedisClusterSpec,
    /// The last status.
    pub status: RedisClusterStatus,
    /// The instance for the host's Redis functions.
    pub instance: Instance,
}

impl ParsedRedisCluster {
    /// Parses the object of a request.
    pub(crate) fn read(object: &Value) -> Result<Self, ReconcileFailure> {
        let text = |path: &str| {
            let value = object.pointer(path).and_then(Value::as_str);
            value.map(str::to_owned).ok_or_else(|| unreadable(path, "it is missing"))
        };
        let part = |name: &str| object.get(name).cloned().unwrap_or_else(|| json!({}));
        let spec: RedisClusterSpec = serde_json::from_value(part("spec"))
            .map_err(|error| unreadable("/spec", &error.to_string()))?;
        let [name, namespace, uid] =
            [text("/metadata/name")?, text("/metadata/namespace")?, text("/metadata/uid")?];
        let owner = OwnerRedisCluster { name: &name, namespace: &namespace, uid: &uid };
        Ok(Self {
            instance: workload::instance(owner, &spec),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            spec,
            // A status of another version counts as empty; it is written again.
            status: serde_json::from_value(part("status")).unwrap_or_default(),
            name,
            namespace,
            uid,
        })
    }

    pub(crate) fn owner(&self) -> OwnerRedisCluster<'_> {
        OwnerRedisCluster { name: &self.name, namespace: &self.namespace, uid: &self.uid }
    }
}

fn unreadable(path: &str, why: &str) -> ReconcileFailure {
    let message = format!("the object cannot be read at `{path}`: {why}");
    ReconcileFailure { reason: "Unreadable".into(), message, retry: false }
}

/// Returns a fault if the host reports a problem with the password that the object names. The password in
/// force does not change: the members use it.
pub(crate) fn credentials_fault(
    target: &ParsedRedisCluster,
    facts: CredentialsState,
) -> Option<RedisClusterProblem> {
    let (secret, key) = secret_of(target);
    let kept = reserved::name(reserved::ReservedObjectPurpose::Credentials, KIND, &target.uid);
    let (reason, message) = match facts.named {
        // A Secret that could not be read now is read again in the next reconcile.
        NamedPasswordState::InForce | NamedPasswordState::Unread | NamedPasswordState::Other => {
            return None;
        }
        NamedPasswordState::SecretMissing
        | NamedPasswordState::KeyMissing
        | NamedPasswordState::Empty
        | NamedPasswordState::NoText
        | NamedPasswordState::ControlCharacter => {
            let (reason, mut message) = unusable(target, facts);
            if !facts.pending {
                message.push_str(&format!("; the cluster's own is kept in the Secret `{kept}`"));
            }
            (reason, message)
        }
        NamedPasswordState::Differs => {
            let fix = if target.spec.auth.is_some() {
                format!(
                    "`.spec.auth` names another password than the cluster was created with: write the \
                     old one (if there was one, the Secret `{kept}` has it) into the Secret `{secret}`"
                )
            } else {
                "the cluster was created with a password and `.spec.auth` names none: name it again"
                    .into()
            };
            let text =
                "; changing the password is not supported yet, a new password needs a new cluster";
            ("CredentialsRefused", format!("{fix}{text}"))
        }
        NamedPasswordState::Refused => {
            let fix = if target.spec.auth.is_some() {
                format!("write the servers' password into the key `{key}` of the Secret `{secret}`")
            } else {
                "name a Secret with the servers' password in `.spec.auth`".into()
            };
            let text = format!(
                "the running servers have another password than the one that `.spec.auth` names, and the \
                 Secret `{kept}`, in which the host kept theirs, does not exist any more: {fix}"
            );
            ("CredentialsRefused", text)
        }
        NamedPasswordState::Unproven => (
            "CredentialsUnproven",
            format!(
                "the Secret `{kept}`, in which the host kept the password of the servers, does not exist any \
                 more, and no running server answers to prove that `.spec.auth` names their password. \
                 New Pods wait for that proof: make one of the servers answer, or delete the Pods that hang"
            ),
        ),
    };
    Some(RedisClusterProblem { reason: reason.into(), message, retry: false, ends_all: false })
}

/// Returns the name and the key of the Secret that the object names.
fn secret_of(target: &ParsedRedisCluster) -> (&str, &str) {
    match &target.spec.auth {
        Some(auth) => (auth.secret_name.as_str(), auth.key.as_str()),
        None => ("", ""),
    }
}

/// Returns the problem of the Secret itself, and how to fix it.
fn unusable(target: &ParsedRedisCluster, facts: CredentialsState) -> (&'static str, String) {
    let (secret, key) = secret_of(target);
    let namespace = &target.namespace;
    match facts.named {
        NamedPasswordState::SecretMissing => (
            "SecretMissing",
            format!(
                "the Secret `{secret}` does not exist: `kubectl --namespace {namespace} create \
                 secret generic {secret} --from-literal={key}=PASSWORD --dry-run=client -o yaml | kubectl \
                 apply --server-side -f -`"
            ),
        ),
        NamedPasswordState::KeyMissing => (
            "SecretKeyMissing",
            format!(
                "the Secret `{secret}` has no key `{key}`: add it, or name the right one in \
                 `.spec.auth.key`"
            ),
        ),
        NamedPasswordState::Empty => (
            "SecretEmpty",
            format!(
                "the key `{key}` of the Secret `{secret}` is empty, and an empty password is none: \
                 write a password there{}",
                if facts.pending {
                    ", or remove `.spec.auth` to have a cluster without one"
                } else {
                    ""
                }
            ),
        ),
        NamedPasswordState::ControlCharacter => (
            "SecretUnusable",
            format!(
                "the key `{key}` of the Secret `{secret}` has a line break or another control character, \
                 which a configuration file cannot contain; write it again without (`printf %s PASSWORD`)"
            ),
        ),
        NamedPasswordState::InForce
        | NamedPasswordState::Differs
        | NamedPasswordState::NoText
        | NamedPasswordState::Unread
        | NamedPasswordState::Refused
        | NamedPasswordState::Unproven
        | NamedPasswordState::Other => (
            "SecretUnusable",
            format!("the key `{key}` of the Secret `{secret}` is not UTF-8 text: write it again"),
        ),
    }
}

/// Observes all members. If `asks_for_obstacles` is true, also reads why Kubernetes does not create a Pod or a
/// volume.
pub(crate) fn observe(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    asks_for_obstacles: bool,
) -> Result<ObservedRedisCluster, Error> {
    let snapshot = match topology::observe(host, &target.instance) {
        // No Pod exists (yet, or any more): the planner starts or replaces every shard.
        Err(Error::NotFound(_)) => Snapshot::default(),
        seen => seen?,
    };
    let templates = configuration::templates(host, target);
    let obstacles =
        if asks_for_obstacles { obstacles(host, target, &snapshot) } else { BTreeMap::default() };
    let previous = target.status.clone();
    Ok(ObservedRedisCluster {
        snapshot,
        previous,
        templates,
        obstacles,
        silent: BTreeMap::default(),
    })
}

/// Returns why Kubernetes does not create the first missing Pod, or the volume of the first Pod without one,
/// from the warnings of its controllers.
fn obstacles(
    host: &dyn Host,
    target: &ParsedRedisCluster,
    snapshot: &Snapshot,
) -> BTreeMap<String, String> {
    let (names, layout) = (
        RedisClusterObjectNames { cluster: &target.name },
        ShardAndReplicaCounts::of(&target.spec),
    );
    let member = |pod: &str| snapshot.members.iter().find(|member| member.pod == pod);
    let waits_for_volume = |pod: &str| {
        let unplaced = member(pod).and_then(|member| member.kubernetes.get("unplaced")?.as_str());
        unplaced.is_some_and(|why| why.contains("PersistentVolumeClaim"))
    };
    let pods =
        || layout.positions().map(|position| (names.pod(position), names.shard(position.shard)));
    let missing = pods()
        .find(|(pod, _)| member(pod).is_none())
        .map(|(pod, set)| (ObjectRef::new("apps/v1", "StatefulSet", &target.namespace, &set), pod));
    let unbound = pods().find(|(pod, _)| waits_for_volume(pod)).map(|(pod, _)| {
        let claim = workload::claim(&pod);
        (ObjectRef::new("v1", "PersistentVolumeClaim", &target.namespace, &claim), pod)
    });
    let asked = missing.into_iter().chain(unbound);
    asked.filter_map(|(object, pod)| Some((pod.clone(), warning(host, &object, &pod)?))).collect()
}

/// Returns the newest warning about an object; for a StatefulSet, the newest one about this Pod.
fn warning(host: &dyn Host, object: &ObjectRef, pod: &str) -> Option<String> {
    let warnings = match host.warnings(object) {
        Ok(warnings) => warnings,
        // Nothing depends on the reason, so an error is only logged.
        Err(Error::NotFound(_)) => return None,
        Err(error) => {
            host.warn(&format!("the warnings about {} were not read: {error}", object.name));
            return None;
        }
    };
    let text = |warning: &Value, field: &str| {
        warning.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let is_about = |warning: &&Value| {
        object.kind.kind != "StatefulSet"
            || text(warning, "reason") == "FailedCreate"
                && text(warning, "message").split_whitespace().any(|word| word == pod)
    };
    warnings.iter().find(is_about).map(|warning| text(warning, "message"))
}
