//! Handles a paused object in place of a reconcile: nothing is written on it, and its instance is not polled.
//!
//! The pause shows in the log, in `tholepin calls` and in a metric. Events report the two cases in which a person has
//! to act: an annotation value that is neither true nor false, and a deletion that waits for the pause to end.

use std::time::Duration;

use tholepin_core::{
    EventType, ObjectMeta, PAUSED, ReconcileKey, ReconcileResult, condition::HOST_FIELD_MANAGER,
    port::PublishRequest,
};
use tracing::warn;

use super::log;
use crate::{
    mapper::reference_of, phase::finalizer_of, plugins::ActivePlugin,
    report_builder::ReportBuilder, shared_state::ControllerSharedState,
};

/// Ends the subscriptions of a paused object, and reports that it is paused.
pub(super) async fn pause(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    meta: &ObjectMeta,
    plugin: Option<&ActivePlugin>,
) {
    let why = match meta.unclear_pause() {
        None => format!("paused by the annotation `{PAUSED}`"),
        Some(value) => format!("paused by the annotation `{PAUSED}` with the value \"{value}\""),
    };
    log(shared, key, &why);
    shared.ports.wakes.unsubscribe(key);
    report_unclear_value(shared, key, meta).await;
    if meta.deleting && meta.finalizers.contains(&finalizer_of(key)) {
        report_waiting_deletion(shared, key, meta).await;
    }
    let Some(plugin) = plugin else { return };
    let mut report = ReportBuilder::live(shared, Vec::new());
    report.end = Some(ReconcileResult::NotCalled { why: format!("{why}; remove it to resume") });
    shared.history.extend(report.build(key, plugin, Duration::ZERO));
}

/// Publishes an event, once per value, that the annotation is neither true nor false and counts as true.
async fn report_unclear_value(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    meta: &ObjectMeta,
) {
    let Some(value) = meta.unclear_pause() else { return };
    if !shared.object_states.change(key, |state| state.record_unclear_pause(value)) {
        return;
    }
    let namespace = match key.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" --namespace {namespace}"),
    };
    let (kind, name) = (key.kind.kind.to_lowercase(), &key.name);
    let message = format!(
        "`{PAUSED}` is \"{value}\", which is neither `true` nor `false`; the object counts as paused. Write \
         `true` to keep it so. To resume: `kubectl annotate {kind} {name}{namespace} {PAUSED}-`"
    );
    publish(shared, key, meta, message).await;
}

/// Publishes an event that says why a paused object is not deleted.
async fn report_waiting_deletion(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    meta: &ObjectMeta,
) {
    let message = format!(
        "it is being deleted and paused: nothing cleans up until the annotation `{PAUSED}` is removed, or \
         the finalizer `{}`, which lets it go as it is",
        finalizer_of(key)
    );
    publish(shared, key, meta, message).await;
}

async fn publish(
    shared: &ControllerSharedState,
    key: &ReconcileKey,
    meta: &ObjectMeta,
    message: String,
) {
    let request = PublishRequest {
        reporter: HOST_FIELD_MANAGER.to_owned(),
        regarding: reference_of(key),
        regarding_uid: meta.uid.clone(),
        event_type: EventType::Warning,
        reason: "Paused".to_owned(),
        message,
    };
    // A lost event has no other effect.
    if let Err(error) = shared.ports.kubernetes.publish(request).await {
        warn!(%error, "the event was not published");
    }
}
