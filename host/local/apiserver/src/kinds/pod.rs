//! Pods: defaults, quality of service, validation, and grace periods.

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

use crate::kinds::pod_template;
use crate::object::{as_map_mut, child_mut, default, items_mut, text};

/// Sets the defaults of a Pod.
pub(super) fn defaults(object: &mut Value) {
    let spec = child_mut(object, "spec");
    pod_template::defaults(spec);
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "serviceAccountName", json!("default"));
    default(child_mut(object, "status"), "phase", json!("Pending"));
}

/// Sets the quality-of-service class of a new Pod.
pub(super) fn before_create(object: &mut Value) {
    let class = quality(object);
    child_mut(object, "status").insert("qosClass".into(), json!(class));
}

fn quality(pod: &Value) -> &'static str {
    let containers = ["/spec/containers", "/spec/initContainers"];
    let containers: Vec<&Value> =
        containers.iter().flat_map(|list| crate::object::items(pod, list)).collect();
    let has = |container: &Value, kind: &str, resource: &str| {
        container.pointer(&format!("/resources/{kind}/{resource}")).cloned()
    };
    let any = containers.iter().any(|container| {
        ["limits", "requests"].iter().any(|kind| {
            ["cpu", "memory"].iter().any(|resource| has(container, kind, resource).is_some())
        })
    });
    let all = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = has(container, "limits", resource);
            let request = has(container, "requests", resource);
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Validates a Pod, and checks that an update changes no immutable field.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let null = Value::Null;
    let mut errors = pod_template::validate(new.get("spec").unwrap_or(&null), "spec");
    if let Some(old) = old {
        let node = text(old, "/spec/nodeName").unwrap_or("");
        if immutable_spec(old, node) != immutable_spec(new, node) {
            errors.push(FieldError::forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, \
                 `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` \
                 (only additions to existing tolerations), and `spec.nodeName` while it is empty",
            ));
        }
    }
    errors
}

/// Returns the spec without the fields that an update may change.
fn immutable_spec(pod: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in items_mut(&mut pod, list) {
            as_map_mut(container).remove("image");
        }
    }
    let spec = child_mut(&mut pod, "spec");
    for field in
        ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
    {
        spec.remove(field);
    }
    if node.is_empty() {
        spec.remove("nodeName");
    }
    pod.get("spec").cloned().unwrap_or(Value::Null)
}

/// Returns the grace period in seconds: 0 for a Pod that is not bound to a node or has ended.
pub(super) fn grace_s(pod: &Value, requested_s: Option<u64>) -> u64 {
    let is_bound = text(pod, "/spec/nodeName").is_some_and(|node| !node.is_empty());
    let has_ended = matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"));
    if !is_bound || has_ended {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
    requested_s.or(own).unwrap_or(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_pod_has_a_grace_period() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 7}, "status": {"phase": phase}});
        let cases = [
            (pod("", "Pending"), None, 0),
            (pod("n", "Running"), None, 7),
            (pod("n", "Running"), Some(0), 0),
            (pod("n", "Running"), Some(3), 3),
            (pod("n", "Failed"), None, 0),
        ];
        for (pod, requested_s, expected) in cases {
            assert_eq!(grace_s(&pod, requested_s), expected, "{pod} {requested_s:?}");
        }
    }
}
