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
    bed::{self, Condition},
    table::FaultRows,
};

fn outdated(count: usize, of: usize) -> impl Fn(&Condition) -> bool {
    let words = format!("{count} of {of} Pods");
    move |one| one.kind == "Outdated" && one.status == "True" && one.message.contains(&words)
}

/// 13a: the template has changed, and the running Pods have the old one.
pub(crate) async fn a_template_is_changed(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let of = story.redis.pods();
    let restarted = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}});
    let set = format!("{}-shard-0", story.redis.name);
    let before = "`AsWanted`, and nothing else";
    rows.row("spec.image redis:7.0 → redis:7", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        bed::patch(&story, &json!({"spec": {"image": "redis:7"}}))?;
        let told = bed::condition_where(&story, "Outdated", outdated(of, of)).await?;
        row.saw(format!("`{told}`"));
        bed::patch(&story, &json!({"spec": {"image": "redis:7.0"}}))?;
        not_outdated(&story).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    rows.row("the restart-only setting tcp-backlog: 100", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        bed::patch(&story, &json!({"spec": {"settings": {"tcp-backlog": 100}}}))?;
        let told = bed::condition_where(&story, "Outdated", outdated(of, of)).await?;
        row.saw(format!("`{told}`"));
        bed::patch(&story, &json!({"spec": {"settings": {"tcp-backlog": null}}}))?;
        not_outdated(&story).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    rows.row("rollout restart of one StatefulSet", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        bed::patch_of(&story, "statefulset", &set, &restarted)?;
        let each = 1 + story.redis.replicas;
        let told = bed::condition_where(&story, "Outdated", outdated(each, of)).await?;
        row.saw(format!("`{told}`"));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

async fn not_outdated(story: &TestEnvironment) -> Result<()> {
    let look = || async {
        let outdated = bed::condition(story, "Outdated")?;
        let is_over = outdated.status != "True";
        Ok(if is_over { Poll::There(()) } else { Poll::NotYet(outdated.to_string()) })
    };
    until("nothing to be outdated", bed::TOLD, look).await.map(drop)
}

/// 13b: Pods without their StatefulSet still run: they are adopted again and never reported as lost.
pub(crate) async fn a_stateful_set_is_orphaned(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "`SlotsLost` of nodes that live";
    rows.row("delete statefulset --cascade=orphan", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        let old = story.redis.seats(&story.client).await?;
        let set = format!("{}-shard-0", story.redis.name);
        story.kubectl.run(&["delete", "statefulset", &set, "--cascade=orphan", "--wait=false"])?;
        let look = || async {
            for one in bed::conditions(&story)? {
                ensure!(one.reason != "SlotsLost", "{one}");
            }
            Ok(())
        };
        bed::holds("it reports that running nodes are lost", Duration::from_secs(6), look).await?;
        let (seats, took) = bed::well(&story, bed::WELL).await?;
        for old in &old {
            let same = seats.iter().any(|seat| seat.uid == old.uid);
            ensure!(same, "{} was replaced", old.pod);
        }
        row.saw(format!("adopted again, healthy after {:.1} s", took.as_secs_f64() + 6.0));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// 13c: slots without a healthy owner are named together with their owner.
pub(crate) async fn slots_are_uncovered(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "`does not say cluster_state:ok yet`";
    rows.row("SIGSTOP of a shard's primary and replica", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, primary) = bed::primary(&story, 0).await?;
        let slots = primary.member.own()?.slots.first().copied().context("slots")?;
        let range = format!("{}-{}", slots.0, slots.1);
        let short = primary.member.own()?.id.get(..8).context("an id")?;
        let mut stopped = bed::replicas(&story, 0).await?;
        stopped.push(primary.clone());
        for seat in &stopped {
            signal(seat.member.pid()?, "STOP")?;
        }
        let fits = |one: &Condition| {
            let owner = [primary.pod.as_str(), short];
            let owner = owner.iter().any(|name| one.message.contains(name));
            let names = owner && one.message.contains(&range);
            one.kind == "Degraded" && one.status == "True" && names
        };
        let told =
            bed::condition_where(&story, "which slots are uncovered and whose they are", fits)
                .await;
        for seat in &stopped {
            signal(seat.member.pid()?, "CONT")?;
        }
        row.saw(format!("`{}`", told?));
        bed::well(&story, bed::WELL).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}
