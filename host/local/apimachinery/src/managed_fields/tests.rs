use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds;
use crate::merge_schema::BuiltinMergeSchema;

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";
const T3: &str = "2026-01-01T00:00:03Z";

/// An object of one kind; every write replaces its state.
struct TestObject {
    schema: BuiltinMergeSchema,
    api_version: String,
    object: Option<Value>,
}

impl TestObject {
    fn of(group: &str, plural: &str) -> Self {
        let kind = kinds::find(group, "v1", plural).unwrap();
        Self {
            schema: BuiltinMergeSchema::for_kind(kind),
            api_version: kind.api_version(),
            object: None,
        }
    }

    fn options<'a>(&'a self, manager: &'a str, now: &'a str) -> ApplyOptions<'a> {
        ApplyOptions {
            manager,
            force: false,
            subresource: None,
            now,
            api_version: &self.api_version,
        }
    }

    #[track_caller]
    fn apply(&mut self, manager: &str, now: &str, intent: Value) -> ApplyOutcome {
        let options = self.options(manager, now);
        let applied = apply(self.object.as_ref(), &intent, &options, &self.schema).unwrap();
        self.object = Some(applied.object.clone());
        applied
    }

    #[track_caller]
    fn force(&mut self, manager: &str, now: &str, intent: Value) {
        let options = ApplyOptions { force: true, ..self.options(manager, now) };
        let applied = apply(self.object.as_ref(), &intent, &options, &self.schema).unwrap();
        self.object = Some(applied.object);
    }

    #[track_caller]
    fn refused(&self, manager: &str, intent: Value) -> Vec<String> {
        let options = self.options(manager, T3);
        match apply(self.object.as_ref(), &intent, &options, &self.schema).unwrap_err() {
            ApplyError::Conflicts(conflicts) => conflicts
                .into_iter()
                .map(|conflict| format!("{} {}", conflict.manager, conflict.field))
                .collect(),
            error @ (ApplyError::Item(_)
            | ApplyError::ManagedFieldsSet
            | ApplyError::NotAnObject) => {
                vec![error.to_string()]
            }
        }
    }

    fn update(&mut self, manager: &str, now: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.object.clone().unwrap_or_else(|| json!({}));
        change(&mut new);
        let options = ManagedFieldsUpdateOptions {
            manager,
            subresource: None,
            now,
            api_version: &self.api_version,
        };
        track_update(self.object.as_ref(), &mut new, &options, &self.schema);
        self.object = Some(new);
    }

    fn at(&self, pointer: &str) -> Value {
        self.object.as_ref().unwrap().pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// Returns the entries as `manager operation subresource time fieldsV1`, with `-` for an absent value.
    fn entries(&self) -> Vec<String> {
        let entries = self.at("/metadata/managedFields");
        let entries = entries.as_array().cloned().unwrap_or_default();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        entries
            .iter()
            .map(|entry| {
                let names = ["manager", "operation", "subresource", "time"];
                let names: Vec<String> = names.iter().map(|name| text(entry, name)).collect();
                format!("{} {}", names.join(" "), entry["fieldsV1"])
            })
            .collect()
    }

    fn owners_of(&self, path: &str) -> Vec<String> {
        let entries = ManagedFieldsEntries::of(self.object.as_ref().unwrap());
        let owns =
            |entry: &&ManagedFieldsEntry| entry.fields.paths().iter().any(|owned| owned == path);
        entries.iter().filter(owns).map(|entry| entry.identity.manager.clone()).collect()
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

#[test]
fn the_first_apply_creates_the_object_and_owns_its_fields() {
    let mut history = TestObject::of("", "configmaps");
    let applied = history.apply("one", T1, json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m", "namespace": "n", "labels": {"l": "1"}, "creationTimestamp": null},
        "data": {"a": "1"},
    }));
    assert!(applied.created && applied.changed);
    assert_eq!(
        history.entries(),
        [format!(
            r#"one Apply - {T1} {{"f:data":{{"f:a":{{}}}},"f:metadata":{{"f:labels":{{"f:l":{{}}}}}}}}"#
        )]
    );
    let entry = history.at("/metadata/managedFields/0");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["apiVersion"], "v1");
}

