//! The spec of Pods, alone or in a template: defaults and validation.

use serde_json::{Map, Value, json};
use tholepin_apimachinery::FieldError;
use tholepin_apimachinery::validation::is_dns1123_label;

use crate::object::{as_map_mut, default, items};

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// The default permission bits of a volume's files, as in Kubernetes (0644).
const FILE_MODE: u32 = 0o644;

/// Sets the defaults on which agents and controllers depend.
pub(super) fn defaults(spec: &mut Map<String, Value>) {
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    for list in CONTAINERS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|c| c.is_object()) {
            container_defaults(as_map_mut(container));
        }
    }
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten().filter(|volume| volume.is_object()) {
        volume_defaults(as_map_mut(volume));
    }
}

fn container_defaults(container: &mut Map<String, Value>) {
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    default(container, "imagePullPolicy", json!(policy));
    let ports = container.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter(|port| port.is_object()) {
        default(as_map_mut(port), "protocol", json!("TCP"));
    }
    let variables = container.get_mut("env").and_then(Value::as_array_mut);
    for variable in variables.into_iter().flatten() {
        if let Some(Value::Object(field)) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", json!("v1"));
        }
    }
    for name in PROBES {
        if let Some(Value::Object(probe)) = container.get_mut(name) {
            probe_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        let lifecycle = container.get_mut("lifecycle");
        let action = lifecycle.and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(Value::Object(http)) = action.and_then(|action| action.get_mut("httpGet")) {
            http_defaults(http);
        }
    }
}

fn probe_defaults(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        default(probe, field, json!(value));
    }
    if let Some(Value::Object(http)) = probe.get_mut("httpGet") {
        http_defaults(http);
    }
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        default(grpc, "service", json!(""));
    }
}

fn http_defaults(http: &mut Map<String, Value>) {
    default(http, "path", json!("/"));
    default(http, "scheme", json!("HTTP"));
}

fn volume_defaults(volume: &mut Map<String, Value>) {
    let is_plain = |(name, _): (&String, &Value)| name == "name";
    if volume.iter().all(is_plain) {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "projected", "downwardAPI"] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            default(source, "defaultMode", json!(FILE_MODE));
        }
    }
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        default(path, "type", json!(""));
    }
}

/// Returns true if an image has no tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Validates a Pod's spec; `at` is its path in the object.
pub(super) fn validate(spec: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if items(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{at}.containers"), ""));
    }
    let restart = spec.get("restartPolicy").and_then(Value::as_str).unwrap_or("");
    if !matches!(restart, "Always" | "OnFailure" | "Never") {
        let allowed = [json!("Always"), json!("OnFailure"), json!("Never")];
        let field = format!("{at}.restartPolicy");
        errors.push(FieldError::not_supported(field, &json!(restart), &allowed));
    }
    let mut volumes = std::collections::BTreeSet::new();
    for (index, volume) in items(spec, "/volumes").iter().enumerate() {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or("");
        let field = format!("{at}.volumes[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if !volumes.insert(name) {
            errors.push(FieldError::duplicate(field, &json!(name)));
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for list in CONTAINERS {
        for (index, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            let field = format!("{at}.{list}[{index}]");
            validate_container(container, &field, &mut names, &mut errors);
        }
    }
    errors
}

fn validate_container<'a>(
    container: &'a Value,
    field: &str,
    names: &mut std::collections::BTreeSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let name = container.get("name").and_then(Value::as_str).unwrap_or("");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{field}.name"), ""));
    } else if is_dns1123_label(name).is_err() {
        let detail = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                      or '-', and must start and end with an alphanumeric character";
        errors.push(FieldError::invalid(format!("{field}.name"), &json!(name), detail));
    } else if !names.insert(name) {
        errors.push(FieldError::duplicate(format!("{field}.name"), &json!(name)));
    }
    if container.get("image").and_then(Value::as_str).unwrap_or("").is_empty() {
        errors.push(FieldError::required(format!("{field}.image"), ""));
    }
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let number = port.get("containerPort").unwrap_or(&Value::Null);
        if !number.as_u64().is_some_and(|number| (1..=65_535).contains(&number)) {
            let detail = "must be between 1 and 65535, inclusive";
            let field = format!("{field}.ports[{index}].containerPort");
            errors.push(FieldError::invalid(field, number, detail));
        }
    }
    for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
        for name in ["name", "mountPath"] {
            if mount.get(name).and_then(Value::as_str).unwrap_or("").is_empty() {
                let field = format!("{field}.volumeMounts[{index}].{name}");
                errors.push(FieldError::required(field, ""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_version_is_the_latest() {
        let cases = [
            ("redis", true),
            ("redis:latest", true),
            ("redis:7.2", false),
            ("host:5000/redis", true),
            ("host:5000/redis:7", false),
            ("redis@sha256:00", false),
        ];
        for (image, expected) in cases {
            assert_eq!(is_latest(image), expected, "{image}");
        }
    }
}
