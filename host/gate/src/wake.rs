//! Wake subscriptions: which objects are reconciled again after a change inside an instance, or when a fact
//! holds.
//!
//! Invariants:
//! - An instance is polled as long as at least one object subscribes to it. All subscribers share its polls.
//! - A subscription that the next outcome does not repeat ends.
//! - A trigger about an instance needs the grant of the verb `observe`, one about an object that of `get` on its
//!   kind, whether it is a change or a fact.
//! - A trigger that is refused (not granted, or beyond a bound) is left out and reported. It ends no subscription
//!   of another object, and the other triggers of its outcome stay in force.
//! - All bounds are shares of one object or one plugin. No object can use up what others need.
//! - A fact wakes its object once. The next outcome decides whether to subscribe again. A fact that holds
//!   already is found at the next poll, so that an object cannot wake itself more often than once per poll.

mod refused;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectRef, ReconcileKey, SubscribedWakes,
    port::{InstanceMembers, PollDetail, PollReport, WatchedStoreChange, WatchedStoreView},
};
use tholepin_schema::{
    fact::{FACTS_MAX, Fact, FactCheckOutcome, FactSubject},
    instance::{INSTANCES_PER_OBJECT_MAX, Instance},
    reconcile::{WAKES_MAX, WakeTrigger},
};
use tokio::time::Instant;

use crate::{
    Gate, ReconcileScope,
    fact::{self, FactSubjectDocuments, ObservedObjects},
    grant, instance, kubernetes,
    ledger_document::Ledger,
};
use refused::{PassingRefusals, RefusedWake, WakeRefusalReport};

/// The delay after which an object is reconciled again if a subscribed fact about a Kubernetes object holds
/// already.
const HELD_FACT_REQUEUE: Duration = Duration::from_secs(1);

/// The subscriptions of all objects.
#[derive(Default)]
pub(crate) struct WakeSubscriptions {
    table: Mutex<WakeSubscriptionTable>,
}

#[derive(Default)]
struct WakeSubscriptionTable {
    instances: BTreeMap<String, BTreeMap<ReconcileKey, InstanceSubscription>>,
    objects: BTreeMap<ObjectRef, BTreeMap<ReconcileKey, ObjectFactSubscription>>,
    passing_refusals: PassingRefusals,
}

/// What one key subscribes to in an instance.
#[derive(Clone, Debug, Default, PartialEq)]
struct InstanceSubscription {
    changes: bool,
    facts: Vec<Fact>,
    settings: Vec<String>,
}

/// What one key subscribes to about an object, and the scope that grants it.
struct ObjectFactSubscription {
    scope: ReconcileScope,
    facts: Vec<Fact>,
}

/// The subscriptions that an outcome requests, by what must be polled or read.
#[derive(Default)]
struct WakeSubscriptionRequests {
    instances: BTreeMap<String, InstanceRequest>,
    objects: BTreeMap<ObjectRef, Vec<Fact>>,
    /// The number of facts so far, also of refused ones.
    facts: usize,
    /// A copy of the object's ledger, with the groups that the triggers named first. Read when it is needed.
    ledger: Option<Ledger>,
    refused: Vec<RefusedWake>,
}

/// What an outcome requests of one instance.
struct InstanceRequest {
    members: InstanceMembers,
    subscription: InstanceSubscription,
    /// The first trigger about it, for its refusal.
    trigger: String,
}

