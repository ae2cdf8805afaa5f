//! What the admin API of this host can do: each route a line here, its work elsewhere.

use serde_json::{Value, json};
use tholepin_admin::{AdminError, AdminMethod, AdminRequest, AdminRoutes};
use tholepin_core::Boxed;

/// The routes.
pub(crate) struct Routes;

impl AdminRoutes for Routes {
    fn handle(&self, request: AdminRequest) -> Boxed<'_, Result<Value, AdminError>> {
        Box::pin(async move {
            let AdminRequest { method, path, .. } = &request;
            match (method, path.as_str()) {
                (AdminMethod::Get, "/v1/version") => {
                    Ok(json!({"version": env!("CARGO_PKG_VERSION"), "pid": std::process::id()}))
                }
                (AdminMethod::Get | AdminMethod::Post, _) => Err(AdminError::NotFound(format!(
                    "this host ({}) has no `{path}` for this method; is the command line newer?",
                    env!("CARGO_PKG_VERSION")
                ))),
            }
        })
    }
}