#[test]
fn applying_the_same_intent_again_changes_nothing() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1"})));
    let before = history.object.clone();
    let applied = history.apply("one", T2, map(json!({"a": "1"})));
    assert!(!applied.changed && !applied.created);
    assert_eq!(history.object, before);
    history.apply("one", T3, map(json!({"a": "2"})));
    assert_eq!(history.at("/metadata/managedFields/0/time"), T3, "a new value is a change");
}

#[test]
fn another_value_for_a_field_of_another_manager_conflicts() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1", "b": "1"})));
    assert_eq!(history.refused("two", map(json!({"a": "2", "c": "3"}))), ["one .data.a"]);
    assert_eq!(
        history.refused("two", map(json!({"a": "2", "b": "2"}))),
        ["one .data.a", "one .data.b"]
    );
    history.force("two", T2, map(json!({"a": "2"})));
    assert_eq!(history.at("/data"), json!({"a": "2", "b": "1"}));
    assert_eq!(history.owners_of(".data.a"), ["two"]);
    assert_eq!(history.refused("one", map(json!({"a": "1", "b": "1"}))), ["two .data.a"]);
}

#[test]
fn conflict_messages_equal_those_of_the_server() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1"})));
    history.update("kubectl-edit", T2, |object| object["data"]["b"] = json!("1"));
    let intent = map(json!({"a": "2", "b": "2"}));
    let options = history.options("two", T3);
    let error = apply(history.object.as_ref(), &intent, &options, &history.schema).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1 at \
         2026-01-01T00:00:02Z:\n- .data.b\nconflicts with \"one\":\n- .data.a"
    );
    let ApplyError::Conflicts(conflicts) = error else { panic!("must be conflicts") };
    assert_eq!(conflicts[1].message(), "conflict with \"one\"");
    assert_eq!(
        conflict_summary(&conflicts[1..]),
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
}

#[test]
fn a_field_that_all_give_the_same_value_is_shared() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1"})));
    history.apply("two", T2, map(json!({"a": "1"})));
    assert_eq!(history.owners_of(".data.a"), ["one", "two"]);
    history.apply("one", T3, map(json!({})));
    assert_eq!(history.at("/data/a"), "1", "the other owner keeps it");
    assert_eq!(history.owners_of(".data.a"), ["two"]);
    history.apply("two", T3, map(json!({})));
    assert_eq!(history.at("/data"), json!({}));
}

#[test]
fn fields_that_an_applier_omits_are_removed() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1", "b": "2"})));
    history.update("other", T2, |object| object["data"]["c"] = json!("3"));
    history.apply("one", T3, map(json!({"b": "2"})));
    assert_eq!(history.at("/data"), json!({"b": "2", "c": "3"}));
    history.apply(
        "one",
        T3,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}),
    );
    assert_eq!(history.at("/data"), json!({"c": "3"}));
    assert_eq!(history.entries().len(), 1, "an entry without fields vanishes");
}

#[test]
fn a_map_that_loses_its_last_member_is_removed() {
    let mut history = TestObject::of("", "configmaps");
    let labelled = |labels: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "m", "labels": labels}, "data": {"a": "1"}})
    };
    history.apply("one", T1, labelled(json!({"l": "1"})));
    history.apply("one", T2, map(json!({"a": "1"})));
    assert_eq!(history.at("/metadata/labels"), Value::Null);
}

fn pod(containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
}

#[test]
fn containers_merge_by_name() {
    let mut history = TestObject::of("", "pods");
    history.apply("one", T1, pod(json!([{"name": "a", "image": "x:1"}])));
    history.apply(
        "two",
        T2,
        pod(json!([{"name": "b", "image": "y:1"}, {"name": "a", "tty": true}])),
    );
    let names: Vec<_> = history
        .at("/spec/containers")
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].clone())
        .collect();
    assert_eq!(names, ["b", "a"], "the order of the intent that names both");
    assert_eq!(history.at("/spec/containers/1"), json!({"name": "a", "image": "x:1", "tty": true}));
    assert_eq!(
        history.refused("two", pod(json!([{"name": "a", "image": "x:2"}]))),
        [r#"one .spec.containers[name="a"].image"#]
    );
    history.apply("two", T3, pod(json!([{"name": "b", "image": "y:2"}])));
    assert_eq!(
        history.at("/spec/containers"),
        json!([{"name": "b", "image": "y:2"}, {"name": "a", "image": "x:1"}])
    );
    history.apply("two", T3, pod(json!([])));
    assert_eq!(history.at("/spec/containers"), json!([{"name": "a", "image": "x:1"}]));
}

