//! Keeps what the Pods of a site need: for each `SiteConfig` a ConfigMap with its settings and a Service with
//! its port. Whoever changes or deletes one of them by hand finds it put right a moment later.
//!
//! ```text
//! observe (reads) ─► plan (pure: decides) ─► act (writes) ─► report (tells)
//! ```
//!
//! Invariants:
//! - Nothing is kept between passes but the object's status.
//! - An object that belongs to somebody else is never written.
//! - A pass that finds everything as wanted writes nothing.

mod act;
mod kind;
mod manifest;
mod observe;
mod plan;
mod report;

use serde_json::Value;
use tholepin_sdk::{
    Host, Manifest, ReconcileFailure, ReconcileOutcome, ReconcileRequest, Reconciler, Violation,
};

/// The plugin.
#[derive(Debug)]
pub struct SiteConfigPlugin;

tholepin_sdk::export!(SiteConfigPlugin);

impl Reconciler for SiteConfigPlugin {
    fn describe() -> Manifest {
        manifest::manifest()
    }

    fn validate(_old: Option<Value>, new: Value) -> Vec<Violation> {
        kind::violations(&new)
    }

    fn reconcile(
        host: &dyn Host,
        request: ReconcileRequest,
    ) -> Result<ReconcileOutcome, ReconcileFailure> {
        let target = kind::ReconcileTarget::read(&request.object)?;
        let observed = observe::observe(host, target.wanted())?;
        let planned = plan::plan(observed);
        let acted = act::act(host, planned)?;
        report::report(host, &target, &acted)
    }
}
