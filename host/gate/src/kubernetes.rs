//! Performs the calls of `tholepin:kubernetes` that the grants cover.

mod write;

use std::sync::Arc;

use serde_json::{Value, json};
use tholepin_core::{
    Answer, CallError, KubernetesCall, ObjectRef, PlanStep, PlanStepEffect, ReadMode, Reply,
    WriteMode,
    port::{DeleteRequest, PublishRequest, WatchedStoreView},
};
use tholepin_schema::manifest::{KindName, KubernetesGrant};

use crate::{
    field, grant,
    object_scope::{self, ObjectUse},
    ownership,
    reconcile_context::ReconcileContext,
    reconcile_scope::ReconcileScope,
};

pub(crate) async fn perform(
    context: &ReconcileContext,
    call: KubernetesCall,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    match call {
        KubernetesCall::Get { object, read, fields } => get(context, object, read, &fields).await,
        KubernetesCall::List { kind, namespace, selector, read, fields } => {
            list(context, kind, namespace, selector, read, &fields).await
        }
        KubernetesCall::Apply { object, force } => {
            write::apply(context, object, force, steps).await
        }
        KubernetesCall::ApplyStatus { object } => write::apply_status(context, object, steps).await,
        KubernetesCall::MergePatch { object, patch } => {
            write::merge_patch(context, object, patch, steps).await
        }
        KubernetesCall::Delete { object, uid, resource_version, grace_seconds } => {
            let dry_run = context.scope.mode == WriteMode::Plan;
            let request = DeleteRequest { object, uid, resource_version, grace_seconds, dry_run };
            write::delete(context, request, steps).await
        }
        KubernetesCall::Warnings { object } => warnings(context, object).await,
        KubernetesCall::Publish { event_type, reason, message } => {
            let scope = &context.scope;
            // An event is about the reconciled object, so its kind must be granted.
            context.granted(&scope.key.kind, "publish")?;
            context.may_write()?;
            let effect = PlanStepEffect::Event {
                event_type,
                reason: reason.clone(),
                message: message.clone(),
            };
            let request = PublishRequest {
                reporter: scope.field_manager(),
                regarding: scope.reference(),
                regarding_uid: scope.uid().to_owned(),
                event_type,
                reason,
                message,
            };
            if scope.mode == WriteMode::Live {
                context.kubernetes.publish(request).await?;
            }
            steps.push(PlanStep::new(effect));
            Ok(Reply::Done)
        }
    }
}

/// A cached read of a kind that is not watched goes to the API server.
async fn get(
    context: &ReconcileContext,
    object: ObjectRef,
    read: ReadMode,
    fields: &[String],
) -> Answer {
    let found = look_up(context, &object, read).await?;
    let found = found.ok_or_else(|| CallError::NotFound(object.to_string()))?;
    Ok(Reply::Document(field::keep(&found, fields)))
}

/// Returns an object, or `None` if it does not exist, under the grant of `get`.
pub(crate) async fn look_up(
    context: &ReconcileContext,
    object: &ObjectRef,
    read: ReadMode,
) -> Result<Option<Arc<Value>>, CallError> {
    let granted = context.granted(&object.kind, "get")?;
    let found = current(context, object, read).await?;
    if let Some(found) = &found {
        in_scope(context, granted, object, (found, ObjectUse::Read))?;
    }
    Ok(found)
}

/// Leaves out the objects that the grant's scope does not cover instead of refusing the call.
async fn list(
    context: &ReconcileContext,
    kind: KindName,
    namespace: String,
    selector: String,
    read: ReadMode,
    fields: &[String],
) -> Answer {
    let granted = context.granted(&kind, "list")?;
    let view = context.view();
    let found: Vec<Arc<Value>> = if read == ReadMode::Cached && view.covers(&kind) {
        view.list(&kind, &namespace, &selector)?
    } else {
        let live = context.kubernetes.list(kind, namespace, selector).await?;
        live.into_iter().map(Arc::new).collect()
    };
    let reaches = |object: &&Arc<Value>| {
        ownership::reference(object).is_ok_and(|reference| {
            in_scope(context, granted, &reference, (object, ObjectUse::Read)).is_ok()
        })
    };
    let kept = found.iter().filter(reaches).map(|object| field::keep(object, fields));
    Ok(Reply::Documents(context.collect_documents(kept)?))
}

/// The scope of the grant for events decides about which objects warnings may be read.
async fn warnings(context: &ReconcileContext, object: ObjectRef) -> Answer {
    let events = KindName { api_version: "v1".to_owned(), kind: "Event".to_owned() };
    let granted = context.granted(&events, "list")?;
    let found = current(context, &object, ReadMode::Cached).await?;
    let found = found.ok_or_else(|| CallError::NotFound(object.to_string()))?;
    in_scope(context, granted, &object, (&found, ObjectUse::Read))?;
    let uid = ownership::text(&found, "/metadata/uid").to_owned();
    let warnings = context.kubernetes.warnings(object, uid).await?;
    Ok(Reply::Documents(warnings.iter().map(|warning| json!(warning)).collect()))
}

/// Returns an object from the store, or `None` if it does not exist, under the grant of `get`.
///
/// # Errors
///
/// Fails if it is not granted, is out of scope, or if its kind is not watched.
pub(crate) fn in_store(
    scope: &ReconcileScope,
    view: &dyn WatchedStoreView,
    object: &ObjectRef,
) -> Result<Option<Arc<Value>>, CallError> {
    let granted = grant::kubernetes(&scope.grants, &object.kind, "get")?;
    if !view.covers(&object.kind) {
        let kind = &object.kind;
        let text = format!("{kind} is not watched (yet): the manifest's `watches` must name it");
        return Err(CallError::Unsupported(text));
    }
    let found = view.get(object);
    if let Some(found) = &found {
        object_scope::check_existing(scope, view, granted, object, (found, ObjectUse::Read))?;
    }
    Ok(found)
}

/// Returns the object as the reconcile sees it, or as the API server has it.
async fn current(
    context: &ReconcileContext,
    object: &ObjectRef,
    read: ReadMode,
) -> Result<Option<Arc<Value>>, CallError> {
    grant::not_reserved(object)?;
    if read == ReadMode::Cached && context.covers(object) {
        return Ok(context.view().get(object));
    }
    match context.kubernetes.get(object.clone()).await {
        Ok(found) => Ok(Some(Arc::new(found))),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn in_scope(
    context: &ReconcileContext,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    target: (&Value, ObjectUse),
) -> Result<(), CallError> {
    object_scope::check_existing(&context.scope, &*context.view(), granted, reference, target)
}
