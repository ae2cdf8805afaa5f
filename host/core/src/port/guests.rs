//! The port to the plugins.

use std::sync::Arc;

use serde_json::Value;
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation};

use crate::{BoxedFuture, CallContext, HostCalls};

/// Calls one revision of one plugin. A new instance serves each call.
pub trait GuestRuntime: Send + Sync {
    /// Calls `reconcile`.
    ///
    /// # Errors
    ///
    /// Fails if the guest trapped or broke a limit, or if its code cannot be loaded. `Ok(Err(_))` is a
    /// failure the plugin understood.
    fn reconcile<'a>(
        &'a self,
        context: CallContext,
        request: ReconcileRequest,
        perform: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>>;

    /// Calls `validate`; every import but `log` is denied meanwhile.
    ///
    /// # Errors
    ///
    /// Fails if the guest trapped or broke a limit, or if its code cannot be loaded.
    fn validate<'a>(
        &'a self,
        context: CallContext,
        old: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>>;
}

/// How a guest call went wrong: the plugin's fault and a strike, except where
/// [`as_failure`](Self::as_failure) says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The guest trapped, or broke the component ABI.
    #[error("the plugin trapped in `{export}`: {message}")]
    Trapped {
        /// The export that was running.
        export: &'static str,
        /// The panic's text and line where the guest told them, else the trap.
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
    /// The guest wanted more memory than allowed.
    #[error("the plugin wanted more than {limit_bytes} bytes of memory in `{export}`")]
    OutOfMemory {
        /// The export that was running.
        export: &'static str,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The guest answered something that is no document of the kind expected, or one too large.
    #[error("the plugin's answer from `{export}` is unusable: {message}")]
    BadAnswer {
        /// The export that answered.
        export: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The host had given back the plugin's code while nobody called it, and cannot load it again.
    #[error(
        "cannot load the plugin's code again; is the host short of memory or of open files? {message}"
    )]
    NotLoaded {
        /// What stands in the way.
        message: String,
    },
}

impl GuestError {
    /// What it is instead of a strike where the host is to blame: a failure that is tried again.
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
