//! The state of the fake: objects, the Redis members, faults, and what was asked of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::Value;
use tholepin_core::{
    AcceptedSpec, CallError, ObjectMeta, ObjectRef, WatchedStoreObject,
    condition::HostWrittenCondition,
    port::{Clock, Entropy, WatchedStoreChange, WatchedStoreEvent},
};
use tholepin_schema::{manifest::KindName, snapshot::Snapshot};
use tokio::sync::{mpsc, watch};

use crate::view::Objects;

/// A Kubernetes cluster and its Redis members, in memory.
#[derive(Default)]
pub struct FakeCluster {
    /// The objects, by reference. Changing them here sends no event to subscribers of the store.
    pub objects: Mutex<Objects>,
    pub(crate) subscribers: Mutex<Vec<mpsc::UnboundedSender<WatchedStoreEvent>>>,
    pub(crate) resource_versions: AtomicU64,

    /// Kinds whose objects are answered by requests and are not in the store.
    pub unwatched_kinds: Mutex<BTreeSet<KindName>>,
    /// While set, every request to the API server fails with `Transient`. The store keeps its objects.
    pub api_server_is_away: AtomicBool,
    /// While set, every dial to an address is refused.
    pub dials_are_refused: AtomicBool,
    /// While set, no member answers.
    pub members_are_unreachable: AtomicBool,
    /// While set, no further instance can be polled.
    pub polls_are_refused: AtomicBool,
    /// While set, every action fails and changes no setting.
    pub actions_fail: AtomicBool,
    /// The password that the members accept; any password if absent.
    pub accepted_password: Mutex<Option<String>>,
    /// The snapshot that every observation returns.
    pub snapshot: Mutex<Snapshot>,
    /// The snapshots that subscribers of polls receive, one after the other.
    pub polled: watch::Sender<Option<Arc<Snapshot>>>,

    /// The writes that arrived, in order, each as one line.
    pub writes: Mutex<Vec<String>>,
    /// The names of the Secrets whose values were read.
    pub secrets_read: Mutex<Vec<String>>,
    /// The passwords with which members were observed.
    pub passwords_used: Mutex<Vec<Option<String>>>,
    /// The Pods of the last observation, and whether their containers were said to run.
    pub observed_members: Mutex<Vec<(String, bool)>>,
    /// The instances that are polled, with the detail that was asked for.
    pub polled_instances: Mutex<BTreeMap<String, String>>,
    /// The conditions that the host wrote: the object's name and the conditions, in order.
    pub conditions: Mutex<Vec<(String, Vec<HostWrittenCondition>)>>,
    /// The events that were published: the name of the object and the message.
    pub events: Mutex<Vec<(String, String)>>,
    /// The accepted specs by the object's uid, each with the number of times that one was kept.
    pub accepted_specs: Mutex<BTreeMap<String, (AcceptedSpec, usize)>>,
}

impl FakeCluster {
    /// Puts an object into the API server and the store; subscribers of the store receive the change.
    ///
    /// # Panics
    ///
    /// Panics if the object has no kind or name.
    pub fn put(&self, object: Value) {
        let reference = ObjectMeta::of(&object).unwrap().object;
        let after = WatchedStoreObject::new(object.clone()).unwrap();
        let before = self.objects.lock().unwrap().insert(reference.clone(), Arc::new(object));
        self.publish_change(reference, before, Some(after));
    }

    /// Removes an object from the API server and the store; subscribers of the store receive the change.
    pub fn remove(&self, reference: &ObjectRef) {
        let before = self.objects.lock().unwrap().remove(reference);
        self.publish_change(reference.clone(), before, None);
    }

    /// Returns an object as the API server has it.
    pub fn object(&self, reference: &ObjectRef) -> Option<Value> {
        self.objects.lock().unwrap().get(reference).map(|object| (**object).clone())
    }

    /// Sends an event of the store to every subscriber.
    pub fn send_store_event(&self, event: &WatchedStoreEvent) {
        let mut subscribers = self.subscribers.lock().unwrap();
        subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn publish_change(
        &self,
        object: ObjectRef,
        before: Option<Arc<Value>>,
        after: Option<WatchedStoreObject>,
    ) {
        let before = before.map(|before| WatchedStoreObject::new((*before).clone()).unwrap());
        self.send_store_event(&WatchedStoreEvent::Changed(Box::new(WatchedStoreChange {
            object,
            before,
            after,
        })));
    }

    /// Changes an object in place.
    pub(crate) fn change(&self, reference: &ObjectRef, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.object(reference).unwrap();
        change(&mut object);
        self.put(object.clone());
        object
    }

    pub(crate) fn record_write(&self, line: String) {
        self.writes.lock().unwrap().push(line);
    }

    pub(crate) fn next_resource_version(&self) -> String {
        (self.resource_versions.fetch_add(1, Ordering::SeqCst) + 1).to_string()
    }

    /// Fails while the API server is away.
    pub(crate) fn check_api_server(&self) -> Result<(), CallError> {
        if self.api_server_is_away.load(Ordering::SeqCst) {
            return Err(CallError::Transient("the API server is away".to_owned()));
        }
        Ok(())
    }
}

/// The time that [`FixedClock`] returns, in milliseconds.
pub const NOW_MS: u64 = 1_000_000;

/// A clock whose time does not pass, and randomness whose bytes are all 7.
#[derive(Clone, Copy, Debug)]
pub struct FixedClock;

impl Clock for FixedClock {
    fn now_ms(&self) -> u64 {
        NOW_MS
    }
}

impl Entropy for FixedClock {
    fn bytes(&self, count: usize) -> Vec<u8> {
        vec![7; count]
    }
}
