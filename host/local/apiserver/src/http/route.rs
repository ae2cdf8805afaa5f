//! The parsing of URL paths. It does not check that the resource exists.

use tholepin_http::decode_path;

use crate::http::query::malformed;
use crate::status::ApiError;

/// The target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiRouteTarget {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/G/V`.
    OpenApi {
        /// The group, empty for core.
        group: String,
        /// The version.
        version: String,
    },
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/G`.
    Group(String),
    /// `/api/v1`, `/apis/G/V`.
    Resources {
        /// The group, empty for core.
        group: String,
        /// The version.
        version: String,
    },
    /// A collection, an object or its subresource.
    Resource(ResourcePath),
}

/// A path below a group and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// The group, empty for core.
    pub(crate) group: String,
    /// The version.
    pub(crate) version: String,
    /// The namespace, if the path names one.
    pub(crate) namespace: Option<String>,
    /// The resource.
    pub(crate) plural: String,
    /// The object's name; `None` for the collection.
    pub(crate) name: Option<String>,
    /// The subresource.
    pub(crate) subresource: Option<String>,
}

/// Parses a URL path.
///
/// # Errors
///
/// 404 for a path that the API does not have, 400 for a malformed escape.
pub(crate) fn parse(path: &str) -> Result<ApiRouteTarget, ApiError> {
    let parts = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decode_path(part).ok_or_else(|| malformed(part)))
        .collect::<Result<Vec<String>, ApiError>>()?;
    let segments: Vec<&str> = parts.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(ApiRouteTarget::Health),
        ["version"] => Ok(ApiRouteTarget::Version),
        ["openapi", "v3"] => Ok(ApiRouteTarget::OpenApiIndex),
        ["openapi", "v3", "api", version] => {
            Ok(ApiRouteTarget::OpenApi { group: String::new(), version: (*version).to_owned() })
        }
        ["openapi", "v3", "apis", group, version] => Ok(ApiRouteTarget::OpenApi {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
        }),
        ["api"] => Ok(ApiRouteTarget::CoreVersions),
        ["apis"] => Ok(ApiRouteTarget::Groups),
        ["apis", group] => Ok(ApiRouteTarget::Group((*group).to_owned())),
        ["api", version] => {
            Ok(ApiRouteTarget::Resources { group: String::new(), version: (*version).to_owned() })
        }
        ["apis", group, version] => Ok(ApiRouteTarget::Resources {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
        }),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Err(ApiError::no_such_path()),
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Result<ApiRouteTarget, ApiError> {
    let (namespace, rest) = match rest {
        // A namespace and its subresources have cluster scope.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, subresource] => (plural, Some(name), Some(subresource)),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(ApiRouteTarget::Resource(ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        plural: (*plural).to_owned(),
        name: name.map(|name| (*name).to_owned()),
        subresource: subresource.map(|segment| (*segment).to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let Ok(ApiRouteTarget::Resource(found)) = parse(path) else {
            assert_eq!(expected, "-", "{path}");
            return;
        };
        let show = |segment: &Option<String>| segment.clone().unwrap_or_else(|| "-".into());
        let text = format!(
            "{}|{}|{}|{}|{}|{}",
            found.group,
            found.version,
            show(&found.namespace),
            found.plural,
            show(&found.name),
            show(&found.subresource)
        );
        assert_eq!(text, expected, "{path}");
    }

    #[test]
    fn paths_are_parsed_as_in_kubernetes() {
        check("/api/v1/pods", "|v1|-|pods|-|-");
        check("/api/v1/namespaces", "|v1|-|namespaces|-|-");
        check("/api/v1/namespaces/a", "|v1|-|namespaces|a|-");
        check("/api/v1/namespaces/a/status", "|v1|-|namespaces|a|status");
        check("/api/v1/namespaces/a/pods", "|v1|a|pods|-|-");
        check("/api/v1/namespaces/a/pods/p/log", "|v1|a|pods|p|log");
        check("/apis/apps/v1/namespaces/a/statefulsets/s", "apps|v1|a|statefulsets|s|-");
        check("/apis/g.x/v1/things/t%2e/status", "g.x|v1|-|things|t.|status");
        check("/api/v1/namespaces/a/pods/p/log/x", "-");
        check("/elsewhere", "-");
    }
}
