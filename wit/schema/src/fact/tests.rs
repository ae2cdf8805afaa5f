use super::*;
use crate::primitives::{ConfigEpoch, NodeId, Role, Slot, SlotRange};
use crate::snapshot::{
    AttachedReplica, ClusterInfo, ClusterNodesRow, Member, MemberAnswer, MemberFacts, NodeFlag,
    OpenSlot, Replication, SlotDirection, UnreachableReason, Upstream,
};
use alloc::{collections::BTreeSet, vec, vec::Vec};
use serde_json::json;

fn id(digit: &str) -> NodeId {
    digit.repeat(40).parse().unwrap()
}

fn row() -> ClusterNodesRow {
    ClusterNodesRow {
        role: Role::Replica,
        address: Some("127.0.0.1:1".into()),
        primary: Some(id("b")),
        epoch: ConfigEpoch(3),
        slots: SlotRange::ALL.into(),
        flags: [NodeFlag::Fail].into(),
        connected: true,
    }
}

fn replication() -> Replication {
    Replication {
        id: "ab".repeat(20).parse().unwrap(),
        previous_id: Some("cd".repeat(20).parse().unwrap()),
        offset_bytes: 9_007_199_254_740_993,
        upstream: Some(Upstream {
            address: "127.0.0.1:1".into(),
            link_up: true,
            sync_in_progress: false,
            sync_read_bytes: Some(3),
            last_io_s: Some(1),
            down_since_s: Some(2),
        }),
        replicas: vec![AttachedReplica {
            address: "127.0.0.1:2".into(),
            state: "online".into(),
            offset_bytes: 4,
            lag_s: Some(0),
        }],
    }
}

/// Sets every field, without `..Default::default()`, so that a new field does not compile until it is added
/// here.
fn facts() -> MemberFacts {
    let cluster = ClusterInfo {
        ok: true,
        known_nodes: 6,
        size: 3,
        current_epoch: 7,
        epoch: ConfigEpoch(7),
        slots_assigned: 16384,
        slots_ok: 16384,
    };
    let open = OpenSlot {
        slot: Slot::new(5).unwrap(),
        direction: SlotDirection::Migrating,
        peer: id("c"),
    };
    MemberFacts {
        answered_at_ms: 5,
        node: Some(id("a")),
        run_id: Some("ef".repeat(20).parse().unwrap()),
        version: Some("7.2.4".into()),
        uptime_s: Some(60),
        loading: Some(false),
        keys: Some(0),
        used_memory_bytes: Some(1),
        role: Some(Role::Replica),
        replication: Some(replication()),
        cluster: Some(cluster),
        open_slots: vec![open],
        settings: [("maxmemory".into(), "0".into())].into(),
        differs: [(id("d"), row())].into(),
        lacks: [id("e")].into(),
        errors: [("DBSIZE".into(), "ERR".into())].into(),
    }
}

fn member(answer: MemberAnswer) -> Value {
    let member = Member {
        pod: "demo-0-1".into(),
        pod_uid: "u".into(),
        kube_node: "n".into(),
        container_id: "c".into(),
        running: true,
        ready: true,
        deleting: false,
        address: Some("127.0.0.1:7000".into()),
        kubernetes: json!({"phase": "Running"}),
        answer,
    };
    serde_json::to_value(member).unwrap()
}

fn answering() -> Value {
    member(MemberAnswer::Answered(facts()))
}

fn silent() -> Value {
    let reason = UnreachableReason::Timeout;
    member(MemberAnswer::Unreachable { reason, message: "no answer within 300 ms".into() })
}

