//! One revision of the fake's store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use tholepin_apimachinery::selector::LabelSelector;
use tholepin_core::{CallError, ObjectMeta, ObjectRef, port::WatchedStoreView};
use tholepin_schema::manifest::KindName;

/// The objects of the store, by reference.
pub type Objects = BTreeMap<ObjectRef, Arc<Value>>;

/// A fixed set of objects.
#[derive(Clone, Debug, Default)]
pub struct FakeView {
    objects: Objects,
    unwatched: BTreeSet<KindName>,
}

impl FakeView {
    /// A view of these objects, whose kinds are all watched.
    ///
    /// # Panics
    ///
    /// Panics if an object has no kind or name.
    #[must_use]
    pub fn of(objects: impl IntoIterator<Item = Value>) -> Self {
        let entry = |object: Value| (ObjectMeta::of(&object).unwrap().object, Arc::new(object));
        Self { objects: objects.into_iter().map(entry).collect(), unwatched: BTreeSet::new() }
    }

    /// The objects whose kinds are watched.
    pub(crate) fn new(objects: &Objects, unwatched: BTreeSet<KindName>) -> Self {
        let watched = objects.iter().filter(|(object, _)| !unwatched.contains(&object.kind));
        let objects = watched.map(|(object, value)| (object.clone(), value.clone())).collect();
        Self { objects, unwatched }
    }
}

/// The objects of a kind that are in the namespace (if it is not empty) and match the selector.
///
/// # Errors
///
/// Fails if the selector cannot be parsed.
pub(crate) fn select(
    objects: &Objects,
    kind: &KindName,
    namespace: &str,
    selector: &str,
) -> Result<Vec<Arc<Value>>, CallError> {
    let selector = LabelSelector::parse(selector);
    let selector = selector.map_err(|error| CallError::Invalid(error.to_string()))?;
    let matches = |object: &ObjectRef, value: &Value| {
        object.kind == *kind
            && (namespace.is_empty() || object.namespace == namespace)
            && selector.matches(value)
    };
    let matching = objects.iter().filter(|(object, value)| matches(object, value));
    Ok(matching.map(|(_, value)| value.clone()).collect())
}

impl WatchedStoreView for FakeView {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.objects.get(object).cloned()
    }

    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError> {
        select(&self.objects, kind, namespace, selector)
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<ObjectMeta>> {
        let metas = self.objects.values().map(|object| ObjectMeta::of(object).unwrap());
        let owned = metas.filter(|meta| meta.controller().is_some_and(|owner| owner.uid == uid));
        owned.map(Arc::new).collect()
    }

    fn covers(&self, kind: &KindName) -> bool {
        !self.unwatched.contains(kind)
    }

    fn with(&self, object: Value) -> Arc<dyn WatchedStoreView> {
        let mut next = self.clone();
        next.objects.insert(ObjectMeta::of(&object).unwrap().object, Arc::new(object));
        Arc::new(next)
    }

    fn without(&self, object: &ObjectRef) -> Arc<dyn WatchedStoreView> {
        let mut next = self.clone();
        next.objects.remove(object);
        Arc::new(next)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, app: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": app},
                "ownerReferences": [{"apiVersion": "a/v1", "kind": "K", "name": app, "uid": app,
                    "controller": true}]}})
    }

    #[test]
    fn selectors_namespaces_and_owners_are_honoured() {
        let view = FakeView::of([pod("a", "x"), pod("b", "y")]);
        let kind = KindName { api_version: "v1".into(), kind: "Pod".into() };
        let rows = [
            ("", "", 2),
            ("n", "app=x", 1),
            ("n", "app in (x,y),app!=x", 1),
            ("n", "!app", 0),
            ("other", "", 0),
        ];
        for (namespace, selector, expected) in rows {
            let found = view.list(&kind, namespace, selector).unwrap();
            assert_eq!(found.len(), expected, "{namespace} {selector}");
        }
        assert!(view.list(&kind, "n", "a near (b)").is_err());
        assert_eq!(view.owned_by("x").len(), 1);
    }

    #[test]
    fn objects_of_a_kind_that_is_not_watched_are_not_in_the_view() {
        let all = FakeView::of([pod("a", "x")]);
        let kind = KindName { api_version: "v1".into(), kind: "Pod".into() };
        let view = FakeView::new(&all.objects, [kind.clone()].into());
        assert!(!view.covers(&kind));
        assert!(view.list(&kind, "", "").unwrap().is_empty());
    }
}
