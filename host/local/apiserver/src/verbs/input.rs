//! Request bodies: parsing, checks against the path, types, and unknown fields by `fieldValidation`.

use serde_json::Value;
use tholepin_apimachinery::validation::{self, NonObjectRequestBody};
use tholepin_apimachinery::{Kind, field_error::aggregate};

use crate::http::request::AuthenticatedRequest;
use crate::registry::ServedKind;
use crate::status::ApiError;
use crate::verbs::ResourceRequest;

/// The treatment of fields that the schema does not declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Remove them.
    Ignore,
    /// Remove them and return a warning.
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; the default is `Warn`, as in Kubernetes.
    ///
    /// # Errors
    ///
    /// 400 for an unknown value.
    pub(crate) fn of(call: &AuthenticatedRequest) -> Result<Self, ApiError> {
        match call.query.text("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: `{other}` is not one of `Ignore`, `Warn`, `Strict`"
            ))),
        }
    }
}

/// Parses a body that is not an object of a served kind.
///
/// # Errors
///
/// As [`AuthenticatedRequest::document`], and 400 for a value of a wrong type.
pub(crate) fn body(
    call: &AuthenticatedRequest,
    body: NonObjectRequestBody,
) -> Result<Value, ApiError> {
    let value = call.document()?;
    let errors = validation::wrong_types_of_body(body, &value);
    if errors.is_empty() { Ok(value) } else { Err(ApiError::bad_request(aggregate(&errors))) }
}

/// Parses the body as an object of the kind that the path names.
///
/// # Errors
///
/// As [`AuthenticatedRequest::document`], and 400 if `apiVersion`, `kind` or `metadata` do not match the path.
pub(crate) fn object(request: &ResourceRequest<'_>) -> Result<Value, ApiError> {
    let value = request.call.document()?;
    check_object(request, &value)?;
    Ok(value)
}

/// Checks that a document is an object of the kind, name and namespace that the path names.
///
/// # Errors
///
/// 400 if it is not.
pub(crate) fn check_object(request: &ResourceRequest<'_>, value: &Value) -> Result<(), ApiError> {
    let kind = &request.served.kind;
    let Some(map) = value.as_object() else {
        return Err(ApiError::bad_request("the body is not an object"));
    };
    let member = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or("");
    if member("kind") != kind.kind || member("apiVersion") != kind.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version and kind in the data ({}, Kind={}) do not match the expected ones ({}, Kind={})",
            member("apiVersion"),
            member("kind"),
            kind.api_version(),
            kind.kind
        )));
    }
    let metadata = map.get("metadata").unwrap_or(&Value::Null);
    if !metadata.is_null() && !metadata.is_object() {
        return Err(ApiError::bad_request("metadata: not an object"));
    }
    let field = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or("");
    let (name, namespace) = (field("name"), field("namespace"));
    if !request.name().is_empty() && !name.is_empty() && name != request.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            request.name()
        )));
    }
    if !namespace.is_empty() && namespace != request.namespace() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Checks that values have the types of the kind's fields; then removes fields that the kind does not have, and
/// returns warnings or an error for them, according to `mode`.
///
/// # Errors
///
/// 400 for a value of a wrong type, and for an unknown field in strict validation.
pub(crate) fn decode(
    served: &ServedKind,
    object: &mut Value,
    mode: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let errors = validation::wrong_types(&served.kind, object);
    if !errors.is_empty() {
        let Kind { kind, version, .. } = &served.kind;
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {}",
            aggregate(&errors)
        )));
    }
    let unknown = match &served.custom {
        Some(custom) => custom.schema.prune(object),
        None => validation::prune_builtin(&served.kind, object),
    };
    let warnings: Vec<String> =
        unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match mode {
        FieldValidation::Strict if !warnings.is_empty() => {
            Err(ApiError::bad_request(format!("strict decoding error: {}", warnings.join(", "))))
        }
        FieldValidation::Warn => Ok(warnings),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}