#[test]
fn an_item_is_removed_with_its_unowned_defaults() {
    let mut history = TestObject::of("", "pods");
    history.apply(
        "one",
        T1,
        pod(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}])),
    );
    // Defaults are filled in after an apply and have no owner.
    let object = history.object.as_mut().unwrap();
    object["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    history.apply("one", T2, pod(json!([{"name": "a", "image": "x"}])));
    assert_eq!(history.at("/spec/containers"), json!([{"name": "a", "image": "x"}]));
}

#[test]
fn ports_without_protocol_are_tcp() {
    let mut history = TestObject::of("", "services");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    history.apply("one", T1, service(json!([{"port": 53}, {"port": 53, "protocol": "UDP"}])));
    // The server fills in the default protocol.
    history.object.as_mut().unwrap()["spec"]["ports"][0]["protocol"] = json!("TCP");
    let applied =
        history.apply("one", T2, service(json!([{"port": 53}, {"port": 53, "protocol": "UDP"}])));
    assert!(!applied.changed, "{:?}", applied.object);
    assert_eq!(history.owners_of(r#".spec.ports[port=53,protocol="TCP"].port"#), ["one"]);
    let twice = service(json!([{"port": 1}, {"port": 1, "protocol": "TCP"}]));
    assert_eq!(
        history.refused("two", twice),
        [r#"duplicate entries for key {"port":1,"protocol":"TCP"}"#]
    );
    let keyless = pod(json!([{"image": "x"}]));
    assert_eq!(
        TestObject::of("", "pods").refused("two", keyless),
        [r#"associative list with keys has an element that omits key field "name""#]
    );
}

#[test]
fn sets_merge_by_value() {
    let finalizers = |list: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "finalizers": list}});
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, finalizers(json!(["x/a"])));
    history.apply("two", T2, finalizers(json!(["x/b"])));
    assert_eq!(history.at("/metadata/finalizers"), json!(["x/a", "x/b"]));
    assert_eq!(history.owners_of(r#".metadata.finalizers[="x/b"]"#), ["two"]);
    history.apply("one", T3, finalizers(json!([])));
    assert_eq!(history.at("/metadata/finalizers"), json!(["x/b"]));
}

#[test]
fn atomic_lists_and_maps_are_replaced_whole() {
    let mut history = TestObject::of("", "services");
    let service = |selector: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"selector": selector, "externalIPs": ["10.0.0.1"]}})
    };
    history.apply("one", T1, service(json!({"a": "1"})));
    assert_eq!(history.refused("two", service(json!({"b": "1"}))), ["one .spec.selector"]);
    history.force("two", T2, service(json!({"b": "1"})));
    assert_eq!(history.at("/spec/selector"), json!({"b": "1"}));
    assert_eq!(history.owners_of(".spec.externalIPs"), ["one", "two"]);
}

