//! Writes objects: checks the intent, the object that it meets, and what the write would stop, and sends it on the
//! condition that the object is still the one that was checked.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{
    Answer, CallError, ObjectRef, PlanStep, ReadMode, Reply, WriteMode, condition,
    port::{ApplyRequest, DeleteRequest},
    step::APPLY_STATUS,
};
use tholepin_schema::manifest::KubernetesGrant;

use super::{current, in_scope};
use crate::{
    left_to_people,
    object_scope::{self, ObjectUse},
    ownership,
    plan_steps::{self, KnownStateBefore},
    pod_security, precondition,
    reconcile_context::ReconcileContext,
    stop_check,
};

/// How often a write is sent at most, if the object changes between the check and the write.
const ATTEMPTS_MAX: u32 = 3;

pub(super) async fn apply(
    context: &ReconcileContext,
    mut object: Value,
    force: bool,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let mut reference = ownership::reference(&object).map_err(CallError::Invalid)?;
    let granted = context.granted(&reference.kind, "apply")?;
    left_to_people::check(context, &reference, &object)?;
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
    object_scope::check_intent(&context.scope, granted, &reference, &object)?;
    let intent = ApplyRequest {
        field_manager: context.scope.field_manager(),
        object,
        force,
        status: false,
        dry_run: context.scope.mode == WriteMode::Plan,
    };
    let mut found = written_object(context, granted, &reference).await?;
    let mut attempt = 1;
    loop {
        let answer = apply_once(context, &reference, &intent, found.as_deref(), steps).await;
        match changed_meanwhile(context, &reference, found.as_deref(), &answer, attempt).await? {
            None => return answer,
            Some(live) => found = live,
        }
        check_written(context, granted, &reference, found.as_deref())?;
        attempt += 1;
    }
}

/// Sends an apply, on the condition that the object is the one that was found.
async fn apply_once(
    context: &ReconcileContext,
    reference: &ObjectRef,
    intent: &ApplyRequest,
    found: Option<&Value>,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    pod_security::check_apply(&context.scope, reference, &intent.object, found)?;
    let mut request = intent.clone();
    match found {
        Some(found) => {
            precondition::add(context, reference, &mut request.object, found)?;
            stop_check::before_apply(context, found, &request).await?;
        }
        None => stop_check::before_create(context, &request.object).await?,
    }
    let before = KnownStateBefore::Known(found);
    send_apply(context, reference, request, &intent.object, &before, steps).await
}

/// Returns the object under the name of an intent, which must be one that the grant covers: an intent that names
/// the reconciled object as its owner must not take over an object of another owner. `None` if there is none by the
/// API server's own answer.
///
/// # Errors
///
/// Fails if it is another owner's, or cannot be read. The reconciled object is woken when that changes.
async fn written_object(
    context: &ReconcileContext,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
) -> Result<Option<Arc<Value>>, CallError> {
    let is_plan = context.scope.mode == WriteMode::Plan;
    let by_store = context.covers(reference);
    let found = current(context, reference, ReadMode::Cached).await?;
    // The store may be behind. A plan works on what it assumes.
    let found = match found {
        None if by_store && !is_plan => current(context, reference, ReadMode::Live).await?,
        found => found,
    };
    let Err(refused) = check_written(context, granted, reference, found.as_deref()) else {
        return Ok(found);
    };
    if is_plan {
        return Err(refused);
    }
    // A change that arrives before the wait is registered wakes nobody, so the live object is read after that.
    context.add_name_conflict(reference);
    let live = current(context, reference, ReadMode::Live).await?;
    check_written(context, granted, reference, live.as_deref())?;
    Ok(live)
}

/// Checks that the grant covers the object that a write found.
fn check_written(
    context: &ReconcileContext,
    granted: &KubernetesGrant,
    reference: &ObjectRef,
    found: Option<&Value>,
) -> Result<(), CallError> {
    let Some(found) = found else { return Ok(()) };
    in_scope(context, granted, reference, (found, ObjectUse::Write))
}

/// Returns the live object if a write failed because the object had changed since it was found; the write is then
/// checked and sent again. Returns `None` if the answer stands.
async fn changed_meanwhile(
    context: &ReconcileContext,
    reference: &ObjectRef,
    found: Option<&Value>,
    answer: &Answer,
    attempt: u32,
) -> Result<Option<Option<Arc<Value>>>, CallError> {
    let is_conflict = matches!(answer, Err(CallError::Conflict(_)));
    if !is_conflict || attempt == ATTEMPTS_MAX || context.scope.mode == WriteMode::Plan {
        return Ok(None);
    }
    let live = current(context, reference, ReadMode::Live).await?;
    Ok((precondition::version(live.as_deref()) != precondition::version(found)).then_some(live))
}

