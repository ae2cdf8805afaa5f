//! Health, version, API discovery and OpenAPI documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::answer::ApiResponse;
use crate::http::negotiate::ResponseFormat;
use crate::http::request::AuthenticatedRequest;
use crate::http::route::ApiRouteTarget;
use crate::registry::ServedKind;
use crate::server_state::ServerState;
use crate::status::ApiError;

/// The Kubernetes version that the server reports: major, minor, git version.
const VERSION: (&str, &str, &str) = ("1", "33", "v1.33.0+tholepin");
/// The verbs of every kind.
const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Returns the subresources of a kind that are served.
pub(crate) fn subresources(served: &ServedKind) -> impl Iterator<Item = &str> {
    let own = served.kind.subresources.iter().map(String::as_str);
    let of_pods = ["binding", "eviction"].into_iter().filter(|_| served.is("", "pods"));
    own.filter(|name| matches!(*name, "status" | "log")).chain(of_pods)
}

/// Answers a GET of a path that is not a resource.
///
/// # Errors
///
/// 404 for a group or version that is not served.
pub(crate) fn answer(
    server: &Arc<ServerState>,
    call: &AuthenticatedRequest,
    target: &ApiRouteTarget,
) -> Result<ApiResponse, ApiError> {
    match target {
        ApiRouteTarget::Health => {
            Ok(ApiResponse::Text { content_type: "text/plain", text: b"ok".to_vec() })
        }
        ApiRouteTarget::Version => Ok(ApiResponse::ok(version())),
        ApiRouteTarget::CoreVersions => Ok(core_versions(server, call.format)),
        ApiRouteTarget::Groups => Ok(groups(server, call.format)),
        ApiRouteTarget::Group(name) => by_group(server)
            .get(name)
            .filter(|_| !name.is_empty())
            .map(|versions| ApiResponse::ok(with_kind("APIGroup", group(name, versions))))
            .ok_or_else(ApiError::no_such_path),
        ApiRouteTarget::Resources { group, version } => resources(server, group, version),
        ApiRouteTarget::OpenApiIndex => Ok(ApiResponse::ok(server.registry.open_api_index())),
        ApiRouteTarget::OpenApi { group, version } => {
            let text = server.registry.open_api(group, version);
            let text = text.ok_or_else(ApiError::no_such_path)?;
            Ok(ApiResponse::Text { content_type: "application/json", text })
        }
        ApiRouteTarget::Resource(_) => Err(ApiError::no_such_path()),
    }
}

fn version() -> Value {
    let (major, minor, version) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": version, "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

/// The kinds by group and version; the preferred version is the first.
type ApiGroups = BTreeMap<String, Vec<(String, Vec<Arc<ServedKind>>)>>;

fn by_group(server: &ServerState) -> ApiGroups {
    let mut groups = ApiGroups::new();
    for served in server.registry.all() {
        let versions = groups.entry(served.kind.group.clone()).or_default();
        match versions.iter_mut().find(|(version, _)| *version == served.kind.version) {
            Some((_, kinds)) => kinds.push(served),
            None => versions.push((served.kind.version.clone(), vec![served])),
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(priority(version)));
    }
    groups
}

/// Returns the sort key of a version in Kubernetes' order: v2, v1, v1beta2, v1alpha1, then all others.
fn priority(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let (stage_name, stage) = if rest.contains("beta") {
        ("beta", 2)
    } else if rest.contains("alpha") {
        ("alpha", 1)
    } else {
        return rest.parse().map_or((0, 0, 0), |major| (3, major, 0));
    };
    let (major, minor) = rest.split_once(stage_name).unwrap_or((rest, ""));
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => (stage, major, minor),
        _ => (0, 0, 0),
    }
}

fn with_kind(kind: &str, mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".into(), json!(kind));
        map.insert("apiVersion".into(), json!("v1"));
    }
    value
}

