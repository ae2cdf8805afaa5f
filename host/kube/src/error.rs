//! Maps errors of the API server to [`CallError`], and puts a deadline on every request.
//!
//! The `reason` of the server's `Status` decides. Its text decides in two cases only, for which the server
//! gives no reason: an unknown field of a built-in kind, and the verb that RBAC denies.

use std::{sync::Arc, time::Duration};

use kube::core::{Status, response::StatusCause};
use tholepin_core::{CallError, ErrorChain};

/// How long one request to the API server may take.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// A request to the API server, as messages describe it.
#[derive(Clone, Debug)]
pub(crate) struct ApiRequestDescription {
    /// The RBAC verb: `get`, `list`, `watch`, `create`, `patch`, `delete`.
    pub(crate) verb: &'static str,
    /// The API group, empty for the core group.
    pub(crate) group: String,
    /// The resource with its subresource: `statefulsets`, `pods/status`.
    pub(crate) resource: String,
    /// The object or the kind, for messages.
    pub(crate) target: String,
    /// The URL of the server, for messages.
    pub(crate) server: Arc<str>,
}

impl ApiRequestDescription {
    /// Waits for the reply to a request for [`REQUEST_DEADLINE`] at most.
    ///
    /// # Errors
    ///
    /// Fails if the request fails or does not end in time.
    pub(crate) async fn within<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(REQUEST_DEADLINE, request).await {
            Ok(answer) => answer.map_err(|error| self.to_call_error(&error)),
            Err(_) => {
                let Self { verb, target, server, .. } = self;
                let seconds = REQUEST_DEADLINE.as_secs();
                Err(CallError::Timeout(format!(
                    "the API server at {server} did not answer {verb} {target} within {seconds} s"
                )))
            }
        }
    }

    /// Returns the RBAC rule that the host lacks, if the server refused the request for that reason. The
    /// server names the denied verb only in the text of its message. An apply needs `create` too, because it
    /// creates an object that does not exist, and a watch needs `list` too.
    pub(crate) fn missing_rule(&self, message: &str) -> Option<String> {
        let Self { verb, group, resource, .. } = self;
        let (_, rest) = message.split_once(" cannot ")?;
        let named = rest.split(' ').next().filter(|named| RBAC_VERBS.contains(named))?;
        let mut verbs = match named {
            "create" | "patch" if *verb == "patch" && !resource.contains('/') => {
                vec!["create", "patch"]
            }
            "list" | "watch" if *verb == "watch" => vec!["list", "watch"],
            requested => vec![requested],
        };
        verbs.sort_unstable();
        let verbs: Vec<_> = verbs.iter().map(|verb| format!("\"{verb}\"")).collect();
        Some(format!(
            "the host needs RBAC `apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [{}]`",
            verbs.join(", ")
        ))
    }

    fn to_call_error(&self, error: &kube::Error) -> CallError {
        let Self { verb, target, server, .. } = self;
        if let kube::Error::Api(status) = error {
            return self.refused(status);
        }
        let text = format!("{verb} {target}: {}", ErrorChain(error));
        if matches!(error, kube::Error::SerdeError(_) | kube::Error::BuildRequest(_)) {
            return CallError::Invalid(text);
        }
        // Everything else is an error of the transport: the outcome is unknown, and a retry can help.
        CallError::Transient(format!("the API server at {server}: {text}"))
    }

    /// Returns the error for a request that the server answered with a failure.
    pub(crate) fn refused(&self, status: &Status) -> CallError {
        let Self { verb, target, .. } = self;
        let Status { message, reason, code, details, .. } = status;
        let causes = details.as_ref().map_or(&[][..], |details| &details.causes);
        let has_cause = |name: &str| causes.iter().any(|cause| cause.reason == name);
        let text = format!("{verb} {target}: {message}");
        match reason.as_str() {
            "NotFound" => CallError::NotFound(target.clone()),
            "Conflict" if has_cause("FieldManagerConflict") => {
                CallError::Conflict(format!("{target}: {}", field_conflicts(causes)))
            }
            "Conflict" | "AlreadyExists" => CallError::Conflict(text),
            "Forbidden" if has_cause("NamespaceTerminating") => CallError::Conflict(text),
            // Admission (a quota, Pod Security, a webhook) refuses with the same reason.
            "Forbidden" => CallError::Denied(match self.missing_rule(message) {
                Some(rule) => format!("{text}; {rule}"),
                None => text,
            }),
            "Unauthorized" => CallError::Denied(format!(
                "{text}; the API server does not know the credentials of the host's kubeconfig"
            )),
            "Timeout" | "ServerTimeout" => CallError::Timeout(text),
            "TooManyRequests" => {
                let seconds = details.as_ref().map_or(0, |details| details.retry_after_seconds);
                CallError::Throttled(seconds.max(1).saturating_mul(1000))
            }
            "Invalid" | "BadRequest" | "RequestEntityTooLarge" => CallError::Invalid(text),
            "MethodNotAllowed" | "NotAcceptable" | "UnsupportedMediaType" => {
                CallError::Unsupported(text)
            }
            // The reply to an apply with a field that a built-in kind does not have.
            "InternalError" if message.contains(UNKNOWN_FIELD) => CallError::Invalid(text),
            "Expired" | "Gone" | "InternalError" | "ServiceUnavailable" => {
                CallError::Transient(text)
            }
            _ => by_code(*code, target, text),
        }
    }
}

/// The text of the server about a field that the schema does not have; its reason is `InternalError`.
const UNKNOWN_FIELD: &str = "field not declared in schema";

