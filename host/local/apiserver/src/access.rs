//! Self-reviews of access and identity. Every user with a token may do everything.

use hyper::Method;
use serde_json::json;

use crate::http::answer::ApiResponse;
use crate::http::request::AuthenticatedRequest;
use crate::http::route::ResourcePath;
use crate::status::ApiError;

/// The first bytes of a protobuf body of Kubernetes.
const PROTOBUF: &[u8] = b"k8s\0";

/// Returns true if a path names a self-review.
pub(crate) fn is_review(path: &ResourcePath) -> bool {
    matches!(
        (path.group.as_str(), path.version.as_str(), path.plural.as_str()),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
            | ("authentication.k8s.io", "v1", "selfsubjectreviews")
    ) && path.namespace.is_none()
        && path.name.is_none()
}

/// Answers a self-review. kubectl sends the request as protobuf; the answer does not depend on its content, so only
/// the prefix that marks the encoding is checked.
///
/// # Errors
///
/// 405 for verbs other than create, 415 for a body of another media type, 400 for a malformed body.
pub(crate) fn review(
    call: &AuthenticatedRequest,
    path: &ResourcePath,
) -> Result<ApiResponse, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let is_protobuf = call.content_type == "application/vnd.kubernetes.protobuf";
    if is_protobuf && !call.body.starts_with(PROTOBUF) {
        return Err(ApiError::bad_request("the body is not Kubernetes' protobuf"));
    }
    let spec = if is_protobuf {
        json!({})
    } else {
        let body = call.document()?;
        body.get("spec").cloned().unwrap_or_else(|| json!({}))
    };
    let (kind, status) = if path.plural == "selfsubjectreviews" {
        let user =
            json!({"username": call.user, "groups": ["system:masters", "system:authenticated"]});
        ("SelfSubjectReview", json!({"userInfo": user}))
    } else {
        let reason = "every user with a token may do everything";
        ("SelfSubjectAccessReview", json!({"allowed": true, "reason": reason}))
    };
    let value = json!({
        "kind": kind,
        "apiVersion": format!("{}/{}", path.group, path.version),
        "metadata": {},
        "spec": spec,
        "status": status,
    });
    Ok(ApiResponse::Json { code: 201, value, warnings: Vec::new() })
}