fn fact(subject: FactSubject, text: Value) -> Fact {
    let mut text = text;
    text["subject"] = serde_json::to_value(subject).unwrap();
    serde_json::from_value(text.clone()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn of_member() -> FactSubject {
    FactSubject::Member { instance: None, pod: "demo-0-1".into() }
}

fn of_pod() -> FactSubject {
    FactSubject::object(("v1", "Pod"), "n", "demo-0-1")
}

fn no(seen: Value) -> FactCheckOutcome {
    FactCheckOutcome::No { seen }
}

/// The shapes describe the snapshot's documents completely, and describe nothing that these do not contain.
#[test]
fn the_documented_fields_are_those_of_the_snapshot() {
    let view = json!({"a": row()});
    for document in [answering(), silent()] {
        assert_eq!(shape::MEMBER.undescribed(&document, ""), Vec::<String>::new());
    }
    assert_eq!(shape::VIEW.undescribed(&view, ""), Vec::<String>::new());

    let mut found: BTreeSet<String> = BTreeSet::new();
    for document in [answering(), silent()] {
        paths(&shape::MEMBER, &document, "", &mut found);
    }
    paths(&shape::VIEW, &view, "", &mut found);
    let leaves = shape::MEMBER.leaves("").into_iter().chain(shape::VIEW.leaves(""));
    let missing: Vec<String> = leaves.filter(|leaf| !found.contains(leaf)).collect();
    assert_eq!(missing, Vec::<String>::new(), "described, and in no snapshot");
}

/// Collects the paths of a document's leaves, in the form of [`FactValueShape::leaves`].
fn paths(shape: &FactValueShape, document: &Value, at: &str, found: &mut BTreeSet<String>) {
    match (shape, document) {
        (FactValueShape::Record(fields), Value::Object(values)) => {
            for (name, value) in values {
                let known = fields.iter().find(|(known, _)| known == name);
                if let Some((_, shape)) = known {
                    paths(shape, value, &format!("{at}.{name}"), found);
                }
            }
        }
        (FactValueShape::Map(shape), Value::Object(values)) => {
            values.values().for_each(|value| paths(shape, value, &format!("{at}.*"), found));
        }
        (FactValueShape::List(shape), Value::Array(values)) => {
            values.iter().for_each(|value| paths(shape, value, &format!("{at}.*"), found));
        }
        _ => {
            found.insert(at.into());
        }
    }
}

#[test]
fn a_fact_about_a_member_holds_or_reports_the_value() {
    let up = ".answer.answered.replication.upstream.linkUp";
    let offset = ".answer.answered.replication.offsetBytes";
    let rows = [
        (json!({"field": ".running", "op": "equals", "value": true}), FactCheckOutcome::Yes),
        (json!({"field": ".running", "op": "not-equals", "value": true}), no(json!(true))),
        (json!({"field": up, "op": "equals", "value": true}), FactCheckOutcome::Yes),
        (
            json!({"field": ".answer.answered.role", "op": "equals", "value": "primary"}),
            no("replica".into()),
        ),
        (
            json!({"field": ".answer.answered.cluster.knownNodes", "op": "at-least", "value": 6}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".answer.answered.cluster.knownNodes", "op": "at-least", "value": 7}),
            no(6.into()),
        ),
        (
            json!({"field": ".answer.answered.cluster.knownNodes", "op": "at-most", "value": 6}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".answer.answered.cluster.knownNodes", "op": "at-most", "value": 5.5}),
            no(6.into()),
        ),
        // These two numbers are equal as `f64`.
        (
            json!({"field": offset, "op": "at-least", "value": 9_007_199_254_740_994_u64}),
            no(9_007_199_254_740_993_u64.into()),
        ),
        (
            json!({"field": ".answer.answered.lacks", "op": "contains", "value": "e".repeat(40)}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".answer.answered.lacks", "op": "contains", "value": "f".repeat(40)}),
            no(json!(["e".repeat(40)])),
        ),
        (
            json!({"field": ".answer.answered.settings.maxmemory", "op": "equals", "value": "0"}),
            FactCheckOutcome::Yes,
        ),
        (json!({"field": ".answer.answered.settings.save", "op": "exists"}), no(Value::Null)),
        (json!({"field": ".answer.answered.settings.save", "op": "absent"}), FactCheckOutcome::Yes),
        (
            json!({"field": ".answer.answered.settings.save", "op": "not-equals", "value": "x"}),
            no(Value::Null),
        ),
        (json!({"field": ".answer.unreachable", "op": "absent"}), FactCheckOutcome::Yes),
        (json!({"field": ".answer.answered", "op": "exists"}), FactCheckOutcome::Yes),
        (
            json!({"field": ".answer.answered.replication.replicas[address=127.0.0.1:2].state", "op": "equals", "value": "online"}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".answer.answered.replication.replicas[address=no].state", "op": "absent"}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".kubernetes.phase", "op": "equals", "value": "Running"}),
            FactCheckOutcome::Yes,
        ),
    ];
    let document = answering();
    for (text, held) in rows {
        assert_eq!(holds(&fact(of_member(), text.clone()), Some(&document)), held, "{text}");
    }
}

