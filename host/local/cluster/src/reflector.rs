//! A local copy of all objects of one kind, which notifies the controllers of each change.
//!
//! One [`Reflector`] per kind serves all controllers, so that there is one watch per kind and every decision
//! reads from memory. A reflector never writes to the API. A controller passes the reply to its write to
//! [`Reflector::learn`], so that its next decision reads its own write.
//!
//! It is hand-made on top of kube's `watcher`, because kube's `reflector` offers neither this read-your-writes
//! nor listeners that get the object as it was before the change.
//!
//! Invariants:
//! - Listeners are registered before the watch starts, and are called after the copy has changed.
//! - A stored object is never replaced by one with an older resourceVersion. A deleted object is not stored
//!   again after its deletion was delivered.
//! - Listeners only enqueue keys (see [`crate::worker`]); they never wait and never do I/O.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tholepin_agent::RetryPauses;
use tokio::sync::watch;
use tracing::debug;

/// The shortest pause before a failed watch is opened again.
const WATCH_RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause before a failed watch is opened again. It is short because the API server runs in this
/// process.
const WATCH_RETRY_MAX: Duration = Duration::from_secs(2);

/// The key of an object within its kind: namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl NamespacedName {
    /// Creates a key from namespace (empty if there is none) and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Returns the key of an object.
    pub fn of<K: kube::ResourceExt>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One change of the copy: an object was added (`before` is `None`), changed, or removed (`after` is `None`).
#[derive(Debug)]
pub struct ReflectorObjectChange<'a, K> {
    /// The object as it was stored before.
    pub before: Option<&'a K>,
    /// The object as it is stored now.
    pub after: Option<&'a K>,
}

impl<'a, K> ReflectorObjectChange<'a, K> {
    /// Returns the states before and after the change, for listeners that treat both alike.
    pub fn states(&self) -> impl Iterator<Item = &'a K> + use<'a, K> {
        self.before.into_iter().chain(self.after)
    }
}

type ChangeListener<K> = Box<dyn Fn(&ReflectorObjectChange<'_, K>) + Send + Sync>;

/// A local copy of all objects of kind `K`.
pub struct Reflector<K> {
    state: RwLock<ReflectorState<K>>,
    listeners: RwLock<Vec<ChangeListener<K>>>,
    synced: watch::Sender<bool>,
}

struct ReflectorState<K> {
    objects: BTreeMap<NamespacedName, Arc<K>>,
    /// The highest resourceVersion that the watch has delivered. The reply to a write that is older may be
    /// about an object whose deletion has been delivered since.
    delivered: u64,
}

impl<K> Debug for Reflector<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reflector").field("synced", &*self.synced.borrow()).finish_non_exhaustive()
    }
}

impl<K> Default for Reflector<K> {
    fn default() -> Self {
        Self {
            state: RwLock::new(ReflectorState { objects: BTreeMap::new(), delivered: 0 }),
            listeners: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }
}

impl<K> Reflector<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Registers a listener, which is called after each change. Changes before the registration are not
    /// repeated.
    pub fn listen(&self, listener: impl Fn(&ReflectorObjectChange<'_, K>) + Send + Sync + 'static) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// Returns the stored object of that key.
    pub fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.objects.get(key).cloned()
    }

