//! Lists: resource versions, pages, selectors and representations.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fixture::{CONFIG_MAPS, Fixture, config_map};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_one_moment_until_the_history_is_gone() -> Result<()> {
    let fixture = Fixture::start_with(|options| options.watch_cache_events_max = 8).await?;
    for name in ["a", "b", "c", "d"] {
        fixture.create(CONFIG_MAPS, &config_map(name, json!({}))).await?;
    }
    let first = fixture.get(&format!("{CONFIG_MAPS}?limit=2")).await?;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    fixture.create(CONFIG_MAPS, &config_map("bb", json!({}))).await?;
    fixture.ask("DELETE", &format!("{CONFIG_MAPS}/c"), "", &Value::Null).await?;

    let next = format!("{CONFIG_MAPS}?limit=2&continue={token}");
    let second = fixture.get(&next).await?;
    assert_eq!(names(&second), ["c", "d"], "the page shows changes after the first page");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"].get("continue"), None);

    for n in 0..8 {
        fixture.create(CONFIG_MAPS, &config_map(&format!("z{n}"), json!({}))).await?;
    }
    let expired = fixture.get(&next).await.unwrap_err();
    assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    let bad = fixture.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.unwrap_err();
    assert_eq!(bad.code, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_the_resource_version_of_the_store() -> Result<()> {
    let fixture = Fixture::start().await?;
    let created = fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let secrets = fixture.get("/api/v1/namespaces/default/secrets").await?;
    let version = secrets["metadata"]["resourceVersion"].clone();
    assert_eq!(
        version, created["metadata"]["resourceVersion"],
        "kinds have different resource versions"
    );

    let now: u64 = version.as_str().unwrap_or("").parse()?;
    let exact = format!("{CONFIG_MAPS}?resourceVersion={}&resourceVersionMatch=Exact", now - 1);
    assert_eq!(names(&fixture.get(&exact).await?), [] as [&str; 0]);
    let future = format!("{CONFIG_MAPS}?resourceVersion={}", now + 1000);
    let refused = fixture.get(&future).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (504, "Timeout"));
    let details = refused.details.context("details")?;
    assert_eq!(details.causes[0].reason, "ResourceVersionTooLarge");
    assert_eq!(details.retry_after_seconds, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_choose_and_unknown_fields_are_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    for (name, label) in [("a", "x"), ("b", "y")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"l": label});
        fixture.create(CONFIG_MAPS, &object).await?;
    }
    let rows = [
        ("labelSelector=l%3Dx", vec!["a"]),
        ("labelSelector=l%20in%20(x,y)", vec!["a", "b"]),
        ("labelSelector=!l", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a"]),
    ];
    for (query, expected) in rows {
        let list = fixture.get(&format!("{CONFIG_MAPS}?{query}")).await?;
        assert_eq!(names(&list), expected, "{query}");
    }
    let refused = fixture.get(&format!("{CONFIG_MAPS}?fieldSelector=data.x%3Dy")).await;
    assert_eq!(refused.unwrap_err().code, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_builtin_kinds_have_no_kind() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let list = fixture.get(CONFIG_MAPS).await?;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0].get("kind"), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_can_be_read_alone() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "y"}))).await?;
    let list = fixture.config_maps().list_metadata(&Default::default()).await?;
    assert_eq!(list.items[0].metadata.name.as_deref(), Some("a"));
    let one = fixture.config_maps().get_metadata("a").await?;
    assert_eq!(one.metadata.name.as_deref(), Some("a"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_forms_of_discovery_are_equal() -> Result<()> {
    let fixture = Fixture::start().await?;
    let plain = kube::discovery::Discovery::new(fixture.client.clone()).run().await?;
    let aggregated =
        kube::discovery::Discovery::new(fixture.client.clone()).run_aggregated().await?;
    let list = |discovery: &kube::discovery::Discovery| {
        let mut found: Vec<(String, String, bool)> = discovery
            .groups()
            .flat_map(|group| group.recommended_resources())
            .map(|(resource, capabilities)| {
                let namespaced = capabilities.scope == kube::discovery::Scope::Namespaced;
                (resource.api_version, resource.plural, namespaced)
            })
            .collect();
        found.sort();
        found
    };
    assert_eq!(list(&plain), list(&aggregated));
    let pods = ("v1".to_owned(), "pods".to_owned(), true);
    assert!(list(&plain).contains(&pods), "{:?}", list(&plain));
    assert_eq!(fixture.client.apiserver_version().await?.major, "1");
    assert_eq!(fixture.get("/openapi/v2").await.unwrap_err().code, 404);
    Ok(())
}
