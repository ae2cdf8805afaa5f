//! Tests of the Kubernetes port against the embedded API server, over TLS.
#![cfg(test)]

mod fixture;
mod secrets;

use fixture::{KubeFixture, apply, config_map, definition, kind, reference, until, version};
use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, CallError, EventType, ObjectRef,
    condition::{ConditionStatus, HostWrittenCondition, QUARANTINED, READY, RECONCILED, Reason},
    port::{
        ApplyRequest, DeleteRequest, HostFieldsWriter, Kubernetes, PublishRequest, WatchScope,
        WatchSource, WatchState, WatchedStoreEvent,
    },
};

#[tokio::test]
async fn watches_start_and_end_while_the_host_runs() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    fixture.apply(config_map("a", json!({"k": "1"}))).await;
    assert!(!fixture.view().covers(&maps));

    let lease = fixture.api.lease(WatchScope::all(maps.clone()));
    let second = fixture.api.lease(WatchScope::all(maps.clone()));
    lease.following().await;
    let a = reference(maps.clone(), "a");
    let seen = fixture.view().get(&a).unwrap();
    assert_eq!(seen["kind"], "ConfigMap", "the kind is added to an item of a list");
    assert!(seen.pointer("/metadata/managedFields").is_none());
    assert_eq!(fixture.api.watches().len(), 1, "one watch serves both leases");

    drop(lease);
    fixture.apply(config_map("b", json!({}))).await;
    let b = reference(maps.clone(), "b");
    until(|| fixture.view().get(&b).is_some()).await;
    drop(second);
    until(|| fixture.api.watches().is_empty()).await;
    until(|| !fixture.view().covers(&maps) && fixture.view().get(&a).is_none()).await;

    let again = fixture.api.lease(WatchScope::all(maps.clone()));
    again.following().await;
    assert_eq!(fixture.view().list(&maps, "default", "").unwrap().len(), 2);
    fixture.end().await;
}

