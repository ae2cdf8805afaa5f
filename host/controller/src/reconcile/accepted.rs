//! Remembers and stores the spec that a plugin accepted last.

use serde_json::Value;
use tholepin_core::{AcceptedSpec, CallError};
use tracing::warn;

use crate::{
    mapper::reference_of,
    object_state::{LastAcceptedSpec, ReconciledVersion},
    reconcile_once::ReconcileTarget,
};

/// Returns the spec that was accepted last: from memory, or else from the API server.
///
/// # Errors
///
/// Fails if the API server cannot be read.
pub(crate) async fn accepted_spec(
    target: &ReconcileTarget<'_>,
) -> Result<Option<AcceptedSpec>, CallError> {
    let ReconcileTarget { shared, key, meta, .. } = target;
    let remembered = shared.object_states.get(key).accepted;
    match remembered.filter(|accepted| accepted.uid == meta.uid) {
        Some(accepted) => Ok(Some(accepted.spec)),
        None => shared.ports.host_fields.accepted_spec(reference_of(key), meta.uid.clone()).await,
    }
}

/// Records that the plugin accepted the object as it is. The spec of a kind without generations is not kept:
/// nothing separates a change of the spec from other changes.
pub(super) fn record_validated(
    target: &ReconcileTarget<'_>,
    object: &Value,
    version: ReconciledVersion,
) {
    let ReconcileTarget { shared, key, meta, .. } = target;
    let spec = meta.generation.map(|generation| AcceptedSpec::of(object, generation));
    shared.object_states.change(key, |state| {
        state.validated = Some(version);
        let Some(spec) = spec else { return };
        let known = state.accepted.as_ref();
        let is_known = known.is_some_and(|known| known.uid == meta.uid && known.spec == spec);
        if !is_known {
            state.accepted =
                Some(LastAcceptedSpec { uid: meta.uid.clone(), spec, is_stored: false });
        }
    });
}

/// Records that the plugin accepted an earlier spec again.
pub(super) fn record_in_force(
    target: &ReconcileTarget<'_>,
    spec: AcceptedSpec,
    version: ReconciledVersion,
) {
    let uid = target.meta.uid.clone();
    target.shared.object_states.change(target.key, |state| {
        state.validated = Some(version);
        state.accepted.get_or_insert(LastAcceptedSpec { uid, spec, is_stored: true });
    });
}

/// Stores the accepted spec where a restarted host and another host find it, and again if somebody deleted it
/// there. Runs after the call, so that no repair waits for this write; until then it is in memory only.
pub(super) async fn keep_accepted(target: &ReconcileTarget<'_>) {
    let ReconcileTarget { shared, key, meta, .. } = target;
    let writer = &shared.ports.host_fields;
    let is_due = |accepted: &LastAcceptedSpec| {
        !accepted.is_stored || writer.lacks_accepted_spec(&reference_of(key), &accepted.uid)
    };
    let due = shared.object_states.get(key).accepted.filter(is_due);
    let Some(LastAcceptedSpec { uid, spec, .. }) = due else { return };
    if meta.deleting || shared.is_paused(key) {
        return;
    }
    match writer.keep_accepted_spec(reference_of(key), uid, spec.clone()).await {
        Ok(()) => shared.object_states.change(key, |state| {
            if let Some(stored) = state.accepted.as_mut().filter(|stored| stored.spec == spec) {
                stored.is_stored = true;
            }
        }),
        Err(error) => {
            warn!(%error, "cannot store the accepted spec; the next reconcile tries again");
        }
    }
}
