//! Patches: merge, JSON, server-side apply, and the one that is not served.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{CONFIG_MAPS, Fixture, config_map};

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json-patch+json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_patch_sets_removes_and_may_change_nothing() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "1", "y": "1"}))).await?;
    let patch = json!({"data": {"x": "2", "y": null}});
    let patched = fixture.ask("PATCH", &path, MERGE, &patch).await?;
    assert_eq!(patched["data"], json!({"x": "2"}));
    let same = fixture.ask("PATCH", &path, MERGE, &patch).await?;
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "3"}});
    assert_eq!(fixture.ask("PATCH", &path, MERGE, &stale).await.unwrap_err().code, 409);
    let missing = fixture.ask("PATCH", &format!("{CONFIG_MAPS}/b"), MERGE, &patch).await;
    assert_eq!(missing.unwrap_err().code, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_without_entries_is_absent() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    for note in [json!("b"), Value::Null] {
        let patch = json!({"metadata": {"annotations": {"a": note}}});
        fixture.ask("PATCH", &path, MERGE, &patch).await?;
    }
    let after = fixture.get(&path).await?;
    assert_eq!(after["metadata"].get("annotations"), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_patch_is_applied_whole_or_not_at_all() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await?;
    // This is the patch of kube's `finalizer()`: the list does not exist yet, so it is added.
    let add = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["tholepin.dev/a"]},
    ]);
    let patched = fixture.ask("PATCH", &path, JSON, &add).await?;
    assert_eq!(patched["metadata"]["finalizers"][0], "tholepin.dev/a");
    let refused = fixture.ask("PATCH", &path, JSON, &add).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strategic_merge_patch_is_refused_with_advice() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let media = "application/strategic-merge-patch+json";
    let path = format!("{CONFIG_MAPS}/a");
    let refused = fixture.ask("PATCH", &path, media, &json!({})).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (415, "UnsupportedMediaType"));
    assert!(refused.message.contains("--server-side"), "{}", refused.message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_creates_owns_conflicts_and_releases_fields() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    let first = fixture.apply(&path, "one", &config_map("a", json!({"a": "1", "b": "1"}))).await?;
    let managers = first["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    assert_eq!(managers[0]["manager"], "one");
    assert_eq!(managers[0]["operation"], "Apply");
    assert_eq!(managers[0]["fieldsV1"]["f:data"], json!({"f:a": {}, "f:b": {}}));

    let same = fixture.apply(&path, "one", &config_map("a", json!({"a": "1", "b": "1"}))).await?;
    assert_eq!(same["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);

    let other = config_map("a", json!({"a": "2"}));
    let refused = fixture.apply(&path, "two", &other).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let causes = refused.details.map(|details| details.causes).unwrap_or_default();
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].field, ".data.a");
    assert!(causes[0].message.contains("conflict with \"one\""), "{}", causes[0].message);

    let forced = fixture.apply(&format!("{path}?force=true"), "two", &other).await?;
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    let less = fixture.apply(&path, "one", &config_map("a", json!({}))).await?;
    assert_eq!(less["data"], json!({"a": "2"}), "fields that only this manager owned are removed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_with_a_uid_does_not_change_the_successor() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a?fieldManager=one&force=true");
    let created = fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await?;
    let mut intent = config_map("a", json!({"x": "2"}));
    for (field, other) in [("uid", "another"), ("resourceVersion", "1")] {
        intent["metadata"][field] = json!(other);
        let refused = fixture.ask("PATCH", &path, APPLY, &intent).await.unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"), "{field}");
        intent["metadata"][field] = created["metadata"][field].clone();
    }
    let applied = fixture.ask("PATCH", &path, APPLY, &intent).await?;
    assert_eq!(applied["data"]["x"], "2");

    // Without the object an intent with a uid creates none.
    let gone = format!("{CONFIG_MAPS}/gone?fieldManager=one");
    intent["metadata"] = json!({"name": "gone", "uid": created["metadata"]["uid"]});
    let refused = fixture.ask("PATCH", &gone, APPLY, &intent).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert!(refused.message.contains("uid mismatch"), "{}", refused.message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_accepts_yaml_and_requires_a_manager() -> Result<()> {
    let fixture = Fixture::start().await?;
    let yaml =
        b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: \"y\"\n".to_vec();
    let media = "application/apply-patch+yaml";
    let path = format!("{CONFIG_MAPS}/a");
    let url = format!("{path}?fieldManager=t");
    let applied = crate::fixture::ask(&fixture.client, "PATCH", &url, media, yaml).await?;
    assert_eq!(applied["data"]["x"], "y");
    let nobody = fixture.ask("PATCH", &path, media, &config_map("a", json!({}))).await;
    assert_eq!(nobody.unwrap_err().code, 422);
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let wrong = fixture.apply(&path, "t", &wrong).await.unwrap_err();
    assert_eq!((wrong.code, wrong.reason.as_str()), (400, "BadRequest"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_takes_ownership_from_an_apply() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    fixture.apply(&path, "one", &config_map("a", json!({"a": "1"}))).await?;
    let url = format!("{path}?fieldManager=editor");
    fixture.ask("PATCH", &url, MERGE, &json!({"data": {"a": "2"}})).await?;
    let refused = fixture.apply(&path, "one", &config_map("a", json!({"a": "1"}))).await;
    let causes = refused.unwrap_err().details.map(|d| d.causes).unwrap_or_default();
    assert!(causes[0].message.contains("\"editor\""), "{}", causes[0].message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_of_two_appliers_are_merged_by_name() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = "/apis/apps/v1/namespaces/default/statefulsets/s";
    let set = |containers: Value| {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
            "spec": {
                "serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}},
            },
        })
    };
    let main = json!([{"name": "main", "image": "redis:7"}]);
    let first = fixture.apply(path, "one", &set(main.clone())).await?;
    assert_eq!(first["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(first["metadata"]["generation"], 1);
    let side = json!([{"name": "side", "image": "exporter:1"}]);
    let both = fixture.apply(path, "two", &set(side)).await?;
    let containers = both["spec"]["template"]["spec"]["containers"].as_array().cloned();
    assert_eq!(containers.map(|list| list.len()), Some(2), "{both:#}");
    assert_eq!(both["metadata"]["generation"], 2);
    let same = fixture.apply(path, "one", &set(main)).await?;
    assert_eq!(same["metadata"]["resourceVersion"], both["metadata"]["resourceVersion"]);

    let fixed = json!({"spec": {"serviceName": "other"}});
    let refused = fixture.ask("PATCH", path, MERGE, &fixed).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_specification_are_written_apart() -> Result<()> {
    let fixture = Fixture::start().await?;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "redis:7"}]},
        "status": {"phase": "Running"},
    });
    let created = fixture.create(pods, &pod).await?;
    assert_eq!(created["status"]["phase"], "Pending", "a create sets no status");
    let path = format!("{pods}/p");
    let both = json!({
        "spec": {"activeDeadlineSeconds": 5}, "status": {"phase": "Running"},
    });
    let main = fixture.ask("PATCH", &path, MERGE, &both).await?;
    assert_eq!(main["status"]["phase"], "Pending");
    assert_eq!(main["metadata"]["generation"], 2);
    let both = json!({
        "spec": {"activeDeadlineSeconds": 6}, "status": {"phase": "Running"},
    });
    let status = fixture.ask("PATCH", &format!("{path}/status"), MERGE, &both).await?;
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(status["spec"]["activeDeadlineSeconds"], 5);
    assert_eq!(status["metadata"]["generation"], 2);

    let ready = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let applied = fixture.apply(&format!("{path}/status"), "agent", &ready).await?;
    assert_eq!(applied["status"]["phase"], "Running");
    let entries = applied["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["manager"] == "agent").cloned();
    assert_eq!(entry.map(|entry| entry["subresource"].clone()), Some(json!("status")));
    Ok(())
}
