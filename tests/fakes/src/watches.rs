//! The ports to the watches and to what the host writes on a reconciled object.

use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, BoxedFuture, CallError, ObjectRef,
    condition::{HostWrittenCondition, QUARANTINED, RECONCILED},
    port::{
        HostFieldsWriter, StoreSubscription, WatchLease, WatchScope, WatchSource, WatchState,
        WatchedStoreEvent,
    },
};
use tokio::sync::mpsc;

use crate::FakeCluster;

impl HostFieldsWriter for FakeCluster {
    fn set_conditions(
        &self,
        object: ObjectRef,
        conditions: Vec<HostWrittenCondition>,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        let result = self.check_api_server().map(|()| {
            self.change(&object, |object| replace_conditions(object, &conditions));
            self.conditions.lock().unwrap().push((object.name, conditions));
        });
        Box::pin(async { result })
    }

    fn add_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let result = self.check_api_server().map(|()| {
            self.change(&object, |object| object["metadata"]["finalizers"] = json!([finalizer]))
        });
        Box::pin(async { result })
    }

    fn remove_finalizer(
        &self,
        object: ObjectRef,
        _: String,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        let result = self.check_api_server().map(|()| {
            let is_deleting = |object: Value| object["metadata"].get("deletionTimestamp").is_some();
            if self.object(&object).is_some_and(is_deleting) {
                self.remove(&object);
            } else {
                self.change(&object, |object| object["metadata"]["finalizers"] = json!([]));
            }
        });
        Box::pin(async { result })
    }

    fn accepted_spec(
        &self,
        _: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Option<AcceptedSpec>, CallError>> {
        let result = self
            .check_api_server()
            .map(|()| self.accepted_specs.lock().unwrap().get(&uid).map(|(spec, _)| spec.clone()));
        Box::pin(async { result })
    }

    fn keep_accepted_spec(
        &self,
        _: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        let result = self.check_api_server().map(|()| {
            let mut specs = self.accepted_specs.lock().unwrap();
            let count = specs.get(&uid).map_or(0, |(_, count)| *count);
            specs.insert(uid, (accepted, count + 1));
        });
        Box::pin(async { result })
    }

    fn lacks_accepted_spec(&self, _: &ObjectRef, uid: &str) -> bool {
        !self.accepted_specs.lock().unwrap().contains_key(uid)
    }
}

/// Replaces the host's conditions and keeps those of others, as the port promises.
fn replace_conditions(object: &mut Value, conditions: &[HostWrittenCondition]) {
    let known = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_hosts = |known: &Value| {
        known["type"] == RECONCILED
            || known["type"] == QUARANTINED
            || conditions.iter().any(|written| known["type"] == written.condition_type)
    };
    let hosts = conditions.iter().map(|condition| {
        json!({"type": condition.condition_type, "status": condition.status.as_str(),
            "reason": condition.reason.as_str()})
    });
    let all = known.iter().filter(|known| !is_hosts(known)).cloned().chain(hosts);
    object["status"]["conditions"] = all.collect();
}

struct FakeWatchLease {
    state: WatchState,
}

impl WatchLease for FakeWatchLease {
    fn state(&self) -> WatchState {
        self.state.clone()
    }

    fn following(&self) -> BoxedFuture<'_, ()> {
        let is_following = self.state == WatchState::Following;
        Box::pin(async move {
            if !is_following {
                std::future::pending::<()>().await;
            }
        })
    }
}

struct FakeSubscription(mpsc::UnboundedReceiver<WatchedStoreEvent>);

impl StoreSubscription for FakeSubscription {
    fn next(&mut self) -> BoxedFuture<'_, Option<WatchedStoreEvent>> {
        Box::pin(self.0.recv())
    }
}

impl WatchSource for FakeCluster {
    fn lease(&self, scope: WatchScope) -> Box<dyn WatchLease> {
        let is_unwatched = self.unwatched_kinds.lock().unwrap().contains(&scope.kind);
        let state = if is_unwatched { WatchState::Starting } else { WatchState::Following };
        Box::new(FakeWatchLease { state })
    }

    fn changes(&self) -> Box<dyn StoreSubscription> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.subscribers.lock().unwrap().push(sender);
        Box::new(FakeSubscription(receiver))
    }
}
