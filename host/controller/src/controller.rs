//! The loop: store changes enqueue keys, reconciles process them, routes and watches follow the active plugins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tholepin_core::{
    PluginName, ReconcileKey, WatchedStoreObject,
    port::{WatchLease, WatchScope, WatchedStoreChange, WatchedStoreEvent},
};
use tholepin_schema::manifest::{Grants, KindName, Manifest, ReconciledKind};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinError, JoinSet, coop::consume_budget},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    ended_containers::ended_containers,
    mapper::{self, ReconcileMapper},
    metrics::{self, RunningReconciles},
    plugins::ActivePluginChange,
    queue::{DequeuedKey, QueuePriority, QueueStats, WorkQueue},
    reconcile::{LiveReconcileControl, reconcile},
    shared_state::{ControllerPorts, ControllerSettings, ControllerSharedState},
};

/// How long running reconciles may take to finish after the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Counts of a plugin's objects by health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectHealthCounts {
    /// All objects.
    pub objects: usize,
    /// Quarantined objects, for which the plugin is not called.
    pub quarantined: usize,
    /// Other objects whose last call failed or whose spec is refused.
    pub failing: usize,
    /// Paused objects, for which the plugin is not called.
    pub paused: usize,
}

/// The controller: its loop, plans, and reads of its state.
pub struct Controller {
    pub(crate) shared: Arc<ControllerSharedState>,
}

impl Controller {
    /// Creates a controller; [`run`](Self::run) starts its loop.
    #[must_use]
    pub fn new(ports: ControllerPorts, settings: ControllerSettings) -> Self {
        Self { shared: Arc::new(ControllerSharedState::new(ports, settings)) }
    }

    /// Enqueues a key, such as for a wake.
    pub fn enqueue(&self, key: &ReconcileKey, priority: QueuePriority, cause: &str) {
        self.shared.queue.add(key, priority, cause);
    }

