//! Finds the documents that facts are about, and asks the facts of them.
//!
//! Pure: whoever looked hands over what was seen. What was not looked at makes a fact unknown, never
//! false.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{
    fact::{FACTS_MAX, Fact, FactOutcome, FactSubject, holds},
    manifest::KindName,
    snapshot::Snapshot,
};

/// What was seen of objects: none if an object is not there, or why it could not be seen.
pub type ObservedObjects = BTreeMap<ObjectRef, Result<Option<Arc<Value>>, String>>;

/// What one look at an instance showed, as facts read it.
#[derive(Debug, Default)]
pub(crate) struct FactDocuments {
    /// Of the members that facts ask about; none for a Pod that is no member.
    members: BTreeMap<String, Option<Value>>,
    /// Absent if nobody told anything.
    view: Option<Value>,
}

impl FactDocuments {
    /// What these facts need of a snapshot.
    pub(crate) fn of<'a>(snapshot: &Snapshot, facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut documents = Self::default();
        let is_told = snapshot.members.iter().any(|member| member.node().is_some());
        for fact in facts {
            match fact.subject() {
                FactSubject::Member { instance: _, pod } => {
                    let find = || snapshot.member(pod).map(json);
                    documents.members.entry(pod.clone()).or_insert_with(find);
                }
                FactSubject::View { instance: _ } if is_told && documents.view.is_none() => {
                    documents.view = Some(json(&snapshot.view));
                }
                FactSubject::View { .. } | FactSubject::Object { .. } => {}
            }
        }
        documents
    }
}

/// A snapshot's parts have text keys only, so that writing them cannot fail.
fn json<T: serde::Serialize>(part: &T) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// Whether a fact holds in what was seen.
pub(crate) fn held(
    fact: &Fact,
    seen: Option<&FactDocuments>,
    objects: &ObservedObjects,
) -> FactOutcome {
    let unknown = |why: &str| FactOutcome::Unknown { why: why.to_owned() };
    match (fact.subject(), seen) {
        (FactSubject::Member { .. } | FactSubject::View { .. }, None) => {
            unknown("the instance was not looked at")
        }
        (FactSubject::Member { instance: _, pod }, Some(documents)) => {
            match documents.members.get(pod) {
                Some(document) => holds(fact, document.as_ref()),
                None => unknown("the member was not looked at"),
            }
        }
        (FactSubject::View { .. }, Some(documents)) => match &documents.view {
            Some(view) => holds(fact, Some(view)),
            None => unknown("no member tells what it sees"),
        },
        (FactSubject::Object { .. }, _) => match object(fact).and_then(|name| objects.get(&name)) {
            Some(Ok(found)) => holds(fact, found.as_deref()),
            Some(Err(why)) => unknown(why),
            None => unknown("the object was not looked at"),
        },
    }
}

/// The object that a fact is about, if it is about one.
pub(crate) fn object(fact: &Fact) -> Option<ObjectRef> {
    let FactSubject::Object { api_version, kind, namespace, name } = fact.subject() else {
        return None;
    };
    let kind = KindName { api_version: api_version.clone(), kind: kind.clone() };
    Some(ObjectRef { kind, namespace: namespace.clone(), name: name.clone() })
}

/// Whether these are not too many facts.
///
/// # Errors
///
/// Fails with how many there are and how many may be.
pub(crate) fn bounded(facts: &[Fact]) -> Result<(), CallError> {
    if facts.len() <= FACTS_MAX {
        return Ok(());
    }
    let count = facts.len();
    Err(CallError::Invalid(format!("{count} facts are too many, {FACTS_MAX} are allowed")))
}
