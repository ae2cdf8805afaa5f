//! Performs a list of actions in waves. The guards check each wave on a snapshot that is taken for it.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use tholepin_core::{
    CallError, EventType, ObjectRef, PlanStep, ReadMode,
    condition::HOST_FIELD_MANAGER,
    port::{InstanceMembers, PerformedAction, PublishRequest},
};
use tholepin_schema::{
    action::{self, Action, ActionOutcome, ActionResult, FailoverMode, Verb},
    fact::Fact,
    instance::Instance,
    primitives::NodeId,
    snapshot::Snapshot,
};
use tracing::warn;

use crate::{
    fact::{self, ObservedObjects},
    grant,
    guard::{self, GuardInput, LossClass},
    instance, kubernetes,
    ledger::{self, repairs},
    ledger_store::ObjectLedger,
    liveness_evidence::{self, LivenessEvidence},
    plan_steps,
    reconcile_context::ReconcileContext,
    reconcile_scope::WriteMode,
    repair, restore_settings, start,
};

/// Performs the actions and returns one result for each, in the order of the list.
///
/// # Errors
///
/// Fails before anything is sent if a verb is not granted, if the actions' `after` fields allow no order, or
/// if the instance cannot be resolved. A refusal or failure of a single action is in its result.
pub(crate) async fn perform(
    pass: &ReconcileContext,
    instance: &Instance,
    actions: &[Action],
    steps: &mut Vec<PlanStep>,
) -> Result<Vec<ActionResult>, CallError> {
    for action in actions {
        grant::redis_verb(&pass.context.grants, action.verb.name())?;
        admit_facts(pass, &action.presume.facts)?;
    }
    let waves = action::waves(actions).map_err(|error| CallError::Invalid(error.to_string()))?;
    guard::check_list(actions).map_err(|refusal| CallError::Refused(refusal.to_string()))?;
    let mut book = pass.ledger(instance).await?;
    let members = pass.members_by(&book.ledger, instance).await?;
    instance::some(&pass.context, instance, &members)?;
    if pass.context.mode == WriteMode::Live {
        steps.extend(restore_settings::left_behind(pass, instance, &members, &mut book).await);
    }
    let mut deeds = WaveExecutor::new(pass, instance, actions, &mut book).run(waves).await?;
    let mut results = Vec::with_capacity(actions.len());
    for (index, action) in actions.iter().enumerate() {
        let missing = || without_commands(ActionOutcome::Skipped { after: String::new() });
        let PerformedAction { outcome, commands } = deeds.remove(&index).unwrap_or_else(missing);
        steps.extend(plan_steps::acted(action, &outcome, commands));
        results.push(ActionResult { id: action.id.clone(), outcome });
    }
    Ok(results)
}

/// Returns true if the cluster itself votes about the action.
const fn is_voted_for(action: &Action) -> bool {
    matches!(action.verb, Verb::Failover { mode: FailoverMode::Force, .. })
}

const fn without_commands(outcome: ActionOutcome) -> PerformedAction {
    PerformedAction { outcome, commands: Vec::new() }
}

/// Checks that the facts in an action's preconditions may be read.
fn admit_facts(pass: &ReconcileContext, facts: &[Fact]) -> Result<(), CallError> {
    fact::bounded(facts)?;
    for fact in facts {
        if fact.subject().instance().is_some() {
            let text = format!(
                "the precondition that {fact} names an instance; a precondition is about the instance that is \
                 acted on: leave `instance` out"
            );
            return Err(CallError::Invalid(text));
        }
        if let Some(object) = fact::object(fact) {
            pass.granted(&object.kind, "get")?;
        }
    }
    Ok(())
}

/// A list of actions that is being performed.
struct WaveExecutor<'a> {
    pass: &'a ReconcileContext,
    instance: &'a Instance,
    actions: &'a [Action],
    book: &'a mut ObjectLedger,
    /// The actions performed or refused so far, by index in the list.
    deeds: BTreeMap<usize, PerformedAction>,
}

impl<'a> WaveExecutor<'a> {
    const fn new(
        pass: &'a ReconcileContext,
        instance: &'a Instance,
        actions: &'a [Action],
        book: &'a mut ObjectLedger,
    ) -> Self {
        Self { pass, instance, actions, book, deeds: BTreeMap::new() }
    }

    /// Performs one wave after the other and returns the outcome of each action.
    async fn run(
        mut self,
        waves: Vec<Vec<usize>>,
    ) -> Result<BTreeMap<usize, PerformedAction>, CallError> {
        for wave in waves {
            self.wave(&wave).await?;
        }
        let kubernetes = &*self.pass.gate.ports.kubernetes;
        self.book.save_or_later(kubernetes, &self.pass.context).await?;
        Ok(self.deeds)
    }

