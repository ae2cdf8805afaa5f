//! Finds the documents that facts are about, and evaluates the facts on them. Pure: the caller passes what it
//! has read. A fact about something that was not read is unknown, never false.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{
    fact::{FACTS_MAX, Fact, FactCheckOutcome, FactSubject, holds},
    manifest::KindName,
    snapshot::Snapshot,
};

/// Objects as they were read: `Ok(None)` if an object does not exist, `Err` with the reason if it could not
/// be read.
pub(crate) type ObservedObjects = BTreeMap<ObjectRef, Result<Option<Arc<Value>>, String>>;

/// The parts of a snapshot that facts are evaluated on.
#[derive(Debug, Default)]
pub(crate) struct FactSubjectDocuments {
    /// The members that facts are about; `None` for a Pod that is no member.
    members: BTreeMap<String, Option<Value>>,
    /// The majority's view; `None` if no member reported one.
    view: Option<Value>,
}

impl FactSubjectDocuments {
    /// Extracts from a snapshot what these facts need.
    pub(crate) fn of<'a>(snapshot: &Snapshot, facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut documents = Self::default();
        let has_view = snapshot.members.iter().any(|member| member.node().is_some());
        for fact in facts {
            match fact.subject() {
                FactSubject::Member { instance: _, pod } => {
                    let find = || snapshot.member(pod).map(json);
                    documents.members.entry(pod.clone()).or_insert_with(find);
                }
                FactSubject::View { instance: _ } if has_view && documents.view.is_none() => {
                    documents.view = Some(json(&snapshot.view));
                }
                FactSubject::View { .. } | FactSubject::Object { .. } => {}
            }
        }
        documents
    }
}

/// This cannot fail: all keys in a snapshot's parts are strings.
fn json<T: serde::Serialize>(part: &T) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// Returns whether a fact holds in what was read.
pub(crate) fn evaluate(
    fact: &Fact,
    observed: Option<&FactSubjectDocuments>,
    objects: &ObservedObjects,
) -> FactCheckOutcome {
    let unknown = |why: &str| FactCheckOutcome::Unknown { why: why.to_owned() };
    match (fact.subject(), observed) {
        (FactSubject::Member { .. } | FactSubject::View { .. }, None) => {
            unknown("the instance was not polled")
        }
        (FactSubject::Member { instance: _, pod }, Some(documents)) => {
            match documents.members.get(pod) {
                Some(document) => holds(fact, document.as_ref()),
                None => unknown("the member was not read"),
            }
        }
        (FactSubject::View { .. }, Some(documents)) => match &documents.view {
            Some(view) => holds(fact, Some(view)),
            None => unknown("no member reported its view"),
        },
        (FactSubject::Object { .. }, _) => match object(fact).and_then(|name| objects.get(&name)) {
            Some(Ok(found)) => holds(fact, found.as_deref()),
            Some(Err(why)) => unknown(why),
            None => unknown("the object was not read"),
        },
    }
}

/// Returns the object that a fact is about, if it is about one.
pub(crate) fn object(fact: &Fact) -> Option<ObjectRef> {
    let FactSubject::Object { api_version, kind, namespace, name } = fact.subject() else {
        return None;
    };
    let kind = KindName { api_version: api_version.clone(), kind: kind.clone() };
    Some(ObjectRef { kind, namespace: namespace.clone(), name: name.clone() })
}

/// Checks that these are not too many facts.
///
/// # Errors
///
/// Fails with the number of facts and the limit.
pub(crate) fn check_count(facts: &[Fact]) -> Result<(), CallError> {
    if facts.len() <= FACTS_MAX {
        return Ok(());
    }
    let count = facts.len();
    Err(CallError::Invalid(format!("{count} facts are too many, {FACTS_MAX} are allowed")))
}
