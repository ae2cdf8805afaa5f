//! What a paused object gets instead of a pass: nothing is written on it, and nothing looks at its instance.
//!
//! That it is paused is in the log, in `tholepin calls` and in a metric. An event tells what nobody may
//! miss: a value of the annotation that was not understood, and a deletion that waits.

use std::time::Duration;

use tholepin_core::{
    EventType, ObjectKey, ObjectMeta, PAUSED, ReconcileResult, condition::HOST_FIELD_MANAGER,
    port::PublishRequest,
};
use tracing::warn;

use super::say;
use crate::{
    mapper::reference_of, phase::finalizer_of, plugins::ActivePlugin,
    report_builder::ReportBuilder, shared_state::SharedState,
};

/// Stops what is armed for a paused object, and tells that it is paused.
pub(super) async fn pause(
    shared: &SharedState,
    key: &ObjectKey,
    meta: &ObjectMeta,
    plugin: Option<&ActivePlugin>,
) {
    let why = match meta.unclear_pause() {
        None => format!("paused by the annotation `{PAUSED}`"),
        Some(value) => format!("paused by the annotation `{PAUSED}` with the value \"{value}\""),
    };
    say(shared, key, &why);
    shared.parts.wakes.disarm(key);
    tell_unclear_value(shared, key, meta).await;
    if meta.deleting && meta.finalizers.contains(&finalizer_of(key)) {
        tell_what_it_waits_for(shared, key, meta).await;
    }
    let Some(plugin) = plugin else { return };
    let mut story = ReportBuilder::begin(shared, Vec::new());
    story.end = Some(ReconcileResult::NotCalled { why: format!("{why}; remove it to go on") });
    shared.history.extend(story.build(key, plugin, Duration::ZERO));
}

/// Tells once that the value of the annotation is neither true nor false, and how it is read.
async fn tell_unclear_value(shared: &SharedState, key: &ObjectKey, meta: &ObjectMeta) {
    let Some(value) = meta.unclear_pause() else { return };
    if !shared.notes.change(key, |note| note.is_news_of_pause(value)) {
        return;
    }
    let namespace = match key.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" --namespace {namespace}"),
    };
    let (kind, name) = (key.kind.kind.to_lowercase(), &key.name);
    let message = format!(
        "`{PAUSED}` is \"{value}\", which is neither `true` nor `false`; the object counts as paused. Write \
         `true` to keep it so. To go on: `kubectl annotate {kind} {name}{namespace} {PAUSED}-`"
    );
    publish(shared, key, meta, message).await;
}

/// Whoever deletes a paused object must not wonder why it stays.
async fn tell_what_it_waits_for(shared: &SharedState, key: &ObjectKey, meta: &ObjectMeta) {
    let message = format!(
        "it is being deleted and paused: nothing cleans up until the annotation `{PAUSED}` is removed, or \
         the finalizer `{}`, which lets it go as it is",
        finalizer_of(key)
    );
    publish(shared, key, meta, message).await;
}

async fn publish(shared: &SharedState, key: &ObjectKey, meta: &ObjectMeta, message: String) {
    let request = PublishRequest {
        reporter: HOST_FIELD_MANAGER.to_owned(),
        regarding: reference_of(key),
        regarding_uid: meta.uid.clone(),
        event_type: EventType::Warning,
        reason: "Paused".to_owned(),
        message,
    };
    // An event that is lost changes nothing.
    if let Err(error) = shared.parts.kubernetes.publish(request).await {
        warn!(%error, "the event was not published");
    }
}
