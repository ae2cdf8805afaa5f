//! Performs a list of actions in waves. The guards check each wave on a snapshot that is taken for it.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use tholepin_core::{
    CallError, EventType, ObjectRef, PlanStep, ReadMode, WriteMode,
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
    allow_start,
    fact::{self, ObservedObjects},
    grant,
    guard::{self, GuardInput, GuardRefusal, LossClass},
    instance, kubernetes,
    ledger::{self, repairs},
    ledger_store::ObjectLedger,
    liveness_evidence::{self, LivenessEvidence},
    plan_steps,
    reconcile_context::ReconcileContext,
    repair, restore_settings,
};

/// Performs the actions and returns one result for each, in the order of the list.
///
/// # Errors
///
/// Fails before anything is sent if a verb is not granted, if the actions' `after` fields allow no order, if
/// two actions contradict each other, or if the instance cannot be resolved. Fails between waves, or after
/// the last one, if the ledger cannot be written or the object is paused. A refusal or failure of a single
/// action is in its result.
pub(crate) async fn perform(
    context: &ReconcileContext,
    instance: &Instance,
    actions: &[Action],
    steps: &mut Vec<PlanStep>,
) -> Result<Vec<ActionResult>, CallError> {
    for action in actions {
        grant::redis_verb(&context.scope.grants, action.verb.name())?;
        admit_facts(context, &action.presume.facts)?;
    }
    let waves = action::waves(actions).map_err(|error| CallError::Invalid(error.to_string()))?;
    guard::check_list(actions)?;
    let mut object_ledger = context.ledger(instance).await?;
    let members = context.members_by(&object_ledger.ledger, instance).await?;
    instance::some(&context.scope, instance, &members)?;
    if context.scope.mode == WriteMode::Live {
        steps.extend(
            restore_settings::restore_left_behind(context, instance, &members, &mut object_ledger)
                .await,
        );
    }
    let mut results =
        ActionWaveExecutor::new(context, instance, actions, &mut object_ledger).run(waves).await?;
    let mut action_results = Vec::with_capacity(actions.len());
    for (index, action) in actions.iter().enumerate() {
        let missing = || without_commands(ActionOutcome::Skipped { after: String::new() });
        let PerformedAction { outcome, commands } = results.remove(&index).unwrap_or_else(missing);
        steps.extend(plan_steps::acted(action, &outcome, commands));
        action_results.push(ActionResult { id: action.id.clone(), outcome });
    }
    Ok(action_results)
}

/// Returns true if the cluster itself votes about the action.
const fn is_voted_for(action: &Action) -> bool {
    matches!(action.verb, Verb::Failover { mode: FailoverMode::Force, .. })
}

const fn without_commands(outcome: ActionOutcome) -> PerformedAction {
    PerformedAction { outcome, commands: Vec::new() }
}

/// Checks that the facts in an action's preconditions may be read.
fn admit_facts(context: &ReconcileContext, facts: &[Fact]) -> Result<(), CallError> {
    fact::check_count(facts)?;
    for fact in facts {
        if fact.subject().instance().is_some() {
            let text = format!(
                "the precondition that {fact} names an instance; a precondition is about the instance that is \
                 acted on: leave `instance` out"
            );
            return Err(CallError::Invalid(text));
        }
        if let Some(object) = fact::object(fact) {
            context.granted(&object.kind, "get")?;
        }
    }
    Ok(())
}

/// A list of actions that is being performed.
struct ActionWaveExecutor<'a> {
    context: &'a ReconcileContext,
    instance: &'a Instance,
    actions: &'a [Action],
    object_ledger: &'a mut ObjectLedger,
    /// The actions performed or refused so far, by index in the list.
    results: BTreeMap<usize, PerformedAction>,
}

impl<'a> ActionWaveExecutor<'a> {
    const fn new(
        context: &'a ReconcileContext,
        instance: &'a Instance,
        actions: &'a [Action],
        object_ledger: &'a mut ObjectLedger,
    ) -> Self {
        Self { context, instance, actions, object_ledger, results: BTreeMap::new() }
    }

    /// Performs one wave after the other and returns the outcome of each action.
    async fn run(
        mut self,
        waves: Vec<Vec<usize>>,
    ) -> Result<BTreeMap<usize, PerformedAction>, CallError> {
        for wave in waves {
            self.wave(&wave).await?;
        }
        let kubernetes = &*self.context.gate.ports.kubernetes;
        self.object_ledger.save_or_later(kubernetes, &self.context.scope).await?;
        Ok(self.results)
    }

