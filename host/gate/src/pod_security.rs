//! Checks the Pods that a write of a plugin makes: a workload is as powerful as its Pod template. Pure.
//!
//! The check reads Pod specs wherever they are: in a Pod, below each `template`, and in every map with
//! containers, of every kind. Within a Pod spec it goes by the names of the fields at any depth, so that a field
//! that Kubernetes adds to another place is found there, too.
//!
//! Invariants:
//! - A Pod uses only Secrets that [`secret_use`] allows, and has the token of a service account, a part of its
//!   node or a node of the plugin's choice only by a word of `podSecurity`.
//! - A field whose value is null is absent. A value of a wrong type counts as set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Map, Value};
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::pod_permission::PodPermission;

use crate::{ReconcileScope, grant, secret_use};

/// The lists of containers of a Pod spec. A map with one of them is a Pod spec, wherever it is.
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Maps within a Pod spec whose keys are labels or names of resources, not fields.
const FREE_KEYS: [&str; 5] = ["nodeSelector", "matchLabels", "limits", "requests", "overhead"];

const TOKEN_FIELD: &str = "automountServiceAccountToken";

/// A Pod spec within an object, and whether it must say that its Pods have no token.
#[derive(Clone, Copy)]
struct FoundPodSpec<'a> {
    spec: &'a Value,
    needs_token_field: bool,
}

/// What a Pod spec uses.
#[derive(Default)]
struct PodSpecUses {
    /// The fields that need a permission, by their path.
    permissions: Vec<(PodPermission, String)>,
    secrets: Vec<SecretInPod>,
}

struct SecretInPod {
    /// The namespace, if the field names one.
    namespace: Option<String>,
    name: String,
    path: String,
}

/// Checks an apply. `found` is the object that it finds: what it leaves out is removed from that object.
///
/// # Errors
///
/// Fails with the field, and with the grant that allows it.
pub(crate) fn check_apply(
    scope: &ReconcileScope,
    object: &ObjectRef,
    intent: &Value,
    found: Option<&Value>,
) -> Result<(), CallError> {
    secret_use::check_write(scope, object, intent)?;
    let specs = pod_specs(object, intent);
    specs.iter().try_for_each(|(path, spec)| check_spec(scope, object, path, *spec))?;
    for (path, before) in found.map(|found| pod_specs(object, found)).unwrap_or_default() {
        if specs.contains_key(&path) {
            continue;
        }
        // Containers that another write put there make it a Pod spec, although the intent names none.
        if let Some(spec) = at_path(intent, &path) {
            check_spec(scope, object, &path, FoundPodSpec { spec, ..before })?;
        } else if before.spec.get(TOKEN_FIELD) == Some(&Value::Bool(false)) && !is_pod(object) {
            let field = format!("the apply would remove `{path}.{TOKEN_FIELD}: false`");
            check_permissions(scope, object, &[(PodPermission::ServiceAccount, field)])?;
        }
    }
    Ok(())
}

/// The spec of a Pod that exists cannot be changed by leaving fields out.
fn is_pod(object: &ObjectRef) -> bool {
    object.kind.kind == "Pod" && object.kind.group().is_empty()
}

/// Checks a merge patch. A Pod spec that the patch leaves as it is does not matter; one that it changes is
/// checked as a whole, because a new image gets all that the Pod has already.
///
/// # Errors
///
/// As [`check_apply`].
pub(crate) fn check_patch(
    scope: &ReconcileScope,
    object: &ObjectRef,
    found: &Value,
    patch: &Value,
) -> Result<(), CallError> {
    secret_use::check_write(scope, object, patch)?;
    let mut patched = found.clone();
    merge(&mut patched, patch);
    let before = pod_specs(object, found);
    for (path, spec) in pod_specs(object, &patched) {
        if before.get(&path).is_none_or(|before| before.spec != spec.spec) {
            check_spec(scope, object, &path, spec)?;
        }
    }
    Ok(())
}

