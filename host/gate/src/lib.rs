//! The gate: the one place where a plugin's calls meet the world.
//!
//! A [`ReconcileContext`] performs the calls of one guest call. For each it checks, in this order: the budget,
//! whether a plan has ended, the grant, the guards, the write mode. Then it calls a port, and nothing else
//! does so on a plugin's behalf.
//!
//! Invariants:
//! - Whatever a plugin says, a write reaches a port only under a grant and, on Redis, under the guards
//!   of [`guard`] evaluated on a snapshot taken for that wave.
//! - A write to Kubernetes that ends a member or drops its volume passes the same guards.
//! - In plan mode no write reaches Redis, Kubernetes gets dry runs only, and nothing that the host
//!   remembers changes.
//! - Nothing is written for an object that is paused, from the moment at which the store says so.
//! - Reads of a pass agree with each other: one revision of the store plus the pass' own writes.
//! - Guards and grants are pure functions; the ports are called here and decide nothing.

use std::sync::Arc;

use tholepin_core::port::{Clock, Entropy, Kubernetes, Prober, Redis};
use tokio::sync::watch;

mod absence_tracker;
mod act;
mod container_end;
mod credentials;
mod current_members;
mod dispatch;
mod effect;
mod fact;
mod field;
mod full_sync;
mod grant;
pub mod guard;
mod instance;
mod kubernetes;
pub mod ledger;
mod ledger_store;
mod liveness_evidence;
mod name_conflict;
mod ownership;
mod plan_steps;
mod probe;
mod reconcile_context;
mod reconcile_scope;
mod redis;
mod repair;
mod restore_settings;
mod start;
mod stop;
mod wait;
mod wake;

pub use fact::ObservedObjects;
pub use reconcile_context::ReconcileContext;
pub use reconcile_scope::{ReconcileScope, WriteMode};

/// What the gate performs calls with.
#[derive(Clone)]
pub struct GatePorts {
    /// Kubernetes.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// Redis.
    pub redis: Arc<dyn Redis>,
    /// What else listens in Pods.
    pub prober: Arc<dyn Prober>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

/// Opens passes.
pub struct Gate {
    ports: GatePorts,
    books: ledger_store::LedgerStore,
    credentials: credentials::CredentialsStore,
    armed: wake::WakeSubscriptions,
    clashes: name_conflict::NameConflicts,
    full_syncs: full_sync::FullSyncLimiter,
    /// Counts the changes of the store, for those who wait for one.
    store: watch::Sender<u64>,
}

impl Gate {
    /// A gate in front of these ports.
    #[must_use]
    pub fn new(ports: GatePorts) -> Arc<Self> {
        let (books, armed) =
            (ledger_store::LedgerStore::default(), wake::WakeSubscriptions::default());
        let clashes = name_conflict::NameConflicts::default();
        let credentials = credentials::CredentialsStore::default();
        let full_syncs = full_sync::FullSyncLimiter::default();
        let store = watch::Sender::new(0);
        Arc::new(Self { ports, books, credentials, armed, clashes, full_syncs, store })
    }

    /// Opens a pass: its reads begin at the store as it is now.
    #[must_use]
    pub fn open(self: &Arc<Self>, context: ReconcileScope) -> Arc<ReconcileContext> {
        Arc::new(ReconcileContext::new(self.clone(), context))
    }
}