/// The RBAC verbs that a request of this crate can need.
const RBAC_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// Maps a reply without a known reason by its HTTP status: a proxy before the API server sends no `Status`.
fn by_code(code: u16, target: &str, text: String) -> CallError {
    match code {
        404 => CallError::NotFound(target.to_owned()),
        409 => CallError::Conflict(text),
        401 | 403 => CallError::Denied(text),
        408 | 504 => CallError::Timeout(text),
        429 => CallError::Throttled(1000),
        400..500 => CallError::Invalid(text),
        500..600 => CallError::Transient(text),
        _ => CallError::Other(text),
    }
}

/// Lists the fields that other managers own, such as `.data.a` (conflict with "kubectl"), and how to apply.
fn field_conflicts(causes: &[StatusCause]) -> String {
    const SHOWN_MAX: usize = 10;
    let conflicts = causes.iter().filter(|cause| cause.reason == "FieldManagerConflict");
    let mut parts: Vec<String> =
        conflicts.map(|cause| format!("`{}` ({})", cause.field, cause.message)).collect();
    let more = parts.len().saturating_sub(SHOWN_MAX);
    parts.truncate(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "other managers own {}{more}: undo their change, or grant `force` and apply with it",
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request() -> ApiRequestDescription {
        ApiRequestDescription {
            verb: "patch",
            group: "apps".to_owned(),
            resource: "statefulsets/status".to_owned(),
            target: "StatefulSet s/a".to_owned(),
            server: "https://192.0.2.1:6443".into(),
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named_with_its_address() {
        let refused = async { Err::<(), _>(kube::Error::Service("connection refused".into())) };
        let error = request().within(refused).await.unwrap_err();
        assert_eq!(error.reason(), "Transient");
        for part in ["https://192.0.2.1:6443", "patch StatefulSet s/a", "connection refused"] {
            assert!(error.to_string().contains(part), "no {part} in {error}");
        }
    }

    fn refused(reason: &str, code: u16, details: Value) -> CallError {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "no", "reason": reason, "code": code,
            "details": details});
        let status: Status = serde_json::from_value(status).unwrap();
        request().to_call_error(&kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn the_rbac_rule_has_the_verb_that_the_server_denied() {
        fn rule(verb: &'static str, resource: &str, message: &str) -> String {
            let request =
                ApiRequestDescription { verb, resource: resource.to_owned(), ..request() };
            request.missing_rule(message).unwrap_or_default()
        }
        let cannot =
            |verb: &str| format!("User \"x\" cannot {verb} resource \"sets\" in API group");
        let rows = [
            ("patch", "sets", cannot("create"), r#"verbs: ["create", "patch"]"#),
            ("patch", "sets/status", cannot("patch"), r#"verbs: ["patch"]"#),
            ("watch", "sets", cannot("list"), r#"verbs: ["list", "watch"]"#),
            ("delete", "sets", cannot("delete"), r#"resources: ["sets"], verbs: ["delete"]"#),
        ];
        for (verb, resource, message, expected) in rows {
            let rule = rule(verb, resource, &message);
            assert!(rule.contains(expected), "{verb} {message}: {rule}");
        }
        for admission in ["exceeded quota: q", "a webhook cannot bear it"] {
            assert_eq!(rule("patch", "sets", admission), "", "no rule would help");
        }
    }

    #[test]
    fn an_unknown_field_is_invalid_and_not_retried() {
        let status = json!({"message": "failed to create typed patch object (s/a; apps/v1, \
            Kind=StatefulSet): .spec.sharts: field not declared in schema", "code": 500,
            "reason": "InternalError", "status": "Failure"});
        let status: Status = serde_json::from_value(status).unwrap();
        let error = request().to_call_error(&kube::Error::Api(Box::new(status)));
        assert_eq!(error.reason(), "Invalid");
    }

    #[test]
    fn a_refusal_maps_to_the_error_of_its_reason() {
        let conflict = json!({"causes": [{"reason": "FieldManagerConflict", "field": ".data.a",
            "message": "conflict with \"kubectl\""}]});
        let terminating = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        let cases = [
            ("NotFound", 404, json!({}), "NotFound", "StatefulSet s/a does not exist"),
            ("Conflict", 409, conflict, "Conflict", "`.data.a` (conflict with \"kubectl\")"),
            ("Conflict", 409, json!({}), "Conflict", "no"),
            ("AlreadyExists", 409, json!({}), "Conflict", "no"),
            ("Forbidden", 403, json!({}), "Denied", "patch StatefulSet s/a: no"),
            ("Unauthorized", 401, json!({}), "Denied", "credentials"),
            ("Forbidden", 403, terminating, "Conflict", "no"),
            ("Invalid", 422, json!({}), "Invalid", "no"),
            ("Timeout", 504, json!({}), "Timeout", "no"),
            ("TooManyRequests", 429, json!({"retryAfterSeconds": 3}), "Throttled", "3000 ms"),
            ("UnsupportedMediaType", 415, json!({}), "Unsupported", "no"),
            ("InternalError", 500, json!({}), "Transient", "no"),
            ("", 502, json!({}), "Transient", "no"),
            ("", 404, json!({}), "NotFound", "StatefulSet s/a"),
        ];
        for (reason, code, details, expected, part) in cases {
            let error = refused(reason, code, details);
            assert_eq!(error.reason(), expected, "{reason} {code}");
            assert!(error.to_string().contains(part), "{reason} {code}: {error}");
        }
    }
}
