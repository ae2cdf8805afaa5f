//! The state that the calls of one reconcile share: the view of the store, the budget, the recording, the
//! suspended settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tholepin_core::{
    Answer, Call, CallError, ObjectRef, PlanStep, RecordedCallKey, Recording, WriteMode,
    port::{InstanceMembers, Kubernetes, WatchedStoreView},
};
use tholepin_schema::{
    action::Action,
    instance::Instance,
    manifest::{KindName, KubernetesGrant},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{
    Gate, ReconcileScope, grant, instance, ledger,
    ledger_document::{Ledger, TemporaryRedisSetting},
    ledger_store::ObjectLedger,
    ownership,
};

/// Performs the calls of one reconcile under its grants, guards, budget and write mode, and records them.
pub struct ReconcileContext {
    pub(crate) gate: Arc<Gate>,
    pub(crate) scope: ReconcileScope,
    /// The client for requests that the plugin itself makes. They carry the plugin's name as user agent.
    pub(crate) kubernetes: Arc<dyn Kubernetes>,
    usage: Mutex<ReconcileContextState>,
}

/// What a reconcile has spent of its budget.
#[derive(Debug, Default)]
pub(crate) struct SpentBudget {
    pub(crate) calls: u32,
    pub(crate) writes: u32,
    pub(crate) bytes: usize,
}

/// The part of a reconcile's state that its calls change.
pub(crate) struct ReconcileContextState {
    /// The store at the start of the reconcile, plus the writes of the reconcile.
    view: Arc<dyn WatchedStoreView>,
    /// Objects that this reconcile wrote or deleted. The view is right about these even if their kind is not
    /// watched.
    written: BTreeSet<ObjectRef>,
    recording: Recording,
    pub(crate) budget: SpentBudget,
    /// Why the plan has ended; `None` while it goes on.
    ended: Option<String>,
    /// Settings that this reconcile set temporarily (in plan mode: would set), by instance.
    suspended: BTreeMap<Instance, Vec<TemporaryRedisSetting>>,
    /// Objects of other owners that have the name of an object that this reconcile tried to apply.
    conflicting: BTreeSet<ObjectRef>,
}

impl ReconcileContext {
    pub(crate) fn new(gate: Arc<Gate>, scope: ReconcileScope) -> Self {
        let usage = ReconcileContextState {
            view: gate.ports.kubernetes.view(),
            written: BTreeSet::new(),
            recording: Recording::default(),
            budget: SpentBudget::default(),
            ended: None,
            suspended: BTreeMap::new(),
            conflicting: BTreeSet::new(),
        };
        let kubernetes = gate.ports.kubernetes.clone().on_behalf_of(&scope.key.plugin);
        Self { gate, scope, kubernetes, usage: Mutex::new(usage) }
    }

    /// Returns the key under which a call is recorded, and counts the call as made.
    pub(crate) fn recording_key(&self, call: &Call) -> RecordedCallKey {
        self.usage().recording.key(call)
    }

    /// Records a call with its answer.
    pub(crate) fn record(
        &self,
        call: Call,
        key: RecordedCallKey,
        answer: Answer,
        steps: Vec<PlanStep>,
    ) {
        self.usage().recording.keep(call, key, answer, steps);
    }

    /// Takes the recording out of the context.
    #[must_use]
    pub fn take_recording(&self) -> Recording {
        mem::take(&mut self.usage().recording)
    }

    /// Records that an object of another owner has a name that this reconcile needs. A change of that object
    /// wakes the reconciled object.
    pub(crate) fn add_name_conflict(&self, object: &ObjectRef) {
        self.usage().conflicting.insert(object.clone());
        self.gate.name_conflicts.wait(&self.scope.key, object);
    }

    /// Records temporary settings, which are restored when the reconcile ends.
    pub(crate) fn add_suspended(&self, instance: &Instance, new: &[TemporaryRedisSetting]) {
        if !new.is_empty() {
            let mut usage = self.usage();
            let suspended = usage.suspended.entry(instance.clone()).or_default();
            suspended.extend_from_slice(new);
        }
    }

    /// Drops the temporary settings that a lasting one has replaced: they are not restored.
    pub(crate) fn settle_suspended(&self, instance: &Instance, action: &Action) {
        if let Some(suspended) = self.usage().suspended.get_mut(instance) {
            ledger::drop_replaced(suspended, action);
        }
    }

    pub(crate) fn has_suspended(&self, instance: &Instance) -> bool {
        self.usage().suspended.contains_key(instance)
    }

    /// Takes the objects that [`add_name_conflict`](Self::add_name_conflict) recorded.
    pub(crate) fn take_conflicting(&self) -> BTreeSet<ObjectRef> {
        mem::take(&mut self.usage().conflicting)
    }

    pub(crate) fn take_suspended(&self) -> BTreeMap<Instance, Vec<TemporaryRedisSetting>> {
        mem::take(&mut self.usage().suspended)
    }

    /// Makes an object visible to the reads of this reconcile although no store has it: a plan can be about
    /// an object that does not exist yet.
    pub fn add_assumed(&self, object: Value) {
        self.add_written(object);
    }

    pub(crate) fn view(&self) -> Arc<dyn WatchedStoreView> {
        self.usage().view.clone()
    }

    /// Makes a written object visible to the later reads of this reconcile.
    pub(crate) fn add_written(&self, object: Value) {
        let mut usage = self.usage();
        usage.written.extend(ownership::reference(&object));
        usage.view = usage.view.with(object);
    }

    /// Makes a deleted object invisible to the later reads of this reconcile.
    pub(crate) fn add_deleted(&self, object: &ObjectRef) {
        let mut usage = self.usage();
        usage.written.insert(object.clone());
        usage.view = usage.view.without(object);
    }

    /// Returns true if the view can tell the state of this object, including that it does not exist.
    pub(crate) fn covers(&self, object: &ObjectRef) -> bool {
        let usage = self.usage();
        usage.view.covers(&object.kind) || usage.written.contains(object)
    }

    /// Checks, right before each write, that the object is not paused.
    ///
    /// # Errors
    ///
    /// Fails with [`CallError::Interrupted`] if the object was paused since the reconcile began: the plugin
    /// should return.
    pub(crate) fn may_write(&self) -> Result<(), CallError> {
        let is_live = self.scope.mode == WriteMode::Live;
        let is_paused = || self.scope.is_paused(&*self.gate.ports.kubernetes.view());
        if is_live && is_paused() { Err(CallError::Interrupted) } else { Ok(()) }
    }

    /// Ends the plan: the answers to later calls depend on an effect that a plan does not have.
    pub(crate) fn end_plan(&self, why: String) -> CallError {
        self.usage().ended.get_or_insert_with(|| why.clone());
        CallError::PlanEnds(why)
    }

    /// Returns why the plan has ended, or `None` while it goes on.
    pub(crate) fn end_of_plan(&self) -> Option<String> {
        self.usage().ended.clone()
    }

    /// Returns the members of an instance that the plugin names, by the current store and ledger.
    pub(crate) async fn members(&self, instance: &Instance) -> Result<InstanceMembers, CallError> {
        let ledger = self.ledger_copy(instance).await?;
        self.members_by(&ledger, instance).await
    }

    /// Returns the same as [`members`](Self::members), for a caller that holds the ledger already.
    pub(crate) async fn members_by(
        &self,
        ledger: &Ledger,
        instance: &Instance,
    ) -> Result<InstanceMembers, CallError> {
        let Gate { ports, credentials, .. } = &*self.gate;
        instance::members(credentials, ports, &self.scope, ledger, instance).await
    }

    /// Returns a copy of the ledger of an instance that the plugin names.
    pub(crate) async fn ledger_copy(&self, instance: &Instance) -> Result<Ledger, CallError> {
        Ok(self.ledger(instance).await?.ledger.clone())
    }

    /// Locks the ledger of an instance that the plugin names, after checking that the plugin may name it.
    pub(crate) async fn ledger(
        &self,
        instance: &Instance,
    ) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        instance::admit(&self.scope, instance)?;
        let mut object_ledger = self.own_ledger().await?;
        instance::fix_group(&mut object_ledger.ledger, instance)?;
        object_ledger.instances.insert(instance.group().to_owned(), instance.clone());
        Ok(object_ledger)
    }

    /// Locks the ledger of the reconciled object.
    pub(crate) async fn own_ledger(&self) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        let (ledgers, kubernetes) = (&self.gate.ledgers, &*self.gate.ports.kubernetes);
        match self.scope.mode {
            WriteMode::Live => ledgers.take(kubernetes, &self.scope).await,
            // A plan works on a copy that is dropped afterwards.
            WriteMode::Plan => {
                let object_ledger = ledgers.copy(kubernetes, &self.scope).await?;
                Ok(Arc::new(AsyncMutex::new(object_ledger)).lock_owned().await)
            }
        }
    }

    pub(crate) fn granted(
        &self,
        kind: &KindName,
        verb: &str,
    ) -> Result<&KubernetesGrant, CallError> {
        grant::kubernetes(&self.scope.grants, kind, verb)
    }

    /// Ignores poisoning: each change of the state is a single assignment.
    pub(crate) fn usage(&self) -> MutexGuard<'_, ReconcileContextState> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