/// For a member that does not answer, a fact about its process is unknown.
#[test]
fn facts_about_a_silent_process_are_unknown() {
    let document = silent();
    let rows = [
        (json!({"field": ".answer.answered.role", "op": "equals", "value": "primary"}), None),
        (json!({"field": ".answer.answered.role", "op": "absent"}), None),
        (json!({"field": ".answer.answered", "op": "absent"}), None),
        (
            json!({"field": ".answer.unreachable.reason", "op": "equals", "value": "timeout"}),
            Some(FactCheckOutcome::Yes),
        ),
        (json!({"field": ".running", "op": "equals", "value": true}), Some(FactCheckOutcome::Yes)),
    ];
    for (text, held) in rows {
        let is = holds(&fact(of_member(), text.clone()), Some(&document));
        match held {
            Some(held) => assert_eq!(is, held, "{text}"),
            None => assert!(
                matches!(&is, FactCheckOutcome::Unknown { why } if why.contains("`demo-0-1` does not answer")),
                "{text}: {is:?}"
            ),
        }
    }
}

#[test]
fn an_absent_field_matches_only_absent() {
    for (op, held) in [("exists", no(Value::Null)), ("absent", FactCheckOutcome::Yes)] {
        for subject in [of_member(), of_pod()] {
            let whole = fact(subject, json!({"field": ".", "op": op}));
            assert_eq!(holds(&whole, None), held, "{whole}");
        }
    }
    let equals = json!({"field": ".running", "op": "equals", "value": false});
    assert_eq!(holds(&fact(of_member(), equals), None), no(Value::Null));
}

