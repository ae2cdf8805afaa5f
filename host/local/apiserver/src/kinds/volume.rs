//! PersistentVolumeClaims, PersistentVolumes and StorageClasses: defaults and validation.

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

use crate::object::{as_map_mut, child_mut, default, items};

/// Sets the defaults of a claim.
pub(super) fn claim_defaults(object: &mut Value) {
    default(child_mut(object, "spec"), "volumeMode", json!("Filesystem"));
    default(child_mut(object, "status"), "phase", json!("Pending"));
}

/// Sets the defaults of a volume.
pub(super) fn volume_defaults(object: &mut Value) {
    let spec = child_mut(object, "spec");
    default(spec, "volumeMode", json!("Filesystem"));
    default(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
    default(child_mut(object, "status"), "phase", json!("Pending"));
}

/// Sets the defaults of a class.
pub(super) fn class_defaults(object: &mut Value) {
    let map = as_map_mut(object);
    default(map, "reclaimPolicy", json!("Delete"));
    default(map, "volumeBindingMode", json!("Immediate"));
}

/// Validates a claim, and checks that an update changes only the requested resources.
pub(super) fn validate_claim(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if items(new, "/spec/accessModes").is_empty() {
        let detail = "at least 1 access mode is required";
        errors.push(FieldError::required("spec.accessModes", detail));
    }
    if new.pointer("/spec/resources/requests/storage").is_none() {
        errors.push(FieldError::required("spec.resources[storage]", ""));
    }
    let Some(old) = old else { return errors };
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        let map = as_map_mut(&mut spec);
        // The binder sets `volumeName` later, and `storageClassName` if the claim has none.
        map.remove("resources");
        let bound = object.pointer("/spec/volumeName").is_some();
        (spec, bound)
    };
    let ((mut before, was_bound), (mut after, _)) = (fixed(old), fixed(new));
    if !was_bound {
        as_map_mut(&mut before).remove("volumeName");
        as_map_mut(&mut after).remove("volumeName");
    }
    if old.pointer("/spec/storageClassName").is_none() {
        as_map_mut(&mut after).remove("storageClassName");
    }
    if before != after {
        errors.push(FieldError::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    errors
}
