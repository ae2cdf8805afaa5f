//! Waits within a reconcile until facts hold.
//!
//! All waits and wake subscriptions share the polls of an instance. Objects are read from the store when it
//! changes. A waiting reconcile causes no requests of its own.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use tholepin_core::{
    Answer, CallError, Reply, WriteMode,
    port::{InstanceMembers, RedisPollStream, WatchedStoreView},
};
use tholepin_schema::{
    fact::{Fact, FactCheckOutcome, FactSubject, UnmetAwaitedFact, WAIT_MS_MAX, WaitOutcome},
    instance::{INSTANCES_PER_OBJECT_MAX, Instance},
    snapshot::Snapshot,
};
use tokio::time::{Instant, sleep_until};

use crate::{
    fact::{self, FactSubjectDocuments, ObservedObjects},
    grant, instance, kubernetes,
    ledger_document::Ledger,
    reconcile_context::ReconcileContext,
};

/// The facts that a reconcile waits for, with what was read of the objects and instances that they are about.
struct AwaitedFacts<'a> {
    facts: &'a [Fact],
    observed: BTreeMap<&'a Instance, FactSubjectDocuments>,
    objects: ObservedObjects,
}

/// Waits until all facts hold, or at most `ms` milliseconds.
pub(crate) async fn wait(context: &ReconcileContext, facts: Vec<Value>, ms: u32) -> Answer {
    let facts = facts
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<Fact>, _>>()
        .map_err(|error| CallError::Invalid(format!("`facts`: {error}")))?;
    let instances = admit(context, &facts, ms)?;
    let mut pending =
        AwaitedFacts { facts: &facts, observed: BTreeMap::new(), objects: ObservedObjects::new() };
    match context.scope.mode {
        WriteMode::Plan => read_once(context, &mut pending, &instances).await,
        WriteMode::Live => {
            let urgent = &context.scope.urgent;
            tokio::select! {
                biased;
                () = urgent.cancelled() => Err(CallError::Interrupted),
                outcome = watch(context, &mut pending, &instances, Duration::from_millis(ms.into())) => {
                    document(&outcome?)
                }
            }
        }
    }
}

fn document(outcome: &WaitOutcome) -> Answer {
    let document = serde_json::to_value(outcome);
    document.map(Reply::Document).map_err(|error| CallError::Other(error.to_string()))
}

/// Checks that the reconcile may wait for these facts. Returns the instances that they are about.
fn admit<'a>(
    context: &ReconcileContext,
    facts: &'a [Fact],
    ms: u32,
) -> Result<Vec<&'a Instance>, CallError> {
    fact::check_count(facts)?;
    if facts.is_empty() || ms == 0 || WAIT_MS_MAX < ms {
        let text = format!(
            "a wait needs at least 1 fact and 1 to {WAIT_MS_MAX} ms, not {} and {ms} ms",
            facts.len()
        );
        return Err(CallError::Invalid(text));
    }
    let mut instances: Vec<&Instance> = Vec::new();
    for fact in facts {
        match fact.subject() {
            FactSubject::Member { instance, .. } | FactSubject::View { instance } => {
                let Some(instance) = instance else {
                    let text = format!("the fact that {fact} names no `instance`");
                    return Err(CallError::Invalid(text));
                };
                grant::redis_verb(&context.scope.grants, "observe")?;
                if !instances.contains(&instance) {
                    instances.push(instance);
                }
            }
            FactSubject::Object { .. } => {}
        }
        if let Some(object) = fact::object(fact) {
            // A fact about an object that is not granted, not watched or out of scope is refused immediately.
            kubernetes::in_store(&context.scope, &*context.view(), &object)?;
        }
    }
    if INSTANCES_PER_OBJECT_MAX < instances.len() {
        let text = format!(
            "the facts are about {} instances, {INSTANCES_PER_OBJECT_MAX} are allowed",
            instances.len()
        );
        return Err(CallError::Invalid(text));
    }
    Ok(instances)
}

/// Answers the wait of a plan from one read. A plan does not wait: what does not hold now can only hold after
/// actions that the plan does not perform.
async fn read_once<'a>(
    context: &ReconcileContext,
    pending: &mut AwaitedFacts<'a>,
    instances: &[&'a Instance],
) -> Answer {
    for &instance in instances {
        let members = context.members(instance).await?;
        let snapshot = context.gate.ports.redis.observe(&members, &instance.settings).await;
        let documents = pending.documents(instance, &snapshot);
        pending.observed.insert(instance, documents);
    }
    pending.read_objects(context, &*context.view());
    match pending.unmet().into_iter().next() {
        None => document(&WaitOutcome::Held { took_ms: 0 }),
        Some(UnmetAwaitedFact { index, held }) => {
            let what = pending.facts.get(index).map(ToString::to_string).unwrap_or_default();
            Err(context.end_plan(format!("the wait until {what}, and {held}")))
        }
    }
}