/// Applies a merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// Returns the Pod specs of an object by their paths.
fn pod_specs<'a>(object: &ObjectRef, value: &'a Value) -> BTreeMap<String, FoundPodSpec<'a>> {
    let mut found = BTreeMap::new();
    let is_of_kubernetes = matches!(object.kind.group(), "" | "apps" | "batch" | "extensions");
    let mut add = |spec: &'a Value, path: &str| {
        found.insert(path.to_owned(), FoundPodSpec { spec, needs_token_field: true });
    };
    if has_containers(value) {
        add(value, "");
    }
    if let Some(spec) = value.get("spec").filter(|spec| is_pod(object) && !spec.is_null()) {
        add(spec, ".spec");
    }
    find_pod_specs(value, is_of_kubernetes, &mut String::new(), &mut found);
    found
}

fn has_containers(value: &Value) -> bool {
    let is_list = |list: &Value| list.is_array() || list.is_object();
    CONTAINER_LISTS.iter().any(|name| value.get(name).is_some_and(is_list))
}

/// Returns the value at a path as [`each_child`] writes it.
fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut found = (path.is_empty() && !value.is_null()).then_some(value);
    find_path(value, &mut String::new(), path, &mut found);
    found
}

fn find_path<'a>(value: &'a Value, path: &mut String, wanted: &str, found: &mut Option<&'a Value>) {
    each_child(value, path, &mut |_, child, path| {
        if path.as_str() == wanted && !child.is_null() {
            *found = Some(child);
        } else if wanted.starts_with(path.as_str()) {
            find_path(child, path, wanted, found);
        }
    });
}

/// Finds Pod specs below a value. A `template` of a kind that is not Kubernetes' own may be something else than
/// a Pod's, so that its fields are checked, but the field about the token is required only beside containers.
fn find_pod_specs<'a>(
    value: &'a Value,
    is_of_kubernetes: bool,
    path: &mut String,
    found: &mut BTreeMap<String, FoundPodSpec<'a>>,
) {
    each_child(value, path, &mut |key, child, path| {
        let mut add = |spec: &'a Value, path: &str, needs_token_field: bool| {
            let entry = found.entry(path.to_owned());
            entry.or_insert(FoundPodSpec { spec, needs_token_field: false }).needs_token_field |=
                needs_token_field;
        };
        if has_containers(child) {
            add(child, path, true);
        }
        let spec = child.get("spec").filter(|spec| !spec.is_null());
        if let Some(spec) = spec.filter(|_| is_pod_template(key)) {
            add(spec, &format!("{path}.spec"), is_of_kubernetes);
        }
        find_pod_specs(child, is_of_kubernetes, path, found);
    });
}

/// Returns true for `template`, `podTemplate` and the like, but not for the template of a volume claim or a job,
/// whose `spec` is none of a Pod.
fn is_pod_template(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("template") && !key.ends_with("claimtemplate") && key != "jobtemplate"
}

/// Calls `visit` with the key, the value and the path of each field or item. The depth is bounded by the parser
/// of the document.
fn each_child<'a>(
    value: &'a Value,
    path: &mut String,
    visit: &mut dyn FnMut(&'a str, &'a Value, &mut String),
) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                path.push('.');
                path.push_str(key);
                visit(key, field, path);
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // Writing to a `String` cannot fail.
                let _ = write!(path, "[{index}]");
                visit("", item, path);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_spec(
    scope: &ReconcileScope,
    object: &ObjectRef,
    path: &str,
    FoundPodSpec { spec, needs_token_field }: FoundPodSpec<'_>,
) -> Result<(), CallError> {
    let mut uses = PodSpecUses::default();
    read_uses(spec, &mut path.to_owned(), &object.namespace, &mut uses);
    if needs_token_field && spec.get(TOKEN_FIELD).is_none_or(Value::is_null) {
        let field = format!("{path}.{TOKEN_FIELD} is not `false`");
        uses.permissions.push((PodPermission::ServiceAccount, field));
    }
    check_permissions(scope, object, &uses.permissions)?;
    for SecretInPod { namespace, name, path } in uses.secrets {
        let namespace = namespace.as_deref().unwrap_or(&object.namespace);
        secret_use::check_of_pod(scope, namespace, &name)
            .map_err(|denied| grant::about(format!("a Pod of {object} ({path})"), denied))?;
    }
    Ok(())
}

