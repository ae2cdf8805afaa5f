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
    bed::{self, Condition},
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
    let (story, keys) = bed::begin(redis).await?;
    let before = "made every 50 ms for ever";
    rows.row("CLUSTER FORGET of a replica, six times", before, BUDGET_ROW, async |row| {
        row.keys_before(keys.len());
        let aged = || async {
            let seats = story.redis.seats(&story.client).await?;
            let ages = seats.iter().filter_map(age_s);
            let youngest = ages.min().context("a server")?;
            let is_old = OLD_S <= youngest;
            Ok(if is_old { Poll::There(()) } else { Poll::NotYet(format!("{youngest} s")) })
        };
        until("servers that are not new", OLD, aged).await?;
        let replica = bed::replicas(&story, 0).await?.into_iter().next().context("a replica")?;
        for _ in 0..REPAIRS_MAX {
            forget(&story, &replica).await?;
            bed::at_peace(&story, bed::WELL).await?;
        }
        forget(&story, &replica).await?;
        let asks = |one: &Condition| {
            one.kind == "Degraded" && one.status == "True" && one.reason == "RepairBudget"
        };
        let told = bed::condition_where(&story, "that a repair recurs", asks).await?;
        row.saw(format!("`{told}`"));
        let sent = meetings(&story).await?;
        bed::holds("the replica was repaired once more", LEFT_ALONE, || async {
            let now = meetings(&story).await?;
            ensure!(now == sent, "{now} meetings, {sent} before");
            Ok(())
        })
        .await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

fn age_s(seat: &ClusterPod) -> Option<u64> {
    seat.member.field("uptime_in_seconds").parse().ok()
}

/// Makes all other members forget a replica.
async fn forget(story: &TestEnvironment, replica: &ClusterPod) -> Result<()> {
    let id = &replica.member.own()?.id;
    for seat in story.redis.seats(&story.client).await? {
        if seat.pod != replica.pod {
            let mut connection = connect(&seat.address, story.redis.password)?;
            cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection)?;
        }
    }
    Ok(())
}

/// Returns how many `CLUSTER MEET` commands the servers have run.
async fn meetings(story: &TestEnvironment) -> Result<u64> {
    let mut sent = 0;
    for seat in story.redis.seats(&story.client).await? {
        let calls = seat.member.field("cmdstat_cluster|meet");
        let count = calls.strip_prefix("calls=").and_then(|calls| calls.split(',').next());
        sent += count.unwrap_or("0").parse::<u64>()?;
    }
    Ok(sent)
}

/// 16b: replicas of two shards return at the same time. On three Kubernetes nodes the two pairs of primary and
/// replica share one node.
pub(crate) async fn two_replicas_return(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "both full synchronisations at the same time";
    rows.row("replicas of two shards deleted", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        let mut replicas = Vec::new();
        for shard in [0, 1] {
            let (tag, primary) = bed::primary(&story, shard).await?;
            fill(&story, &primary, &tag)?;
            replicas.extend(bed::replicas(&story, shard).await?);
        }
        let mut delete = vec!["delete", "pod", "--wait=false"];
        delete.extend(replicas.iter().map(|seat| seat.pod.as_str()));
        story.kubectl.run(&delete)?;
        let most = at_once(&story, &replicas).await?;
        row.saw(format!("at most {most} at a time"));
        ensure!(most == 1, "{most} full synchronisations at the same time");
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!("healthy {:.1} s after both were in sync", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// Writes so many keys that a synchronisation takes time.
fn fill(story: &TestEnvironment, primary: &ClusterPod, tag: &str) -> Result<()> {
    let mut connection = connect(&primary.address, story.redis.password)?;
    let mut all = redis::pipe();
    for number in 0..KEYS {
        all.cmd("SET").arg(format!("{{{tag}}}:filling-{number}")).arg("x").ignore();
    }
    all.query::<()>(&mut connection)?;
    let delay = ["SET", "rdb-key-save-delay", KEY_DELAY_US];
    Ok(cmd("CONFIG").arg(&delay).query(&mut connection)?)
}

/// Waits until new Pods are in sync in the places of these; returns how many synchronised at the same time.
async fn at_once(story: &TestEnvironment, replicas: &[ClusterPod]) -> Result<usize> {
    let most = Cell::new(0);
    let look = || async {
        let seats = story.redis.answering(&story.client).await?;
        let is_new = |seat: &&ClusterPod| {
            let old = replicas.iter().find(|old| old.pod == seat.pod);
            old.is_some_and(|old| old.uid != seat.uid)
        };
        let new: Vec<&ClusterPod> = seats.iter().filter(is_new).collect();
        let says = |field: &str, value: &str| {
            new.iter().filter(|seat| seat.member.field(field) == value).count()
        };
        most.set(most.get().max(says("master_sync_in_progress", "1")));
        let up = says("master_link_status", "up");
        let is_all = up == replicas.len();
        Ok(if is_all { Poll::There(()) } else { Poll::NotYet(format!("{up} in sync")) })
    };
    until("both replicas to be in sync", bed::WELL, look).await?;
    Ok(most.get())
}
