//! The create verb, for clients and for the server itself.

use std::sync::Arc;

use rand::RngExt;
use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;
use tracing::warn;

use crate::http::answer::ApiResponse;
use crate::kinds::{FollowUpCreate, FollowUpWrite};
use crate::object::{metadata_mut, name, text};
use crate::status::ApiError;
use crate::store::StoreCommitError;
use crate::verbs::input::{self, FieldValidation};
use crate::verbs::{ResourceRequest, prepare, read, update};
use crate::write_context::{MainOrStatusPart, ObjectWriteContext};
use crate::{kinds, view};

/// The most attempts to find a free generated name.
const NAMES_TRIED_MAX: usize = 8;
/// The characters of a generated suffix: without vowels, so that it forms no words.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The length of the generated suffix.
const NAME_ENDING: usize = 5;
/// The longest part of `generateName` that is used.
const NAME_PREFIX_MAX: usize = 63 - NAME_ENDING;

/// Whether the owners of a new object's fields are recorded already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldOwnersOnCreate {
    /// No: the manager of the create becomes the owner of all fields.
    Create,
    /// Yes: an apply has recorded them.
    Apply,
}

/// Answers a POST to a collection.
pub(crate) fn post(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let mut object = input::object(request)?;
    let mode = FieldValidation::of(request.call)?;
    let warnings = input::decode(&request.served, &mut object, mode)?;
    let created = create(&request.context()?, object, FieldOwnersOnCreate::Create)?;
    read::single(request, 201, &created, warnings)
}

/// Creates an object, and returns it in the kind's version.
///
/// # Errors
///
/// As in Kubernetes: 400 if a resourceVersion is set, 403 by admission or for a terminating namespace, 404 for a
/// missing namespace, 409 for an existing name, 422 for an invalid object.
pub(crate) fn create(
    cx: &ObjectWriteContext,
    mut object: Value,
    ownership: FieldOwnersOnCreate,
) -> Result<Arc<Value>, ApiError> {
    prepare::identity(cx, &mut object)?;
    let prefix = text(&object, "/metadata/generateName").unwrap_or("").to_owned();
    if !name(&object).is_empty() {
        return create_named(cx, object, ownership);
    }
    if prefix.is_empty() {
        let error = FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(cx.served.kind_subject(""), vec![error]));
    }
    for _ in 0..NAMES_TRIED_MAX {
        let mut candidate = object.clone();
        metadata_mut(&mut candidate).insert("name".into(), json!(generate(&prefix)));
        match create_named(cx, candidate, ownership) {
            Err(failure) if failure.reason == "AlreadyExists" => {}
            done => return done,
        }
    }
    Err(ApiError::new(
        409,
        "AlreadyExists",
        format!("found no free name with the prefix `{prefix}`; try again"),
    ))
}

fn create_named(
    cx: &ObjectWriteContext,
    mut object: Value,
    ownership: FieldOwnersOnCreate,
) -> Result<Arc<Value>, ApiError> {
    prepare::defaults(cx, &mut object);
    let reservation = kinds::before_create(cx, &mut object)?;
    let commit = || {
        prepare::check(cx, &object, None)?;
        if ownership == FieldOwnersOnCreate::Create {
            prepare::track(cx, None, &mut object, MainOrStatusPart::Main);
        }
        view::store(&cx.served, &mut object);
        let object_name = name(&object).to_owned();
        let key = cx.key(&object_name);
        cx.server
            .store
            .insert(&cx.served.resource, &key, object, cx.dry_run)
            .map_err(|refused: StoreCommitError| cx.refused(&refused, &object_name))
    };
    let stored = match commit() {
        Ok(stored) if !cx.dry_run => stored,
        result => {
            reservation.release(&cx.server);
            return result.map(|stored| view::show(&cx.served, &stored));
        }
    };
    match kinds::after_create(cx, &stored) {
        Some(FollowUpWrite::Create(object_to_create)) => follow_up(object_to_create, name(&stored)),
        Some(FollowUpWrite::Status(status)) => update::follow_up(status, name(&stored)),
        None => {}
    }
    Ok(view::show(&cx.served, &stored))
}

/// Creates the object that follows from the creation of the object `cause`.
fn follow_up(object_to_create: FollowUpCreate, cause: &str) {
    if let Err(error) =
        create(&object_to_create.cx, object_to_create.object, FieldOwnersOnCreate::Create)
    {
        warn!(name = cause, message = %error.message, "{}", object_to_create.failure);
    }
}

fn generate(prefix: &str) -> String {
    let mut random = rand::rng();
    let mut text: String = prefix.chars().take(NAME_PREFIX_MAX).collect();
    for _ in 0..NAME_ENDING {
        let index = random.random_range(0..NAME_LETTERS.len());
        text.push(NAME_LETTERS.get(index).copied().map_or('x', char::from));
    }
    text
}