impl Gate {
    /// Replaces the subscriptions of an object by those of its new outcome. One that is refused or cannot be polled
    /// or read now is left out.
    pub async fn subscribe(
        &self,
        scope: &ReconcileScope,
        wakes: &[WakeTrigger],
    ) -> SubscribedWakes {
        let requests = self.requests(scope, wakes).await;
        let WakeSubscriptionRequests { instances, objects, facts: _, ledger: _, mut refused } =
            requests;
        let names: BTreeSet<&String> = instances.keys().collect();
        let mut table = self.lock_table();
        self.end_wakes(&mut table, &scope.key, |instance| names.contains(&instance.to_owned()));
        for (name, InstanceRequest { members, subscription, trigger }) in instances {
            table.set(&scope.key, &name, subscription);
            let detail = table.settings(&name);
            let detail = detail
                .as_deref()
                .map_or(PollDetail::Changes, |settings| PollDetail::Whole { settings });
            if let Err(error) = self.ports.redis.watch(&members, detail) {
                table.unset(&scope.key, &name);
                refused.push(RefusedWake { trigger, error });
            }
        }
        for (object, facts) in objects {
            let subscription = ObjectFactSubscription { scope: scope.clone(), facts };
            table.objects.entry(object).or_default().insert((*scope.key).clone(), subscription);
        }
        let WakeRefusalReport { text: refusal, retry } =
            table.passing_refusals.report(&scope.key, &refused, Instant::now());
        let view = self.ports.kubernetes.view();
        let holds = table.objects.iter_mut().any(|(object, keys)| {
            keys.get_mut(&scope.key).is_some_and(|subscription| subscription.holds(object, &*view))
        });
        SubscribedWakes { requeue: holds.then_some(HELD_FACT_REQUEUE).or(retry), refusal }
    }

    /// Ends the subscriptions of an object, and drops what is kept in memory of an object that is deleted.
    pub fn unsubscribe(&self, key: &ReconcileKey) {
        let mut table = self.lock_table();
        self.end_wakes(&mut table, key, |_| false);
        table.passing_refusals.forget(key);
        drop(table);
        self.name_conflicts.keep(key, &BTreeSet::new());
        let ReconcileKey { plugin: _, kind, namespace, name } = key.clone();
        let object = ObjectRef { kind, namespace, name };
        self.ledgers.drop_gone(&*self.ports.kubernetes.view(), &object);
    }

    /// Returns the keys that a poll wakes, each with the cause.
    #[must_use]
    pub fn woken_by_poll(&self, poll: &PollReport) -> Vec<(ReconcileKey, &'static str)> {
        let mut table = self.lock_table();
        let keys = table.instances.get_mut(&poll.instance).into_iter().flatten();
        let woken = keys.filter_map(|(key, subscription)| {
            let held = poll.snapshot.as_ref().is_some_and(|snapshot| {
                let documents = FactSubjectDocuments::of(snapshot, &subscription.facts);
                take_held(&mut subscription.facts, Some(&documents), &ObservedObjects::new())
            });
            let cause = match (held, subscription.changes && poll.changed) {
                (true, _) => "fact",
                (false, true) => "change in Redis",
                (false, false) => return None,
            };
            Some((key.clone(), cause))
        });
        woken.collect()
    }

    /// Records that an object has changed, which wakes waiting calls. Returns the keys that the change wakes,
    /// each with the cause.
    #[must_use]
    pub fn woken_by_change(
        &self,
        change: &WatchedStoreChange,
    ) -> Vec<(ReconcileKey, &'static str)> {
        self.store_changes.send_modify(|count| *count = count.wrapping_add(1));
        let mut keys = with_cause("name clash", self.name_conflicts.woken(change));
        let mut table = self.lock_table();
        if let Some(by_key) = table.objects.get_mut(&change.object) {
            let view = self.ports.kubernetes.view();
            keys.extend(with_cause("fact", woken(&change.object, by_key, &*view)));
        }
        keys
    }

    /// Does the same as [`woken_by_change`](Self::woken_by_change) when it is not known which objects have
    /// changed.
    #[must_use]
    pub fn woken_by_overflow(&self) -> Vec<(ReconcileKey, &'static str)> {
        self.store_changes.send_modify(|count| *count = count.wrapping_add(1));
        let mut keys = with_cause("name clash", self.name_conflicts.all());
        let mut table = self.lock_table();
        let view = self.ports.kubernetes.view();
        let all = table.objects.iter_mut();
        let all = all.flat_map(|(object, by_key)| woken(object, by_key, &*view));
        keys.extend(with_cause("fact", all.collect()));
        keys
    }

