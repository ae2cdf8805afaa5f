//! 6: the API server is away, and a primary ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::{
    api_proxy::ApiLink,
    environment::{ApiAccess, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    bed,
    table::{FaultRow, FaultRows},
};

/// How long the slots may be without an owner when the cluster itself must find the primary failed: its node
/// timeout of 2 s, the agreement of a majority, and the vote.
const VOTE_MAX: Duration = Duration::from_secs(6);
/// The same when the end of the container was reported before the API server went away.
const KNOWN_MAX: Duration = Duration::from_secs(3);
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(12);
/// How long the API server is away while the host starts.
const STARTS_WITHIN: Duration = Duration::from_secs(4);
/// A server logs this when it is promoted without a vote.
const TAKEOVER: &str = "Taking over the master";

/// 6a: a primary ends while nothing about it can be reported.
pub(crate) async fn a_primary_dies_unreported(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut story, _) = bed::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    story.watch().await?;
    let before = "no failover by the host: the password was read from the API at each reconcile";
    rows.row("API server away, then kill -9 of a primary", before, bed::ROW, async |row| {
        let (tag, primary) = bed::primary(&story, 0).await?;
        story.road()?.set(ApiLink::Cut);
        story.writer()?.forget_outages();
        signal(primary.member.pid()?, "KILL")?;
        goes_on_or_waits(row, &story, (&tag, &primary), VOTE_MAX).await?;
        ends_well(row, &mut story, &primary).await
    })
    .await;
    bed::end(rows, story)
}

/// 6c: the host is started while the API server is away.
pub(crate) async fn a_host_starts_meanwhile(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut story, keys) = bed::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    let before = "the host exited immediately: `cannot install the engine's kinds`";
    rows.row("API server away, then the host killed and started", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        story.road()?.set(ApiLink::Cut);
        story.restart_while_away(Instant::now() + STARTS_WITHIN)?;
        let log = story.host_log()?;
        ensure!(
            log.contains("the API server does not answer"),
            "the host does not log what it waits for"
        );
        let (_, primary) = bed::primary(&story, 0).await?;
        signal(primary.member.pid()?, "KILL")?;
        let (_, took) = bed::restarted(&story, &primary, bed::WELL).await?;
        row.saw(format!(
            "ready with the API server, and a killed primary returned after {:.1} s",
            took.as_secs_f64()
        ));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// Without the API server: where the cluster can vote, or the server restarts with its keys, writes continue in
/// time. Elsewhere a takeover needs a proof from the API server, so everything waits until that is back.
async fn goes_on_or_waits(
    row: &mut FaultRow,
    story: &TestEnvironment,
    (tag, killed): (&str, &ClusterPod),
    outage_max: Duration,
) -> Result<()> {
    if story.redis.storage || 3 <= story.redis.shards {
        let outage = served_again(story, tag, AWAY).await;
        story.road()?.set(ApiLink::Clear);
        let outage = outage?.as_secs_f64();
        row.saw(format!("writes continued after {outage:.1} s without the API"));
        let allowed = outage_max.as_secs_f64();
        ensure!(outage <= allowed, "{outage:.1} s without writes, and {allowed} s are allowed");
        return Ok(());
    }
    let waits = || async {
        let seats = story.redis.answering(&story.client).await?;
        // Neither the killed member again without its keys, nor its replica without a proof.
        let serves = seats.iter().find(|seat| seat.serves(tag));
        let who = serves.map(|seat| seat.pod.as_str()).unwrap_or_default();
        ensure!(serves.is_none(), "{who} serves; killed was {}", killed.pod);
        Ok(())
    };
    let waited = bed::holds("it must wait for the API", AWAY, waits).await;
    story.road()?.set(ApiLink::Clear);
    row.saw("no majority can vote");
    waited?;
    row.saw("it waited for the API");
    Ok(())
}

/// 6b: the end of the container was reported, and then the API server goes away. The replicas are stopped
/// meanwhile, so that none is promoted before.
pub(crate) async fn a_primary_s_end_was_reported(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut story, _) = bed::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    story.watch().await?;
    let before = "8.3 s, by the cluster's vote";
    rows.row("a primary's end reported, then API server away", before, bed::ROW, async |row| {
        let (tag, primary) = bed::primary(&story, 0).await?;
        let followers = bed::replicas(&story, 0).await?;
        let pids = followers.iter().map(|seat| seat.member.pid()).collect::<Result<Vec<_>>>()?;
        // The primary first: what it acknowledges while no replica copies it would be lost, and rightly so.
        signal(primary.member.pid()?, "KILL")?;
        pids.iter().try_for_each(|pid| signal(*pid, "STOP"))?;
        let reported = end_reported(&story, &primary).await;
        story.road()?.set(ApiLink::Cut);
        story.writer()?.forget_outages();
        pids.iter().try_for_each(|pid| signal(*pid, "CONT"))?;
        reported?;
        goes_on_or_waits(row, &story, (&tag, &primary), KNOWN_MAX).await?;
        ends_well(row, &mut story, &primary).await
    })
    .await;
    bed::end(rows, story)
}

