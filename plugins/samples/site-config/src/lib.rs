//! A plugin that keeps the objects that the Pods of a site need: for each `SiteConfig` a ConfigMap with its
//! settings and a Service with its port. It corrects manual changes and deletions of these objects within
//! moments.
//!
//! ```text
//! observe (reads) ─► plan (decides; pure) ─► act (writes) ─► report (status, event, summary)
//! ```
//!
//! Invariants:
//! - Nothing is kept between reconciles but the object's status.
//! - An object of another owner is never written.
//! - A reconcile that finds everything in the desired state changes nothing.

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
pub struct SiteConfigReconciler;

tholepin_sdk::export!(SiteConfigReconciler);

impl Reconciler for SiteConfigReconciler {
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
        let target = kind::ParsedSiteConfig::read(&request.object)?;
        let observed = observe::observe(host, target.desired_objects())?;
        let planned = plan::plan(observed);
        let acted = act::act(host, planned)?;
        report::report(host, &target, &acted)
    }
}
