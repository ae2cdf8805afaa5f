//! Settings that a server refuses, and templates that the Pods do not have yet.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use serde_json::{Value, json};
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, NAMESPACE, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::ScenarioResult;

/// The reply of a server that was built without defragmentation, as the tests' server is.
const WORDS: &str = "Active defragmentation cannot be enabled";

/// U6 by hand and U7: a setting that this build of Redis refuses, at creation and on a running cluster; then a
/// setting that needs a restart; then a StatefulSet that is deleted without its Pods.
pub(crate) async fn settings_are_refused_and_rolled_by_hand() -> Result<ScenarioResult> {
    let redis = RedisCluster { shards: 1, ..RedisCluster::USUAL };
    let mut story = TestEnvironment::begin(redis, &[], "").await?;
    let start = Instant::now();
    create(&story, &json!({"activedefrag": "yes"}))?;
    condition(&story, "Ready", "False", WORDS).await?;
    let told = start.elapsed();
    set(&story, &json!({"activedefrag": null}))?;
    story.well().await?;

    // A running cluster continues to serve, and a restarted member has the settings from before.
    set(&story, &json!({"activedefrag": "yes"}))?;
    condition(&story, "LiveConfigApplied", "False", WORDS).await?;
    let (seats, _) = story.well().await?;
    let replica = seats.iter().find(|seat| !seat.member.is_primary()).context("a replica")?;
    ensure!(!live_file(&story)?.contains("activedefrag"), "{}", live_file(&story)?);
    signal(replica.member.pid()?, "KILL")?;
    let back = || async {
        let (seats, _) = story.well().await?;
        let now = seats.iter().find(|seat| seat.pod == replica.pod).context("the replica")?;
        let restarted = now.member.pid()? != replica.member.pid()?;
        Ok(if restarted { Poll::There(()) } else { Poll::NotYet("the same process".into()) })
    };
    until("the replica to start again", GIVE_UP, back).await?;

    set(&story, &json!({"activedefrag": null, "hz": 20, "slowlog-max-len": 256}))?;
    condition(&story, "Outdated", "True", "2 of 2 Pods").await?;
    condition(&story, "LiveConfigApplied", "True", "").await?;
    ensure!(live_file(&story)?.contains("slowlog-max-len 256"), "{}", live_file(&story)?);
    shown(&story, &[("slowlog-max-len", "256"), ("hz", "10")]).await?;
    for left in ["1 of 2 Pods", ""] {
        replace_next(&story).await?;
        condition(&story, "Outdated", if left.is_empty() { "False" } else { "True" }, left).await?;
    }
    shown(&story, &[("slowlog-max-len", "256"), ("hz", "20")]).await?;
    let one = || async {
        let all = revisions(&story)?;
        Ok(if all.len() == 1 { Poll::There(()) } else { Poll::NotYet(all.join(", ")) })
    };
    until("the old revision to be deleted", GIVE_UP, one).await?;

    let orphaned = adopted(&story).await?;
    story.watch().await?;
    let report = story.end(QUIET).await?;
    let outcome =
        ScenarioResult::new("a refused setting reported at creation", told, 15.0, &report);
    Ok(outcome.note(format!("orphans adopted in {:.1} s", orphaned.as_secs_f64())))
}

fn create(story: &TestEnvironment, settings: &Value) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "password", "namespace": NAMESPACE},
        "stringData": {"password": PASSWORD},
    });
    let object = json!({
        "apiVersion": "redis.tholepin.dev/v1alpha1",
        "kind": "RedisCluster",
        "metadata": {"name": story.redis.name, "namespace": NAMESPACE},
        "spec": {
            "shards": story.redis.shards,
            "replicasPerShard": story.redis.replicas,
            "image": "redis:7.0",
            "auth": {"secretName": "password"},
            "failover": {"nodeTimeoutMs": 2000},
            "settings": settings,
        },
    });
    let stream = format!("{secret}\n---\n{object}\n");
    story.kubectl.run_with(&["apply", "--server-side", "-f", "-"], &stream).map(drop)
}

fn set(story: &TestEnvironment, settings: &Value) -> Result<()> {
    let patch = json!({"spec": {"settings": settings}}).to_string();
    let name = story.redis.name;
    story.kubectl.run(&["patch", "rediscluster", name, "--type", "merge", "-p", &patch]).map(drop)
}

