//! Creating, reading and replacing objects as kube-apiserver does.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{CONFIG_MAPS, Fixture, config_map};

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_object_has_identity_and_can_be_read() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut object = config_map("a", json!({"x": "y"}));
    object["metadata"]["uid"] = json!("chosen-by-the-client");
    let created = fixture.create(CONFIG_MAPS, &object).await?;
    assert_eq!(text(&created, "/metadata/uid").len(), 36);
    assert!(text(&created, "/metadata/creationTimestamp").ends_with('Z'));
    assert_eq!(fixture.get(&format!("{CONFIG_MAPS}/a")).await?, created);

    let taken = fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap_err();
    assert_eq!((taken.code, taken.reason.as_str()), (409, "AlreadyExists"));
    let missing = fixture.get(&format!("{CONFIG_MAPS}/b")).await.unwrap_err();
    assert_eq!((missing.code, missing.reason.as_str()), (404, "NotFound"));
    assert_eq!(missing.message, "configmaps \"b\" not found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_must_exist_and_has_a_service_account() -> Result<()> {
    let fixture = Fixture::start().await?;
    let nowhere = "/api/v1/namespaces/nowhere/configmaps";
    let missing = fixture.create(nowhere, &config_map("a", json!({}))).await.unwrap_err();
    assert_eq!((missing.code, missing.reason.as_str()), (404, "NotFound"));
    for namespace in ["default", "kube-system", "kube-node-lease"] {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        assert_eq!(text(&fixture.get(&path).await?, "/metadata/name"), "default");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_name_has_five_more_letters() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut object = config_map("", json!({}));
    object["metadata"] = json!({"generateName": "job-"});
    let created = fixture.create(CONFIG_MAPS, &object).await?;
    let name = text(&created, "/metadata/name");
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_put_conflicts_and_one_without_version_wins() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    let first = fixture.create(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await?;
    let mut second = first.clone();
    second["data"]["n"] = json!("2");
    let second = fixture.ask("PUT", &path, "application/json", &second).await?;
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);

    let stale = fixture.ask("PUT", &path, "application/json", &first).await.unwrap_err();
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    let free = config_map("a", json!({"n": "3"}));
    let third = fixture.ask("PUT", &path, "application/json", &free).await?;
    assert_eq!(third["data"]["n"], "3");
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);

    let mut other = third.clone();
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let refused = fixture.ask("PUT", &path, "application/json", &other).await.unwrap_err();
    assert_eq!(refused.code, 422, "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_changes_nothing_keeps_the_version() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}/a");
    let first = fixture.create(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await?;
    let again = fixture.ask("PUT", &path, "application/json", &first).await?;
    assert_eq!(again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_stores_nothing() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let shown = fixture.create(&path, &config_map("a", json!({}))).await?;
    assert_eq!(text(&shown, "/metadata/name"), "a");
    assert_eq!(fixture.get(&format!("{CONFIG_MAPS}/a")).await.unwrap_err().code, 404);
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await?;
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    fixture.ask("DELETE", &path, "", &Value::Null).await?;
    let merge = "application/merge-patch+json";
    let shown = fixture.ask("PATCH", &path, merge, &json!({"data": {"n": "2"}})).await?;
    assert_eq!(shown["data"]["n"], "2");
    assert_eq!(fixture.get(&format!("{CONFIG_MAPS}/a")).await?["data"]["n"], "1");
    let refused = fixture.create(&format!("{CONFIG_MAPS}?dryRun=Some"), &json!({})).await;
    assert_eq!(refused.unwrap_err().code, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_are_dropped_named_or_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut object = config_map("a", json!({}));
    object["datta"] = json!({"x": "y"});
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let refused = fixture.create(&strict, &object).await.unwrap_err();
    assert_eq!(refused.code, 400);
    assert!(refused.message.contains("unknown field \"datta\""), "{}", refused.message);
    let created = fixture.create(&format!("{CONFIG_MAPS}?fieldValidation=Ignore"), &object).await?;
    assert_eq!(created.get("datta"), None);

    object["metadata"]["name"] = json!("b");
    let mut request = kube::core::Request::new("/").get("x", &Default::default())?;
    *request.method_mut() = "POST".parse()?;
    *request.uri_mut() = format!("{CONFIG_MAPS}?fieldValidation=Warn").parse()?;
    *request.body_mut() = serde_json::to_vec(&object)?;
    let response = fixture.client.send(request.map(kube::client::Body::from)).await?;
    assert_eq!(response.status().as_u16(), 201);
    let warning = response.headers().get("warning").map(|value| value.to_str());
    assert_eq!(warning.transpose()?, Some(r#"299 - "unknown field \"datta\"""#));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_gets_an_address_of_the_block_and_keeps_it() -> Result<()> {
    let fixture = Fixture::start_with(|options| {
        options.service_addresses = ([127, 22, 240, 1].into(), [127, 22, 240, 2].into());
    })
    .await?;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 6379}], "clusterIP": ip},
        })
    };
    let first = fixture.create(services, &service("a", Value::Null)).await?;
    assert_eq!(text(&first, "/spec/clusterIP"), "127.22.240.1");
    assert_eq!(first["spec"]["ports"][0]["targetPort"], 6379);
    assert_eq!(first["spec"]["ports"][0]["protocol"], "TCP");
    let headless = fixture.create(services, &service("h", json!("None"))).await?;
    assert_eq!(text(&headless, "/spec/clusterIP"), "None");

    let bad = fixture.create(services, &service("b", json!("10.0.0.1"))).await.unwrap_err();
    assert_eq!(bad.code, 422);
    let taken = fixture.create(services, &service("b", json!("127.22.240.1"))).await.unwrap_err();
    assert!(taken.message.contains("already allocated"), "{}", taken.message);
    fixture.create(services, &service("b", json!(""))).await?;
    let full = fixture.create(services, &service("c", json!(""))).await.unwrap_err();
    assert!(full.message.contains("all addresses are taken"), "{}", full.message);
    fixture.ask("DELETE", &format!("{services}/a"), "", &Value::Null).await?;
    let next = fixture.create(services, &service("c", json!(""))).await?;
    assert_eq!(text(&next, "/spec/clusterIP"), "127.22.240.1");

    let path = format!("{services}/c");
    let merge = "application/merge-patch+json";
    let moved = json!({"spec": {"clusterIP": "127.22.240.2"}});
    assert_eq!(fixture.ask("PATCH", &path, merge, &moved).await.unwrap_err().code, 422);
    let put = fixture.ask("PUT", &path, "application/json", &service("c", json!(""))).await?;
    assert_eq!(text(&put, "/spec/clusterIP"), "127.22.240.1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_a_wrong_type_is_refused_by_every_write() -> Result<()> {
    let fixture = Fixture::start().await?;
    let secrets = "/api/v1/namespaces/default/secrets";
    let path = format!("{secrets}/a");
    let secret = |password: Value| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
            "stringData": {"password": password}})
    };
    let number = secret(json!(12345));
    let refused = |outcome: Result<Value, kube::core::Status>| {
        let status = outcome.expect_err("a number is refused as a password");
        assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
        let expected = "Secret in version \"v1\" cannot be handled as a Secret: \
            stringData[password]: the value is a number, where a string is expected: put it in quotes";
        assert_eq!(status.message, expected);
    };
    refused(fixture.create(secrets, &number).await);
    refused(fixture.apply(&path, "one", &number).await);
    let missing = fixture.get(&path).await.unwrap_err();
    assert_eq!(missing.code, 404, "the object was stored");

    fixture.create(secrets, &secret(json!("12345"))).await?;
    let before = fixture.get(&path).await?;
    let add = json!([{"op": "add", "path": "/stringData", "value": {"password": 12345}}]);
    refused(fixture.ask("PUT", &path, "application/json", &number).await);
    let merge = "application/merge-patch+json";
    let patch = json!({"stringData": {"password": 12345}});
    refused(fixture.ask("PATCH", &path, merge, &patch).await);
    refused(fixture.ask("PATCH", &path, "application/json-patch+json", &add).await);
    refused(fixture.apply(&path, "one", &number).await);
    assert_eq!(fixture.get(&path).await?, before);

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "labels": {"a": 1}}, "data": {"a": true}});
    let status = fixture.create(CONFIG_MAPS, &map).await.unwrap_err();
    assert!(status.message.contains("[data[a]: true is a boolean"), "{}", status.message);
    assert!(status.message.contains("metadata.labels[a]: 1 is a number"), "{}", status.message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immutable_secret_stays_as_it_is() -> Result<()> {
    let fixture = Fixture::start().await?;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
        "stringData": {"password": "x"}, "immutable": true,
    });
    let created = fixture.create(secrets, &secret).await?;
    assert_eq!(created["data"]["password"], "eA==");
    assert_eq!(created["type"], "Opaque");
    assert_eq!(created.get("stringData"), None);
    let merge = "application/merge-patch+json";
    let path = format!("{secrets}/a");
    let patch = json!({"stringData": {"password": "y"}});
    let refused = fixture.ask("PATCH", &path, merge, &patch).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    fixture.ask("PATCH", &path, merge, &labelled).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_filled_in_bound_once_and_then_mostly_fixed() -> Result<()> {
    let fixture = Fixture::start().await?;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{
            "name": "c", "image": "redis:7", "ports": [{"containerPort": 6379}],
            "livenessProbe": {"tcpSocket": {"port": 6379}},
        }]},
    });
    let created = fixture.create(pods, &pod).await?;
    assert_eq!(created["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!(created["spec"]["restartPolicy"], "Always");
    assert_eq!(created["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(created["spec"]["containers"][0]["livenessProbe"]["periodSeconds"], 10);
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["metadata"]["generation"], 1);

    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    fixture.create(&format!("{pods}/p/binding"), &binding).await?;
    let again = fixture.create(&format!("{pods}/p/binding"), &binding).await.unwrap_err();
    assert_eq!(again.code, 409);
    let bound = fixture.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dn1")).await?;
    assert_eq!(bound["items"][0]["metadata"]["name"], "p");

    let merge = "application/merge-patch+json";
    let moved = json!({"spec": {"nodeName": "n2"}});
    let refused = fixture.ask("PATCH", &format!("{pods}/p"), merge, &moved).await.unwrap_err();
    assert_eq!(refused.code, 422);
    let mut nameless = pod.clone();
    nameless["spec"]["containers"][0] = json!({"name": "c"});
    nameless["metadata"]["name"] = json!("q");
    let refused = fixture.create(pods, &nameless).await.unwrap_err();
    let causes = refused.details.map(|details| details.causes).unwrap_or_default();
    assert_eq!(causes[0].field, "spec.containers[0].image");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_seen_in_both_groups() -> Result<()> {
    let fixture = Fixture::start().await?;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "reason": "Tested", "type": "Normal", "action": "Test",
        "reportingController": "t", "reportingInstance": "t-0",
        "eventTime": "2026-01-02T03:04:05.000000Z",
    });
    fixture.create("/apis/events.k8s.io/v1/namespaces/default/events", &event).await?;
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    let core = fixture.get(path).await?;
    assert_eq!(core["items"][0]["message"], "hello");
    assert_eq!(core["items"][0]["involvedObject"]["kind"], "Pod");
    let new = fixture.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await?;
    assert_eq!(new["note"], "hello");
    assert_eq!(new["apiVersion"], "events.k8s.io/v1");
    Ok(())
}
