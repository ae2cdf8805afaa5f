//! Writes the host's conditions on a reconciled object. A paused object is never written.

use serde_json::Value;
use tholepin_core::{
    ObjectMeta, ReconcileKey,
    condition::{HostWrittenCondition, Reason},
};
use tracing::warn;

use super::{LiveReconcileEffects, log};
use crate::{
    conditions::{self, HostConditionUpdate, ObjectReconcilerPresence},
    mapper::reference_of,
    queue::KeyCompletion,
    reconcile_once::{ReconcileTarget, RejectedSpecReason},
    shared_state::ControllerSharedState,
};

impl LiveReconcileEffects<'_> {
    /// Writes a condition in place of those that the host wrote before.
    pub(super) async fn write_finding(&self, update: HostConditionUpdate) -> KeyCompletion {
        let ReconcileTarget { shared, key, meta, .. } = self.target;
        write_finding(shared, key, meta, update).await
    }

    /// Writes on the object that it is quarantined. A write that fails with a transient error is tried again by
    /// the next reconcile, which does not call the plugin.
    pub(super) async fn quarantine(&self, message: &str) -> KeyCompletion {
        let ReconcileTarget { shared, key, .. } = self.target;
        let (reason, presence) = (Reason::TooManyStrikes, ObjectReconcilerPresence::Absent);
        let update = HostConditionUpdate { reason, message: message.to_owned(), presence };
        let completion = self.write_finding(update).await;
        let unwritten = (completion == KeyCompletion::Retry).then(|| message.to_owned());
        shared.object_states.change(key, |state| state.unwritten_quarantine = unwritten);
        completion
    }

    /// Logs the summary of a call that went well. Removes the host's conditions from the object, or writes that
    /// its spec is refused while an earlier one is in force, or that wakes of its outcome are refused.
    pub(super) async fn report_success(
        &self,
        object: &Value,
        summary: &str,
        refusal: Option<&RejectedSpecReason>,
        refused_wakes: Option<String>,
    ) {
        let ReconcileTarget { shared, key, .. } = self.target;
        let Some(update) = of_success(refusal, refused_wakes) else {
            if !summary.is_empty() {
                log(shared, key, summary);
            }
            return self.clear_findings(object).await;
        };
        let about = if refusal.is_some() { "the spec is refused: " } else { "" };
        log(shared, key, &format!("{about}{}; {summary}", update.message));
        // If the write fails, the next reconcile writes it.
        self.write_finding(update).await;
    }

    /// Removes the host's conditions from the object. Writes only if it has some, so that a kind without
    /// conditions is never written.
    async fn clear_findings(&self, object: &Value) {
        let ReconcileTarget { shared, key, meta, .. } = self.target;
        // Read again: the host may have written a condition during the reconcile.
        let now = shared.ports.kubernetes.view().get(&reference_of(key));
        let now = now.as_deref().unwrap_or(object);
        if !conditions::has_host_condition(now) || shared.is_paused(key) {
            return;
        }
        let remaining = conditions::of_success(now, meta);
        let writer = &shared.ports.host_fields;
        if let Err(error) = writer.set_conditions(reference_of(key), remaining).await {
            warn!(%error, "cannot clear the host's conditions");
        }
    }
}

/// Returns the condition for a call that succeeded, if there is something to report. A refused spec is named before
/// refused wakes.
fn of_success(
    refusal: Option<&RejectedSpecReason>,
    refused_wakes: Option<String>,
) -> Option<HostConditionUpdate> {
    let (reason, message) = match (refusal, refused_wakes) {
        (None, None) => return None,
        (None, Some(wakes)) => (Reason::WakeRefused, wakes),
        (Some(refused), None) => (refused.reason, refused.message.clone()),
        (Some(refused), Some(wakes)) => (refused.reason, format!("{}; {wakes}", refused.message)),
    };
    let presence = ObjectReconcilerPresence::Present;
    Some(HostConditionUpdate { reason, message, presence })
}

/// Returns the condition for a call that failed. If the spec is refused as well, the refusal is named first: it
/// stays when the next call succeeds.
pub(super) fn of_failure(
    reason: Reason,
    message: String,
    refusal: Option<&RejectedSpecReason>,
) -> HostConditionUpdate {
    let presence = ObjectReconcilerPresence::Present;
    match refusal {
        None => HostConditionUpdate { reason, message, presence },
        Some(refused) => HostConditionUpdate {
            reason: refused.reason,
            message: format!("{}; its last reconcile: {message}", refused.message),
            presence,
        },
    }
}

/// Writes a condition on an object whose metadata the caller does not have. See [`write_finding`].
pub(crate) async fn write_finding_of(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    update: HostConditionUpdate,
) -> KeyCompletion {
    let meta = shared.ports.kubernetes.view().meta(&reference_of(key));
    match meta {
        Some(meta) => write_finding(shared, key, &meta, update).await,
        None => KeyCompletion::AwaitChange,
    }
}

/// Writes a condition in place of those that the host wrote before. Returns [`KeyCompletion::Retry`] if the write
/// fails with a transient error: otherwise the finding would never be shown.
pub(super) async fn write_finding(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    meta: &ObjectMeta,
    update: HostConditionUpdate,
) -> KeyCompletion {
    // Read again: the plugin may have reported its status during the reconcile.
    let Some(object) = shared.ports.kubernetes.view().get(&reference_of(key)) else {
        return KeyCompletion::AwaitChange;
    };
    if shared.is_paused(key) {
        return KeyCompletion::AwaitChange;
    }
    let conditions: Vec<HostWrittenCondition> = update.conditions(&object, meta);
    match shared.ports.host_fields.set_conditions(reference_of(key), conditions).await {
        Ok(()) => KeyCompletion::AwaitChange,
        Err(error) => {
            warn!(%error, "cannot write the host's condition");
            if error.is_passing() { KeyCompletion::Retry } else { KeyCompletion::AwaitChange }
        }
    }
}
