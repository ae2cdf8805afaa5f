//! The verbs of the API. Each write changes a copy of an object and commits it if the object did not change since.
//!
//! Invariant: every write that reaches a verb, accepted or refused, has one line in the audit log.

pub(crate) mod create;
pub(crate) mod delete;
mod input;
mod patch;
mod pod;
pub(crate) mod prepare;
mod read;
pub(crate) mod update;
mod watch;

use std::sync::Arc;

use hyper::Method;
use jiff::Timestamp;

use crate::audit::ApiAuditEvent;
use crate::http::answer::ApiResponse;
use crate::http::request::AuthenticatedRequest;
use crate::http::route::ResourcePath;
use crate::registry::ServedKind;
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::write_context::ObjectWriteContext;
use crate::{access, discovery};

/// One request for a served resource.
pub(crate) struct ResourceRequest<'a> {
    /// The state that all requests share.
    pub(crate) server: &'a Arc<ServerState>,
    /// The request.
    pub(crate) call: &'a AuthenticatedRequest,
    /// The path.
    pub(crate) path: &'a ResourcePath,
    /// The kind.
    pub(crate) served: Arc<ServedKind>,
    /// The time of the request.
    pub(crate) now: Timestamp,
}

impl ResourceRequest<'_> {
    /// Returns the context of a write for this request.
    ///
    /// # Errors
    ///
    /// 400 for an unknown value of `dryRun`.
    pub(crate) fn context(&self) -> Result<ObjectWriteContext, ApiError> {
        Ok(ObjectWriteContext {
            server: Arc::clone(self.server),
            served: Arc::clone(&self.served),
            namespace: self.namespace().to_owned(),
            now: self.now,
            manager: self.call.field_manager(),
            dry_run: self.call.dry_run()?,
        })
    }

    /// Returns the namespace; empty for cluster scope.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or("")
    }

    /// Returns the object's name; empty for a collection.
    pub(crate) fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or("")
    }
}

/// Answers a request for a resource, and writes an audit line if it is a write.
pub(crate) async fn dispatch(
    server: &Arc<ServerState>,
    call: &AuthenticatedRequest,
    path: &ResourcePath,
) -> Result<ApiResponse, ApiError> {
    if access::is_review(path) {
        return access::review(call, path);
    }
    let served = server.registry.find(&path.group, &path.version, &path.plural)?;
    let request = ResourceRequest { server, call, path, served, now: Timestamp::now() };
    check_scope(&request)?;
    let Some(verb) = write_verb(&request) else {
        return match (&path.subresource, &path.name) {
            (Some(subresource), _) if subresource == "log" && request.served.is("", "pods") => {
                pod::log(&request).await
            }
            (None, _) if call.query.flag("watch") => watch::watch(&request),
            (Some(_), _) | (None, Some(_)) => read::get(&request),
            (None, None) => read::list(&request),
        };
    };
    let result = write(&request, verb);
    server.audit.write(audit_event(&request, verb, &result)).await;
    let mut result = result;
    if let (Ok(ApiResponse::Json { warnings, .. }), Some(custom)) =
        (&mut result, &request.served.custom)
    {
        warnings.extend(custom.deprecation.clone());
    }
    result
}

fn write_verb(request: &ResourceRequest<'_>) -> Option<&'static str> {
    let named = request.path.name.is_some();
    match request.call.method {
        Method::GET | Method::HEAD => None,
        Method::POST => Some("create"),
        Method::PUT => Some("update"),
        Method::PATCH if patch::is_apply(request.call) => Some("apply"),
        Method::PATCH => Some("patch"),
        Method::DELETE if named => Some("delete"),
        Method::DELETE => Some("deletecollection"),
        _ => Some("unknown"),
    }
}

fn write(request: &ResourceRequest<'_>, verb: &str) -> Result<ApiResponse, ApiError> {
    let subresource = request.path.subresource.as_deref();
    let named = request.path.name.is_some();
    match (verb, subresource, named) {
        ("create", None, false) => create::post(request),
        ("create", Some("binding"), true) if request.served.is("", "pods") => pod::bind(request),
        ("create", Some("eviction"), true) if request.served.is("", "pods") => pod::evict(request),
        ("update", None | Some("status"), true) => update::put(request),
        ("patch" | "apply", None | Some("status"), true) => patch::patch(request),
        ("delete", None, true) => delete::delete(request),
        ("deletecollection", None, false) => delete::delete_collection(request),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn check_scope(request: &ResourceRequest<'_>) -> Result<(), ApiError> {
    let kind = &request.served.kind;
    let path = request.path;
    if path.namespace.is_some() && !kind.namespaced {
        return Err(ApiError::no_such_path());
    }
    let needs_namespace = path.name.is_some() || request.call.method == Method::POST;
    if kind.namespaced && path.namespace.is_none() && needs_namespace {
        return Err(ApiError::no_such_path());
    }
    match &path.subresource {
        Some(subresource)
            if !discovery::subresources(&request.served).any(|served| served == subresource) =>
        {
            Err(ApiError::no_such_path())
        }
        _ => Ok(()),
    }
}

fn audit_event(
    request: &ResourceRequest<'_>,
    verb: &'static str,
    result: &Result<ApiResponse, ApiError>,
) -> ApiAuditEvent {
    let generated = match result {
        Ok(ApiResponse::Json { value, .. }) if request.path.name.is_none() && verb == "create" => {
            crate::object::name(value).to_owned()
        }
        _ => String::new(),
    };
    ApiAuditEvent {
        time: format!("{:.6}", request.now),
        user: request.call.user.clone(),
        field_manager: request.call.field_manager(),
        verb,
        group: request.path.group.clone(),
        resource: request.path.plural.clone(),
        subresource: request.path.subresource.clone().unwrap_or_default(),
        namespace: request.namespace().to_owned(),
        name: request.path.name.clone().unwrap_or(generated),
        dry_run: request.call.dry_run().unwrap_or(false),
        code: match result {
            Ok(answer) => answer.code(),
            Err(failure) => failure.code,
        },
    }
}
