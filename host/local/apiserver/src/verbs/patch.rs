//! The patch verb: JSON merge patch, JSON patch, and server-side apply.

use serde_json::{Value, json};
use tholepin_apimachinery::managed_fields::{self, ApplyError, ApplyOptions, FieldConflict};
use tholepin_apimachinery::{FieldError, patch as patches};

use crate::http::answer::ApiResponse;
use crate::http::request::AuthenticatedRequest;
use crate::object::{as_map_mut, metadata_mut, seconds};
use crate::status::{ApiError, ErrorStatusObject, StatusCause, error_text};
use crate::verbs::create::{self, FieldOwnersOnCreate};
use crate::verbs::input::{self, FieldValidation};
use crate::verbs::update::{self, ObjectEditResult};
use crate::verbs::{ResourceRequest, read};
use crate::write_context::MainOrStatusPart;

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Returns true if a PATCH is a server-side apply.
pub(crate) fn is_apply(call: &AuthenticatedRequest) -> bool {
    call.content_type == APPLY
}

/// Answers a PATCH.
pub(crate) fn patch(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    match request.call.content_type.as_str() {
        APPLY => apply(request),
        MERGE | JSON => edit(request),
        STRATEGIC => Err(ApiError::unsupported_media_type(format!(
            "strategic merge patch is not supported: use --server-side with `kubectl apply`, or \
             --type=merge with `kubectl patch` (accepted media types include: {JSON}, {MERGE}, {APPLY})"
        ))),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format (`{other}`) - accepted media types \
             include: {JSON}, {MERGE}, {APPLY}"
        ))),
    }
}

fn edit(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let patch: Value = serde_json::from_slice(&request.call.body)
        .map_err(|error| ApiError::bad_request(format!("the patch is not JSON: {error}")))?;
    let is_merge = request.call.content_type == MERGE;
    if is_merge && !patch.is_object() {
        return Err(ApiError::bad_request("a merge patch must be an object"));
    }
    let mode = FieldValidation::of(request.call)?;
    let warnings = std::cell::RefCell::new(Vec::new());
    let subject = request.served.subject(request.name());
    let change = |old: &Value| {
        let mut new = old.clone();
        if is_merge {
            patches::merge_patch(&mut new, &patch);
        } else {
            patches::json_patch(&mut new, &patch)
                .map_err(|error| patch_failure(&error, &subject))?;
        }
        input::check_object(request, &new)?;
        *warnings.borrow_mut() = input::decode(&request.served, &mut new, mode)?;
        Ok(ObjectEditResult::Put(new))
    };
    let updated =
        update::update(&request.context()?, request.name(), update::part(request), &change)?;
    read::single(request, 200, &updated, warnings.into_inner())
}

fn patch_failure(error: &patches::JsonPatchError, subject: &ErrorStatusObject) -> ApiError {
    let message = error_text(error);
    let failure = match error.code() {
        422 => ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {message}"),
        ),
        413 => ApiError::new(413, "RequestEntityTooLarge", message),
        _ => ApiError::bad_request(message),
    };
    failure.with_subject(subject.clone())
}

fn apply(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let cx = request.context()?;
    if request.call.query.text("fieldManager").is_none() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        let subject = ErrorStatusObject::new("meta.k8s.io", "PatchOptions", "");
        return Err(ApiError::invalid(subject, vec![error]));
    }
    let part = update::part(request);
    let (intent, warnings) = intent(request, part)?;
    let now = seconds(request.now);
    let api_version = request.served.kind.api_version();
    let options = ApplyOptions {
        manager: &cx.manager,
        force: request.call.query.flag("force"),
        subresource: part.subresource(),
        now: &now,
        api_version: &api_version,
    };
    let merge = |live: Option<&Value>| {
        let schema = request.served.merge_schema();
        match managed_fields::apply(live, &intent, &options, schema) {
            Err(ApplyError::Conflicts(conflicts)) if may_take_over(&options, &conflicts) => {
                let forced = ApplyOptions { force: true, ..options };
                managed_fields::apply(live, &intent, &forced, schema)
            }
            done => done,
        }
        .map_err(|error| apply_failure(request, error))
    };
    let change = |old: &Value| {
        same_object(request, old, &intent)?;
        let applied = merge(Some(old))?;
        Ok(if applied.changed {
            ObjectEditResult::Applied(applied.object)
        } else {
            ObjectEditResult::Keep
        })
    };
    // Another writer may create or delete the object between the two steps, so both are tried twice.
    for _ in 0..2 {
        match update::update(&cx, request.name(), part, &change) {
            Err(failure) if failure.code == 404 && part == MainOrStatusPart::Main => {}
            done => return read::single(request, 200, &done?, warnings),
        }
        no_precondition(request, &intent)?;
        match create::create(&cx, merge(None)?.object, FieldOwnersOnCreate::Apply) {
            Err(failure) if failure.reason == "AlreadyExists" => {}
            done => return read::single(request, 201, &done?, warnings),
        }
    }
    Err(ApiError::modified(request.served.subject(request.name())))
}

