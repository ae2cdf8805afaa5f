//! The get and list verbs, and the response formats of objects.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tholepin_apimachinery::table::{self, IncludeObject};

use crate::http::answer::ApiResponse;
use crate::http::negotiate::ResponseFormat;
use crate::http::query::QueryParameters;
use crate::object::{metadata_mut, text};
use crate::registry::ServedKind;
use crate::selection::WatchedObjects;
use crate::status::ApiError;
use crate::store::{
    ListPage, ListVersion, NamespacedName, StoreCommitError, StoreListError, StoreListRequest,
};
use crate::verbs::ResourceRequest;
use crate::view;

/// Answers a GET of one object.
pub(crate) fn get(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    if request.path.subresource.as_deref().is_some_and(|subresource| subresource != "status") {
        return Err(ApiError::method_not_allowed());
    }
    let cx = request.context()?;
    let requested = revision(&request.call.query)?.unwrap_or(0);
    let current = request.server.store.revision();
    if current < requested {
        return Err(ApiError::too_large_resource_version(requested, current));
    }
    let stored = request.server.store.get(&request.served.resource, &cx.key(request.name()));
    let stored = stored.ok_or_else(|| cx.refused(&StoreCommitError::Missing, request.name()))?;
    single(request, 200, &view::show(&request.served, &stored), Vec::new())
}

/// Returns a response with one object in the requested format.
pub(crate) fn single(
    request: &ResourceRequest<'_>,
    code: u16,
    object: &Arc<Value>,
    warnings: Vec<String>,
) -> Result<ApiResponse, ApiError> {
    let value = formatted(request, object)?;
    Ok(ApiResponse::Json { code, value, warnings })
}

/// Returns one object in the requested format.
pub(crate) fn formatted(
    request: &ResourceRequest<'_>,
    object: &Arc<Value>,
) -> Result<Value, ApiError> {
    let formatter = ResponseFormatter::of(request)?;
    Ok(formatter.format(object, request.now))
}

/// Converts objects to the requested response format.
pub(crate) struct ResponseFormatter {
    served: Arc<ServedKind>,
    format: ResponseFormat,
    include: IncludeObject,
}

impl ResponseFormatter {
    /// Reads the format from a request.
    ///
    /// # Errors
    ///
    /// 400 for an unknown `includeObject`.
    pub(crate) fn of(request: &ResourceRequest<'_>) -> Result<Self, ApiError> {
        let include = match request.call.query.text("includeObject") {
            None | Some("Metadata") => IncludeObject::Metadata,
            Some("Object") => IncludeObject::Object,
            Some("None") => IncludeObject::None,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "includeObject: `{other}` is not one of `None`, `Metadata`, `Object`"
                )));
            }
        };
        Ok(Self { served: Arc::clone(&request.served), format: request.call.format, include })
    }

    /// Formats one object.
    pub(crate) fn format(&self, object: &Arc<Value>, now: Timestamp) -> Value {
        match self.format {
            ResponseFormat::Table => {
                let mut table =
                    table::render(&self.served.columns, &[object.as_ref()], self.include, now);
                let revision = object.pointer("/metadata/resourceVersion");
                let revision = revision.cloned().unwrap_or(Value::Null);
                metadata_mut(&mut table).insert("resourceVersion".into(), revision);
                table
            }
            ResponseFormat::Metadata => partial(object),
            ResponseFormat::Whole
            | ResponseFormat::DiscoveryV2
            | ResponseFormat::DiscoveryV2Beta1 => (**object).clone(),
        }
    }

    /// Returns the object of a bookmark, which reports the revision of a watch.
    pub(crate) fn bookmark(&self, revision: u64, initial_end: bool) -> Value {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if let (Some(map), true) = (metadata.as_object_mut(), initial_end) {
            map.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let kind = &self.served.kind;
        match self.format {
            ResponseFormat::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            ResponseFormat::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
            ResponseFormat::Whole
            | ResponseFormat::DiscoveryV2
            | ResponseFormat::DiscoveryV2Beta1 => json!({
                "kind": kind.kind, "apiVersion": self.served.api_version, "metadata": metadata,
            }),
        }
    }

    /// Formats a list; `metadata` is that of the list itself.
    fn list(&self, objects: &[Arc<Value>], metadata: Map<String, Value>, now: Timestamp) -> Value {
        match self.format {
            ResponseFormat::Table => {
                let objects: Vec<&Value> = objects.iter().map(Arc::as_ref).collect();
                let mut table = table::render(&self.served.columns, &objects, self.include, now);
                metadata_mut(&mut table).extend(metadata);
                table
            }
            ResponseFormat::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": objects.iter().map(|object| partial(object)).collect::<Vec<_>>(),
            }),
            ResponseFormat::Whole
            | ResponseFormat::DiscoveryV2
            | ResponseFormat::DiscoveryV2Beta1 => json!({
                "kind": self.served.kind.list_kind,
                "apiVersion": self.served.api_version,
                "metadata": metadata,
                "items": objects.iter().map(|object| self.item(object)).collect::<Vec<_>>(),
            }),
        }
    }

    /// Formats an item of a list. Items of built-in kinds have no `apiVersion` and `kind`, as in the real server.
    fn item(&self, object: &Value) -> Value {
        if self.served.custom.is_some() {
            return object.clone();
        }
        let fields = object.as_object().into_iter().flatten();
        let fields = fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"));
        Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or(Value::Null),
    })
}

