//! Clear values of Secrets: served from memory while a watch follows them, and while the server is stopped.

use serde_json::{Value, json};
use tholepin_core::{
    CallError,
    port::{DeleteRequest, Kubernetes, WatchScope, WatchSource},
};
use tholepin_kube::KubernetesApi;

use crate::bench::{KubeFixture, ReadCounter, apply, kind, reference, until};

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "default", "name": name}, "stringData": {"k": value}})
}

async fn value(api: &KubernetesApi, name: &str) -> Result<String, CallError> {
    let bytes = api.secret_value("default".into(), name.into(), "k".into()).await?;
    Ok(String::from_utf8(bytes).unwrap())
}

async fn change(rival: &KubernetesApi, name: &str, value: &str) {
    let patch = json!({"stringData": {"k": value}});
    let object = reference(kind("v1", "Secret"), name);
    rival.merge_patch(object, patch, "rival".to_owned(), false).await.unwrap();
}

async fn delete(rival: &KubernetesApi, name: &str) {
    let object = reference(kind("v1", "Secret"), name);
    let request = DeleteRequest {
        object,
        uid: None,
        resource_version: None,
        grace_seconds: None,
        dry_run: false,
    };
    rival.delete(request).await.unwrap();
}

#[tokio::test]
async fn a_secret_in_use_is_read_once_follows_its_watch_and_outlives_the_server() {
    let reads = ReadCounter::default();
    let _counted = reads.count();
    let mut bench = KubeFixture::start().await;
    let rival = bench.rival().await;
    let secrets = kind("v1", "Secret");
    let lease = bench.api.lease(WatchScope::all(secrets.clone()));
    lease.following().await;
    for name in ["used", "idle", "gone"] {
        rival.apply(apply(secret(name, "hunter2"))).await.unwrap();
        let object = reference(secrets.clone(), name);
        until(|| bench.view().get(&object).is_some()).await;
    }
    for name in ["used", "gone"] {
        assert_eq!(value(&bench.api, name).await.unwrap(), "hunter2");
    }

    let before = reads.number();
    for _ in 0..5 {
        assert_eq!(value(&bench.api, "used").await.unwrap(), "hunter2");
    }
    let object = reference(secrets.clone(), "used");
    let seen = bench.view().get(&object).unwrap()["data"].clone();
    change(&rival, "used", "changed").await;
    until(|| bench.view().get(&object).unwrap()["data"] != seen).await;
    assert_eq!(value(&bench.api, "used").await.unwrap(), "changed");
    let missing = bench.api.secret_value("default".into(), "used".into(), "none".into()).await;
    assert_eq!(missing.unwrap_err().reason(), "NotFound");
    assert_eq!(reads.number(), before, "no request for what the watch follows");

    delete(&rival, "gone").await;
    until(|| bench.view().get(&reference(secrets.clone(), "gone")).is_none()).await;
    assert_eq!(value(&bench.api, "gone").await.unwrap_err().reason(), "NotFound");
    bench.stop_server().await;
    assert_eq!(value(&bench.api, "used").await.unwrap(), "changed");
    let shown = bench.view().get(&object).unwrap().to_string();
    assert!(!shown.contains("changed") && !shown.contains("Y2hhbmdlZ"), "{shown}");
    for name in ["idle", "gone"] {
        assert_eq!(value(&bench.api, name).await.unwrap_err().reason(), "Transient", "{name}");
    }
    bench.end().await;
}

#[tokio::test]
async fn without_a_watch_a_secret_is_read_live_and_kept_for_when_the_server_is_away() {
    let reads = ReadCounter::default();
    let _counted = reads.count();
    let mut bench = KubeFixture::start().await;
    let rival = bench.rival().await;
    for name in ["kept", "gone"] {
        rival.apply(apply(secret(name, "hunter2"))).await.unwrap();
        assert_eq!(value(&bench.api, name).await.unwrap(), "hunter2");
    }
    change(&rival, "kept", "changed").await;
    let before = reads.number();
    assert_eq!(value(&bench.api, "kept").await.unwrap(), "changed");
    assert_eq!(reads.number(), before + 1, "only the server knows whether it changed");
    delete(&rival, "gone").await;
    assert_eq!(value(&bench.api, "gone").await.unwrap_err().reason(), "NotFound");
    bench.stop_server().await;
    assert_eq!(value(&bench.api, "kept").await.unwrap(), "changed");
    assert_eq!(value(&bench.api, "gone").await.unwrap_err().reason(), "Transient");
    bench.end().await;
}

#[tokio::test]
async fn a_secret_that_was_deleted_is_not_served_although_the_server_is_away() {
    let mut bench = KubeFixture::start().await;
    let rival = bench.rival().await;
    let secrets = kind("v1", "Secret");
    let lease = bench.api.lease(WatchScope::all(secrets.clone()));
    lease.following().await;
    rival.apply(apply(secret("a", "hunter2"))).await.unwrap();
    assert_eq!(value(&bench.api, "a").await.unwrap(), "hunter2");
    let a = reference(secrets, "a");
    until(|| bench.view().get(&a).is_some()).await;
    delete(&rival, "a").await;
    until(|| bench.view().get(&a).is_none()).await;
    bench.stop_server().await;
    assert_eq!(value(&bench.api, "a").await.unwrap_err().reason(), "Transient");
    bench.end().await;
}
