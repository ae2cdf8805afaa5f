//! Performs the calls of `tholepin:kubernetes` that the grants cover.

use std::sync::Arc;

use serde_json::{Value, json};
use tholepin_core::{
    ANNOTATION_PREFIX, Answer, CallError, KubernetesCall, ObjectRef, PlanStep, PlanStepEffect,
    ReadMode, Reply, WriteMode, condition,
    port::{ApplyRequest, DeleteRequest, PublishRequest, WatchedStoreView},
    step::APPLY_STATUS,
};
use tholepin_schema::manifest::{GrantScope, KindName, KubernetesGrant};

use crate::{
    credentials, field, grant,
    ownership::{self, leads_to},
    plan_steps::{self, KnownStateBefore},
    reconcile_context::ReconcileContext,
    reconcile_scope::ReconcileScope,
    stop_check,
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
        KubernetesCall::Apply { object, force } => apply(context, object, force, steps).await,
        KubernetesCall::ApplyStatus { object } => apply_status(context, object, steps).await,
        KubernetesCall::MergePatch { object, patch } => {
            merge_patch(context, object, patch, steps).await
        }
        KubernetesCall::Delete { object, uid, resource_version, grace_seconds } => {
            let dry_run = context.scope.mode == WriteMode::Plan;
            let request = DeleteRequest { object, uid, resource_version, grace_seconds, dry_run };
            delete(context, request, steps).await
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
        in_scope_of(scope, view, granted, object, (found, ObjectUse::Read))?;
    }
    Ok(found)
}

async fn apply(
    context: &ReconcileContext,
    mut object: Value,
    force: bool,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let mut reference = ownership::reference(&object).map_err(CallError::Invalid)?;
    let granted = context.granted(&reference.kind, "apply")?;
    no_reserved_annotations(&reference, &object)?;
    if force && !granted.force {
        let what = &reference.kind;
        return Err(CallError::Denied(format!("the grant for {what} does not have `force: true`")));
    }
    if reference.namespace.is_empty() && !context.scope.key.namespace.is_empty() {
        // An object without a namespace is applied in that of the reconciled object.
        let namespace = context.scope.key.namespace.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), Value::String(namespace.clone()));
        }
        reference.namespace = namespace;
    }
    in_scope(context, granted, &reference, (&object, ObjectUse::Intent))?;
    only_named_secrets(&context.scope.object, &object)?;
    let before = not_anothers(context, granted, &reference).await?;
    let request = ApplyRequest {
        field_manager: context.scope.field_manager(),
        object,
        force,
        status: false,
        dry_run: context.scope.mode == WriteMode::Plan,
    };
    match &before {
        Ok(Some(found)) => stop_check::before_apply(context, found, &request).await?,
        Ok(None) => stop_check::before_create(context, &request.object).await?,
        // The present state is not known, so it is not known either what the apply would stop.
        Err(error) => return Err(error.clone()),
    }
    send_apply(context, &reference, request, &before, steps).await
}

/// Returns the object that an apply finds under its name: `None`, or one that the grant covers. An intent
/// that names the reconciled object as its owner must not take over an object of another owner.
///
/// # Errors
///
/// Fails if it is another owner's. The reconciled object is woken when that changes.
async fn not_anothers(
    context: &ReconcileContext,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
) -> Result<Result<Option<Arc<Value>>, CallError>, CallError> {
    let before = current(context, reference, ReadMode::Cached).await;
    let Ok(Some(found)) = &before else { return Ok(before) };
    let in_store = in_scope(context, granted, reference, (found, ObjectUse::Written));
    let Err(refused) = in_store else { return Ok(before) };
    if context.scope.mode == WriteMode::Plan {
        return Err(refused);
    }
    // The store may be behind. A change that arrives before the wait is registered wakes nobody, so the live
    // object is read after that.
    context.add_name_conflict(reference);
    let live = current(context, reference, ReadMode::Live).await;
    if let Ok(Some(found)) = &live {
        in_scope(context, granted, reference, (found, ObjectUse::Written))?;
    }
    Ok(live)
}

