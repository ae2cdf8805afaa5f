//! The error type of the API: a Kubernetes `Status` with its code, reason and causes.
//!
//! Clients branch on `reason` and `code`, so most errors are built with the constructors here, which give both the
//! values of Kubernetes.

use std::error::Error;

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

/// The object that an error is about, as in `Status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorStatusObject {
    /// The API group, empty for the core group.
    pub(crate) group: String,
    /// The plural resource name, or the kind in messages in which Kubernetes prints the kind.
    pub(crate) kind: String,
    /// The object's name; may be empty.
    pub(crate) name: String,
}

impl ErrorStatusObject {
    /// Returns the target for a group, a resource or kind, and a name.
    pub(crate) fn new(group: &str, kind: &str, name: &str) -> Self {
        Self { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }
}

/// One item of `Status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusCause {
    /// The reason, such as `FieldValueInvalid`.
    pub(crate) reason: String,
    /// The description of the error, as a sentence fragment.
    pub(crate) message: String,
    /// The field's path, such as `spec.replicas`.
    pub(crate) field: String,
}

impl From<FieldError> for StatusCause {
    fn from(error: FieldError) -> Self {
        let FieldError { field, reason, message } = error;
        Self { reason: reason.as_str().to_owned(), message, field }
    }
}

/// Returns the texts of an error and its sources as one line: `outer: middle: root`.
///
/// Skips a source whose text the error above it contains, because some libraries print their source themselves.
pub(crate) fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for source in std::iter::successors(error.source(), |&error| error.source()) {
        let source = source.to_string();
        if !last.contains(&source) {
            text.push_str(": ");
            text.push_str(&source);
            last = source;
        }
    }
    text
}

/// The error of a request, with all that its `Status` contains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) code: u16,
    /// The `reason` of Kubernetes, such as `NotFound`.
    pub(crate) reason: &'static str,
    /// The message that kubectl prints.
    pub(crate) message: String,
    /// The object that the error is about, if known.
    pub(crate) subject: Option<Box<ErrorStatusObject>>,
    /// The causes; may be empty.
    pub(crate) causes: Vec<StatusCause>,
    /// The number of seconds after which the client may retry.
    pub(crate) retry_after_s: Option<u32>,
}

impl ApiError {
    /// Returns an error without subject and causes.
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            subject: None,
            causes: Vec::new(),
            retry_after_s: None,
        }
    }

    /// Returns 404 for an object that does not exist.
    pub(crate) fn not_found(subject: ErrorStatusObject) -> Self {
        let message = format!("{} \"{}\" not found", subject.qualified(), subject.name);
        Self { subject: Some(Box::new(subject)), ..Self::new(404, "NotFound", message) }
    }

    /// Returns 404 for a path that is not served.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// Returns 409 for a name that exists already.
    pub(crate) fn already_exists(subject: ErrorStatusObject) -> Self {
        let message = format!("{} \"{}\" already exists", subject.qualified(), subject.name);
        Self { subject: Some(Box::new(subject)), ..Self::new(409, "AlreadyExists", message) }
    }

    /// Returns 409 for a concurrent change or a failed precondition.
    pub(crate) fn conflict(subject: ErrorStatusObject, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": {why}",
            subject.qualified(),
            subject.name
        );
        Self { subject: Some(Box::new(subject)), ..Self::new(409, "Conflict", message) }
    }

    /// Returns 409 for a stale resourceVersion.
    pub(crate) fn modified(subject: ErrorStatusObject) -> Self {
        Self::conflict(
            subject,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Returns 422 with one cause per field error. `subject.kind` is the kind, not the resource.
    pub(crate) fn invalid(subject: ErrorStatusObject, errors: Vec<FieldError>) -> Self {
        let text = tholepin_apimachinery::field_error::aggregate(&errors);
        let message = format!("{} \"{}\" is invalid: {text}", subject.qualified(), subject.name);
        let causes = errors.into_iter().map(StatusCause::from).collect();
        Self { subject: Some(Box::new(subject)), causes, ..Self::new(422, "Invalid", message) }
    }

    /// Returns 400 for a malformed request.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Returns 403 for a request that the server refuses.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// Sets the subject.
    pub(crate) fn with_subject(self, subject: ErrorStatusObject) -> Self {
        Self { subject: Some(Box::new(subject)), ..self }
    }

    /// Returns 405 for a method that the resource does not serve.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// Returns 410 for a resourceVersion or a continue token that is older than the history.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Returns 415 for a body of a media type that is not supported.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// Returns 504 for a resourceVersion that does not exist yet.
    pub(crate) fn too_large_resource_version(requested: u64, current: u64) -> Self {
        Self {
            causes: vec![StatusCause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            retry_after_s: Some(1),
            ..Self::new(
                504,
                "Timeout",
                format!("Timeout: Too large resource version: {requested}, current: {current}"),
            )
        }
    }

    /// Returns 500 for an error of the server, or for a stored object that it cannot process.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// Converts to the `Status` object of the response.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        let mut details = serde_json::Map::new();
        if let Some(ErrorStatusObject { group, kind, name }) = self.subject.as_deref() {
            for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
                if !text.is_empty() {
                    details.insert(field.into(), json!(text));
                }
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|StatusCause { reason, message, field }| {
                    let mut cause = json!({"reason": reason, "message": message});
                    if let (Some(map), false) = (cause.as_object_mut(), field.is_empty()) {
                        map.insert("field".into(), json!(field));
                    }
                    cause
                })
                .collect();
            details.insert("causes".into(), Value::Array(causes));
        }
        if let Some(seconds) = self.retry_after_s {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        if let (Some(map), false) = (status.as_object_mut(), details.is_empty()) {
            map.insert("details".into(), Value::Object(details));
        }
        status
    }
}
