//! What can be done to objects. Each verb reads a copy, decides on it, and commits it whole.
//!
//! Invariant: every write that reaches a verb, accepted or refused, leaves one line in the audit log.

pub(crate) mod create;
pub(crate) mod delete;
mod input;
pub(crate) use input::document;
mod patch;
mod pod;
pub(crate) mod prepare;
mod read;
pub(crate) mod update;
mod watch;

use std::sync::Arc;

use hyper::Method;
use jiff::Timestamp;

use crate::audit::Line;
use crate::http::answer::Answer;
use crate::http::route::ResourcePath;
use crate::registry::Served;
use crate::server::{Call, Server};
use crate::status::{Cause, Failure, Subject};
use crate::store::{Key, Refused};
use crate::{access, discovery};

/// One request for a resource that is served.
pub(crate) struct Request<'a> {
    /// What all requests share.
    pub(crate) server: &'a Arc<Server>,
    /// The request.
    pub(crate) call: &'a Call,
    /// The path.
    pub(crate) path: &'a ResourcePath,
    /// The kind.
    pub(crate) served: Arc<Served>,
    /// The moment it is treated.
    pub(crate) now: Timestamp,
}

/// What a write needs to know, whether a client asked for it or the server itself.
#[derive(Clone)]
pub(crate) struct Context {
    /// What all requests share.
    pub(crate) server: Arc<Server>,
    /// The kind.
    pub(crate) served: Arc<Served>,
    /// The namespace, empty for cluster scope.
    pub(crate) namespace: String,
    /// The moment it is treated.
    pub(crate) now: Timestamp,
    /// The field manager.
    pub(crate) manager: String,
    /// Whether nothing is to be stored.
    pub(crate) dry_run: bool,
}

impl Context {
    /// Where an object of this name is stored.
    pub(crate) fn key(&self, name: &str) -> Key {
        Key::new(&self.namespace, name)
    }

    /// The failure that a refused commit means.
    pub(crate) fn refused(&self, refused: &Refused, name: &str) -> Failure {
        let namespace = || Subject::new("", "namespaces", &self.namespace);
        match refused {
            Refused::Exists => Failure::already_exists(self.served.subject(name)),
            Refused::Missing => Failure::not_found(self.served.subject(name)),
            Refused::Changed => Failure::modified(self.served.subject(name)),
            Refused::NamespaceMissing => Failure::not_found(namespace()),
            Refused::NamespaceTerminating => {
                let subject = self.served.subject(name);
                Failure {
                    causes: vec![Cause {
                        reason: "NamespaceTerminating".into(),
                        message: format!("namespace {} is being terminated", self.namespace),
                        field: "metadata.namespace".into(),
                    }],
                    ..Failure::forbidden(format!(
                        "{} \"{name}\" is forbidden: unable to create new content in namespace {} \
                         because it is being terminated",
                        self.served.kind.resource_name(),
                        self.namespace
                    ))
                    .about(subject)
                }
            }
            Refused::Full => Failure::new(
                507,
                "InsufficientStorage",
                "the store is full; delete objects that are no longer needed",
            ),
        }
    }
}

impl Request<'_> {
    /// What a write for this request needs to know.
    ///
    /// # Errors
    ///
    /// 400 for an unknown `dryRun`.
    pub(crate) fn context(&self) -> Result<Context, Failure> {
        Ok(Context {
            server: Arc::clone(self.server),
            served: Arc::clone(&self.served),
            namespace: self.namespace().to_owned(),
            now: self.now,
            manager: self.call.field_manager(),
            dry_run: self.call.dry_run()?,
        })
    }

    /// The namespace, empty for cluster scope.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or("")
    }

    /// The object's name, empty for a collection.
    pub(crate) fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or("")
    }
}

/// Answers a request for a resource, and notes it if it may write.
pub(crate) async fn dispatch(
    server: &Arc<Server>,
    call: &Call,
    path: &ResourcePath,
) -> Result<Answer, Failure> {
    if access::is_review(path) {
        return access::review(call, path);
    }
    let served = server.registry.find(&path.group, &path.version, &path.plural)?;
    let request = Request { server, call, path, served, now: Timestamp::now() };
    check_scope(&request)?;
    let Some(verb) = write_verb(&request) else {
        return match (&path.subresource, &path.name) {
            (Some(word), _) if word == "log" && request.served.is("", "pods") => {
                pod::log(&request).await
            }
            (None, _) if call.query.flag("watch") => watch::watch(&request),
            (Some(_), _) | (None, Some(_)) => read::get(&request),
            (None, None) => read::list(&request),
        };
    };
    let result = write(&request, verb);
    server.audit.write(line(&request, verb, &result)).await;
    let mut result = result;
    if let (Ok(Answer::Json { warnings, .. }), Some(custom)) = (&mut result, &request.served.custom)
    {
        warnings.extend(custom.deprecation.clone());
    }
    result
}

fn write_verb(request: &Request<'_>) -> Option<&'static str> {
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

fn write(request: &Request<'_>, verb: &str) -> Result<Answer, Failure> {
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
        _ => Err(Failure::method_not_allowed()),
    }
}

fn check_scope(request: &Request<'_>) -> Result<(), Failure> {
    let kind = &request.served.kind;
    let path = request.path;
    if path.namespace.is_some() && !kind.namespaced {
        return Err(Failure::no_such_path());
    }
    let needs_namespace = path.name.is_some() || request.call.method == Method::POST;
    if kind.namespaced && path.namespace.is_none() && needs_namespace {
        return Err(Failure::no_such_path());
    }
    match &path.subresource {
        Some(word) if !discovery::subresources(&request.served).any(|offered| offered == word) => {
            Err(Failure::no_such_path())
        }
        _ => Ok(()),
    }
}

fn line(request: &Request<'_>, verb: &'static str, result: &Result<Answer, Failure>) -> Line {
    let generated = match result {
        Ok(Answer::Json { value, .. }) if request.path.name.is_none() && verb == "create" => {
            crate::object::name(value).to_owned()
        }
        _ => String::new(),
    };
    Line {
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
