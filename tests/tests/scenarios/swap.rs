//! The plugin is swapped while a cluster needs it.

use anyhow::{Result, ensure};
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    guests,
    redis_cluster::RedisCluster,
    wait::{Poll, until},
};

use crate::{ScenarioResult, healing::kill_a_primary};

/// U14 under F1a: a new revision with the same code is installed just before a primary is killed, and a file
/// that is no component just before another one is killed.
pub(crate) async fn the_policy_is_swapped_while_a_primary_dies() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let before = env.plugin("redis-cluster")?;

    let next = guests::renamed(&guests::redis_cluster()?, 1);
    env.put("redis-cluster.wasm", &next)?;
    let poll = || async {
        let now = env.plugin("redis-cluster")?;
        let swapped = now.pointer("/status/active") != before.pointer("/status/active");
        Ok(if swapped { Poll::Done(now) } else { Poll::NotYet(now.to_string()) })
    };
    let swap = until("the new revision to serve", GIVE_UP, poll);
    let (swap, killed) = tokio::join!(swap, kill_a_primary(&env, 0));
    let (serving, swapped) = swap?;
    let (first, healed, _) = killed?;

    env.put("redis-cluster.wasm", b"no component")?;
    let (second, ..) = kill_a_primary(&env, 2).await?;
    let poll = || async {
        let now = env.plugin("redis-cluster")?;
        let refused = now.pointer("/status/reason").is_some();
        Ok(if refused { Poll::Done(now) } else { Poll::NotYet(now.to_string()) })
    };
    let (refused, _) = until("the bad file to be refused", GIVE_UP, poll).await?;
    let active = |plugin: &serde_json::Value| plugin.pointer("/status/active").cloned();
    ensure!(active(&refused) == active(&serving), "the bad file serves: {refused}");

    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("first write after either", first.max(second), 0.5, &report);
    let reason = refused.pointer("/status/reason").cloned().unwrap_or_default();
    Ok(outcome
        .bounded("swapped", swapped, 2.0)
        .note(format!("healed after {:.1} s", healed.as_secs_f64()))
        .note(format!("the bad file was refused: {reason}")))
}