/// Checks the preconditions of an intent: a `uid` in it must be the object's, so that the intent is not applied to a
/// later object of the same name, and a `resourceVersion` in it must be the current one.
fn same_object(request: &ResourceRequest<'_>, old: &Value, intent: &Value) -> Result<(), ApiError> {
    for (field, pointer) in
        [("UID", "/metadata/uid"), ("resourceVersion", "/metadata/resourceVersion")]
    {
        let expected = intent.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let found = old.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if !expected.is_empty() && expected != found {
            let why = format!(
                "Precondition failed: {field} in precondition: {expected}, {field} in object meta: {found}"
            );
            return Err(ApiError::conflict(request.served.subject(request.name()), &why));
        }
    }
    Ok(())
}

/// Checks that an intent without an object names no uid: it is meant for an object that was deleted. Source:
/// k8s.io/apiserver `endpoints/handlers/patch.go`.
fn no_precondition(request: &ResourceRequest<'_>, intent: &Value) -> Result<(), ApiError> {
    match intent.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default() {
        "" => Ok(()),
        uid => {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            Err(ApiError::conflict(request.served.subject(request.name()), &why))
        }
    }
}

/// Returns true if all conflicts are with kubectl's client-side apply, whose fields `kubectl apply --server-side`
/// takes over. Source: k8s.io/apimachinery `managedfields/internal/lastappliedmanager.go`.
fn may_take_over(options: &ApplyOptions<'_>, conflicts: &[FieldConflict]) -> bool {
    options.manager == "kubectl"
        && conflicts
            .iter()
            .all(|conflict| conflict.by_update && conflict.manager == "kubectl-client-side-apply")
}

/// Returns the intent of the request, reduced to the part that the request writes, and warnings.
fn intent(
    request: &ResourceRequest<'_>,
    part: MainOrStatusPart,
) -> Result<(Value, Vec<String>), ApiError> {
    let mut intent = input::object(request)?;
    let managed = intent.pointer("/metadata/managedFields");
    if managed.and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mode = FieldValidation::of(request.call)?;
    let warnings = input::decode(&request.served, &mut intent, mode)?;
    let map = as_map_mut(&mut intent);
    match part {
        MainOrStatusPart::Status => {
            map.retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            metadata_mut(&mut intent).retain(|name, _| {
                matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion")
            });
        }
        MainOrStatusPart::Main => {
            if request.served.kind.has_subresource("status") {
                map.remove("status");
            }
        }
    }
    let metadata = metadata_mut(&mut intent);
    metadata.insert("name".into(), json!(request.name()));
    if request.served.kind.namespaced {
        metadata.insert("namespace".into(), json!(request.namespace()));
    }
    Ok((intent, warnings))
}

fn apply_failure(request: &ResourceRequest<'_>, error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let message = managed_fields::conflict_summary(&conflicts);
            let causes = conflicts.iter().map(|conflict| StatusCause {
                reason: "FieldManagerConflict".into(),
                message: conflict.message(),
                field: conflict.field.clone(),
            });
            ApiError { causes: causes.collect(), ..ApiError::new(409, "Conflict", message) }
                .with_subject(request.served.subject(request.name()))
        }
        ApplyError::Item(_) | ApplyError::ManagedFieldsSet | ApplyError::NotAnObject => {
            ApiError::bad_request(error.to_string())
                .with_subject(request.served.subject(request.name()))
        }
    }
}
