//! One revision of the store, in persistent maps: taking a view costs a few reference counts whatever the
//! size of the store, and the writes of one reconcile can be added to its own view.
//!
//! One index holds each object under its controlling owner and under each of its labels. A selector without
//! any `key=value`, or over all namespaces, scans the parsed metadata of all objects of the kind. Neither
//! parses the body of an object that does not match.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use kube::core::{Expression, Selector, SelectorExt};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde_json::Value;
use tholepin_core::{CallError, ObjectMeta, ObjectRef, WatchedStoreObject, port::WatchedStoreView};
use tholepin_schema::manifest::KindName;
use tracing::warn;

use crate::selector;

/// The objects and their index. A clone is cheap, and changes to it do not affect the original.
#[derive(Clone, Default)]
pub(crate) struct WatchedObjectTables {
    objects: RedBlackTreeMapSync<ObjectRef, WatchedStoreObject>,
    index: RedBlackTreeSetSync<ObjectTermIndexEntry>,
    covered: Arc<BTreeSet<KindName>>,
}

impl WatchedObjectTables {
    pub(crate) fn get(&self, object: &ObjectRef) -> Option<&WatchedStoreObject> {
        self.objects.get(object)
    }

    pub(crate) fn insert(&mut self, object: WatchedStoreObject) {
        let reference = object.meta().object.clone();
        self.remove(&reference);
        for entry in ObjectTermIndexEntry::of_object(object.meta()) {
            self.index.insert_mut(entry);
        }
        self.objects.insert_mut(reference, object);
    }

    pub(crate) fn remove(&mut self, object: &ObjectRef) -> Option<WatchedStoreObject> {
        let before = self.objects.get(object).cloned()?;
        self.objects.remove_mut(object);
        for entry in ObjectTermIndexEntry::of_object(before.meta()) {
            self.index.remove_mut(&entry);
        }
        Some(before)
    }

    pub(crate) fn set_covered(&mut self, kinds: BTreeSet<KindName>) {
        self.covered = Arc::new(kinds);
    }

    /// Returns the objects of a kind, ordered by namespace and name. An empty namespace means all.
    fn of_kind<'a>(
        &'a self,
        kind: &'a KindName,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a WatchedStoreObject> {
        let first =
            ObjectRef { kind: kind.clone(), namespace: namespace.to_owned(), name: String::new() };
        let within = move |object: &ObjectRef| {
            object.kind == *kind && (namespace.is_empty() || object.namespace == namespace)
        };
        let from = self.objects.range(first..);
        from.take_while(move |(object, _)| within(object)).map(|(_, object)| object)
    }
}

impl WatchedObjectTables {
    /// Returns the objects under a term of the index. Terms are hashes, so that the result can hold an object
    /// that does not belong there; the caller checks.
    fn objects_under(&self, term: u64) -> impl Iterator<Item = &WatchedStoreObject> {
        let entries = self.index.range(ObjectTermIndexEntry { term, object: None }..);
        let entries = entries.take_while(move |entry| entry.term == term);
        entries.filter_map(|entry| self.objects.get(&entry.object.as_ref()?.object))
    }

    /// Returns objects of a kind that include all those that fulfil the requirements; the caller filters.
    fn candidates<'a>(
        &'a self,
        kind: &'a KindName,
        namespace: &'a str,
        requirements: &[Expression],
    ) -> Box<dyn Iterator<Item = &'a WatchedStoreObject> + 'a> {
        let label = requirements.iter().find_map(|requirement| {
            if let Expression::Equal(key, value) = requirement { Some((key, value)) } else { None }
        });
        match label {
            Some((key, value)) if !namespace.is_empty() => {
                let within = move |object: &&WatchedStoreObject| {
                    let object = &object.meta().object;
                    object.kind == *kind && object.namespace == namespace
                };
                Box::new(
                    self.objects_under(term_of_label(kind, namespace, key, value)).filter(within),
                )
            }
            Some(_) | None => Box::new(self.of_kind(kind, namespace)),
        }
    }
}

/// An object under one of its terms. Terms are hashes: a collision costs one check more.
#[derive(Clone)]
struct ObjectTermIndexEntry {
    term: u64,
    /// `None` sorts before all objects of the term, and so is the start of a range.
    object: Option<Arc<ObjectMeta>>,
}

impl ObjectTermIndexEntry {
    fn of_object(meta: &Arc<ObjectMeta>) -> impl Iterator<Item = Self> {
        let ObjectRef { kind, namespace, .. } = &meta.object;
        let owner = meta.controller().map(|owner| term_of_owner(&owner.uid));
        let labels = meta.labels.iter();
        let labels = labels.map(|(key, value)| term_of_label(kind, namespace, key, value));
        let terms = owner.into_iter().chain(labels);
        terms.map(|term| Self { term, object: Some(Arc::clone(meta)) })
    }

    fn sort_key(&self) -> (u64, Option<&ObjectRef>) {
        (self.term, self.object.as_ref().map(|meta| &meta.object))
    }
}

impl Ord for ObjectTermIndexEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort_key().cmp(&other.sort_key())
    }
}

impl PartialOrd for ObjectTermIndexEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ObjectTermIndexEntry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ObjectTermIndexEntry {}

fn term_of_owner(uid: &str) -> u64 {
    term(("owner", uid))
}

fn term_of_label(kind: &KindName, namespace: &str, key: &str, value: &str) -> u64 {
    term(("label", kind, namespace, key, value))
}

fn term(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// One revision of the store, possibly with the writes of one reconcile added.
pub(crate) struct WatchedStoreSnapshot {
    tables: WatchedObjectTables,
}

impl WatchedStoreSnapshot {
    pub(crate) const fn new(tables: WatchedObjectTables) -> Self {
        Self { tables }
    }
}

impl WatchedStoreView for WatchedStoreSnapshot {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.tables.get(object).map(|object| Arc::new(object.value()))
    }

    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError> {
        let requirements = selector::requirements(selector)?;
        let objects = self.tables.candidates(kind, namespace, &requirements);
        let selector = Selector::from_iter(requirements);
        let matching = objects.filter(|object| selector.matches(&object.meta().labels));
        Ok(matching.map(|object| Arc::new(object.value())).collect())
    }

    fn meta(&self, object: &ObjectRef) -> Option<Arc<ObjectMeta>> {
        self.tables.get(object).map(|object| object.meta().clone())
    }

    fn references(&self, kind: &KindName, namespace: &str) -> Vec<ObjectRef> {
        let objects = self.tables.of_kind(kind, namespace);
        objects.map(|object| object.meta().object.clone()).collect()
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<ObjectMeta>> {
        let objects = self.tables.objects_under(term_of_owner(uid));
        let owned = objects
            .filter(|object| object.meta().controller().is_some_and(|owner| owner.uid == uid));
        owned.map(|object| object.meta().clone()).collect()
    }

    fn covers(&self, kind: &KindName) -> bool {
        self.tables.covered.contains(kind)
    }

    fn with(&self, object: Value) -> Arc<dyn WatchedStoreView> {
        let mut tables = self.tables.clone();
        match WatchedStoreObject::new(object) {
            Ok(object) => tables.insert(object),
            // Only replies of the API server come here, and they always have kind, name and uid.
            Err(error) => warn!(%error, "an object without identity is missing in a view"),
        }
        Arc::new(Self { tables })
    }

    fn without(&self, object: &ObjectRef) -> Arc<dyn WatchedStoreView> {
        let mut tables = self.tables.clone();
        tables.remove(object);
        Arc::new(Self { tables })
    }
}
