//! Wake subscriptions: which objects are reconciled again after a change inside an instance, or when a fact
//! holds.
//!
//! Invariants:
//! - An instance is polled as long as at least one object subscribes to it. All subscribers share its polls.
//! - A subscription that the next outcome does not repeat ends.
//! - A fact wakes its object once. The next outcome decides whether to subscribe again. A fact that holds
//!   already is found at the next poll, so that an object cannot wake itself in a faster circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectKey, ObjectRef,
    port::{InstanceMembers, PollDetail, PollReport, StoreChange, StoreView},
};
use tholepin_schema::{
    fact::{Fact, FactOutcome, FactSubject},
    instance::Instance,
    reconcile::WakeTrigger,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Gate, ReconcileScope,
    fact::{self, FactDocuments, ObservedObjects},
    grant, instance, kubernetes,
};

/// The most facts about one instance, of all keys together.
const FACTS_PER_INSTANCE_MAX: usize = 256;
/// How long a kind may be unwatched before a failed subscription is worth a warning.
const WATCHED_WITHIN: Duration = Duration::from_secs(10);
/// When an object is reconciled again if a subscribed fact about a Kubernetes object holds already.
const HOLDS_ALREADY: Duration = Duration::from_secs(1);

/// The subscriptions of all objects.
#[derive(Default)]
pub(crate) struct WakeSubscriptions {
    table: Mutex<SubscriptionTable>,
}

#[derive(Default)]
struct SubscriptionTable {
    instances: BTreeMap<String, BTreeMap<ObjectKey, InstanceSubscription>>,
    objects: BTreeMap<ObjectRef, BTreeMap<ObjectKey, ObjectSubscription>>,
    /// Failed subscriptions, so that each is logged once.
    said: BTreeMap<ObjectKey, FailedSubscriptions>,
}

/// The failed subscriptions of one key.
struct FailedSubscriptions {
    text: String,
    since: Instant,
    is_said: bool,
}

/// What one key subscribes to in an instance.
#[derive(Clone, Debug, Default, PartialEq)]
struct InstanceSubscription {
    changes: bool,
    facts: Vec<Fact>,
    settings: Vec<String>,
}

/// What one key subscribes to about an object, and the scope that grants it.
struct ObjectSubscription {
    context: ReconcileScope,
    facts: Vec<Fact>,
}

