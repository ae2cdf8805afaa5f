//! StatefulSets: defaults, validation, and immutable fields.

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;
use tholepin_apimachinery::selector::LabelSelector;

use crate::kinds::{pod_template, volume};
use crate::object::{as_map_mut, child_mut, default, items_mut, text};

/// The fields of the spec that may change after creation.
const MUTABLE: [&str; 7] = [
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
];

/// Sets the defaults of a StatefulSet.
pub(super) fn defaults(object: &mut Value) {
    let spec = child_mut(object, "spec");
    default(spec, "replicas", json!(1));
    default(spec, "podManagementPolicy", json!("OrderedReady"));
    default(spec, "revisionHistoryLimit", json!(10));
    let strategy = as_map_mut(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    default(strategy, "type", json!("RollingUpdate"));
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = as_map_mut(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        default(rolling, "partition", json!(0));
    }
    let retention = spec.entry("persistentVolumeClaimRetentionPolicy").or_insert_with(|| json!({}));
    let retention = as_map_mut(retention);
    default(retention, "whenDeleted", json!("Retain"));
    default(retention, "whenScaled", json!("Retain"));
    if let Some(template) = object.pointer_mut("/spec/template") {
        pod_template::defaults(child_mut(template, "spec"));
    }
    for claim in items_mut(object, "/spec/volumeClaimTemplates") {
        volume::claim_defaults(claim);
        let map = as_map_mut(claim);
        default(map, "apiVersion", json!("v1"));
        default(map, "kind", json!("PersistentVolumeClaim"));
    }
    default(child_mut(object, "status"), "replicas", json!(0));
}

/// Validates a StatefulSet, and checks that an update changes no immutable field.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = text(new, "/spec/podManagementPolicy").unwrap_or("");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let allowed = [json!("OrderedReady"), json!("Parallel")];
        errors.push(FieldError::not_supported(
            "spec.podManagementPolicy",
            &json!(policy),
            &allowed,
        ));
    }
    let replicas = new.pointer("/spec/replicas").unwrap_or(&Value::Null);
    if replicas.as_u64().is_none() {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.replicas", replicas, detail));
    }
    match new.pointer("/spec/selector") {
        None | Some(Value::Null) => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) => errors.extend(check_selector(new, selector)),
    }
    match new.pointer("/spec/template/spec") {
        None => errors.push(FieldError::required("spec.template.spec", "")),
        Some(spec) => {
            errors.extend(pod_template::validate(spec, "spec.template.spec"));
            let restart = spec.get("restartPolicy").unwrap_or(&Value::Null);
            if *restart != json!("Always") {
                let field = "spec.template.spec.restartPolicy";
                errors.push(FieldError::not_supported(field, restart, &[json!("Always")]));
            }
        }
    }
    errors.extend(old.and_then(|old| check_immutable(new, old)));
    errors
}

fn check_selector(object: &Value, selector: &Value) -> Option<FieldError> {
    let parsed = match LabelSelector::from_object(selector) {
        Ok(parsed) => parsed,
        Err(error) => return Some(FieldError::invalid("spec.selector", selector, error)),
    };
    if parsed.is_empty() {
        let detail = "empty selector is invalid for statefulset";
        return Some(FieldError::invalid("spec.selector", selector, detail));
    }
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    if parsed.matches(template) {
        return None;
    }
    let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let detail = "`selector` does not match template `labels`";
    Some(FieldError::invalid("spec.template.metadata.labels", labels, detail))
}

fn check_immutable(new: &Value, old: &Value) -> Option<FieldError> {
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        as_map_mut(&mut spec).retain(|name, _| !MUTABLE.contains(&name.as_str()));
        spec
    };
    (fixed(old) != fixed(new)).then(|| {
        FieldError::forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        )
    })
}