/// Checks that each of these permissions is granted. Names all that are missing, so that they can be granted at
/// once.
fn check_permissions(
    scope: &ReconcileScope,
    object: &ObjectRef,
    uses: &[(PodPermission, String)],
) -> Result<(), CallError> {
    let is_granted = |permission: PodPermission| {
        scope.grants.pod_security.iter().any(|granted| granted == permission.as_str())
    };
    let missing: Vec<&(PodPermission, String)> =
        uses.iter().filter(|(permission, _)| !is_granted(*permission)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let words: BTreeSet<&str> = missing.iter().map(|(permission, _)| permission.as_str()).collect();
    let words = words.into_iter().collect::<Vec<_>>().join(", ");
    let fields = missing.iter().map(|(_, field)| field.as_str()).collect::<Vec<_>>().join(", ");
    let is_about_token = missing.iter().any(|(_, field)| field.contains(TOKEN_FIELD));
    let other = if is_about_token {
        ", or `automountServiceAccountToken: false` in the Pod spec"
    } else {
        ""
    };
    Err(CallError::Denied(format!(
        "a Pod of {object} would get what is not granted ({fields}); the Plugin's spec.grants.podSecurity needs \
         [{words}]{other}"
    )))
}

fn read_uses(value: &Value, path: &mut String, namespace: &str, uses: &mut PodSpecUses) {
    each_child(value, path, &mut |key, field, path| {
        if field.is_null() {
            return;
        }
        if let Some(permission) = permission(key, field) {
            uses.permissions.push((permission, path.clone()));
        }
        if FREE_KEYS.contains(&key) {
            return;
        }
        if key.to_ascii_lowercase().contains("secret") {
            read_secrets(key, field, path, namespace, uses);
        }
        read_uses(field, path, namespace, uses);
    });
}

/// Returns the permission that a field of a Pod spec needs with this value.
fn permission(key: &str, value: &Value) -> Option<PodPermission> {
    let is_on = *value != Value::Bool(false);
    let is_named = *value != "";
    let (needs, permission) = match key {
        "capabilities" => (adds(value), PodPermission::Capabilities),
        "hostIPC" => (is_on, PodPermission::HostIpc),
        "hostNetwork" => (is_on, PodPermission::HostNetwork),
        "hostPath" => (true, PodPermission::HostPath),
        "hostPID" => (is_on, PodPermission::HostPid),
        "hostPort" => (*value != 0, PodPermission::HostPorts),
        "nodeName" => (is_named, PodPermission::NodeName),
        "privileged" | "allowPrivilegeEscalation" | "hostProcess" => {
            (is_on, PodPermission::Privileged)
        }
        "procMount" => (is_named && *value != "Default", PodPermission::Privileged),
        // Kubernetes itself sets `default`, which gives nothing without a token.
        "serviceAccountName" | "serviceAccount" => {
            (is_named && *value != "default", PodPermission::ServiceAccount)
        }
        TOKEN_FIELD => (is_on, PodPermission::ServiceAccount),
        "serviceAccountToken" | "podCertificate" => (true, PodPermission::ServiceAccount),
        _ => return None,
    };
    needs.then_some(permission)
}

fn adds(capabilities: &Value) -> bool {
    let is_nothing = |added: &Value| added.is_null() || added.as_array().is_some_and(Vec::is_empty);
    capabilities.get("add").is_some_and(|added| !is_nothing(added))
}

/// Reads the names in a field whose own name says that it names Secrets: `secretName`, `secretRef`,
/// `imagePullSecrets`, `nodePublishSecretRef`, and those of drivers of volumes.
fn read_secrets(key: &str, value: &Value, path: &str, namespace: &str, uses: &mut PodSpecUses) {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let is_namespace = key.eq_ignore_ascii_case("secretNamespace");
    if is_namespace && value.as_str() == Some(namespace) {
        return;
    }
    match value {
        Value::Array(items) => {
            items.iter().for_each(|item| read_secrets(key, item, path, namespace, uses));
        }
        Value::Object(fields) => {
            if let Some(name) = fields.get("name").and_then(text) {
                let namespace = fields.get("namespace").and_then(text);
                uses.secrets.push(SecretInPod { namespace, name, path: format!("{path}.name") });
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            if let Some(name) = text(value) {
                uses.secrets.push(SecretInPod { namespace: None, name, path: path.to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests;
