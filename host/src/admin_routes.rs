//! The routes of the admin API and their documents.

use serde::{Deserialize, Serialize};
use tholepin_core::PluginName;

/// Makes a dry run of one reconcile; the body is a [`DryRunObjectSource`](tholepin_controller::DryRunObjectSource), the answer a
/// report.
pub(crate) const PLAN_ROUTE: &str = "/v1/plan";
/// Returns the reports of the last reconciles of an object; parameters `kind`, `name`, `namespace`, `reconcile` and `part`
/// (`calls` or `writes`).
pub(crate) const CALLS_ROUTE: &str = "/v1/calls";
/// Returns the status of the host; parameters `kind`, `name` and `namespace` for one object.
pub(crate) const STATUS_ROUTE: &str = "/v1/status";
/// Returns the names that a shell completes; parameter `namespace`.
pub(crate) const NAMES_ROUTE: &str = "/v1/names";
/// Returns the last revisions of a plugin; parameter `name`.
pub(crate) const HISTORY_ROUTE: &str = "/v1/plugins/history";
/// Makes an earlier revision serve; the body is a [`RollbackRequest`].
pub(crate) const ROLLBACK_ROUTE: &str = "/v1/plugins/rollback";

/// A rollback of a plugin: to this revision, or to the last one that was not rolled back.
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
