//! One revision of one plugin, loaded: what the engine calls.

use std::{fmt, sync::Arc};

use serde_json::Value;
use tholepin_core::{
    Boxed, CallContext, ObjectKey, Perform, PluginName, RevisionDigest,
    port::{GuestError, Guests},
};
use tholepin_schema::{
    manifest::{Grants, Manifest},
    reconcile::{Failure, Outcome, Request, Violation},
};

use crate::{Limits, component::Loaded};

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
    pub limits: Limits,
    pub(crate) loaded: Loaded,
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

impl Guests for LoadedPlugin {
    fn reconcile<'a>(
        &'a self,
        context: CallContext,
        request: Request,
        perform: Arc<dyn Perform>,
    ) -> Boxed<'a, Result<Result<Outcome, Failure>, GuestError>> {
        Box::pin(
            async move { self.loaded.reconcile(context, self.limits, &request, perform).await },
        )
    }

    fn validate<'a>(
        &'a self,
        context: CallContext,
        old: Option<Value>,
        new: Value,
    ) -> Boxed<'a, Result<Vec<Violation>, GuestError>> {
        Box::pin(self.loaded.validate(context, self.limits, old, new))
    }
}
