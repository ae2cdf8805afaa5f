//! One revision of one plugin, loaded: what the engine calls.

use std::{fmt, sync::Arc};

use serde_json::Value;
use tholepin_core::{
    BoxedFuture, CallContext, HostCalls, ObjectKey, PluginName, RevisionDigest,
    port::{GuestError, GuestRuntime},
};
use tholepin_schema::{
    manifest::{Grants, Manifest},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
};

use crate::{GuestLimits, component::LoadedComponent};

/// One revision of one plugin. Whoever holds it can go on calling it after the registry has swapped it
/// out; its code is freed with the last holder.
pub struct LoadedPlugin {
    /// The plugin's name.
    pub name: PluginName,
    /// Names the revision: the SHA-256 of component and settings.
    pub digest: RevisionDigest,
    /// The SHA-256 of the component alone, in hex.
    pub component_digest: String,
    /// What the plugin says about itself.
    pub manifest: Arc<Manifest>,
    /// What it may do: what it asks for, all of which was granted.
    pub grants: Arc<Grants>,
    /// The settings it is given.
    pub parameters: Arc<Value>,
    /// What one call may use.
    pub limits: GuestLimits,
    pub(crate) loaded: LoadedComponent,
}

impl LoadedPlugin {
    /// The context of a call for an object.
    #[must_use]
    pub fn context(&self, object: Option<Arc<ObjectKey>>) -> CallContext {
        CallContext { plugin: self.name.clone(), revision: self.digest.clone(), object }
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

impl GuestRuntime for LoadedPlugin {
    fn reconcile<'a>(
        &'a self,
        context: CallContext,
        request: ReconcileRequest,
        perform: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>> {
        Box::pin(
            async move { self.loaded.reconcile(context, self.limits, &request, perform).await },
        )
    }

    fn validate<'a>(
        &'a self,
        context: CallContext,
        old: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>> {
        Box::pin(self.loaded.validate(context, self.limits, old, new))
    }
}
