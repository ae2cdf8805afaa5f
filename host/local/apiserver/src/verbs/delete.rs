//! The delete verbs: immediate removal, or a deletion that waits for the grace period or for finalizers.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tholepin_apimachinery::validation::NonObjectRequestBody;

use crate::http::answer::ApiResponse;
use crate::object::{
    bump_generation, is_deleting, may_be_removed, metadata_mut, name, seconds, text,
};
use crate::selection::WatchedObjects;
use crate::status::ApiError;
use crate::store::{
    ListVersion, NamespacedName, ObjectLocation, StoreCommitError, StoreListRequest,
};
use crate::verbs::{ResourceRequest, input, read};
use crate::write_context::ObjectWriteContext;
use crate::{kinds, view};

/// The most attempts of a deletion if the object changes concurrently.
const ATTEMPTS_MAX: usize = 16;
/// The longest grace period, in seconds.
const GRACE_S_MAX: u64 = 7 * 24 * 60 * 60;

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PropagationPolicy {
    /// The collector deletes them afterwards.
    #[default]
    Background,
    /// They stay, and their owner references are removed.
    Orphan,
}

/// The finalizer of an owner while the owner references of its dependents are removed, as in Kubernetes.
const ORPHAN: &str = "orphan";

/// The options of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// The grace period in seconds, for kinds that have one.
    pub(crate) grace_s: Option<u64>,
    /// What happens to the dependents.
    pub(crate) propagation: PropagationPolicy,
    /// The uid that the object must have.
    pub(crate) uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub(crate) resource_version: Option<String>,
    /// Whether the server has deleted the objects for which this deletion had to wait.
    pub(crate) is_final: bool,
}

/// The outcome of a deletion.
pub(crate) enum DeleteOutcome {
    /// The object was removed; this is its final state.
    Removed(Arc<Value>),
    /// The object waits for its grace period or its finalizers, in this state.
    Waiting(Arc<Value>),
}

/// Answers a DELETE of one object.
pub(crate) fn delete(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let (options, cx) = options(request)?;
    match delete_object(&cx, request.name(), &options)? {
        DeleteOutcome::Waiting(object) => read::single(request, 200, &object, Vec::new()),
        // As in Kubernetes, the response for a Pod is the deleted object.
        DeleteOutcome::Removed(object) if request.served.is("", "pods") => {
            read::single(request, 200, &object, Vec::new())
        }
        DeleteOutcome::Removed(object) => Ok(ApiResponse::ok(json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": request.name(),
                "group": request.served.kind.group,
                "kind": request.served.kind.plural,
                "uid": text(&object, "/metadata/uid"),
            },
        }))),
    }
}