/// The subscriptions that an outcome requests, by what must be polled or read.
#[derive(Default)]
struct WakeRequests {
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
        context: &ReconcileScope,
        wakes: &[WakeTrigger],
    ) -> Option<Duration> {
        let wishes = self.requests(context, wakes).await;
        let WakeRequests { instances, objects, refused } = wishes;
        let names: BTreeSet<&String> = instances.keys().collect();
        let mut table = self.subscribed();
        self.end_wakes(&mut table, &context.key, |instance| names.contains(&instance.to_owned()));
        for (name, (members, wanted)) in instances {
            table.want(&context.key, &name, wanted);
            let depth = table.settings(&name);
            let depth = depth
                .as_deref()
                .map_or(PollDetail::Changes, |settings| PollDetail::Whole { settings });
            if let Err(error) = self.ports.redis.watch(&members, depth) {
                debug!(key = %context.key, %error, "cannot poll for changes");
            }
        }
        for (object, facts) in objects {
            let wanted = ObjectSubscription { context: context.clone(), facts };
            table.objects.entry(object).or_default().insert((*context.key).clone(), wanted);
        }
        if let Some(text) = table.unarmed(&context.key, &refused, Instant::now()) {
            warn!(key = %context.key, "some wake subscriptions failed: {text}");
        }
        let view = self.ports.kubernetes.view();
        let holds = table.objects.iter_mut().any(|(object, keys)| {
            keys.get_mut(&context.key).is_some_and(|wanted| wanted.holds(object, &*view))
        });
        holds.then_some(HOLDS_ALREADY)
    }

    /// Ends the subscriptions of an object, and drops what is kept in memory of an object that is deleted.
    pub fn disarm(&self, key: &ObjectKey) {
        let mut table = self.subscribed();
        self.end_wakes(&mut table, key, |_| false);
        table.said.remove(key);
        drop(table);
        self.clashes.keep(key, &BTreeSet::new());
        let ObjectKey { plugin: _, kind, namespace, name } = key.clone();
        let object = ObjectRef { kind, namespace, name };
        self.books.drop_gone(&*self.ports.kubernetes.view(), &object);
    }

    /// Returns the keys that a poll wakes, each with the cause.
    #[must_use]
    pub fn woken_by_look(&self, look: &PollReport) -> Vec<(ObjectKey, &'static str)> {
        let mut table = self.subscribed();
        let keys = table.instances.get_mut(&look.instance).into_iter().flatten();
        let woken = keys.filter_map(|(key, wanted)| {
            let held = look.snapshot.as_ref().is_some_and(|snapshot| {
                let documents = FactDocuments::of(snapshot, &wanted.facts);
                take_held(&mut wanted.facts, Some(&documents), &ObservedObjects::new())
            });
            let cause = match (held, wanted.changes && look.changed) {
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
    pub fn woken_by_change(&self, change: &StoreChange) -> Vec<(ObjectKey, &'static str)> {
        self.store.send_modify(|count| *count = count.wrapping_add(1));
        let mut keys = named("name clash", self.clashes.woken(change));
        let mut table = self.subscribed();
        if let Some(armed) = table.objects.get_mut(&change.object) {
            let view = self.ports.kubernetes.view();
            keys.extend(named("fact", woken(&change.object, armed, &*view)));
        }
        keys
    }

    /// Does the same as [`woken_by_change`](Self::woken_by_change) when it is not known which objects have
    /// changed.
    #[must_use]
    pub fn woken_by_overflow(&self) -> Vec<(ObjectKey, &'static str)> {
        self.store.send_modify(|count| *count = count.wrapping_add(1));
        let mut keys = named("name clash", self.clashes.all());
        let mut table = self.subscribed();
        let view = self.ports.kubernetes.view();
        let all = table.objects.iter_mut();
        let all = all.flat_map(|(object, armed)| woken(object, armed, &*view));
        keys.extend(named("fact", all.collect()));
        keys
    }

    async fn requests(&self, context: &ReconcileScope, wakes: &[WakeTrigger]) -> WakeRequests {
        let mut wishes = WakeRequests::default();
        for wake in wakes {
            let result = match wake {
                WakeTrigger::Change { instance } => match read(instance) {
                    Ok(instance) => {
                        let wanted = InstanceSubscription {
                            changes: true,
                            ..InstanceSubscription::default()
                        };
                        self.wish_instance(context, &instance, wanted, &mut wishes).await
                    }
                    Err(error) => Err(error),
                },
                WakeTrigger::Fact(fact) => self.wish_fact(context, fact, &mut wishes).await,
                WakeTrigger::After { .. } | _ => Ok(()),
            };
            if let Err(error) = result {
                wishes.refused.push(error);
            }
        }
        wishes
    }

    async fn wish_fact(
        &self,
        context: &ReconcileScope,
        fact: &Fact,
        wishes: &mut WakeRequests,
    ) -> Result<(), CallError> {
        match (fact.subject(), fact::object(fact)) {
            (FactSubject::Object { .. }, Some(object)) => {
                kubernetes::in_store(context, &*self.ports.kubernetes.view(), &object)?;
                wishes.objects.entry(object).or_default().push(fact.clone());
                Ok(())
            }
            (subject, _) => {
                let no_instance =
                    || CallError::Invalid(format!("the fact that {fact} names no `instance`"));
                let instance = subject.instance().ok_or_else(no_instance)?;
                grant::redis_verb(&context.grants, "observe")?;
                let (facts, settings) = (vec![fact.clone()], instance.settings.clone());
                let wanted = InstanceSubscription { changes: false, facts, settings };
                self.wish_instance(context, instance, wanted, wishes).await
            }
        }
    }

    async fn wish_instance(
        &self,
        context: &ReconcileScope,
        instance: &Instance,
        more: InstanceSubscription,
        wishes: &mut WakeRequests,
    ) -> Result<(), CallError> {
        let name = instance::name(context, instance);
        if !wishes.instances.contains_key(&name) {
            let kubernetes = &*self.ports.kubernetes;
            instance::admit(context, instance)?;
            let mut ledger = self.books.copy(kubernetes, context).await?.ledger;
            instance::fix_group(&mut ledger, instance)?;
            let kept = &self.credentials;
            let members = instance::members(kept, &self.ports, context, &ledger, instance).await?;
            wishes.instances.insert(name.clone(), (members, InstanceSubscription::default()));
        }
        let Some((_, wanted)) = wishes.instances.get_mut(&name) else { return Ok(()) };
        wanted.changes |= more.changes;
        wanted.facts.extend(more.facts);
        wanted.settings.extend(more.settings);
        Ok(())
    }

    fn end_wakes(
        &self,
        table: &mut SubscriptionTable,
        key: &ObjectKey,
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

    fn subscribed(&self) -> MutexGuard<'_, SubscriptionTable> {
        self.armed.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SubscriptionTable {
    /// Replaces what a key subscribes to in an instance.
    fn want(&mut self, key: &ObjectKey, instance: &str, mut wanted: InstanceSubscription) {
        let keys = self.instances.entry(instance.to_owned()).or_default();
        keys.remove(key);
        let others: usize = keys.values().map(|wanted| wanted.facts.len()).sum();
        let room = FACTS_PER_INSTANCE_MAX.saturating_sub(others);
        if room < wanted.facts.len() {
            warn!(%key, instance, "too many facts about this instance; the last ones are left out");
            wanted.facts.truncate(room);
        }
        keys.insert(key.clone(), wanted);
    }

    /// Returns the settings that a poll of an instance must contain; `None` if it need not contain whole
    /// snapshots.
    fn settings(&self, instance: &str) -> Option<Vec<String>> {
        let keys = self.instances.get(instance)?;
        let whole = keys.values().filter(|wanted| !wanted.facts.is_empty());
        let settings: Vec<&Vec<String>> = whole.map(|wanted| &wanted.settings).collect();
        (!settings.is_empty()).then(|| settings.into_iter().flatten().cloned().collect())
    }

    /// Returns the text of the failed subscriptions if it should be logged now. A kind that is not watched
    /// yet may be watched soon, so that is logged only after a while.
    fn unarmed(&mut self, key: &ObjectKey, refused: &[CallError], now: Instant) -> Option<String> {
        if refused.is_empty() {
            self.said.remove(key);
            return None;
        }
        let text = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let can_pass = refused.iter().all(|error| matches!(error, CallError::Unsupported(_)));
        let known = self.said.remove(key).filter(|known| known.text == text);
        let mut unarmed = known.unwrap_or(FailedSubscriptions { text, since: now, is_said: false });
        let is_due = !can_pass || WATCHED_WITHIN <= now.saturating_duration_since(unarmed.since);
        let is_news = is_due && !unarmed.is_said;
        unarmed.is_said |= is_news;
        let text = is_news.then(|| unarmed.text.clone());
        self.said.insert(key.clone(), unarmed);
        text
    }
}

impl ObjectSubscription {
    /// Returns true if one of the facts holds. Facts that hold are removed.
    fn holds(&mut self, object: &ObjectRef, view: &dyn StoreView) -> bool {
        let seen = kubernetes::in_store(&self.context, view, object);
        let seen = seen.map_err(|error| error.to_string());
        take_held(&mut self.facts, None, &ObservedObjects::from([(object.clone(), seen)]))
    }
}

fn named(cause: &'static str, keys: Vec<ObjectKey>) -> Vec<(ObjectKey, &'static str)> {
    keys.into_iter().map(|key| (key, cause)).collect()
}

/// Returns the keys with a fact about this object that holds.
fn woken(
    object: &ObjectRef,
    keys: &mut BTreeMap<ObjectKey, ObjectSubscription>,
    view: &dyn StoreView,
) -> Vec<ObjectKey> {
    let holding =
        keys.iter_mut().filter_map(|(key, wanted)| wanted.holds(object, view).then(|| key.clone()));
    holding.collect()
}

/// Removes the facts that hold. Returns true if there were any.
fn take_held(
    facts: &mut Vec<Fact>,
    seen: Option<&FactDocuments>,
    objects: &ObservedObjects,
) -> bool {
    let before = facts.len();
    facts.retain(|fact| fact::held(fact, seen, objects) != FactOutcome::Yes);
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
    fn a_kind_that_is_not_watched_yet_is_told_of_when_it_stays_so_and_once() {
        let kind = KindName { api_version: "a/v1".into(), kind: "K".into() };
        let (namespace, name) = ("n".to_owned(), "x".to_owned());
        let key = ObjectKey { plugin: "p".parse().unwrap(), kind, namespace, name };
        let not_watched = [CallError::Unsupported("Pods are not watched (yet)".to_owned())];
        let (mut table, start) = (SubscriptionTable::default(), Instant::now());
        let mut told = |refused: &[CallError], seconds| {
            table.unarmed(&key, refused, start + Duration::from_secs(seconds)).is_some()
        };
        assert!(!told(&not_watched, 0) && !told(&not_watched, 9));
        assert!(told(&not_watched, 10) && !told(&not_watched, 20), "once");
        assert!(!told(&[], 21) && !told(&not_watched, 22), "it was well in between");
        let denied = [CallError::Denied("no grant".to_owned())];
        assert!(told(&denied, 23) && !told(&denied, 24), "that does not pass");
    }
}
