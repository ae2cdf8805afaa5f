//! What the admin API of this host can do: each route a line here, its work elsewhere.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tholepin_admin::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
use tholepin_controller::PlanError;
use tholepin_core::{Boxed, CallError};

use crate::planner::{AskError, ObjectWords, Part, PlanRequest, Planner, Wanted};

/// Plans one pass; the body is a [`PlanRequest`], the answer a report.
pub(crate) const PLAN_ROUTE: &str = "/v1/plan";
/// What the last passes for an object did; parameters `kind`, `name`, `namespace`, `pass` and `part`
/// (`calls` or `writes`).
pub(crate) const CALLS_ROUTE: &str = "/v1/calls";

/// The routes.
pub(crate) struct Routes {
    pub(crate) planner: Planner,
}

impl AdminRoutes for Routes {
    fn handle(&self, request: AdminRequest) -> Boxed<'_, Result<Value, AdminError>> {
        Box::pin(async move {
            let AdminRequest { method, path, query, body } = request;
            match (method, path.as_str()) {
                (AdminMethod::Get, "/v1/version") => {
                    Ok(json!({"version": env!("CARGO_PKG_VERSION"), "pid": std::process::id()}))
                }
                (AdminMethod::Post, PLAN_ROUTE) => self.plan(body).await,
                (AdminMethod::Get, CALLS_ROUTE) => self.calls(&query).await,
                (AdminMethod::Get | AdminMethod::Post, _) => Err(AdminError::NotFound(format!(
                    "this host ({}) has no `{path}` for this method; is the command line newer?",
                    env!("CARGO_PKG_VERSION")
                ))),
            }
        })
    }
}

impl Routes {
    async fn plan(&self, body: Value) -> Result<Value, AdminError> {
        let request: PlanRequest = serde_json::from_value(body)
            .map_err(|error| AdminError::Invalid(format!("the request is no plan's: {error}")))?;
        document(&self.planner.plan(request).await.map_err(refused)?)
    }

    async fn calls(&self, query: &BTreeMap<String, String>) -> Result<Value, AdminError> {
        let required = |name: &str| {
            let missing = || AdminError::Invalid(format!("the parameter `{name}` is missing"));
            query.get(name).cloned().ok_or_else(missing)
        };
        let words = ObjectWords {
            kind: required("kind")?,
            name: required("name")?,
            namespace: query.get("namespace").cloned(),
        };
        let pass = match query.get("pass") {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| AdminError::Invalid(format!("`{text}` is no number of a pass")))?,
            ),
        };
        let part = match query.get("part").map(String::as_str) {
            None | Some("calls") => Part::Calls,
            Some("writes") => Part::Writes,
            Some(other) => {
                let text = format!("`{other}` is no part of a pass: use `calls` or `writes`");
                return Err(AdminError::Invalid(text));
            }
        };
        let passes = self.planner.calls(&words, Wanted { pass, part }).await.map_err(refused)?;
        Ok(json!({"passes": document(&passes)?}))
    }
}

fn document(value: &impl serde::Serialize) -> Result<Value, AdminError> {
    serde_json::to_value(value).map_err(|error| AdminError::Failed(error.to_string()))
}

fn refused(error: AskError) -> AdminError {
    let text = error.to_string();
    match error {
        AskError::NoKind { .. }
        | AskError::NoPass(_)
        | AskError::Plan(PlanError::NoPlugin(..) | PlanError::NoObject(_))
        | AskError::Kubernetes(CallError::NotFound(_)) => AdminError::NotFound(text),
        AskError::File(_)
        | AskError::Plan(PlanError::Object(_))
        | AskError::Kubernetes(CallError::Invalid(_)) => AdminError::Invalid(text),
        AskError::Plan(PlanError::NotWatched(_)) => AdminError::Conflict(text),
        AskError::Kubernetes(CallError::Timeout(_)) => AdminError::Timeout(text),
        AskError::Kubernetes(_) => AdminError::Failed(text),
    }
}
