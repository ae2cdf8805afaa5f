//! The one error type of the API: a Kubernetes `Status` with its code, reason and causes.
//!
//! Clients branch on `reason` and `code`, so both come from the constructors here and nowhere else.
//! This module never decides whether something is wrong; it only says it the way Kubernetes does.

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

/// Where a request would have ended, named as `Status.details` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusTarget {
    /// The API group, empty for the core group.
    pub(crate) group: String,
    /// The plural resource name, or the kind where Kubernetes says the kind.
    pub(crate) kind: String,
    /// The object's name, possibly empty.
    pub(crate) name: String,
}

impl StatusTarget {
    /// Names one object by its resource.
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

/// One cause in `Status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusCause {
    /// A word such as `FieldValueInvalid`.
    pub(crate) reason: String,
    /// What is wrong, as a sentence fragment.
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

/// A refusal, complete enough to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) code: u16,
    /// Kubernetes' word for it, such as `NotFound`.
    pub(crate) reason: &'static str,
    /// The sentence that kubectl prints.
    pub(crate) message: String,
    /// Group, kind, name and causes, where known.
    pub(crate) subject: Option<Box<StatusTarget>>,
    /// The causes, possibly none.
    pub(crate) causes: Vec<StatusCause>,
    /// Seconds after which a retry makes sense.
    pub(crate) retry_after_s: Option<u32>,
}

impl ApiError {
    /// A refusal without subject and causes.
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

    /// 404 for an object.
    pub(crate) fn not_found(subject: StatusTarget) -> Self {
        let message = format!("{} \"{}\" not found", subject.qualified(), subject.name);
        Self { subject: Some(Box::new(subject)), ..Self::new(404, "NotFound", message) }
    }

    /// 404 for a path that is not served.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 for a name that is taken.
    pub(crate) fn already_exists(subject: StatusTarget) -> Self {
        let message = format!("{} \"{}\" already exists", subject.qualified(), subject.name);
        Self { subject: Some(Box::new(subject)), ..Self::new(409, "AlreadyExists", message) }
    }

    /// 409 for a lost race or a failed precondition.
    pub(crate) fn conflict(subject: StatusTarget, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": {why}",
            subject.qualified(),
            subject.name
        );
        Self { subject: Some(Box::new(subject)), ..Self::new(409, "Conflict", message) }
    }

    /// 409 for a stale resourceVersion.
    pub(crate) fn modified(subject: StatusTarget) -> Self {
        Self::conflict(
            subject,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with one cause per field. `subject.kind` is the kind, not the resource.
    pub(crate) fn invalid(subject: StatusTarget, errors: Vec<FieldError>) -> Self {
        let text = tholepin_apimachinery::field_error::aggregate(&errors);
        let message = format!("{} \"{}\" is invalid: {text}", subject.qualified(), subject.name);
        let causes = errors.into_iter().map(StatusCause::from).collect();
        Self { subject: Some(Box::new(subject)), causes, ..Self::new(422, "Invalid", message) }
    }

    /// 400: the request itself cannot be read.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403: understood and refused.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// The same, about this subject.
    pub(crate) fn about(self, subject: StatusTarget) -> Self {
        Self { subject: Some(Box::new(subject)), ..self }
    }

    /// 405: the verb is not served here.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 410: the resourceVersion or the continue token is older than the history kept.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 415: the body's media type is not served.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 504 for a resourceVersion that does not exist yet.
    pub(crate) fn too_large_resource_version(asked: u64, current: u64) -> Self {
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
                format!("Timeout: Too large resource version: {asked}, current: {current}"),
            )
        }
    }

    /// 500: a fault of the server, or of an object it cannot treat.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The `Status` object to send.
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
        if let Some(StatusTarget { group, kind, name }) = self.subject.as_deref() {
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