    /// Runs the loop until `stop` is cancelled, then waits for the running reconciles to finish.
    ///
    /// `events` notifies about changed plugins; the plugins that are active at the start count as changed.
    pub async fn run(&self, events: mpsc::Receiver<ActivePluginChange>, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let premature = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            // Without one of these the controller would miss changes, and no error would show it.
            () = self.follow_changes() => Some("the store ended".to_owned()),
            () = self.follow_plugins(events) => Some("the plugin registry ended".to_owned()),
            () = self.report_overdue() => Some("the search for overdue objects ended".to_owned()),
            () = self.shared.liveness.serve() => Some("the liveness check ended".to_owned()),
            // Without this a panic in a reconcile would go unnoticed.
            error = self.dispatch(&mut running, &stop) => Some(format!("a reconcile ended: {error}")),
        };
        if let Some(reason) = premature {
            error!(reason, "the controller stops although no stop was requested");
        }
        stop.cancel();
        finish(running).await;
    }

    /// Starts a reconcile for every key that becomes due, within the bounds; ends if one panics.
    async fn dispatch(&self, running: &mut JoinSet<()>, stop: &CancellationToken) -> JoinError {
        // Kept over the iterations: a new future would be the last one to get a permit.
        let mut due_key = Box::pin(next_due_key(self.shared.clone(), stop.clone()));
        loop {
            tokio::select! {
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        return error;
                    }
                }
                due = &mut due_key => {
                    running.spawn(work(self.shared.clone(), due));
                    due_key = Box::pin(next_due_key(self.shared.clone(), stop.clone()));
                }
            }
        }
    }

    async fn follow_changes(&self) {
        let mut changes = self.shared.ports.watches.changes();
        while let Some(event) = changes.next().await {
            match event {
                WatchedStoreEvent::Changed(change) => self.changed(&change),
                WatchedStoreEvent::Overflowed => self.enqueue_all("overflow"),
                WatchedStoreEvent::Resumed => self.shared.queue.retry_failed_now(),
            }
            // Yields now and then, so that a long backlog does not delay the other loops of this task.
            consume_budget().await;
        }
    }

    fn changed(&self, change: &WatchedStoreChange) {
        let ended = ended_containers(change);
        for container_id in &ended {
            self.shared.ports.redis.container_ended(container_id);
        }
        let is_urgent = !ended.is_empty() || changes_pause(change);
        let priority = if is_urgent { QueuePriority::Urgent } else { QueuePriority::Event };
        let view = self.shared.ports.kubernetes.view();
        let cause = mapper::cause(change);
        let keys = self.shared.routes().keys(change, &*view);
        metrics::routed(change, keys.len());
        for key in keys {
            debug!(%key, cause, ?priority, "enqueued");
            self.shared.queue.add(&key, priority, &cause);
        }
    }

    fn enqueue_all(&self, cause: &str) {
        for plugin in self.shared.ports.plugins.all() {
            self.enqueue_all_of(&plugin.name, &plugin.manifest, QueuePriority::Resync, cause);
        }
    }

    fn enqueue_all_of(
        &self,
        plugin: &PluginName,
        manifest: &Manifest,
        priority: QueuePriority,
        cause: &str,
    ) {
        let view = self.shared.ports.kubernetes.view();
        for key in mapper::all(plugin, manifest, &*view) {
            self.shared.queue.add(&key, priority, cause);
        }
    }

    /// Waits until the loop has answered. It never answers if it hangs: the caller sets the deadline.
    pub async fn answers(&self) {
        self.shared.liveness.ping().await;
    }

    pub(crate) fn queue_stats(&self) -> QueueStats {
        self.shared.queue.inspect(WorkQueue::stats)
    }

    pub(crate) fn running(&self) -> &RunningReconciles {
        &self.shared.running
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.shared.settings.concurrency
    }

    /// Returns the health of a plugin's objects, as far as this host has called the plugin for them. Also works for a
    /// plugin that is not loaded any more, as long as no other plugin reconciles its kinds.
    #[must_use]
    pub fn health(&self, plugin: &PluginName) -> ObjectHealthCounts {
        let view = self.shared.ports.kubernetes.view();
        let kinds = self.shared.followed().into_iter().filter(|(whose, _)| whose == plugin);
        let quarantined = self.quarantined(plugin);
        ObjectHealthCounts {
            objects: kinds.map(|(_, kind)| view.references(&kind, "").len()).sum(),
            quarantined,
            failing: self.shared.object_states.failing(plugin).saturating_sub(quarantined),
            paused: self.shared.object_states.paused_of(plugin),
        }
    }

    /// Returns how many objects of a plugin are quarantined.
    pub(crate) fn quarantined(&self, plugin: &PluginName) -> usize {
        self.shared.strikes(|strikes| strikes.quarantined(plugin))
    }

    /// Returns the names of the active plugins.
    pub(crate) fn serving(&self) -> Vec<PluginName> {
        self.shared.ports.plugins.all().iter().map(|plugin| plugin.name.clone()).collect()
    }

    /// Keeps routes and watches equal to those of the manifests, and enqueues the objects of a changed plugin.
    async fn follow_plugins(&self, mut events: mpsc::Receiver<ActivePluginChange>) {
        let mut leases: BTreeMap<WatchScope, Box<dyn WatchLease>> = BTreeMap::new();
        let mut known: BTreeMap<PluginName, Arc<Manifest>> = BTreeMap::new();
        let mut changed: Vec<_> =
            self.shared.ports.plugins.all().iter().map(|plugin| plugin.name.clone()).collect();
        loop {
            self.update_manifests(&mut known);
            let routes =
                ReconcileMapper::new(known.iter().map(|(name, manifest)| (name, &**manifest)));
            self.renew_leases(&mut leases, routes.scopes());
            self.shared.set_routes(routes);
            for name in changed.drain(..) {
                // The objects of a plugin that is not loaded are enqueued once, to get the condition `PluginMissing`.
                if let Some(manifest) = known.get(&name) {
                    let serves = self.shared.ports.plugins.active(&name).is_some();
                    // A running reconcile of an unloaded revision is interrupted: nothing follows from its waits.
                    let priority =
                        if serves { QueuePriority::Resync } else { QueuePriority::Urgent };
                    self.enqueue_all_of(&name, manifest, priority, "revision");
                }
            }
            match events.recv().await {
                Some(ActivePluginChange::Changed(name)) => changed.push(name),
                Some(ActivePluginChange::Missing(name, kinds)) => {
                    known
                        .entry(name.clone())
                        .or_insert_with(|| Arc::new(manifest_of_kinds(&name, kinds)));
                    changed.push(name);
                }
                None => return,
            }
        }
    }

    /// Updates `known` to the manifests of the active plugins, and keeps those of plugins that are not loaded any more
    /// and whose kinds no other plugin reconciles: their objects have the condition that the plugin is missing.
    fn update_manifests(&self, known: &mut BTreeMap<PluginName, Arc<Manifest>>) {
        let serving = self.shared.ports.plugins.all();
        let kinds = serving.iter().flat_map(|plugin| &plugin.manifest.reconciles);
        let claimed: BTreeSet<&KindName> = kinds.map(|reconciled| &reconciled.name).collect();
        known.retain(|_, manifest| {
            manifest.reconciles.iter().all(|reconciled| !claimed.contains(&reconciled.name))
        });
        known.extend(serving.iter().map(|plugin| (plugin.name.clone(), plugin.manifest.clone())));
    }

    /// Takes the leases of new watches before it drops those of old ones, so that no watch that both need stops.
    fn renew_leases(
        &self,
        leases: &mut BTreeMap<WatchScope, Box<dyn WatchLease>>,
        needed: BTreeSet<WatchScope>,
    ) {
        for scope in &needed {
            if !leases.contains_key(scope) {
                leases.insert(scope.clone(), self.shared.ports.watches.lease(scope.clone()));
            }
        }
        leases.retain(|scope, _| needed.contains(scope));
    }
}

