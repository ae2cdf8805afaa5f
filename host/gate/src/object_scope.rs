//! Checks that a grant's scope covers the object of a call.
//!
//! What exists is judged by the object that the API server returned, never by what the plugin says of it. What does
//! not exist yet is judged by its namespace and by its only owner reference, which must be the reconciled object.

use serde_json::{Value, json};
use tholepin_core::{CallError, ObjectRef, port::WatchedStoreView};
use tholepin_schema::manifest::{GrantScope, KubernetesGrant};

use crate::{
    grant,
    ownership::{self, leads_to, text},
    reconcile_scope::ReconcileScope,
};

/// How a call uses an object that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectUse {
    /// It is read.
    Read,
    /// It is written to or deleted.
    Write,
}

/// Checks the scope of a grant for an object that exists.
///
/// # Errors
///
/// Fails with the scope that would be needed, or with the way to resolve a conflict of names.
pub(crate) fn check_existing(
    scope: &ReconcileScope,
    view: &dyn WatchedStoreView,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    (object, object_use): (&Value, ObjectUse),
) -> Result<(), CallError> {
    grant::not_reserved(reference)?;
    let reconciled = scope.reference();
    let is_in_namespace = reference.namespace == scope.key.namespace;
    // An object in a namespace cannot own one in another, whatever that one's references say.
    let may_be_owned = is_in_namespace || scope.key.namespace.is_empty();
    let is_owned = may_be_owned && leads_to(view, object, scope.uid());
    let Err(wider) = grant::scope(granted, is_owned, is_in_namespace) else { return Ok(()) };
    let (kind, uid) = (&granted.name, scope.uid());
    // A wider scope would let the plugin overwrite another owner's object.
    let text = if object_use == ObjectUse::Write && granted.scope == GrantScope::Owned {
        let remedy = remedy(scope, reference, object);
        format!("{reference} exists and does not belong to {reconciled} (uid {uid}): {remedy}")
    } else {
        format!(
            "{reference} is outside the scope of the grant for {kind}: {reconciled} (uid {uid}) does not \
             control it; the grant would need scope {wider}"
        )
    };
    Err(CallError::Denied(text))
}

/// Checks the scope of a grant for an object that a plugin applies, and the owner references in it. Says nothing
/// about an object that exists under the same name.
///
/// # Errors
///
/// Fails with the namespace or the owner reference that is needed, or with the scope that would be.
pub(crate) fn check_intent(
    scope: &ReconcileScope,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    intent: &Value,
) -> Result<(), CallError> {
    grant::not_reserved(reference)?;
    let reconciled = scope.reference();
    let references = intent.pointer("/metadata/ownerReferences");
    let names_owner = check_owner_references(scope, reference, references)?;
    let is_in_namespace = reference.namespace == scope.key.namespace;
    let is_owned = is_in_namespace && (names_owner || *reference == reconciled);
    let Err(wider) = grant::scope(granted, is_owned, is_in_namespace) else { return Ok(()) };
    let wider = if is_in_namespace { wider } else { "`cluster`" };
    let (kind, uid) = (&granted.name, scope.uid());
    let needed = if granted.scope == GrantScope::Owned && is_in_namespace {
        format!(
            "its `metadata.ownerReferences` must name {reconciled} (uid {uid}) as the controller"
        )
    } else {
        format!("its namespace must be `{}`, that of {reconciled}", scope.key.namespace)
    };
    Err(CallError::Denied(format!(
        "{reference} would be outside the scope of the grant for {kind}: {needed}, or the grant needs scope {wider}"
    )))
}

/// Checks the owner references that a merge patch sets.
///
/// # Errors
///
/// Fails if it changes them under the scope `owned`, or if it names another owner than the reconciled object.
pub(crate) fn check_patch(
    scope: &ReconcileScope,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    patch: &Value,
) -> Result<(), CallError> {
    let Some(references) = patch.pointer("/metadata/ownerReferences") else { return Ok(()) };
    if granted.scope == GrantScope::Owned {
        let text = format!("a patch of {reference} must not change its owner references");
        return Err(CallError::Denied(text));
    }
    check_owner_references(scope, reference, Some(references)).map(drop)
}

/// Returns true if the references name the reconciled object as the controller, false if there are none.
fn check_owner_references(
    scope: &ReconcileScope,
    reference: &ObjectRef,
    references: Option<&Value>,
) -> Result<bool, CallError> {
    let Some(references) = references.filter(|references| !references.is_null()) else {
        return Ok(false);
    };
    let reconciled = scope.reference();
    let is_reconciled = |entry: &Value| {
        text(entry, "/kind") == reconciled.kind.kind
            && text(entry, "/apiVersion") == reconciled.kind.api_version
            && text(entry, "/name") == reconciled.name
            && text(entry, "/uid") == scope.uid()
    };
    match references.as_array().map(Vec::as_slice) {
        Some([]) => Ok(false),
        Some([entry]) if is_reconciled(entry) => {
            Ok(entry.get("controller") == Some(&Value::Bool(true)))
        }
        _ => Err(CallError::Denied(format!(
            "the `metadata.ownerReferences` of {reference} must contain {reconciled} (uid {}) and no other owner: \
             with another one the object could be deleted or taken over on that one's behalf",
            scope.uid()
        ))),
    }
}

/// Returns who controls an object that is in the way, and how to resolve that.
fn remedy(scope: &ReconcileScope, reference: &ObjectRef, object: &Value) -> String {
    let reconciled = scope.reference();
    if let Some((owner, uid)) = ownership::controller(object) {
        return format!("{owner} (uid {uid}) controls it; rename one of the two");
    }
    // Hardly a field of a workload can be changed, so that an owner reference alone would not help.
    if object.pointer("/spec/template").is_some() {
        return "it has no controller; delete or rename one of the two".to_owned();
    }
    let owner = json!({"metadata": {"ownerReferences": [{
        "apiVersion": reconciled.kind.api_version, "kind": reconciled.kind.kind, "name": reconciled.name,
        "uid": scope.uid(), "controller": true, "blockOwnerDeletion": true,
    }]}});
    format!(
        "it has no controller; to make {reconciled} its controller: `kubectl patch --namespace {} {} {} --type \
         merge --patch '{owner}'`, else delete or rename it",
        reference.namespace,
        reference.kind.kind.to_lowercase(),
        reference.name
    )
}
