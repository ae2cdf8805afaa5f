//! Which objects a plugin may write: what exists is judged by the API server's own object, and the write carries its
//! identity.

use serde_json::{Value, json};
use tholepin_core::{Answer, Call, CallError, HostCalls, KubernetesCall, WriteMode};
use tholepin_schema::manifest::GrantScope;

use crate::{GateFixture, config_map, fixture::object, grants};

/// Returns an intent for a ConfigMap with these owner references.
fn intent(namespace: &str, name: &str, owners: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"},
        "metadata": {"namespace": namespace, "name": name, "ownerReferences": owners}})
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    let api_version = if kind == "Thing" { "tests.tholepin.dev/v1" } else { "v1" };
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true})
}

fn reconciled() -> Value {
    owner("Thing", "me", "uid-me")
}

async fn apply(bench: &GateFixture, object: Value) -> Answer {
    bench.kubernetes(KubernetesCall::Apply { object, force: false }).await
}

fn denial(answer: &Answer) -> &str {
    match answer {
        Err(CallError::Denied(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// The object `mine` as another client made it under the same name, or changed it.
fn put_version(bench: &GateFixture, uid: &str, owner: &str, resource_version: &str) {
    let mut changed = object("v1", "ConfigMap", "mine", Some(owner));
    changed["metadata"]["uid"] = json!(uid);
    changed["metadata"]["resourceVersion"] = json!(resource_version);
    bench.world.put(changed);
}

#[tokio::test]
async fn an_intent_names_the_reconciled_object_as_its_only_owner() {
    use GrantScope::{Cluster, Namespace, Owned};
    let mut plain = reconciled();
    plain["controller"] = json!(false);
    let theirs = || owner("Thing", "them", "uid-them");
    let rows: Vec<(GrantScope, &str, Vec<Value>, Option<&str>)> = vec![
        (Owned, "n", vec![reconciled()], None),
        (Owned, "n", vec![plain], Some("as the controller")),
        (Owned, "n", vec![], Some("as the controller")),
        (Owned, "elsewhere", vec![reconciled()], Some("its namespace must be `n`")),
        (Owned, "elsewhere", vec![reconciled()], Some("the grant needs scope `cluster`")),
        (Owned, "n", vec![reconciled(), theirs()], Some("no other owner")),
        (Owned, "n", vec![owner("Thing", "me", "uid-before")], Some("no other owner")),
        (Owned, "n", vec![owner("Thing", "them", "uid-me")], Some("no other owner")),
        // An object that the reconciled one controls leads to it, but it is not the reconciled object.
        (Owned, "n", vec![owner("ConfigMap", "mine", "uid-mine")], Some("no other owner")),
        (Namespace, "n", vec![], None),
        (Namespace, "n", vec![theirs()], Some("no other owner")),
        (Namespace, "elsewhere", vec![], Some("its namespace must be `n`")),
        (Cluster, "elsewhere", vec![], None),
        (Cluster, "elsewhere", vec![theirs()], Some("no other owner")),
    ];
    for (scope, namespace, owners, refused) in rows {
        let bench = GateFixture::new(grants(scope), WriteMode::Live);
        let answer = apply(&bench, intent(namespace, "new", &owners)).await;
        match refused {
            None => assert!(answer.is_ok(), "{scope:?} {namespace} {owners:?}: {answer:?}"),
            Some(words) => {
                assert!(denial(&answer).contains(words), "{scope:?} {owners:?}: {answer:?}");
                assert!(bench.writes().is_empty(), "{:?}", bench.writes());
            }
        }
    }
}

#[tokio::test]
async fn a_status_is_written_to_what_the_api_server_shows_as_owned() {
    let mut grants = grants(GrantScope::Owned);
    grants.kubernetes[0].verbs.push("apply-status".to_owned());
    let bench = GateFixture::new(grants, WriteMode::Live);
    let status = async |name: &str| {
        let mut object = intent("n", name, &[reconciled()]);
        object["status"] = json!({"phase": "x"});
        bench.kubernetes(KubernetesCall::ApplyStatus { object }).await
    };
    for name in ["theirs", "free"] {
        assert!(denial(&status(name).await).contains("does not belong to"), "{name}");
    }
    assert!(matches!(status("absent").await, Err(CallError::NotFound(_))));
    assert!(status("mine").await.is_ok());
    assert_eq!(bench.writes(), ["apply mine by tholepin:p kept"]);
}

#[tokio::test]
async fn a_status_does_not_reach_a_later_object_of_the_same_name() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    let mut successor = object("tests.tholepin.dev/v1", "Thing", "me", None);
    successor["metadata"]["uid"] = json!("uid-successor");
    bench.world.put(successor);
    let object = json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"namespace": "n", "name": "me"}, "status": {"phase": "x"}});
    let answer = bench.kubernetes(KubernetesCall::ApplyStatus { object }).await;
    assert!(matches!(answer, Err(CallError::Conflict(_))), "{answer:?}");
    assert!(bench.writes().is_empty(), "{:?}", bench.writes());
}

