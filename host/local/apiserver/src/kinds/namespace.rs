//! Namespaces: the initial ones, defaults, the default ServiceAccount, and deletion.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::warn;

use crate::kinds::follow_up::FollowUpCreate;
use crate::object::{child_mut, default, metadata_mut, name};
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::write_context::ObjectWriteContext;

/// The namespaces that exist from the start and cannot be deleted.
const INITIAL: [&str; 3] = ["default", "kube-system", "kube-node-lease"];
/// The field manager of the server's own writes.
pub(crate) const MANAGER: &str = "tholepin-apiserver";

/// Sets the defaults: phase, finalizer and the label with the name.
pub(super) fn defaults(object: &mut Value) {
    let own_name = name(object).to_owned();
    let labels = metadata_mut(object).entry("labels").or_insert_with(|| json!({}));
    if let (Some(labels), false) = (labels.as_object_mut(), own_name.is_empty()) {
        labels.insert("kubernetes.io/metadata.name".into(), json!(own_name));
    }
    default(child_mut(object, "spec"), "finalizers", json!(["kubernetes"]));
    default(child_mut(object, "status"), "phase", json!("Active"));
}

/// Keeps the old `spec`, which only the server sets.
pub(super) fn carry_over(old: &Value, new: &mut Value) {
    if let (Some(map), Some(spec)) = (new.as_object_mut(), old.get("spec")) {
        map.insert("spec".into(), spec.clone());
    }
}

/// Refuses to delete an initial namespace.
pub(super) fn before_delete(cx: &ObjectWriteContext, object: &Value) -> Result<(), ApiError> {
    let own_name = name(object);
    if INITIAL.contains(&own_name) {
        let message =
            format!("namespaces \"{own_name}\" is forbidden: this namespace may not be deleted");
        return Err(ApiError::forbidden(message).with_subject(cx.served.subject(own_name)));
    }
    Ok(())
}

/// Sets the phase to `Terminating`.
pub(super) fn begin_delete(object: &mut Value) {
    child_mut(object, "status").insert("phase".into(), json!("Terminating"));
}

/// Returns the create of the ServiceAccount `default` for a new namespace.
pub(super) fn service_account(cx: &ObjectWriteContext, stored: &Value) -> Option<FollowUpCreate> {
    let failure = "cannot create the default ServiceAccount";
    let object = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
    });
    match context(&cx.server, "serviceaccounts", name(stored), cx.now) {
        Ok(cx) => Some(FollowUpCreate { cx, object, failure }),
        Err(error) => {
            warn!(namespace = name(stored), message = %error.message, "{failure}");
            None
        }
    }
}

/// Returns the initial namespaces, and the context in which to create them.
///
/// # Errors
///
/// Fails if the server does not serve namespaces.
pub(crate) fn initial(
    server: &Arc<ServerState>,
) -> Result<(ObjectWriteContext, [Value; 3]), ApiError> {
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
) -> Result<ObjectWriteContext, ApiError> {
    Ok(ObjectWriteContext {
        server: Arc::clone(server),
        served: server.registry.find("", "v1", plural)?,
        namespace: namespace.to_owned(),
        now,
        manager: MANAGER.to_owned(),
        dry_run: false,
    })
}
