//! The routes of the admin API: each parses its parameters and calls the part that does the work.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};
use tholepin_admin::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
use tholepin_controller::{
    DryRunError, DryRunObjectSource, DryRunReportPart, DryRunner, DryRunnerError,
    HostStatusCollector, ObjectArgument, ReconcileReportSelection,
};
use tholepin_core::{BoxedFuture, CallError, ErrorChain, PluginName, PluginNameError};
use tholepin_guest::{PluginRegistry, RollbackError};

use crate::admin_routes::{
    CALLS_ROUTE, CompletionNames, HISTORY_ROUTE, NAMES_ROUTE, PLAN_ROUTE, ROLLBACK_ROUTE,
    RollbackRequest, STATUS_ROUTE,
};

/// The parts behind the routes.
pub(crate) struct HostAdminRoutes {
    pub(crate) dry_runner: DryRunner,
    pub(crate) registry: Arc<PluginRegistry>,
    pub(crate) statuses: HostStatusCollector,
}

impl AdminRoutes for HostAdminRoutes {
    fn handle(&self, request: AdminRequest) -> BoxedFuture<'_, Result<Value, AdminError>> {
        Box::pin(async move {
            let AdminRequest { method, path, query, body } = request;
            match (method, path.as_str()) {
                (AdminMethod::Get, "/v1/version") => {
                    Ok(json!({"version": env!("CARGO_PKG_VERSION"), "pid": std::process::id()}))
                }
                (AdminMethod::Post, PLAN_ROUTE) => self.plan(body).await,
                (AdminMethod::Get, CALLS_ROUTE) => self.calls(&query).await,
                (AdminMethod::Get, STATUS_ROUTE) => self.status(&query).await,
                (AdminMethod::Get, NAMES_ROUTE) => self.names(&query),
                (AdminMethod::Get, HISTORY_ROUTE) => self.history(&query),
                (AdminMethod::Post, ROLLBACK_ROUTE) => self.roll_back(body).await,
                (AdminMethod::Get | AdminMethod::Post, _) => Err(AdminError::NotFound(format!(
                    "this host ({}) has no route `{path}` for this method; is the command line newer?",
                    env!("CARGO_PKG_VERSION")
                ))),
            }
        })
    }
}

impl HostAdminRoutes {
    async fn plan(&self, body: Value) -> Result<Value, AdminError> {
        let request: DryRunObjectSource = serde_json::from_value(body).map_err(|error| {
            AdminError::Invalid(format!("the body is no plan request: {error}"))
        })?;
        document(&self.dry_runner.dry_run(request).await.map_err(refused)?)
    }

    async fn status(&self, query: &BTreeMap<String, String>) -> Result<Value, AdminError> {
        let argument = match query.get("kind") {
            None => None,
            Some(kind) => Some(ObjectArgument {
                kind: kind.clone(),
                name: required(query, "name")?,
                namespace: query.get("namespace").cloned(),
            }),
        };
        let status = self.statuses.status(&self.dry_runner, argument.as_ref()).await;
        document(&status.map_err(refused)?)
    }

    fn names(&self, query: &BTreeMap<String, String>) -> Result<Value, AdminError> {
        let namespace = query.get("namespace").map(String::as_str);
        let objects = self.statuses.names(namespace).map_err(|error| refused(error.into()))?;
        let plugins = self.registry.reports().keys().map(ToString::to_string).collect();
        document(&CompletionNames { plugins, objects })
    }

    fn history(&self, query: &BTreeMap<String, String>) -> Result<Value, AdminError> {
        let name = required(query, "name")?;
        let name: PluginName = name
            .parse()
            .map_err(|error: PluginNameError| AdminError::Invalid(error.to_string()))?;
        let serving = self.registry.active(&name).map(|plugin| plugin.digest.clone());
        let history = self.registry.history(&name);
        if serving.is_none() && history.revisions.is_empty() {
            let text = format!(
                "no revision of a plugin `{name}` is kept; `tholepin plugin list` shows those that serve"
            );
            return Err(AdminError::NotFound(text));
        }
        Ok(json!({"serving": serving, "history": document(&history)?}))
    }

    async fn roll_back(&self, body: Value) -> Result<Value, AdminError> {
        let request: RollbackRequest = serde_json::from_value(body).map_err(|error| {
            AdminError::Invalid(format!("the body is no rollback request: {error}"))
        })?;
        let RollbackRequest { name, revision } = request;
        let rolled_back = self.registry.roll_back(&name, revision.as_deref()).await;
        let serving = rolled_back.map_err(|error| {
            let text = ErrorChain(&error).to_string();
            match error {
                RollbackError::NoPlugin(_)
                | RollbackError::NoneBefore(_)
                | RollbackError::NoSuch { .. }
                | RollbackError::NotOne { .. } => AdminError::NotFound(text),
                RollbackError::NotServing(_)
                | RollbackError::ServesAlready(_)
                | RollbackError::NotLoaded { .. }
                | _ => AdminError::Conflict(text),
            }
        })?;
        Ok(json!({"serving": serving}))
    }

    async fn calls(&self, query: &BTreeMap<String, String>) -> Result<Value, AdminError> {
        let argument = ObjectArgument {
            kind: required(query, "kind")?,
            name: required(query, "name")?,
            namespace: query.get("namespace").cloned(),
        };
        let number = match query.get("reconcile") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                AdminError::Invalid(format!("`{text}` is not the number of a reconcile"))
            })?),
        };
        let part = match query.get("part").map(String::as_str) {
            None | Some("calls") => DryRunReportPart::Calls,
            Some("writes") => DryRunReportPart::Writes,
            Some(other) => {
                let text = format!("`{other}` is no part of a report: use `calls` or `writes`");
                return Err(AdminError::Invalid(text));
            }
        };
        let selection = ReconcileReportSelection { number, part };
        let reports = self.dry_runner.calls(&argument, selection).await.map_err(refused)?;
        Ok(json!({"reconciles": document(&reports)?}))
    }
}

fn required(query: &BTreeMap<String, String>, name: &str) -> Result<String, AdminError> {
    let missing = || AdminError::Invalid(format!("the parameter `{name}` is missing"));
    query.get(name).cloned().ok_or_else(missing)
}

fn document(value: &impl Serialize) -> Result<Value, AdminError> {
    serde_json::to_value(value).map_err(|error| AdminError::Failed(error.to_string()))
}

fn refused(error: DryRunnerError) -> AdminError {
    let text = ErrorChain(&error).to_string();
    match error {
        DryRunnerError::NoKind { .. }
        | DryRunnerError::NoObject(_)
        | DryRunnerError::NotReconciled(_)
        | DryRunnerError::NoReport { .. }
        | DryRunnerError::DryRun(DryRunError::NoPlugin(..) | DryRunError::NoObject(_))
        | DryRunnerError::Kubernetes(CallError::NotFound(_)) => AdminError::NotFound(text),
        DryRunnerError::File(_)
        | DryRunnerError::DryRun(DryRunError::Object(_))
        | DryRunnerError::Kubernetes(CallError::Invalid(_)) => AdminError::Invalid(text),
        DryRunnerError::DryRun(DryRunError::NotWatched(_)) => AdminError::Conflict(text),
        DryRunnerError::Kubernetes(CallError::Timeout(_)) => AdminError::Timeout(text),
        DryRunnerError::Kubernetes(_) => AdminError::Failed(text),
    }
}
