//! How the objects look that the host keeps for a reconciled object.

use serde_json::{Value, json};

use crate::ObjectRef;

/// An object that the host keeps, with these fields: owned by the reconciled object, so that it goes with it.
/// With a resource version it replaces the object of that version.
#[must_use]
pub fn kept_object(
    name: &ObjectRef,
    owner: &ObjectRef,
    owner_uid: &str,
    resource_version: Option<&str>,
    fields: Value,
) -> Value {
    let mut kept = json!({
        "apiVersion": name.kind.api_version,
        "kind": name.kind.kind,
        "metadata": {
            "namespace": name.namespace,
            "name": name.name,
            "resourceVersion": resource_version,
            "labels": {"app.kubernetes.io/managed-by": "tholepin"},
            "ownerReferences": [{
                "apiVersion": owner.kind.api_version,
                "kind": owner.kind.kind,
                "name": owner.name,
                "uid": owner_uid,
            }],
        },
    });
    if let (Some(kept), Value::Object(fields)) = (kept.as_object_mut(), fields) {
        kept.extend(fields);
    }
    kept
}
