//! The task of one watch: finds the resource of its kind, lists, watches, and starts again after any error.
//!
//! The initial state is read by list-then-watch, which every server supports; streaming lists need a server
//! feature that may be off.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use metrics::{counter, histogram};
use rand::RngExt;
use tholepin_core::{
    ErrorChain, ObjectRef, WatchedStoreObject,
    port::{WatchScope, WatchState},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{
    fingerprint::is_secret_kind,
    kinds::{DiscoveredKind, KindLookupError},
    lock::lock,
    meter,
    raw::RawObject,
    store::WatchId,
    watch_context::WatchHubContext,
};

/// The part of a watch that its task shares with the hub.
#[derive(Clone)]
pub(crate) struct SharedWatchState {
    pub(crate) id: WatchId,
    pub(crate) scope: WatchScope,
    pub(crate) state: watch::Sender<WatchState>,
    pub(crate) freshness: Arc<WatchFreshness>,
}

/// When the API server last replied to a watch, and whether the watch has listed its objects.
pub(crate) struct WatchFreshness {
    last_reply: Mutex<Instant>,
    has_followed: AtomicBool,
}

impl Default for WatchFreshness {
    fn default() -> Self {
        Self { last_reply: Mutex::new(Instant::now()), has_followed: AtomicBool::new(false) }
    }
}

impl WatchFreshness {
    pub(crate) fn quiet_for(&self) -> Duration {
        lock(&self.last_reply).elapsed()
    }

    /// Returns true if the objects of the watch were listed at least once.
    pub(crate) fn has_followed(&self) -> bool {
        self.has_followed.load(Ordering::Relaxed)
    }

    fn record_reply(&self) {
        *lock(&self.last_reply) = Instant::now();
    }
}

/// A pause that doubles up to a maximum, with jitter: between half of it and the whole.
///
/// Not `WatchStreamExt::backoff` of kube: its pause cannot end early, as in [`WatchHubContext::wait_after_failure`],
/// and kube's `ExponentialBackoff` has no public constructor (`DefaultBackoff` is 0.8 s to 30 s).
struct RetryBackoff {
    bounds: (Duration, Duration),
    pause: Duration,
}

impl RetryBackoff {
    const fn new(bounds: (Duration, Duration)) -> Self {
        Self { bounds, pause: bounds.0 }
    }

    const fn reset(&mut self) {
        self.pause = self.bounds.0;
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.bounds.1);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Runs a watch until the task is aborted.
pub(crate) async fn follow(context: Arc<WatchHubContext>, followed: SharedWatchState) {
    let mut missing = RetryBackoff::new(context.options.missing_kind_pause);
    let mut failure = RetryBackoff::new(context.options.failure_pause);
    loop {
        match context.kinds.find(&followed.scope.kind).await {
            Ok(served) => {
                missing.reset();
                list_and_watch(&context, &followed, &served, &mut failure).await;
                // `list_and_watch` returns only if the server answered 404, so discovery is asked again. The pause is
                // for a server that lists the kind in discovery and does not serve it yet.
                context.kinds.forget(&followed.scope.kind);
                sleep(failure.next_pause()).await;
            }
            Err(KindLookupError::Missing) => {
                followed.set_state(WatchState::KindMissing);
                context.store.forget(followed.id);
                tokio::select! {
                    () = sleep(missing.next_pause()) => {}
                    () = context.kinds.installed.notified() => {}
                }
            }
            Err(KindLookupError::Failed(error)) => {
                followed.count_failure();
                followed.set_state(WatchState::Failing(error.to_string()));
                context.wait_after_failure(failure.next_pause()).await;
            }
        }
    }
}

/// Lists and watches until the server replies that it does not know the kind.
async fn list_and_watch(
    context: &Arc<WatchHubContext>,
    followed: &SharedWatchState,
    served: &DiscoveredKind,
    failure: &mut RetryBackoff,
) {
    let SharedWatchState { scope, freshness, .. } = followed;
    // `watcher` emits no event when the server accepts a watch that continues from the last resource version,
    // so the requests are observed as well.
    let client = {
        let (context, followed) = (context.clone(), followed.clone());
        meter::with_watch_callback(context.client.clone(), move || {
            followed.freshness.record_reply();
            followed.set_following(&context);
        })
    };
    let api = served.api(client, &scope.namespace);
    let config = watcher::Config::default()
        .labels(&scope.selector)
        .timeout(context.options.watch_lasts_seconds);
    let mut events = pin!(watcher(api, config));
    let mut listing = Instant::now();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                freshness.record_reply();
                if !matches!(event, Event::Init) {
                    failure.reset();
                }
                match event {
                    Event::Init => listing = Instant::now(),
                    Event::InitDone => followed.record_list_duration(listing.elapsed()),
                    Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
                }
                apply_event(context, followed, served, event);
            }
            Err(error) if is_kind_missing(&error) => return,
            Err(error) => {
                followed.count_failure();
                followed.set_state(WatchState::Failing(failure_text(&error, served, scope)));
                context.wait_after_failure(failure.next_pause()).await;
            }
        }
    }
}

