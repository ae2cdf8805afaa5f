//! The real kubectl, used as a user uses it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use serde_json::json;
use tholepin_apiserver::{LogError, LogOptions, LogTarget, OpenLog, PodLogs};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::crds::{CRDS, definition};
use crate::fixture::{CONFIG_MAPS, DEADLINE, Fixture, config_map};

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  a: b\n";

fn failed(text: String) -> anyhow::Error {
    anyhow!("kubectl: {text}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_prints_tables_and_yaml() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({"x": "y", "z": ""}))).await?;
    let table = fixture.run(&["get", "configmaps"]).await.map_err(failed)?;
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "DATA", "AGE"], "{table}");
    assert_eq!(rows[1][..2], ["a", "2"], "{table}");
    let yaml = fixture.run(&["get", "cm", "a", "-o", "yaml"]).await.map_err(failed)?;
    assert!(yaml.contains("kind: ConfigMap") && yaml.contains("x: \"y\""), "{yaml}");
    let all = fixture.run(&["get", "all", "-A"]).await.map_err(failed)?;
    assert_eq!(all, "", "no object of those kinds exists");
    let missing = fixture.run(&["get", "cm", "nope"]).await.unwrap_err();
    assert!(
        missing.contains("Error from server (NotFound): configmaps \"nope\" not found"),
        "{missing}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_follows_changes() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let mut child = fixture.kubectl(&["get", "cm", "-w", "--no-headers"])?.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut next = async || {
        let line = timeout(DEADLINE, lines.next_line()).await??;
        anyhow::Ok(line.unwrap_or_default())
    };
    assert!(next().await?.starts_with("a "));
    fixture.create(CONFIG_MAPS, &config_map("b", json!({}))).await?;
    assert!(next().await?.starts_with("b "));
    child.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_server_side_creates_changes_and_conflicts() -> Result<()> {
    let fixture = Fixture::start().await?;
    let apply = ["apply", "--server-side", "-f", "-"];
    let made = fixture.run_with(&apply, SECRET).await.map_err(failed)?;
    assert_eq!(made.trim(), "secret/s serverside-applied");
    let changed = SECRET.replace("a: b", "a: c");
    fixture.run_with(&apply, &changed).await.map_err(failed)?;
    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: VALUE\n";
    fixture.run_with(&apply, &map.replace("VALUE", "one")).await.map_err(failed)?;
    let refused = fixture.run_with(&other, &map.replace("VALUE", "two")).await.unwrap_err();
    assert!(refused.contains("conflict with \"kubectl\": .data.a"), "{refused}");
    let force = ["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"];
    fixture.run_with(&force, &map.replace("VALUE", "two")).await.map_err(failed)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_side_apply_creates_and_its_updates_are_refused_with_advice() -> Result<()> {
    let fixture = Fixture::start().await?;
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: one\n";
    let made = fixture.run_with(&["apply", "-f", "-"], map).await.map_err(failed)?;
    assert_eq!(made.trim(), "configmap/m created");
    let same = fixture.run_with(&["apply", "-f", "-"], map).await.map_err(failed)?;
    assert_eq!(same.trim(), "configmap/m unchanged");
    let changed = map.replace("one", "two");
    let refused = fixture.run_with(&["apply", "-f", "-"], &changed).await.unwrap_err();
    assert!(refused.contains("use --server-side"), "{refused}");
    let server_side = ["apply", "--server-side", "-f", "-"];
    fixture.run_with(&server_side, &changed).await.map_err(failed)?;
    let path = format!("{CONFIG_MAPS}/m");
    assert_eq!(
        fixture.get(&path).await?["data"]["a"],
        "two",
        "the fields of the client-side apply were not migrated"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_applied_explained_and_printed() -> Result<()> {
    let fixture = Fixture::start().await?;
    let crd = definition().to_string();
    fixture.run_with(&["apply", "--server-side", "-f", "-"], &crd).await.map_err(failed)?;
    let established = ["wait", "--for=condition=Established", "crd/things.test.tholepin.dev"];
    fixture.run(&established).await.map_err(failed)?;
    let thing =
        "apiVersion: test.tholepin.dev/v1\nkind: Thing\nmetadata:\n  name: a\nspec:\n  size: 3\n";
    for (size, outcome) in [("3", "created"), ("3", "unchanged"), ("4", "configured")] {
        let text = thing.replace("size: 3", &format!("size: {size}"));
        let applied = fixture.run_with(&["apply", "-f", "-"], &text).await.map_err(failed)?;
        assert_eq!(applied.trim(), format!("thing.test.tholepin.dev/a {outcome}"));
    }
    let table = fixture.run(&["get", "th"]).await.map_err(failed)?;
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows, [["NAME", "SIZE"], ["a", "4"]], "{table}");
    let all = fixture.run(&["get", "all"]).await.map_err(failed)?;
    assert!(
        all.contains("thing.test.tholepin.dev/a"),
        "the category does not contain the kind: {all}"
    );
    let explained = fixture.run(&["explain", "things.spec.size"]).await.map_err(failed)?;
    assert!(explained.contains("How large it is."), "{explained}");
    let typo = thing.replace("size", "sise");
    let refused = fixture.run_with(&["apply", "-f", "-"], &typo).await.unwrap_err();
    assert!(refused.contains("sise"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_shows_the_events() -> Result<()> {
    let fixture = Fixture::start().await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "redis:7"}]},
    });
    let pod = fixture.create("/api/v1/namespaces/default/pods", &pod).await?;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "p.1"},
        "regarding": {
            "kind": "Pod", "name": "p", "namespace": "default", "uid": pod["metadata"]["uid"],
        },
        "note": "there is no node", "reason": "FailedScheduling", "type": "Warning",
        "action": "Scheduling", "reportingController": "scheduler", "reportingInstance": "s",
        "eventTime": "2026-01-02T03:04:05.000000Z",
    });
    fixture.create("/apis/events.k8s.io/v1/namespaces/default/events", &event).await?;
    let text = fixture.run(&["describe", "pod", "p"]).await.map_err(failed)?;
    assert!(text.contains("FailedScheduling") && text.contains("there is no node"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_waits_and_wait_sees_the_end() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CONFIG_MAPS, &config_map("a", json!({}))).await?;
    let deleted = fixture.run(&["delete", "cm", "a", "--wait=true"]).await.map_err(failed)?;
    assert!(deleted.starts_with("configmap \"a\" deleted"), "{deleted}");

    let mut held = config_map("b", json!({}));
    held["metadata"]["finalizers"] = json!(["tholepin.dev/a"]);
    fixture.create(CONFIG_MAPS, &held).await?;
    fixture.run(&["delete", "cm", "b", "--wait=false"]).await.map_err(failed)?;
    let wait = ["wait", "--for=delete", "cm/b", "--timeout=20s"];
    let none = json!({"metadata": {"finalizers": null}});
    let path = format!("{CONFIG_MAPS}/b");
    let (waited, freed) = tokio::join!(fixture.run(&wait), async {
        fixture.ask("PATCH", &path, "application/merge-patch+json", &none).await
    });
    freed?;
    waited.map_err(failed)?;
    let can = fixture.run(&["auth", "can-i", "delete", "pods"]).await.map_err(failed)?;
    assert_eq!(can.trim(), "yes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_crds_names_the_kind() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CRDS, &definition()).await?;
    let resources = fixture.run(&["api-resources", "--api-group=test.tholepin.dev"]).await;
    let resources = resources.map_err(failed)?;
    let row: Vec<&str> = resources.lines().nth(1).unwrap_or("").split_whitespace().collect();
    assert_eq!(row, ["things", "th", "test.tholepin.dev/v1", "true", "Thing"]);
    Ok(())
}

/// Returns one line with the requested target and options; with `follow` the stream does not end.
struct EchoLogs;

impl PodLogs for EchoLogs {
    fn open(&self, target: LogTarget, options: LogOptions) -> OpenLog<'_> {
        Box::pin(async move {
            if options.previous {
                return Err(LogError::NotFound("previous terminated container not found".into()));
            }
            let LogTarget { pod, container, node, .. } = target;
            let line = format!("{pod}/{container}@{node} tail={:?}\n", options.tail_lines);
            let first = futures::stream::iter([io::Result::Ok(line.into())]);
            let rest = if options.follow {
                futures::stream::pending().boxed()
            } else {
                futures::stream::empty().boxed()
            };
            Ok(first.chain(rest).boxed())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_read_from_the_configured_source() -> Result<()> {
    let fixture =
        Fixture::start_with(|options| options.pod_logs = Some(Arc::new(EchoLogs))).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "image": "redis:7"}, {"name": "d", "image": "redis:7"},
        ]},
    });
    fixture.create("/api/v1/namespaces/default/pods", &pod).await?;
    let log = fixture.run(&["logs", "p", "-c", "d", "--tail=3"]).await.map_err(failed)?;
    assert_eq!(log, "p/d@n1 tail=Some(3)\n");
    let refused = fixture.run(&["logs", "p", "-c", "x"]).await.unwrap_err();
    assert!(refused.contains('x'), "{refused}");
    let refused = fixture.run(&["logs", "p", "-c", "c", "--previous"]).await.unwrap_err();
    assert!(refused.contains("previous terminated container not found"), "{refused}");

    let mut child = fixture.kubectl(&["logs", "p", "-c", "c", "-f"])?.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let first = timeout(DEADLINE, lines.next_line()).await??;
    assert_eq!(first.as_deref(), Some("p/c@n1 tail=None"));
    assert!(
        timeout(Duration::from_millis(200), child.wait()).await.is_err(),
        "kubectl ended although it follows"
    );
    child.kill().await?;
    Ok(())
}
