//! The loop: changes mark keys, passes reconcile them, plugins come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tholepin_core::{
    ObjectKey, PluginName, StoredObject,
    port::{StoreChange, StoreEvent, WatchLease, WatchScope},
};
use tholepin_schema::manifest::{Grants, KindName, Manifest, ReconciledKind, SafetyPaths};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinError, JoinSet, coop::consume_budget},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    ended::ended_containers,
    mapper::{self, EventRoutes},
    metrics::{self, RunningReconciles},
    plugins::PluginEvent,
    queue::{DequeuedKey, QueuePriority, QueueStats, WorkQueue},
    reconcile::{ReconcileSettings, reconcile},
    shared_state::{ControllerPorts, ControllerSettings, SharedState},
};

/// How long calls in flight may take to finish after the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How the objects of a plugin are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginHealth {
    /// How many there are.
    pub objects: usize,
    /// For how many of them the plugin is no longer called.
    pub quarantined: usize,
    /// For how many others the last call failed, or their spec is refused.
    pub failing: usize,
    /// How many are paused, so that it is not called for them.
    pub paused: usize,
}

/// The engine's loop.
pub struct Controller {
    pub(crate) shared: Arc<SharedState>,
}

impl Controller {
    /// A controller that does nothing yet.
    #[must_use]
    pub fn new(parts: ControllerPorts, settings: ControllerSettings) -> Self {
        Self { shared: Arc::new(SharedState::new(parts, settings)) }
    }

    /// Enqueues a key from outside, such as for a wake.
    pub fn enqueue(&self, key: &ObjectKey, priority: QueuePriority, cause: &str) {
        self.shared.queue.add(key, priority, cause);
    }