/// Answers a DELETE of a collection with the objects that were deleted or began to be.
pub(crate) fn delete_collection(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let (options, cx) = options(request)?;
    let selection = WatchedObjects::of(&request.served, &request.call.query, None)?;
    let page = request.server.store.page(&StoreListRequest {
        resource: &request.served.resource,
        namespace: request.path.namespace.as_deref(),
        at: ListVersion::Latest,
        after: None,
        limit: None,
        filter: &|object| selection.matches(object),
    });
    let page = page.map_err(|_| ApiError::internal("cannot list the current objects"))?;
    let mut deleted = Vec::new();
    for object in &page.objects {
        let namespace = text(object, "/metadata/namespace").unwrap_or("").to_owned();
        let cx = ObjectWriteContext { namespace, ..cx.clone() };
        match delete_object(&cx, name(object), &options) {
            Ok(DeleteOutcome::Removed(object) | DeleteOutcome::Waiting(object)) => {
                deleted.push(object)
            }
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let items: Vec<&Value> = deleted.iter().map(Arc::as_ref).collect();
    Ok(ApiResponse::ok(json!({
        "kind": request.served.kind.list_kind,
        "apiVersion": request.served.api_version,
        "metadata": {"resourceVersion": request.server.store.revision().to_string()},
        "items": items,
    })))
}

/// Reads the options of a DELETE from the query and the body.
fn options(request: &ResourceRequest<'_>) -> Result<(DeleteOptions, ObjectWriteContext), ApiError> {
    let query = &request.call.query;
    let body = if request.call.body.is_empty() {
        Value::Null
    } else {
        input::body(request.call, NonObjectRequestBody::DeleteOptions)?
    };
    let mut cx = request.context()?;
    cx.dry_run |= body.get("dryRun").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    let grace = body.get("gracePeriodSeconds").filter(|value| !value.is_null());
    let grace_s = match grace {
        Some(value) => Some(value.as_u64().ok_or_else(|| {
            ApiError::bad_request("gracePeriodSeconds: must be a whole number, 0 or more")
        })?),
        None => query.number("gracePeriodSeconds")?,
    };
    let policy = text(&body, "/propagationPolicy").or(query.text("propagationPolicy"));
    let orphan = body.get("orphanDependents").and_then(Value::as_bool).unwrap_or(false)
        || query.flag("orphanDependents");
    let propagation = match policy {
        None if orphan => PropagationPolicy::Orphan,
        None | Some("Background" | "") => PropagationPolicy::Background,
        Some("Orphan") => PropagationPolicy::Orphan,
        Some("Foreground") => {
            return Err(ApiError::bad_request(
                "propagationPolicy: `Foreground` is not supported; use `Background` or `Orphan`",
            ));
        }
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: `{other}` is not one of `Background`, `Orphan`"
            )));
        }
    };
    let precondition = |field: &str| {
        text(&body, &format!("/preconditions/{field}")).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    let options = DeleteOptions {
        grace_s: grace_s.map(|seconds| seconds.min(GRACE_S_MAX)),
        propagation,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        is_final: false,
    };
    Ok((options, cx))
}

/// Deletes an object, or starts its deletion.
///
/// # Errors
///
/// 404 if it does not exist, 409 if a precondition fails or the object keeps changing, 403 if the kind refuses.
pub(crate) fn delete_object(
    cx: &ObjectWriteContext,
    object_name: &str,
    options: &DeleteOptions,
) -> Result<DeleteOutcome, ApiError> {
    let options = &mut options.clone();
    let key = cx.key(object_name);
    let resource = &cx.served.resource;
    for _ in 0..ATTEMPTS_MAX {
        let read = cx.server.store.get(resource, &key);
        let read = read.ok_or_else(|| cx.refused(&StoreCommitError::Missing, object_name))?;
        check_preconditions(cx, &read, options)?;
        kinds::before_delete(cx, &read)?;
        let read = if options.propagation == PropagationPolicy::Orphan && !cx.dry_run {
            match begin_orphaning(cx, &key, read, options) {
                Ok(read) => {
                    orphan_dependents(cx, &read);
                    // The deletion itself changed the object's version.
                    options.resource_version = None;
                    read
                }
                Err(StoreCommitError::Changed) => continue,
                Err(refused) => return Err(cx.refused(&refused, object_name)),
            }
        } else {
            read
        };
        let (new, is_removed) = next_state(cx, &read, options);
        let committed = if is_removed {
            cx.server.store.remove(resource, &key, &read, new, cx.dry_run)
        } else if new == *read {
            return Ok(DeleteOutcome::Waiting(view::show(&cx.served, &read)));
        } else {
            cx.server.store.replace(resource, &key, &read, new, cx.dry_run)
        };
        match committed {
            Err(StoreCommitError::Changed) => {}
            Err(refused) => return Err(cx.refused(&refused, object_name)),
            Ok(stored) if is_removed => {
                if !cx.dry_run {
                    kinds::after_delete(cx, &stored);
                }
                return Ok(DeleteOutcome::Removed(view::show(&cx.served, &stored)));
            }
            Ok(stored) => return Ok(DeleteOutcome::Waiting(view::show(&cx.served, &stored))),
        }
    }
    Err(cx.refused(&StoreCommitError::Changed, object_name))
}

fn check_preconditions(
    cx: &ObjectWriteContext,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let checks = [
        ("UID", "/metadata/uid", &options.uid),
        ("ResourceVersion", "/metadata/resourceVersion", &options.resource_version),
    ];
    for (name_in_message, pointer, expected) in checks {
        let found = text(object, pointer).unwrap_or("");
        if let Some(expected) = expected.as_deref().filter(|expected| *expected != found) {
            let why = format!(
                "Precondition failed: {name_in_message} in precondition: {expected}, {name_in_message} in object meta: {found}"
            );
            return Err(ApiError::conflict(cx.served.subject(name(object)), &why));
        }
    }
    Ok(())
}

