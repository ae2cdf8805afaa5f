//! The Pod Security admission checks, levels `baseline` and `restricted`.
//!
//! Source: "Pod Security Standards" of the Kubernetes documentation, as of version 1.33. The controls for AppArmor
//! and SELinux are not checked: the nodes of the embedded cluster have neither.

use serde_json::Value;

/// The Pod Security level that a namespace enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodSecurityLevel {
    /// Forbids the known privilege escalations.
    Baseline,
    /// Also requires the hardening of the Pod Security Standards.
    Restricted,
}

/// The namespace label that names the enforced level.
pub const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";

impl PodSecurityLevel {
    /// Returns the level of a namespace, or `None` if it enforces none.
    #[must_use]
    pub fn of(namespace: &Value) -> Option<Self> {
        let labels = namespace.pointer("/metadata/labels")?;
        match labels.get(ENFORCE_LABEL)?.as_str()? {
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    /// Returns the value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Capabilities that a container may add at the level `baseline`.
const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that are isolated between Pods, which every Pod may set.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// The volume types that are allowed at the level `restricted`.
const RESTRICTED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Returns the violations of a level by a Pod, each with the required value; the list is empty if the Pod is allowed.
#[must_use]
pub fn violations(level: PodSecurityLevel, pod: &Value) -> Vec<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut violations = baseline(spec);
    if level == PodSecurityLevel::Restricted {
        violations.extend(restricted(spec));
    }
    violations
}

fn baseline(spec: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(field) == Some(&Value::Bool(true)) {
            violations.push(format!("host namespaces ({field}=true)"));
        }
    }
    for volume in items(spec, "/volumes").filter(|volume| volume.get("hostPath").is_some()) {
        violations.push(format!("hostPath volumes (volume \"{}\")", name(volume)));
    }
    let sysctls = items(spec, "/securityContext/sysctls").map(name);
    for sysctl in sysctls.filter(|sysctl| !SAFE_SYSCTLS.contains(sysctl)) {
        violations.push(format!("forbidden sysctls ({sysctl})"));
    }
    let unconfined = |context: Option<&Value>| {
        context.and_then(|context| context.pointer("/seccompProfile/type")?.as_str())
            == Some("Unconfined")
    };
    if unconfined(spec.get("securityContext")) {
        violations.push("seccompProfile (pod must not set it to \"Unconfined\")".to_owned());
    }
    for container in containers(spec) {
        let (name, context) = (name(container), container.get("securityContext"));
        let must_not = |what: &str| format!("{what} (container \"{name}\" must not set it)");
        let field = |path: &str| context.and_then(|context| context.pointer(path));
        if field("/privileged") == Some(&Value::Bool(true)) {
            violations.push(must_not("privileged"));
        }
        if unconfined(context) {
            violations.push(must_not("seccompProfile=Unconfined"));
        }
        if field("/procMount").is_some_and(|mount| mount != "Default") {
            violations.push(must_not("procMount"));
        }
        let is_host_port =
            |port: &Value| port.get("hostPort").and_then(Value::as_u64).unwrap_or(0) != 0;
        if items(container, "/ports").any(is_host_port) {
            violations.push(must_not("hostPort"));
        }
        let added = added_capabilities(container);
        let excess: Vec<_> = added.filter(|name| !BASELINE_CAPABILITIES.contains(name)).collect();
        if !excess.is_empty() {
            violations.push(must_not(&format!("capabilities.add={}", excess.join(","))));
        }
    }
    violations
}

fn restricted(spec: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let is_allowed =
        |volume: &Value| RESTRICTED_VOLUMES.iter().any(|kind| volume.get(kind).is_some());
    for volume in items(spec, "/volumes").filter(|volume| !is_allowed(volume)) {
        violations.push(format!("restricted volume types (volume \"{}\")", name(volume)));
    }
    let of_pod = spec.get("securityContext");
    for container in containers(spec) {
        let (name, context) = (name(container), container.get("securityContext"));
        let must = |what: &str, required: &str| {
            format!("{what} (container \"{name}\" must set securityContext.{required})")
        };
        let of_container = |path: &str| context.and_then(|context| context.pointer(path));
        // A container's own value overrides the Pod's.
        let own_or_pods = |path: &str| {
            of_container(path).or_else(|| of_pod.and_then(|context| context.pointer(path)))
        };
        if of_container("/allowPrivilegeEscalation") != Some(&Value::Bool(false)) {
            violations.push(must("allowPrivilegeEscalation", "allowPrivilegeEscalation=false"));
        }
        if !items(container, "/securityContext/capabilities/drop").any(|name| name == "ALL") {
            violations.push(must("unrestricted capabilities", "capabilities.drop=[\"ALL\"]"));
        }
        if added_capabilities(container).any(|name| name != "NET_BIND_SERVICE") {
            violations.push(must(
                "unrestricted capabilities",
                "capabilities.add=[\"NET_BIND_SERVICE\"] or nothing",
            ));
        }
        if own_or_pods("/runAsNonRoot") != Some(&Value::Bool(true)) {
            violations.push(must("runAsNonRoot", "runAsNonRoot=true, or the Pod its own"));
        }
        if own_or_pods("/runAsUser").and_then(Value::as_i64) == Some(0) {
            violations.push(must("runAsUser=0", "runAsUser to another user"));
        }
        let profile = own_or_pods("/seccompProfile/type").and_then(Value::as_str);
        if !matches!(profile, Some("RuntimeDefault" | "Localhost")) {
            let required =
                "seccompProfile.type to \"RuntimeDefault\" or \"Localhost\", or the Pod its own";
            violations.push(must("seccompProfile", required));
        }
    }
    violations
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["/initContainers", "/containers", "/ephemeralContainers"];
    lists.into_iter().flat_map(|list| items(spec, list))
}

fn added_capabilities(container: &Value) -> impl Iterator<Item = &str> {
    items(container, "/securityContext/capabilities/add").filter_map(Value::as_str)
}

fn items<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn name(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a Pod that the level `restricted` allows.
    fn hardened() -> Value {
        json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }})
    }

    #[test]
    fn each_control_reports_its_field_only() {
        use PodSecurityLevel::{Baseline, Restricted};
        assert_eq!(violations(Restricted, &hardened()), [""; 0]);
        let container = "/spec/containers/0/securityContext";
        let rows: &[(&str, Value, &str, PodSecurityLevel)] = &[
            ("/spec/hostNetwork", json!(true), "host namespaces", Baseline),
            ("/spec/volumes/0/hostPath", json!({"path": "/"}), "hostPath", Baseline),
            ("/spec/securityContext/sysctls", json!([{"name": "kernel.x"}]), "kernel.x", Baseline),
            ("/spec/securityContext/seccompProfile/type", json!("Unconfined"), "seccomp", Baseline),
            (&format!("{container}/privileged"), json!(true), "privileged", Baseline),
            (&format!("{container}/procMount"), json!("Unmasked"), "procMount", Baseline),
            ("/spec/containers/0/ports", json!([{"hostPort": 80}]), "hostPort", Baseline),
            (&format!("{container}/capabilities/add"), json!(["SYS_ADMIN"]), "SYS_ADMIN", Baseline),
            (
                &format!("{container}/capabilities/add"),
                json!(["CHOWN"]),
                "unrestricted",
                Restricted,
            ),
            (&format!("{container}/capabilities/drop"), json!([]), "drop", Restricted),
            (
                &format!("{container}/allowPrivilegeEscalation"),
                json!(true),
                "allowPriv",
                Restricted,
            ),
            (&format!("{container}/runAsNonRoot"), json!(false), "runAsNonRoot", Restricted),
            (&format!("{container}/runAsUser"), json!(0), "runAsUser", Restricted),
            ("/spec/securityContext/seccompProfile", json!(null), "seccompProfile", Restricted),
            ("/spec/volumes", json!([{"name": "v", "nfs": {}}]), "volume \"v\"", Restricted),
        ];
        for (path, value, expected, level) in rows {
            let mut pod = hardened();
            let (parent, field) = path.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value.clone();
            let found = violations(Restricted, &pod);
            assert!(found.iter().any(|text| text.contains(expected)), "{path}: {found:?}");
            let at_baseline = !violations(Baseline, &pod).is_empty();
            assert_eq!(at_baseline, *level == Baseline, "{path}");
        }
    }

    #[test]
    fn a_namespace_without_the_label_allows_everything() {
        let labelled = |level: &str| json!({"metadata": {"labels": {ENFORCE_LABEL: level}}});
        assert_eq!(PodSecurityLevel::of(&json!({"metadata": {}})), None);
        assert_eq!(PodSecurityLevel::of(&labelled("privileged")), None);
        for level in [PodSecurityLevel::Baseline, PodSecurityLevel::Restricted] {
            assert_eq!(PodSecurityLevel::of(&labelled(level.as_str())), Some(level));
        }
    }
}
