//! Field errors, worded as the real API server words them.
//!
//! A [`FieldError`] becomes one cause of a `Status` with reason `Invalid`. The HTTP code is not part of it: the
//! caller chooses it (422 for values that are not valid, 400 for values of a wrong type).
//!
//! Source of names and wording: k8s.io/apimachinery `pkg/util/validation/field/errors.go`.

use std::fmt;

/// The kind of a field error: the `reason` of a cause in `Status.details.causes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldErrorReason {
    /// The field must be given.
    Required,
    /// The value is out of range or malformed.
    Invalid,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// The value occurs twice where it must be unique.
    Duplicate,
    /// The value is not in the closed set of allowed values.
    NotSupported,
    /// The string has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The field may not be set here.
    Forbidden,
    /// The value refers to something that does not exist.
    NotFound,
    /// The server failed to check the value.
    Internal,
}

impl FieldErrorReason {
    /// Returns the text for `Status.details.causes[].reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    /// Parses the `reason` of an `x-kubernetes-validations` rule; an absent one means `Invalid`.
    ///
    /// Returns `None` for a reason that a rule may not use.
    pub fn from_rule(reason: Option<&str>) -> Option<Self> {
        match reason {
            None | Some("FieldValueInvalid") => Some(Self::Invalid),
            Some("FieldValueForbidden") => Some(Self::Forbidden),
            Some("FieldValueRequired") => Some(Self::Required),
            Some("FieldValueDuplicate") => Some(Self::Duplicate),
            Some(_) => None,
        }
    }
}

/// One error about one field.
///
/// `Display` prints it as the server does: `spec.shards: Invalid value: 0: …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Path of the field: `spec.shards`, `spec.ports[0].name`, `metadata.labels[a/b]`;
    /// `<nil>` for the object itself.
    pub field: String,
    /// The kind of error.
    pub reason: FieldErrorReason,
    /// `message` of the cause: without the field, beginning with the kind of error.
    pub message: String,
}

impl FieldError {
    /// Returns the error for a missing field: `Required value: DETAIL`.
    pub fn required(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::build(
            field,
            FieldErrorReason::Required,
            with_detail("Required value".to_owned(), &detail),
        )
    }

    /// Returns the error for a malformed value: `Invalid value: VALUE: DETAIL`, with the value as JSON.
    pub fn invalid(
        field: impl Into<String>,
        value: &serde_json::Value,
        detail: impl fmt::Display,
    ) -> Self {
        let text = format!("Invalid value: {}", json_text(value));
        Self::build(field, FieldErrorReason::Invalid, with_detail(text, &detail))
    }

    /// Returns the error for a value of the wrong JSON type: `Invalid value: "TYPE": DETAIL`.
    pub fn type_invalid(field: impl Into<String>, found: &str, detail: impl fmt::Display) -> Self {
        let text = format!("Invalid value: \"{found}\"");
        Self::build(field, FieldErrorReason::TypeInvalid, with_detail(text, &detail))
    }

    /// Returns the error for a value that occurs twice: `Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: &serde_json::Value) -> Self {
        Self::build(
            field,
            FieldErrorReason::Duplicate,
            format!("Duplicate value: {}", json_text(value)),
        )
    }

    /// Returns the error for a value outside a closed set: `Unsupported value: VALUE: supported values: "a", "b"`.
    pub fn not_supported(
        field: impl Into<String>,
        value: &serde_json::Value,
        supported: &[serde_json::Value],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(json_text).collect();
        let text = format!(
            "Unsupported value: {}: supported values: {}",
            json_text(value),
            supported.join(", ")
        );
        Self::build(field, FieldErrorReason::NotSupported, text)
    }

    /// Returns the error for a string longer than `max` bytes: `Too long: may not be more than MAX bytes`.
    pub fn too_long(field: impl Into<String>, max: u64) -> Self {
        Self::build(
            field,
            FieldErrorReason::TooLong,
            format!("Too long: may not be more than {max} bytes"),
        )
    }

    /// Returns the error for a list of `count` items where at most `max` are allowed.
    pub fn too_many(field: impl Into<String>, count: usize, max: u64) -> Self {
        let text = format!("Too many: {count}: must have at most {max} items");
        Self::build(field, FieldErrorReason::TooMany, text)
    }

    /// Returns the error for a field that may not be set: `Forbidden: DETAIL`.
    pub fn forbidden(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::build(
            field,
            FieldErrorReason::Forbidden,
            with_detail("Forbidden".to_owned(), &detail),
        )
    }

    /// Returns an error with a finished message.
    pub fn build(field: impl Into<String>, reason: FieldErrorReason, message: String) -> Self {
        Self { field: field.into(), reason, message }
    }
}

/// Joins errors as the server does in `Status.message`: one as it is, several in brackets.
///
/// Prints equal texts once, in order of their first occurrence.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [single] => single.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Appends a property to a path: `spec` and `shards` give `spec.shards`; an empty path adds no dot.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns a path as messages print it: `<nil>` for the object itself.
pub(crate) fn path_text(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

/// Formats a value as the server does inside `Invalid value: …`: as JSON.
fn json_text(value: &serde_json::Value) -> String {
    value.to_string()
}

fn with_detail(text: String, detail: &dyn fmt::Display) -> String {
    let detail = detail.to_string();
    if detail.is_empty() { text } else { format!("{text}: {detail}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_equal_those_of_the_server() {
        let error = FieldError::invalid("spec.shards", &json!(0), "must be positive");
        assert_eq!(error.to_string(), "spec.shards: Invalid value: 0: must be positive");
        let error = FieldError::required("spec.image", "");
        assert_eq!(error.to_string(), "spec.image: Required value");
        let error = FieldError::not_supported("a", &json!("x"), &[json!("b"), json!("c")]);
        assert_eq!(error.to_string(), r#"a: Unsupported value: "x": supported values: "b", "c""#);
    }

    #[test]
    fn several_errors_are_joined_in_brackets() {
        let a = FieldError::required("a", "");
        let b = FieldError::required("b", "");
        assert_eq!(aggregate(std::slice::from_ref(&a)), "a: Required value");
        assert_eq!(aggregate(&[a.clone(), b, a]), "[a: Required value, b: Required value]");
    }
}
