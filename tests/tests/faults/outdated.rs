//! 13: the object reports the changes that are not rolled out yet, and the slots that are not served.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    environment::TestEnvironment,
    process::signal,
    redis_cluster::RedisCluster,
    wait::{Poll, until},
};

use crate::{
    fixture::{self, Condition},
    table::FaultRows,
};

fn outdated(count: usize, of: usize) -> impl Fn(&Condition) -> bool {
    let words = format!("{count} of {of} Pods");
    move |condition| {
        condition.kind == "Outdated"
            && condition.status == "True"
            && condition.message.contains(&words)
    }
}

/// 13a: the template has changed, and the running Pods have the old one.
pub(crate) async fn a_template_is_changed(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let of = env.redis.pods();
    let restarted = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}});
    let set = format!("{}-shard-0", env.redis.name);
    let before = "`AsWanted`, and nothing else";
    rows.row("spec.image redis:7.0 → redis:7", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        fixture::patch(&env, &json!({"spec": {"image": "redis:7"}}))?;
        let condition = fixture::condition_where(&env, "Outdated", outdated(of, of)).await?;
        row.observed(format!("`{condition}`"));
        fixture::patch(&env, &json!({"spec": {"image": "redis:7.0"}}))?;
        not_outdated(&env).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    rows.row("the restart-only setting tcp-backlog: 100", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        fixture::patch(&env, &json!({"spec": {"settings": {"tcp-backlog": 100}}}))?;
        let condition = fixture::condition_where(&env, "Outdated", outdated(of, of)).await?;
        row.observed(format!("`{condition}`"));
        fixture::patch(&env, &json!({"spec": {"settings": {"tcp-backlog": null}}}))?;
        not_outdated(&env).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    rows.row("rollout restart of one StatefulSet", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        fixture::patch_of(&env, "statefulset", &set, &restarted)?;
        let each = 1 + env.redis.replicas;
        let condition = fixture::condition_where(&env, "Outdated", outdated(each, of)).await?;
        row.observed(format!("`{condition}`"));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

async fn not_outdated(env: &TestEnvironment) -> Result<()> {
    let poll = || async {
        let outdated = fixture::condition(env, "Outdated")?;
        let is_over = outdated.status != "True";
        Ok(if is_over { Poll::Done(()) } else { Poll::NotYet(outdated.to_string()) })
    };
    until("nothing to be outdated", fixture::REPORT_DEADLINE, poll).await.map(drop)
}

/// 13b: Pods without their StatefulSet still run: they are adopted again and never reported as lost.
pub(crate) async fn a_stateful_set_is_orphaned(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "`SlotsLost` of nodes that live";
    rows.row("delete statefulset --cascade=orphan", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let old = env.redis.members(&env.client).await?;
        let set = format!("{}-shard-0", env.redis.name);
        env.kubectl.run(&["delete", "statefulset", &set, "--cascade=orphan", "--wait=false"])?;
        let poll = || async {
            for condition in fixture::conditions(&env)? {
                ensure!(condition.reason != "SlotsLost", "{condition}");
            }
            Ok(())
        };
        fixture::holds_for("it reports that running nodes are lost", Duration::from_secs(6), poll)
            .await?;
        let (members, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        for old in &old {
            let same = members.iter().any(|member| member.uid == old.uid);
            ensure!(same, "{} was replaced", old.pod);
        }
        row.observed(format!("adopted again, healthy after {:.1} s", took.as_secs_f64() + 6.0));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// 13c: slots without a healthy owner are named together with their owner.
pub(crate) async fn slots_are_uncovered(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "`does not say cluster_state:ok yet`";
    rows.row("SIGSTOP of a shard's primary and replica", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, primary) = fixture::primary(&env, 0).await?;
        let slots = primary.server.own()?.slots.first().copied().context("slots")?;
        let range = format!("{}-{}", slots.0, slots.1);
        let short = primary.server.own()?.id.get(..8).context("an id")?;
        let mut stopped = fixture::replicas(&env, 0).await?;
        stopped.push(primary.clone());
        for member in &stopped {
            signal(member.server.pid()?, "STOP")?;
        }
        let fits = |condition: &Condition| {
            let owner = [primary.pod.as_str(), short];
            let owner = owner.iter().any(|name| condition.message.contains(name));
            let names = owner && condition.message.contains(&range);
            condition.kind == "Degraded" && condition.status == "True" && names
        };
        let condition =
            fixture::condition_where(&env, "which slots are uncovered and whose they are", fits)
                .await;
        for member in &stopped {
            signal(member.server.pid()?, "CONT")?;
        }
        row.observed(format!("`{}`", condition?));
        fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}
