//! Authenticated requests: the parameters, and the parsing of the body.

use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use crate::http::negotiate::ResponseFormat;
use crate::http::query::QueryParameters;
use crate::status::ApiError;

/// The media types of bodies. The parsers limit the nesting of a document.
const JSON: [&str; 3] = ["", "application/json", "text/json"];
const YAML: [&str; 2] = ["application/yaml", "application/apply-patch+yaml"];

/// One authenticated request.
#[derive(Debug)]
pub(crate) struct AuthenticatedRequest {
    /// The user of the token.
    pub(crate) user: String,
    /// The `User-Agent`; may be empty.
    pub(crate) agent: String,
    /// The HTTP method.
    pub(crate) method: Method,
    /// The query parameters.
    pub(crate) query: QueryParameters,
    /// The requested response format.
    pub(crate) format: ResponseFormat,
    /// The body's media type without parameters, in lower case; may be empty.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: Bytes,
}

impl AuthenticatedRequest {
    /// Returns the field manager: the query parameter, else the user agent up to its first `/`, as in Kubernetes.
    pub(crate) fn field_manager(&self) -> String {
        let agent = self.agent.split('/').next().unwrap_or("");
        let named = self.query.text("fieldManager").unwrap_or(agent);
        named.chars().filter(|c| !c.is_control()).take(128).collect()
    }

    /// Returns true for a dry run.
    ///
    /// # Errors
    ///
    /// 400 for a value other than `All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        let values = self.query.all("dryRun");
        if let Some(other) = values.iter().find(|value| !value.is_empty() && *value != "All") {
            let message = format!("dryRun: `{other}` is not supported; the only value is `All`");
            return Err(ApiError::bad_request(message));
        }
        Ok(values.iter().any(|value| value == "All"))
    }

    /// Parses the body as JSON or YAML, according to its media type.
    ///
    /// # Errors
    ///
    /// 415 for other media types, 400 for a malformed body.
    pub(crate) fn document(&self) -> Result<Value, ApiError> {
        let media = self.content_type.as_str();
        if JSON.contains(&media) || media.ends_with("+json") {
            return serde_json::from_slice(&self.body)
                .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")));
        }
        if YAML.contains(&media) {
            // JSON is valid YAML, but the JSON parser is faster and stricter.
            if let Ok(value) = serde_json::from_slice(&self.body) {
                return Ok(value);
            }
            let text = std::str::from_utf8(&self.body)
                .map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
            return serde_saphyr::from_str(text)
                .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")));
        }
        if media == "application/vnd.kubernetes.protobuf" {
            return Err(ApiError::unsupported_media_type(
                "protobuf bodies are not supported: send JSON (with kubectl, write the object to a file \
                 or add `--dry-run=client -o yaml`, and use `kubectl apply --server-side -f`)",
            ));
        }
        Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml (got `{media}`)"
        )))
    }
}
