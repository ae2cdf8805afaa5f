//! What a reconcile is about and what it may do, fixed before its first call.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{ObjectRef, ReconcileKey, WriteMode, port::WatchedStoreView};
use tholepin_schema::manifest::{Grants, SafetyPaths};
use tokio_util::sync::CancellationToken;

use crate::{field, guard::SafetyPolicy};

/// The scope of one reconcile: on whose behalf it runs, about which object, and what it may do.
#[derive(Clone, Debug)]
pub struct ReconcileScope {
    /// The plugin and the object.
    pub key: Arc<ReconcileKey>,
    /// The object as the plugin received it.
    pub object: Arc<Value>,
    /// What the plugin is granted.
    pub grants: Arc<Grants>,
    /// The paths of the fields that contain names of Secrets.
    pub secret_fields: Arc<Vec<String>>,
    /// The plugin's parameters.
    pub parameters: Arc<Value>,
    /// Whether writes are performed or only planned.
    pub mode: WriteMode,
    /// Cancelled when the object should be reconciled again at once: waits and probes then end early.
    pub urgent: CancellationToken,
    /// The most calls that this reconcile may make.
    pub calls_max: u32,
    /// The most writes that this reconcile may make.
    pub writes_max: u32,
    /// The most bytes of the host's memory that the calls of this reconcile may use: the sum of all arguments,
    /// answers and what is recorded of them, as parsed (`tholepin_core::size`).
    pub bytes_max: usize,
}

impl ReconcileScope {
    /// Returns the uid of the reconciled object. It is empty if the object has none; every object from a
    /// server has one.
    #[must_use]
    pub fn uid(&self) -> &str {
        crate::ownership::text(&self.object, "/metadata/uid")
    }

    /// Returns the reference by which calls name the reconciled object.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let ReconcileKey { plugin: _, kind, namespace, name } = &*self.key;
        ObjectRef { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() }
    }

    /// Returns the field manager under which the plugin applies. It contains no revision, so that the next
    /// revision of the plugin owns the fields that this one applied.
    #[must_use]
    pub fn field_manager(&self) -> String {
        format!("tholepin:{}", self.key.plugin)
    }

    /// Returns true if this view shows the object as paused. The object of the scope is older: it is as it
    /// was when the reconcile began.
    pub(crate) fn is_paused(&self, view: &dyn WatchedStoreView) -> bool {
        view.meta(&self.reference()).is_some_and(|meta| meta.is_paused())
    }

    /// Returns the object's safety policy, read at the granted paths. A path that is not granted counts as an
    /// absent value, and an absent value as the safe one.
    pub(crate) fn policy(&self) -> SafetyPolicy {
        let is = |path: &Option<String>, value: &str| {
            let found = path.as_deref().and_then(|path| field::at(&self.object, path));
            found.and_then(Value::as_str) == Some(value)
        };
        let SafetyPaths { data_loss, tail_loss } = &self.grants.safety;
        SafetyPolicy { tail_loss: is(tail_loss, "force"), data_loss: is(data_loss, "acceptable") }
    }
}
