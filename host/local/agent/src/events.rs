//! Kubernetes events about Pods: what a user sees in `kubectl describe pod`.
//!
//! Recording an event never delays a Pod: events wait in a bounded queue, and are dropped when the API server
//! is too slow. For a repeated event, kube's recorder increases the count of the first one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

/// How many events may wait to be written.
const QUEUE_MAX: usize = 256;
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// After this many events the recorder is replaced, and so forgets the events before. It keeps each event for
/// six minutes without any other bound. A repetition of a forgotten event is written as a new event.
const REMEMBERED_MAX: usize = 512;
/// The maximum length of a note; the limit is that of Kubernetes.
const NOTE_CHARS_MAX: usize = 1000;

pub(crate) type QueuedEvent = (Event, ObjectReference);

/// A handle that records events.
#[derive(Clone, Debug)]
pub(crate) struct EventRecorder {
    queue: mpsc::Sender<QueuedEvent>,
}

impl EventRecorder {
    /// Creates a handle, and the queue to pass to [`write()`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<QueuedEvent>) {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, queued)
    }

    /// Records an event of type `Normal`.
    pub(crate) fn normal(&self, key: EventKey<'_>, reason: &str, note: String) {
        self.record(key, EventType::Normal, reason, note);
    }

    /// Records an event of type `Warning`.
    pub(crate) fn warning(&self, key: EventKey<'_>, reason: &str, note: String) {
        self.record(key, EventType::Warning, reason, note);
    }

    fn record(&self, key: EventKey<'_>, type_: EventType, reason: &str, note: String) {
        tracing::debug!(pod = key.pod.name_any(), reason, note, "event");
        let note = Some(note.chars().take(NOTE_CHARS_MAX).collect());
        let action = key.action.unwrap_or(reason).to_owned();
        let event = Event { type_, reason: reason.into(), note, action, secondary: None };
        let mut regarding = key.pod.object_ref(&());
        regarding.field_path = key.container.map(|name| field_path(key.pod, name));
        // A full queue means that the API server is slow. A dropped event is still in the log line above.
        let _ = self.queue.try_send((event, regarding));
    }
}

/// The object of an event. Events that agree in this key and in their reason are counted, not repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventKey<'a> {
    pub pod: &'a Pod,
    pub container: Option<&'a str>,
    /// The action that was performed, for reasons that stand for different actions.
    pub action: Option<&'a str>,
}

impl<'a> EventKey<'a> {
    pub(crate) const fn pod(pod: &'a Pod) -> Self {
        Self { pod, container: None, action: None }
    }

    pub(crate) const fn container(pod: &'a Pod, name: &'a str) -> Self {
        Self { pod, container: Some(name), action: None }
    }

    pub(crate) const fn action(self, action_name: &'a str) -> Self {
        Self { action: Some(action_name), ..self }
    }
}

/// Returns the field path of a container in its Pod, as Kubernetes writes it into events.
fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let is_init = init.into_iter().flatten().any(|init_container| init_container.name == container);
    let list = if is_init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// Writes the recorded events until every [`EventRecorder`] is dropped.
pub(crate) async fn write(client: Client, node: String, mut queued: mpsc::Receiver<QueuedEvent>) {
    let reporter = Reporter { controller: "tholepin-agent".into(), instance: Some(node) };
    loop {
        let recorder = Recorder::new(client.clone(), reporter.clone());
        for _ in 0..REMEMBERED_MAX {
            let Some((event, pod)) = queued.recv().await else { return };
            let written = recorder.publish(&event, &pod);
            match tokio::time::timeout(WRITE_DEADLINE, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "event not written"),
                Err(_) => tracing::debug!("event not written in time"),
            }
        }
    }
}
