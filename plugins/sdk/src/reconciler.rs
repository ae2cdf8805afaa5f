//! The trait that a plugin of the world `reconciler` implements.

use serde_json::Value;
use tholepin_schema::{
    manifest::{Grants, Manifest},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
};

use crate::Host;

/// A plugin that moves the objects of one kind towards their specs. The methods take no `self`, because each
/// call runs in a fresh instance. State that must survive belongs in the object's status; state that may be
/// lost when the host restarts can go into the outcome's `memo`.
pub trait Reconciler {
    /// Returns the plugin's manifest. Must return the same value each time. Every host call but `log` is
    /// denied.
    fn describe() -> Manifest;

    /// Returns the problems of an object's spec, judged from the arguments alone; none by default. `old` is
    /// the object before an update, for a check at admission; this version of the host never passes it. Every
    /// host call but `log` is denied.
    #[must_use]
    fn validate(old: Option<Value>, new: Value) -> Vec<Violation> {
        let _ = (old, new);
        Vec::new()
    }

    /// Reconciles one object.
    ///
    /// # Errors
    ///
    /// Returns a failure that the plugin understood and cannot repair. A panic is a bug and counts against
    /// the plugin.
    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure>;
}

/// Returns an empty manifest, to be completed with `..manifest()`. [`Manifest`] has no `Default`, because a
/// plugin must have a name.
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
        secret_fields: Vec::new(),
    }
}
