//! Decides whether the plugin is called for an object, by its finalizer and its deletion. Pure.

use tholepin_core::{ObjectMeta, ReconcileKey};

/// The step that comes before a call of the plugin, or replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreReconcileStep {
    /// The plugin is called.
    Call,
    /// The finalizer is added, then the plugin is called.
    AddFinalizer,
    /// The finalizer is removed: an earlier revision set it, and this one would never remove it.
    RemoveFinalizer,
    /// Nothing: the object is being deleted without the finalizer, and Kubernetes deletes what it owns.
    Skip,
}

/// Returns the finalizer that the host sets for a plugin.
pub(crate) fn finalizer_of(key: &ReconcileKey) -> String {
    format!("tholepin.dev/{}", key.plugin)
}

/// Decides by the object's finalizers and by whether the manifest asks for one.
pub(crate) fn phase(meta: &ObjectMeta, finalizer: &str, is_requested: bool) -> PreReconcileStep {
    let has = meta.finalizers.iter().any(|name| name == finalizer);
    match (has, is_requested) {
        (true, false) => PreReconcileStep::RemoveFinalizer,
        (false, _) if meta.deleting => PreReconcileStep::Skip,
        (false, true) => PreReconcileStep::AddFinalizer,
        (true, true) | (false, false) => PreReconcileStep::Call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_finalizer_is_added_kept_and_removed() {
        let rows = [
            // finalizers, deleting, requested, phase
            (vec!["other"], false, false, PreReconcileStep::Call),
            (vec!["other"], false, true, PreReconcileStep::AddFinalizer),
            (vec!["other", "mine"], false, true, PreReconcileStep::Call),
            (vec!["mine"], true, true, PreReconcileStep::Call),
            (vec!["mine"], false, false, PreReconcileStep::RemoveFinalizer),
            (vec!["mine"], true, false, PreReconcileStep::RemoveFinalizer),
            (vec![], true, true, PreReconcileStep::Skip),
            (vec![], true, false, PreReconcileStep::Skip),
        ];
        for (finalizers, deleting, requested, expected) in rows {
            let mut object = json!({"apiVersion": "v1", "kind": "K",
                "metadata": {"name": "a", "finalizers": finalizers}});
            if deleting {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let meta = ObjectMeta::of(&object).unwrap();
            assert_eq!(phase(&meta, "mine", requested), expected, "{object}");
        }
    }
}