/// Returns the next state of an object to delete, and whether it is to be removed now.
fn next_state(cx: &ObjectWriteContext, object: &Value, options: &DeleteOptions) -> (Value, bool) {
    let mut new = object.clone();
    if options.propagation == PropagationPolicy::Orphan {
        drop_finalizer(&mut new, ORPHAN);
    }
    let grace_s = kinds::grace_s(&cx.served, object, options.grace_s);
    let waits = kinds::waits_for_server(&cx.served, object) && !options.is_final;
    if is_deleting(object) {
        let pending = object.pointer("/metadata/deletionGracePeriodSeconds");
        let pending = pending.and_then(Value::as_u64).unwrap_or(0);
        // A second deletion can only shorten the grace period.
        if options.grace_s.is_some() && grace_s < pending {
            set_deletion(cx, &mut new, grace_s);
        }
        let is_removed = may_be_removed(&new) && !waits;
        return (new, is_removed);
    }
    set_deletion(cx, &mut new, grace_s);
    if may_be_removed(&new) && !waits {
        return (object.clone(), true);
    }
    bump_generation(&mut new);
    kinds::begin_delete(&cx.served, &mut new);
    (new, false)
}

fn set_deletion(cx: &ObjectWriteContext, object: &mut Value, grace_s: u64) {
    let seconds_from_now = i64::try_from(grace_s).unwrap_or(i64::MAX);
    let end = cx.now.checked_add(SignedDuration::from_secs(seconds_from_now)).unwrap_or(cx.now);
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), json!(seconds(end)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace_s));
}

/// Starts the deletion of an owner, with the finalizer `orphan`, before the owner references of its dependents are
/// removed: a controller that adopts objects without owner must be able to see that this owner is being deleted.
fn begin_orphaning(
    cx: &ObjectWriteContext,
    key: &NamespacedName,
    read: Arc<Value>,
    options: &DeleteOptions,
) -> Result<Arc<Value>, StoreCommitError> {
    if is_deleting(&read) {
        return Ok(read);
    }
    let mut new = (*read).clone();
    set_deletion(cx, &mut new, kinds::grace_s(&cx.served, &read, options.grace_s));
    let finalizers = metadata_mut(&mut new).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut() {
        finalizers.push(json!(ORPHAN));
    }
    bump_generation(&mut new);
    kinds::begin_delete(&cx.served, &mut new);
    cx.server.store.replace(&cx.served.resource, key, &read, new, false)
}

fn drop_finalizer(object: &mut Value, finalizer: &str) {
    let metadata = metadata_mut(object);
    if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|name| name != finalizer);
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Removes the reference to `owner` from all its dependents.
fn orphan_dependents(cx: &ObjectWriteContext, owner: &Value) {
    let Some(uid) = text(owner, "/metadata/uid") else { return };
    for (resource, key) in cx.server.store.dependents(uid) {
        drop_owners(cx, &(resource, key), &|owner| owner == uid);
    }
}

/// Removes the owner references whose uid `is_absent` accepts. If the object changes at every attempt, they stay; the
/// collector checks the object again.
pub(crate) fn drop_owners(
    cx: &ObjectWriteContext,
    (resource, key): &ObjectLocation,
    is_absent: &dyn Fn(&str) -> bool,
) {
    for _ in 0..ATTEMPTS_MAX {
        let Some(read) = cx.server.store.get(resource, key) else { return };
        let mut new = (*read).clone();
        let metadata = metadata_mut(&mut new);
        if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
            owners.retain(|owner| !is_absent(text(owner, "/uid").unwrap_or("")));
            if owners.is_empty() {
                metadata.remove("ownerReferences");
            }
        }
        if cx.server.store.replace(resource, key, &read, new, false)
            != Err(StoreCommitError::Changed)
        {
            return;
        }
    }
}