fn apply_event(
    context: &WatchHubContext,
    followed: &SharedWatchState,
    served: &DiscoveredKind,
    event: Event<RawObject>,
) {
    let SharedWatchState { id, scope, .. } = followed;
    let stored = |raw: RawObject| to_stored(context, served, &raw);
    match event {
        Event::Init => context.store.begin_list(*id),
        Event::InitApply(raw) => {
            followed.count_event("listed");
            if let Some(object) = stored(raw) {
                context.store.put_watched(*id, object);
            }
        }
        Event::InitDone => {
            context.store.end_list(*id, scope);
            if is_secret_kind(&scope.kind) {
                context.secrets.forget_deleted(|secret| context.store.is_known_missing(secret));
            }
            followed.set_following(context);
        }
        Event::Apply(raw) => {
            followed.count_event("applied");
            if let Some(object) = stored(raw) {
                context.store.put_watched(*id, object);
            }
            followed.set_following(context);
        }
        Event::Delete(raw) => {
            followed.count_event("deleted");
            if let Some(object) = stored(raw) {
                context.store.remove_watched(*id, &object);
                // A watch with a selector reports `Delete` also for an object that no longer matches.
                let object = &object.meta().object;
                if is_secret_kind(&object.kind) && context.store.is_known_missing(object) {
                    context.secrets.forget(object);
                }
            }
            followed.set_following(context);
        }
    }
}

/// Converts an object of a watch for the store: adds its kind and replaces Secret values by fingerprints. A
/// malformed object is logged and skipped, so that it does not end the watch.
fn to_stored(
    context: &WatchHubContext,
    served: &DiscoveredKind,
    raw: &RawObject,
) -> Option<WatchedStoreObject> {
    let converted = raw.value(&served.resource).map_err(|error| error.to_string());
    let converted = converted.and_then(|mut object| {
        context.secrets.update_if_used(&object);
        context.fingerprinter.replace_secret_values(&mut object);
        WatchedStoreObject::new(object).map_err(|error| error.to_string())
    });
    converted
        .inspect_err(|error| {
            warn!(resource = served.resource.plural, error, "skipping an unreadable object");
        })
        .ok()
}

impl SharedWatchState {
    fn count_failure(&self) {
        counter!("tholepin_watch_failures_total", "kind" => self.scope.kind.to_string())
            .increment(1);
    }

    /// Records how long a list took.
    fn record_list_duration(&self, took: Duration) {
        let kind = self.scope.kind.to_string();
        histogram!("dynamic_controller_informer_sync_duration_seconds", "kind" => kind)
            .record(took);
    }

    fn count_event(&self, event: &'static str) {
        let kind = self.scope.kind.to_string();
        counter!("dynamic_controller_informer_events_total", "kind" => kind, "event" => event)
            .increment(1);
    }

    /// Sets the state to `Following`. If the watch had failed before, the server answers again, so that the
    /// other watches and the readers of the store are notified.
    fn set_following(&self, context: &WatchHubContext) {
        self.freshness.has_followed.store(true, Ordering::Relaxed);
        let had_failed = matches!(&*self.state.borrow(), WatchState::Failing(_));
        self.set_state(WatchState::Following);
        if had_failed {
            context.resumed.notify_waiters();
            context.store.notify_resumed();
        }
    }

    /// Sets the state of the watch, with one log line per change.
    fn set_state(&self, state: WatchState) {
        let kind = &self.scope.kind;
        let changed = self.state.send_if_modified(|current| {
            let changed = *current != state;
            current.clone_from(&state);
            changed
        });
        if !changed {
            return;
        }
        match state {
            WatchState::Starting | WatchState::Following => debug!(%kind, ?state, "watch changed"),
            WatchState::KindMissing | WatchState::Failing(_) => {
                warn!(%kind, ?state, "watch waits and will be tried again");
            }
        }
    }
}

/// Returns why a watch failed, with the RBAC rule to add if the host may not read the kind.
fn failure_text(error: &watcher::Error, served: &DiscoveredKind, scope: &WatchScope) -> String {
    let text = ErrorChain(error).to_string();
    let refusal = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    };
    let Some(status) = refusal.filter(|status| status.code == 403) else { return text };
    let object = ObjectRef {
        kind: scope.kind.clone(),
        namespace: scope.namespace.clone(),
        name: String::new(),
    };
    match served.request("watch", &object, false).missing_rule(&status.message) {
        Some(rule) => format!("{text}; {rule}"),
        None => text,
    }
}

fn is_kind_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_maximum_with_jitter_until_a_reset() {
        let mut backoff = RetryBackoff::new((Duration::from_secs(1), Duration::from_secs(4)));
        for full in [1, 2, 4, 4].map(Duration::from_secs) {
            let pause = backoff.next_pause();
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_secs(1));
    }
}