#[test]
fn a_fact_about_an_object_follows_lists_and_names_with_dots() {
    let pod = json!({
        "metadata": {"annotations": {"tholepin.dev/paused": "true"}, "generation": 3},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "phase": null},
    });
    let rows = [
        (
            json!({"field": ".status.conditions[type=Ready].status", "op": "equals", "value": "True"}),
            FactCheckOutcome::Yes,
        ),
        (json!({"field": ".status.conditions[type=Gone].status", "op": "exists"}), no(Value::Null)),
        (
            json!({"field": ".metadata.annotations.tholepin\\.dev/paused", "op": "equals", "value": "true"}),
            FactCheckOutcome::Yes,
        ),
        (
            json!({"field": ".metadata.generation", "op": "at-least", "value": 3}),
            FactCheckOutcome::Yes,
        ),
        (json!({"field": ".status.phase", "op": "absent"}), FactCheckOutcome::Yes),
    ];
    for (text, held) in rows {
        assert_eq!(holds(&fact(of_pod(), text.clone()), Some(&pod)), held, "{text}");
    }
    let rows = [
        (
            json!({"field": ".metadata.generation.more", "op": "exists"}),
            "`.more` does not apply to a number",
        ),
        (
            json!({"field": ".metadata[name=x]", "op": "exists"}),
            "`[name=x]` does not apply to an object",
        ),
        (
            json!({"field": ".status.conditions", "op": "at-least", "value": 1}),
            "a number is needed",
        ),
        (json!({"field": ".metadata", "op": "contains", "value": 1}), "a list is needed"),
    ];
    for (text, words) in rows {
        let held = holds(&fact(of_pod(), text.clone()), Some(&pod));
        let FactCheckOutcome::Unknown { why } = &held else { panic!("{text}: {held:?}") };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn an_invalid_fact_is_refused_with_its_fault() {
    let member = json!({"member": {"pod": "a"}});
    let view = json!({"view": {}});
    let object = json!({"object": {"apiVersion": "v1", "kind": "Pod", "name": "a"}});
    let rows = [
        (
            &member,
            json!({"field": ".answer.answered.rol", "op": "exists"}),
            "no field `rol`; it has `answeredAtMs`",
        ),
        (
            &member,
            json!({"field": ".answer.answered.role.x", "op": "exists"}),
            "`.x` does not apply to a string",
        ),
        (
            &member,
            json!({"field": ".answer.answered.replication.replicas.x", "op": "exists"}),
            "`.x` does not apply to a list",
        ),
        (
            &member,
            json!({"field": ".answer.answered.openSlots[slot=5]", "op": "exists"}),
            "`[slot=5]` does not apply to a list",
        ),
        (
            &member,
            json!({"field": ".running", "op": "equals", "value": "true"}),
            "needs true or false, not a string, \"true\"",
        ),
        (
            &member,
            json!({"field": ".running", "op": "at-least", "value": 1}),
            "`at-least` does not apply",
        ),
        (
            &member,
            json!({"field": ".answer.answered.keys", "op": "at-least", "value": "1"}),
            "needs a number",
        ),
        (
            &member,
            json!({"field": ".answer.answered.keys", "op": "contains", "value": 1}),
            "`contains` does not apply",
        ),
        (
            &member,
            json!({"field": ".answer", "op": "equals", "value": {}}),
            "is an object: `equals`",
        ),
        (&view, json!({"field": ".aa.slots", "op": "contains", "value": 5}), "needs a string"),
        (&view, json!({"field": ".aa.slot", "op": "exists"}), "a node row has no field `slot`"),
        (&object, json!({"field": "spec", "op": "exists"}), "must begin with a dot"),
        (&object, json!({"field": ".a[b=c", "op": "exists"}), "brackets contain"),
        (&object, json!({"field": ".a[b=c]d", "op": "exists"}), "brackets contain"),
        (&object, json!({"field": ".a", "op": "exists", "value": 1}), "`exists` needs no value"),
        (&object, json!({"field": ".a", "op": "equals"}), "`equals` needs a value, not nothing"),
        (&object, json!({"field": ".a", "op": "like", "value": 1}), "unknown variant `like`"),
        (&object, json!({"field": ".a", "op": "exists", "unit": 1}), "unknown field `unit`"),
        (&json!({"job": {}}), json!({"field": ".a", "op": "exists"}), "unknown variant `job`"),
        (
            &json!({"member": {"pods": "a"}}),
            json!({"field": ".a", "op": "exists"}),
            "unknown field `pods`",
        ),
    ];
    for (subject, mut text, words) in rows {
        text["subject"] = subject.clone();
        let error = serde_json::from_value::<Fact>(text.clone()).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn a_path_has_names_and_a_bound() {
    for text in [".a..b", ".a[b]", "."] {
        assert_eq!(text.parse::<FieldPath>().is_ok(), text == ".", "{text}");
    }
    let path = |steps: usize| format!(".{}", vec!["a"; steps].join("."));
    assert!(path(32).parse::<FieldPath>().is_ok());
    assert!(matches!(path(33).parse::<FieldPath>(), Err(FactFieldPathError::TooLong(_))));
}

#[test]
fn a_fact_is_written_as_it_was_read_and_reads_like_a_sentence() {
    let text = json!({
        "subject": {"object": {"apiVersion": "v1", "kind": "Pod", "namespace": "n", "name": "a"}},
        "field": ".metadata.annotations.tholepin\\.dev/x[a=b.c]", "op": "not-equals", "value": {"b": 1},
    });
    let fact: Fact = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(&fact).unwrap(), text);
    assert_eq!(
        fact.to_string(),
        r#"Pod n/a `.metadata.annotations.tholepin\.dev/x[a=b.c]` not-equals {"b":1}"#
    );
    assert_eq!(no(Value::Null).to_string(), "it is absent");
    assert_eq!(no("x".repeat(200).into()).to_string().chars().count(), "it is ".len() + 121);
}
