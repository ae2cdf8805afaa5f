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
const REFUSAL: &str = "Active defragmentation cannot be enabled";

/// U6 by hand and U7: a setting that this build of Redis refuses, at creation and on a running cluster; then a
/// setting that needs a restart; then a StatefulSet that is deleted without its Pods.
pub(crate) async fn settings_are_refused_and_rolled_by_hand() -> Result<ScenarioResult> {
    let redis = RedisCluster { shards: 1, ..RedisCluster::USUAL };
    let mut env = TestEnvironment::begin(redis, &[], "").await?;
    let start = Instant::now();
    create(&env, &json!({"activedefrag": "yes"}))?;
    condition(&env, "Ready", "False", REFUSAL).await?;
    let reported = start.elapsed();
    set(&env, &json!({"activedefrag": null}))?;
    env.until_healthy().await?;

    // A running cluster continues to serve, and a restarted member has the settings from before.
    let start = Instant::now();
    set(&env, &json!({"activedefrag": "yes"}))?;
    condition(&env, "LiveConfigApplied", "False", REFUSAL).await?;
    let reported_live = start.elapsed();
    let (members, _) = env.until_healthy().await?;
    let replica = members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
    ensure!(!live_file(&env)?.contains("activedefrag"), "{}", live_file(&env)?);
    signal(replica.server.pid()?, "KILL")?;
    let back = || async {
        let (members, _) = env.until_healthy().await?;
        let now = members.iter().find(|member| member.pod == replica.pod).context("the replica")?;
        let restarted = now.server.pid()? != replica.server.pid()?;
        Ok(if restarted { Poll::Done(()) } else { Poll::NotYet("the same process".into()) })
    };
    until("the replica to start again", GIVE_UP, back).await?;

    let start = Instant::now();
    set(&env, &json!({"activedefrag": null, "hz": 20, "slowlog-max-len": 256}))?;
    condition(&env, "Outdated", "True", "2 of 2 Pods").await?;
    condition(&env, "LiveConfigApplied", "True", "").await?;
    ensure!(live_file(&env)?.contains("slowlog-max-len 256"), "{}", live_file(&env)?);
    until_shown(&env, &[("slowlog-max-len", "256"), ("hz", "10")]).await?;
    for outdated in ["1 of 2 Pods", ""] {
        replace_next(&env).await?;
        condition(&env, "Outdated", if outdated.is_empty() { "False" } else { "True" }, outdated)
            .await?;
    }
    until_shown(&env, &[("slowlog-max-len", "256"), ("hz", "20")]).await?;
    let rolled = start.elapsed();
    let single_revision = || async {
        let all = revisions(&env)?;
        Ok(if all.len() == 1 { Poll::Done(()) } else { Poll::NotYet(all.join(", ")) })
    };
    until("the old revision to be deleted", GIVE_UP, single_revision).await?;

    let orphaned = adopted(&env).await?;
    env.watch().await?;
    let report = env.end(QUIET).await?;
    let outcome =
        ScenarioResult::new("a refused setting reported at creation", reported, 15.0, &report)
            .bounded("reported on a running cluster", reported_live, 5.0)
            .bounded("rolled by hand", rolled, 60.0);
    Ok(outcome.note(format!("orphans adopted in {:.1} s", orphaned.as_secs_f64())))
}

fn create(env: &TestEnvironment, settings: &Value) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "password", "namespace": NAMESPACE},
        "stringData": {"password": PASSWORD},
    });
    let object = json!({
        "apiVersion": "redis.tholepin.dev/v1alpha1",
        "kind": "RedisCluster",
        "metadata": {"name": env.redis.name, "namespace": NAMESPACE},
        "spec": {
            "shards": env.redis.shards,
            "replicasPerShard": env.redis.replicas,
            "image": "redis:7.0",
            "auth": {"secretName": "password"},
            "failover": {"nodeTimeoutMs": 2000},
            "settings": settings,
        },
    });
    let stream = format!("{secret}\n---\n{object}\n");
    env.kubectl.run_with(&["apply", "--server-side", "-f", "-"], &stream).map(drop)
}

fn set(env: &TestEnvironment, settings: &Value) -> Result<()> {
    let patch = json!({"spec": {"settings": settings}}).to_string();
    let name = env.redis.name;
    env.kubectl.run(&["patch", "rediscluster", name, "--type", "merge", "-p", &patch]).map(drop)
}

