//! What every case needs: a healthy cluster with keys, and the steps and waits of a case.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use tests::{
    cluster::HostOptions,
    environment::{ApiAccess, GIVE_UP, TestEnvironment},
    keys::WrittenKeys,
    redis_cluster::{ClusterPod, RedisCluster},
    wait::{Poll, until},
};

pub(crate) use tests::wait::holds_for;

use crate::table::FaultRows;

/// How long a cluster may take to be healthy again after a fault that loses nothing for good.
pub(crate) const HEAL_DEADLINE: Duration = Duration::from_secs(45);
/// How long a condition or an event may take to report a fault.
pub(crate) const REPORT_DEADLINE: Duration = Duration::from_secs(20);
/// How long a row may take, whatever it waits for.
pub(crate) const ROW: Duration = Duration::from_secs(150);

/// Starts a healthy cluster with keys.
pub(crate) async fn begin(redis: RedisCluster) -> Result<(TestEnvironment, WrittenKeys)> {
    begin_with(redis, ApiAccess::Direct(HostOptions::default()), |_| {}).await
}

/// Starts a cluster whose object is edited by `edit`, with a host that reaches the API server in the given way.
pub(crate) async fn begin_with(
    redis: RedisCluster,
    access: ApiAccess,
    edit: impl FnOnce(&mut Value),
) -> Result<(TestEnvironment, WrittenKeys)> {
    let env = TestEnvironment::begin_by(access, redis, &[], "").await?;
    let mut object = env.redis.object();
    edit(&mut object);
    apply(&env, &[env.redis.secret(), object])?;
    env.until_healthy().await.context("the cluster is created")?;
    let keys = WrittenKeys::put(&env.redis, &env.client).await?;
    // The host asks for approval only about keys that it has seen.
    env.until_keys_known().await?;
    Ok((env, keys))
}

/// Applies objects as a user does.
pub(crate) fn apply(env: &TestEnvironment, objects: &[Value]) -> Result<()> {
    let stream: Vec<_> = objects.iter().map(ToString::to_string).collect();
    let stream = stream.join("\n---\n");
    env.kubectl.run_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &stream)?;
    Ok(())
}

/// Sets a field of a document, and creates the objects on the way to it.
pub(crate) fn set(document: &mut Value, path: &[&str], value: impl Into<Value>) {
    let mut at = document;
    for field in path {
        if !at.is_object() {
            *at = json!({});
        }
        let Some(fields) = at.as_object_mut() else { return };
        at = fields.entry(*field).or_insert(Value::Null);
    }
    *at = value.into();
}

/// Changes the object by a merge patch.
pub(crate) fn patch(env: &TestEnvironment, change: &Value) -> Result<()> {
    patch_of(env, "rediscluster", env.redis.name, change)
}

/// Changes any object by a merge patch.
pub(crate) fn patch_of(
    env: &TestEnvironment,
    kind: &str,
    name: &str,
    change: &Value,
) -> Result<()> {
    let change = change.to_string();
    env.kubectl.run(&["patch", kind, name, "--type", "merge", "-p", &change]).map(drop)
}

/// Sets annotations of the object (`a=b`) or removes them (`a-`).
pub(crate) fn annotate(env: &TestEnvironment, annotation: &str) -> Result<()> {
    let object = format!("rediscluster/{}", env.redis.name);
    env.kubectl.run(&["annotate", "--overwrite", &object, annotation]).map(drop)
}

/// Reads any object.
pub(crate) fn get(env: &TestEnvironment, kind: &str, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&env.kubectl.run(&["get", kind, name, "-o", "json"])?)?)
}

/// One condition of an object.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, status, reason, message } = self;
        write!(f, "{kind}={status} {reason}: {message}")
    }
}

/// Returns the conditions of the RedisCluster.
pub(crate) fn conditions(env: &TestEnvironment) -> Result<Vec<Condition>> {
    conditions_of(env, env.redis.name)
}

pub(crate) fn conditions_of(env: &TestEnvironment, name: &str) -> Result<Vec<Condition>> {
    let object = get(env, "rediscluster", name)?;
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let text = |item: &Value, field: &str| {
        item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let condition = |item: &Value| Condition {
        kind: text(item, "type"),
        status: text(item, "status"),
        reason: text(item, "reason"),
        message: text(item, "message"),
    };
    Ok(all.into_iter().flatten().map(condition).collect())
}

/// Returns one condition of the RedisCluster; its parts are empty if it does not exist.
pub(crate) fn condition(env: &TestEnvironment, kind: &str) -> Result<Condition> {
    let found = conditions(env)?.into_iter().find(|item| item.kind == kind);
    Ok(found.unwrap_or_else(|| Condition {
        kind: kind.to_owned(),
        status: String::new(),
        reason: String::new(),
        message: String::new(),
    }))
}

/// Waits until a condition of the RedisCluster fits, and returns it.
pub(crate) async fn condition_where(
    env: &TestEnvironment,
    what: &str,
    matches: impl Fn(&Condition) -> bool,
) -> Result<Condition> {
    let poll = || async {
        let all = conditions(env)?;
        Ok(match all.iter().find(|item| matches(item)) {
            Some(item) => Poll::Done(item.clone()),
            None => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                Poll::NotYet(all.join(", "))
            }
        })
    };
    Ok(until(format!("a condition that reports {what}"), REPORT_DEADLINE, poll).await?.0)
}

