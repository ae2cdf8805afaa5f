//! Builds the objects that the host keeps for a reconciled object.

use serde_json::{Value, json};

use crate::ObjectRef;

/// Returns an object that the host keeps, with these fields. The reconciled object owns it, so that it is deleted
/// together with its owner. With a resource version it replaces the object of that version.
#[must_use]
pub fn reserved_object(
    name: &ObjectRef,
    owner: &ObjectRef,
    owner_uid: &str,
    resource_version: Option<&str>,
    fields: Value,
) -> Value {
    let mut object = json!({
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
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}