#[tokio::test]
async fn a_watch_of_a_missing_kind_waits_and_delays_no_other() {
    let fixture = KubeFixture::start().await;
    let things = fixture.api.lease(WatchScope::all(kind("test.tholepin.dev/v1", "Thing")));
    let maps = fixture.api.lease(WatchScope::all(kind("v1", "ConfigMap")));
    maps.following().await;
    until(|| things.state() == WatchState::KindMissing).await;

    let thing = json!({"apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"namespace": "default", "name": "a"}, "spec": {}});
    let refused = fixture.api.apply(apply(thing.clone())).await.unwrap_err();
    assert_eq!(refused.reason(), "NotFound", "{refused}");

    fixture.api.install_crd(&definition("things", "Thing")).await.unwrap();
    things.following().await;
    fixture.apply(thing).await;
    let a = reference(kind("test.tholepin.dev/v1", "Thing"), "a");
    until(|| fixture.view().get(&a).is_some()).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_watch_with_a_selector_covers_only_what_it_selects() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    let scope = WatchScope { kind: maps.clone(), namespace: String::new(), selector: "a=1".into() };
    let lease = fixture.api.lease(scope);
    lease.following().await;
    let labelled = |name: &str, value: &str| {
        let mut map = config_map(name, json!({}));
        map["metadata"]["labels"] = json!({"a": value});
        map
    };
    for (name, value) in [("in", "1"), ("out", "2")] {
        fixture.apply(labelled(name, value)).await;
    }
    until(|| fixture.view().get(&reference(maps.clone(), "in")).is_some()).await;
    assert!(fixture.view().get(&reference(maps.clone(), "out")).is_none());
    assert!(!fixture.view().covers(&maps), "a watch with a selector does not cover the kind");
    fixture.apply(labelled("in", "2")).await;
    until(|| fixture.view().get(&reference(maps.clone(), "in")).is_none()).await;
    fixture.end().await;
}

#[tokio::test]
async fn an_apply_that_would_change_nothing_is_not_sent() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    let lease = fixture.api.lease(WatchScope::all(maps.clone()));
    lease.following().await;

    let intent = config_map("a", json!({"k": "1"}));
    let first = fixture.apply(intent.clone()).await;
    until(|| fixture.view().get(&reference(maps.clone(), "a")).is_some()).await;
    let second = fixture.apply(intent.clone()).await;
    assert_eq!(version(&second), version(&first));
    assert_eq!(fixture.writes("configmaps", "a").await, 1, "the second apply was not sent");

    let mut rival = apply(config_map("a", json!({"k": "2"})));
    rival.field_manager = "rival".to_owned();
    let conflict = fixture.api.apply(rival.clone()).await.unwrap_err();
    assert!(
        matches!(&conflict, CallError::Conflict(text) if text.contains(".data.k")),
        "{conflict}"
    );
    rival.force = true;
    let taken = fixture.api.apply(rival).await.unwrap();
    until(|| fixture.view().get(&reference(maps.clone(), "a")).unwrap()["data"]["k"] == "2").await;
    let conflict = fixture.api.apply(apply(intent.clone())).await.unwrap_err();
    assert_eq!(conflict.reason(), "Conflict", "the store has the drift, so the apply was sent");
    let back = fixture.api.apply(ApplyRequest { force: true, ..apply(intent) }).await.unwrap();
    assert_eq!(back["data"]["k"], "1");
    assert_ne!(version(&back), version(&taken));

    let fewer = fixture.apply(config_map("a", json!({"other": "1"}))).await;
    assert_eq!(fewer["data"], json!({"other": "1"}), "another intent is always sent");
    fixture.end().await;
}

/// Changes one object as `kubectl patch --type=merge` does, and waits until the watch has reported it.
async fn edit_by_hand(fixture: &KubeFixture, object: &ObjectRef, patch: Value) -> Value {
    let kubectl = "kubectl-patch".to_owned();
    let edited = fixture.api.merge_patch(object.clone(), patch, kubectl, false).await.unwrap();
    let seen = || fixture.view().meta(object).map(|meta| meta.resource_version.clone());
    until(|| seen().as_deref() == Some(version(&edited))).await;
    edited
}

#[tokio::test]
async fn a_hand_edit_of_a_selector_is_reverted() {
    let fixture = KubeFixture::start().await;
    let services = kind("v1", "Service");
    let lease = fixture.api.lease(WatchScope::all(services.clone()));
    lease.following().await;
    let a = reference(services, "a");
    let intent = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "a", "labels": {}},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 6379}]}});
    let forced = || ApplyRequest { force: true, ..apply(intent.clone()) };
    let made = fixture.api.apply(forced()).await.unwrap();
    assert_eq!(made["spec"]["ports"][0]["protocol"], "TCP", "the server answers with its defaults");

    // The selector is one atomic value, which the intent owns. Fields that it does not name stay as edited.
    for (patch, pointer, expected) in [
        (json!({"spec": {"selector": {"typo": "1"}}}), "/spec/selector", json!({"app": "a"})),
        (json!({"spec": {"selector": {"app": "b"}}}), "/spec/selector", json!({"app": "a"})),
        (json!({"spec": {"selector": null}}), "/spec/selector", json!({"app": "a"})),
        (
            json!({"spec": {"publishNotReadyAddresses": true}}),
            "/spec/publishNotReadyAddresses",
            json!(true),
        ),
        (json!({"metadata": {"annotations": {"b": "1"}}}), "/metadata/annotations/b", json!("1")),
    ] {
        let edited = edit_by_hand(&fixture, &a, patch.clone()).await;
        let before = fixture.writes("services", "a").await;
        let back = fixture.api.apply(forced()).await.unwrap();
        assert_eq!(back.pointer(pointer).cloned().unwrap_or_default(), expected, "{patch}");
        let is_ours = pointer == "/spec/selector";
        assert_eq!(
            version(&back) != version(&edited),
            is_ours,
            "{patch}: a field of the intent is restored"
        );
        for _ in 0..2 {
            let again = fixture.api.apply(forced()).await.unwrap();
            assert_eq!(version(&again), version(&back), "{patch}");
        }
        let sent = fixture.writes("services", "a").await - before;
        assert_eq!(sent, 1, "{patch}: one apply is sent, and the repeats are skipped");
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_status_write_of_others_does_not_cause_an_apply() {
    let fixture = KubeFixture::start().await;
    fixture.api.install_crd(&definition("things", "Thing")).await.unwrap();
    let things = kind("test.tholepin.dev/v1", "Thing");
    let lease = fixture.api.lease(WatchScope::all(things.clone()));
    lease.following().await;
    let thing = |part: &str, value: Value| {
        json!({"apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
            "metadata": {"namespace": "default", "name": "a"}, part: value})
    };
    let intent = thing("spec", json!({"size": 1}));
    fixture.apply(intent.clone()).await;
    let conditions = |reason: &str| {
        let ready = json!([{"type": "Ready", "status": "True", "reason": reason}]);
        let object = thing("status", json!({"conditions": ready}));
        ApplyRequest { status: true, ..apply(object) }
    };
    let before = fixture.writes("things", "a").await;
    for reason in ["One", "Two"] {
        let shown = fixture.api.apply(conditions(reason)).await.unwrap();
        let seen = || fixture.view().get(&reference(things.clone(), "a"));
        until(|| seen().is_some_and(|seen| version(&seen) == version(&shown))).await;
        fixture.apply(intent.clone()).await;
        fixture.api.apply(conditions(reason)).await.unwrap();
    }
    assert_eq!(
        fixture.writes("things", "a").await - before,
        2,
        "only the two that changed something"
    );
    fixture.end().await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    let lease = fixture.api.lease(WatchScope::all(maps.clone()));
    lease.following().await;
    let dry = ApplyRequest { dry_run: true, ..apply(config_map("a", json!({"k": "1"}))) };
    assert_eq!(fixture.api.apply(dry).await.unwrap()["data"]["k"], "1");
    let missing = fixture.api.get(reference(maps.clone(), "a")).await.unwrap_err();
    assert_eq!(missing.reason(), "NotFound");
    assert!(fixture.view().get(&reference(maps, "a")).is_none());
    fixture.end().await;
}

fn secret(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "default", "name": "s"}, "stringData": data})
}