/// The store of the reconcile shows the plugin's object; the API server has another one by now.
#[tokio::test]
async fn a_store_that_is_behind_opens_no_object_of_another_owner() {
    let calls = || {
        let object = config_map("mine");
        [
            KubernetesCall::Apply { object: intent("n", "mine", &[reconciled()]), force: false },
            KubernetesCall::MergePatch { object: object.clone(), patch: json!({"data": {}}) },
            KubernetesCall::Delete {
                object,
                uid: None,
                resource_version: None,
                grace_seconds: None,
            },
        ]
    };
    for call in calls() {
        let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
        put_version(&bench, "uid-other", "them", "7");
        let answer = bench.kubernetes(call.clone()).await;
        assert!(denial(&answer).contains("does not belong to"), "{call:?}: {answer:?}");
        assert!(bench.writes().is_empty(), "{call:?}: {:?}", bench.writes());
    }
    // The same object, changed meanwhile: the write is checked and sent again.
    for call in calls() {
        let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
        put_version(&bench, "uid-mine", "me", "1");
        let context = bench.sibling(WriteMode::Live);
        put_version(&bench, "uid-mine", "me", "2");
        let kubernetes = Call::Kubernetes(call.clone());
        let answer = context.perform(&bench.call_context, kubernetes).await;
        assert!(answer.is_ok(), "{call:?}: {answer:?}");
        assert_eq!(bench.writes().len(), 1, "{call:?}: {:?}", bench.writes());
    }
}

/// Whether the object exists is asked of the API server before it is created.
#[tokio::test]
async fn an_object_that_the_store_does_not_show_yet_is_not_taken_over() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    bench.world.put(object("v1", "ConfigMap", "late", Some("them")));
    let answer = apply(&bench, intent("n", "late", &[reconciled()])).await;
    assert!(denial(&answer).contains("does not belong to"), "{answer:?}");
    bench.world.api_server_is_away.store(true, std::sync::atomic::Ordering::SeqCst);
    let unread = apply(&bench, intent("n", "new", &[reconciled()])).await;
    assert!(
        matches!(unread, Err(CallError::Transient(_))),
        "a failed read is a refusal: {unread:?}"
    );
    assert!(bench.writes().is_empty(), "{:?}", bench.writes());
}

#[tokio::test]
async fn preconditions_of_the_plugin_must_be_those_of_the_object_that_was_checked() {
    let bench = GateFixture::new(grants(GrantScope::Owned), WriteMode::Live);
    put_version(&bench, "uid-mine", "me", "1");
    for (field, value) in [("uid", "uid-theirs"), ("resourceVersion", "9")] {
        let mut object = intent("n", "mine", &[reconciled()]);
        object["metadata"][field] = json!(value);
        let answer = apply(&bench, object).await;
        assert!(matches!(answer, Err(CallError::Conflict(_))), "{field}: {answer:?}");
        let patch = json!({"metadata": {field: value}});
        let patched = bench
            .kubernetes(KubernetesCall::MergePatch { object: config_map("mine"), patch })
            .await;
        assert!(matches!(patched, Err(CallError::Conflict(_))), "{field}: {patched:?}");
    }
    assert!(bench.writes().is_empty(), "{:?}", bench.writes());
}
