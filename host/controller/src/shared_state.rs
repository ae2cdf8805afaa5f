//! The state that the reconciles and the loops of a controller share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tholepin_core::{
    PluginName, ReconcileKey,
    port::{Clock, HostFieldsWriter, Kubernetes, Redis, WatchSource},
};
use tholepin_schema::manifest::KindName;

use crate::{
    history::ReconcileHistory,
    liveness::ControllerLoopLiveness,
    mapper::{self, ReconcileMapper},
    metrics::RunningReconciles,
    object_state::ControllerObjectStates,
    permit::ReconcilePermits,
    plugins::{ActivePlugins, ContextFactory, WakeRegistrar},
    queue::SharedQueue,
    strikes::StrikeTracker,
};

/// The ports through which the controller works.
pub struct ControllerPorts {
    /// The store and the writes.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// The watches that feed the store.
    pub watches: Arc<dyn WatchSource>,
    /// Writes the host's own conditions, finalizers and accepted specs, and no status of a plugin.
    pub host_fields: Arc<dyn HostFieldsWriter>,
    /// Notified when the container of a member has ended.
    pub redis: Arc<dyn Redis>,
    /// The active plugins.
    pub plugins: Arc<dyn ActivePlugins>,
    /// Opens contexts of the gate.
    pub contexts: Arc<dyn ContextFactory>,
    /// Subscribes wakes.
    pub wakes: Arc<dyn WakeRegistrar>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// The limits and intervals of a controller.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSettings {
    /// How many reconciles compute concurrently.
    pub concurrency: usize,
    /// How many reconciles run concurrently, those included that wait for the host; at least `concurrency`.
    pub in_flight: usize,
    /// After how long a healthy object is reconciled again.
    pub resync: Duration,
}

/// The shared state.
pub(crate) struct ControllerSharedState {
    pub(crate) ports: ControllerPorts,
    pub(crate) settings: ControllerSettings,
    pub(crate) object_states: ControllerObjectStates,
    pub(crate) history: ReconcileHistory,
    pub(crate) queue: SharedQueue,
    pub(crate) permits: ReconcilePermits,
    pub(crate) running: RunningReconciles,
    pub(crate) liveness: ControllerLoopLiveness,
    strikes: Mutex<StrikeTracker>,
    routes: Mutex<Arc<ReconcileMapper>>,
}

impl ControllerSharedState {
    pub(crate) fn new(ports: ControllerPorts, settings: ControllerSettings) -> Self {
        Self {
            ports,
            settings,
            object_states: ControllerObjectStates::default(),
            history: ReconcileHistory::default(),
            // A failing object is reconciled no less often than a healthy one.
            queue: SharedQueue::new(settings.resync),
            permits: ReconcilePermits::new(settings.concurrency, settings.in_flight),
            running: RunningReconciles::default(),
            liveness: ControllerLoopLiveness::default(),
            strikes: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// Reads or changes the strikes.
    pub(crate) fn strikes<T>(&self, access: impl FnOnce(&mut StrikeTracker) -> T) -> T {
        access(&mut self.strikes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns true if the object is paused in the store now. Checked right before each write of the host.
    pub(crate) fn is_paused(&self, key: &ReconcileKey) -> bool {
        let meta = self.ports.kubernetes.view().meta(&mapper::reference_of(key));
        meta.is_some_and(|meta| meta.is_paused())
    }

    pub(crate) fn routes(&self) -> Arc<ReconcileMapper> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn followed(&self) -> Vec<(PluginName, KindName)> {
        self.routes().reconciled()
    }

    pub(crate) fn set_routes(&self, routes: ReconcileMapper) {
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }
}