#[tokio::test]
async fn secret_values_are_fingerprints_except_in_secret_value() {
    let fixture = KubeFixture::start().await;
    let secrets = kind("v1", "Secret");
    let lease = fixture.api.lease(WatchScope::all(secrets.clone()));
    lease.following().await;
    let answer = fixture.apply(secret(json!({"a": "hunter2", "b": "hunter2", "c": "other"}))).await;
    let s = reference(secrets.clone(), "s");
    until(|| fixture.view().get(&s).is_some()).await;
    let cached = (*fixture.view().get(&s).unwrap()).clone();
    let live = fixture.api.get(s).await.unwrap();
    let listed = fixture.api.list(secrets, "default".to_owned(), String::new()).await.unwrap();
    for object in [&answer, &cached, &live, &listed[0]] {
        assert!(
            !object.to_string().contains("hunter2") && !object.to_string().contains("aHVudGVy")
        );
        assert_eq!(object["data"], cached["data"]);
        assert_eq!(object["data"]["a"], object["data"]["b"]);
        assert_ne!(object["data"]["a"], object["data"]["c"]);
    }
    let value = |key: &str| fixture.api.secret_value("default".into(), "s".into(), key.into());
    assert_eq!(value("a").await.unwrap(), b"hunter2");
    assert_eq!(value("none").await.unwrap_err().reason(), "NotFound");
    let copied = secret(json!({"d": cached["data"]["a"]}));
    assert_eq!(fixture.api.apply(apply(copied)).await.unwrap_err().reason(), "Invalid");
    fixture.end().await;
}

#[tokio::test]
async fn templates_are_filled_before_the_request_and_random_ones_once() {
    let fixture = KubeFixture::start().await;
    let lease = fixture.api.lease(WatchScope::all(kind("v1", "Secret")));
    lease.following().await;
    fixture.apply(secret(json!({"password": "hunter2"}))).await;
    let mut target =
        secret(json!({"url": "redis://:${secret:s/password}@h", "token": "${random:32}"}));
    target["metadata"]["name"] = json!("t");
    let first = fixture.apply(target.clone()).await;
    let value = |key: &str| fixture.api.secret_value("default".into(), "t".into(), key.into());
    assert_eq!(value("url").await.unwrap(), b"redis://:hunter2@h");
    let token = value("token").await.unwrap();
    assert_eq!(token.len(), 32);

    let again = fixture.apply(target.clone()).await;
    assert_eq!(version(&again), version(&first));
    fixture.apply(secret(json!({"password": "changed"}))).await;
    fixture.apply(target).await;
    assert_eq!(value("url").await.unwrap(), b"redis://:changed@h");
    assert_eq!(value("token").await.unwrap(), token, "made once");
    fixture.end().await;
}

