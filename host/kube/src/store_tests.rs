use serde_json::{Value, json};
use tholepin_core::port::WatchedStoreEvent;

use super::*;
use crate::testing::{object, stored};

const FIRST: WatchId = WatchId(1);
const SECOND: WatchId = WatchId(2);

fn scope() -> WatchScope {
    WatchScope::all(KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() })
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef { kind: scope().kind, namespace: "space".to_owned(), name: name.to_owned() }
}

fn listed(objects: &[(&str, &str, &str)]) -> WatchedObjectStore {
    let store = WatchedObjectStore::default();
    relist(&store, FIRST, objects);
    store
}

fn relist(store: &WatchedObjectStore, watch: WatchId, objects: &[(&str, &str, &str)]) {
    store.begin_list(watch);
    for (name, uid, version) in objects {
        store.put_watched(watch, stored(object(name, uid, version)));
    }
    store.end_list(watch, &scope());
}

fn version(store: &WatchedObjectStore, name: &str) -> Option<String> {
    store.get(&reference(name)).map(|object| object.meta().resource_version.clone())
}

async fn drain(store: &WatchedObjectStore, mut changes: Box<dyn StoreSubscription>) -> Vec<String> {
    store.end();
    let mut seen = Vec::new();
    while let Some(WatchedStoreEvent::Changed(change)) = changes.next().await {
        let at = |object: &Option<WatchedStoreObject>| {
            object.as_ref().map_or("-".to_owned(), |object| object.meta().resource_version.clone())
        };
        let WatchedStoreChange { object, before, after } = &*change;
        seen.push(format!("{} {}>{}", object.name, at(before), at(after)));
    }
    seen
}

#[tokio::test]
async fn a_relist_publishes_only_differences() {
    let store = listed(&[("a", "ua", "1"), ("b", "ub", "2"), ("c", "uc", "3")]);
    let changes = store.changes();
    relist(&store, FIRST, &[("a", "ua", "1"), ("b", "ub", "5"), ("d", "ud", "6")]);
    assert_eq!(drain(&store, changes).await, ["b 2>5", "d ->6", "c 3>-"]);
}

#[test]
fn an_older_state_never_replaces_a_newer_one() {
    let store = listed(&[("a", "ua", "10")]);
    for (arrives, expected) in
        [("9", "10"), ("10", "10"), ("11", "11"), ("100", "100"), ("99", "100")]
    {
        store.put_watched(FIRST, stored(object("a", "ua", arrives)));
        assert_eq!(version(&store, "a").as_deref(), Some(expected), "after {arrives}");
    }
}

#[test]
fn a_reply_is_stored_if_a_watch_follows_the_object_and_it_was_not_deleted() {
    let store = listed(&[("a", "ua", "1")]);
    store.put_written(stored(object("b", "ub", "2")));
    assert_eq!(version(&store, "b").as_deref(), Some("2"));
    store.remove_watched(FIRST, &stored(object("b", "ub", "3")));
    store.put_written(stored(object("b", "ub", "3")));
    assert_eq!(version(&store, "b"), None, "a late answer");
    store.put_written(stored(object("b", "new uid", "4")));
    assert_eq!(version(&store, "b").as_deref(), Some("4"), "a new object of this name");
    store.remove_watched(FIRST, &stored(object("b", "ub", "3")));
    assert_eq!(
        version(&store, "b").as_deref(),
        Some("4"),
        "the deletion of the old object does not remove the new one"
    );

    let unwatched = WatchedObjectStore::default();
    unwatched.put_written(stored(object("a", "ua", "1")));
    assert_eq!(version(&unwatched, "a"), None);
}

#[test]
fn a_reply_that_arrives_during_a_list_is_kept() {
    let store = listed(&[]);
    store.begin_list(FIRST);
    store.put_written(stored(object("a", "ua", "7")));
    store.end_list(FIRST, &scope());
    assert_eq!(version(&store, "a").as_deref(), Some("7"));
}

#[test]
fn an_object_stays_while_one_watch_sees_it() {
    let store = listed(&[("a", "ua", "1"), ("b", "ub", "2")]);
    relist(&store, SECOND, &[("a", "ua", "1")]);
    store.forget(FIRST);
    assert_eq!(version(&store, "a").as_deref(), Some("1"));
    assert_eq!(version(&store, "b"), None);
    store.forget(SECOND);
    assert_eq!(version(&store, "a"), None);
    assert!(!store.view().covers(&scope().kind));
}

fn child(name: &str, owner_uid: &str, version: &str, labels: Value) -> WatchedStoreObject {
    let mut child = object(name, &format!("uid of {name}"), version);
    child["metadata"]["labels"] = labels;
    child["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "x/v1", "kind": "Owner", "name": "o", "uid": owner_uid, "controller": true}
    ]);
    stored(child)
}

fn names(objects: &[Arc<Value>]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}

fn owned(view: &dyn WatchedStoreView, uid: &str) -> Vec<String> {
    view.owned_by(uid).iter().map(|meta| meta.object.name.clone()).collect()
}

#[test]
fn a_view_selects_by_owner_namespace_and_label_and_never_changes() {
    let store = listed(&[("z", "uz", "1")]);
    store.put_watched(FIRST, child("b", "owner", "2", json!({"app": "x"})));
    store.put_watched(FIRST, child("a", "owner", "3", json!({"app": "y"})));
    let view = store.view();
    store.put_watched(FIRST, child("a", "another", "4", json!({})));
    store.remove_watched(FIRST, &child("b", "owner", "5", json!({})));

    let kind = scope().kind;
    assert!(view.covers(&kind));
    assert_eq!(owned(&*view, "owner"), ["a", "b"]);
    assert_eq!(names(&view.list(&kind, "space", "").unwrap()), ["a", "b", "z"]);
    assert_eq!(names(&view.list(&kind, "", "app in (x,y)").unwrap()), ["a", "b"]);
    assert_eq!(names(&view.list(&kind, "elsewhere", "").unwrap()), Vec::<&str>::new());
    assert_eq!(names(&view.list(&kind, "space", "app=x").unwrap()), ["b"]);
    assert_eq!(names(&view.list(&kind, "space", "app,app!=x,app=y").unwrap()), ["a"]);
    assert_eq!(names(&view.list(&kind, "space", "app=x,app=y").unwrap()), Vec::<&str>::new());
    assert_eq!(names(&view.list(&kind, "elsewhere", "app=x").unwrap()), Vec::<&str>::new());
    assert_eq!(names(&view.list(&kind, "", "app=x").unwrap()), ["b"]);
    assert!(view.list(&kind, "", "not a selector").is_err());

    let now = store.view();
    assert_eq!(owned(&*now, "owner"), Vec::<&str>::new());
    assert_eq!(owned(&*now, "another"), ["a"]);
    for gone in ["app=x", "app=y"] {
        assert_eq!(names(&now.list(&kind, "space", gone).unwrap()), Vec::<&str>::new(), "{gone}");
    }
}

#[test]
fn a_view_with_own_writes_does_not_change_the_view_of_others() {
    let store = listed(&[("a", "ua", "1")]);
    let view = store.view();
    let own_view = view.with(child("b", "ua", "9", json!({})).value()).without(&reference("a"));
    assert_eq!(names(&own_view.list(&scope().kind, "", "").unwrap()), ["b"]);
    assert_eq!(owned(&*own_view, "ua"), ["b"]);
    assert_eq!(names(&view.list(&scope().kind, "", "").unwrap()), ["a"]);
}