    async fn wave(&mut self, wave: &[usize]) -> Result<(), CallError> {
        let ports = &self.context.gate.ports;
        let members = self.context.members_by(&self.object_ledger.ledger, self.instance).await?;
        let snapshot = ports.redis.observe(&members, &self.instance.settings).await;
        let now_ms = ports.clock.now_ms();
        self.object_ledger.record(&snapshot, now_ms);
        self.context.gate.full_syncs.update(&members.instance, &snapshot, now_ms);
        let evidence = self.evidence(&snapshot, wave).await;
        let objects = self.objects(wave).await;
        let approved = liveness_evidence::approved(self.context, &self.object_ledger.ledger);
        let policy = self.context.scope.policy();
        let ledger = &self.object_ledger.ledger;
        let LivenessEvidence { deaths, unproven } = &evidence;
        let (snapshot, objects, approved) = (&snapshot, &objects, &approved);
        let input =
            GuardInput { snapshot, ledger, policy, deaths, unproven, approved, objects, now_ms };
        let (mut to_send, mut gives_up) = (Vec::new(), BTreeMap::new());
        for index in wave.iter().copied() {
            let Some(action) = self.actions.get(index) else { continue };
            let outcome = match self.missing_dependency(action) {
                Some(after) => ActionOutcome::Skipped { after },
                None => match (self.check(action, &input, &members), self.planned_only(action)) {
                    (Ok(()), _) => {
                        if guard::class(action, &input) == LossClass::DataLoss {
                            gives_up.insert(index, guard::given_up_by(action, &input));
                        }
                        to_send.push((index, action.clone()));
                        continue;
                    }
                    // The guard may require the effect of an action that a plan did not send.
                    (Err(_), Some(after)) => ActionOutcome::Skipped { after },
                    (Err(refusal), None) => refusal.into(),
                },
            };
            self.results.insert(index, without_commands(outcome));
        }
        self.send(&members, snapshot, to_send).await?;
        for (index, nodes) in gives_up {
            self.announce_loss(index, &nodes).await;
        }
        Ok(())
    }

    /// Publishes an event on the object that names the data that a performed action has given up.
    async fn announce_loss(&self, index: usize, nodes: &[NodeId]) {
        let (Some(action), Some(result)) = (self.actions.get(index), self.results.get(&index))
        else {
            return;
        };
        let scope = &self.context.scope;
        if scope.mode == WriteMode::Plan || !result.outcome.is_done() {
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
            regarding: scope.reference(),
            regarding_uid: scope.uid().to_owned(),
            event_type: EventType::Warning,
            reason: "DataLost".to_owned(),
            message: format!("`{}`{on} gave up {what}", action.verb.name()),
        };
        // A lost event does not change the outcome.
        if let Err(error) = self.context.gate.ports.kubernetes.publish(request).await {
            warn!(%error, "the event was not published");
        }
    }

    /// Checks whether an action may be sent: by the guards, by the grant to lose data, by the budget of repairs,
    /// and by the full synchronisations under way. A plan does not count as a running full synchronisation.
    fn check(
        &self,
        action: &Action,
        input: &GuardInput<'_>,
        members: &InstanceMembers,
    ) -> Result<(), GuardRefusal> {
        guard::check(action, input)?;
        if guard::class_without_approval(action, input) == LossClass::DataLoss {
            grant::lose_data(&self.context.scope.grants)?;
        }
        let GuardInput { snapshot, ledger, now_ms, .. } = input;
        if let Some(key) = repair::repair_key(action, snapshot) {
            repair::check(ledger, &key, action, *now_ms)?;
        }
        if self.context.scope.mode == WriteMode::Plan {
            return Ok(());
        }
        self.context.gate.full_syncs.begin(&members.instance, action, snapshot, *now_ms)
    }

