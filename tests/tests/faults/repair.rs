//! 16: repairs are limited. A repair that something undoes again and again needs a user, and full
//! synchronisations that the host starts run one after the other.

use std::{cell::Cell, time::Duration};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use tests::{
    environment::TestEnvironment,
    redis_cluster::{ClusterPod, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::{
    fixture::{self, Condition},
    table::FaultRows,
};

/// From this uptime on, in seconds, a process is not new any more.
const OLD_S: u64 = 121;
const OLD: Duration = Duration::from_secs(OLD_S + 30);
/// How many times the same repair is made.
const REPAIRS_MAX: usize = 5;
/// For how long no further repair may be seen.
const LEFT_ALONE: Duration = Duration::from_secs(10);
const BUDGET_ROW: Duration = Duration::from_secs(300);
/// Enough keys for a synchronisation to be noticed.
const KEYS: usize = 4_000;
/// Makes a synchronisation of that many keys last about two seconds, in microseconds per key.
const KEY_DELAY_US: &str = "500";

/// 16a: a replica is forgotten again and again.
pub(crate) async fn the_same_repair_recurs(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "made every 50 ms for ever";
    rows.row("CLUSTER FORGET of a replica, six times", before, BUDGET_ROW, async |row| {
        row.keys_before(keys.len());
        let aged = || async {
            let members = env.redis.members(&env.client).await?;
            let ages = members.iter().filter_map(age_s);
            let youngest = ages.min().context("a server")?;
            let is_old = OLD_S <= youngest;
            Ok(if is_old { Poll::Done(()) } else { Poll::NotYet(format!("{youngest} s")) })
        };
        until("servers that are not new", OLD, aged).await?;
        let replica = fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
        for _ in 0..REPAIRS_MAX {
            forget(&env, &replica).await?;
            fixture::until_servers_healthy(&env, fixture::HEAL_DEADLINE).await?;
        }
        forget(&env, &replica).await?;
        let asks = |condition: &Condition| {
            condition.kind == "Degraded"
                && condition.status == "True"
                && condition.reason == "RepairBudget"
        };
        let condition = fixture::condition_where(&env, "that a repair recurs", asks).await?;
        row.observed(format!("`{condition}`"));
        let sent = meetings(&env).await?;
        fixture::holds_for("the replica was repaired once more", LEFT_ALONE, || async {
            let now = meetings(&env).await?;
            ensure!(now == sent, "{now} meetings, {sent} before");
            Ok(())
        })
        .await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

fn age_s(member: &ClusterPod) -> Option<u64> {
    member.server.field("uptime_in_seconds").parse().ok()
}

/// Makes all other members forget a replica.
async fn forget(env: &TestEnvironment, replica: &ClusterPod) -> Result<()> {
    let id = &replica.server.own()?.id;
    for member in env.redis.members(&env.client).await? {
        if member.pod != replica.pod {
            let mut connection = connect(&member.address, env.redis.password)?;
            cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection)?;
        }
    }
    Ok(())
}

/// Returns how many `CLUSTER MEET` commands the servers have run.
async fn meetings(env: &TestEnvironment) -> Result<u64> {
    let mut sent = 0;
    for member in env.redis.members(&env.client).await? {
        let calls = member.server.field("cmdstat_cluster|meet");
        let count = calls.strip_prefix("calls=").and_then(|calls| calls.split(',').next());
        sent += count.unwrap_or("0").parse::<u64>()?;
    }
    Ok(sent)
}

/// 16b: replicas of two shards return at the same time. On three Kubernetes nodes the two pairs of primary and
/// replica share one node.
pub(crate) async fn two_replicas_return(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "both full synchronisations at the same time";
    rows.row("replicas of two shards deleted", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let mut replicas = Vec::new();
        for shard in [0, 1] {
            let (tag, primary) = fixture::primary(&env, shard).await?;
            fill(&env, &primary, &tag)?;
            replicas.extend(fixture::replicas(&env, shard).await?);
        }
        let mut delete = vec!["delete", "pod", "--wait=false"];
        delete.extend(replicas.iter().map(|member| member.pod.as_str()));
        env.kubectl.run(&delete)?;
        let most = at_once(&env, &replicas).await?;
        row.observed(format!("at most {most} at a time"));
        ensure!(most == 1, "{most} full synchronisations at the same time");
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!("healthy {:.1} s after both were in sync", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Writes so many keys that a synchronisation takes time.
fn fill(env: &TestEnvironment, primary: &ClusterPod, tag: &str) -> Result<()> {
    let mut connection = connect(&primary.address, env.redis.password)?;
    let mut all = redis::pipe();
    for number in 0..KEYS {
        all.cmd("SET").arg(format!("{{{tag}}}:filling-{number}")).arg("x").ignore();
    }
    all.query::<()>(&mut connection)?;
    let delay = ["SET", "rdb-key-save-delay", KEY_DELAY_US];
    Ok(cmd("CONFIG").arg(&delay).query(&mut connection)?)
}

/// Waits until new Pods are in sync in the places of these; returns how many synchronised at the same time.
async fn at_once(env: &TestEnvironment, replicas: &[ClusterPod]) -> Result<usize> {
    let most = Cell::new(0);
    let poll = || async {
        let members = env.redis.answering(&env.client).await?;
        let is_new = |member: &&ClusterPod| {
            let old = replicas.iter().find(|old| old.pod == member.pod);
            old.is_some_and(|old| old.uid != member.uid)
        };
        let new: Vec<&ClusterPod> = members.iter().filter(is_new).collect();
        let matches = |field: &str, value: &str| {
            new.iter().filter(|member| member.server.field(field) == value).count()
        };
        most.set(most.get().max(matches("master_sync_in_progress", "1")));
        let up = matches("master_link_status", "up");
        let is_all = up == replicas.len();
        Ok(if is_all { Poll::Done(()) } else { Poll::NotYet(format!("{up} in sync")) })
    };
    until("both replicas to be in sync", fixture::HEAL_DEADLINE, poll).await?;
    Ok(most.get())
}
