//! What every case needs: a healthy cluster with keys, and the steps and waits of a case.

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime},
};

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

use crate::table::FaultRows;

/// How long a cluster may take to be healthy again after a fault that loses nothing for good.
pub(crate) const WELL: Duration = Duration::from_secs(45);
/// How long a condition or an event may take to report a fault.
pub(crate) const TOLD: Duration = Duration::from_secs(20);
/// How long a row may take, whatever it waits for.
pub(crate) const ROW: Duration = Duration::from_secs(150);
/// The pause between two checks of what must hold all the time.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts a healthy cluster with keys.
pub(crate) async fn begin(redis: RedisCluster) -> Result<(TestEnvironment, WrittenKeys)> {
    begin_with(redis, ApiAccess::Direct(HostOptions::default()), |_| {}).await
}

/// Starts a cluster whose object is edited by `edit`, with a host that reaches the API server in the given way.
pub(crate) async fn begin_with(
    redis: RedisCluster,
    reach: ApiAccess,
    edit: impl FnOnce(&mut Value),
) -> Result<(TestEnvironment, WrittenKeys)> {
    let story = TestEnvironment::begin_by(reach, redis, &[], "").await?;
    let mut object = story.redis.object();
    edit(&mut object);
    apply(&story, &[story.redis.secret(), object])?;
    story.well().await.context("the cluster is created")?;
    let keys = WrittenKeys::put(&story.redis, &story.client).await?;
    // The host asks for approval only about keys that it has seen.
    story.keys_are_known().await?;
    Ok((story, keys))
}

/// Applies objects as a user does.
pub(crate) fn apply(story: &TestEnvironment, objects: &[Value]) -> Result<()> {
    let stream: Vec<_> = objects.iter().map(ToString::to_string).collect();
    let stream = stream.join("\n---\n");
    story.kubectl.run_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &stream)?;
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
pub(crate) fn patch(story: &TestEnvironment, change: &Value) -> Result<()> {
    patch_of(story, "rediscluster", story.redis.name, change)
}

/// Changes any object by a merge patch.
pub(crate) fn patch_of(
    story: &TestEnvironment,
    kind: &str,
    name: &str,
    change: &Value,
) -> Result<()> {
    let change = change.to_string();
    story.kubectl.run(&["patch", kind, name, "--type", "merge", "-p", &change]).map(drop)
}

/// Sets annotations of the object (`a=b`) or removes them (`a-`).
pub(crate) fn annotate(story: &TestEnvironment, annotation: &str) -> Result<()> {
    let object = format!("rediscluster/{}", story.redis.name);
    story.kubectl.run(&["annotate", "--overwrite", &object, annotation]).map(drop)
}

/// Reads any object.
pub(crate) fn get(story: &TestEnvironment, kind: &str, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&story.kubectl.run(&["get", kind, name, "-o", "json"])?)?)
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
pub(crate) fn conditions(story: &TestEnvironment) -> Result<Vec<Condition>> {
    conditions_of(story, story.redis.name)
}

pub(crate) fn conditions_of(story: &TestEnvironment, name: &str) -> Result<Vec<Condition>> {
    let object = get(story, "rediscluster", name)?;
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let text = |one: &Value, field: &str| {
        one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let condition = |one: &Value| Condition {
        kind: text(one, "type"),
        status: text(one, "status"),
        reason: text(one, "reason"),
        message: text(one, "message"),
    };
    Ok(all.into_iter().flatten().map(condition).collect())
}

/// Returns one condition of the RedisCluster; its parts are empty if it does not exist.
pub(crate) fn condition(story: &TestEnvironment, kind: &str) -> Result<Condition> {
    let found = conditions(story)?.into_iter().find(|one| one.kind == kind);
    Ok(found.unwrap_or_else(|| Condition {
        kind: kind.to_owned(),
        status: String::new(),
        reason: String::new(),
        message: String::new(),
    }))
}

/// Waits until a condition of the RedisCluster fits, and returns it.
pub(crate) async fn condition_where(
    story: &TestEnvironment,
    what: &str,
    fits: impl Fn(&Condition) -> bool,
) -> Result<Condition> {
    let look = || async {
        let all = conditions(story)?;
        Ok(match all.iter().find(|one| fits(one)) {
            Some(one) => Poll::There(one.clone()),
            None => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                Poll::NotYet(all.join(", "))
            }
        })
    };
    Ok(until(format!("a condition that reports {what}"), TOLD, look).await?.0)
}