/// Checks that the templates of a Secret (`${secret:NAME/KEY}`) name only Secrets that the object's author
/// named. A template copies a value that the plugin itself never sees.
fn only_named_secrets(reconciled: &Value, intent: &Value) -> Result<(), CallError> {
    const TEMPLATE: &str = "${secret:";
    let texts = intent.get("stringData").and_then(Value::as_object).into_iter().flatten();
    for text in texts.filter_map(|(_, value)| value.as_str()) {
        for template in text.split(TEMPLATE).skip(1) {
            let name = template.split(['/', '}']).next().unwrap_or_default();
            let kind = KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() };
            let secret = ObjectRef { kind, namespace: String::new(), name: name.to_owned() };
            grant::not_reserved(&secret)?;
            if !credentials::names_secret(reconciled, name) {
                let text = format!("the object's spec does not name the Secret `{name}`");
                return Err(CallError::Denied(text));
            }
        }
    }
    Ok(())
}

async fn apply_status(
    context: &ReconcileContext,
    object: Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let reference = ownership::reference(&object).map_err(CallError::Invalid)?;
    let granted = context.granted(&reference.kind, "apply-status")?;
    no_reserved_annotations(&reference, &object)?;
    let is_reconciled = reference == context.scope.reference();
    if !is_reconciled {
        in_scope(context, granted, &reference, (&object, ObjectUse::Intent))?;
    }
    refuse_reserved_conditions(&object)?;
    let before = current(context, &reference, ReadMode::Cached).await;
    let request = ApplyRequest {
        field_manager: context.scope.field_manager(),
        object,
        // The status of the reconciled object belongs to its plugin. The host owns a condition of it only
        // while no plugin reconciles the object, and an edit by hand must not keep the plugin from reporting.
        force: is_reconciled,
        status: true,
        dry_run: context.scope.mode == WriteMode::Plan,
    };
    send_apply(context, &reference, request, &before, steps).await
}

/// Checks that a write does not touch the annotations by which a person or the host gives instructions, neither
/// those of the object nor those in a template from which a controller makes other objects.
fn no_reserved_annotations(object: &ObjectRef, written: &Value) -> Result<(), CallError> {
    if written.pointer("/metadata/annotations").is_some_and(|annotations| !annotations.is_object())
    {
        let text = format!("a write to {object} must name its annotations, not replace them all");
        return Err(CallError::Denied(text));
    }
    match reserved_annotation(written) {
        None => Ok(()),
        Some(key) => Err(CallError::Denied(format!(
            "the annotation `{key}` of {object}, or of a template in it, may be written by a person or the host \
             only, not by a plugin"
        ))),
    }
}

/// Returns the first reserved annotation below `value`, at any depth. The depth is bounded by the parser of the
/// document.
fn reserved_annotation(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) => {
            let annotations = value.pointer("/metadata/annotations").and_then(Value::as_object);
            let keys = annotations.into_iter().flat_map(|annotations| annotations.keys());
            let own = keys.map(String::as_str).find(|key| key.starts_with(ANNOTATION_PREFIX));
            own.or_else(|| fields.values().find_map(reserved_annotation))
        }
        Value::Array(items) => items.iter().find_map(reserved_annotation),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn refuse_reserved_conditions(object: &Value) -> Result<(), CallError> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    for kind in conditions.into_iter().flatten().map(|entry| ownership::text(entry, "/type")) {
        if condition::RESERVED.contains(&kind) {
            let text = format!("the condition type `{kind}` is written by the host alone");
            return Err(CallError::Invalid(text));
        }
    }
    Ok(())
}

/// Sends an apply and records its step. `before` is for the report alone: an apply is sent although the
/// present state could not be read.
async fn send_apply(
    context: &ReconcileContext,
    object: &ObjectRef,
    request: ApplyRequest,
    before: &Result<Option<Arc<Value>>, CallError>,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    context.may_write()?;
    let by = if request.status { APPLY_STATUS } else { "apply" };
    let intent = request.object.clone();
    let is_planned = request.status && request.dry_run;
    let stored = match (context.kubernetes.apply(request).await, before) {
        // The object is from a file and exists only in the plan.
        (Err(CallError::NotFound(_)), Ok(Some(planned))) if is_planned => {
            with_status(planned, &intent)
        }
        (stored, _) => stored?,
    };
    let before = match before {
        Ok(before) => KnownStateBefore::Known(before.as_deref()),
        Err(_) => KnownStateBefore::Unknown,
    };
    steps.extend(plan_steps::written(by, object, &before, &intent, &stored));
    context.add_written(stored.clone());
    Ok(Reply::Document(stored))
}

fn with_status(object: &Value, intent: &Value) -> Value {
    let mut object = object.clone();
    if let (Some(fields), Some(status)) = (object.as_object_mut(), intent.get("status")) {
        fields.insert("status".to_owned(), status.clone());
    }
    object
}