#[tokio::test]
async fn repeats_of_an_event_are_counted() {
    let fixture = KubeFixture::start().await;
    let map = fixture.apply(config_map("a", json!({}))).await;
    let request = |reason: &str| PublishRequest {
        reporter: "tholepin:test".to_owned(),
        regarding: reference(kind("v1", "ConfigMap"), "a"),
        regarding_uid: map["metadata"]["uid"].as_str().unwrap().to_owned(),
        event_type: EventType::Warning,
        reason: reason.to_owned(),
        message: "look at it".to_owned(),
    };
    for reason in ["First", "First", "First", "Second"] {
        fixture.api.publish(request(reason)).await.unwrap();
    }
    let events = kind("events.k8s.io/v1", "Event");
    let events = fixture.api.list(events, "default".to_owned(), String::new()).await.unwrap();
    let mut seen: Vec<_> = events
        .iter()
        .map(|event| (event["reason"].as_str().unwrap(), event["series"]["count"].as_u64()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("First", Some(3)), ("Second", None)]);
    assert_eq!(events[0]["regarding"]["uid"], map["metadata"]["uid"]);
    fixture.end().await;
}

fn condition(
    condition_type: &'static str,
    status: ConditionStatus,
    reason: Reason,
) -> HostWrittenCondition {
    HostWrittenCondition {
        condition_type,
        status,
        reason,
        message: "m".to_owned(),
        observed_generation: Some(1),
    }
}

