//! 8: a password that is changed, added, removed or emptied must not lock the host out, and no server may run
//! without a password.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    environment::{ApiAccess, TestEnvironment},
    keys::WrittenKeys,
    process::signal,
    redis_cluster::{NAMESPACE, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::{
    fixture::{self, Condition},
    table::{FaultRow, FaultRows},
};

const LOCKED_OUT: &str =
    "`Forming, 0/3`, then `a process that hangs`; a restarted member had the new one";

/// How long it may take until a Pod that was started with a wrong password is a member again: its start guard
/// notices after some seconds, and the node restarts the container after a back-off.
const KEPT_AGAIN: Duration = Duration::from_secs(90);

/// The changes to the password of a cluster that has one.
const CHANGES: &[(&str, Change)] = &[
    ("the password changed in its Secret", Change::Secret("another password")),
    ("the password emptied in its Secret", Change::Secret("")),
    ("`.spec.auth` removed", Change::Removed),
];

#[derive(Clone, Copy)]
enum Change {
    Secret(&'static str),
    Removed,
}

impl Change {
    fn set(self, env: &TestEnvironment) -> Result<()> {
        match self {
            Self::Secret(password) => set_password(env, password),
            Self::Removed => fixture::patch(env, &json!({"spec": {"auth": null}})),
        }
    }

    fn undo(self, env: &TestEnvironment) -> Result<()> {
        match self {
            Self::Secret(_) => set_password(env, PASSWORD),
            Self::Removed => {
                let auth = json!({"secretName": "password", "key": "password"});
                fixture::patch(env, &json!({"spec": {"auth": auth}}))
            }
        }
    }
}

fn set_password(env: &TestEnvironment, password: &str) -> Result<()> {
    fixture::patch_of(env, "secret", "password", &json!({"stringData": {"password": password}}))
}

/// 8a: the object names another password than the servers have.
pub(crate) async fn a_password_is_changed(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, mut keys) = fixture::begin(redis).await?;
    for (input, change) in CHANGES {
        let is_green = rows
            .row(input, LOCKED_OUT, fixture::ROW, async |row| {
                row.keys_before(keys.len());
                change.set(&env)?;
                refused(row, &env).await?;
                members_return(row, &env, &keys).await?;
                change.undo(&env)?;
                let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
                row.observed(format!("changed back: healthy after {:.1} s", took.as_secs_f64()));
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            change.undo(&env)?;
            keys = fixture::recreate(&env).await?;
        }
    }
    fixture::end(rows, env)
}

/// 8b: a password is added to a cluster that has none.
pub(crate) async fn a_password_is_added(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let redis = RedisCluster { password: None, ..redis };
    let (env, keys) = fixture::begin(redis).await?;
    rows.row("`.spec.auth` added", LOCKED_OUT, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        Change::Removed.undo(&env)?;
        refused(row, &env).await?;
        members_return(row, &env, &keys).await?;
        Change::Removed.set(&env)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!("removed again: healthy after {:.1} s", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Waits until the object reports that the servers have another password.
async fn refused(row: &mut FaultRow, env: &TestEnvironment) -> Result<()> {
    let fits = |condition: &Condition| {
        let is_degraded = condition.kind == "Degraded" && condition.status == "True";
        let is_told =
            condition.reason.starts_with("Credentials") || condition.message.contains("empty");
        is_degraded && is_told && !condition.message.is_empty()
    };
    let condition = fixture::condition_where(env, "CredentialsRefused", fits).await?;
    row.observed(format!("`{condition}`"));
    Ok(())
}

/// Kills a replica and a primary meanwhile: both must return with the password of the other servers.
async fn members_return(
    row: &mut FaultRow,
    env: &TestEnvironment,
    keys: &WrittenKeys,
) -> Result<()> {
    let replica = fixture::replicas(env, 0).await?.into_iter().next().context("a replica")?;
    signal(replica.server.pid()?, "KILL")?;
    let (_, took) = fixture::restarted(env, &replica, fixture::HEAL_DEADLINE).await?;
    row.observed(format!("a killed replica returned after {:.1} s", took.as_secs_f64()));
    let (_, primary) = fixture::primary(env, 0).await?;
    signal(primary.server.pid()?, "KILL")?;
    let (members, took) = fixture::restarted(env, &primary, fixture::HEAL_DEADLINE).await?;
    row.observed(format!(
        "a killed primary was replaced and returned after {:.1} s",
        took.as_secs_f64()
    ));
    row.keys_after(keys.check()?);
    if env.redis.password.is_some() {
        let open = members.iter().find(|member| is_open(&member.address));
        ensure!(open.is_none(), "{:?} answers without a password", open.map(|member| &member.pod));
    }
    Ok(())
}

fn is_open(address: &str) -> bool {
    let answer = connect(address, None)
        .map(|mut connection| redis::cmd("DBSIZE").query::<i64>(&mut connection));
    answer.is_ok_and(|answer| answer.is_ok())
}

/// 8d: the Secret in which the host keeps the password is deleted while no host runs, and the user's Secret has
/// another password by then. The host must not adopt the wrong password. Meanwhile a primary is killed.
pub(crate) async fn the_kept_password_is_lost(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, keys) = fixture::begin(redis).await?;
    let kept = kept_secret_name(&env)?;
    for (input, wrong_is_kept) in [
        ("no host, kept Secret deleted, the user's changed, a primary killed", false),
        ("no host, a wrong kept Secret, the user's changed, a primary killed", true),
    ] {
        let before = "the wrong one was kept for good, 0/3, a Pod in the start guard for ever";
        let is_green = rows
            .row(input, before, fixture::ROW, async |row| {
                row.keys_before(keys.len());
                let (_, primary) = fixture::primary(&env, 0).await?;
                fixture::until_shard_quiet(&env, &primary).await?;
                env.host.kill()?;
                let of_the_host = fixture::get(&env, "secret", &kept)?;
                env.kubectl.run(&["delete", "secret", &kept])?;
                set_password(&env, "another password")?;
                if wrong_is_kept {
                    let mut wrong = json!({
                        "apiVersion": "v1", "kind": "Secret",
                        "metadata": {"name": kept, "namespace": NAMESPACE},
                        "stringData": {"password": "another password"},
                    });
                    let owners = of_the_host.pointer("/metadata/ownerReferences").cloned();
                    fixture::set(&mut wrong, &["metadata", "ownerReferences"], owners);
                    fixture::apply(&env, &[wrong])?;
                }
                signal(primary.server.pid()?, "KILL")?;
                env.restart()?;
                refused(row, &env).await?;
                set_password(&env, PASSWORD)?;
                let (_, took) = fixture::until_healthy(&env, KEPT_AGAIN).await?;
                row.observed(format!(
                    "the right one restored: healthy after {:.1} s",
                    took.as_secs_f64()
                ));
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            break;
        }
    }
    fixture::end(rows, env)
}

/// Returns the name of the reserved Secret of the only object.
fn kept_secret_name(env: &TestEnvironment) -> Result<String> {
    let names = env.kubectl.run(&["get", "secret", "-o", "name"])?;
    let kept = names.lines().find_map(|name| {
        let name = name.strip_prefix("secret/")?;
        name.starts_with("tholepin-credentials-").then(|| name.to_owned())
    });
    kept.context("the host keeps no password in a Secret")
}

/// 8c: an empty password at creation is refused by a condition, and no server runs without a password.
pub(crate) async fn a_password_is_empty(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    let before = "the servers ran without a password";
    rows.row("an empty password at creation", before, fixture::ROW, async |row| {
        let mut secret = env.redis.secret();
        fixture::set(&mut secret, &["stringData", "password"], "");
        fixture::apply(&env, &[secret, env.redis.object()])?;
        let fits = |condition: &Condition| {
            let speaks =
                condition.message.contains("empty") && condition.message.contains("password");
            speaks && (condition.kind == "Degraded") == (condition.status == "True")
        };
        let condition = fixture::condition_where(&env, "that the password is empty", fits).await?;
        row.observed(format!("`{condition}`"));
        for pod in env.redis.list_pods(&env.client).await? {
            let Some(ip) = pod.status.and_then(|status| status.pod_ip) else { continue };
            ensure!(!is_open(&format!("{ip}:6379")), "{ip} answers without a password");
        }
        set_password(&env, PASSWORD)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!("with a password: healthy after {:.1} s", took.as_secs_f64()));
        Ok(())
    })
    .await;
    let before = "became an empty password";
    rows.row("an unquoted number in stringData", before, fixture::ROW, async |row| {
        number_is_refused(row, &env).await
    })
    .await;
    fixture::end(rows, env)
}

/// Checks that the API server decodes built-in objects by their types: a number is not a string.
async fn number_is_refused(row: &mut FaultRow, env: &TestEnvironment) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "number", "namespace": NAMESPACE},
        "stringData": {"password": 12_345},
    });
    let sent = ["create", "--validate=false", "-f", "-"];
    let created = env.kubectl.run_with(&sent, &secret.to_string());
    let applied = ["apply", "--server-side", "--validate=false", "-f", "-"];
    let applied = env.kubectl.run_with(&applied, &secret.to_string());
    for refused in [created, applied] {
        let error = refused.err().context("the API server accepted a number as a string")?;
        let error = error.to_string();
        row.observed(error.lines().last().unwrap_or_default());
    }
    let poll = || async {
        let left = env.kubectl.run(&["get", "secret", "-o", "json"])?;
        let left: Value = serde_json::from_str(&left)?;
        let items = left.get("items").and_then(Value::as_array);
        let mut items = items.into_iter().flatten();
        let found = items.any(|condition| {
            condition.pointer("/metadata/name").is_some_and(|name| name == "number")
        });
        ensure!(!found, "the Secret was created nevertheless");
        Ok(Poll::Done(()))
    };
    until("no Secret", fixture::REPORT_DEADLINE, poll).await.map(drop)
}
