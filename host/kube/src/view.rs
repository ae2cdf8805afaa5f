//! One revision of the store: persistent maps, so that a view costs a few reference counts whatever
//! the store holds, and a pass' own writes can be laid over it.
//!
//! Labels are looked up by walking the parsed metadata of one namespace, without touching a body.

use std::{collections::BTreeSet, sync::Arc};

use kube::core::SelectorExt;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde_json::Value;
use tholepin_core::{CallError, ObjectMeta, ObjectRef, StoredObject, port::StoreView};
use tholepin_schema::manifest::KindName;
use tracing::warn;

use crate::selector;

/// The objects and their indexes. A copy is cheap and independent.
#[derive(Clone, Default)]
pub(crate) struct Tables {
    objects: RedBlackTreeMapSync<ObjectRef, StoredObject>,
    /// By the uid of the controlling owner.
    owned: HashTrieMapSync<String, RedBlackTreeSetSync<ObjectRef>>,
    covered: Arc<BTreeSet<KindName>>,
}

impl Tables {
    pub(crate) fn get(&self, object: &ObjectRef) -> Option<&StoredObject> {
        self.objects.get(object)
    }

    pub(crate) fn insert(&mut self, object: StoredObject) {
        let reference = object.meta().object.clone();
        self.remove(&reference);
        if let Some(owner) = object.meta().controller() {
            let siblings = self.owned.get(&owner.uid).cloned().unwrap_or_default();
            self.owned.insert_mut(owner.uid.clone(), siblings.insert(reference.clone()));
        }
        self.objects.insert_mut(reference, object);
    }

    pub(crate) fn remove(&mut self, object: &ObjectRef) -> Option<StoredObject> {
        let before = self.objects.get(object).cloned()?;
        self.objects.remove_mut(object);
        if let Some(owner) = before.meta().controller()
            && let Some(siblings) = self.owned.get(&owner.uid)
        {
            let siblings = siblings.remove(object);
            if siblings.is_empty() {
                self.owned.remove_mut(&owner.uid);
            } else {
                self.owned.insert_mut(owner.uid.clone(), siblings);
            }
        }
        Some(before)
    }

    pub(crate) fn set_covered(&mut self, kinds: BTreeSet<KindName>) {
        self.covered = Arc::new(kinds);
    }

    /// The objects of a kind in order of namespace and name.
    fn of_kind<'a>(
        &'a self,
        kind: &'a KindName,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a StoredObject> {
        let first =
            ObjectRef { kind: kind.clone(), namespace: namespace.to_owned(), name: String::new() };
        let within = move |object: &ObjectRef| {
            object.kind == *kind && (namespace.is_empty() || object.namespace == namespace)
        };
        let from = self.objects.range(first..);
        from.take_while(move |(object, _)| within(object)).map(|(_, object)| object)
    }
}

/// One revision, possibly with a pass' own writes laid over it.
pub(crate) struct View {
    tables: Tables,
}

impl View {
    pub(crate) const fn new(tables: Tables) -> Self {
        Self { tables }
    }
}

impl StoreView for View {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.tables.get(object).map(|object| Arc::new(object.value()))
    }

    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError> {
        let selector = selector::parse(selector)?;
        let objects = self.tables.of_kind(kind, namespace);
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

    fn owned_by(&self, uid: &str) -> Vec<Arc<Value>> {
        let owned = self.tables.owned.get(uid).into_iter().flat_map(RedBlackTreeSetSync::iter);
        owned.filter_map(|object| self.get(object)).collect()
    }

    fn covers(&self, kind: &KindName) -> bool {
        self.tables.covered.contains(kind)
    }

    fn with(&self, object: Value) -> Arc<dyn StoreView> {
        let mut tables = self.tables.clone();
        match StoredObject::new(object) {
            Ok(object) => tables.insert(object),
            // Only a server's answer comes here, and it always has an identity.
            Err(error) => warn!(%error, "an object without identity was left out of a view"),
        }
        Arc::new(Self { tables })
    }

    fn without(&self, object: &ObjectRef) -> Arc<dyn StoreView> {
        let mut tables = self.tables.clone();
        tables.remove(object);
        Arc::new(Self { tables })
    }
}
