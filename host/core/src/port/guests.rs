//! The port to the plugins.

use std::sync::Arc;

use serde_json::Value;
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation};

use crate::{BoxedFuture, HostCalls, PluginCallerIdentity};

/// Calls one revision of one plugin. A new instance serves each call.
pub trait PluginExports: Send + Sync {
    /// Calls `reconcile`.
    ///
    /// # Errors
    ///
    /// Fails if the guest trapped or broke a limit, or if its code cannot be loaded. `Ok(Err(_))` is a failure that
    /// the plugin returned.
    fn reconcile<'a>(
        &'a self,
        context: PluginCallerIdentity,
        request: ReconcileRequest,
        perform: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>>;

    /// Calls `validate`; every import except `log` is denied during the call.
    ///
    /// # Errors
    ///
    /// Fails if the guest trapped or broke a limit, or if its code cannot be loaded.
    fn validate<'a>(
        &'a self,
        context: PluginCallerIdentity,
        old: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>>;
}

/// The error of a guest call. It is a fault of the plugin and counts as a strike, unless
/// [`as_failure`](Self::as_failure) returns a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The guest trapped, or broke the component ABI.
    #[error("the plugin trapped in `{export}`: {message}")]
    Trapped {
        /// The export that was running.
        export: &'static str,
        /// The panic's text and line if the guest reported them, else the trap.
        message: String,
    },
    /// The guest computed or waited longer than allowed.
    #[error("the plugin used more than {limit_ms} ms in `{export}`")]
    TimedOut {
        /// The export that was running.
        export: &'static str,
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The guest requested more memory than allowed.
    #[error("the plugin requested more than {limit_bytes} bytes of memory in `{export}`")]
    OutOfMemory {
        /// The export that was running.
        export: &'static str,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The guest returned no document of the expected type, or one that is too large.
    #[error("the plugin's answer from `{export}` is unusable: {message}")]
    BadAnswer {
        /// The export that returned it.
        export: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The host unloaded the plugin's idle code, and cannot load it again.
    #[error(
        "cannot load the plugin's code again; is the host short of memory or of open files? {message}"
    )]
    NotLoaded {
        /// The cause.
        message: String,
    },
}

impl GuestError {
    /// Returns the failure to report in place of a strike if the error is a fault of the host.
    #[must_use]
    pub fn as_failure(&self) -> Option<ReconcileFailure> {
        let reason = match self {
            Self::NotLoaded { .. } => "NotLoaded".to_owned(),
            Self::Trapped { .. }
            | Self::TimedOut { .. }
            | Self::OutOfMemory { .. }
            | Self::BadAnswer { .. } => return None,
        };
        Some(ReconcileFailure { reason, message: self.to_string(), retry: true })
    }
}
