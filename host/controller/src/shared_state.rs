//! What the passes and the loops of a controller share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tholepin_core::{
    ObjectKey, PluginName,
    port::{Clock, Kubernetes, Redis, StatusWriter, WatchSource},
};
use tholepin_schema::manifest::KindName;

use crate::{
    history::ReconcileHistory,
    liveness::Liveness,
    mapper::{self, EventRoutes},
    metrics::RunningReconciles,
    object_state::ObjectStates,
    permit::ComputePermits,
    plugins::{ActivePlugins, ContextFactory, WakeSubscriber},
    queue::SharedQueue,
    strikes::StrikeTracker,
};

/// What the controller works with.
pub struct ControllerPorts {
    /// The store and the writes.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// The watches that feed the store.
    pub watches: Arc<dyn WatchSource>,
    /// The host's own marks on objects.
    pub marks: Arc<dyn StatusWriter>,
    /// Told when a member's container has ended.
    pub redis: Arc<dyn Redis>,
    /// The plugins that serve.
    pub plugins: Arc<dyn ActivePlugins>,
    /// Opens passes of the gate.
    pub passes: Arc<dyn ContextFactory>,
    /// Arms wakes.
    pub wakes: Arc<dyn WakeSubscriber>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// How the controller works.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSettings {
    /// How many passes compute at once.
    pub concurrency: usize,
    /// How many passes are under way at once, those included that wait for the host; at least
    /// `concurrency`.
    pub in_flight: usize,
    /// When a healthy object is looked at again.
    pub resync: Duration,
}

/// What passes and loops share.
pub(crate) struct SharedState {
    pub(crate) parts: ControllerPorts,
    pub(crate) settings: ControllerSettings,
    pub(crate) notes: ObjectStates,
    pub(crate) history: ReconcileHistory,
    pub(crate) queue: SharedQueue,
    pub(crate) permits: ComputePermits,
    pub(crate) under_way: RunningReconciles,
    pub(crate) pulse: Liveness,
    strikes: Mutex<StrikeTracker>,
    routes: Mutex<Arc<EventRoutes>>,
}

impl SharedState {
    pub(crate) fn new(parts: ControllerPorts, settings: ControllerSettings) -> Self {
        Self {
            parts,
            settings,
            notes: ObjectStates::default(),
            history: ReconcileHistory::default(),
            // What fails is looked at no more rarely than what is well.
            queue: SharedQueue::new(settings.resync),
            permits: ComputePermits::new(settings.concurrency, settings.in_flight),
            under_way: RunningReconciles::default(),
            pulse: Liveness::default(),
            strikes: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// Looks at the strikes or counts one.
    pub(crate) fn strikes<T>(&self, look: impl FnOnce(&mut StrikeTracker) -> T) -> T {
        look(&mut self.strikes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the object is paused, as the store says now: asked right before the host's own writes.
    pub(crate) fn is_paused(&self, key: &ObjectKey) -> bool {
        let meta = self.parts.kubernetes.view().meta(&mapper::reference_of(key));
        meta.is_some_and(|meta| meta.is_paused())
    }

    pub(crate) fn routes(&self) -> Arc<EventRoutes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn followed(&self) -> Vec<(PluginName, KindName)> {
        self.routes().reconciled()
    }

    pub(crate) fn set_routes(&self, routes: EventRoutes) {
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }
}
