//! What a plugin of the world `reconciler` implements.

use serde_json::Value;
use tholepin_schema::{
    manifest::{Grants, Manifest, SafetyPaths},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
};

use crate::Host;

/// A plugin that moves one kind of object towards its spec. The methods take no `self`: each call runs
/// in a fresh instance. What must survive is in the object's status; what may be lost with the host is in the
/// outcome's `memo`.
pub trait Reconciler {
    /// What the plugin is and asks for. Must be the same each time; every host call but `log` is denied.
    fn describe() -> Manifest;

    /// What is wrong with an object's spec, by the arguments alone; nothing by default. `old` is there in
    /// admission only.
    #[must_use]
    fn validate(old: Option<Value>, new: Value) -> Vec<Violation> {
        let _ = (old, new);
        Vec::new()
    }

    /// One pass over one object.
    ///
    /// # Errors
    ///
    /// Fails with what the plugin understood and cannot mend; a panic is a bug and counts against the plugin.
    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure>;
}

/// An empty manifest to fill in by `..manifest()`, since [`Manifest`] has no default: a plugin must
/// say its name.
#[must_use]
pub fn manifest() -> Manifest {
    Manifest {
        name: String::new(),
        version: String::new(),
        reconciles: Vec::new(),
        finalizer: false,
        watches: Vec::new(),
        grants: Grants::default(),
        parameters: None,
        safety: SafetyPaths::default(),
    }
}
