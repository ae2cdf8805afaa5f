//! Keys and objects for the unit tests of this crate.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tholepin_core::{CallError, ObjectKey, ObjectMeta, ObjectRef, port::StoreView};
use tholepin_schema::manifest::KindName;

pub(crate) fn kind(name: &str) -> KindName {
    KindName { api_version: "test.dev/v1".to_owned(), kind: name.to_owned() }
}

pub(crate) fn key(plugin: &str, name: &str) -> ObjectKey {
    ObjectKey {
        plugin: plugin.parse().unwrap(),
        kind: kind("Thing"),
        namespace: "space".to_owned(),
        name: name.to_owned(),
    }
}

/// A view over a fixed list of objects.
#[derive(Clone, Default)]
pub(crate) struct FakeView {
    pub(crate) objects: BTreeMap<ObjectRef, Arc<Value>>,
}

impl FakeView {
    pub(crate) fn of(objects: impl IntoIterator<Item = Value>) -> Self {
        let entry = |object: Value| (ObjectMeta::of(&object).unwrap().object, Arc::new(object));
        Self { objects: objects.into_iter().map(entry).collect() }
    }
}

impl StoreView for FakeView {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.objects.get(object).cloned()
    }

    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        _selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError> {
        let within = |object: &ObjectRef| {
            object.kind == *kind && (namespace.is_empty() || object.namespace == namespace)
        };
        let objects = self.objects.iter().filter(|(object, _)| within(object));
        Ok(objects.map(|(_, object)| object.clone()).collect())
    }

    fn owned_by(&self, _uid: &str) -> Vec<Arc<ObjectMeta>> {
        Vec::new()
    }

    fn covers(&self, _kind: &KindName) -> bool {
        true
    }

    fn with(&self, object: Value) -> Arc<dyn StoreView> {
        let mut view = self.clone();
        view.objects.insert(ObjectMeta::of(&object).unwrap().object, Arc::new(object));
        Arc::new(view)
    }

    fn without(&self, object: &ObjectRef) -> Arc<dyn StoreView> {
        let mut view = self.clone();
        view.objects.remove(object);
        Arc::new(view)
    }
}