/// Waits until a condition of the object has this status and a message with this text.
async fn condition(
    story: &TestEnvironment,
    name: &str,
    status: &str,
    words: &str,
) -> Result<Value> {
    let look = || async {
        let object = object(story)?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let mut all = conditions.unwrap_or_default().into_iter();
        let found = all.find(|it| it.get("type").is_some_and(|it| it == name)).unwrap_or_default();
        let says = found
            .get("message")
            .and_then(Value::as_str)
            .is_some_and(|message| message.contains(words));
        let holds = found.get("status").is_some_and(|it| it == status) && says;
        Ok(if holds { Poll::There(found) } else { Poll::NotYet(found.to_string()) })
    };
    let what = format!("{name}={status} with `{words}`");
    Ok(until(what, GIVE_UP, look).await?.0)
}

fn object(story: &TestEnvironment) -> Result<Value> {
    let text = story.kubectl.run(&["get", "rediscluster", story.redis.name, "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn live_file(story: &TestEnvironment) -> Result<String> {
    let name = format!("{}-live", story.redis.name);
    story.kubectl.run(&["get", "configmap", &name, "-o", "json"])
}

fn revisions(story: &TestEnvironment) -> Result<Vec<String>> {
    let names = story.kubectl.run(&["get", "configmap", "-o", "name"])?;
    let prefix = format!("configmap/{}-config", story.redis.name);
    Ok(names.lines().filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
}

/// Waits until every server reports these values.
async fn shown(story: &TestEnvironment, wanted: &[(&str, &str)]) -> Result<()> {
    let look = || async {
        for seat in story.redis.seats(&story.client).await? {
            let mut server = connect(&seat.address, Some(PASSWORD))?;
            for (name, value) in wanted {
                let shown: BTreeMap<String, String> =
                    cmd("CONFIG").arg("GET").arg(name).query(&mut server)?;
                if shown.get(*name).map(String::as_str) != Some(value) {
                    return Ok(Poll::NotYet(format!("{} shows {shown:?}", seat.pod)));
                }
            }
        }
        Ok(Poll::There(()))
    };
    until(format!("every server to show {wanted:?}"), GIVE_UP, look).await.map(drop)
}

/// Deletes the Pod that the condition names, and waits until the cluster is healthy with a new Pod in its place.
async fn replace_next(story: &TestEnvironment) -> Result<()> {
    let (seats, _) = story.well().await?;
    let found = condition(story, "Outdated", "True", "").await?;
    let message = found.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = |seat: &&ClusterPod| message.contains(&format!("next is `{}`", seat.pod));
    let next = seats.iter().find(named).with_context(|| message.clone())?;
    story.kubectl.run(&["delete", "pod", &next.pod, "--wait=false"])?;
    let look = || async {
        let (seats, _) = story.well().await?;
        let is_new = !seats.iter().any(|seat| seat.uid == next.uid);
        Ok(if is_new { Poll::There(()) } else { Poll::NotYet(format!("{} is there", next.pod)) })
    };
    until(format!("{} to be replaced", next.pod), GIVE_UP, look).await.map(drop)
}

/// Deletes the StatefulSet without its Pods; returns how long it took until its successor had adopted them.
async fn adopted(story: &TestEnvironment) -> Result<std::time::Duration> {
    let (before, _) = story.well().await?;
    let set = &before.first().context("a Pod")?.shard;
    let uid = |name: &str| -> Result<String> {
        let path = "jsonpath={.metadata.uid}";
        story.kubectl.run(&["get", "statefulset", name, "-o", path])
    };
    let old = uid(set)?;
    let start = Instant::now();
    story.kubectl.run(&["delete", "statefulset", set, "--cascade=orphan", "--wait=false"])?;
    let look = || async {
        let new = uid(set)?;
        let pods = story.kubectl.run(&["get", "pods", "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let owners = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        let owned = owners.filter(|pod| {
            pod.pointer("/metadata/ownerReferences/0/uid").is_some_and(|uid| *uid == *new)
        });
        let owned = owned.count();
        let done = new != old && owned == before.len();
        Ok(if done { Poll::There(()) } else { Poll::NotYet(format!("{owned} adopted")) })
    };
    until("the Pods to be adopted", GIVE_UP, look).await?;
    let took = start.elapsed();
    let (after, _) = story.well().await?;
    for seat in &before {
        let now = after.iter().find(|it| it.pod == seat.pod).context("the same Pods")?;
        ensure!(now.uid == seat.uid, "{} is another Pod", seat.pod);
        ensure!(now.member.pid()? == seat.member.pid()?, "{} was restarted", seat.pod);
    }
    Ok(took)
}
