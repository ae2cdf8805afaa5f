//! Says what is wrong with which field, in the words of the real API server.
//!
//! A [`FieldError`] becomes one cause of a `Status` with reason `Invalid`. It never decides the HTTP
//! code: that is 422 for all of them and chosen by the server.
//!
//! Source of names and wording: k8s.io/apimachinery `pkg/util/validation/field/errors.go`.

use std::fmt;

/// Why a field is refused; the `reason` of a cause in `Status.details.causes`.
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
    /// The value is none of a closed set.
    NotSupported,
    /// The string has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The field may not be set here.
    Forbidden,
    /// The value refers to what does not exist.
    NotFound,
    /// The server could not find out.
    Internal,
}

impl FieldErrorReason {
    /// The word in `Status.details.causes[].reason`.
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

    /// Reads the `reason` of an `x-kubernetes-validations` rule; absent means `Invalid`.
    ///
    /// Only the four reasons that a rule may name are known.
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

/// One fault of one field.
///
/// `Display` gives what the server prints: `spec.shards: Invalid value: 0: …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Path of the field: `spec.shards`, `spec.ports[0].name`, `metadata.labels[a/b]`;
    /// `<nil>` for the object itself.
    pub field: String,
    /// Why.
    pub reason: FieldErrorReason,
    /// `message` of the cause: without the field, beginning with the kind of fault.
    pub message: String,
}

impl FieldError {
    /// A field that must be given: `Required value: DETAIL`.
    pub fn required(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::build(
            field,
            FieldErrorReason::Required,
            with_detail("Required value".to_owned(), &detail),
        )
    }

    /// A malformed value: `Invalid value: VALUE: DETAIL`. Strings are quoted as Go quotes them.
    pub fn invalid(
        field: impl Into<String>,
        value: &serde_json::Value,
        detail: impl fmt::Display,
    ) -> Self {
        let text = format!("Invalid value: {}", show(value));
        Self::build(field, FieldErrorReason::Invalid, with_detail(text, &detail))
    }

    /// A value of the wrong JSON type: `Invalid value: "TYPE": DETAIL`.
    pub fn type_invalid(field: impl Into<String>, found: &str, detail: impl fmt::Display) -> Self {
        let text = format!("Invalid value: \"{found}\"");
        Self::build(field, FieldErrorReason::TypeInvalid, with_detail(text, &detail))
    }

    /// A value that occurs twice: `Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: &serde_json::Value) -> Self {
        Self::build(field, FieldErrorReason::Duplicate, format!("Duplicate value: {}", show(value)))
    }

    /// A value outside a closed set: `Unsupported value: VALUE: supported values: "a", "b"`.
    pub fn not_supported(
        field: impl Into<String>,
        value: &serde_json::Value,
        supported: &[serde_json::Value],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(show).collect();
        let text = format!(
            "Unsupported value: {}: supported values: {}",
            show(value),
            supported.join(", ")
        );
        Self::build(field, FieldErrorReason::NotSupported, text)
    }

    /// A string longer than `max` bytes: `Too long: may not be more than MAX bytes`.
    pub fn too_long(field: impl Into<String>, max: u64) -> Self {
        Self::build(
            field,
            FieldErrorReason::TooLong,
            format!("Too long: may not be more than {max} bytes"),
        )
    }

    /// A list of `count` items where at most `max` are allowed.
    pub fn too_many(field: impl Into<String>, count: usize, max: u64) -> Self {
        let text = format!("Too many: {count}: must have at most {max} items");
        Self::build(field, FieldErrorReason::TooMany, text)
    }

    /// A field that may not be set: `Forbidden: DETAIL`.
    pub fn forbidden(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::build(
            field,
            FieldErrorReason::Forbidden,
            with_detail("Forbidden".to_owned(), &detail),
        )
    }

    /// A fault whose message is already worded.
    pub fn build(field: impl Into<String>, reason: FieldErrorReason, message: String) -> Self {
        Self { field: field.into(), reason, message }
    }
}

/// Joins faults as the server does in `Status.message`: one alone, several in brackets.
///
/// Equal texts are printed once, in order of their first occurrence.
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

/// Appends a property to a path: `spec` + `shards` is `spec.shards`, a root adds no dot.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Shows a value as the server does inside `Invalid value: …`: scalars as JSON, `null` for nothing.
fn show(value: &serde_json::Value) -> String {
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
    fn messages_read_as_the_servers() {
        let error = FieldError::invalid("spec.shards", &json!(0), "must be positive");
        assert_eq!(error.to_string(), "spec.shards: Invalid value: 0: must be positive");
        let error = FieldError::required("spec.image", "");
        assert_eq!(error.to_string(), "spec.image: Required value");
        let error = FieldError::not_supported("a", &json!("x"), &[json!("b"), json!("c")]);
        assert_eq!(error.to_string(), r#"a: Unsupported value: "x": supported values: "b", "c""#);
    }

    #[test]
    fn one_fault_stands_alone_and_several_are_bracketed() {
        let a = FieldError::required("a", "");
        let b = FieldError::required("b", "");
        assert_eq!(aggregate(std::slice::from_ref(&a)), "a: Required value");
        assert_eq!(aggregate(&[a.clone(), b, a]), "[a: Required value, b: Required value]");
    }
}
