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
    bed::{self, Condition},
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
    fn set(self, story: &TestEnvironment) -> Result<()> {
        match self {
            Self::Secret(password) => set_password(story, password),
            Self::Removed => bed::patch(story, &json!({"spec": {"auth": null}})),
        }
    }

    fn undo(self, story: &TestEnvironment) -> Result<()> {
        match self {
            Self::Secret(_) => set_password(story, PASSWORD),
            Self::Removed => {
                let auth = json!({"secretName": "password", "key": "password"});
                bed::patch(story, &json!({"spec": {"auth": auth}}))
            }
        }
    }
}

fn set_password(story: &TestEnvironment, password: &str) -> Result<()> {
    bed::patch_of(story, "secret", "password", &json!({"stringData": {"password": password}}))
}

/// 8a: the object names another password than the servers have.
pub(crate) async fn a_password_is_changed(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, mut keys) = bed::begin(redis).await?;
    for (input, change) in CHANGES {
        let is_green = rows
            .row(input, LOCKED_OUT, bed::ROW, async |row| {
                row.keys_before(keys.len());
                change.set(&story)?;
                refused(row, &story).await?;
                members_go_on(row, &story, &keys).await?;
                change.undo(&story)?;
                let (_, took) = bed::well(&story, bed::WELL).await?;
                row.saw(format!("changed back: healthy after {:.1} s", took.as_secs_f64()));
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            change.undo(&story)?;
            keys = bed::anew(&story).await?;
        }
    }
    bed::end(rows, story)
}