/// Waits until the object and all servers are healthy; returns the members and how long that took.
pub(crate) async fn well(
    story: &TestEnvironment,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let look = || async { Ok(Poll::There(story.redis.well(&story.kubectl, &story.client).await?)) };
    until(format!("{} to be healthy", story.redis.name), deadline, look).await
}

/// Waits until all servers are healthy, whatever the object's conditions are; returns the members and how long
/// that took.
pub(crate) async fn at_peace(
    story: &TestEnvironment,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let look = || async { Ok(Poll::There(story.redis.at_peace(&story.client).await?)) };
    until(format!("the servers of {} to be healthy", story.redis.name), deadline, look).await
}

/// Checks that something holds all the time, for this duration.
pub(crate) async fn holds<F>(
    what: &str,
    duration: Duration,
    mut look: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let start = Instant::now();
    while start.elapsed() < duration {
        let now = start.elapsed().as_secs_f64();
        look().await.with_context(|| format!("{what}, after {now:.0} s"))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Checks for this duration that every key exists on some member; the error has the condition `Ready`.
pub(crate) async fn nothing_is_emptied(
    story: &TestEnvironment,
    keys: &WrittenKeys,
    duration: Duration,
) -> Result<()> {
    let look = || async {
        let held = keys.held(&story.client).await?;
        if held < keys.len() {
            let ready = condition(story, "Ready")?;
            bail!("{held} of {} keys exist, {ready}", keys.len());
        }
        Ok(())
    };
    holds("a copy was emptied", duration, look).await
}

/// Returns the primary of the n-th range of slots, and a tag of keys in that range.
pub(crate) async fn primary(story: &TestEnvironment, shard: usize) -> Result<(String, ClusterPod)> {
    let seats = story.redis.seats(&story.client).await?;
    primary_among(&story.redis, seats, shard)
}

pub(crate) fn primary_among(
    redis: &RedisCluster,
    seats: Vec<ClusterPod>,
    shard: usize,
) -> Result<(String, ClusterPod)> {
    let tag = redis.tags().into_iter().nth(shard).context("no tag for the shard")?;
    let primary = seats.into_iter().find(|seat| seat.serves(&tag));
    primary.map(|primary| (tag.clone(), primary)).with_context(|| format!("no member serves {tag}"))
}

/// The replicas of the n-th shard, in order of name.
pub(crate) async fn replicas(story: &TestEnvironment, shard: usize) -> Result<Vec<ClusterPod>> {
    let (_, primary) = primary(story, shard).await?;
    let seats = story.redis.seats(&story.client).await?;
    Ok(seats
        .into_iter()
        .filter(|seat| seat.shard == primary.shard && seat.pod != primary.pod)
        .collect())
}

/// Waits until all servers are healthy and a Pod of this name has another uid; returns how long that took.
pub(crate) async fn rejoined(
    story: &TestEnvironment,
    gone: &ClusterPod,
    deadline: Duration,
) -> Result<Duration> {
    let look = || async {
        let seats = story.redis.at_peace(&story.client).await?;
        let now = seats.iter().find(|seat| seat.pod == gone.pod).context("no such Pod")?;
        Ok(if now.uid == gone.uid {
            Poll::NotYet("the same Pod".to_owned())
        } else {
            Poll::There(())
        })
    };
    Ok(until(format!("{} to rejoin", gone.pod), deadline, look).await?.1)
}

/// Waits until all servers are healthy and another process runs in the Pod of the ended one.
pub(crate) async fn restarted(
    story: &TestEnvironment,
    died: &ClusterPod,
    deadline: Duration,
) -> Result<(Vec<ClusterPod>, Duration)> {
    let look = || async {
        let seats = story.redis.at_peace(&story.client).await?;
        let now = seats.iter().find(|seat| seat.pod == died.pod).context("no such Pod")?;
        let same = now.member.field("run_id") == died.member.field("run_id");
        Ok(if same { Poll::NotYet("the same process".to_owned()) } else { Poll::There(seats) })
    };
    until(format!("{} to be restarted and healthy", died.pod), deadline, look).await
}

/// Returns the events about the object as `reason: message`.
pub(crate) fn events(story: &TestEnvironment) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&story.kubectl.run(&["get", "events", "-o", "json"])?)?;
    let items = list.get("items").and_then(Value::as_array);
    let text = |one: &Value, path: &str| {
        one.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let events = items.into_iter().flatten();
    let events = events.filter(|one| text(one, "/involvedObject/name") == story.redis.name);
    Ok(events.map(|one| format!("{}: {}", text(one, "/reason"), text(one, "/message"))).collect())
}

/// Waits until an event about the object fits, and returns it.
pub(crate) async fn event(
    story: &TestEnvironment,
    what: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<String> {
    let look = || async {
        let events = events(story)?;
        let found = events.iter().find(|event| fits(event)).cloned();
        Ok(found.map_or_else(|| Poll::NotYet(events.join(", ")), Poll::There))
    };
    Ok(until(format!("an event that reports {what}"), TOLD, look).await?.0)
}

/// Waits until the shard of this Pod has not changed roles for two node timeouts and a second. Until then the
/// shard's voters do not elect again, so a primary that ends earlier is replaced only later.
pub(crate) async fn quiet(story: &TestEnvironment, seat: &ClusterPod) -> Result<()> {
    let object = get(story, "rediscluster", story.redis.name)?;
    let timeout = object.pointer("/spec/failover/nodeTimeoutMs").and_then(Value::as_u64);
    let wanted_ms = 2 * timeout.context("a node timeout")? + 1_000;
    let shard = format!("{}-", seat.shard);
    let look = || async {
        let (_, ledger) = story.ledger()?;
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
        Ok(if is_quiet { Poll::There(()) } else { Poll::NotYet(format!("since {since} ms")) })
    };
    until(format!("the shard of {} to be quiet", seat.pod), WELL, look).await?;
    Ok(())
}

/// Returns the number of container restarts per Pod, in order of name.
pub(crate) async fn restarts(story: &TestEnvironment) -> Result<Vec<(String, i32)>> {
    let pods = story.redis.list_pods(&story.client).await?;
    let count = |pod: &k8s_openapi::api::core::v1::Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        Some(status.restart_count)
    };
    Ok(pods.iter().map(|pod| (pod.name_any(), count(pod).unwrap_or_default())).collect())
}

/// Deletes the cluster and waits until its Pods are deleted.
pub(crate) async fn delete(story: &TestEnvironment) -> Result<()> {
    story.kubectl.run(&["delete", "rediscluster", story.redis.name, "--timeout=60s"])?;
    let gone = || async {
        let left = story.redis.list_pods(&story.client).await?.len();
        Ok(if left == 0 { Poll::There(()) } else { Poll::NotYet(format!("{left} Pods")) })
    };
    until("the cluster to be deleted", GIVE_UP, gone).await.map(drop)
}

/// Deletes a cluster that a red row left behind and creates it again, so that the next row begins with a
/// healthy cluster.
pub(crate) async fn anew(story: &TestEnvironment) -> Result<WrittenKeys> {
    let name = story.redis.name;
    story.kubectl.run(&["delete", "rediscluster", name, "--timeout=60s"])?;
    // A Pod without an owner is not deleted with the cluster.
    let label = format!("redis.tholepin.dev/cluster={name}");
    story.kubectl.run(&["delete", "pod", "-l", &label, "--force", "--grace-period=0"])?;
    let gone = || async {
        let left = story.redis.list_pods(&story.client).await?.len();
        let claims = story.kubectl.run(&["get", "pvc", "-o", "name"])?;
        let is_gone = left == 0 && claims.trim().is_empty();
        Ok(if is_gone { Poll::There(()) } else { Poll::NotYet(format!("{left} Pods, {claims}")) })
    };
    until("the cluster to be deleted", GIVE_UP, gone).await?;
    story.redis.create(&story.kubectl)?;
    story.well().await?;
    WrittenKeys::put(&story.redis, &story.client).await
}

/// Ends a scenario after its rows. If a row is red, the ends of the logs are printed.
pub(crate) fn end(rows: &FaultRows, story: TestEnvironment) -> Result<()> {
    let log = story.host_log()?;
    if rows.is_green() {
        story.stop().context("the cluster or the host did not exit properly")?;
    }
    ensure!(!log.contains("panicked"), "the host panicked");
    Ok(())
}
