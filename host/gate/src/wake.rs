//! Wake subscriptions: which objects are reconciled again after a change inside an instance, or when a fact
//! holds.
//!
//! Invariants:
//! - An instance is polled as long as at least one object subscribes to it. All subscribers share its polls.
//! - A subscription that the next outcome does not repeat ends.
//! - A fact wakes its object once. The next outcome decides whether to subscribe again. A fact that holds
//!   already is found at the next poll, so that an object cannot wake itself more often than once per poll.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectRef, ReconcileKey,
    port::{InstanceMembers, PollDetail, PollReport, WatchedStoreChange, WatchedStoreView},
};
use tholepin_schema::{
    fact::{Fact, FactCheckOutcome, FactSubject},
    instance::Instance,
    reconcile::WakeTrigger,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Gate, ReconcileScope,
    fact::{self, FactSubjectDocuments, ObservedObjects},
    grant, instance, kubernetes,
};

/// The most facts about one instance, of all keys together.
const FACTS_PER_INSTANCE_MAX: usize = 256;
/// How long a subscription may fail, because its kind is not watched yet, before a warning is logged.
const UNWATCHED_GRACE: Duration = Duration::from_secs(10);
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
    /// Failed subscriptions, so that each is logged once.
    failed: BTreeMap<ReconcileKey, WakeSubscriptionFailure>,
}

/// The failed subscriptions of one key.
struct WakeSubscriptionFailure {
    text: String,
    since: Instant,
    is_reported: bool,
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
    instances: BTreeMap<String, (InstanceMembers, InstanceSubscription)>,
    objects: BTreeMap<ObjectRef, Vec<Fact>>,
    refused: Vec<CallError>,
}

impl Gate {
    /// Replaces the subscriptions of an object by those of its new outcome. One that cannot be polled or read
    /// now is left out, and is tried again after the next reconcile, which the requeue brings. Returns after
    /// which time the object must be reconciled again because a fact holds already.
    pub async fn subscribe(
        &self,
        scope: &ReconcileScope,
        wakes: &[WakeTrigger],
    ) -> Option<Duration> {
        let requests = self.requests(scope, wakes).await;
        let WakeSubscriptionRequests { instances, objects, refused } = requests;
        let names: BTreeSet<&String> = instances.keys().collect();
        let mut table = self.lock_table();
        self.end_wakes(&mut table, &scope.key, |instance| names.contains(&instance.to_owned()));
        for (name, (members, subscription)) in instances {
            table.set(&scope.key, &name, subscription);
            let depth = table.settings(&name);
            let depth = depth
                .as_deref()
                .map_or(PollDetail::Changes, |settings| PollDetail::Whole { settings });
            if let Err(error) = self.ports.redis.watch(&members, depth) {
                debug!(key = %scope.key, %error, "cannot poll for changes");
            }
        }
        for (object, facts) in objects {
            let subscription = ObjectFactSubscription { scope: scope.clone(), facts };
            table.objects.entry(object).or_default().insert((*scope.key).clone(), subscription);
        }
        if let Some(text) = table.failures_to_report(&scope.key, &refused, Instant::now()) {
            warn!(key = %scope.key, "some wake subscriptions failed: {text}");
        }
        let view = self.ports.kubernetes.view();
        let holds = table.objects.iter_mut().any(|(object, keys)| {
            keys.get_mut(&scope.key).is_some_and(|subscription| subscription.holds(object, &*view))
        });
        holds.then_some(HELD_FACT_REQUEUE)
    }

    /// Ends the subscriptions of an object, and drops what is kept in memory of an object that is deleted.
    pub fn unsubscribe(&self, key: &ReconcileKey) {
        let mut table = self.lock_table();
        self.end_wakes(&mut table, key, |_| false);
        table.failed.remove(key);
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
        for wake in wakes {
            let result = match wake {
                WakeTrigger::Change { instance } => match read(instance) {
                    Ok(instance) => {
                        let subscription = InstanceSubscription {
                            changes: true,
                            ..InstanceSubscription::default()
                        };
                        self.request_instance(scope, &instance, subscription, &mut requests).await
                    }
                    Err(error) => Err(error),
                },
                WakeTrigger::Fact(fact) => self.request_fact(scope, fact, &mut requests).await,
                WakeTrigger::After { .. } | _ => Ok(()),
            };
            if let Err(error) = result {
                requests.refused.push(error);
            }
        }
        requests
    }

