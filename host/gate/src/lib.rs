//! Checks and performs the calls of plugins.
//!
//! A [`Gate`] opens one [`ReconcileContext`] per reconcile. For each call of the plugin, the context checks
//! in this order: the budget of calls and writes, whether the plan has ended, the grant, the guards, the
//! write mode. It then calls a port (Kubernetes, Redis, a probe, the clock) and records the call with its
//! answer. When the reconcile ends, the context restores the temporary settings that its actions made.
//!
//! Invariants:
//! - No other part of the host calls a port on behalf of a plugin.
//! - A write of a plugin reaches a port only under a grant. An action on Redis also needs the guards of
//!   `guard` to accept it, on a snapshot that was taken for its wave (the actions that are sent together).
//!   The commands of a pipeline must be in the command table of `tholepin_schema`; no guard checks them.
//! - The host's own writes need neither a grant nor a guard: the ledger, the credentials, events, and the
//!   commands that restore settings.
//! - A write to Kubernetes that ends a member, drops its volume or shrinks its workload passes guards too,
//!   whichever call it is.
//! - A Pod, a template and an instance use only Secrets that `secret_use` allows, and a Pod gets a part of its node
//!   or the token of a service account only by a grant (`pod_security`).
//! - In plan mode no write reaches Redis, Kubernetes receives dry runs only, and neither the ledger nor any
//!   other state of the host changes.
//! - Nothing is written for a paused object, from the moment the store shows that it is paused. The only
//!   exception: temporary settings that the reconcile made before are still restored.
//! - Cached reads of one reconcile are consistent: they see one revision of the store plus the writes of this
//!   reconcile.
//! - Grants and the guards of `guard` are pure functions over their arguments. Two checks are not:
//!   `full_sync` counts the full synchronisations under way, and `stop_check` reads Pods and members before it
//!   calls the guard `stop`.
//!
//! The gate does not decide what to do: which action is needed is the plugin's decision. It does not queue,
//! retry or schedule reconciles either.

use std::sync::Arc;

use tholepin_core::port::{Clock, Entropy, Kubernetes, PodPortProber, Redis};
use tokio::sync::watch;

mod absence_tracker;
mod act;
mod allow_start;
mod budget;
mod container_ended;
mod credentials;
mod current_members;
mod dispatch;
mod fact;
mod field;
mod full_sync;
mod grant;
mod guard;
mod instance;
mod kubernetes;
mod ledger;
mod ledger_document;
mod ledger_store;
mod left_to_people;
mod liveness_evidence;
mod name_conflict;
mod object_scope;
mod ownership;
mod plan_steps;
mod pod_security;
mod precondition;
mod probe;
mod reconcile_context;
mod reconcile_scope;
mod redis;
mod repair;
mod restore_settings;
mod secret_use;
mod stop_check;
mod stop_effect;
mod wait;
mod wake;

pub use reconcile_context::ReconcileContext;
pub use reconcile_scope::ReconcileScope;

/// The ports through which the gate performs calls.
#[derive(Clone)]
pub struct GatePorts {
    /// Kubernetes.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// Redis.
    pub redis: Arc<dyn Redis>,
    /// Ports of Pods other than Redis.
    pub prober: Arc<dyn PodPortProber>,
    /// The host's wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

/// Opens a [`ReconcileContext`] for each reconcile, and keeps what outlives one: ledgers, passwords, wake
/// subscriptions.
pub struct Gate {
    ports: GatePorts,
    ledgers: ledger_store::LedgerStore,
    credentials: credentials::CredentialsStore,
    subscriptions: wake::WakeSubscriptions,
    name_conflicts: name_conflict::NameConflictWaiters,
    full_syncs: full_sync::FullSyncLimiter,
    /// Counts the changes of the store. Calls of `runtime/wait` wake up when it changes.
    store_changes: watch::Sender<u64>,
}

impl Gate {
    /// Creates a gate in front of these ports.
    #[must_use]
    pub fn new(ports: GatePorts) -> Arc<Self> {
        let (ledgers, subscriptions) =
            (ledger_store::LedgerStore::default(), wake::WakeSubscriptions::default());
        let name_conflicts = name_conflict::NameConflictWaiters::default();
        let credentials = credentials::CredentialsStore::default();
        let full_syncs = full_sync::FullSyncLimiter::default();
        let store_changes = watch::Sender::new(0);
        Arc::new(Self {
            ports,
            ledgers,
            credentials,
            subscriptions,
            name_conflicts,
            full_syncs,
            store_changes,
        })
    }

    /// Opens the context of one reconcile. Its cached reads see the store as it is now.
    #[must_use]
    pub fn open(self: &Arc<Self>, scope: ReconcileScope) -> Arc<ReconcileContext> {
        Arc::new(ReconcileContext::new(self.clone(), scope))
    }
}
