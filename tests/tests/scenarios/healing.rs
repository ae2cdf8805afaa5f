//! Members end, hang and are forgotten; the cluster heals.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::ScenarioResult;

/// The bound from the end of a primary to the first write to its slots, in seconds.
const FIRST_WRITE_S: f64 = 0.5;

/// F1a: the process of a primary is killed.
pub(crate) async fn a_primary_is_killed() -> Result<ScenarioResult> {
    killed(RedisCluster::USUAL).await
}

/// F1c: the same as F1a with storage.
pub(crate) async fn a_primary_with_storage_is_killed() -> Result<ScenarioResult> {
    killed(RedisCluster { storage: true, ..RedisCluster::USUAL }).await
}

/// F1b: the Pod of a primary is deleted by force.
pub(crate) async fn a_primary_s_pod_is_deleted() -> Result<ScenarioResult> {
    deleted(RedisCluster::USUAL).await
}

/// F1d: the same as F1b with storage.
pub(crate) async fn a_primary_s_pod_with_storage_is_deleted() -> Result<ScenarioResult> {
    deleted(RedisCluster { storage: true, ..RedisCluster::USUAL }).await
}

async fn killed(redis: RedisCluster) -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(redis).await?;
    let (first_write, healed, _) = kill_a_primary(&story, 0).await?;
    let report = story.end(QUIET).await?;
    let outcome = ScenarioResult::new("first write", first_write, FIRST_WRITE_S, &report);
    Ok(outcome.note(format!("healed after {:.1} s", healed.as_secs_f64())))
}

/// Kills the process of a shard's primary. Returns how long its slots could not be written, how long it took
/// until the cluster was healthy, and the member that was the primary.
pub(crate) async fn kill_a_primary(
    story: &TestEnvironment,
    shard: usize,
) -> Result<(Duration, Duration, ClusterPod)> {
    let (tag, primary) = primary(story, shard).await?;
    story.writer()?.forget_outages();
    let start = Instant::now();
    signal(primary.member.pid()?, "KILL")?;
    let seats = healed(story, &primary).await?;
    let took = start.elapsed();
    let first_write = story.writer()?.outage(&tag)?;
    let now = find(&seats, &primary.pod)?;
    ensure!(now.uid == primary.uid, "{} is another Pod", now.pod);
    ensure!(now.address == primary.address, "{} has another address", now.pod);
    if !story.redis.storage {
        ensure!(!now.member.is_primary(), "{} restarted empty and is the primary", now.pod);
    }
    Ok((first_write, took, primary))
}

async fn deleted(redis: RedisCluster) -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(redis).await?;
    let (tag, primary) = primary(&story, 1).await?;
    story.writer()?.forget_outages();
    let start = Instant::now();
    let pod = primary.pod.as_str();
    story.kubectl.run(&["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"])?;
    let seats = healed(&story, &primary).await?;
    let took = start.elapsed();
    let first_write = story.writer()?.outage(&tag)?;
    let now = find(&seats, pod)?;
    ensure!(now.uid != primary.uid, "{pod} is the same Pod");
    ensure!(now.address != primary.address, "{pod} has the same address");
    ensure!(!now.member.is_primary(), "{pod} restarted as the primary");
    let report = story.end(QUIET).await?;
    let outcome = ScenarioResult::new("first write", first_write, FIRST_WRITE_S, &report);
    Ok(outcome.note(format!("healed after {:.1} s", took.as_secs_f64())))
}

/// F7: a replica hangs for 30 s. Nothing fails over, and it is in sync again afterwards.
pub(crate) async fn a_replica_hangs() -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let seats = story.redis.seats(&story.client).await?;
    let replica = seats.iter().find(|seat| !seat.member.is_primary()).context("a replica")?;
    let pid = replica.member.pid()?;
    signal(pid, "STOP")?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    signal(pid, "CONT")?;
    let (after, _) = story.well().await?;
    let took = start.elapsed();
    same_processes(&seats, &after)?;
    let report = story.end(QUIET).await?;
    Ok(ScenarioResult::new("back in sync", took, 5.0, &report))
}

/// F9: all other members forget a replica.
pub(crate) async fn a_replica_is_forgotten() -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let seats = story.redis.seats(&story.client).await?;
    let replica = seats.iter().find(|seat| !seat.member.is_primary()).context("a replica")?;
    forgotten(story, &seats, replica).await
}

/// F9b: all other members forget a primary, except its replicas, to which Redis does not allow it.
pub(crate) async fn a_primary_is_forgotten() -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let seats = story.redis.seats(&story.client).await?;
    let primary = seats.iter().find(|seat| seat.member.is_primary()).context("a primary")?;
    forgotten(story, &seats, primary).await
}

async fn forgotten(
    story: TestEnvironment,
    seats: &[ClusterPod],
    forgotten: &ClusterPod,
) -> Result<ScenarioResult> {
    let id = &forgotten.member.own()?.id;
    let start = Instant::now();
    let follows =
        |seat: &ClusterPod| seat.shard == forgotten.shard && forgotten.member.is_primary();
    for other in seats.iter().filter(|seat| seat.pod != forgotten.pod && !follows(seat)) {
        let mut connection = connect(&other.address, Some(PASSWORD))?;
        cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection)?;
    }
    let (after, _) = story.well().await?;
    let took = start.elapsed();
    let now = find(&after, &forgotten.pod)?;
    ensure!(now.uid == forgotten.uid, "{} was replaced", now.pod);
    let report = story.end(QUIET).await?;
    Ok(ScenarioResult::new("known again", took, 10.0, &report))
}

/// Returns the primary of the n-th range of slots, and a tag of keys in that range.
pub(crate) async fn primary(story: &TestEnvironment, shard: usize) -> Result<(String, ClusterPod)> {
    let tag = story.redis.tags().into_iter().nth(shard).context("a shard has a tag")?;
    let seats = story.redis.seats(&story.client).await?;
    let primary = seats.into_iter().find(|seat| seat.serves(&tag));
    primary.map(|primary| (tag.clone(), primary)).with_context(|| format!("no member serves {tag}"))
}

/// Checks that the same processes have the same roles.
pub(crate) fn same_processes(before: &[ClusterPod], after: &[ClusterPod]) -> Result<()> {
    for (before, now) in before.iter().zip(after) {
        let same = before.member.is_primary() == now.member.is_primary();
        ensure!(same, "{} changed its role", now.pod);
        let same = before.member.field("run_id") == now.member.field("run_id");
        ensure!(same, "{} was restarted", now.pod);
    }
    Ok(())
}

/// Waits until the cluster is healthy and another process runs in the Pod of the killed one; returns the members.
pub(crate) async fn healed(story: &TestEnvironment, died: &ClusterPod) -> Result<Vec<ClusterPod>> {
    let look = || async {
        let seats = story.redis.well(&story.kubectl, &story.client).await?;
        let now = find(&seats, &died.pod)?;
        let same = now.member.field("run_id") == died.member.field("run_id");
        Ok(if same { Poll::NotYet("the same process".to_owned()) } else { Poll::There(seats) })
    };
    Ok(until(format!("{} to be healed", died.pod), GIVE_UP, look).await?.0)
}

pub(crate) fn find<'a>(seats: &'a [ClusterPod], pod: &str) -> Result<&'a ClusterPod> {
    seats.iter().find(|seat| seat.pod == pod).with_context(|| format!("no Pod {pod}"))
}
