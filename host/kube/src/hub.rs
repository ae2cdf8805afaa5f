//! Runs one watch per (kind, namespace, selector) while at least one lease on it is held.
//!
//! Of kube's runtime it uses `watcher` only. The watches of `Controller` cannot change at run time and share
//! one backoff, and shared streams (`reflector::store_shared`) lose deletions and wake-ups.
//!
//! ```text
//! lease() ─► registry ◄─ run(): starts and stops one task per watch ─► follow ─► store
//! ```
//!
//! Invariants:
//! - A watch that fails, or whose kind is missing, delays no other watch.
//! - A watch without leases runs on for [`linger`](crate::WatchHubOptions::linger), so that the swap of a
//!   plugin does not list its kinds again.
//! - [`WatchHub::run`] joins every task; a task that panics is started again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics::counter;
use tholepin_core::{
    BoxedFuture,
    port::{WatchLease, WatchScope, WatchState},
};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    follow::{SharedWatchState, WatchFreshness, follow},
    lock::lock,
    store::WatchId,
    watch_context::WatchHubContext,
};

/// The pause before the task of a watch that panicked is started again.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// The state of one watch, for metrics and readiness.
#[derive(Clone, Debug)]
pub struct WatchReport {
    /// The objects that it covers.
    pub scope: WatchScope,
    /// Its state.
    pub state: WatchState,
    /// The number of its leases.
    pub leases: usize,
    /// Whether its objects were listed at least once.
    pub has_followed: bool,
    /// The time since the server last sent an event or accepted the watch request. That request is repeated
    /// every [`watch_lasts_seconds`](crate::WatchHubOptions::watch_lasts_seconds).
    pub quiet_for: Duration,
}

/// The watch hub.
pub(crate) struct WatchHub {
    context: Arc<WatchHubContext>,
    registry: Mutex<WatchHubState>,
    changed: Notify,
}

#[derive(Default)]
struct WatchHubState {
    watches: BTreeMap<WatchScope, LeasedWatch>,
    last_id: u64,
}

struct LeasedWatch {
    id: WatchId,
    leases: usize,
    unused_since: Option<Instant>,
    task: Option<AbortHandle>,
    start_at: Instant,
    state: watch::Sender<WatchState>,
    freshness: Arc<WatchFreshness>,
}

impl WatchHub {
    pub(crate) fn new(context: WatchHubContext) -> Arc<Self> {
        let context = Arc::new(context);
        Arc::new(Self { context, registry: Mutex::default(), changed: Notify::new() })
    }

    /// Takes a lease on a watch, which starts if it does not run.
    pub(crate) fn lease(self: &Arc<Self>, scope: WatchScope) -> WatchHubLease {
        let mut registry = lock(&self.registry);
        let id = WatchId(registry.last_id + 1);
        let entry = registry.watches.entry(scope.clone()).or_insert_with(|| LeasedWatch::new(id));
        entry.leases += 1;
        entry.unused_since = None;
        let state = entry.state.subscribe();
        if entry.id == id {
            registry.last_id = id.0;
        }
        drop(registry);
        counter!("dynamic_controller_handler_attach_total", "kind" => scope.kind.to_string())
            .increment(1);
        self.changed.notify_one();
        WatchHubLease { hub: self.clone(), scope, state }
    }

    fn release(&self, scope: &WatchScope) {
        counter!("dynamic_controller_handler_detach_total", "kind" => scope.kind.to_string())
            .increment(1);
        if let Some(entry) = lock(&self.registry).watches.get_mut(scope) {
            entry.leases = entry.leases.saturating_sub(1);
            if entry.leases == 0 {
                entry.unused_since = Some(Instant::now());
            }
        }
        self.changed.notify_one();
    }