    async fn wave(&mut self, wave: &[usize]) -> Result<(), CallError> {
        let ports = &self.pass.gate.ports;
        let members = self.pass.members_by(&self.book.ledger, self.instance).await?;
        let snapshot = ports.redis.observe(&members, &self.instance.settings).await;
        let now_ms = ports.clock.now_ms();
        self.book.learn(&snapshot, now_ms);
        self.pass.gate.full_syncs.look(&members.instance, &snapshot, now_ms);
        let evidence = self.evidence(&snapshot, wave).await;
        let objects = self.objects(wave).await;
        let approved = start::approved(self.pass, &self.book.ledger);
        let policy = self.pass.context.policy();
        let ledger = &self.book.ledger;
        let LivenessEvidence { deaths, unproven } = &evidence;
        let (snapshot, objects, approved) = (&snapshot, &objects, &approved);
        let scene =
            GuardInput { snapshot, ledger, policy, deaths, unproven, approved, objects, now_ms };
        let (mut sent, mut gives_up) = (Vec::new(), BTreeMap::new());
        for index in wave.iter().copied() {
            let Some(action) = self.actions.get(index) else { continue };
            let outcome = match self.held_back_by(action) {
                Some(after) => ActionOutcome::Skipped { after },
                None => match (self.judge(action, &scene, &members), self.pretended(action)) {
                    (Ok(()), _) => {
                        if guard::class(action, &scene) == LossClass::DataLoss {
                            gives_up.insert(index, guard::lost_with(action, &scene));
                        }
                        sent.push((index, action.clone()));
                        continue;
                    }
                    // The guard may require the effect of an action that a plan did not send.
                    (Err(_), Some(after)) => ActionOutcome::Skipped { after },
                    (Err(refusal), None) => refusal.into(),
                },
            };
            self.deeds.insert(index, without_commands(outcome));
        }
        self.send(&members, snapshot, sent).await?;
        for (index, nodes) in gives_up {
            self.announce_loss(index, &nodes).await;
        }
        Ok(())
    }

    /// Publishes an event on the object that names the data that a performed action has given up.
    async fn announce_loss(&self, index: usize, nodes: &[NodeId]) {
        let (Some(action), Some(deed)) = (self.actions.get(index), self.deeds.get(&index)) else {
            return;
        };
        let context = &self.pass.context;
        if context.mode == WriteMode::Plan || !deed.outcome.is_done() {
            return;
        }
        let names: Vec<String> = nodes.iter().map(NodeId::short).collect();
        let what = match names.as_slice() {
            [] => "data".to_owned(),
            names => format!("the data that only {} had", names.join(", ")),
        };
        let on = action.verb.pod().map(|pod| format!(" on `{pod}`")).unwrap_or_default();
        let request = PublishRequest {
            reporter: HOST_FIELD_MANAGER.to_owned(),
            regarding: context.reference(),
            regarding_uid: context.uid().to_owned(),
            event_type: EventType::Warning,
            reason: "DataLost".to_owned(),
            message: format!("`{}`{on} gave up {what}", action.verb.name()),
        };
        // A lost event does not change the outcome.
        if let Err(error) = self.pass.gate.ports.kubernetes.publish(request).await {
            warn!(%error, "the event was not published");
        }
    }

    /// Checks whether an action may be sent: by the guards, by the budget of repairs, and by the full
    /// synchronisations under way. A plan does not occupy a place of a full synchronisation.
    fn judge(
        &self,
        action: &Action,
        scene: &GuardInput<'_>,
        members: &InstanceMembers,
    ) -> Result<(), guard::GuardRefusal> {
        guard::judge(action, scene)?;
        let GuardInput { snapshot, ledger, now_ms, .. } = scene;
        if let Some(symptom) = repair::symptom(action, snapshot) {
            repair::check(ledger, &symptom, action, *now_ms)?;
        }
        if self.pass.context.mode == WriteMode::Plan {
            return Ok(());
        }
        self.pass.gate.full_syncs.begin(&members.instance, action, snapshot, *now_ms)
    }