/// Waits until the object and all servers are healthy; returns the members and how long that took.
pub(crate) async fn until_healthy(
    env: &TestEnvironment,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let poll =
        || async { Ok(Poll::Done(env.redis.check_healthy(&env.kubectl, &env.client).await?)) };
    until(format!("{} to be healthy", env.redis.name), deadline, poll).await
}

/// Waits until all servers are healthy, whatever the object's conditions are; returns the members and how long
/// that took.
pub(crate) async fn until_servers_healthy(
    env: &TestEnvironment,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let poll = || async { Ok(Poll::Done(env.redis.check_servers(&env.client).await?)) };
    until(format!("the servers of {} to be healthy", env.redis.name), deadline, poll).await
}

/// Checks for this duration that every key exists on some member; the error has the condition `Ready`.
pub(crate) async fn no_key_is_lost(
    env: &TestEnvironment,
    keys: &WrittenKeys,
    duration: Duration,
) -> Result<()> {
    let poll = || async {
        let held = keys.held(&env.client).await?;
        if held < keys.len() {
            let ready = condition(env, "Ready")?;
            bail!("{held} of {} keys exist, {ready}", keys.len());
        }
        Ok(())
    };
    holds_for("a copy was emptied", duration, poll).await
}

/// Returns the primary of the n-th range of slots, and a tag of keys in that range.
pub(crate) async fn primary(env: &TestEnvironment, shard: usize) -> Result<(String, ClusterPod)> {
    let members = env.redis.members(&env.client).await?;
    primary_among(&env.redis, members, shard)
}

pub(crate) fn primary_among(
    redis: &RedisCluster,
    members: Vec<ClusterPod>,
    shard: usize,
) -> Result<(String, ClusterPod)> {
    let tag = redis.tags().into_iter().nth(shard).context("no tag for the shard")?;
    let primary = members.into_iter().find(|member| member.serves(&tag));
    primary.map(|primary| (tag.clone(), primary)).with_context(|| format!("no member serves {tag}"))
}

/// The replicas of the n-th shard, in order of name.
pub(crate) async fn replicas(env: &TestEnvironment, shard: usize) -> Result<Vec<ClusterPod>> {
    let (_, primary) = primary(env, shard).await?;
    let members = env.redis.members(&env.client).await?;
    Ok(members
        .into_iter()
        .filter(|member| member.shard == primary.shard && member.pod != primary.pod)
        .collect())
}

/// Waits until all servers are healthy and a Pod of this name has another uid; returns how long that took.
pub(crate) async fn rejoined(
    env: &TestEnvironment,
    old: &ClusterPod,
    deadline: Duration,
) -> Result<Duration> {
    let poll = || async {
        let members = env.redis.check_servers(&env.client).await?;
        let now = members.iter().find(|member| member.pod == old.pod).context("no such Pod")?;
        Ok(if now.uid == old.uid {
            Poll::NotYet("the same Pod".to_owned())
        } else {
            Poll::Done(())
        })
    };
    Ok(until(format!("{} to rejoin", old.pod), deadline, poll).await?.1)
}

/// Waits until all servers are healthy and another process runs in the Pod of the ended one.
pub(crate) async fn restarted(
    env: &TestEnvironment,
    died: &ClusterPod,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let poll = || async {
        let members = env.redis.check_servers(&env.client).await?;
        let now = members.iter().find(|member| member.pod == died.pod).context("no such Pod")?;
        let same = now.server.field("run_id") == died.server.field("run_id");
        Ok(if same { Poll::NotYet("the same process".to_owned()) } else { Poll::Done(members) })
    };
    until(format!("{} to be restarted and healthy", died.pod), deadline, poll).await
}

/// Returns the events about the object as `reason: message`.
pub(crate) fn events(env: &TestEnvironment) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&env.kubectl.run(&["get", "events", "-o", "json"])?)?;
    let items = list.get("items").and_then(Value::as_array);
    let text = |item: &Value, path: &str| {
        item.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let events = items.into_iter().flatten();
    let events = events.filter(|item| text(item, "/involvedObject/name") == env.redis.name);
    Ok(events
        .map(|item| format!("{}: {}", text(item, "/reason"), text(item, "/message")))
        .collect())
}