async fn merge_patch(
    context: &ReconcileContext,
    object: ObjectRef,
    patch: Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let granted = context.granted(&object.kind, "merge-patch")?;
    no_reserved_annotations(&object, &patch)?;
    let found = current(context, &object, ReadMode::Cached).await?;
    let found = found.ok_or_else(|| CallError::NotFound(object.to_string()))?;
    in_scope(context, granted, &object, (&found, ObjectUse::Written))?;
    if granted.scope == GrantScope::Owned && patch.pointer("/metadata/ownerReferences").is_some() {
        let text = format!("a patch of {object} must not change its owner references");
        return Err(CallError::Denied(text));
    }
    stop_check::before_patch(context, &object, &found, &patch).await?;
    let dry_run = context.scope.mode == WriteMode::Plan;
    let manager = context.scope.field_manager();
    context.may_write()?;
    let (port, target) = (&context.kubernetes, object.clone());
    let stored = port.merge_patch(target, patch.clone(), manager, dry_run).await?;
    let before = KnownStateBefore::Known(Some(&found));
    steps.extend(plan_steps::written("merge-patch", &object, &before, &patch, &stored));
    context.add_written(stored.clone());
    Ok(Reply::Document(stored))
}

/// Deletes the object that was read and not its successor: its uid becomes a precondition.
async fn delete(
    context: &ReconcileContext,
    mut request: DeleteRequest,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let granted = context.granted(&request.object.kind, "delete")?;
    let found = current(context, &request.object, ReadMode::Cached).await?;
    let found = found.ok_or_else(|| CallError::NotFound(request.object.to_string()))?;
    in_scope(context, granted, &request.object, (&found, ObjectUse::Written))?;
    let current_uid = ownership::text(&found, "/metadata/uid");
    match &request.uid {
        Some(uid) if uid != current_uid => {
            let text = format!("{} has the uid {current_uid}, not {uid}", request.object);
            return Err(CallError::Conflict(text));
        }
        Some(_) => {}
        None => request.uid = Some(current_uid.to_owned()),
    }
    context.may_write()?;
    stop_check::before_delete(context, &found, &mut request).await?;
    let object = request.object.clone();
    context.may_write()?;
    context.kubernetes.delete(request).await?;
    steps.push(plan_steps::deleted(&object));
    if context.scope.mode == WriteMode::Plan {
        context.add_deleted(&object);
    }
    Ok(Reply::Done)
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

/// How a call uses an object.
#[derive(Clone, Copy)]
enum ObjectUse {
    /// It exists and is read.
    Read,
    /// It exists and is written to or deleted.
    Written,
    /// It is the object that the plugin applies.
    Intent,
}

fn in_scope(
    context: &ReconcileContext,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    target: (&Value, ObjectUse),
) -> Result<(), CallError> {
    in_scope_of(&context.scope, &*context.view(), granted, reference, target)
}

fn in_scope_of(
    scope: &ReconcileScope,
    view: &dyn WatchedStoreView,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    (object, target): (&Value, ObjectUse),
) -> Result<(), CallError> {
    grant::not_reserved(reference)?;
    let reconciled = scope.reference();
    let is_owned = *reference == reconciled || leads_to(view, object, scope.uid());
    let is_in_namespace = reference.namespace == scope.key.namespace;
    let Err(wider) = grant::scope(granted, is_owned, is_in_namespace) else { return Ok(()) };
    let (kind, uid) = (&granted.name, scope.uid());
    let text = match target {
        // A wider scope would let the plugin overwrite another owner's object.
        ObjectUse::Written if granted.scope == GrantScope::Owned => {
            let remedy = remedy(scope, reference, object);
            format!("{reference} exists and does not belong to {reconciled} (uid {uid}): {remedy}")
        }
        ObjectUse::Intent if granted.scope == GrantScope::Owned => format!(
            "{reference} would be outside the scope of the grant for {kind}: its `metadata.ownerReferences` \
             must name {reconciled} (uid {uid}) as the controller, or the grant needs scope {wider}"
        ),
        ObjectUse::Read | ObjectUse::Written | ObjectUse::Intent => format!(
            "{reference} is outside the scope of the grant for {kind}: {reconciled} (uid {uid}) does not \
             control it; the grant would need scope {wider}"
        ),
    };
    Err(CallError::Denied(text))
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