    async fn requests(
        &self,
        scope: &ReconcileScope,
        wakes: &[WakeTrigger],
    ) -> WakeSubscriptionRequests {
        let mut requests = WakeSubscriptionRequests::default();
        for (index, wake) in wakes.iter().take(WAKES_MAX).enumerate() {
            let trigger = format!(".wake[{index}]");
            let result = match wake {
                WakeTrigger::Change { instance } => match read(instance) {
                    Ok(instance) => {
                        let subscription = InstanceSubscription {
                            changes: true,
                            ..InstanceSubscription::default()
                        };
                        self.request_instance(
                            scope,
                            &instance,
                            (&trigger, subscription),
                            &mut requests,
                        )
                        .await
                    }
                    Err(error) => Err(error),
                },
                WakeTrigger::Fact(fact) => {
                    self.request_fact(scope, fact, &trigger, &mut requests).await
                }
                WakeTrigger::After { .. } | _ => Ok(()),
            };
            if let Err(error) = result {
                requests.refused.push(RefusedWake { trigger, error });
            }
        }
        if WAKES_MAX < wakes.len() {
            let trigger = format!(".wake[{WAKES_MAX}] and later");
            let text = format!("an outcome has at most {WAKES_MAX} triggers, not {}", wakes.len());
            requests.refused.push(RefusedWake { trigger, error: CallError::Invalid(text) });
        }
        requests
    }

    async fn request_fact(
        &self,
        scope: &ReconcileScope,
        fact: &Fact,
        trigger: &str,
        requests: &mut WakeSubscriptionRequests,
    ) -> Result<(), CallError> {
        requests.facts += 1;
        if FACTS_MAX < requests.facts {
            let text = format!("an outcome has at most {FACTS_MAX} facts; return fewer");
            return Err(CallError::Invalid(text));
        }
        match (fact.subject(), fact::object(fact)) {
            (FactSubject::Object { .. }, Some(object)) => {
                kubernetes::in_store(scope, &*self.ports.kubernetes.view(), &object)?;
                requests.objects.entry(object).or_default().push(fact.clone());
                Ok(())
            }
            (subject, _) => {
                let no_instance =
                    || CallError::Invalid(format!("the fact that {fact} names no `instance`"));
                let instance = subject.instance().ok_or_else(no_instance)?;
                let (facts, settings) = (vec![fact.clone()], instance.settings.clone());
                let subscription = InstanceSubscription { changes: false, facts, settings };
                self.request_instance(scope, instance, (trigger, subscription), requests).await
            }
        }
    }

    /// Adds a trigger about an instance to the requests.
    async fn request_instance(
        &self,
        scope: &ReconcileScope,
        instance: &Instance,
        (trigger, more): (&str, InstanceSubscription),
        requests: &mut WakeSubscriptionRequests,
    ) -> Result<(), CallError> {
        grant::redis_verb(&scope.grants, "observe")?;
        instance::admit(scope, instance)?;
        let name = instance::name(scope, instance);
        let is_new = !requests.instances.contains_key(&name);
        if is_new && INSTANCES_PER_OBJECT_MAX <= requests.instances.len() {
            let text = format!(
                "an outcome names at most {INSTANCES_PER_OBJECT_MAX} instances, and the group `{}` is one \
                 more; name fewer groups",
                instance.group()
            );
            return Err(CallError::Invalid(text));
        }
        if requests.ledger.is_none() {
            let copy = self.ledgers.copy(&*self.ports.kubernetes, scope).await?;
            requests.ledger = Some(copy.ledger);
        }
        let ledger = requests.ledger.get_or_insert_default();
        instance::fix_group(ledger, instance)?;
        if is_new {
            let store = &self.credentials;
            let members = instance::members(store, &self.ports, scope, ledger, instance).await?;
            let subscription = InstanceSubscription::default();
            let trigger = trigger.to_owned();
            let request = InstanceRequest { members, subscription, trigger };
            requests.instances.insert(name.clone(), request);
        }
        let Some(InstanceRequest { subscription, .. }) = requests.instances.get_mut(&name) else {
            return Ok(());
        };
        let mut settings = subscription.settings.clone();
        settings.extend(more.settings);
        settings.sort_unstable();
        settings.dedup();
        instance::check_settings(&settings)?;
        subscription.settings = settings;
        subscription.changes |= more.changes;
        subscription.facts.extend(more.facts);
        Ok(())
    }