    /// Returns the state of all watches, ordered by scope.
    pub(crate) fn reports(&self) -> Vec<WatchReport> {
        let registry = lock(&self.registry);
        let report = |(scope, entry): (&WatchScope, &LeasedWatch)| WatchReport {
            scope: scope.clone(),
            state: entry.state.borrow().clone(),
            leases: entry.leases,
            has_followed: entry.freshness.has_followed(),
            quiet_for: entry.freshness.quiet_for(),
        };
        registry.watches.iter().map(report).collect()
    }

    /// Runs the watches until `stop`; then ends all of them, and the streams of the store's readers.
    pub(crate) async fn run(self: &Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut scopes = HashMap::new();
        loop {
            let next = self.start_and_stop(&mut tasks, &mut scopes);
            let wait = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = wait => {}
                Some(task_ended) = tasks.join_next_with_id() => self.task_ended(task_ended, &mut scopes),
            }
        }
        tasks.shutdown().await;
        self.context.store.end();
    }

    /// Starts the watches that are leased and do not run, stops those that had no lease for the linger time,
    /// and returns when it must be called again.
    fn start_and_stop(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        scopes: &mut HashMap<Id, (WatchScope, WatchId)>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut call_again_at = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        lock(&self.registry).watches.retain(|scope, entry| {
            if let Some(since) = entry.unused_since {
                if now >= since + self.context.options.linger {
                    if let Some(task) = entry.task.take() {
                        task.abort();
                    }
                    self.context.store.forget(entry.id);
                    return false;
                }
                call_again_at(since + self.context.options.linger);
            }
            if entry.task.is_none() {
                if now < entry.start_at {
                    call_again_at(entry.start_at);
                    return true;
                }
                let task = tasks.spawn(follow(self.context.clone(), entry.followed(scope)));
                scopes.insert(task.id(), (scope.clone(), entry.id));
                entry.task = Some(task);
            }
            true
        });
        next
    }

    fn task_ended(
        &self,
        task_ended: Result<(Id, ()), JoinError>,
        scopes: &mut HashMap<Id, (WatchScope, WatchId)>,
    ) {
        let (id, panic) = match &task_ended {
            Ok((id, ())) => (*id, None),
            Err(failed) => (failed.id(), failed.is_panic().then(|| failed.to_string())),
        };
        let Some((scope, watch)) = scopes.remove(&id) else { return };
        if let Some(panic) = panic {
            error!(kind = %scope.kind, %panic, "a watch panicked and is started again");
        }
        let mut registry = lock(&self.registry);
        // The entry is another watch if the scope was leased again after this task was stopped.
        match registry.watches.get_mut(&scope) {
            Some(entry) if entry.id == watch => {
                entry.task = None;
                entry.start_at = Instant::now() + RESTART_AFTER;
            }
            // The task may have stored one more object between its stop and its end.
            _ => self.context.store.forget(watch),
        }
    }
}

impl LeasedWatch {
    fn new(id: WatchId) -> Self {
        Self {
            id,
            leases: 0,
            unused_since: None,
            task: None,
            start_at: Instant::now(),
            state: watch::Sender::new(WatchState::Starting),
            freshness: Arc::default(),
        }
    }

    fn followed(&self, scope: &WatchScope) -> SharedWatchState {
        SharedWatchState {
            id: self.id,
            scope: scope.clone(),
            state: self.state.clone(),
            freshness: self.freshness.clone(),
        }
    }
}

/// A lease on a watch. The watch ends some time after its last lease was dropped.
pub(crate) struct WatchHubLease {
    hub: Arc<WatchHub>,
    scope: WatchScope,
    state: watch::Receiver<WatchState>,
}

impl WatchLease for WatchHubLease {
    fn state(&self) -> WatchState {
        self.state.borrow().clone()
    }

    fn following(&self) -> BoxedFuture<'_, ()> {
        let mut state = self.state.clone();
        Box::pin(async move {
            // Cannot fail: the entry of the registry holds the sender as long as this lease exists.
            let _ended = state.wait_for(|state| *state == WatchState::Following).await;
        })
    }
}

impl Drop for WatchHubLease {
    fn drop(&mut self) {
        self.hub.release(&self.scope);
    }
}