    /// Writes to the ledger what later guards need, then sends the actions that the guards accepted. A plan
    /// decides by the same code what would be sent.
    async fn send(
        &mut self,
        members: &InstanceMembers,
        snapshot: &Snapshot,
        sent: Vec<(usize, Action)>,
    ) -> Result<(), CallError> {
        let now_ms = self.pass.gate.ports.clock.now_ms();
        let (indexes, list): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        if list.is_empty() {
            return Ok(());
        }
        for action in &list {
            ledger::tried(&mut self.book.ledger, action, now_ms);
            let new = ledger::suspend(&mut self.book.ledger, action, snapshot, now_ms);
            self.pass.suspends(self.instance, &new);
        }
        let kubernetes = &*self.pass.gate.ports.kubernetes;
        // The cluster votes about a forced failover, so a host that does not know of it cannot do harm, and
        // clients must not wait for the API server. All other actions wait until the ledger is written.
        if list.iter().all(is_voted_for) {
            self.book.save_or_later(kubernetes, &self.pass.context).await?;
        } else {
            self.book.save(kubernetes, &self.pass.context).await?;
        }
        self.pass.may_write()?;
        let deeds = self.perform(members, snapshot, &list).await;
        for (action, deed) in list.iter().zip(&deeds) {
            if let Some(symptom) = repair::symptom(action, snapshot) {
                repairs::tried(&mut self.book.ledger, &symptom, deed, now_ms);
            }
            if let (Verb::Replicate { pod, .. }, false) = (&action.verb, deed.outcome.is_done()) {
                self.pass.gate.full_syncs.not_begun(&members.instance, pod);
            }
        }
        let done = list.iter().zip(&deeds).filter(|(_, deed)| deed.outcome.is_done());
        for (action, _) in done {
            if let Verb::Forget { node } = &action.verb {
                ledger::forgot(&mut self.book.ledger, *node, now_ms);
            }
            ledger::settle(&mut self.book.ledger.suspensions, action);
            self.pass.settles(self.instance, action);
        }
        self.deeds.extend(indexes.into_iter().zip(deeds));
        Ok(())
    }

    /// Performs the accepted actions: `allow-start` on the Pod, all others on Redis.
    async fn perform(
        &self,
        members: &InstanceMembers,
        snapshot: &Snapshot,
        list: &[Action],
    ) -> Vec<PerformedAction> {
        let port = &self.pass.gate.ports.redis;
        let to_redis: Vec<Action> =
            list.iter().filter(|action| !start::is_start(action)).cloned().collect();
        let deeds = match self.pass.context.mode {
            WriteMode::Live => port.act(members, &to_redis).await,
            WriteMode::Plan => port.decide(members, &to_redis).await,
        };
        let mut deeds = deeds.into_iter();
        let mut all = Vec::with_capacity(list.len());
        for action in list {
            let deed = if let Verb::AllowStart { pod, node } = &action.verb {
                start::allow(self.pass, snapshot, pod, *node).await
            } else {
                let missing = || without_commands(ActionOutcome::Skipped { after: String::new() });
                deeds.next().unwrap_or_else(missing)
            };
            all.push(deed);
        }
        all
    }

    /// Collects proofs of death for the nodes that the actions of a wave give up or replace. While the Pod of
    /// a node is a member, its status shows the end of the container; only a takeover needs more than that.
    async fn evidence(&mut self, snapshot: &Snapshot, wave: &[usize]) -> LivenessEvidence {
        let mut suspects = BTreeSet::new();
        for action in wave.iter().filter_map(|index| self.actions.get(*index)) {
            let asks_all =
                matches!(action.verb, Verb::Failover { mode: FailoverMode::Takeover, .. });
            let known = &self.book.ledger.nodes;
            let has_pod = |node: &NodeId| {
                let uid = known.get(node).map(|known| &known.pod_uid);
                snapshot.members.iter().any(|member| Some(&member.pod_uid) == uid)
            };
            let named = guard::suspects(&action.verb, snapshot, &self.book.ledger).into_iter();
            suspects.extend(named.filter(|it| asks_all || !has_pod(it)));
        }
        liveness_evidence::examine(self.pass, self.instance, self.book, snapshot, suspects).await
    }

    /// Reads the objects that this wave's preconditions name. In a plan the reads include what the reconcile
    /// would have written.
    async fn objects(&self, wave: &[usize]) -> ObservedObjects {
        let read = match self.pass.context.mode {
            WriteMode::Live => ReadMode::Live,
            WriteMode::Plan => ReadMode::Cached,
        };
        let actions = wave.iter().filter_map(|index| self.actions.get(*index));
        let facts = actions.flat_map(|action| &action.presume.facts);
        let names: BTreeSet<ObjectRef> = facts.filter_map(fact::object).collect();
        let look = async |name: ObjectRef| {
            let found = kubernetes::look_up(self.pass, &name, read).await;
            (name, found.map_err(|error| error.to_string()))
        };
        join_all(names.into_iter().map(look)).await.into_iter().collect()
    }

    /// Returns the id of an action that must be done first and was not.
    fn held_back_by(&self, action: &Action) -> Option<String> {
        let is_done = |id: &&String| self.performed(id).is_some_and(|deed| deed.outcome.is_done());
        action.after.iter().find(|id| !is_done(id)).cloned()
    }

    /// In a plan, returns the id of an action that must be done first and is planned but not done.
    fn pretended(&self, action: &Action) -> Option<String> {
        let is_planned =
            |id: &&String| self.performed(id).is_some_and(|deed| !deed.commands.is_empty());
        let is_plan = self.pass.context.mode == WriteMode::Plan;
        action.after.iter().find(is_planned).filter(|_| is_plan).cloned()
    }

    fn performed(&self, id: &str) -> Option<&PerformedAction> {
        let index = self.actions.iter().position(|other| other.id.as_deref() == Some(id))?;
        self.deeds.get(&index)
    }
}
