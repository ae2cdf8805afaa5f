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
    fixture,
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
    let (mut env, _) = fixture::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    env.watch().await?;
    let before = "no failover by the host: the password was read from the API at each reconcile";
    rows.row("API server away, then kill -9 of a primary", before, fixture::ROW, async |row| {
        let (tag, primary) = fixture::primary(&env, 0).await?;
        env.api_proxy()?.set(ApiLink::Cut);
        env.writer()?.forget_outages();
        signal(primary.server.pid()?, "KILL")?;
        writes_continue_or_wait(row, &env, (&tag, &primary), VOTE_MAX).await?;
        check_end(row, &mut env, &primary).await
    })
    .await;
    fixture::end(rows, env)
}

/// 6c: the host is started while the API server is away.
pub(crate) async fn a_host_starts_meanwhile(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, keys) = fixture::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    let before = "the host exited immediately: `cannot install the engine's kinds`";
    rows.row(
        "API server away, then the host killed and started",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            env.api_proxy()?.set(ApiLink::Cut);
            env.restart_while_away(Instant::now() + STARTS_WITHIN)?;
            let log = env.host_log()?;
            ensure!(
                log.contains("the API server does not answer"),
                "the host does not log what it waits for"
            );
            let (_, primary) = fixture::primary(&env, 0).await?;
            signal(primary.server.pid()?, "KILL")?;
            let (_, took) = fixture::restarted(&env, &primary, fixture::HEAL_DEADLINE).await?;
            row.observed(format!(
                "ready with the API server, and a killed primary returned after {:.1} s",
                took.as_secs_f64()
            ));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}

/// Without the API server: where the cluster can vote, or the server restarts with its keys, writes continue in
/// time. Elsewhere a takeover needs a proof from the API server, so everything waits until that is back.
async fn writes_continue_or_wait(
    row: &mut FaultRow,
    env: &TestEnvironment,
    (tag, killed): (&str, &ClusterPod),
    outage_max: Duration,
) -> Result<()> {
    if env.redis.storage || 3 <= env.redis.shards {
        let outage = served_again(env, tag, AWAY).await;
        env.api_proxy()?.set(ApiLink::Clear);
        let outage = outage?.as_secs_f64();
        row.observed(format!("writes continued after {outage:.1} s without the API"));
        let allowed = outage_max.as_secs_f64();
        ensure!(outage <= allowed, "{outage:.1} s without writes, and {allowed} s are allowed");
        return Ok(());
    }
    let waits = || async {
        let members = env.redis.answering(&env.client).await?;
        // Neither the killed member again without its keys, nor its replica without a proof.
        let serves = members.iter().find(|member| member.serves(tag));
        let who = serves.map(|member| member.pod.as_str()).unwrap_or_default();
        ensure!(serves.is_none(), "{who} serves; killed was {}", killed.pod);
        Ok(())
    };
    let waited = fixture::holds_for("it must wait for the API", AWAY, waits).await;
    env.api_proxy()?.set(ApiLink::Clear);
    row.observed("no majority can vote");
    waited?;
    row.observed("it waited for the API");
    Ok(())
}

/// 6b: the end of the container was reported, and then the API server goes away. The replicas are stopped
/// meanwhile, so that none is promoted before.
pub(crate) async fn a_primary_s_end_was_reported(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, _) = fixture::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    env.watch().await?;
    let before = "8.3 s, by the cluster's vote";
    rows.row("a primary's end reported, then API server away", before, fixture::ROW, async |row| {
        let (tag, primary) = fixture::primary(&env, 0).await?;
        let followers = fixture::replicas(&env, 0).await?;
        let pids =
            followers.iter().map(|member| member.server.pid()).collect::<Result<Vec<_>>>()?;
        // The primary first: what it acknowledges while no replica copies it would be lost, as expected.
        signal(primary.server.pid()?, "KILL")?;
        pids.iter().try_for_each(|pid| signal(*pid, "STOP"))?;
        let reported = end_reported(&env, &primary).await;
        env.api_proxy()?.set(ApiLink::Cut);
        env.writer()?.forget_outages();
        pids.iter().try_for_each(|pid| signal(*pid, "CONT"))?;
        reported?;
        writes_continue_or_wait(row, &env, (&tag, &primary), KNOWN_MAX).await?;
        check_end(row, &mut env, &primary).await
    })
    .await;
    fixture::end(rows, env)
}

