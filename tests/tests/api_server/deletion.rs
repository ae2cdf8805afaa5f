//! Deletion: finalizers, grace, owners, namespaces.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{CONFIG_MAPS, Fixture, config_map, eventually};

const MERGE: &str = "application/merge-patch+json";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn gone(fixture: &Fixture, path: &str) -> Result<()> {
    eventually(&format!("{path} to be deleted"), || async {
        fixture.get(path).await.err().filter(|status| status.code == 404).map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_finalizers_the_answer_is_a_status_with_the_uid() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    let created = fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let options = json!({"preconditions": {"uid": "another"}});
    let refused = fixture.ask("DELETE", &path, "application/json", &options).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let status = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], created["metadata"]["uid"]);
    assert_eq!(fixture.get(&path).await.unwrap_err().code, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_holds_the_object_until_it_is_taken() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{PODS}/p");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "finalizers": ["tholepin.dev/a"]},
        "spec": {"containers": [{"name": "c", "image": "redis:7"}]},
    });
    fixture.create(PODS, &pod).await?;
    let deleting = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(deleting["metadata"]["generation"], 2);
    let again = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert_eq!(again["metadata"]["resourceVersion"], deleting["metadata"]["resourceVersion"]);

    let more = json!({"metadata": {"finalizers": ["tholepin.dev/a", "tholepin.dev/b"]}});
    let refused = fixture.ask("PATCH", &path, MERGE, &more).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let none = json!({"metadata": {"finalizers": null}});
    let last = fixture.ask("PATCH", &path, MERGE, &none).await?;
    assert_eq!(last["metadata"]["name"], "p");
    assert_eq!(fixture.get(&path).await.unwrap_err().code, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_pod_stays_until_its_agent_is_done() -> Result<()> {
    let fixture = Fixture::start().await?;
    let pod = |name: &str, node: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "redis:7"}]},
        })
    };
    fixture.create(PODS, &pod("unbound", Value::Null)).await?;
    fixture.ask("DELETE", &format!("{PODS}/unbound"), "", &Value::Null).await?;
    assert_eq!(fixture.get(&format!("{PODS}/unbound")).await.unwrap_err().code, 404);

    let path = format!("{PODS}/bound");
    fixture.create(PODS, &pod("bound", json!("n1"))).await?;
    let first = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = format!("{path}?gracePeriodSeconds=60");
    let same = fixture.ask("DELETE", &longer, "", &Value::Null).await?;
    assert_eq!(same["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = json!({"gracePeriodSeconds": 5});
    let short = fixture.ask("DELETE", &path, "application/json", &shorter).await?;
    assert_eq!(short["metadata"]["deletionGracePeriodSeconds"], 5);
    let done = json!({"gracePeriodSeconds": 0});
    fixture.ask("DELETE", &path, "application/json", &done).await?;
    assert_eq!(fixture.get(&path).await.unwrap_err().code, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_follow_their_owner_by_uid() -> Result<()> {
    let fixture = Fixture::start().await?;
    let owner = fixture.create(CONFIG_MAPS, &config_map("owner", json!({}))).await?;
    let owned = |name: &str, uids: &[&Value]| {
        let mut object = config_map(name, json!({}));
        let owners = uids.iter().map(
            |uid| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}),
        );
        object["metadata"]["ownerReferences"] = owners.collect();
        object
    };
    let uid = &owner["metadata"]["uid"];
    let other = fixture.create(CONFIG_MAPS, &config_map("other", json!({}))).await?;
    let other_uid = &other["metadata"]["uid"];
    fixture.create(CONFIG_MAPS, &owned("one", &[uid])).await?;
    fixture.create(CONFIG_MAPS, &owned("two", &[uid, other_uid])).await?;
    let absent = json!("11111111-1111-1111-1111-111111111111");
    fixture.create(CONFIG_MAPS, &owned("late", &[&absent])).await?;
    gone(&fixture, &format!("{CONFIG_MAPS}/late")).await?;

    fixture.ask("DELETE", &format!("{CONFIG_MAPS}/owner"), "", &Value::Null).await?;
    gone(&fixture, &format!("{CONFIG_MAPS}/one")).await?;
    eventually("the absent owner to be dropped", || async {
        let two = fixture.get(&format!("{CONFIG_MAPS}/two")).await.ok()?;
        (two["metadata"]["ownerReferences"].as_array()?.len() == 1).then_some(())
    })
    .await?;

    let options = json!({"propagationPolicy": "Orphan"});
    let path = format!("{CONFIG_MAPS}/other");
    fixture.ask("DELETE", &path, "application/json", &options).await?;
    let two = fixture.get(&format!("{CONFIG_MAPS}/two")).await?;
    assert_eq!(two["metadata"].get("ownerReferences"), None);
    let options = json!({"propagationPolicy": "Foreground"});
    let path = format!("{CONFIG_MAPS}/two");
    let refused = fixture.ask("DELETE", &path, "application/json", &options).await.unwrap_err();
    assert!(refused.message.contains("not supported"), "{}", refused.message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_deleted_with_its_objects() -> Result<()> {
    let fixture = Fixture::start().await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    fixture.create("/api/v1/namespaces", &namespace).await?;
    let inside = "/api/v1/namespaces/n/configmaps";
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["tholepin.dev/a"]);
    fixture.create(inside, &held).await?;
    fixture.create(inside, &config_map("free", json!({}))).await?;
    let deleting = fixture.ask("DELETE", "/api/v1/namespaces/n", "", &Value::Null).await?;
    assert_eq!(deleting["status"]["phase"], "Terminating");
    gone(&fixture, &format!("{inside}/free")).await?;
    let refused = fixture.create(inside, &config_map("new", json!({}))).await.unwrap_err();
    assert_eq!(refused.code, 403);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    fixture.ask("PATCH", "/api/v1/namespaces/n", MERGE, &label).await?;
    fixture.get("/api/v1/namespaces/n").await?;
    let none = json!({"metadata": {"finalizers": []}});
    fixture.ask("PATCH", &format!("{inside}/held"), MERGE, &none).await?;
    gone(&fixture, "/api/v1/namespaces/n").await?;
    let refused = fixture.ask("DELETE", "/api/v1/namespaces/default", "", &Value::Null).await;
    assert_eq!(refused.unwrap_err().code, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_deleted_by_label() -> Result<()> {
    let fixture = Fixture::start().await?;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"l": label});
        fixture.create(CONFIG_MAPS, &object).await?;
    }
    let path = format!("{CONFIG_MAPS}?labelSelector=l%3Dx");
    let deleted = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert_eq!(deleted["items"].as_array().map(Vec::len), Some(2));
    let left = fixture.get(CONFIG_MAPS).await?;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disruption_budget_holds_evictions_back() -> Result<()> {
    let fixture = Fixture::start().await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "redis:7"}]},
    });
    fixture.create(PODS, &pod).await?;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
    });
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    fixture.create(budgets, &budget).await?;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let path = format!("{PODS}/p/eviction");
    let refused = fixture.create(&path, &eviction).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    let allowed = json!({"status": {"disruptionsAllowed": 1}});
    fixture.ask("PATCH", &format!("{budgets}/b/status"), MERGE, &allowed).await?;
    fixture.create(&path, &eviction).await?;
    gone(&fixture, &format!("{PODS}/p")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_events_are_deleted_beyond_the_bound() -> Result<()> {
    const EVENTS: &str = "/api/v1/namespaces/default/events";
    let fixture = Fixture::start().await?;
    // A hundred of these exceed the 16 MiB that events may take.
    let large = "x".repeat(200 * 1024);
    for n in 0..100 {
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("e{n:03}"), "annotations": {"large": large}},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "reason": "Tested", "type": "Normal",
        });
        fixture.create(EVENTS, &event).await?;
    }
    gone(&fixture, &format!("{EVENTS}/e000")).await?;
    let left = fixture.get(EVENTS).await?;
    let names: Vec<_> = left["items"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = names.iter().map(|event| text(event, "/metadata/name")).collect();
    assert!((60..=84).contains(&names.len()), "{names:?}");
    let expected: Vec<_> = (100 - names.len()..100).map(|n| format!("e{n:03}")).collect();
    assert_eq!(names, expected, "the youngest events are kept");
    Ok(())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