/// Waits until an event about the object fits, and returns it.
pub(crate) async fn event(
    env: &TestEnvironment,
    what: &str,
    matches: impl Fn(&str) -> bool,
) -> Result<String> {
    let poll = || async {
        let events = events(env)?;
        let found = events.iter().find(|event| matches(event)).cloned();
        Ok(found.map_or_else(|| Poll::NotYet(events.join(", ")), Poll::Done))
    };
    Ok(until(format!("an event that reports {what}"), REPORT_DEADLINE, poll).await?.0)
}

/// Waits until the shard of this Pod has not changed roles for two node timeouts and a second. Until then the
/// shard's voters do not elect again, so a primary that ends earlier is replaced only later.
pub(crate) async fn until_shard_quiet(env: &TestEnvironment, member: &ClusterPod) -> Result<()> {
    let object = get(env, "rediscluster", env.redis.name)?;
    let timeout = object.pointer("/spec/failover/nodeTimeoutMs").and_then(Value::as_u64);
    let wanted_ms = 2 * timeout.context("a node timeout")? + 1_000;
    let shard = format!("{}-", member.shard);
    let poll = || async {
        let (_, ledger) = env.ledger()?;
        let nodes = ledger.get("nodes").and_then(Value::as_object).context("nodes")?;
        let of_shard = nodes.values().filter(|node| {
            node.get("pod").and_then(Value::as_str).is_some_and(|pod| pod.starts_with(&shard))
        });
        let times = of_shard
            .flat_map(|node| ["roleChangedAtMs", "failoverTriedAtMs"].map(|key| node.get(key)));
        let last = times.flatten().filter_map(Value::as_u64).max().unwrap_or_default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
        let since = u64::try_from(now)?.saturating_sub(last);
        let is_quiet = since >= wanted_ms;
        Ok(if is_quiet { Poll::Done(()) } else { Poll::NotYet(format!("since {since} ms")) })
    };
    until(format!("the shard of {} to be quiet", member.pod), HEAL_DEADLINE, poll).await?;
    Ok(())
}

/// Returns the number of container restarts per Pod, in order of name.
pub(crate) async fn restarts(env: &TestEnvironment) -> Result<Vec<(String, i32)>> {
    let pods = env.redis.list_pods(&env.client).await?;
    let count = |pod: &k8s_openapi::api::core::v1::Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        Some(status.restart_count)
    };
    Ok(pods.iter().map(|pod| (pod.name_any(), count(pod).unwrap_or_default())).collect())
}

/// Deletes the cluster and waits until its Pods are deleted.
pub(crate) async fn delete(env: &TestEnvironment) -> Result<()> {
    env.kubectl.run(&["delete", "rediscluster", env.redis.name, "--timeout=60s"])?;
    let old = || async {
        let left = env.redis.list_pods(&env.client).await?.len();
        Ok(if left == 0 { Poll::Done(()) } else { Poll::NotYet(format!("{left} Pods")) })
    };
    until("the cluster to be deleted", GIVE_UP, old).await.map(drop)
}

/// Deletes a cluster that a red row left behind and creates it again, so that the next row begins with a
/// healthy cluster.
pub(crate) async fn recreate(env: &TestEnvironment) -> Result<WrittenKeys> {
    let name = env.redis.name;
    env.kubectl.run(&["delete", "rediscluster", name, "--timeout=60s"])?;
    // A Pod without an owner is not deleted with the cluster.
    let label = format!("redis.tholepin.dev/cluster={name}");
    env.kubectl.run(&["delete", "pod", "-l", &label, "--force", "--grace-period=0"])?;
    let old = || async {
        let left = env.redis.list_pods(&env.client).await?.len();
        let claims = env.kubectl.run(&["get", "pvc", "-o", "name"])?;
        let is_gone = left == 0 && claims.trim().is_empty();
        Ok(if is_gone { Poll::Done(()) } else { Poll::NotYet(format!("{left} Pods, {claims}")) })
    };
    until("the cluster to be deleted", GIVE_UP, old).await?;
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    WrittenKeys::put(&env.redis, &env.client).await
}

/// Ends a scenario after its rows. If a row is red, the ends of the logs are printed.
pub(crate) fn end(rows: &FaultRows, env: TestEnvironment) -> Result<()> {
    let log = env.host_log()?;
    if rows.is_green() {
        env.stop().context("the cluster or the host did not exit properly")?;
    }
    ensure!(!log.contains("panicked"), "the host panicked");
    Ok(())
}
