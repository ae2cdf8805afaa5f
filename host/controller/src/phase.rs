//! Decides what is done with an object before its plugin is asked. Pure.

use tholepin_core::{ObjectKey, ObjectMeta};

/// What is to be done with an object before its plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectPhase {
    /// The plugin is called.
    Call,
    /// The plugin is called once the object has its finalizer.
    Adopt,
    /// An earlier revision set a finalizer that nobody would ever remove: it goes.
    Release,
    /// Whoever deletes it has all it needs; what it owns goes with it.
    Leave,
}

/// The finalizer that the host sets for a plugin.
pub(crate) fn finalizer_of(key: &ObjectKey) -> String {
    format!("tholepin.dev/{}", key.plugin)
}

/// Decides by the object's finalizers and by whether the plugin wants one.
pub(crate) fn phase(meta: &ObjectMeta, finalizer: &str, is_wanted: bool) -> ObjectPhase {
    let has = meta.finalizers.iter().any(|name| name == finalizer);
    match (has, is_wanted) {
        (true, false) => ObjectPhase::Release,
        (false, _) if meta.deleting => ObjectPhase::Leave,
        (false, true) => ObjectPhase::Adopt,
        (true, true) | (false, false) => ObjectPhase::Call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_finalizer_is_set_kept_and_let_go() {
        let rows = [
            // finalizers, deleting, wanted, phase
            (vec!["other"], false, false, ObjectPhase::Call),
            (vec!["other"], false, true, ObjectPhase::Adopt),
            (vec!["other", "mine"], false, true, ObjectPhase::Call),
            (vec!["mine"], true, true, ObjectPhase::Call),
            (vec!["mine"], false, false, ObjectPhase::Release),
            (vec!["mine"], true, false, ObjectPhase::Release),
            (vec![], true, true, ObjectPhase::Leave),
            (vec![], true, false, ObjectPhase::Leave),
        ];
        for (finalizers, deleting, wanted, expected) in rows {
            let mut object = json!({"apiVersion": "v1", "kind": "K",
                "metadata": {"name": "a", "finalizers": finalizers}});
            if deleting {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let meta = ObjectMeta::of(&object).unwrap();
            assert_eq!(phase(&meta, "mine", wanted), expected, "{object}");
        }
    }
}