/// Reads `resourceVersion` of a query.
///
/// # Errors
///
/// 400 if it is not a number.
pub(crate) fn revision(query: &QueryParameters) -> Result<Option<u64>, ApiError> {
    let Some(given) = query.text("resourceVersion") else { return Ok(None) };
    given.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!("resourceVersion: Invalid value: \"{given}\": not a number"))
    })
}

/// Answers a GET of a collection.
pub(crate) fn list(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let query = &request.call.query;
    let limit = query.number("limit")?.filter(|limit| *limit != 0);
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (at, after) = position(query)?;
    let selection = WatchedObjects::of(&request.served, query, request.path.name.as_deref())?;
    let page = request.server.store.page(&StoreListRequest {
        resource: &request.served.resource,
        namespace: request.path.namespace.as_deref(),
        at,
        after: after.as_ref(),
        limit,
        filter: &|object| selection.matches(object),
    });
    let page = page.map_err(|refused| out_of_reach(&refused, at, after.is_some()))?;
    let shown: Vec<Arc<Value>> =
        page.objects.iter().map(|stored| view::show(&request.served, stored)).collect();
    let metadata = list_metadata(&page, selection.is_everything());
    Ok(ApiResponse::ok(ResponseFormatter::of(request)?.list(&shown, metadata, request.now)))
}

fn out_of_reach(refused: &StoreListError, at: ListVersion, is_continued: bool) -> ApiError {
    match (refused, at) {
        (
            StoreListError::Future(current),
            ListVersion::NotOlderThan(requested) | ListVersion::Exact(requested),
        ) => ApiError::too_large_resource_version(requested, *current),
        (StoreListError::Expired | StoreListError::Future(_), _) if is_continued => {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You \
             must start a new list without the continue parameter.",
            )
        }
        (StoreListError::Expired | StoreListError::Future(_), _) => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
    }
}

/// Reads the revision of a list and the key after which the page begins.
fn position(query: &QueryParameters) -> Result<(ListVersion, Option<NamespacedName>), ApiError> {
    let requested = revision(query)?;
    let rule = query.text("resourceVersionMatch");
    if let Some(token) = query.text("continue") {
        if requested.is_some_and(|revision| revision != 0) || rule.is_some() {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (revision, key) = read_token(token).ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: start a new list without it")
        })?;
        return Ok((ListVersion::Exact(revision), Some(key)));
    }
    let at = match (requested, rule) {
        (None, None) => ListVersion::Latest,
        (None, Some(_)) => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        (Some(0), Some("Exact")) => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        (Some(revision), Some("Exact")) => ListVersion::Exact(revision),
        (Some(revision), None | Some("NotOlderThan")) => ListVersion::NotOlderThan(revision),
        (Some(_), Some(other)) => {
            return Err(ApiError::bad_request(format!(
                "resourceVersionMatch: `{other}` is not one of `Exact`, `NotOlderThan`"
            )));
        }
    };
    Ok((at, None))
}

fn list_metadata(page: &ListPage, is_everything: bool) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(page.revision.to_string()));
    if let Some(last) = &page.more_after {
        metadata.insert("continue".into(), json!(write_token(page.revision, last)));
        if is_everything {
            metadata.insert("remainingItemCount".into(), json!(page.remaining));
        }
    }
    metadata
}

fn write_token(revision: u64, last: &NamespacedName) -> String {
    let token = json!({"v": 1, "rv": revision, "ns": &*last.namespace, "name": &*last.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Option<(u64, NamespacedName)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let token: Value = serde_json::from_slice(&bytes).ok()?;
    let revision = token.get("rv")?.as_u64()?;
    Some((revision, NamespacedName::new(text(&token, "/ns")?, text(&token, "/name")?)))
}
