//! The routes of the admin API and the documents that only it has: what the command line asks a running host.

use serde::{Deserialize, Serialize};
use tholepin_core::PluginName;

/// Plans one pass; the body is a [`PlanRequest`](crate::planner::PlanRequest), the answer a report.
pub(crate) const PLAN_ROUTE: &str = "/v1/plan";
/// What the last passes for an object did; parameters `kind`, `name`, `namespace`, `pass` and `part`
/// (`calls` or `writes`).
pub(crate) const CALLS_ROUTE: &str = "/v1/calls";
/// How everything is; parameters `kind`, `name` and `namespace` for one object.
pub(crate) const STATUS_ROUTE: &str = "/v1/status";
/// The names that a shell completes; parameter `namespace`.
pub(crate) const NAMES_ROUTE: &str = "/v1/names";
/// The last revisions of a plugin; parameter `name`.
pub(crate) const HISTORY_ROUTE: &str = "/v1/plugins/history";
/// Lets an earlier revision serve; the body is a [`RollbackRequest`].
pub(crate) const ROLLBACK_ROUTE: &str = "/v1/plugins/rollback";

/// Which plugin goes back, and to which revision: the last good one if none is named.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RollbackRequest {
    pub(crate) name: PluginName,
    #[serde(default)]
    pub(crate) revision: Option<String>,
}

/// The names that a host knows and a shell completes.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct CompletionNames {
    /// Its plugins.
    pub(crate) plugins: Vec<String>,
    /// The objects of their kinds, as `KIND/NAME`.
    pub(crate) objects: Vec<String>,
}
