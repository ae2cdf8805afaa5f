//! Admission by namespace: ResourceQuotas of object counts, and Pod Security levels.

use serde_json::Value;
use tholepin_apimachinery::{
    FieldError,
    pod_security::{self, PodSecurityLevel},
};

use crate::{
    object::{name, text},
    status::ApiError,
    store::{GroupResource, NamespacedName},
    write_context::ObjectWriteContext,
};

/// The resources that a quota may name without the prefix `count/`.
const COUNTED: &[&str] =
    &["configmaps", "persistentvolumeclaims", "pods", "resourcequotas", "secrets", "services"];

/// Validates a quota: only counts of objects are supported.
pub(super) fn validate_quota(new: &Value) -> Vec<FieldError> {
    let hard = new.pointer("/spec/hard").and_then(Value::as_object);
    let mut errors = Vec::new();
    for (what, limit) in hard.into_iter().flatten() {
        let field = format!("spec.hard[{what}]");
        if !what.starts_with("count/") && !COUNTED.contains(&what.as_str()) {
            let detail = "this server supports counts of objects only, such as `pods` or `count/statefulsets.apps`";
            errors.push(FieldError::forbidden(field, detail));
        } else if number(limit).is_none() {
            errors.push(FieldError::invalid(field, limit, "must be a number of objects"));
        }
    }
    errors
}

/// Refuses a new object that exceeds a quota of its namespace.
pub(super) fn within_quota(cx: &ObjectWriteContext, object: &Value) -> Result<(), ApiError> {
    let quotas = in_namespace(cx, &GroupResource::new("", "resourcequotas"));
    if quotas.is_empty() {
        return Ok(());
    }
    let resource = cx.served.kind.resource_name();
    let counted = in_namespace(cx, &cx.served.resource);
    let used = counted.iter().filter(|object| !is_ended(object)).count();
    for quota in &quotas {
        let hard = quota.pointer("/spec/hard");
        for what in [resource.clone(), format!("count/{resource}")] {
            let limit = hard.and_then(|hard| hard.get(&what)).and_then(number);
            if let Some(limit) = limit.filter(|limit| *limit <= used) {
                return Err(ApiError::forbidden(format!(
                    "{resource} \"{}\" is forbidden: exceeded quota: {}, requested: {what}=1, used: \
                     {what}={used}, limited: {what}={limit}",
                    name(object),
                    name(quota)
                )));
            }
        }
    }
    Ok(())
}

/// Refuses a new Pod that violates the Pod Security level of its namespace.
pub(super) fn within_pod_security(cx: &ObjectWriteContext, pod: &Value) -> Result<(), ApiError> {
    let namespaces = GroupResource::new("", "namespaces");
    let namespace = cx.server.store.get(&namespaces, &NamespacedName::new("", &cx.namespace));
    let Some(level) = namespace.and_then(|namespace| PodSecurityLevel::of(&namespace)) else {
        return Ok(());
    };
    let violations = pod_security::violations(level, pod);
    if violations.is_empty() {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "pods \"{}\" is forbidden: violates PodSecurity \"{}:latest\": {}",
        name(pod),
        level.as_str(),
        violations.join(", ")
    )))
}

fn in_namespace(cx: &ObjectWriteContext, resource: &GroupResource) -> Vec<std::sync::Arc<Value>> {
    let all = cx.server.store.all(resource).into_iter();
    all.filter(|object| text(object, "/metadata/namespace") == Some(&cx.namespace)).collect()
}

/// Returns true for a Pod that has ended, which does not count against a quota.
fn is_ended(object: &Value) -> bool {
    matches!(text(object, "/status/phase"), Some("Succeeded" | "Failed"))
}

/// Parses a number of objects, which may be a number or, as a quantity, text.
fn number(limit: &Value) -> Option<usize> {
    match limit {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().and_then(|count| usize::try_from(count).ok()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
