//! What the gate must know about a pass before its first call.

use std::sync::Arc;

use serde_json::Value;
pub use tholepin_core::WriteMode;
use tholepin_core::{ObjectKey, ObjectRef, port::StoreView};
use tholepin_schema::manifest::{Grants, SafetyPaths};
use tokio_util::sync::CancellationToken;

use crate::{field, guard::SafetyPolicy};

/// One pass: on whose behalf, about what, and what is allowed.
#[derive(Clone, Debug)]
pub struct ReconcileScope {
    /// The plugin and the object.
    pub key: Arc<ObjectKey>,
    /// The object as the request shows it.
    pub object: Arc<Value>,
    /// What the plugin may do.
    pub grants: Arc<Grants>,
    /// Where the object holds its safety policy.
    pub safety: Arc<SafetyPaths>,
    /// The plugin's parameters.
    pub parameters: Arc<Value>,
    /// Whether writes reach the world.
    pub mode: WriteMode,
    /// Cancelled when something more urgent has come up for the object: the pass stops waiting.
    pub urgent: CancellationToken,
    /// The most calls that this pass may make.
    pub calls_max: u32,
    /// The most writes that this pass may make.
    pub writes_max: u32,
}

impl ReconcileScope {
    /// The reconciled object's uid; empty if it has none, which no object from a server has.
    #[must_use]
    pub fn uid(&self) -> &str {
        crate::ownership::text(&self.object, "/metadata/uid")
    }

    /// The reconciled object as calls name it.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let ObjectKey { plugin: _, kind, namespace, name } = &*self.key;
        ObjectRef { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() }
    }

    /// The field manager under which the plugin applies: no revision in it, so that the next revision
    /// owns what this one applied.
    #[must_use]
    pub fn field_manager(&self) -> String {
        format!("tholepin:{}", self.key.plugin)
    }
    /// Whether the object has been paused, as this view says and not when the pass began.
    pub(crate) fn is_paused(&self, view: &dyn StoreView) -> bool {
        view.meta(&self.reference()).is_some_and(|meta| meta.is_paused())
    }

    /// The object's safety policy, at the paths that the manifest names. What is absent is the safe value.
    pub(crate) fn policy(&self) -> SafetyPolicy {
        let says = |path: &Option<String>, word: &str| {
            let found = path.as_deref().and_then(|path| field::at(&self.object, path));
            found.and_then(Value::as_str) == Some(word)
        };
        SafetyPolicy {
            tail_loss: says(&self.safety.tail_loss, "force"),
            data_loss: says(&self.safety.data_loss, "acceptable"),
        }
    }
}
