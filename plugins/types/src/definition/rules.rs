//! The CEL rules of the definition: immutable fields, and conditions on several fields.
//!
//! Each message says how to fix the problem, because `kubectl apply` shows nothing else.

use alloc::{format, string::String};

use serde_json::{Value, json};

use crate::redis_cluster::NAME_LENGTH_MAX;

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// The rules of the whole object.
pub(crate) fn object() -> Value {
    let length = rule(
        &format!("self.metadata.name.size() <= {NAME_LENGTH_MAX}"),
        &format!(
            "the name must have at most {NAME_LENGTH_MAX} characters, because Pods and Services are \
             named after it"
        ),
    );
    let letters = rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "the name must begin with a letter and have lower-case letters, digits and `-` only, because \
         Services are named after it",
    );
    let nodes = rule(
        "!self.metadata.name.endsWith('-nodes')",
        "the name must not end in `-nodes`, because the Service of the Pods of another cluster may have it",
    );
    json!([length, letters, nodes])
}

/// The rules of the spec.
pub(crate) fn spec() -> Value {
    let storage = "storage can be neither added nor removed: create a new RedisCluster";
    json!([rule("has(self.storage) == has(oldSelf.storage)", storage)])
}

/// The rules of `.spec.shards`.
pub(crate) fn shards() -> Value {
    let message = String::from(
        "changing the number of shards is not supported yet, because it moves slots: create a new \
         RedisCluster with that number",
    );
    json!([rule("self == oldSelf", &message)])
}

/// The rules of `.spec.replicasPerShard`.
pub(crate) fn replicas_per_shard() -> Value {
    let message = "removing replicas is not supported yet: keep at least the present number";
    json!([rule("self >= oldSelf", message)])
}

/// The rules of `.spec.port`.
pub(crate) fn port() -> Value {
    json!([rule("self == oldSelf", "the port cannot be changed: create a new RedisCluster")])
}

/// The rules of `.spec.storage.size`.
pub(crate) fn storage_size() -> Value {
    let message = "resizing volumes is not supported yet: keep the size";
    json!([rule("self == oldSelf", message)])
}

/// The rules of `.spec.storage`.
pub(crate) fn storage() -> Value {
    json!([rule(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && \
         (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "the storage class cannot be changed: create a new RedisCluster",
    )])
}

/// The schema of each quantity in `.spec.resources`: Kubernetes' syntax, never negative.
pub(crate) fn quantities() -> Value {
    json!({"x-kubernetes-int-or-string": true, "pattern": crate::validation::QUANTITY, "maxLength": 20})
}
