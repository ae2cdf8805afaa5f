//! 10: an accepted setting must not stop a server, neither at creation nor at its next restart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    environment::{ApiAccess, TestEnvironment},
    process::signal,
    redis_cluster::RedisCluster,
    router::connect,
    wait::{Poll, until},
};

use crate::{
    bed::{self, Condition},
    table::FaultRows,
};

/// Settings that were once accepted and with which this Redis does not start.
const BAD: &[(&str, &str)] = &[
    ("client-output-buffer-limit", "lots"),
    ("client-output-buffer-limit", ""),
    ("notify-keyspace-events", "hello"),
    ("repl-backlog-size", "0"),
    ("proto-max-bulk-len", "1kb"),
    ("activedefrag", "yes"),
    ("maxclients", "2147483647"),
];

const CRASHED: &str = "a crash loop";

fn change(setting: &str, value: Option<&str>) -> Value {
    json!({"spec": {"settings": {setting: value}}})
}

fn about(setting: &str) -> impl Fn(&Condition) -> bool {
    let setting = setting.to_owned();
    move |one| {
        let is_bad = (one.status == "True") == (one.kind == "Degraded");
        is_bad && one.message.contains(&setting)
    }
}

/// 10a: at creation: the object reports what is wrong, and no server is in a crash loop.
pub(crate) async fn a_bad_setting_at_creation(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let story = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    for (setting, value) in BAD {
        rows.row(&format!("creation with {setting}: `{value}`"), CRASHED, bed::ROW, async |row| {
            let mut object = story.redis.object();
            bed::set(&mut object, &["spec", "settings", *setting], *value);
            bed::apply(&story, &[story.redis.secret(), object])?;
            let told =
                bed::condition_where(&story, "what is wrong with the setting", about(setting))
                    .await?;
            row.saw(format!("`{told}`"));
            let restarts = bed::restarts(&story).await?;
            let most = restarts.iter().map(|(_, count)| *count).max().unwrap_or_default();
            ensure!(most <= 1, "a server was restarted {most} times");
            bed::patch(&story, &change(setting, None))?;
            let (_, took) = bed::well(&story, bed::WELL).await?;
            row.saw(format!("corrected: healthy after {:.1} s", took.as_secs_f64()));
            Ok(())
        })
        .await;
        bed::delete(&story).await?;
    }
    bed::end(rows, story)
}

/// 10b: on a running cluster, of which a replica is then restarted.
pub(crate) async fn a_bad_setting_and_a_restart(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (story, mut keys) = bed::begin(redis).await?;
    for (setting, value) in BAD {
        let input = format!("running: {setting}: `{value}`, then a restart");
        let is_green = rows
            .row(&input, "a crash loop at the next restart", bed::ROW, async |row| {
                row.keys_before(keys.len());
                bed::patch(&story, &change(setting, Some(value)))?;
                let told =
                    bed::condition_where(&story, "what is wrong with the setting", about(setting))
                        .await?;
                row.saw(format!("`{}`", told.reason));
                // The file needs some time to reach the Pod.
                bed::holds("a server ended", Duration::from_secs(2), || async {
                    story.redis.seats(&story.client).await.map(drop)
                })
                .await?;
                let replica =
                    bed::replicas(&story, 0).await?.into_iter().next().context("a replica")?;
                // Deleted and not killed: a new Pod has no restart back-off.
                story.kubectl.run(&["delete", "pod", &replica.pod, "--wait=false"])?;
                let took = bed::rejoined(&story, &replica, bed::WELL).await?;
                row.saw(format!("a new Pod was healthy after {:.1} s", took.as_secs_f64()));
                bed::patch(&story, &change(setting, None))?;
                bed::well(&story, bed::WELL).await?;
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            bed::patch(&story, &change(setting, None))?;
            keys = bed::anew(&story).await?;
        }
    }
    bed::end(rows, story)
}

/// A setting that takes effect while a server runs, with a value that is not Redis' default.
const LIVE: (&str, &str) = ("slowlog-max-len", "77");

/// 10c: a good live setting reaches the running servers and the file that they start with.
pub(crate) async fn a_good_setting_survives_a_restart(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let (setting, value) = LIVE;
    let input = format!("running: {setting}: {value}, then kill -9 of a replica");
    rows.row(&input, "set, and kept", bed::ROW, async |row| {
        row.keys_before(keys.len());
        bed::patch(&story, &change(setting, Some(value)))?;
        every_server_has(&story, LIVE).await?;
        let replica = bed::replicas(&story, 0).await?.into_iter().next().context("a replica")?;
        signal(replica.member.pid()?, "KILL")?;
        bed::restarted(&story, &replica, bed::WELL).await?;
        every_server_has(&story, LIVE).await?;
        row.saw("every server has it, after the restart too");
        bed::well(&story, bed::WELL).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

async fn every_server_has(story: &TestEnvironment, (setting, value): (&str, &str)) -> Result<()> {
    let look = || async {
        for seat in story.redis.seats(&story.client).await? {
            let mut connection = connect(&seat.address, story.redis.password)?;
            let get = redis::cmd("CONFIG").arg("GET").arg(setting).to_owned();
            let (_, has): (String, String) = get.query(&mut connection)?;
            ensure!(has == value, "{} has {setting} {has}", seat.pod);
        }
        Ok(Poll::There(()))
    };
    until(format!("{setting} on every server"), bed::TOLD, look).await.map(drop)
}
