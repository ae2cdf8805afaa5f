//! A created cluster becomes ready, and then nothing changes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis::cmd;
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    oracle::{differences, shape},
    redis_cluster::{NAMESPACE, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::ScenarioResult;

/// A1: C(3,1) with a password, created twice. The second must reach the same state as the first.
pub(crate) async fn three_shards_are_created() -> Result<ScenarioResult> {
    created(RedisCluster::USUAL, 15.0).await
}

/// A2: C(1,0).
pub(crate) async fn a_lone_primary_is_created() -> Result<ScenarioResult> {
    created(RedisCluster { shards: 1, replicas: 0, ..RedisCluster::USUAL }, 10.0).await
}

async fn created(redis: RedisCluster, bound_s: f64) -> Result<ScenarioResult> {
    let mut env = TestEnvironment::begin(redis, &[], "").await?;
    let start = Instant::now();
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    let took = start.elapsed();
    env.settle(Duration::from_secs(1)).await?;
    let first = shape(&env.client, NAMESPACE).await?;

    let deleted = deleted(&env).await?;
    env.redis.create(&env.kubectl)?;
    let (members, _) = env.until_healthy().await?;
    for member in members {
        let mut stranger = connect(&member.address, None)?;
        let refused = cmd("DBSIZE").query::<i64>(&mut stranger);
        ensure!(refused.is_err(), "{} answers without a password", member.pod);
    }
    env.watch().await?;
    let again = shape(&env.client, NAMESPACE).await?;
    let differences = differences(&first, &again);
    ensure!(differences.is_empty(), "created again, it differs: {}", differences.join("; "));
    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("ready", took, bound_s, &report);
    Ok(outcome.note(format!("deleted in {:.1} s and created again", deleted.as_secs_f64())))
}

/// Deletes the RedisCluster and waits until no object of it is left; returns how long that took.
pub(crate) async fn deleted(env: &TestEnvironment) -> Result<Duration> {
    let start = Instant::now();
    env.kubectl.run(&["delete", "rediscluster", env.redis.name, "--timeout=60s"])?;
    let poll = || async {
        // The last objects are deleted by the garbage collector, after kubectl has returned.
        let rest = shape(&env.client, NAMESPACE).await?;
        let rest: Vec<_> = rest.into_keys().filter(|name| name.contains(env.redis.name)).collect();
        Ok(if rest.is_empty() { Poll::Done(()) } else { Poll::NotYet(rest.join(", ")) })
    };
    until("everything to be deleted", GIVE_UP, poll).await?;
    Ok(start.elapsed())
}

/// A6: nothing changes in a cluster that is ready.
pub(crate) async fn nothing_changes_while_idle() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let idle = Duration::from_secs(60);
    let report = env.end(idle).await?;
    Ok(ScenarioResult::new("quiet", idle, 60.0, &report))
}