    /// Works until told to stop, then lets the calls in flight finish.
    ///
    /// `events` tells which plugins changed; those that serve at the start are taken as changed.
    pub async fn run(&self, events: mpsc::Receiver<PluginEvent>, stop: CancellationToken) {
        let mut passes = JoinSet::new();
        let premature = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            // Without one of these the controller would be deaf, and nobody would notice.
            () = self.follow_changes() => Some("the store ended".to_owned()),
            () = self.follow_plugins(events) => Some("the plugin registry ended".to_owned()),
            () = self.report_overdue() => Some("the search for overdue objects ended".to_owned()),
            () = self.shared.pulse.serve() => Some("the pulse ended".to_owned()),
            // A pass that panicked must not go unseen.
            error = self.dispatch(&mut passes, &stop) => Some(format!("a pass ended: {error}")),
        };
        if let Some(reason) = premature {
            error!(reason, "the controller stops before it was told to");
        }
        stop.cancel();
        finish(passes).await;
    }

    /// Begins a pass for every key that becomes due, as long as there is room; ends if one panics.
    async fn dispatch(&self, passes: &mut JoinSet<()>, stop: &CancellationToken) -> JoinError {
        // Kept over turns of the loop, or it would lose its place among those who wait for a permit.
        let mut next = Box::pin(next(self.shared.clone(), stop.clone()));
        loop {
            tokio::select! {
                Some(ended) = passes.join_next() => {
                    if let Err(error) = ended {
                        return error;
                    }
                }
                due = &mut next => {
                    passes.spawn(work(self.shared.clone(), due));
                    next = Box::pin(self::next(self.shared.clone(), stop.clone()));
                }
            }
        }
    }

    async fn follow_changes(&self) {
        let mut changes = self.shared.parts.watches.changes();
        while let Some(event) = changes.next().await {
            match event {
                StoreEvent::Changed(change) => self.changed(&change),
                StoreEvent::Overflowed => self.enqueue_all("overflow"),
                StoreEvent::Resumed => self.shared.queue.hurry(),
            }
            // A long backlog must not keep this task from following the plugins.
            consume_budget().await;
        }
    }

    fn changed(&self, change: &StoreChange) {
        let ended = ended_containers(change);
        for container_id in &ended {
            self.shared.parts.redis.member_ended(container_id);
        }
        let is_urgent = !ended.is_empty() || turns_pause(change);
        let priority = if is_urgent { QueuePriority::Urgent } else { QueuePriority::Event };
        let view = self.shared.parts.kubernetes.view();
        let cause = mapper::cause(change);
        let keys = self.shared.routes().keys(change, &*view);
        metrics::routed(change, keys.len());
        for key in keys {
            debug!(%key, cause, ?priority, "marked");
            self.shared.queue.add(&key, priority, &cause);
        }
    }

    fn enqueue_all(&self, cause: &str) {
        for plugin in self.shared.parts.plugins.all() {
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
        let view = self.shared.parts.kubernetes.view();
        for key in mapper::all(plugin, manifest, &*view) {
            self.shared.queue.add(&key, priority, cause);
        }
    }

    /// Waits until the loop has answered, which may be never: the caller sets the deadline.
    pub async fn answers(&self) {
        self.shared.pulse.ping().await;
    }

    pub(crate) fn queue_stats(&self) -> QueueStats {
        self.shared.queue.inspect(WorkQueue::stats)
    }

    pub(crate) fn under_way(&self) -> &RunningReconciles {
        &self.shared.under_way
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.shared.settings.concurrency
    }

    /// How the objects of a plugin are, as far as this host has called it for them; also of one that serves no
    /// more, as long as nobody else reconciles its kinds.
    #[must_use]
    pub fn health(&self, plugin: &PluginName) -> PluginHealth {
        let view = self.shared.parts.kubernetes.view();
        let kinds = self.shared.followed().into_iter().filter(|(whose, _)| whose == plugin);
        let quarantined = self.quarantined(plugin);
        PluginHealth {
            objects: kinds.map(|(_, kind)| view.references(&kind, "").len()).sum(),
            quarantined,
            failing: self.shared.notes.failing(plugin).saturating_sub(quarantined),
            paused: self.shared.notes.paused_of(plugin),
        }
    }

    /// How many objects of a plugin are quarantined.
    pub(crate) fn quarantined(&self, plugin: &PluginName) -> usize {
        self.shared.strikes(|strikes| strikes.quarantined(plugin))
    }

    /// The plugins that serve.
    pub(crate) fn serving(&self) -> Vec<PluginName> {
        self.shared.parts.plugins.all().iter().map(|plugin| plugin.name.clone()).collect()
    }

    /// Keeps routes and watches equal to what the manifests ask for, and calls the objects of a changed
    /// plugin.
    async fn follow_plugins(&self, mut events: mpsc::Receiver<PluginEvent>) {
        let mut leases: BTreeMap<WatchScope, Box<dyn WatchLease>> = BTreeMap::new();
        let mut known: BTreeMap<PluginName, Arc<Manifest>> = BTreeMap::new();
        let mut changed: Vec<_> =
            self.shared.parts.plugins.all().iter().map(|plugin| plugin.name.clone()).collect();
        loop {
            self.take_manifests(&mut known);
            let routes = EventRoutes::new(known.iter().map(|(name, manifest)| (name, &**manifest)));
            self.renew_leases(&mut leases, routes.scopes());
            self.shared.set_routes(routes);
            for name in changed.drain(..) {
                // The objects of a plugin that serves no more are called once, to be told.
                if let Some(manifest) = known.get(&name) {
                    let serves = self.shared.parts.plugins.active(&name).is_some();
                    // A pass of a revision that nobody follows has nothing to wait for.
                    let priority =
                        if serves { QueuePriority::Resync } else { QueuePriority::Urgent };
                    self.enqueue_all_of(&name, manifest, priority, "revision");
                }
            }
            match events.recv().await {
                Some(PluginEvent::Changed(name)) => changed.push(name),
                Some(PluginEvent::Missing(name, kinds)) => {
                    known.entry(name.clone()).or_insert_with(|| Arc::new(bare(&name, kinds)));
                    changed.push(name);
                }
                None => return,
            }
        }
    }

    /// The manifests that serve, and of the plugins that serve no more those whose kinds nobody took
    /// over: their objects are still told that the plugin is missing.
    fn take_manifests(&self, known: &mut BTreeMap<PluginName, Arc<Manifest>>) {
        let serving = self.shared.parts.plugins.all();
        let kinds = serving.iter().flat_map(|plugin| &plugin.manifest.reconciles);
        let claimed: BTreeSet<&KindName> = kinds.map(|reconciled| &reconciled.name).collect();
        known.retain(|_, manifest| {
            manifest.reconciles.iter().all(|reconciled| !claimed.contains(&reconciled.name))
        });
        known.extend(serving.iter().map(|plugin| (plugin.name.clone(), plugin.manifest.clone())));
    }

    /// New watches are asked for before old ones end, so that one that both need never stops.
    fn renew_leases(
        &self,
        leases: &mut BTreeMap<WatchScope, Box<dyn WatchLease>>,
        wanted: BTreeSet<WatchScope>,
    ) {
        for scope in &wanted {
            if !leases.contains_key(scope) {
                leases.insert(scope.clone(), self.shared.parts.watches.lease(scope.clone()));
            }
        }
        leases.retain(|scope, _| wanted.contains(scope));
    }
}

