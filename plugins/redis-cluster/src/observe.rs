//! Reads: the object itself, its Secret, and every member at one moment.

use serde_json::{Value, json};
use tholepin_redis_cluster_plan::{
    Observed,
    workload::{self, Owner},
};
use tholepin_redis_types::redis_cluster::{RedisClusterSpec, RedisClusterStatus};
use tholepin_schema::{instance::Instance, snapshot::Snapshot};
use tholepin_sdk::{Error, Failure, Host, ObjectRef, ReadMode, topology};

use crate::configuration;

/// The object reconciled, read once.
#[derive(Debug)]
pub(crate) struct Target {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub spec: RedisClusterSpec,
    /// What was reported last.
    pub status: RedisClusterStatus,
    /// The instance, as the host's Redis functions take it.
    pub instance: Instance,
}

impl Target {
    /// Reads the object of a request.
    pub(crate) fn read(object: &Value) -> Result<Self, Failure> {
        let text = |path: &str| {
            let value = object.pointer(path).and_then(Value::as_str);
            value.map(str::to_owned).ok_or_else(|| unreadable(path, "it is missing"))
        };
        let part = |name: &str| object.get(name).cloned().unwrap_or_else(|| json!({}));
        let spec: RedisClusterSpec = serde_json::from_value(part("spec"))
            .map_err(|error| unreadable("/spec", &error.to_string()))?;
        let [name, namespace, uid] =
            [text("/metadata/name")?, text("/metadata/namespace")?, text("/metadata/uid")?];
        let owner = Owner { name: &name, namespace: &namespace, uid: &uid };
        Ok(Self {
            instance: workload::instance(owner, &spec),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            spec,
            // A status of another version says nothing; it is written anew.
            status: serde_json::from_value(part("status")).unwrap_or_default(),
            name,
            namespace,
            uid,
        })
    }

    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner { name: &self.name, namespace: &self.namespace, uid: &self.uid }
    }
}

fn unreadable(path: &str, why: &str) -> Failure {
    let message = format!("the object cannot be read at `{path}`: {why}");
    Failure { reason: "Unreadable".into(), message, retry: false }
}

/// What the object needs and does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// As a condition's reason.
    pub reason: &'static str,
    /// With the way out.
    pub message: String,
}

/// Looks for the password's Secret and its key.
pub(crate) fn missing_secret(host: &dyn Host, target: &Target) -> Result<Option<Missing>, Error> {
    let Some(auth) = &target.spec.auth else { return Ok(None) };
    let (secret, key, namespace) = (&auth.secret_name, &auth.key, &target.namespace);
    let name = ObjectRef::new("v1", "Secret", namespace, secret);
    let found = match host.get(&name, ReadMode::Cached, &[".data"]) {
        Ok(found) => found,
        Err(Error::NotFound(_)) => {
            let message = format!(
                "the Secret `{secret}` does not exist: `kubectl --namespace {namespace} create \
                 secret generic {secret} --from-literal={key}=PASSWORD`"
            );
            return Ok(Some(Missing { reason: "SecretMissing", message }));
        }
        Err(error) => return Err(error),
    };
    let has_key = found.get("data").and_then(|data| data.get(key)).is_some();
    Ok((!has_key).then(|| Missing {
        reason: "SecretKeyMissing",
        message: format!(
            "the Secret `{secret}` has no key `{key}`: add it, or name the right one in \
             `.spec.auth.key`"
        ),
    }))
}

/// Looks at every member.
pub(crate) fn observe(host: &dyn Host, target: &Target) -> Result<Observed, Error> {
    let snapshot = match topology::observe(host, &target.instance) {
        // There is no Pod yet, or no more: every shard is to be begun, or lost.
        Err(Error::NotFound(_)) => Snapshot::default(),
        seen => seen?,
    };
    let templates = configuration::templates(host, target);
    Ok(Observed { snapshot, previous: target.status.clone(), templates })
}
