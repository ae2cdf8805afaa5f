//! Members end, hang and are forgotten; the cluster heals.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, elapse, until},
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
    let env = TestEnvironment::with_redis(redis).await?;
    let (first_write, healed, _) = kill_a_primary(&env, 0).await?;
    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("first write", first_write, FIRST_WRITE_S, &report);
    Ok(outcome.note(format!("healed after {:.1} s", healed.as_secs_f64())))
}

/// Kills the process of a shard's primary. Returns how long its slots could not be written, how long it took
/// until the cluster was healthy, and the member that was the primary.
pub(crate) async fn kill_a_primary(
    env: &TestEnvironment,
    shard: usize,
) -> Result<(Duration, Duration, ClusterPod)> {
    let (tag, primary) = primary(env, shard).await?;
    env.writer()?.forget_outages();
    let start = Instant::now();
    signal(primary.server.pid()?, "KILL")?;
    let members = healed(env, &primary).await?;
    let took = start.elapsed();
    let first_write = env.writer()?.outage(&tag)?;
    let now = find(&members, &primary.pod)?;
    ensure!(now.uid == primary.uid, "{} is another Pod", now.pod);
    ensure!(now.address == primary.address, "{} has another address", now.pod);
    if !env.redis.storage {
        ensure!(!now.server.is_primary(), "{} restarted empty and is the primary", now.pod);
    }
    Ok((first_write, took, primary))
}

async fn deleted(redis: RedisCluster) -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(redis).await?;
    let (tag, primary) = primary(&env, 1).await?;
    env.writer()?.forget_outages();
    let start = Instant::now();
    let pod = primary.pod.as_str();
    env.kubectl.run(&["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"])?;
    let members = healed(&env, &primary).await?;
    let took = start.elapsed();
    let first_write = env.writer()?.outage(&tag)?;
    let now = find(&members, pod)?;
    ensure!(now.uid != primary.uid, "{pod} is the same Pod");
    ensure!(now.address != primary.address, "{pod} has the same address");
    ensure!(!now.server.is_primary(), "{pod} restarted as the primary");
    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("first write", first_write, FIRST_WRITE_S, &report);
    Ok(outcome.note(format!("healed after {:.1} s", took.as_secs_f64())))
}

/// F7: a replica hangs for 30 s. Nothing fails over, and it is in sync again afterwards.
pub(crate) async fn a_replica_hangs() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let members = env.redis.members(&env.client).await?;
    let replica = members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
    let pid = replica.server.pid()?;
    signal(pid, "STOP")?;
    elapse(Duration::from_secs(30)).await;
    let start = Instant::now();
    signal(pid, "CONT")?;
    let (after, _) = env.until_healthy().await?;
    let took = start.elapsed();
    same_processes(&members, &after)?;
    let report = env.end(QUIET).await?;
    Ok(ScenarioResult::new("back in sync", took, 5.0, &report))
}

/// F9: all other members forget a replica.
pub(crate) async fn a_replica_is_forgotten() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let members = env.redis.members(&env.client).await?;
    let replica = members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
    forgotten(env, &members, replica).await
}

/// F9b: all other members forget a primary, except its replicas, to which Redis does not allow it.
pub(crate) async fn a_primary_is_forgotten() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let members = env.redis.members(&env.client).await?;
    let primary = members.iter().find(|member| member.server.is_primary()).context("a primary")?;
    forgotten(env, &members, primary).await
}

async fn forgotten(
    env: TestEnvironment,
    members: &[ClusterPod],
    forgotten: &ClusterPod,
) -> Result<ScenarioResult> {
    let id = &forgotten.server.own()?.id;
    let start = Instant::now();
    let follows =
        |member: &ClusterPod| member.shard == forgotten.shard && forgotten.server.is_primary();
    for other in members.iter().filter(|member| member.pod != forgotten.pod && !follows(member)) {
        let mut connection = connect(&other.address, Some(PASSWORD))?;
        cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection)?;
    }
    let (after, _) = env.until_healthy().await?;
    let took = start.elapsed();
    let now = find(&after, &forgotten.pod)?;
    ensure!(now.uid == forgotten.uid, "{} was replaced", now.pod);
    let report = env.end(QUIET).await?;
    Ok(ScenarioResult::new("known again", took, 10.0, &report))
}

/// Returns the primary of the n-th range of slots, and a tag of keys in that range.
pub(crate) async fn primary(env: &TestEnvironment, shard: usize) -> Result<(String, ClusterPod)> {
    let tag = env.redis.tags().into_iter().nth(shard).context("a shard has a tag")?;
    let members = env.redis.members(&env.client).await?;
    let primary = members.into_iter().find(|member| member.serves(&tag));
    primary.map(|primary| (tag.clone(), primary)).with_context(|| format!("no member serves {tag}"))
}

/// Checks that the same processes have the same roles.
pub(crate) fn same_processes(before: &[ClusterPod], after: &[ClusterPod]) -> Result<()> {
    for (before, now) in before.iter().zip(after) {
        let same = before.server.is_primary() == now.server.is_primary();
        ensure!(same, "{} changed its role", now.pod);
        let same = before.server.field("run_id") == now.server.field("run_id");
        ensure!(same, "{} was restarted", now.pod);
    }
    Ok(())
}

/// Waits until the cluster is healthy and another process runs in the Pod of the killed one; returns the members.
pub(crate) async fn healed(env: &TestEnvironment, died: &ClusterPod) -> Result<Vec<ClusterPod>> {
    let poll = || async {
        let members = env.redis.check_healthy(&env.kubectl, &env.client).await?;
        let now = find(&members, &died.pod)?;
        let same = now.server.field("run_id") == died.server.field("run_id");
        Ok(if same { Poll::NotYet("the same process".to_owned()) } else { Poll::Done(members) })
    };
    Ok(until(format!("{} to be healed", died.pod), GIVE_UP, poll).await?.0)
}

pub(crate) fn find<'a>(members: &'a [ClusterPod], pod: &str) -> Result<&'a ClusterPod> {
    members.iter().find(|member| member.pod == pod).with_context(|| format!("no Pod {pod}"))
}
