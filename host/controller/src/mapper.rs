//! Maps a change of the store to the reconciled objects that it concerns, by the watches of the manifests.
//!
//! Pure over a view of the store.
//!
//! Invariants:
//! - Kinds are compared by group and name, never by version: an owner reference may name another version than the
//!   watched one.
//! - An owner counts only if it still has the uid that the reference names.
//! - A change of the reconciled object's own status maps to nothing: a plugin that reports would otherwise wake itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tholepin_core::{
    ObjectMeta, ObjectRef, OwnerReference, PluginName, ReconcileKey, WatchedStoreObject,
    port::{WatchScope, WatchedStoreChange, WatchedStoreView},
};
use tholepin_schema::manifest::{KindName, Manifest, WatchMapping};

use crate::field;

/// The longest chain of owners that is followed. Usual ones are short: Pod, ReplicaSet, Deployment is three.
const CHAIN_LENGTH_MAX: usize = 8;

/// The routes from changes of each kind to reconciled objects.
#[derive(Default)]
pub(crate) struct ReconcileMapper {
    by_kind: BTreeMap<GroupKind, Vec<KindToReconcileMapping>>,
    /// The version in which a kind is watched.
    watched: BTreeMap<GroupKind, KindName>,
}

/// The group and the name of a kind.
type GroupKind = (String, String);

struct KindToReconcileMapping {
    plugin: PluginName,
    reconciles: Arc<Vec<KindName>>,
    source: ReconcileMappingSource,
}

/// The source of a change: the reconciled object itself, or an object that maps to it.
enum ReconcileMappingSource {
    Itself,
    By(WatchMapping),
}

impl ReconcileMapper {
    /// Creates the routes of these manifests.
    pub(crate) fn new<'a>(
        plugins: impl IntoIterator<Item = (&'a PluginName, &'a Manifest)>,
    ) -> Self {
        let mut routes = Self::default();
        for (plugin, manifest) in plugins {
            let kinds = manifest.reconciles.iter().map(|reconciled| reconciled.name.clone());
            let reconciles = Arc::new(kinds.collect::<Vec<_>>());
            for kind in &*reconciles {
                routes.add(kind, plugin, &reconciles, ReconcileMappingSource::Itself);
            }
            for watched in &manifest.watches {
                let source = ReconcileMappingSource::By(watched.leads.clone());
                routes.add(&watched.name, plugin, &reconciles, source);
            }
        }
        routes
    }

    /// Returns the reconciled kinds, each with its plugin.
    pub(crate) fn reconciled(&self) -> Vec<(PluginName, KindName)> {
        let routes = self.by_kind.iter().flat_map(|(kind, routes)| {
            let own = routes
                .iter()
                .filter(|route| matches!(route.source, ReconcileMappingSource::Itself));
            own.map(move |route| (route.plugin.clone(), kind))
        });
        let watched = |kind| self.watched.get(kind).cloned();
        routes.filter_map(|(plugin, kind)| Some((plugin, watched(kind)?))).collect()
    }

    fn add(
        &mut self,
        kind: &KindName,
        plugin: &PluginName,
        reconciles: &Arc<Vec<KindName>>,
        source: ReconcileMappingSource,
    ) {
        let route = KindToReconcileMapping {
            plugin: plugin.clone(),
            reconciles: reconciles.clone(),
            source,
        };
        self.by_kind.entry(group_kind(kind)).or_default().push(route);
        self.watched.entry(group_kind(kind)).or_insert_with(|| kind.clone());
    }

    /// Returns the watches that these routes need.
    #[must_use]
    pub(crate) fn scopes(&self) -> BTreeSet<WatchScope> {
        self.watched.values().cloned().map(WatchScope::all).collect()
    }

    /// Returns the keys that a change concerns.
    #[must_use]
    pub(crate) fn keys(
        &self,
        change: &WatchedStoreChange,
        view: &dyn WatchedStoreView,
    ) -> BTreeSet<ReconcileKey> {
        let mut keys = BTreeSet::new();
        let routes = self.by_kind.get(&group_kind(&change.object.kind));
        for route in routes.into_iter().flatten() {
            let found = match &route.source {
                ReconcileMappingSource::Itself if is_significant(change) => {
                    vec![change.object.clone()]
                }
                ReconcileMappingSource::Itself => Vec::new(),
                ReconcileMappingSource::By(leads) => self.mapped(route, leads, change, view),
            };
            keys.extend(found.into_iter().map(|object| key(&route.plugin, object)));
        }
        keys
    }

    /// Returns the reconciled objects to which a change of another object maps.
    fn mapped(
        &self,
        route: &KindToReconcileMapping,
        leads: &WatchMapping,
        change: &WatchedStoreChange,
        view: &dyn WatchedStoreView,
    ) -> Vec<ObjectRef> {
        let WatchedStoreChange { object, before, after } = change;
        let states = || before.iter().chain(after.iter());
        match leads {
            WatchMapping::Owner => {
                let ends = states().filter_map(|state| self.chain_end(route, state.meta(), view));
                ends.collect()
            }
            WatchMapping::Label(label) => {
                let names = states().filter_map(|state| state.meta().labels.get(label));
                names.flat_map(|name| route.named(&object.namespace, name, view)).collect()
            }
            WatchMapping::Refers(path) => {
                let names = states().flat_map(|state| {
                    let value = state.value();
                    field::texts(&value, path).into_iter().map(str::to_owned).collect::<Vec<_>>()
                });
                names.flat_map(|name| route.named(&object.namespace, &name, view)).collect()
            }
            WatchMapping::ReferredBy(path) => route.referring(object, path, view),
            // A mapping that this host does not know is refused when the plugin is checked.
            _ => Vec::new(),
        }
    }

    /// Returns the reconciled object at the end of an object's chain of controllers.
    fn chain_end(
        &self,
        route: &KindToReconcileMapping,
        meta: &ObjectMeta,
        view: &dyn WatchedStoreView,
    ) -> Option<ObjectRef> {
        let namespace = &meta.object.namespace;
        let mut owner = meta.controller()?.clone();
        for _ in 0..CHAIN_LENGTH_MAX {
            let kind = self.watched.get(&group_kind(&owner.kind))?;
            let found = owner_in(view, kind, namespace, &owner)?;
            if route.reconciles.iter().any(|reconciled| reconciled == kind) {
                return Some(found.object.clone());
            }
            owner = found.controller()?.clone();
        }
        None
    }
}

