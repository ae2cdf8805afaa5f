//! Clear values of Secrets: served from memory while a watch follows them, and while the server is stopped.

use serde_json::{Value, json};
use tholepin_core::{
    CallError,
    port::{DeleteRequest, Kubernetes, WatchScope, WatchSource},
};
use tholepin_kube::KubernetesApi;

use crate::fixture::{KubeFixture, ReadCounter, apply, kind, reference, until};

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "default", "name": name}, "stringData": {"k": value}})
}

async fn value(api: &KubernetesApi, name: &str) -> Result<String, CallError> {
    let bytes = api.secret_value("default".into(), name.into(), "k".into()).await?;
    Ok(String::from_utf8(bytes).unwrap())
}

async fn change(other_client: &KubernetesApi, name: &str, value: &str) {
    let patch = json!({"stringData": {"k": value}});
    let object = reference(kind("v1", "Secret"), name);
    other_client.merge_patch(object, patch, "rival".to_owned(), false).await.unwrap();
}

async fn delete(other_client: &KubernetesApi, name: &str) {
    let object = reference(kind("v1", "Secret"), name);
    let request = DeleteRequest {
        object,
        uid: None,
        resource_version: None,
        grace_seconds: None,
        dry_run: false,
    };
    other_client.delete(request).await.unwrap();
}

#[tokio::test]
async fn a_secret_in_use_is_read_once_follows_its_watch_and_stays_without_server() {
    let reads = ReadCounter::default();
    let _counted = reads.count();
    let mut fixture = KubeFixture::start().await;
    let other_client = fixture.other_client().await;
    let secrets = kind("v1", "Secret");
    let lease = fixture.api.lease(WatchScope::all(secrets.clone()));
    lease.following().await;
    for name in ["used", "idle", "gone"] {
        other_client.apply(apply(secret(name, "hunter2"))).await.unwrap();
        let object = reference(secrets.clone(), name);
        until(|| fixture.view().get(&object).is_some()).await;
    }
    for name in ["used", "gone"] {
        assert_eq!(value(&fixture.api, name).await.unwrap(), "hunter2");
    }

    let before = reads.number();
    for _ in 0..5 {
        assert_eq!(value(&fixture.api, "used").await.unwrap(), "hunter2");
    }
    let object = reference(secrets.clone(), "used");
    let seen = fixture.view().get(&object).unwrap()["data"].clone();
    change(&other_client, "used", "changed").await;
    until(|| fixture.view().get(&object).unwrap()["data"] != seen).await;
    assert_eq!(value(&fixture.api, "used").await.unwrap(), "changed");
    let missing = fixture.api.secret_value("default".into(), "used".into(), "none".into()).await;
    assert_eq!(missing.unwrap_err().reason(), "NotFound");
    assert_eq!(reads.number(), before, "no request for what the watch follows");

    delete(&other_client, "gone").await;
    until(|| fixture.view().get(&reference(secrets.clone(), "gone")).is_none()).await;
    assert_eq!(value(&fixture.api, "gone").await.unwrap_err().reason(), "NotFound");
    fixture.stop_server().await;
    assert_eq!(value(&fixture.api, "used").await.unwrap(), "changed");
    let shown = fixture.view().get(&object).unwrap().to_string();
    assert!(!shown.contains("changed") && !shown.contains("Y2hhbmdlZ"), "{shown}");
    for name in ["idle", "gone"] {
        assert_eq!(value(&fixture.api, name).await.unwrap_err().reason(), "Transient", "{name}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn without_a_watch_a_secret_is_read_live_and_cached_for_a_stopped_server() {
    let reads = ReadCounter::default();
    let _counted = reads.count();
    let mut fixture = KubeFixture::start().await;
    let other_client = fixture.other_client().await;
    for name in ["kept", "gone"] {
        other_client.apply(apply(secret(name, "hunter2"))).await.unwrap();
        assert_eq!(value(&fixture.api, name).await.unwrap(), "hunter2");
    }
    change(&other_client, "kept", "changed").await;
    let before = reads.number();
    assert_eq!(value(&fixture.api, "kept").await.unwrap(), "changed");
    assert_eq!(reads.number(), before + 1, "only the server knows whether it changed");
    delete(&other_client, "gone").await;
    assert_eq!(value(&fixture.api, "gone").await.unwrap_err().reason(), "NotFound");
    fixture.stop_server().await;
    assert_eq!(value(&fixture.api, "kept").await.unwrap(), "changed");
    assert_eq!(value(&fixture.api, "gone").await.unwrap_err().reason(), "Transient");
    fixture.end().await;
}

#[tokio::test]
async fn a_deleted_secret_is_not_served_while_the_server_is_stopped() {
    let mut fixture = KubeFixture::start().await;
    let other_client = fixture.other_client().await;
    let secrets = kind("v1", "Secret");
    let lease = fixture.api.lease(WatchScope::all(secrets.clone()));
    lease.following().await;
    other_client.apply(apply(secret("a", "hunter2"))).await.unwrap();
    assert_eq!(value(&fixture.api, "a").await.unwrap(), "hunter2");
    let a = reference(secrets, "a");
    until(|| fixture.view().get(&a).is_some()).await;
    delete(&other_client, "a").await;
    until(|| fixture.view().get(&a).is_none()).await;
    fixture.stop_server().await;
    assert_eq!(value(&fixture.api, "a").await.unwrap_err().reason(), "Transient");
    fixture.end().await;
}