#[tokio::test]
async fn conditions_of_the_host_do_not_replace_those_of_the_plugin() {
    let fixture = KubeFixture::start().await;
    fixture.api.install_crd(&definition("things", "Thing")).await.unwrap();
    let things = kind("test.tholepin.dev/v1", "Thing");
    let a = reference(things.clone(), "a");
    let mut thing = json!({"apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"namespace": "default", "name": "a"}});
    fixture.apply(thing.clone()).await;
    thing["status"] = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    fixture.api.apply(ApplyRequest { status: true, ..apply(thing) }).await.unwrap();

    let set =
        |conditions: Vec<HostWrittenCondition>| fixture.api.set_conditions(a.clone(), conditions);
    let failed = || condition(RECONCILED, ConditionStatus::False, Reason::Failed);
    let quarantined = condition(QUARANTINED, ConditionStatus::True, Reason::TooManyStrikes);
    set(vec![failed(), quarantined]).await.unwrap();
    let types = |object: &Value| -> Vec<String> {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        conditions.iter().map(|condition| condition["type"].as_str().unwrap().to_owned()).collect()
    };
    let after = fixture.api.get(a.clone()).await.unwrap();
    assert_eq!(types(&after), ["Ready", "Reconciled", "Quarantined"]);

    set(vec![failed()]).await.unwrap();
    let fewer = fixture.api.get(a.clone()).await.unwrap();
    assert_eq!(types(&fewer), ["Ready", "Reconciled"]);
    set(vec![failed()]).await.unwrap();
    assert_eq!(version(&fixture.api.get(a.clone()).await.unwrap()), version(&fewer), "no change");
    set(Vec::new()).await.unwrap();
    assert_eq!(types(&fixture.api.get(a).await.unwrap()), ["Ready"]);

    let bare = reference(things.clone(), "bare");
    fixture
        .apply(json!({"apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"namespace": "default", "name": "bare"}}))
        .await;
    fixture.api.set_conditions(bare.clone(), vec![failed()]).await.unwrap();
    assert_eq!(types(&fixture.api.get(bare.clone()).await.unwrap()), ["Reconciled"]);
    fixture.api.set_conditions(bare.clone(), Vec::new()).await.unwrap();
    let bare = fixture.api.get(bare).await.unwrap();
    assert_eq!(
        bare.pointer("/status/conditions"),
        None,
        "an object without conditions has no list again: {bare}"
    );

    let gone = reference(things, "gone");
    fixture.api.set_conditions(gone, vec![failed()]).await.unwrap();
    fixture.end().await;
}

/// Returns each field manager that owns fields of the condition `Ready`, with these fields.
async fn owners_of_ready(fixture: &KubeFixture, object: &str) -> Vec<(String, Vec<String>)> {
    let managed = fixture.managed_fields("test.tholepin.dev/v1", "things", object).await;
    let fields_of = |entry: &Value| -> Vec<String> {
        let item = entry.pointer("/fieldsV1/f:status/f:conditions/k:{\"type\":\"Ready\"}");
        let fields = item.and_then(Value::as_object).into_iter().flatten();
        fields.map(|(name, _)| name.clone()).collect()
    };
    let manager = |entry: &Value| entry["manager"].as_str().unwrap().to_owned();
    let entries =
        managed.as_array().unwrap().iter().map(|entry| (manager(entry), fields_of(entry)));
    entries.filter(|(_, fields)| !fields.is_empty()).collect()
}

#[tokio::test]
async fn ready_is_taken_by_force_and_returned_to_the_plugin() {
    let fixture = KubeFixture::start().await;
    fixture.api.install_crd(&definition("things", "Thing")).await.unwrap();
    let things = kind("test.tholepin.dev/v1", "Thing");
    let lease = fixture.api.lease(WatchScope::all(things.clone()));
    lease.following().await;
    let a = reference(things, "a");
    let thing = json!({"apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"namespace": "default", "name": "a"}});
    fixture.apply(thing.clone()).await;
    // The same generation as in the host's condition, so that both managers own this field.
    let ready = json!({"type": "Ready", "status": "True", "reason": "AsWanted", "message": "well",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
    let mut reported = thing;
    reported["status"] = json!({"conditions": [ready]});
    let report = || ApplyRequest { status: true, ..apply(reported.clone()) };
    fixture.api.apply(report()).await.unwrap();

    let set =
        |conditions: Vec<HostWrittenCondition>| fixture.api.set_conditions(a.clone(), conditions);
    let reconciled = |reason| condition(RECONCILED, ConditionStatus::False, reason);
    let unknown = condition(READY, ConditionStatus::Unknown, Reason::PluginMissing);
    set(vec![reconciled(Reason::PluginMissing), unknown]).await.unwrap();
    let ready_of = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|entry| entry["type"] == "Ready").unwrap().clone()
    };
    let taken = fixture.api.get(a.clone()).await.unwrap();
    assert_eq!(ready_of(&taken)["status"], "Unknown");

    // The plugin is called again and fails before it writes its status: the condition keeps all its fields.
    set(vec![reconciled(Reason::Failed)]).await.unwrap();
    let kept = fixture.api.get(a.clone()).await.unwrap();
    assert_eq!(ready_of(&kept), ready_of(&taken));
    assert_eq!(fixture.api.apply(report()).await.unwrap_err().reason(), "Conflict");

    // The plugin forces the status that it applied last: the apply cache must not skip this.
    fixture.api.apply(ApplyRequest { force: true, ..report() }).await.unwrap();
    set(Vec::new()).await.unwrap();
    let released = fixture.api.get(a).await.unwrap();
    assert_eq!(released["status"]["conditions"], json!([ready]));
    let owners = owners_of_ready(&fixture, "a").await;
    assert_eq!(owners.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["tholepin:test"]);
    reported["status"] = json!({"conditions": []});
    fixture.api.apply(ApplyRequest { status: true, ..apply(reported) }).await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn an_accepted_spec_is_kept_once_and_outlives_the_host() {
    let fixture = KubeFixture::start().await;
    let made = fixture.apply(config_map("a", json!({}))).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let a = reference(kind("v1", "ConfigMap"), "a");
    let name = format!("tholepin-accepted-configmap-{uid}");
    let accepted = |generation, fields: &str| AcceptedSpec { generation, fields: fields.into() };
    let keep = |accepted| fixture.api.keep_accepted_spec(a.clone(), uid.to_owned(), accepted);
    let read = || fixture.api.accepted_spec(a.clone(), uid.to_owned());
    assert_eq!(read().await.unwrap(), None);
    // As two hosts would do concurrently.
    let first = accepted(1, "{\"spec\":1}");
    let (first_host, second_host) = tokio::join!(keep(first.clone()), keep(first.clone()));
    first_host.unwrap();
    second_host.unwrap();
    assert_eq!(read().await.unwrap(), Some(first.clone()));
    let map = || fixture.api.get(reference(kind("v1", "ConfigMap"), &name));
    let written = map().await.unwrap();
    keep(first).await.unwrap();
    assert_eq!(version(&map().await.unwrap()), version(&written), "no change");

    let third = accepted(3, "{\"spec\":3}");
    keep(third.clone()).await.unwrap();
    keep(accepted(2, "{\"spec\":2}")).await.unwrap();
    assert_eq!(read().await.unwrap(), Some(third), "a host that is behind changes nothing");
    assert_eq!(map().await.unwrap()["metadata"]["ownerReferences"][0]["uid"], uid);
    fixture.end().await;
}

#[tokio::test]
async fn finalizers_keep_each_other_and_delay_a_deletion() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    let lease = fixture.api.lease(WatchScope::all(maps.clone()));
    lease.following().await;
    let a = reference(maps, "a");
    let made = fixture.apply(config_map("a", json!({}))).await;
    let (one, other) = ("tholepin.dev/one".to_owned(), "tholepin.dev/other".to_owned());
    // Both start from the same cached state; the second one gets a conflict and is retried.
    let (first, second) = tokio::join!(
        fixture.api.add_finalizer(a.clone(), one.clone()),
        fixture.api.add_finalizer(a.clone(), other.clone())
    );
    first.unwrap();
    second.unwrap();
    let mut names = fixture.api.get(a.clone()).await.unwrap()["metadata"]["finalizers"].clone();
    names.as_array_mut().unwrap().sort_by_key(ToString::to_string);
    assert_eq!(names, json!([one, other]));

    let delete = |uid: &str| DeleteRequest {
        object: a.clone(),
        uid: Some(uid.to_owned()),
        resource_version: None,
        grace_seconds: None,
        dry_run: false,
    };
    assert_eq!(fixture.api.delete(delete("another")).await.unwrap_err().reason(), "Conflict");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    fixture.api.delete(delete(uid)).await.unwrap();
    until(|| fixture.view().meta(&a).is_some_and(|meta| meta.deleting)).await;
    let refused = fixture.api.add_finalizer(a.clone(), "tholepin.dev/late".to_owned()).await;
    assert_eq!(refused.unwrap_err().reason(), "Conflict");
    fixture.api.remove_finalizer(a.clone(), one).await.unwrap();
    fixture.api.remove_finalizer(a.clone(), other.clone()).await.unwrap();
    until(|| fixture.view().get(&a).is_none()).await;
    fixture.api.remove_finalizer(a, other).await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn changes_are_reported_with_values_until_the_store_ends() {
    let fixture = KubeFixture::start().await;
    let mut changes = fixture.api.changes();
    let lease = fixture.api.lease(WatchScope::all(kind("v1", "ConfigMap")));
    lease.following().await;
    fixture.apply(config_map("a", json!({"k": "1"}))).await;
    let appeared = loop {
        match changes.next().await {
            Some(WatchedStoreEvent::Changed(change)) if change.object.name == "a" => break change,
            Some(_) => {}
            None => panic!("the store ended early"),
        }
    };
    assert!(appeared.before.is_none());
    assert_eq!(appeared.after.unwrap().value()["data"]["k"], "1");
    fixture.end().await;
    while let Some(event) = changes.next().await {
        assert!(matches!(event, WatchedStoreEvent::Changed(_)));
    }
}

#[tokio::test]
async fn errors_have_the_reason_of_their_cause() {
    let fixture = KubeFixture::start().await;
    let maps = kind("v1", "ConfigMap");
    let patch = fixture.api.merge_patch(
        reference(maps.clone(), "none"),
        json!({"data": {"a": "1"}}),
        "tholepin:test".to_owned(),
        false,
    );
    assert_eq!(patch.await.unwrap_err().reason(), "NotFound");
    let mut wrong = config_map("a", json!({}));
    wrong["metadata"]["name"] = json!("Not A Name");
    assert_eq!(fixture.api.apply(apply(wrong)).await.unwrap_err().reason(), "Invalid");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    assert_eq!(fixture.api.apply(apply(nameless)).await.unwrap_err().reason(), "Invalid");
    fixture.apply(config_map("a", json!({"k": "1"}))).await;
    let a = reference(maps.clone(), "a");
    let patch = json!({"data": {"k": null, "l": "2"}});
    let patched =
        fixture.api.merge_patch(a, patch, "tholepin:test".to_owned(), false).await.unwrap();
    assert_eq!(patched["data"], json!({"l": "2"}));
    let selected = fixture.api.list(maps, "default".to_owned(), "not a selector".to_owned()).await;
    assert_eq!(selected.unwrap_err().reason(), "Invalid");
    fixture.end().await;
}