    /// Writes to the ledger what later guards need, then sends the actions that the guards accepted. A plan
    /// decides by the same code what would be sent.
    async fn send(
        &mut self,
        members: &InstanceMembers,
        snapshot: &Snapshot,
        to_send: Vec<(usize, Action)>,
    ) -> Result<(), CallError> {
        let now_ms = self.context.gate.ports.clock.now_ms();
        let (indexes, list): (Vec<_>, Vec<_>) = to_send.into_iter().unzip();
        if list.is_empty() {
            return Ok(());
        }
        for action in &list {
            ledger::record_failover_try(&mut self.object_ledger.ledger, action, now_ms);
            let new = ledger::suspend(&mut self.object_ledger.ledger, action, snapshot, now_ms);
            self.context.add_suspended(self.instance, &new);
        }
        let kubernetes = &*self.context.gate.ports.kubernetes;
        // The cluster votes about a forced failover, so a host that does not know of it cannot do harm, and
        // clients must not wait for the API server. All other actions wait until the ledger is written.
        if list.iter().all(is_voted_for) {
            self.object_ledger.save_or_later(kubernetes, &self.context.scope).await?;
        } else {
            self.object_ledger.save(kubernetes, &self.context.scope).await?;
        }
        self.context.may_write()?;
        let results = self.perform(members, snapshot, &list).await;
        for (action, result) in list.iter().zip(&results) {
            if let Some(key) = repair::repair_key(action, snapshot) {
                repairs::record_repair_try(&mut self.object_ledger.ledger, &key, result, now_ms);
            }
            if let (Verb::Replicate { pod, .. }, false) = (&action.verb, result.outcome.is_done()) {
                self.context.gate.full_syncs.release(&members.instance, pod);
            }
        }
        let done = list.iter().zip(&results).filter(|(_, result)| result.outcome.is_done());
        for (action, _) in done {
            if let Verb::Forget { node } = &action.verb {
                ledger::record_forgotten(&mut self.object_ledger.ledger, *node, now_ms);
            }
            ledger::drop_replaced(&mut self.object_ledger.ledger.suspensions, action);
            self.context.settle_suspended(self.instance, action);
        }
        self.results.extend(indexes.into_iter().zip(results));
        Ok(())
    }

    /// Performs the accepted actions: `allow-start` on the Pod, all others on Redis.
    async fn perform(
        &self,
        members: &InstanceMembers,
        snapshot: &Snapshot,
        list: &[Action],
    ) -> Vec<PerformedAction> {
        let port = &self.context.gate.ports.redis;
        let to_redis: Vec<Action> =
            list.iter().filter(|action| !allow_start::is_allow_start(action)).cloned().collect();
        let results = match self.context.scope.mode {
            WriteMode::Live => port.act(members, &to_redis).await,
            WriteMode::Plan => port.decide(members, &to_redis).await,
        };
        let mut results = results.into_iter();
        let mut all = Vec::with_capacity(list.len());
        for action in list {
            let result = if let Verb::AllowStart { pod, node } = &action.verb {
                allow_start::allow(self.context, snapshot, pod, *node).await
            } else {
                let missing = || without_commands(ActionOutcome::Skipped { after: String::new() });
                results.next().unwrap_or_else(missing)
            };
            all.push(result);
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
            let known = &self.object_ledger.ledger.nodes;
            let has_pod = |node: &NodeId| {
                let uid = known.get(node).map(|known| &known.pod_uid);
                snapshot.members.iter().any(|member| Some(&member.pod_uid) == uid)
            };
            let named =
                guard::suspects(&action.verb, snapshot, &self.object_ledger.ledger).into_iter();
            suspects.extend(named.filter(|node| asks_all || !has_pod(node)));
        }
        liveness_evidence::examine(
            self.context,
            self.instance,
            self.object_ledger,
            snapshot,
            suspects,
        )
        .await
    }

    /// Reads the objects that this wave's preconditions name. In a plan the reads include what the reconcile
    /// would have written.
    async fn objects(&self, wave: &[usize]) -> ObservedObjects {
        let read = match self.context.scope.mode {
            WriteMode::Live => ReadMode::Live,
            WriteMode::Plan => ReadMode::Cached,
        };
        let actions = wave.iter().filter_map(|index| self.actions.get(*index));
        let facts = actions.flat_map(|action| &action.presume.facts);
        let names: BTreeSet<ObjectRef> = facts.filter_map(fact::object).collect();
        let read_object = async |name: ObjectRef| {
            let found = kubernetes::look_up(self.context, &name, read).await;
            (name, found.map_err(|error| error.to_string()))
        };
        join_all(names.into_iter().map(read_object)).await.into_iter().collect()
    }

    /// Returns the id of an action that must be done first and was not.
    fn missing_dependency(&self, action: &Action) -> Option<String> {
        let is_done =
            |id: &&String| self.result_of(id).is_some_and(|result| result.outcome.is_done());
        action.after.iter().find(|id| !is_done(id)).cloned()
    }

    /// In a plan, returns the id of an action that must be done first and is planned but not done.
    fn planned_only(&self, action: &Action) -> Option<String> {
        let is_planned =
            |id: &&String| self.result_of(id).is_some_and(|result| !result.commands.is_empty());
        let is_plan = self.context.scope.mode == WriteMode::Plan;
        action.after.iter().find(is_planned).filter(|_| is_plan).cloned()
    }

    fn result_of(&self, id: &str) -> Option<&PerformedAction> {
        let index = self.actions.iter().position(|other| other.id.as_deref() == Some(id))?;
        self.results.get(&index)
    }
}