    /// Returns all stored objects, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.objects.values().cloned().collect()
    }

    /// Returns the stored objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let from = NamespacedName::new(namespace, "");
        let rest = state.objects.range(from..);
        rest.take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Waits until the first full list has arrived.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender is a field of `self`, so the wait can end only with the value.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Stores the API server's reply to a write, unless the watch has delivered a newer resourceVersion
    /// already.
    pub fn learn(&self, object: K) {
        let version = version_of(&object);
        self.put(object, |state, _| state.delivered < version);
    }

    /// Stores an expected state of an object that the API server has not returned, under the resourceVersion
    /// of the stored one. The next event about the object replaces it.
    pub fn assume(&self, object: K) {
        let version = version_of(&object);
        self.put(object, |_, stored| stored.is_some_and(|stored| version_of(stored) == version));
    }

    /// Watches the API until the future is dropped, and reconnects whenever the watch ends.
    pub async fn follow(&self, client: Client) {
        let backoff = RetryPauses::new(WATCH_RETRY_MIN, WATCH_RETRY_MAX);
        let stream = watcher(Api::<K>::all(client), watcher::Config::default()).backoff(backoff);
        let mut stream = std::pin::pin!(stream);
        let mut listing: Option<BTreeMap<NamespacedName, K>> = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listing = Some(BTreeMap::new()),
                Ok(Event::InitApply(object)) => {
                    if let Some(listing) = &mut listing {
                        listing.insert(NamespacedName::of(&object), object);
                    }
                }
                Ok(Event::InitDone) => {
                    self.replace_all(listing.take().unwrap_or_default());
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(object)) => {
                    self.delivered(version_of(&object));
                    self.put(object, |_, _| true);
                }
                Ok(Event::Delete(object)) => {
                    self.delivered(version_of(&object));
                    self.remove(&NamespacedName::of(&object), Some(&object));
                }
                Err(error) => debug!(kind = %K::kind(&()), %error, "watch interrupted"),
            }
        }
    }

    fn delivered(&self, version: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.delivered = state.delivered.max(version);
    }

    fn replace_all(&self, listing: BTreeMap<NamespacedName, K>) {
        for stored in self.all() {
            let key = NamespacedName::of(&*stored);
            if !listing.contains_key(&key) {
                self.remove(&key, None);
            }
        }
        for object in listing.into_values() {
            self.delivered(version_of(&object));
            self.put(object, |_, _| true);
        }
    }

    /// Stores an object if it is not older than the stored one and `admits` returns true. `admits` is called
    /// under the lock, so that nothing can be delivered between the check and the change.
    fn put(&self, mut object: K, admits: impl FnOnce(&ReflectorState<K>, Option<&K>) -> bool) {
        object.meta_mut().managed_fields = None;
        let key = NamespacedName::of(&object);
        let object = Arc::new(object);
        let before = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let stored = state.objects.get(&key).map(|stored| &**stored);
            let is_older = stored.is_some_and(|stored| version_of(&*object) < version_of(stored));
            if is_older || !admits(&state, stored) {
                return;
            }
            state.objects.insert(key, Arc::clone(&object))
        };
        self.notify(&ReflectorObjectChange { before: before.as_deref(), after: Some(&object) });
    }

    /// Removes the object with that key. `seen` is the object of the deletion event, whose uid must match: a
    /// successor of the same name may have been learnt before the deletion of its predecessor is delivered.
    fn remove(&self, key: &NamespacedName, seen: Option<&K>) {
        let before = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let Some(stored) = state.objects.get(key) else { return };
            if seen.is_some_and(|seen| seen.meta().uid != stored.meta().uid) {
                return;
            }
            state.objects.remove(key)
        };
        self.notify(&ReflectorObjectChange { before: before.as_deref(), after: None });
    }

    fn notify(&self, change: &ReflectorObjectChange<'_, K>) {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener(change);
        }
    }
}

#[cfg(test)]
impl<K> Reflector<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Stores an object as the watch would.
    pub(crate) fn deliver(&self, object: K) {
        self.delivered(version_of(&object));
        self.put(object, |_, _| true);
    }

    /// Removes an object as the watch would.
    pub(crate) fn deliver_deletion(&self, object: &K) {
        self.delivered(version_of(object));
        self.remove(&NamespacedName::of(object), Some(object));
    }
}

/// Returns the resourceVersion as a number; 0 if the object has none. Versions are global and increase;
/// Kubernetes guarantees this since 1.35, and every server before did it.
fn version_of<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn map(name: &str, uid: &str, version: u64) -> ConfigMap {
        let metadata = json!({"namespace": "a", "name": name, "uid": uid, "resourceVersion": version.to_string()});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn version(reflector: &Reflector<ConfigMap>, name: &str) -> Option<u64> {
        reflector.get(&NamespacedName::new("a", name)).map(|object| version_of(&*object))
    }

    #[test]
    fn an_older_event_does_not_undo_what_was_learnt() {
        let reflector = Reflector::default();
        reflector.deliver(map("x", "1", 5));
        reflector.learn(map("x", "1", 9));
        reflector.deliver(map("x", "1", 7));
        assert_eq!(version(&reflector, "x"), Some(9));
    }

    #[test]
    fn a_late_answer_does_not_bring_back_a_deleted_object() {
        let reflector = Reflector::default();
        reflector.deliver(map("x", "1", 5));
        reflector.deliver_deletion(&map("x", "1", 8));
        reflector.learn(map("x", "1", 7));
        assert_eq!(version(&reflector, "x"), None);
    }

    #[test]
    fn a_successor_survives_the_late_end_of_its_predecessor() {
        let reflector = Reflector::default();
        reflector.deliver(map("x", "1", 5));
        reflector.learn(map("x", "2", 9));
        reflector.deliver_deletion(&map("x", "1", 8));
        assert_eq!(version(&reflector, "x"), Some(9));
    }

    #[test]
    fn a_new_list_tells_what_has_gone() {
        let reflector = Reflector::default();
        let notified = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notified);
        reflector.deliver(map("gone", "1", 5));
        reflector.deliver(map("stays", "2", 6));
        reflector.listen(move |change: &ReflectorObjectChange<'_, ConfigMap>| {
            let names =
                (change.before.map(NamespacedName::of), change.after.map(NamespacedName::of));
            sink.lock().unwrap().push(names);
        });
        reflector.replace_all(BTreeMap::from([(
            NamespacedName::new("a", "stays"),
            map("stays", "2", 6),
        )]));
        let gone = NamespacedName::new("a", "gone");
        assert_eq!(notified.lock().unwrap().first(), Some(&(Some(gone), None)));
        assert_eq!(reflector.in_namespace("a").len(), 1);
        assert!(reflector.in_namespace("b").is_empty());
    }
}