#[test]
fn updates_own_what_they_change() {
    let mut history = TestObject::of("", "configmaps");
    history.update("creator", T1, |object| *object = map(json!({"a": "1", "b": "2"})));
    assert_eq!(
        history.entries(),
        [format!(r#"creator Update - {T1} {{"f:data":{{".":{{}},"f:a":{{}},"f:b":{{}}}}}}"#)]
    );
    history.update("editor", T2, |object| object["data"]["b"] = json!("3"));
    assert_eq!(history.owners_of(".data.b"), ["editor"]);
    assert_eq!(history.owners_of(".data.a"), ["creator"]);
    let before = history.entries();
    history.update("editor", T3, |_| {});
    assert_eq!(history.entries(), before, "nothing changed");
    history.update("editor", T3, |object| {
        object["metadata"]["resourceVersion"] = json!("7");
        object["metadata"]["generation"] = json!(2);
    });
    assert_eq!(history.entries(), before, "the server's own fields belong to nobody");
    history.update("cleaner", T3, |object| {
        object["data"].as_object_mut().unwrap().remove("b");
    });
    assert_eq!(
        history.entries(),
        [format!(r#"creator Update - {T1} {{"f:data":{{".":{{}},"f:a":{{}}}}}}"#)],
        "entries of no field vanish"
    );
}

#[test]
fn an_update_takes_a_field_from_its_applier() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1", "b": "1"})));
    history.update("one", T2, |object| object["data"]["a"] = json!("2"));
    assert_eq!(
        history.entries(),
        [
            format!(r#"one Apply - {T1} {{"f:data":{{"f:b":{{}}}}}}"#),
            format!(r#"one Update - {T2} {{"f:data":{{"f:a":{{}}}}}}"#),
        ]
    );
    assert_eq!(history.refused("one", map(json!({"a": "1", "b": "1"}))), ["one .data.a"]);
}

#[test]
fn status_has_entries_of_its_own() {
    let mut history = TestObject::of("", "pods");
    history.apply("one", T1, pod(json!([{"name": "a", "image": "x"}])));
    let status = |ready: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    };
    let options = ApplyOptions { subresource: Some("status"), ..history.options("one", T2) };
    let applied =
        apply(history.object.as_ref(), &status("True"), &options, &history.schema).unwrap();
    history.object = Some(applied.object);
    assert_eq!(history.entries().len(), 2);
    assert!(
        history.entries()[1].starts_with(&format!("one Apply status {T2} ")),
        "{:?}",
        history.entries()
    );
    assert_eq!(history.at("/spec/containers/0/image"), "x", "the spec is not touched");
    history.apply("one", T3, pod(json!([{"name": "a", "image": "x"}])));
    assert_eq!(history.at("/status/conditions/0/status"), "True", "the status is not given up");
    let options = ApplyOptions { subresource: Some("status"), ..history.options("agent", T3) };
    let error =
        apply(history.object.as_ref(), &status("False"), &options, &history.schema).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\" with subresource \"status\": \
         .status.conditions[type=\"Ready\"].status"
    );
}

#[test]
fn managed_fields_can_be_edited_and_reset() {
    let mut history = TestObject::of("", "configmaps");
    history.update("kubectl-client-side-apply", T1, |object| *object = map(json!({"a": "1"})));
    // kubectl edits the entries in this way when it moves an object to server-side apply.
    history.update("kubectl", T2, |object| {
        object["metadata"]["managedFields"][0]["manager"] = json!("kubectl");
        object["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    });
    assert_eq!(history.owners_of(".data.a"), ["kubectl"]);
    assert!(history.entries()[0].starts_with("kubectl Apply - "), "{:?}", history.entries());
    let before = history.entries();
    for unusable in [json!([]), json!(null), json!([{"manager": "x"}])] {
        history.update("kubectl", T2, |object| object["metadata"]["managedFields"] = unusable);
        assert_eq!(history.entries(), before);
    }
    history.update("kubectl", T2, |object| object["metadata"]["managedFields"] = json!([{}]));
    assert_eq!(history.at("/metadata/managedFields"), Value::Null);
    history.update("kubectl", T2, |object| object["data"]["b"] = json!("1"));
    assert_eq!(history.entries(), [""; 0], "untracked until the next apply");
    assert_eq!(history.refused("one", map(json!({"a": "2"}))), ["before-first-apply .data.a"]);
    history.apply("one", T3, map(json!({"a": "1"})));
    assert_eq!(history.owners_of(".data.a"), ["one", "before-first-apply"]);
}

#[test]
fn a_scalar_may_become_a_map_and_back() {
    let mut history = TestObject::of("", "configmaps");
    history.apply("one", T1, map(json!({"a": "1"})));
    history.apply("one", T2, map(json!({"a": {"b": "1"}})));
    assert_eq!(history.at("/data"), json!({"a": {"b": "1"}}));
    assert_eq!(history.owners_of(".data.a.b"), ["one"]);
    history.update("two", T3, |object| object["data"]["a"] = json!("2"));
    assert_eq!(history.entries(), [format!(r#"two Update - {T3} {{"f:data":{{"f:a":{{}}}}}}"#)]);
}

#[test]
fn updates_keep_ten_entries_at_most() {
    let mut history = TestObject::of("", "configmaps");
    history.update("m00", T1, |object| *object = map(json!({"k00": "1"})));
    for index in 1..15 {
        let manager = format!("m{index:02}");
        let time = format!("2026-01-01T00:01:{index:02}Z");
        history
            .update(&manager, &time, |object| object["data"][format!("k{index:02}")] = json!("1"));
    }
    let entries = history.entries();
    assert_eq!(entries.len(), 10, "{entries:?}");
    assert_eq!(history.owners_of(".data.k00"), ["ancient-changes"]);
    assert_eq!(history.owners_of(".data.k14"), ["m14"]);
}

#[test]
fn an_intent_may_not_carry_managed_fields() {
    let history = TestObject::of("", "configmaps");
    let intent = json!({"metadata": {"name": "m", "managedFields": [{"manager": "x"}]}});
    assert_eq!(history.refused("one", intent), ["metadata.managedFields must be nil"]);
    assert_eq!(history.refused("one", json!([])), ["the body of an apply must be an object"]);
}

#[test]
fn the_order_of_lists_follows_the_intent() {
    let mut history = TestObject::of("", "pods");
    let list = |names: &str| {
        let items: Vec<Value> = names.chars().map(|c| json!({"name": c.to_string()})).collect();
        pod(json!(items))
    };
    let cases = [
        ("", "ab", "ab"),
        ("ab", "ba", "ba"),
        ("ab", "cab", "cab"),
        ("ab", "bc", "abc"),
        ("abcd", "db", "acdb"),
    ];
    for (live, intent, expected) in cases {
        history.object = Some(list(live));
        history.apply("one", T1, list(intent));
        let containers = history.at("/spec/containers");
        let names =
            containers.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap());
        assert_eq!(names.collect::<String>(), expected, "{live} with {intent}");
    }
}

/// Generates values of `data`: maps over three names, so that intents often have fields in common.
fn any_data() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![(0..3).prop_map(Value::from), Just(json!(["x"])), Just(json!([]))];
    let tree = scalar.prop_recursive(2, 12, 3, |inner| {
        prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|members| json!(members))
    });
    prop::collection::btree_map("[a-c]", tree, 0..4).prop_map(|members| json!(members))
}

/// Returns true if `object` has every value of `intent`.
fn holds(object: &Value, intent: &Value) -> bool {
    match (object, intent) {
        (Value::Object(object), Value::Object(intent)) => intent
            .iter()
            .all(|(name, intended)| object.get(name).is_some_and(|found| holds(found, intended))),
        (object, intent) => object == intent,
    }
}

proptest! {
    #[test]
    fn a_forced_apply_takes_effect_and_repeating_it_changes_nothing(
        one in any_data(), two in any_data(), edited in any_data(),
    ) {
        let mut history = TestObject::of("", "configmaps");
        history.force("one", T1, map(one));
        history.update("editor", T1, |object| object["data"] = edited.clone());
        history.force("two", T2, map(two.clone()));
        prop_assert!(holds(&history.at("/data"), &two), "{} in {}", two, history.at("/data"));
        let again = history.apply("two", T3, map(two));
        prop_assert!(!again.changed, "{:?}", again.object);
    }

    #[test]
    fn a_single_manager_can_remove_its_fields(one in any_data(), two in any_data()) {
        let mut history = TestObject::of("", "configmaps");
        history.apply("one", T1, map(one));
        history.apply("one", T2, map(two.clone()));
        prop_assert!(holds(&history.at("/data"), &two) && holds(&two, &history.at("/data")),
            "{} is not {}", history.at("/data"), two);
    }

    #[test]
    fn every_owner_of_a_field_applied_it(one in any_data(), two in any_data()) {
        let mut history = TestObject::of("", "configmaps");
        history.apply("one", T1, map(one.clone()));
        history.force("two", T2, map(two.clone()));
        let entries = ManagedFieldsEntries::of(history.object.as_ref().unwrap());
        for entry in entries.iter() {
            let intent = map(if entry.identity.manager == "one" { one.clone() } else { two.clone() });
            let intended = field_set_of(&intent, &history.schema).unwrap();
            prop_assert!(entry.fields.difference(&intended).is_empty());
        }
    }
}
