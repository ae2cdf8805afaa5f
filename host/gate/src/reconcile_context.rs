//! The state that the calls of one reconcile share: the view of the store, the budget, the recording, the
//! suspended settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tholepin_core::{
    Answer, Call, CallError, ObjectRef, PlanStep, Recording, WriteMode,
    port::{InstanceMembers, Kubernetes, StoreView},
};
use tholepin_schema::{
    action::Action,
    instance::Instance,
    ledger::{Ledger, SuspendedSetting},
    manifest::{KindName, KubernetesGrant},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{Gate, ReconcileScope, grant, instance, ledger, ledger_store::ObjectLedger, ownership};

/// Performs the calls of one reconcile under its grants, guards, budget and write mode, and records them.
pub struct ReconcileContext {
    pub(crate) gate: Arc<Gate>,
    pub(crate) context: ReconcileScope,
    /// The client for requests that the plugin itself makes. They carry the plugin's name as user agent.
    pub(crate) kubernetes: Arc<dyn Kubernetes>,
    progress: Mutex<ContextUsage>,
}

/// The part of a reconcile's state that its calls change.
struct ContextUsage {
    /// The store at the start of the reconcile, plus the writes of the reconcile.
    view: Arc<dyn StoreView>,
    /// Objects that this reconcile wrote or deleted. The view is right about these even if their kind is not
    /// watched.
    written: BTreeSet<ObjectRef>,
    recording: Recording,
    calls: u32,
    writes: u32,
    /// Why the plan has ended; `None` while it goes on.
    ended: Option<String>,
    /// Settings that this reconcile set temporarily (in plan mode: would set), by instance.
    suspended: BTreeMap<Instance, Vec<SuspendedSetting>>,
    /// Objects of other owners that have the name of an object that this reconcile tried to apply.
    clashed: BTreeSet<ObjectRef>,
}

impl ReconcileContext {
    pub(crate) fn new(gate: Arc<Gate>, context: ReconcileScope) -> Self {
        let progress = ContextUsage {
            view: gate.ports.kubernetes.view(),
            written: BTreeSet::new(),
            recording: Recording::default(),
            calls: 0,
            writes: 0,
            ended: None,
            suspended: BTreeMap::new(),
            clashed: BTreeSet::new(),
        };
        let kubernetes = gate.ports.kubernetes.clone().on_behalf_of(&context.key.plugin);
        Self { gate, context, kubernetes, progress: Mutex::new(progress) }
    }

    /// Returns how often the same call was made before in this reconcile.
    pub(crate) fn occurrence(&self, call: &Call) -> u32 {
        self.progress().recording.key(call).occurrence
    }

    /// Records a call with its answer.
    pub(crate) fn record(&self, call: Call, occurrence: u32, answer: Answer, steps: Vec<PlanStep>) {
        self.progress().recording.keep(call, occurrence, answer, steps);
    }

    /// Takes the recording out of the context.
    #[must_use]
    pub fn take_recording(&self) -> Recording {
        mem::take(&mut self.progress().recording)
    }

    /// Records that an object of another owner has a name that this reconcile needs. A change of that object
    /// wakes the reconciled object.
    pub(crate) fn clashes(&self, object: &ObjectRef) {
        self.progress().clashed.insert(object.clone());
        self.gate.clashes.wait(&self.context.key, object);
    }

    /// Records temporary settings, which are restored when the reconcile ends.
    pub(crate) fn suspends(&self, instance: &Instance, new: &[SuspendedSetting]) {
        if !new.is_empty() {
            let mut progress = self.progress();
            let suspended = progress.suspended.entry(instance.clone()).or_default();
            suspended.extend_from_slice(new);
        }
    }

    /// Drops the temporary settings that a lasting one has replaced: they are not restored.
    pub(crate) fn settles(&self, instance: &Instance, action: &Action) {
        if let Some(suspended) = self.progress().suspended.get_mut(instance) {
            ledger::settle(suspended, action);
        }
    }

    pub(crate) fn has_suspended(&self, instance: &Instance) -> bool {
        self.progress().suspended.contains_key(instance)
    }

    /// Takes the objects that [`clashes`](Self::clashes) recorded.
    pub(crate) fn take_clashed(&self) -> BTreeSet<ObjectRef> {
        mem::take(&mut self.progress().clashed)
    }

    pub(crate) fn take_suspended(&self) -> BTreeMap<Instance, Vec<SuspendedSetting>> {
        mem::take(&mut self.progress().suspended)
    }

    /// Makes an object visible to the reads of this reconcile although no store has it: a plan can be about
    /// an object that does not exist yet.
    pub fn presume(&self, object: Value) {
        self.saw(object);
    }

    pub(crate) fn view(&self) -> Arc<dyn StoreView> {
        self.progress().view.clone()
    }

    /// Makes a written object visible to the later reads of this reconcile.
    pub(crate) fn saw(&self, object: Value) {
        let mut progress = self.progress();
        progress.written.extend(ownership::reference(&object));
        progress.view = progress.view.with(object);
    }

    /// Makes a deleted object invisible to the later reads of this reconcile.
    pub(crate) fn lost(&self, object: &ObjectRef) {
        let mut progress = self.progress();
        progress.written.insert(object.clone());
        progress.view = progress.view.without(object);
    }

    /// Returns true if the view can tell the state of this object, including that it does not exist.
    pub(crate) fn knows(&self, object: &ObjectRef) -> bool {
        let progress = self.progress();
        progress.view.covers(&object.kind) || progress.written.contains(object)
    }

    /// Checks, right before each write, that the object is not paused.
    ///
    /// # Errors
    ///
    /// Fails with [`CallError::Interrupted`] if the object was paused since the reconcile began: the plugin
    /// should return.
    pub(crate) fn may_write(&self) -> Result<(), CallError> {
        let is_live = self.context.mode == WriteMode::Live;
        let is_paused = || self.context.is_paused(&*self.gate.ports.kubernetes.view());
        if is_live && is_paused() { Err(CallError::Interrupted) } else { Ok(()) }
    }

    /// Ends the plan: the answers to later calls depend on an effect that a plan does not have.
    pub(crate) fn end_plan(&self, why: String) -> CallError {
        self.progress().ended.get_or_insert_with(|| why.clone());
        CallError::PlanEnds(why)
    }

    /// Returns why the plan has ended, or `None` while it goes on.
    pub(crate) fn end_of_plan(&self) -> Option<String> {
        self.progress().ended.clone()
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
        instance::members(credentials, ports, &self.context, ledger, instance).await
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
        instance::admit(&self.context, instance)?;
        let mut book = self.own_ledger().await?;
        instance::fix_group(&mut book.ledger, instance)?;
        book.instances.insert(instance.group().to_owned(), instance.clone());
        Ok(book)
    }

    /// Locks the ledger of the reconciled object.
    pub(crate) async fn own_ledger(&self) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        let (books, kubernetes) = (&self.gate.books, &*self.gate.ports.kubernetes);
        match self.context.mode {
            WriteMode::Live => books.take(kubernetes, &self.context).await,
            // A plan works on a copy that is dropped afterwards.
            WriteMode::Plan => {
                let book = books.copy(kubernetes, &self.context).await?;
                Ok(Arc::new(AsyncMutex::new(book)).lock_owned().await)
            }
        }
    }

    pub(crate) fn granted(
        &self,
        kind: &KindName,
        verb: &str,
    ) -> Result<&KubernetesGrant, CallError> {
        grant::kubernetes(&self.context.grants, kind, verb)
    }

    /// Ignores poisoning: each change of the state is a single assignment.
    fn progress(&self) -> MutexGuard<'_, ContextUsage> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call against the budget of the reconcile.
    pub(crate) fn spend(&self, call: &Call) -> Result<(), CallError> {
        let ReconcileScope { calls_max, writes_max, .. } = self.context;
        let mut progress = self.progress();
        progress.calls = progress.calls.saturating_add(1);
        progress.writes = progress.writes.saturating_add(u32::from(call.is_write()));
        if progress.calls <= calls_max && progress.writes <= writes_max {
            return Ok(());
        }
        // This reconcile gets no more calls; the next one has a new budget.
        Err(CallError::Throttled(1000))
    }
}
