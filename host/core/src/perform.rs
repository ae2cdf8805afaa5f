//! The trait through which a guest's calls are performed.

use std::{future::Future, pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Answer, Call, CallError, PluginName, ReconcileKey, RevisionDigest};

/// A future that can be kept behind a trait object.
pub type BoxedFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether the writes of a reconcile are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// Reads and writes are executed.
    Live,
    /// Reads are executed, writes are recorded. Kubernetes checks writes by a dry run, and later reads of the reconcile
    /// see them; writes to Redis are not sent.
    Plan,
}

/// The plugin and the object on whose behalf a call is made.
#[derive(Clone, Debug)]
pub struct PluginCallerIdentity {
    /// The plugin.
    pub plugin: PluginName,
    /// Its revision.
    pub revision: RevisionDigest,
    /// The object being reconciled; absent in `describe` and `validate`.
    pub object: Option<Arc<ReconcileKey>>,
}

/// Performs the calls of one guest call.
///
/// The guest runtime knows only this trait. In production the gate implements it; tests answer from a saved list.
pub trait HostCalls: Send + Sync {
    /// Performs one call.
    ///
    /// # Guarantees
    ///
    /// Answers within the call's deadline: a port that hangs becomes [`CallError::Timeout`].
    /// Dropping the future leaves no partial change of the host's own state. Whether a write outside the
    /// host has happened is then unknown.
    ///
    /// [`CallError::Timeout`]: crate::CallError::Timeout
    fn perform<'a>(
        &'a self,
        context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer>;

    /// Spends bytes of what the guest call may use of the host's memory. The guest runtime spends those of an
    /// argument before it parses it.
    ///
    /// # Errors
    ///
    /// Fails with [`CallError::Throttled`] if fewer bytes are left. Then the guest call gets no more calls.
    ///
    /// [`CallError::Throttled`]: crate::CallError::Throttled
    fn spend_bytes(&self, bytes: usize) -> Result<(), CallError>;
}
