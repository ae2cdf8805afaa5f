//! Namespaces: the ones that are always there, what each is born with, and how one ends.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::warn;

use crate::object::{child_mut, default, metadata_mut, name};
use crate::server::ServerState;
use crate::status::ApiError;
use crate::verbs::WriteContext;
use crate::verbs::create::{self, FieldOwnership};

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

/// Gives the new namespace its ServiceAccount.
pub(super) fn after_create(cx: &WriteContext, stored: &Arc<Value>) {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
    });
    let made = context(&cx.server, "serviceaccounts", name(stored), cx.now)
        .and_then(|cx| create::create(&cx, account, FieldOwnership::Create));
    if let Err(failure) = made {
        warn!(namespace = name(stored), message = %failure.message, "no default ServiceAccount");
    }
}

/// Creates the namespaces that are always there.
///
/// # Errors
///
/// One cannot be created.
pub(crate) fn create_initial(server: &Arc<ServerState>) -> Result<(), ApiError> {
    let cx = context(server, "namespaces", "", Timestamp::now())?;
    for name in INITIAL {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create::create(&cx, object, FieldOwnership::Create)?;
    }
    Ok(())
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