/// Returns a manifest with only the kinds of a plugin of which no revision is loaded.
fn manifest_of_kinds(name: &PluginName, kinds: Vec<KindName>) -> Manifest {
    let reconciles = kinds.into_iter().map(|name| ReconciledKind { name, crd: None });
    Manifest {
        name: name.to_string(),
        version: String::new(),
        reconciles: reconciles.collect(),
        finalizer: false,
        watches: Vec::new(),
        grants: Grants::default(),
        parameters: None,
        secret_fields: Vec::new(),
    }
}

/// Returns true if an object was paused or resumed. Both are urgent: a running reconcile of a paused object must stop
/// waiting, and the person who resumed an object waits for its reconcile.
fn changes_pause(change: &WatchedStoreChange) -> bool {
    let is_paused = |state: &Option<WatchedStoreObject>| {
        state.as_ref().is_some_and(|state| state.meta().is_paused())
    };
    is_paused(&change.before) != is_paused(&change.after)
}

/// Waits until the running reconciles have finished, at most [`STOP_DEADLINE`].
async fn finish(mut running: JoinSet<()>) {
    let finished = async { while running.join_next().await.is_some() {} };
    if timeout(STOP_DEADLINE, finished).await.is_err() {
        warn!(deadline = ?STOP_DEADLINE, "running reconciles did not finish and are dropped");
        running.shutdown().await;
    }
}

/// A key whose reconcile may begin.
struct ReadyKey {
    taken: DequeuedKey,
    settings: LiveReconcileControl,
    /// Held until the reconcile ends.
    _slot: Option<OwnedSemaphorePermit>,
}

/// Waits for a due key and for a permit. The key is taken last, so that it is the most urgent one at the moment in
/// which its reconcile can begin.
async fn next_due_key(shared: Arc<ControllerSharedState>, stop: CancellationToken) -> ReadyKey {
    let slot = shared.permits.slot().await;
    loop {
        shared.queue.due().await;
        let permit = shared.permits.permit().await;
        // The stop interrupts waits as well.
        let urgent = stop.child_token();
        if let Some(taken) = shared.queue.take(&urgent) {
            let settings = LiveReconcileControl { permit: Arc::new(permit), urgent };
            return ReadyKey { taken, settings, _slot: slot };
        }
    }
}

/// Reconciles one key. The stop does not cancel a reconcile that has begun.
async fn work(shared: Arc<ControllerSharedState>, due: ReadyKey) {
    let ReadyKey { taken, settings, _slot } = due;
    let key = Arc::new(taken.key);
    let _timer = shared.running.begin(&key.plugin, taken.waited);
    let completion = reconcile(&shared, &key, taken.causes, &settings).await;
    shared.queue.done(&key, completion);
}
