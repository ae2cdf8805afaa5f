//! Watches: from now, from a resource version, with initial events; selectors, bookmarks, expiry; kube's `watcher()`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::fixture::{CONFIG_MAPS, DEADLINE, Fixture, config_map};

/// Returns the events of a watch as they arrive.
async fn lines(fixture: &Fixture, path: &str) -> Result<impl Stream<Item = Value> + Unpin + use<>> {
    use futures::AsyncBufReadExt;
    let mut request = kube::core::Request::new("/").get("x", &Default::default())?;
    *request.uri_mut() = path.parse()?;
    let stream = fixture.client.request_stream(request).await?;
    let lines = stream.lines().map(|line| {
        let line = line.expect("a line");
        assert!(line.starts_with("{\"type\":"), "`type` is not the first field: {line}");
        serde_json::from_str(&line).expect("a JSON line")
    });
    Ok(Box::pin(lines))
}

async fn next(lines: &mut (impl Stream<Item = Value> + Unpin)) -> Result<(String, String)> {
    let event = timeout(DEADLINE, lines.next()).await?.context("the watch ended")?;
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    Ok((text(&event["type"]), text(&event["object"]["metadata"]["name"])))
}

fn pair(text: &str, name: &str) -> (String, String) {
    (text.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_returns_the_changes_after_its_resource_version() -> Result<()> {
    let fixture = Fixture::start().await?;
    let a = fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}");
    let mut watch = lines(&fixture, &path).await?;
    fixture.create(CONFIG_MAPS, &config_map("b", json!({}))).await?;
    let merge = "application/merge-patch+json";
    let patch = json!({"data": {"x": "y"}});
    let path = format!("{CONFIG_MAPS}/a");
    let patched = fixture.ask("PATCH", &path, merge, &patch).await?;
    fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert_eq!(next(&mut watch).await?, pair("ADDED", "b"));
    assert_eq!(next(&mut watch).await?, pair("MODIFIED", "a"));
    let deleted = timeout(DEADLINE, watch.next()).await?.context("an event")?;
    assert_eq!(deleted["type"], "DELETED");
    let number = |object: &Value| {
        object["metadata"]["resourceVersion"].as_str().unwrap_or("").parse::<u64>()
    };
    assert!(
        number(&patched)? < number(&deleted["object"])?,
        "a deletion has no resource version of its own"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_a_selector_is_deleted_and_entering_added() -> Result<()> {
    let fixture = Fixture::start().await?;
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=l%3Dx");
    let mut watch = lines(&fixture, &path).await?;
    let merge = "application/merge-patch+json";
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    for label in [json!("x"), json!("x"), json!("y"), json!("x")] {
        let patch = json!({"metadata": {"labels": {"l": label}}, "data": {"n": uuid()}});
        fixture.ask("PATCH", &format!("{CONFIG_MAPS}/a"), merge, &patch).await?;
    }
    for text in ["ADDED", "MODIFIED", "DELETED", "ADDED"] {
        assert_eq!(next(&mut watch).await?, pair(text, "a"));
    }
    Ok(())
}

/// Returns a value that is different each time.
fn uuid() -> String {
    format!("{:?}", std::time::Instant::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_events_end_with_a_marked_bookmark() -> Result<()> {
    let fixture = Fixture::start().await?;
    for name in ["a", "b"] {
        fixture.create(CONFIG_MAPS, &config_map(name, json!({}))).await?;
    }
    let expected = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true";
    let path = format!("{CONFIG_MAPS}?{expected}&resourceVersionMatch=NotOlderThan");
    let mut watch = lines(&fixture, &path).await?;
    assert_eq!(next(&mut watch).await?, pair("ADDED", "a"));
    assert_eq!(next(&mut watch).await?, pair("ADDED", "b"));
    let bookmark = timeout(DEADLINE, watch.next()).await?.context("a bookmark")?;
    assert_eq!(bookmark["type"], "BOOKMARK");
    let annotations = &bookmark["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    let refused = fixture.get(&format!("{CONFIG_MAPS}?{expected}")).await.unwrap_err();
    assert_eq!(refused.code, 422);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_gets_bookmarks_and_ends_in_time() -> Result<()> {
    let fixture = Fixture::start_with(|options| {
        options.bookmark_interval = Duration::from_millis(100);
    })
    .await?;
    let path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1");
    let watch = lines(&fixture, &path).await?;
    fixture
        .create(
            "/api/v1/namespaces/default/secrets",
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "elsewhere"},
            }),
        )
        .await?;
    let events: Vec<Value> = timeout(DEADLINE, watch.collect()).await?;
    assert!(2 <= events.len() && events.iter().all(|event| event["type"] == "BOOKMARK"));
    let list = fixture.get(CONFIG_MAPS).await?;
    let last = events.last().context("a bookmark before the end")?;
    assert_eq!(
        last["object"]["metadata"]["resourceVersion"], list["metadata"]["resourceVersion"],
        "the bookmark ignores changes of other kinds"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_resource_version_is_an_error_in_the_stream() -> Result<()> {
    let fixture = Fixture::start_with(|options| options.watch_cache_events_max = 4).await?;
    for n in 0..8 {
        fixture.create(CONFIG_MAPS, &config_map(&format!("c{n}"), json!({}))).await?;
    }
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=2");
    let mut watch = lines(&fixture, &path).await?;
    let event = timeout(DEADLINE, watch.next()).await?.context("an event")?;
    assert_eq!(event["type"], "ERROR");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(timeout(DEADLINE, watch.next()).await?, None, "the stream did not end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_does_not_block_writers_and_is_ended() -> Result<()> {
    let fixture = Fixture::start_with(|options| options.watch_cache_events_max = 4).await?;
    let mut watch = lines(&fixture, &format!("{CONFIG_MAPS}?watch=true")).await?;
    // Far more than the buffers of both sides can hold.
    let large = "x".repeat(1024 * 1024);
    let path = format!("{CONFIG_MAPS}/a");
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    for n in 0..48 {
        let object = config_map("a", json!({"large": large, "n": n.to_string()}));
        timeout(DEADLINE, fixture.ask("PUT", &path, "application/json", &object)).await??;
    }
    let last = async {
        let mut last = Value::Null;
        while let Some(event) = watch.next().await {
            last = event;
        }
        last
    };
    let last = timeout(DEADLINE, last).await?;
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_object_can_be_watched_by_its_path() -> Result<()> {
    let fixture = Fixture::start().await?;
    for name in ["a", "b"] {
        fixture.create(CONFIG_MAPS, &config_map(name, json!({}))).await?;
    }
    let mut watch = lines(&fixture, &format!("{CONFIG_MAPS}/b?watch=true")).await?;
    fixture.ask("DELETE", &format!("{CONFIG_MAPS}/a"), "", &Value::Null).await?;
    fixture.ask("DELETE", &format!("{CONFIG_MAPS}/b"), "", &Value::Null).await?;
    assert_eq!(next(&mut watch).await?, pair("ADDED", "b"));
    assert_eq!(next(&mut watch).await?, pair("DELETED", "b"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_metadata_can_be_watched() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "y"}))).await?;
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
    ] {
        let mut request = kube::core::Request::new("/").get("x", &Default::default())?;
        *request.uri_mut() = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1").parse()?;
        request.headers_mut().insert("accept", accept.parse()?);
        let text = timeout(DEADLINE, fixture.client.request_text(request)).await??;
        let event: Value = serde_json::from_str(text.lines().next().context("an event")?)?;
        assert_eq!(event["object"]["kind"], kind);
        let data = event["object"].get("data").or(event.pointer("/object/rows/0/object/data"));
        assert_eq!(data, None, "{kind}");
    }
    Ok(())
}

/// Reads events of `watcher()` until it knows exactly the `expected` objects; returns how often it listed.
async fn until_known(
    events: &mut (impl Stream<Item = watcher::Result<Event<DynamicObject>>> + Unpin),
    known: &mut BTreeSet<String>,
    expected: &[&str],
) -> Result<usize> {
    let mut relists = 0;
    let name = |object: DynamicObject| object.metadata.name.unwrap_or_default();
    let mut listing = BTreeSet::new();
    let mut is_listing = false;
    loop {
        if !is_listing && known.iter().map(String::as_str).eq(expected.iter().copied()) {
            return Ok(relists);
        }
        match timeout(DEADLINE, events.try_next()).await.context("no event in time")? {
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(other) => return Err(other.into()),
            Ok(None) => anyhow::bail!("the watcher ended"),
            Ok(Some(Event::Init)) => {
                listing.clear();
                is_listing = true;
                relists += 1;
            }
            Ok(Some(Event::InitApply(object))) => {
                listing.insert(name(object));
            }
            Ok(Some(Event::InitDone)) => {
                *known = std::mem::take(&mut listing);
                is_listing = false;
            }
            Ok(Some(Event::Apply(object))) => {
                known.insert(name(object));
            }
            Ok(Some(Event::Delete(object))) => {
                known.remove(&name(object));
            }
        }
    }
}

async fn follow_with(config: watcher::Config) -> Result<()> {
    let fixture = Fixture::start_with(|options| {
        options.watch_cache_events_max = 4;
    })
    .await?;
    for name in ["a", "b", "c"] {
        fixture.create(CONFIG_MAPS, &config_map(name, json!({}))).await?;
    }
    let config = config.page_size(2).timeout(1);
    let mut events = watcher::watcher(fixture.config_maps(), config).boxed();
    let mut known = BTreeSet::new();
    until_known(&mut events, &mut known, &["a", "b", "c"]).await?;
    fixture.create(CONFIG_MAPS, &config_map("d", json!({}))).await?;
    fixture.ask("DELETE", &format!("{CONFIG_MAPS}/a"), "", &Value::Null).await?;
    until_known(&mut events, &mut known, &["b", "c", "d"]).await?;

    // More changes than the history keeps, while the events are not read and after the running watch has ended.
    let watch_is_over = std::time::Instant::now() + Duration::from_millis(1_500);
    for n in 0.. {
        let name = format!("p{n}");
        fixture.create(CONFIG_MAPS, &config_map(&name, json!({}))).await?;
        fixture.ask("DELETE", &format!("{CONFIG_MAPS}/{name}"), "", &Value::Null).await?;
        if watch_is_over < std::time::Instant::now() {
            break;
        }
    }
    fixture.create(CONFIG_MAPS, &config_map("z", json!({}))).await?;
    let relists = until_known(&mut events, &mut known, &["b", "c", "d", "z"]).await?;
    assert_eq!(relists, 1, "the watch did not list again exactly once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubes_watcher_follows_lists_and_expiry() -> Result<()> {
    follow_with(watcher::Config::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubes_streaming_watcher_follows_lists_and_expiry() -> Result<()> {
    follow_with(watcher::Config::default().streaming_lists()).await
}