/// All that is known of a plugin that no revision tells of.
fn bare(name: &PluginName, kinds: Vec<KindName>) -> Manifest {
    let reconciles = kinds.into_iter().map(|name| ReconciledKind { name, crd: None });
    Manifest {
        name: name.to_string(),
        version: String::new(),
        reconciles: reconciles.collect(),
        finalizer: false,
        watches: Vec::new(),
        grants: Grants::default(),
        parameters: None,
        safety: SafetyPaths::default(),
    }
}

/// Whether an object was paused, or is no longer: a pass on its way must stop waiting, or somebody waits
/// for one.
fn turns_pause(change: &StoreChange) -> bool {
    let is_paused =
        |state: &Option<StoredObject>| state.as_ref().is_some_and(|state| state.meta().is_paused());
    is_paused(&change.before) != is_paused(&change.after)
}

/// Lets the calls in flight finish, up to a bound.
async fn finish(mut passes: JoinSet<()>) {
    let finished = async { while passes.join_next().await.is_some() {} };
    if timeout(STOP_DEADLINE, finished).await.is_err() {
        warn!(deadline = ?STOP_DEADLINE, "calls in flight did not finish and are dropped");
        passes.shutdown().await;
    }
}

/// A key whose pass may begin.
struct Due {
    taken: DequeuedKey,
    run: ReconcileSettings,
    /// Held until the pass ends.
    _place: Option<OwnedSemaphorePermit>,
}

/// Waits for a key and for the right to work on it. The key is taken last: the most urgent one of the
/// moment in which the work can begin.
async fn next(shared: Arc<SharedState>, stop: CancellationToken) -> Due {
    let place = shared.permits.place().await;
    loop {
        shared.queue.due().await;
        let permit = shared.permits.permit().await;
        // The stop is urgent, too: a pass that waits ends.
        let urgent = stop.child_token();
        if let Some(taken) = shared.queue.take(&urgent) {
            let run = ReconcileSettings { permit: Arc::new(permit), urgent };
            return Due { taken, run, _place: place };
        }
    }
}

/// Works on one key. A pass that has begun is finished.
async fn work(shared: Arc<SharedState>, due: Due) {
    let Due { taken, run, _place } = due;
    let key = Arc::new(taken.key);
    let _meter = shared.under_way.begin(&key.plugin, taken.waited);
    let done = reconcile(&shared, &key, taken.causes, &run).await;
    shared.queue.done(&key, done);
}