/// An instance with the stream of its polls.
struct FactWaitInstance<'a> {
    instance: &'a Instance,
    /// The ledger at the start of the wait.
    ledger: Ledger,
    members: InstanceMembers,
    polls: Box<dyn RedisPollStream>,
}

async fn watch<'a>(
    context: &ReconcileContext,
    pending: &mut AwaitedFacts<'a>,
    instances: &[&'a Instance],
    longest: Duration,
) -> Result<WaitOutcome, CallError> {
    let began = Instant::now();
    let took_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let ports = &context.gate.ports;
    let mut store_changes = context.gate.store_changes.subscribe();
    let mut waited_instances = Vec::new();
    for &instance in instances {
        let ledger = context.ledger_copy(instance).await?;
        let members = context.members_by(&ledger, instance).await?;
        let polls = ports.redis.join(&members, &instance.settings)?;
        waited_instances.push(FactWaitInstance { instance, ledger, members, polls });
    }
    pending.read_objects(context, &*ports.kubernetes.view());
    loop {
        let unmet = pending.unmet();
        if unmet.is_empty() {
            return Ok(WaitOutcome::Held { took_ms: took_ms() });
        }
        let next = next_poll(&mut waited_instances);
        tokio::select! {
            biased;
            (instance, snapshot) = next => {
                let documents = pending.documents(instance, &snapshot);
                pending.observed.insert(instance, documents);
            }
            () = sleep_until(began + longest) => {
                return Ok(WaitOutcome::TimedOut { took_ms: took_ms(), missing: unmet });
            }
            _ = store_changes.changed() => {
                let view = ports.kubernetes.view();
                pending.read_objects(context, &*view);
                for waited in &mut waited_instances {
                    update_members(context, waited, &*view)?;
                }
            }
        }
    }
}

/// Returns the next poll of any of the instances; waits for ever if there are none.
async fn next_poll<'a>(
    waited_instances: &mut [FactWaitInstance<'a>],
) -> (&'a Instance, std::sync::Arc<Snapshot>) {
    let each = waited_instances
        .iter_mut()
        .map(async |waited| (waited.instance, waited.polls.next().await));
    let mut first = each.collect::<FuturesUnordered<_>>();
    match first.next().await {
        Some(poll) => poll,
        None => std::future::pending().await,
    }
}

/// Polls the present Pods if they have changed.
fn update_members(
    context: &ReconcileContext,
    waited: &mut FactWaitInstance<'_>,
    view: &dyn WatchedStoreView,
) -> Result<(), CallError> {
    let FactWaitInstance { instance, ledger, members, .. } = &*waited;
    if let Some(members) = instance::renewed(view, members, &context.scope, ledger, instance)? {
        waited.polls = context.gate.ports.redis.join(&members, &waited.instance.settings)?;
        waited.members = members;
    }
    Ok(())
}

impl AwaitedFacts<'_> {
    fn documents(&self, instance: &Instance, snapshot: &Snapshot) -> FactSubjectDocuments {
        let about = |fact: &&Fact| fact.subject().instance() == Some(instance);
        FactSubjectDocuments::of(snapshot, self.facts.iter().filter(about))
    }

    fn read_objects(&mut self, context: &ReconcileContext, view: &dyn WatchedStoreView) {
        for object in self.facts.iter().filter_map(fact::object) {
            let observed = kubernetes::in_store(&context.scope, view, &object);
            self.objects.insert(object, observed.map_err(|error| error.to_string()));
        }
    }

    fn unmet(&self) -> Vec<UnmetAwaitedFact> {
        let held = |fact: &Fact| {
            let instance = fact.subject().instance();
            let observed = instance.and_then(|instance| self.observed.get(instance));
            fact::evaluate(fact, observed, &self.objects)
        };
        let all = self.facts.iter().map(held).enumerate();
        all.filter(|(_, held)| *held != FactCheckOutcome::Yes)
            .map(|(index, held)| UnmetAwaitedFact { index, held })
            .collect()
    }
}