    fn end_wakes(
        &self,
        table: &mut WakeSubscriptionTable,
        key: &ReconcileKey,
        keep: impl Fn(&str) -> bool,
    ) {
        table.instances.retain(|instance, keys| {
            if !keep(instance) && keys.remove(key).is_some() && keys.is_empty() {
                self.ports.redis.unwatch(instance);
            }
            !keys.is_empty()
        });
        table.objects.retain(|_, keys| {
            keys.remove(key);
            !keys.is_empty()
        });
    }

    fn lock_table(&self) -> MutexGuard<'_, WakeSubscriptionTable> {
        self.subscriptions.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WakeSubscriptionTable {
    /// Replaces what a key subscribes to in an instance.
    fn set(&mut self, key: &ReconcileKey, instance: &str, subscription: InstanceSubscription) {
        let keys = self.instances.entry(instance.to_owned()).or_default();
        keys.insert(key.clone(), subscription);
    }

    /// Removes what a key subscribes to in an instance that cannot be polled.
    fn unset(&mut self, key: &ReconcileKey, instance: &str) {
        let Some(keys) = self.instances.get_mut(instance) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.instances.remove(instance);
        }
    }

    /// Returns the settings that a poll of an instance must contain; `None` if it need not contain whole
    /// snapshots.
    fn settings(&self, instance: &str) -> Option<Vec<String>> {
        let keys = self.instances.get(instance)?;
        let whole = keys.values().filter(|subscription| !subscription.facts.is_empty());
        let settings: Vec<&Vec<String>> =
            whole.map(|subscription| &subscription.settings).collect();
        (!settings.is_empty()).then(|| settings.into_iter().flatten().cloned().collect())
    }
}

impl ObjectFactSubscription {
    /// Returns true if one of the facts holds. Facts that hold are removed.
    fn holds(&mut self, object: &ObjectRef, view: &dyn WatchedStoreView) -> bool {
        let observed = kubernetes::in_store(&self.scope, view, object);
        let observed = observed.map_err(|error| error.to_string());
        take_held(&mut self.facts, None, &ObservedObjects::from([(object.clone(), observed)]))
    }
}

fn with_cause(cause: &'static str, keys: Vec<ReconcileKey>) -> Vec<(ReconcileKey, &'static str)> {
    keys.into_iter().map(|key| (key, cause)).collect()
}

/// Returns the keys with a fact about this object that holds.
fn woken(
    object: &ObjectRef,
    keys: &mut BTreeMap<ReconcileKey, ObjectFactSubscription>,
    view: &dyn WatchedStoreView,
) -> Vec<ReconcileKey> {
    let holding = keys
        .iter_mut()
        .filter_map(|(key, subscription)| subscription.holds(object, view).then(|| key.clone()));
    holding.collect()
}

/// Removes the facts that hold. Returns true if there were any.
fn take_held(
    facts: &mut Vec<Fact>,
    observed: Option<&FactSubjectDocuments>,
    objects: &ObservedObjects,
) -> bool {
    let before = facts.len();
    facts.retain(|fact| fact::evaluate(fact, observed, objects) != FactCheckOutcome::Yes);
    facts.len() < before
}

fn read(instance: &Value) -> Result<Instance, CallError> {
    serde_json::from_value(instance.clone()).map_err(|error| CallError::Invalid(error.to_string()))
}
