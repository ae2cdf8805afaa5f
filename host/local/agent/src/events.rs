//! Kubernetes events about Pods: what a user sees in `kubectl describe pod`.
//!
//! Telling never delays the life of a Pod: events wait in a bounded queue and are dropped when the API
//! server is too slow. The recorder of `kube` counts repetitions up instead of writing new objects.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

/// Events that may wait.
const QUEUE_MAX: usize = 256;
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// After so many events the recorder forgets those before, which it keeps for six minutes without any
/// other bound. A repeat of one that was forgotten is a new event.
const REMEMBERED_MAX: usize = 512;
/// What a note may be long; Kubernetes' own bound.
const NOTE_CHARS_MAX: usize = 1000;

pub(crate) type QueuedEvent = (Event, ObjectReference);

/// A handle for telling events.
#[derive(Clone, Debug)]
pub(crate) struct EventRecorder {
    queue: mpsc::Sender<QueuedEvent>,
}

impl EventRecorder {
    /// Makes a handle, and the queue to give to [`write()`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<QueuedEvent>) {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, queued)
    }

    /// Tells something that went as it should.
    pub(crate) fn normal(&self, about: EventKey<'_>, reason: &str, note: String) {
        self.record(about, EventType::Normal, reason, note);
    }

    /// Tells something that somebody should look at.
    pub(crate) fn warning(&self, about: EventKey<'_>, reason: &str, note: String) {
        self.record(about, EventType::Warning, reason, note);
    }

    fn record(&self, about: EventKey<'_>, type_: EventType, reason: &str, note: String) {
        tracing::debug!(pod = about.pod.name_any(), reason, note, "event");
        let note = Some(note.chars().take(NOTE_CHARS_MAX).collect());
        let action = about.doing.unwrap_or(reason).to_owned();
        let event = Event { type_, reason: reason.into(), note, action, secondary: None };
        let mut regarding = about.pod.object_ref(&());
        regarding.field_path = about.container.map(|name| field_path(about.pod, name));
        // A full queue means a slow API server; what is dropped is also in the log above.
        let _ = self.queue.try_send((event, regarding));
    }
}

/// What an event is about. Events that are equal in this and in their reason are counted, not repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventKey<'a> {
    pub pod: &'a Pod,
    pub container: Option<&'a str>,
    /// What was being done, where the reason alone would mix different things.
    pub doing: Option<&'a str>,
}

impl<'a> EventKey<'a> {
    pub(crate) const fn pod(pod: &'a Pod) -> Self {
        Self { pod, container: None, doing: None }
    }

    pub(crate) const fn container(pod: &'a Pod, name: &'a str) -> Self {
        Self { pod, container: Some(name), doing: None }
    }

    pub(crate) const fn doing(self, what: &'a str) -> Self {
        Self { doing: Some(what), ..self }
    }
}

/// Where in the Pod a container is, as Kubernetes writes it into events.
fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let is_init = init.into_iter().flatten().any(|one| one.name == container);
    let list = if is_init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// Writes what is told until every [`EventRecorder`] is dropped.
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