/// Waits until the Pod's status reports the end of the container.
async fn end_reported(env: &TestEnvironment, killed_member: &ClusterPod) -> Result<()> {
    let poll = || async {
        let restarts = fixture::restarts(env).await?;
        let ended = restarts.iter().any(|(pod, count)| *pod == killed_member.pod && 0 < *count);
        Ok(if ended { Poll::Done(()) } else { Poll::NotYet("no end is reported".to_owned()) })
    };
    until(
        format!("the end of {} to be reported", killed_member.pod),
        fixture::REPORT_DEADLINE,
        poll,
    )
    .await
    .map(drop)
}

/// Waits until keys with this tag can be written again, and returns how long they could not. A write in the first
/// moment may be one from before the fault, unless an outage was seen already.
async fn served_again(env: &TestEnvironment, tag: &str, deadline: Duration) -> Result<Duration> {
    const MOMENT: Duration = Duration::from_millis(100);
    let start = Instant::now();
    let poll = || async {
        let last = env.writer()?.last_write(tag)?;
        let outage = env.writer()?.outage(tag)?;
        let is_over = last < MOMENT && (MOMENT < outage || MOMENT * 10 < start.elapsed());
        Ok(if is_over {
            Poll::Done(outage)
        } else {
            Poll::NotYet(format!("no write for {:.1} s", last.as_secs_f64()))
        })
    };
    Ok(until("writes to continue", deadline, poll).await?.0)
}

/// After the API server is back: checks that the cluster is healthy, the ledger has the roles, and no replica
/// was promoted by takeover where a vote was possible.
async fn check_end(
    row: &mut FaultRow,
    env: &mut TestEnvironment,
    killed_member: &ClusterPod,
) -> Result<()> {
    fixture::restarted(env, killed_member, fixture::HEAL_DEADLINE).await?;
    let (members, took) = fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
    row.observed(format!("healthy {:.1} s after the API returned", took.as_secs_f64()));
    let poll = || async {
        let (_, ledger) = env.ledger()?;
        for member in &env.redis.check_healthy(&env.kubectl, &env.client).await? {
            let own = member.server.own()?;
            let known = ledger.pointer(&format!("/nodes/{}", own.id)).context(own.id.clone())?;
            let role = if member.server.is_primary() { "primary" } else { "replica" };
            ensure!(known.get("role").is_some_and(|is| is == role), "{known} is not {role}");
        }
        Ok(Poll::Done(()))
    };
    until("the ledger to have the new roles", fixture::REPORT_DEADLINE, poll).await?;
    let logs: Vec<_> =
        members.iter().map(|member| takeovers(env, &member.pod)).collect::<Result<_>>()?;
    // Where no majority can vote, the proof that comes with the API server allows one takeover.
    let allowed = usize::from(env.redis.shards < 3);
    let count: usize = logs.iter().sum();
    ensure!(count <= allowed, "{count} takeovers");
    let report = env.take_writes()?;
    row.keys_before(report.acknowledged);
    row.keys_after(report.acknowledged - report.lost.len());
    ensure!(report.lost.is_empty(), "{} acknowledged writes are lost", report.lost.len());
    Ok(())
}

fn takeovers(env: &TestEnvironment, pod: &str) -> Result<usize> {
    let log = env.kubectl.run(&["logs", pod])?;
    Ok(log.lines().filter(|line| line.contains(TAKEOVER)).count())
}
