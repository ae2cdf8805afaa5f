//! A reconciled object whose apply meets another owner's object is woken when that object changes.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectMeta, WatchedStoreObject, WriteMode, port::WatchedStoreChange,
};
use tholepin_schema::manifest::GrantScope;

use crate::{
    GateFixture,
    fixture::{FakeCluster, object},
    grants,
};

/// Replaces or removes an object, and returns the change as the store reports it.
fn change(world: &FakeCluster, before: &Value, after: Option<&Value>) -> WatchedStoreChange {
    let stored = |object: &Value| WatchedStoreObject::new(object.clone()).unwrap();
    let object = ObjectMeta::of(before).unwrap().object;
    match after {
        Some(after) => world.put(after.clone()),
        None => {
            world.objects.lock().unwrap().remove(&object);
        }
    }
    WatchedStoreChange { object, before: Some(stored(before)), after: after.map(stored) }
}

#[tokio::test]
async fn a_refused_apply_wakes_its_object_when_the_conflicting_object_is_deleted() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let mut theirs = object("v1", "ConfigMap", "theirs", Some("them"));
    let woken = |change: &WatchedStoreChange| bench.gate.woken_by_change(change).len();
    let Err(CallError::Denied(refused)) = bench.apply("theirs", Some("me")).await else {
        panic!("the object belongs to another owner")
    };
    for word in ["Thing n/them", "rename one of the two"] {
        assert!(refused.contains(word), "no {word} in {refused}");
    }
    assert!(!refused.contains("scope"), "a wider scope would overwrite the object: {refused}");
    // The wait begins while the reconcile runs. A change that keeps the owner wakes no key.
    let before = theirs.clone();
    theirs["data"] = Value::Null;
    assert_eq!(woken(&change(&bench.world, &before, Some(&theirs))), 0);
    bench.context.close().await;
    assert_eq!(bench.gate.woken_by_overflow().len(), 1);
    let handed = object("v1", "ConfigMap", "theirs", Some("me"));
    assert_eq!(woken(&change(&bench.world, &theirs, Some(&handed))), 1);
    assert_eq!(woken(&change(&bench.world, &handed, None)), 1);

    // A reconcile without a conflict waits for nothing.
    bench.sibling(WriteMode::Live).close().await;
    assert_eq!(woken(&change(&bench.world, &theirs, None)), 0);
}

#[tokio::test]
async fn an_object_deleted_during_the_reconcile_is_no_conflict() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    // The view of the reconcile is as old as its start.
    let theirs = object("v1", "ConfigMap", "theirs", Some("them"));
    change(&bench.world, &theirs, None);
    assert!(bench.apply("theirs", Some("me")).await.is_ok());
}

#[tokio::test]
async fn neither_a_plan_nor_a_deleted_object_waits_for_a_name() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let plan = GateFixture { context: bench.sibling(WriteMode::Plan), ..bench };
    assert!(plan.apply("theirs", Some("me")).await.is_err());
    assert_eq!(plan.gate.woken_by_overflow().len(), 0);
    let live = GateFixture { context: plan.sibling(WriteMode::Live), ..plan };
    assert!(live.apply("free", Some("me")).await.is_err());
    assert_eq!(live.gate.woken_by_overflow().len(), 1);
    live.gate.unsubscribe(&Arc::clone(&live.scope.key));
    assert_eq!(live.gate.woken_by_overflow().len(), 0);
}
