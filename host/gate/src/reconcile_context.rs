//! What the calls of one pass share: its view of the store, its budget, its recording, its ledger.

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

/// One pass through the gate: performs the calls of one guest call under its grants, guards, budget and mode,
/// and records them.
pub struct ReconcileContext {
    pub(crate) gate: Arc<Gate>,
    pub(crate) context: ReconcileScope,
    /// For what the plugin itself asks: its name is on these requests.
    pub(crate) kubernetes: Arc<dyn Kubernetes>,
    progress: Mutex<ContextUsage>,
}

/// What changes while a pass goes on.
struct ContextUsage {
    /// The store at the pass' start, plus the pass' own writes.
    view: Arc<dyn StoreView>,
    /// What this pass wrote or deleted: of these the view knows best, also of kinds that nobody watches.
    written: BTreeSet<ObjectRef>,
    recording: Recording,
    calls: u32,
    writes: u32,
    /// Why the plan has ended, if it has.
    ended: Option<String>,
    /// What this pass suspended, or would, by instance.
    suspended: BTreeMap<Instance, Vec<SuspendedSetting>>,
    /// Objects of somebody else that had the name of one that this pass wanted.
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

    /// Counts a call that begins: how often the same was asked before.
    pub(crate) fn occurrence(&self, call: &Call) -> u32 {
        self.progress().recording.key(call).occurrence
    }

    /// Records a call that was answered.
    pub(crate) fn record(&self, call: Call, occurrence: u32, answer: Answer, steps: Vec<PlanStep>) {
        self.progress().recording.keep(call, occurrence, answer, steps);
    }

    /// Takes what was asked and answered so far out of the pass.
    #[must_use]
    pub fn take_recording(&self) -> Recording {
        mem::take(&mut self.progress().recording)
    }

    /// Notes that somebody else's object has a name that this pass wants: its change wakes the object
    /// reconciled.
    pub(crate) fn clashes(&self, object: &ObjectRef) {
        self.progress().clashed.insert(object.clone());
        self.gate.clashes.wait(&self.context.key, object);
    }

    /// Notes what is put back when the pass ends.
    pub(crate) fn suspends(&self, instance: &Instance, new: &[SuspendedSetting]) {
        if !new.is_empty() {
            let mut progress = self.progress();
            let suspended = progress.suspended.entry(instance.clone()).or_default();
            suspended.extend_from_slice(new);
        }
    }

    /// Notes that a lasting setting took the place of a temporary one.
    pub(crate) fn settles(&self, instance: &Instance, action: &Action) {
        if let Some(suspended) = self.progress().suspended.get_mut(instance) {
            ledger::settle(suspended, action);
        }
    }

    pub(crate) fn has_suspended(&self, instance: &Instance) -> bool {
        self.progress().suspended.contains_key(instance)
    }

    /// Takes the objects that [`clashes`](Self::clashes) noted.
    pub(crate) fn take_clashed(&self) -> BTreeSet<ObjectRef> {
        mem::take(&mut self.progress().clashed)
    }

    pub(crate) fn take_suspended(&self) -> BTreeMap<Instance, Vec<SuspendedSetting>> {
        mem::take(&mut self.progress().suspended)
    }

    /// Makes an object that is in no store visible to the reads of this pass: a plan can be about one
    /// that does not exist yet.
    pub fn presume(&self, object: Value) {
        self.saw(object);
    }

    pub(crate) fn view(&self) -> Arc<dyn StoreView> {
        self.progress().view.clone()
    }

    /// Makes a written object visible to the reads that follow in this pass.
    pub(crate) fn saw(&self, object: Value) {
        let mut progress = self.progress();
        progress.written.extend(ownership::reference(&object));
        progress.view = progress.view.with(object);
    }

    /// Makes a deleted object invisible to the reads that follow in this pass.
    pub(crate) fn lost(&self, object: &ObjectRef) {
        let mut progress = self.progress();
        progress.written.insert(object.clone());
        progress.view = progress.view.without(object);
    }

    /// Whether the pass' view tells how an object is, or that there is none.
    pub(crate) fn knows(&self, object: &ObjectRef) -> bool {
        let progress = self.progress();
        progress.view.covers(&object.kind) || progress.written.contains(object)
    }

    /// Asked right before each write.
    ///
    /// # Errors
    ///
    /// Fails if the object has been paused meanwhile: then the pass should end.
    pub(crate) fn may_write(&self) -> Result<(), CallError> {
        let is_live = self.context.mode == WriteMode::Live;
        let is_paused = || self.context.is_paused(&*self.gate.ports.kubernetes.view());
        if is_live && is_paused() { Err(CallError::Interrupted) } else { Ok(()) }
    }

    /// Ends a plan: what comes after cannot be known.
    pub(crate) fn end_plan(&self, why: String) -> CallError {
        self.progress().ended.get_or_insert_with(|| why.clone());
        CallError::PlanEnds(why)
    }

    /// Why the plan has ended, if it has.
    pub(crate) fn end_of_plan(&self) -> Option<String> {
        self.progress().ended.clone()
    }

    /// The members of an instance that the plugin names, as the store and the ledger have them now.
    pub(crate) async fn members(&self, instance: &Instance) -> Result<InstanceMembers, CallError> {
        let ledger = self.ledger_copy(instance).await?;
        self.members_by(&ledger, instance).await
    }

    /// The same, for those who have the ledger already.
    pub(crate) async fn members_by(
        &self,
        ledger: &Ledger,
        instance: &Instance,
    ) -> Result<InstanceMembers, CallError> {
        let Gate { ports, credentials, .. } = &*self.gate;
        instance::members(credentials, ports, &self.context, ledger, instance).await
    }

    /// A copy of the ledger of an instance that the plugin names.
    pub(crate) async fn ledger_copy(&self, instance: &Instance) -> Result<Ledger, CallError> {
        Ok(self.ledger(instance).await?.ledger.clone())
    }

    /// Takes the ledger of an instance that the plugin names, to act on it.
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

    /// Takes the ledger of the object reconciled.
    pub(crate) async fn own_ledger(&self) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        let (books, kubernetes) = (&self.gate.books, &*self.gate.ports.kubernetes);
        match self.context.mode {
            WriteMode::Live => books.take(kubernetes, &self.context).await,
            // Nothing is kept of a plan.
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

    /// A poisoned lock is taken as it is: each change of the progress is a single assignment.
    fn progress(&self) -> MutexGuard<'_, ContextUsage> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call against the pass' budget.
    pub(crate) fn spend(&self, call: &Call) -> Result<(), CallError> {
        let ReconcileScope { calls_max, writes_max, .. } = self.context;
        let mut progress = self.progress();
        progress.calls = progress.calls.saturating_add(1);
        progress.writes = progress.writes.saturating_add(u32::from(call.is_write()));
        if progress.calls <= calls_max && progress.writes <= writes_max {
            return Ok(());
        }
        // The pass cannot get more: what helps is the next one.
        Err(CallError::Throttled(1000))
    }
}