fn core_versions(server: &ServerState, format: ResponseFormat) -> ApiResponse {
    if let Some(answer) = aggregated(server, format, &|group| group.is_empty()) {
        return answer;
    }
    let address = server.address.to_string();
    ApiResponse::ok(json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }))
}

fn groups(server: &ServerState, format: ResponseFormat) -> ApiResponse {
    if let Some(answer) = aggregated(server, format, &|group| !group.is_empty()) {
        return answer;
    }
    let groups = by_group(server);
    let named = groups.iter().filter(|(name, _)| !name.is_empty());
    let list: Vec<Value> = named.map(|(name, versions)| group(name, versions)).collect();
    ApiResponse::ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}))
}

fn group(name: &str, versions: &[(String, Vec<Arc<ServedKind>>)]) -> Value {
    let entry =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(|(version, _)| entry(version)).collect();
    let preferred = all.first().cloned().unwrap_or(Value::Null);
    json!({"name": name, "versions": all, "preferredVersion": preferred})
}

fn resources(server: &ServerState, group: &str, version: &str) -> Result<ApiResponse, ApiError> {
    let kinds: Vec<Arc<ServedKind>> = server
        .registry
        .all()
        .into_iter()
        .filter(|served| served.kind.group == group && served.kind.version == version)
        .collect();
    let first = kinds.first().ok_or_else(ApiError::no_such_path)?;
    let group_version = first.api_version.clone();
    let mut list = Vec::new();
    for served in &kinds {
        let kind = &served.kind;
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": VERBS, "shortNames": kind.short_names,
            "categories": kind.categories,
        });
        if let Some(map) = entry.as_object_mut() {
            map.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        }
        list.push(entry);
        for name in subresources(served) {
            let (_, response_kind, verbs) = subresource(served, name);
            list.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": response_kind, "verbs": verbs,
            }));
        }
    }
    Ok(ApiResponse::ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": list,
    })))
}

/// Returns group and version, kind, and verbs of a subresource.
fn subresource<'a>(
    served: &'a ServedKind,
    name: &str,
) -> ((&'a str, &'a str), &'a str, &'static [&'static str]) {
    let kind = &served.kind;
    let own = (kind.group.as_str(), kind.version.as_str());
    match name {
        "log" => (own, &kind.kind, &["get"]),
        "binding" => (own, "Binding", &["create"]),
        "eviction" => (("policy", "v1"), "Eviction", &["create"]),
        _ => (own, &kind.kind, &["get", "patch", "update"]),
    }
}

/// Returns the groups that `includes` accepts in one document, if the client accepts aggregated discovery.
fn aggregated(
    server: &ServerState,
    format: ResponseFormat,
    includes: &dyn Fn(&str) -> bool,
) -> Option<ApiResponse> {
    let (version, content_type) = match format {
        ResponseFormat::DiscoveryV2 => ("v2", V2),
        ResponseFormat::DiscoveryV2Beta1 => ("v2beta1", V2_BETA1),
        ResponseFormat::Whole | ResponseFormat::Table | ResponseFormat::Metadata => return None,
    };
    let groups = by_group(server);
    let items: Vec<Value> = groups
        .iter()
        .filter(|(name, _)| includes(name))
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, kinds)| {
                    let resources: Vec<Value> =
                        kinds.iter().map(|served| aggregated_resource(served)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let text = serde_json::to_vec(&document).unwrap_or_default();
    Some(ApiResponse::Text { content_type, text })
}

fn aggregated_resource(served: &ServedKind) -> Value {
    let kind = &served.kind;
    let response = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = subresources(served)
        .map(|name| {
            let (group_version, kind, verbs) = subresource(served, name);
            json!({"subresource": name, "responseKind": response(group_version, kind), "verbs": verbs})
        })
        .collect();
    json!({
        "resource": kind.plural,
        "responseKind": response((&kind.group, &kind.version), &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": VERBS,
        "shortNames": kind.short_names,
        "categories": kind.categories,
        "subresources": subresources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_in_kubernetes() {
        let mut versions = ["foo", "v1alpha1", "v2", "v1beta2", "v10", "v1beta1", "v1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