/// 8b: a password is added to a cluster that has none.
pub(crate) async fn a_password_is_added(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let redis = RedisCluster { password: None, ..redis };
    let (story, keys) = bed::begin(redis).await?;
    rows.row("`.spec.auth` added", LOCKED_OUT, bed::ROW, async |row| {
        row.keys_before(keys.len());
        Change::Removed.undo(&story)?;
        refused(row, &story).await?;
        members_go_on(row, &story, &keys).await?;
        Change::Removed.set(&story)?;
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!("removed again: healthy after {:.1} s", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// Waits until the object reports that the servers have another password.
async fn refused(row: &mut FaultRow, story: &TestEnvironment) -> Result<()> {
    let fits = |one: &Condition| {
        let is_degraded = one.kind == "Degraded" && one.status == "True";
        let is_told = one.reason.starts_with("Credentials") || one.message.contains("empty");
        is_degraded && is_told && !one.message.is_empty()
    };
    let told = bed::condition_where(story, "CredentialsRefused", fits).await?;
    row.saw(format!("`{told}`"));
    Ok(())
}

/// Kills a replica and a primary meanwhile: both must return with the password of the other servers.
async fn members_go_on(
    row: &mut FaultRow,
    story: &TestEnvironment,
    keys: &WrittenKeys,
) -> Result<()> {
    let replica = bed::replicas(story, 0).await?.into_iter().next().context("a replica")?;
    signal(replica.member.pid()?, "KILL")?;
    let (_, took) = bed::restarted(story, &replica, bed::WELL).await?;
    row.saw(format!("a killed replica returned after {:.1} s", took.as_secs_f64()));
    let (_, primary) = bed::primary(story, 0).await?;
    signal(primary.member.pid()?, "KILL")?;
    let (seats, took) = bed::restarted(story, &primary, bed::WELL).await?;
    row.saw(format!(
        "a killed primary was replaced and returned after {:.1} s",
        took.as_secs_f64()
    ));
    row.keys_after(keys.check()?);
    if story.redis.password.is_some() {
        let open = seats.iter().find(|seat| is_open(&seat.address));
        ensure!(open.is_none(), "{:?} answers without a password", open.map(|seat| &seat.pod));
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
    let (mut story, keys) = bed::begin(redis).await?;
    let kept = kept_name(&story)?;
    for (input, wrong_is_kept) in [
        ("no host, kept Secret deleted, the user's changed, a primary killed", false),
        ("no host, a wrong kept Secret, the user's changed, a primary killed", true),
    ] {
        let before = "the wrong one was kept for good, 0/3, a Pod in the start guard for ever";
        let is_green = rows
            .row(input, before, bed::ROW, async |row| {
                row.keys_before(keys.len());
                let (_, primary) = bed::primary(&story, 0).await?;
                bed::quiet(&story, &primary).await?;
                story.host.kill()?;
                let of_the_host = bed::get(&story, "secret", &kept)?;
                story.kubectl.run(&["delete", "secret", &kept])?;
                set_password(&story, "another password")?;
                if wrong_is_kept {
                    let mut wrong = json!({
                        "apiVersion": "v1", "kind": "Secret",
                        "metadata": {"name": kept, "namespace": NAMESPACE},
                        "stringData": {"password": "another password"},
                    });
                    let owners = of_the_host.pointer("/metadata/ownerReferences").cloned();
                    bed::set(&mut wrong, &["metadata", "ownerReferences"], owners);
                    bed::apply(&story, &[wrong])?;
                }
                signal(primary.member.pid()?, "KILL")?;
                story.restart()?;
                refused(row, &story).await?;
                set_password(&story, PASSWORD)?;
                let (_, took) = bed::well(&story, KEPT_AGAIN).await?;
                row.saw(format!(
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
    bed::end(rows, story)
}

/// Returns the name of the reserved Secret of the only object.
fn kept_name(story: &TestEnvironment) -> Result<String> {
    let names = story.kubectl.run(&["get", "secret", "-o", "name"])?;
    let kept = names.lines().find_map(|name| {
        let name = name.strip_prefix("secret/")?;
        name.starts_with("tholepin-credentials-").then(|| name.to_owned())
    });
    kept.context("the host keeps no password in a Secret")
}

/// 8c: an empty password at creation is refused by a condition, and no server runs without a password.
pub(crate) async fn a_password_is_empty(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let story = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    let before = "the servers ran without a password";
    rows.row("an empty password at creation", before, bed::ROW, async |row| {
        let mut secret = story.redis.secret();
        bed::set(&mut secret, &["stringData", "password"], "");
        bed::apply(&story, &[secret, story.redis.object()])?;
        let fits = |one: &Condition| {
            let speaks = one.message.contains("empty") && one.message.contains("password");
            speaks && (one.kind == "Degraded") == (one.status == "True")
        };
        let told = bed::condition_where(&story, "that the password is empty", fits).await?;
        row.saw(format!("`{told}`"));
        for pod in story.redis.list_pods(&story.client).await? {
            let Some(ip) = pod.status.and_then(|status| status.pod_ip) else { continue };
            ensure!(!is_open(&format!("{ip}:6379")), "{ip} answers without a password");
        }
        set_password(&story, PASSWORD)?;
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!("with a password: healthy after {:.1} s", took.as_secs_f64()));
        Ok(())
    })
    .await;
    let before = "became an empty password";
    rows.row("an unquoted number in stringData", before, bed::ROW, async |row| {
        number_is_refused(row, &story).await
    })
    .await;
    bed::end(rows, story)
}

/// Checks that the API server decodes built-in objects by their types: a number is not a string.
async fn number_is_refused(row: &mut FaultRow, story: &TestEnvironment) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "number", "namespace": NAMESPACE},
        "stringData": {"password": 12_345},
    });
    let sent = ["create", "--validate=false", "-f", "-"];
    let created = story.kubectl.run_with(&sent, &secret.to_string());
    let applied = ["apply", "--server-side", "--validate=false", "-f", "-"];
    let applied = story.kubectl.run_with(&applied, &secret.to_string());
    for refused in [created, applied] {
        let error = refused.err().context("the API server accepted a number as a string")?;
        let error = error.to_string();
        row.saw(error.lines().last().unwrap_or_default());
    }
    let look = || async {
        let left = story.kubectl.run(&["get", "secret", "-o", "json"])?;
        let left: Value = serde_json::from_str(&left)?;
        let items = left.get("items").and_then(Value::as_array);
        let mut items = items.into_iter().flatten();
        let found =
            items.any(|one| one.pointer("/metadata/name").is_some_and(|name| name == "number"));
        ensure!(!found, "the Secret was created nevertheless");
        Ok(Poll::There(()))
    };
    until("no Secret", bed::TOLD, look).await.map(drop)
}