    async fn request_fact(
        &self,
        scope: &ReconcileScope,
        fact: &Fact,
        requests: &mut WakeSubscriptionRequests,
    ) -> Result<(), CallError> {
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
                grant::redis_verb(&scope.grants, "observe")?;
                let (facts, settings) = (vec![fact.clone()], instance.settings.clone());
                let subscription = InstanceSubscription { changes: false, facts, settings };
                self.request_instance(scope, instance, subscription, requests).await
            }
        }
    }

    async fn request_instance(
        &self,
        scope: &ReconcileScope,
        instance: &Instance,
        more: InstanceSubscription,
        requests: &mut WakeSubscriptionRequests,
    ) -> Result<(), CallError> {
        let name = instance::name(scope, instance);
        if !requests.instances.contains_key(&name) {
            let kubernetes = &*self.ports.kubernetes;
            instance::admit(scope, instance)?;
            let mut ledger = self.ledgers.copy(kubernetes, scope).await?.ledger;
            instance::fix_group(&mut ledger, instance)?;
            let store = &self.credentials;
            let members = instance::members(store, &self.ports, scope, &ledger, instance).await?;
            requests.instances.insert(name.clone(), (members, InstanceSubscription::default()));
        }
        let Some((_, subscription)) = requests.instances.get_mut(&name) else { return Ok(()) };
        subscription.changes |= more.changes;
        subscription.facts.extend(more.facts);
        subscription.settings.extend(more.settings);
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
    fn set(&mut self, key: &ReconcileKey, instance: &str, mut subscription: InstanceSubscription) {
        let keys = self.instances.entry(instance.to_owned()).or_default();
        keys.remove(key);
        let others: usize = keys.values().map(|subscription| subscription.facts.len()).sum();
        let room = FACTS_PER_INSTANCE_MAX.saturating_sub(others);
        if room < subscription.facts.len() {
            warn!(%key, instance, "too many facts about this instance; the last ones are left out");
            subscription.facts.truncate(room);
        }
        keys.insert(key.clone(), subscription);
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

    /// Returns the text of the failed subscriptions if it should be logged now. A kind that is not watched
    /// yet may be watched soon, so that is logged only after a while.
    fn failures_to_report(
        &mut self,
        key: &ReconcileKey,
        refused: &[CallError],
        now: Instant,
    ) -> Option<String> {
        if refused.is_empty() {
            self.failed.remove(key);
            return None;
        }
        let text = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let can_pass = refused.iter().all(|error| matches!(error, CallError::Unsupported(_)));
        let known = self.failed.remove(key).filter(|known| known.text == text);
        let mut failure =
            known.unwrap_or(WakeSubscriptionFailure { text, since: now, is_reported: false });
        let is_due = !can_pass || UNWATCHED_GRACE <= now.saturating_duration_since(failure.since);
        let is_news = is_due && !failure.is_reported;
        failure.is_reported |= is_news;
        let text = is_news.then(|| failure.text.clone());
        self.failed.insert(key.clone(), failure);
        text
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

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_schema::manifest::KindName;

    #[test]
    fn an_unwatched_kind_is_reported_once_and_after_a_while() {
        let kind = KindName { api_version: "a/v1".into(), kind: "K".into() };
        let (namespace, name) = ("n".to_owned(), "x".to_owned());
        let key = ReconcileKey { plugin: "p".parse().unwrap(), kind, namespace, name };
        let not_watched = [CallError::Unsupported("Pods are not watched (yet)".to_owned())];
        let (mut table, start) = (WakeSubscriptionTable::default(), Instant::now());
        let mut reported = |refused: &[CallError], seconds| {
            table.failures_to_report(&key, refused, start + Duration::from_secs(seconds)).is_some()
        };
        assert!(!reported(&not_watched, 0) && !reported(&not_watched, 9));
        assert!(reported(&not_watched, 10) && !reported(&not_watched, 20), "once");
        assert!(
            !reported(&[], 21) && !reported(&not_watched, 22),
            "the subscriptions worked in between"
        );
        let denied = [CallError::Denied("no grant".to_owned())];
        assert!(
            reported(&denied, 23) && !reported(&denied, 24),
            "a denial is reported immediately"
        );
    }
}