/// Waits until a condition of the object has this status and a message with this text.
async fn condition(env: &TestEnvironment, name: &str, status: &str, text: &str) -> Result<Value> {
    let poll = || async {
        let object = object(env)?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let mut all = conditions.unwrap_or_default().into_iter();
        let found = all
            .find(|value| value.get("type").is_some_and(|value| value == name))
            .unwrap_or_default();
        let has_text = found
            .get("message")
            .and_then(Value::as_str)
            .is_some_and(|message| message.contains(text));
        let holds = found.get("status").is_some_and(|value| value == status) && has_text;
        Ok(if holds { Poll::Done(found) } else { Poll::NotYet(found.to_string()) })
    };
    let what = format!("{name}={status} with `{text}`");
    Ok(until(what, GIVE_UP, poll).await?.0)
}

fn object(env: &TestEnvironment) -> Result<Value> {
    let text = env.kubectl.run(&["get", "rediscluster", env.redis.name, "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn live_file(env: &TestEnvironment) -> Result<String> {
    let name = format!("{}-live", env.redis.name);
    env.kubectl.run(&["get", "configmap", &name, "-o", "json"])
}

fn revisions(env: &TestEnvironment) -> Result<Vec<String>> {
    let names = env.kubectl.run(&["get", "configmap", "-o", "name"])?;
    let prefix = format!("configmap/{}-config", env.redis.name);
    Ok(names.lines().filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
}

/// Waits until every server reports these values.
async fn until_shown(env: &TestEnvironment, expected: &[(&str, &str)]) -> Result<()> {
    let poll = || async {
        for member in env.redis.members(&env.client).await? {
            let mut server = connect(&member.address, Some(PASSWORD))?;
            for (name, value) in expected {
                let until_shown: BTreeMap<String, String> =
                    cmd("CONFIG").arg("GET").arg(name).query(&mut server)?;
                if until_shown.get(*name).map(String::as_str) != Some(value) {
                    return Ok(Poll::NotYet(format!("{} shows {until_shown:?}", member.pod)));
                }
            }
        }
        Ok(Poll::Done(()))
    };
    until(format!("every server to show {expected:?}"), GIVE_UP, poll).await.map(drop)
}

/// Deletes the Pod that the condition names, and waits until the cluster is healthy with a new Pod in its place.
async fn replace_next(env: &TestEnvironment) -> Result<()> {
    let (members, _) = env.until_healthy().await?;
    let found = condition(env, "Outdated", "True", "").await?;
    let message = found.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = |member: &&ClusterPod| message.contains(&format!("next is `{}`", member.pod));
    let next = members.iter().find(named).with_context(|| message.clone())?;
    env.kubectl.run(&["delete", "pod", &next.pod, "--wait=false"])?;
    let poll = || async {
        let (members, _) = env.until_healthy().await?;
        let is_new = !members.iter().any(|member| member.uid == next.uid);
        Ok(if is_new { Poll::Done(()) } else { Poll::NotYet(format!("{} is there", next.pod)) })
    };
    until(format!("{} to be replaced", next.pod), GIVE_UP, poll).await.map(drop)
}

/// Deletes the StatefulSet without its Pods; returns how long it took until its successor had adopted them.
async fn adopted(env: &TestEnvironment) -> Result<std::time::Duration> {
    let (before, _) = env.until_healthy().await?;
    let set = &before.first().context("a Pod")?.shard;
    let uid = |name: &str| -> Result<String> {
        let path = "jsonpath={.metadata.uid}";
        env.kubectl.run(&["get", "statefulset", name, "-o", path])
    };
    let old = uid(set)?;
    let start = Instant::now();
    env.kubectl.run(&["delete", "statefulset", set, "--cascade=orphan", "--wait=false"])?;
    let poll = || async {
        let new = uid(set)?;
        let pods = env.kubectl.run(&["get", "pods", "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let owners = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        let owned = owners.filter(|pod| {
            pod.pointer("/metadata/ownerReferences/0/uid").is_some_and(|uid| *uid == *new)
        });
        let owned = owned.count();
        let done = new != old && owned == before.len();
        Ok(if done { Poll::Done(()) } else { Poll::NotYet(format!("{owned} adopted")) })
    };
    until("the Pods to be adopted", GIVE_UP, poll).await?;
    let took = start.elapsed();
    let (after, _) = env.until_healthy().await?;
    for member in &before {
        let now = after.iter().find(|now| now.pod == member.pod).context("the same Pods")?;
        ensure!(now.uid == member.uid, "{} is another Pod", member.pod);
        ensure!(now.server.pid()? == member.server.pid()?, "{} was restarted", member.pod);
    }
    Ok(took)
}
