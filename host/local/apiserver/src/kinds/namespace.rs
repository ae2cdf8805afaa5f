//! Namespaces: the ones that are always there, what each is born with, and how one ends.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::warn;

use crate::kinds::follow_up::FollowUpObject;
use crate::object::{child_mut, default, metadata_mut, name};
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::write_context::WriteContext;

/// The namespaces that exist from the start and cannot be deleted.
const INITIAL: [&str; 3] = ["default", "kube-system", "kube-node-lease"];
/// Who writes what the server writes by itself.
pub(crate) const MANAGER: &str = "tholepin-apiserver";

/// Fills in phase, finalizer and the label with the name.
pub(super) fn defaults(object: &mut Value) {
    let own_name = name(object).to_owned();
    let labels = metadata_mut(object).entry("labels").or_insert_with(|| json!({}));
    if let (Some(labels), false) = (labels.as_object_mut(), own_name.is_empty()) {
        labels.insert("kubernetes.io/metadata.name".into(), json!(own_name));
    }
    default(child_mut(object, "spec"), "finalizers", json!(["kubernetes"]));
    default(child_mut(object, "status"), "phase", json!("Active"));
}

/// The specification is the server's own.
pub(super) fn carry_over(old: &Value, new: &mut Value) {
    if let (Some(map), Some(spec)) = (new.as_object_mut(), old.get("spec")) {
        map.insert("spec".into(), spec.clone());
    }
}

/// Refuses to delete what the server needs.
pub(super) fn before_delete(cx: &WriteContext, object: &Value) -> Result<(), ApiError> {
    let own_name = name(object);
    if INITIAL.contains(&own_name) {
        let message =
            format!("namespaces \"{own_name}\" is forbidden: this namespace may not be deleted");
        return Err(ApiError::forbidden(message).about(cx.served.subject(own_name)));
    }
    Ok(())
}

/// Shows that the namespace is going away.
pub(super) fn begin_delete(object: &mut Value) {
    child_mut(object, "status").insert("phase".into(), json!("Terminating"));
}

/// The ServiceAccount that a new namespace gets.
pub(super) fn service_account(cx: &WriteContext, stored: &Value) -> Option<FollowUpObject> {
    let failure = "no default ServiceAccount";
    let object = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
    });
    match context(&cx.server, "serviceaccounts", name(stored), cx.now) {
        Ok(cx) => Some(FollowUpObject { cx, object, failure }),
        Err(error) => {
            warn!(namespace = name(stored), message = %error.message, "{failure}");
            None
        }
    }
}

/// The namespaces that are always there, and what their creation needs to know.
///
/// # Errors
///
/// The server does not offer namespaces.
pub(crate) fn initial(server: &Arc<ServerState>) -> Result<(WriteContext, [Value; 3]), ApiError> {
    let cx = context(server, "namespaces", "", Timestamp::now())?;
    let object =
        |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    Ok((cx, INITIAL.map(object)))
}

fn context(
    server: &Arc<ServerState>,
    plural: &str,
    namespace: &str,
    now: Timestamp,
) -> Result<WriteContext, ApiError> {
    Ok(WriteContext {
        server: Arc::clone(server),
        served: server.registry.find("", "v1", plural)?,
        namespace: namespace.to_owned(),
        now,
        manager: MANAGER.to_owned(),
        dry_run: false,
    })
}
