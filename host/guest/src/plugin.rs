//! A loaded revision of a plugin: its manifest, grants and settings, and the calls of its exports.

use std::{fmt, sync::Arc};

use serde_json::Value;
use tholepin_core::{
    BoxedFuture, HostCalls, PluginCallerIdentity, PluginName, ReconcileKey, RevisionDigest,
    port::{GuestError, PluginExports},
};
use tholepin_schema::{
    manifest::{Grants, Manifest},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
};

use crate::{GuestLimits, component::LoadedComponent};

/// A loaded revision of a plugin. It can still be called after the registry has replaced it; its code is freed
/// when the last reference is dropped.
pub struct LoadedPlugin {
    /// The plugin's name.
    pub name: PluginName,
    /// The revision: the SHA-256 of component and settings.
    pub digest: RevisionDigest,
    /// The SHA-256 of the component alone, in hex.
    pub component_digest: String,
    /// The plugin's manifest.
    pub manifest: Arc<Manifest>,
    /// What the plugin may do: everything that its manifest requests, all of which was granted.
    pub grants: Arc<Grants>,
    /// The parameters from its settings.
    pub parameters: Arc<Value>,
    /// The limits of one call.
    pub limits: GuestLimits,
    pub(crate) loaded: LoadedComponent,
}

impl LoadedPlugin {
    /// Returns the context of a call for an object.
    #[must_use]
    pub fn context(&self, object: Option<Arc<ReconcileKey>>) -> PluginCallerIdentity {
        PluginCallerIdentity { plugin: self.name.clone(), revision: self.digest.clone(), object }
    }
}

impl fmt::Debug for LoadedPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedPlugin")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("version", &self.manifest.version)
            .finish_non_exhaustive()
    }
}

impl PluginExports for LoadedPlugin {
    fn reconcile<'a>(
        &'a self,
        context: PluginCallerIdentity,
        request: ReconcileRequest,
        host_calls: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>> {
        Box::pin(
            async move { self.loaded.reconcile(context, self.limits, &request, host_calls).await },
        )
    }

    fn validate<'a>(
        &'a self,
        context: PluginCallerIdentity,
        old: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>> {
        Box::pin(self.loaded.validate(context, self.limits, old, new))
    }
}