impl KindToReconcileMapping {
    /// Returns the reconciled objects of this name, in the namespace of the changed object or cluster-scoped.
    fn named(&self, namespace: &str, name: &str, view: &dyn WatchedStoreView) -> Vec<ObjectRef> {
        let kinds = self.reconciles.iter();
        kinds.filter_map(|kind| Some(find(view, kind, namespace, name)?.object.clone())).collect()
    }

    /// Returns the reconciled objects whose field holds the name of the changed object.
    fn referring(
        &self,
        changed: &ObjectRef,
        path: &str,
        view: &dyn WatchedStoreView,
    ) -> Vec<ObjectRef> {
        let mut found = Vec::new();
        for kind in &*self.reconciles {
            for object in view.list(kind, &changed.namespace, "").unwrap_or_default() {
                if field::texts(&object, path).contains(&changed.name.as_str())
                    && let Ok(meta) = ObjectMeta::of(&object)
                {
                    found.push(meta.object);
                }
            }
        }
        found
    }
}

fn group_kind(kind: &KindName) -> GroupKind {
    (kind.group().to_owned(), kind.kind.clone())
}

fn key(plugin: &PluginName, object: ObjectRef) -> ReconcileKey {
    let ObjectRef { kind, namespace, name } = object;
    ReconcileKey { plugin: plugin.clone(), kind, namespace, name }
}

/// Returns an object of this name in the namespace, or else a cluster-scoped one.
fn find(
    view: &dyn WatchedStoreView,
    kind: &KindName,
    namespace: &str,
    name: &str,
) -> Option<Arc<ObjectMeta>> {
    let reference = |namespace: &str| ObjectRef {
        kind: kind.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    view.meta(&reference(namespace)).or_else(|| view.meta(&reference("")))
}

fn owner_in(
    view: &dyn WatchedStoreView,
    kind: &KindName,
    namespace: &str,
    owner: &OwnerReference,
) -> Option<Arc<ObjectMeta>> {
    find(view, kind, namespace, &owner.name).filter(|found| found.uid == owner.uid)
}

/// Returns true if a change of a reconciled object is more than a change of its status.
fn is_significant(change: &WatchedStoreChange) -> bool {
    let (Some(before), Some(after)) = (&change.before, &change.after) else { return true };
    let relevant = |state: &WatchedStoreObject| {
        let meta = state.meta();
        (
            meta.uid.clone(),
            meta.labels.clone(),
            meta.annotations.clone(),
            meta.finalizers.clone(),
            meta.deleting,
        )
    };
    let version = |state: &WatchedStoreObject| match state.meta().generation {
        Some(generation) => generation.to_string(),
        None => state.meta().resource_version.clone(),
    };
    relevant(before) != relevant(after) || version(before) != version(after)
}

/// Returns all objects that a plugin reconciles.
#[must_use]
pub(crate) fn all(
    plugin: &PluginName,
    manifest: &Manifest,
    view: &dyn WatchedStoreView,
) -> Vec<ReconcileKey> {
    let kinds = manifest.reconciles.iter();
    let objects = kinds.flat_map(|reconciled| view.references(&reconciled.name, ""));
    objects.map(|object| key(plugin, object)).collect()
}

/// Returns the object that a key names.
#[must_use]
pub(crate) fn reference_of(key: &ReconcileKey) -> ObjectRef {
    let ReconcileKey { plugin: _, kind, namespace, name } = key;
    ObjectRef { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() }
}

/// Returns the cause that reports and requests name for a change.
#[must_use]
pub(crate) fn cause(change: &WatchedStoreChange) -> String {
    let what = match (&change.before, &change.after) {
        (None, _) => "appeared",
        (Some(_), Some(_)) => "changed",
        (Some(_), None) => "vanished",
    };
    format!("{} {what}", change.object)
}

#[cfg(test)]
#[path = "mapper_tests.rs"]
mod tests;
