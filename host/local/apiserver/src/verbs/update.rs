//! The update verb: reads an object, applies an edit, and commits it if the object did not change meanwhile.

use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use crate::http::answer::ApiResponse;
use crate::kinds::ApiServerFollowUpStatus;
use crate::object::{is_same, may_be_removed};
use crate::status::ApiError;
use crate::store::StoreCommitError;
use crate::verbs::input::{self, FieldValidation};
use crate::verbs::{ResourceRequest, prepare, read};
use crate::write_context::{MainOrStatusPart, ObjectWriteContext};
use crate::{kinds, view};

/// The most attempts of an edit if the object changes concurrently.
const ATTEMPTS_MAX: usize = 16;

/// The result of an edit.
pub(crate) enum ObjectEditResult {
    /// No change.
    Keep,
    /// This object; the owners of its changed fields are not recorded yet.
    Put(Value),
    /// This object, in which an apply has recorded the owners of fields.
    Applied(Value),
}

/// Answers a PUT.
pub(crate) fn put(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let mut object = input::object(request)?;
    let mode = FieldValidation::of(request.call)?;
    let warnings = input::decode(&request.served, &mut object, mode)?;
    let edit = |_: &Value| Ok(ObjectEditResult::Put(object.clone()));
    let updated = update(&request.context()?, request.name(), part(request), &edit)?;
    read::single(request, 200, &updated, warnings)
}

/// Returns the part of the object that a request writes.
pub(crate) fn part(request: &ResourceRequest<'_>) -> MainOrStatusPart {
    if request.path.subresource.is_some() {
        MainOrStatusPart::Status
    } else {
        MainOrStatusPart::Main
    }
}

/// Edits an object, and returns it in the kind's version.
///
/// `edit` may run several times, each time on the latest state. An edit that changes nothing keeps the revision. The
/// object is removed if it is being deleted and the edit removed its last finalizer.
///
/// # Errors
///
/// 404 if the object does not exist, 409 for a stale resourceVersion or if the object keeps changing, 422 for an
/// invalid result, or the error of `edit`.
pub(crate) fn update(
    cx: &ObjectWriteContext,
    object_name: &str,
    part: MainOrStatusPart,
    edit: &dyn Fn(&Value) -> Result<ObjectEditResult, ApiError>,
) -> Result<Arc<Value>, ApiError> {
    let key = cx.key(object_name);
    let resource = &cx.served.resource;
    for _ in 0..ATTEMPTS_MAX {
        let read = cx.server.store.get(resource, &key);
        let read = read.ok_or_else(|| cx.refused(&StoreCommitError::Missing, object_name))?;
        let old = view::show(&cx.served, &read);
        let (mut new, tracked) = match edit(&old)? {
            ObjectEditResult::Keep => return Ok(old),
            ObjectEditResult::Put(new) => (new, false),
            ObjectEditResult::Applied(new) => (new, true),
        };
        prepare::carry_over(cx, &old, &mut new, part)?;
        prepare::defaults(cx, &mut new);
        kinds::before_update(cx, &old, &mut new, part)?;
        prepare::count_generation(cx, &old, &mut new);
        prepare::check(cx, &new, Some(&old))?;
        if !tracked {
            prepare::track(cx, Some(&old), &mut new, part);
        }
        if is_same(&old, &new) {
            return Ok(old);
        }
        let is_removed = may_be_removed(&new) && !kinds::is_removed_by_collector(&cx.served);
        view::store(&cx.served, &mut new);
        let committed = if is_removed {
            cx.server.store.remove(resource, &key, &read, new, cx.dry_run)
        } else {
            cx.server.store.replace(resource, &key, &read, new, cx.dry_run)
        };
        match committed {
            Err(StoreCommitError::Changed) => {}
            Err(refused) => return Err(cx.refused(&refused, object_name)),
            Ok(stored) => {
                if !cx.dry_run {
                    if is_removed {
                        kinds::after_delete(cx, &stored);
                    } else if let Some(status) = kinds::after_update(cx, &stored, part) {
                        follow_up(status, object_name);
                    }
                }
                return Ok(view::show(&cx.served, &stored));
            }
        }
    }
    Err(cx.refused(&StoreCommitError::Changed, object_name))
}

/// Writes the status that follows from a write to an object.
pub(crate) fn follow_up(status: ApiServerFollowUpStatus, object_name: &str) {
    let edit = |old: &Value| Ok(ObjectEditResult::Put((status.edit)(old)));
    if let Err(error) = update(&status.cx, object_name, MainOrStatusPart::Status, &edit) {
        warn!(name = object_name, message = %error.message, "{}", status.failure);
    }
}