/// Waits until the Pod's status reports the end of the container.
async fn end_reported(story: &TestEnvironment, died: &ClusterPod) -> Result<()> {
    let look = || async {
        let restarts = bed::restarts(story).await?;
        let ended = restarts.iter().any(|(pod, count)| *pod == died.pod && 0 < *count);
        Ok(if ended { Poll::There(()) } else { Poll::NotYet("no end is reported".to_owned()) })
    };
    until(format!("the end of {} to be reported", died.pod), bed::TOLD, look).await.map(drop)
}

/// Waits until keys with this tag can be written again, and returns how long they could not.
async fn served_again(story: &TestEnvironment, tag: &str, deadline: Duration) -> Result<Duration> {
    let look = || async {
        let last = story.writer()?.last_write(tag)?;
        let outage = story.writer()?.outage(tag)?;
        let is_over = last < Duration::from_millis(100) && Duration::from_millis(100) < outage;
        Ok(if is_over {
            Poll::There(outage)
        } else {
            Poll::NotYet(format!("no write for {:.1} s", last.as_secs_f64()))
        })
    };
    Ok(until("writes to continue", deadline, look).await?.0)
}

/// After the API server is back: checks that the cluster is healthy, the ledger has the roles, and no replica
/// was promoted by takeover where a vote was possible.
async fn ends_well(
    row: &mut FaultRow,
    story: &mut TestEnvironment,
    died: &ClusterPod,
) -> Result<()> {
    bed::restarted(story, died, bed::WELL).await?;
    let (seats, took) = bed::well(story, bed::WELL).await?;
    row.saw(format!("healthy {:.1} s after the API returned", took.as_secs_f64()));
    let look = || async {
        let (_, ledger) = story.ledger()?;
        for seat in &story.redis.well(&story.kubectl, &story.client).await? {
            let own = seat.member.own()?;
            let known = ledger.pointer(&format!("/nodes/{}", own.id)).context(own.id.clone())?;
            let role = if seat.member.is_primary() { "primary" } else { "replica" };
            ensure!(known.get("role").is_some_and(|is| is == role), "{known} is not {role}");
        }
        Ok(Poll::There(()))
    };
    until("the ledger to have the new roles", bed::TOLD, look).await?;
    let logs: Vec<_> =
        seats.iter().map(|seat| takeovers(story, &seat.pod)).collect::<Result<_>>()?;
    // Where no majority can vote, the proof that comes with the API server allows one takeover.
    let allowed = usize::from(story.redis.shards < 3);
    let count: usize = logs.iter().sum();
    ensure!(count <= allowed, "{count} takeovers");
    let report = story.take_writes()?;
    row.keys_before(report.acknowledged);
    row.keys_after(report.acknowledged - report.lost.len());
    ensure!(report.lost.is_empty(), "{} acknowledged writes are lost", report.lost.len());
    Ok(())
}

fn takeovers(story: &TestEnvironment, pod: &str) -> Result<usize> {
    let log = story.kubectl.run(&["logs", pod])?;
    Ok(log.lines().filter(|line| line.contains(TAKEOVER)).count())
}
