//! Finds the resource of a kind (`ConfigMap` → `configmaps`, namespaced) by discovery, and caches it.
//!
//! Invariants:
//! - A cached kind is used until a request for it is answered with 404.
//! - A kind that the server does not know does not affect other kinds.
//!
//! Not `kube::Discovery`: it reads all groups, and fails if one of them (an aggregated API) does not answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::{
    Api, Client,
    core::{ApiResource, GroupVersionKind},
    discovery::{Scope, pinned_kind},
};
use tholepin_core::{CallError, ErrorChain, ObjectRef};
use tholepin_schema::manifest::KindName;
use tokio::{sync::Notify, time::Instant};

use crate::{
    error::{ApiRequestDescription, REQUEST_DEADLINE},
    lock::lock,
    raw::RawObject,
};

/// The most kinds that are cached. No cluster is expected to have more; the cache is cleared then.
const KINDS_MAX: usize = 1024;

/// How long discovery of a kind is trusted although an object of the kind was answered with 404: such an
/// answer can be about the object or about the kind, and must not cause a discovery request each time.
const TRUSTED_FOR: Duration = Duration::from_secs(10);

/// Where the objects of a kind are found.
#[derive(Clone, Debug)]
pub(crate) struct DiscoveredKind {
    pub(crate) resource: ApiResource,
    scope: Scope,
    found_at: Instant,
    /// The URL of the API server, for messages.
    server: Arc<str>,
}

impl DiscoveredKind {
    /// Returns the API of the kind in one namespace; an empty one means all.
    pub(crate) fn api(&self, client: Client, namespace: &str) -> Api<RawObject> {
        Api::dynamic(client, &self.resource, &self.scope).constrain(namespace)
    }

    /// Returns true if objects of the kind are in namespaces.
    pub(crate) fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Returns the description of a request, for error messages.
    pub(crate) fn request(
        &self,
        verb: &'static str,
        object: &ObjectRef,
        status: bool,
    ) -> ApiRequestDescription {
        let subresource = if status { "/status" } else { "" };
        ApiRequestDescription {
            verb,
            group: self.resource.group.clone(),
            resource: format!("{}{subresource}", self.resource.plural),
            target: object.to_string(),
            server: self.server.clone(),
        }
    }
}

/// Why a kind was not found.
#[derive(Debug)]
pub(crate) enum KindLookupError {
    /// The server does not know it.
    Missing,
    /// Discovery failed.
    Failed(CallError),
}

impl KindLookupError {
    pub(crate) fn into_error(self, kind: &KindName) -> CallError {
        match self {
            Self::Missing => CallError::NotFound(format!(
                "kind `{kind}` (install its CustomResourceDefinition, or correct its apiVersion)"
            )),
            Self::Failed(error) => error,
        }
    }
}

/// The kinds found so far.
pub(crate) struct KindDiscoveryCache {
    client: Client,
    server: Arc<str>,
    cached: Mutex<BTreeMap<KindName, DiscoveredKind>>,
    /// Notified after a CustomResourceDefinition was installed.
    pub(crate) installed: Notify,
}

impl KindDiscoveryCache {
    /// Creates an empty cache; `server` is the API server's URL, for messages.
    pub(crate) fn new(client: Client, server: &str) -> Self {
        let cached = Mutex::new(BTreeMap::new());
        Self { client, server: server.into(), cached, installed: Notify::const_new() }
    }

    /// Returns the resource of a kind, from the cache or else by discovery.
    pub(crate) async fn find(&self, kind: &KindName) -> Result<DiscoveredKind, KindLookupError> {
        if let Some(served) = lock(&self.cached).get(kind) {
            return Ok(served.clone());
        }
        let request = GroupVersionKind::gvk(kind.group(), kind.version(), &kind.kind);
        let discovery = tokio::time::timeout(REQUEST_DEADLINE, pinned_kind(&self.client, &request));
        let (resource, capabilities) = match discovery.await {
            Ok(Ok(found)) => found,
            Ok(Err(kube::Error::Discovery(_))) => return Err(KindLookupError::Missing),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Err(KindLookupError::Missing);
            }
            // Such as wrong credentials, which no retry corrects.
            Ok(Err(kube::Error::Api(status))) => {
                let request = ApiRequestDescription {
                    verb: "get",
                    group: kind.group().to_owned(),
                    resource: String::new(),
                    target: format!("the discovery of {kind}"),
                    server: self.server.clone(),
                };
                return Err(KindLookupError::Failed(request.refused(&status)));
            }
            Ok(Err(error)) => {
                let (server, error) = (&self.server, ErrorChain(&error));
                let text = format!("the API server at {server}: discovery of {kind}: {error}");
                return Err(KindLookupError::Failed(CallError::Transient(text)));
            }
            Err(_) => {
                let server = &self.server;
                let text = format!("the API server at {server} did not answer discovery of {kind}");
                return Err(KindLookupError::Failed(CallError::Timeout(text)));
            }
        };
        let (scope, found_at) = (capabilities.scope, Instant::now());
        let served = DiscoveredKind { resource, scope, found_at, server: self.server.clone() };
        let mut cached = lock(&self.cached);
        if cached.len() >= KINDS_MAX {
            cached.clear();
        }
        cached.insert(kind.clone(), served.clone());
        Ok(served)
    }

    /// Removes a kind from the cache.
    pub(crate) fn forget(&self, kind: &KindName) {
        lock(&self.cached).remove(kind);
    }

    /// Removes a kind from the cache if its discovery is older than [`TRUSTED_FOR`]. For a request for one of
    /// its objects that was answered with 404: the kind itself may have been removed.
    pub(crate) fn forget_if_old(&self, kind: &KindName) {
        let mut cached = lock(&self.cached);
        if cached.get(kind).is_some_and(|served| served.found_at.elapsed() >= TRUSTED_FOR) {
            cached.remove(kind);
        }
    }
}