pub(super) async fn apply_status(
    context: &ReconcileContext,
    object: Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let reference = ownership::reference(&object).map_err(CallError::Invalid)?;
    let granted = context.granted(&reference.kind, "apply-status")?;
    left_to_people::check(context, &reference, &object)?;
    refuse_reserved_conditions(&object)?;
    let is_reconciled = reference == context.scope.reference();
    let intent = ApplyRequest {
        field_manager: context.scope.field_manager(),
        object: precondition::status_alone(&reference, &object),
        // The status of the reconciled object belongs to its plugin. The host owns a condition of it only
        // while no plugin reconciles the object, and an edit by hand must not keep the plugin from reporting.
        force: is_reconciled,
        status: true,
        dry_run: context.scope.mode == WriteMode::Plan,
    };
    if is_reconciled {
        let before = current(context, &reference, ReadMode::Cached).await;
        let mut request = intent.clone();
        precondition::add_own_uid(context, &mut request.object);
        // The state before is for the report alone: the uid says which object is meant.
        let before = match &before {
            Ok(before) => KnownStateBefore::Known(before.as_deref()),
            Err(_) => KnownStateBefore::Unknown,
        };
        return send_apply(context, &reference, request, &intent.object, &before, steps).await;
    }
    let missing = || CallError::NotFound(reference.to_string());
    let mut found = current(context, &reference, ReadMode::Cached).await?.ok_or_else(missing)?;
    let mut attempt = 1;
    loop {
        in_scope(context, granted, &reference, (&found, ObjectUse::Write))?;
        let mut request = intent.clone();
        precondition::add(context, &reference, &mut request.object, &found)?;
        let before = KnownStateBefore::Known(Some(&*found));
        let answer = send_apply(context, &reference, request, &intent.object, &before, steps).await;
        match changed_meanwhile(context, &reference, Some(&found), &answer, attempt).await? {
            None => return answer,
            Some(live) => found = live.ok_or_else(missing)?,
        }
        attempt += 1;
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

/// Sends an apply and records its step. `before` is for the report alone.
async fn send_apply(
    context: &ReconcileContext,
    object: &ObjectRef,
    request: ApplyRequest,
    intent: &Value,
    before: &KnownStateBefore<'_>,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    context.may_write()?;
    let by = if request.status { APPLY_STATUS } else { "apply" };
    let is_planned = request.status && request.dry_run;
    let stored = match (context.kubernetes.apply(request).await, before) {
        // The object is from a file and exists only in the plan.
        (Err(CallError::NotFound(_)), KnownStateBefore::Known(Some(planned))) if is_planned => {
            with_status(planned, intent)
        }
        (stored, _) => stored?,
    };
    steps.extend(plan_steps::written(by, object, before, intent, &stored));
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

pub(super) async fn merge_patch(
    context: &ReconcileContext,
    object: ObjectRef,
    patch: Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let granted = context.granted(&object.kind, "merge-patch")?;
    left_to_people::check(context, &object, &patch)?;
    object_scope::check_patch(&context.scope, granted, &object, &patch)?;
    let missing = || CallError::NotFound(object.to_string());
    let mut found = current(context, &object, ReadMode::Cached).await?.ok_or_else(missing)?;
    let mut attempt = 1;
    loop {
        in_scope(context, granted, &object, (&found, ObjectUse::Write))?;
        let answer = patch_once(context, &object, &patch, &found, steps).await;
        match changed_meanwhile(context, &object, Some(&found), &answer, attempt).await? {
            None => return answer,
            Some(live) => found = live.ok_or_else(missing)?,
        }
        attempt += 1;
    }
}

/// Sends a merge patch, on the condition that the object is the one that was found.
async fn patch_once(
    context: &ReconcileContext,
    object: &ObjectRef,
    patch: &Value,
    found: &Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    pod_security::check_patch(&context.scope, object, found, patch)?;
    let mut sent = patch.clone();
    precondition::add(context, object, &mut sent, found)?;
    stop_check::before_patch(context, object, found, &sent).await?;
    let dry_run = context.scope.mode == WriteMode::Plan;
    let manager = context.scope.field_manager();
    context.may_write()?;
    let (port, target) = (&context.kubernetes, object.clone());
    let stored = port.merge_patch(target, sent, manager, dry_run).await?;
    let before = KnownStateBefore::Known(Some(found));
    steps.extend(plan_steps::written("merge-patch", object, &before, patch, &stored));
    context.add_written(stored.clone());
    Ok(Reply::Document(stored))
}

/// Deletes the object that was read and not its successor: its uid and its resource version become preconditions.
pub(super) async fn delete(
    context: &ReconcileContext,
    request: DeleteRequest,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    let object = request.object.clone();
    let granted = context.granted(&object.kind, "delete")?;
    let missing = || CallError::NotFound(object.to_string());
    let mut found = current(context, &object, ReadMode::Cached).await?.ok_or_else(missing)?;
    let mut attempt = 1;
    loop {
        in_scope(context, granted, &object, (&found, ObjectUse::Write))?;
        let answer = delete_once(context, request.clone(), &found, steps).await;
        match changed_meanwhile(context, &object, Some(&found), &answer, attempt).await? {
            None => return answer,
            Some(live) => found = live.ok_or_else(missing)?,
        }
        attempt += 1;
    }
}

/// Sends a deletion, on the condition that the object is the one that was found.
async fn delete_once(
    context: &ReconcileContext,
    mut request: DeleteRequest,
    found: &Value,
    steps: &mut Vec<PlanStep>,
) -> Answer {
    precondition::add_to_delete(context, &mut request, found)?;
    context.may_write()?;
    stop_check::before_delete(context, found).await?;
    let object = request.object.clone();
    context.may_write()?;
    context.kubernetes.delete(request).await?;
    steps.push(plan_steps::deleted(&object));
    if context.scope.mode == WriteMode::Plan {
        context.add_deleted(&object);
    }
    Ok(Reply::Done)
}
