//! Decides which Secrets a plugin may use. Pure.
//!
//! A plugin never sees a value of a Secret, but a Pod, a template (`${secret:NAME/KEY}`) or an instance that it
//! writes makes use of one. It may name only Secrets that the author of the reconciled object named, in a field
//! that the manifest declares in `secretFields`, and those that its grants list.

use serde_json::Value;
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{
    manifest::KindName,
    pod_permission::PodPermission,
    reserved::{self, ReservedObjectPurpose},
};

use crate::{ReconcileScope, field, grant, ownership::text};

/// Types of Secrets that the API server itself fills in or accepts as the identity of a client.
const TOKEN_TYPES: &[&str] =
    &["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];
/// The annotation by which a Secret asks for the token of a service account.
const TOKEN_OF: &str = "kubernetes.io/service-account.name";

/// Checks that the plugin may use a Secret. The fields of the reconciled object name Secrets in its own
/// namespace only.
///
/// # Errors
///
/// Fails with both ways to allow it.
pub(crate) fn check(scope: &ReconcileScope, namespace: &str, name: &str) -> Result<(), CallError> {
    let kind = KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() };
    let secret = ObjectRef { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    grant::not_reserved(&secret)?;
    let is_own_namespace = namespace == scope.key.namespace;
    let names = |path: &String| field::texts(&scope.object, path).contains(&name);
    if is_own_namespace && scope.secret_fields.iter().any(names) {
        return Ok(());
    }
    let covers = |entry: &String| match entry.split_once('/') {
        Some((of, granted)) => of == namespace && granted == name,
        None => is_own_namespace && entry == name,
    };
    if scope.grants.secrets.iter().any(covers) {
        return Ok(());
    }
    let entry = if is_own_namespace { name.to_owned() } else { format!("{namespace}/{name}") };
    let declared = match scope.secret_fields.as_slice() {
        _ if !is_own_namespace => {
            format!("{} can name only Secrets of its own namespace", scope.reference())
        }
        [] => "the manifest declares no `secretFields`".to_owned(),
        paths => format!("{} does not name it in {}", scope.reference(), paths.join(" or ")),
    };
    Err(CallError::Denied(format!(
        "the Secret `{name}` may not be used: {declared}; to allow it, the Plugin's spec.grants.secrets needs \
         [{entry}]"
    )))
}

/// As [`check`], for a Secret that a Pod uses. Pods may also use the credentials that the host keeps for the
/// reconciled object, and for no other.
pub(crate) fn check_of_pod(
    scope: &ReconcileScope,
    namespace: &str,
    name: &str,
) -> Result<(), CallError> {
    let (kind, uid) = (&scope.key.kind.kind, scope.uid());
    let is_kept = !uid.is_empty()
        && namespace == scope.key.namespace
        && name == reserved::name(ReservedObjectPurpose::Credentials, kind, uid);
    if is_kept { Ok(()) } else { check(scope, namespace, name) }
}

/// Checks a write for Secrets that it names outside of Pods: in templates; in declared fields, because the
/// next reconcile would believe that a person named the Secret; and as the token of a service account.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_write(
    scope: &ReconcileScope,
    object: &ObjectRef,
    written: &Value,
) -> Result<(), CallError> {
    let is_core = object.kind.group().is_empty();
    let is_secret = is_core && object.kind.kind == "Secret";
    let mut names = Vec::new();
    template_names(written, is_secret, &mut names);
    // Kubernetes adds the Secrets of a service account to the Pods that use it.
    let is_account = is_core && object.kind.kind == "ServiceAccount";
    let of_account = [".imagePullSecrets.name", ".secrets.name"].map(str::to_owned);
    let of_account = of_account.iter().filter(|_| is_account);
    for path in scope.secret_fields.iter().chain(of_account) {
        names.extend(field::texts(written, path).into_iter().filter(|name| !name.is_empty()));
    }
    names.into_iter().try_for_each(|name| check(scope, &object.namespace, name))?;
    if is_secret { check_token(scope, object, written) } else { Ok(()) }
}

/// Checks that a Secret does not ask for a token: Kubernetes would write one into it.
fn check_token(
    scope: &ReconcileScope,
    object: &ObjectRef,
    written: &Value,
) -> Result<(), CallError> {
    let permission = PodPermission::ServiceAccount.as_str();
    let annotation = written.pointer("/metadata/annotations").and_then(|all| all.get(TOKEN_OF));
    let asks = TOKEN_TYPES.contains(&text(written, "/type"))
        || annotation.is_some_and(|value| !value.is_null());
    if !asks || scope.grants.pod_security.iter().any(|granted| granted == permission) {
        return Ok(());
    }
    Err(CallError::Denied(format!(
        "{object} would contain a token that the API server accepts (its `type`, or the annotation \
         `{TOKEN_OF}`); the Plugin's spec.grants.podSecurity needs [{permission}]"
    )))
}

/// Collects the names in templates: in all texts of a Secret, and below each `stringData` of another object,
/// from which a controller may make a Secret.
fn template_names<'a>(value: &'a Value, is_secret: bool, names: &mut Vec<&'a str>) {
    const TEMPLATE: &str = "${secret:";
    match value {
        Value::String(text) if is_secret => {
            let templates = text.split(TEMPLATE).skip(1);
            names.extend(templates.filter_map(|template| template.split(['/', '}']).next()));
        }
        Value::Array(items) => items.iter().for_each(|item| template_names(item, is_secret, names)),
        Value::Object(fields) => fields.iter().for_each(|(key, field)| {
            template_names(field, is_secret || key == "stringData", names)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
