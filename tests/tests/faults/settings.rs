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
    fixture::{self, Condition},
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
    move |condition| {
        let is_bad = (condition.status == "True") == (condition.kind == "Degraded");
        is_bad && condition.message.contains(&setting)
    }
}

/// 10a: at creation: the object reports what is wrong, and no server is in a crash loop.
pub(crate) async fn a_bad_setting_at_creation(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    for (setting, value) in BAD {
        rows.row(
            &format!("creation with {setting}: `{value}`"),
            CRASHED,
            fixture::ROW,
            async |row| {
                let mut object = env.redis.object();
                fixture::set(&mut object, &["spec", "settings", *setting], *value);
                fixture::apply(&env, &[env.redis.secret(), object])?;
                let condition = fixture::condition_where(
                    &env,
                    "what is wrong with the setting",
                    about(setting),
                )
                .await?;
                row.observed(format!("`{condition}`"));
                let restarts = fixture::restarts(&env).await?;
                let most = restarts.iter().map(|(_, count)| *count).max().unwrap_or_default();
                ensure!(most <= 1, "a server was restarted {most} times");
                fixture::patch(&env, &change(setting, None))?;
                let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
                row.observed(format!("corrected: healthy after {:.1} s", took.as_secs_f64()));
                Ok(())
            },
        )
        .await;
        fixture::delete(&env).await?;
    }
    fixture::end(rows, env)
}

/// 10b: on a running cluster, of which a replica is then restarted.
pub(crate) async fn a_bad_setting_and_a_restart(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, mut keys) = fixture::begin(redis).await?;
    for (setting, value) in BAD {
        let input = format!("running: {setting}: `{value}`, then a restart");
        let is_green = rows
            .row(&input, "a crash loop at the next restart", fixture::ROW, async |row| {
                row.keys_before(keys.len());
                fixture::patch(&env, &change(setting, Some(value)))?;
                let condition = fixture::condition_where(
                    &env,
                    "what is wrong with the setting",
                    about(setting),
                )
                .await?;
                row.observed(format!("`{}`", condition.reason));
                // The file needs some time to reach the Pod.
                fixture::holds_for("a server ended", Duration::from_secs(2), || async {
                    env.redis.members(&env.client).await.map(drop)
                })
                .await?;
                let replica =
                    fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
                // Deleted and not killed: a new Pod has no restart back-off.
                env.kubectl.run(&["delete", "pod", &replica.pod, "--wait=false"])?;
                let took = fixture::rejoined(&env, &replica, fixture::HEAL_DEADLINE).await?;
                row.observed(format!("a new Pod was healthy after {:.1} s", took.as_secs_f64()));
                fixture::patch(&env, &change(setting, None))?;
                fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            fixture::patch(&env, &change(setting, None))?;
            keys = fixture::recreate(&env).await?;
        }
    }
    fixture::end(rows, env)
}

/// A setting that takes effect while a server runs, with a value that is not Redis' default.
const LIVE: (&str, &str) = ("slowlog-max-len", "77");

/// 10c: a good live setting reaches the running servers and the file that they start with.
pub(crate) async fn a_good_setting_survives_a_restart(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let (setting, value) = LIVE;
    let input = format!("running: {setting}: {value}, then kill -9 of a replica");
    rows.row(&input, "set, and kept", fixture::ROW, async |row| {
        row.keys_before(keys.len());
        fixture::patch(&env, &change(setting, Some(value)))?;
        every_server_has(&env, LIVE).await?;
        let replica = fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
        signal(replica.server.pid()?, "KILL")?;
        fixture::restarted(&env, &replica, fixture::HEAL_DEADLINE).await?;
        every_server_has(&env, LIVE).await?;
        row.observed("every server has it, after the restart too");
        fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

async fn every_server_has(env: &TestEnvironment, (setting, value): (&str, &str)) -> Result<()> {
    let poll = || async {
        for member in env.redis.members(&env.client).await? {
            let mut connection = connect(&member.address, env.redis.password)?;
            let get = redis::cmd("CONFIG").arg("GET").arg(setting).to_owned();
            let (_, has): (String, String) = get.query(&mut connection)?;
            ensure!(has == value, "{} has {setting} {has}", member.pod);
        }
        Ok(Poll::Done(()))
    };
    until(format!("{setting} on every server"), fixture::REPORT_DEADLINE, poll).await.map(drop)
}
