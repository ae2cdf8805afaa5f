use serde_json::{Value, json};

use tholepin_fakes::FakeView;

use super::*;
use crate::testing::kind;

fn object(kind_name: &str, name: &str, body: Value) -> Value {
    let mut object = json!({
        "apiVersion": "test.dev/v1", "kind": kind_name,
        "metadata": {"namespace": "space", "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": "1", "generation": 1},
    });
    merge(&mut object, body);
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn owned(kind_name: &str, name: &str, (owner_kind, owner, uid): (&str, &str, &str)) -> Value {
    object(
        kind_name,
        name,
        json!({"metadata": {"ownerReferences": [
        {"apiVersion": "test.dev/v1beta1", "kind": owner_kind, "name": owner, "uid": uid,
            "controller": true}]}}),
    )
}

fn change(before: Option<Value>, after: Option<Value>) -> WatchedStoreChange {
    let stored = |value: Value| WatchedStoreObject::new(value).unwrap();
    let (before, after) = (before.map(stored), after.map(stored));
    let any = before.as_ref().or(after.as_ref()).unwrap();
    WatchedStoreChange { object: any.meta().object.clone(), before, after }
}

fn manifest(watches: Value) -> Manifest {
    serde_json::from_value(json!({
        "name": "p", "version": "1", "watches": watches,
        "reconciles": [{"apiVersion": "test.dev/v1", "kind": "Thing"}],
    }))
    .unwrap()
}

fn watch(kind: &str, leads: Value) -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": kind, "leads": leads})
}

/// The names of the things that a change leads to.
#[track_caller]
fn check(watches: Value, change: &WatchedStoreChange, view: &FakeView, expected: &[&str]) {
    let plugin = "p".parse().unwrap();
    let routes = ReconcileMapper::new([(&plugin, &manifest(watches))]);
    let keys = routes.keys(change, view);
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, expected);
    assert!(keys.iter().all(|key| key.kind == kind("Thing") && key.plugin == plugin));
}

#[test]
fn a_chain_of_controllers_leads_to_its_end() {
    let view = FakeView::of([
        object("Thing", "a", json!({})),
        owned("Set", "a-set", ("Thing", "a", "uid-a")),
    ]);
    let watches = json!([watch("Set", json!("owner")), watch("Pod", json!("owner"))]);
    let pod = |set, uid| change(None, Some(owned("Pod", "a-0", ("Set", set, uid))));
    check(watches.clone(), &pod("a-set", "uid-a-set"), &view, &["a"]);
    check(watches.clone(), &pod("a-set", "uid of its predecessor"), &view, &[]);
    check(watches.clone(), &pod("unknown", "uid"), &view, &[]);
    let gone = change(Some(owned("Pod", "a-0", ("Thing", "a", "uid-a"))), None);
    check(watches, &gone, &view, &["a"]);
}

#[test]
fn an_object_that_changes_owner_concerns_both() {
    let view = FakeView::of([object("Thing", "a", json!({})), object("Thing", "b", json!({}))]);
    let moved = change(
        Some(owned("Pod", "x", ("Thing", "a", "uid-a"))),
        Some(owned("Pod", "x", ("Thing", "b", "uid-b"))),
    );
    check(json!([watch("Pod", json!("owner"))]), &moved, &view, &["a", "b"]);
}

#[test]
fn a_label_leads_to_the_object_it_names() {
    let view = FakeView::of([object("Thing", "a", json!({}))]);
    let labelled = |name| object("Pod", "x", json!({"metadata": {"labels": {"of": name}}}));
    let watches = json!([watch("Pod", json!({"label": "of"}))]);
    check(watches.clone(), &change(None, Some(labelled("a"))), &view, &["a"]);
    check(watches.clone(), &change(Some(labelled("a")), Some(labelled("b"))), &view, &["a"]);
    check(watches, &change(None, Some(labelled("b"))), &view, &[]);
}

#[test]
fn fields_lead_in_both_directions() {
    let view = FakeView::of([
        object("Thing", "a", json!({"spec": {"secret": "s"}})),
        object("Thing", "b", json!({"spec": {"secret": "s"}})),
        object("Thing", "c", json!({"spec": {"secret": "other"}})),
    ]);
    let secret = change(None, Some(object("Secret", "s", json!({}))));
    check(
        json!([watch("Secret", json!({"referredBy": ".spec.secret"}))]),
        &secret,
        &view,
        &["a", "b"],
    );
    let backup = change(None, Some(object("Backup", "x", json!({"spec": {"of": "c"}}))));
    check(json!([watch("Backup", json!({"refers": ".spec.of"}))]), &backup, &view, &["c"]);
}

#[test]
fn a_report_about_an_object_does_not_wake_its_plugin() {
    let view = FakeView::of([]);
    let base = || object("Thing", "a", json!({}));
    let with = |more: Value| {
        let mut changed = base();
        merge(&mut changed, json!({"metadata": {"resourceVersion": "2"}}));
        merge(&mut changed, more);
        change(Some(base()), Some(changed))
    };
    let cases = [
        (json!({"status": {"ready": 1}}), false),
        (json!({"metadata": {"generation": 2}}), true),
        (json!({"metadata": {"labels": {"a": "1"}}}), true),
        (json!({"metadata": {"annotations": {"a": "1"}}}), true),
        (json!({"metadata": {"finalizers": ["f"]}}), true),
        (json!({"metadata": {"deletionTimestamp": "t"}}), true),
        (json!({"metadata": {"uid": "another"}}), true),
    ];
    for (more, expected) in cases {
        let expected: &[&str] = if expected { &["a"] } else { &[] };
        check(json!([]), &with(more), &view, expected);
    }
    check(json!([]), &change(None, Some(base())), &view, &["a"]);
    check(json!([]), &change(Some(base()), None), &view, &["a"]);
}

#[test]
fn each_kind_is_watched_once() {
    let plugin = "p".parse().unwrap();
    let watches = json!([watch("Pod", json!("owner")), watch("Pod", json!({"label": "of"}))]);
    let scopes = ReconcileMapper::new([(&plugin, &manifest(watches))]).scopes();
    let kinds: Vec<_> = scopes.iter().map(|scope| scope.kind.kind.as_str()).collect();
    assert_eq!(kinds, ["Pod", "Thing"]);
}
