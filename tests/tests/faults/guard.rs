//! 4: a primary without data must not start while a copy of its keys may exist.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    environment::{ApiAccess, TestEnvironment},
    keys::WrittenKeys,
    process::signal,
    redis_cluster::{ClusterPod, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    fixture::{self, Condition},
    table::FaultRows,
};

/// Longer than the old start guard waited: 15 s with the default node timeout of 5 s.
const GUARD: Duration = Duration::from_secs(18);
/// The behaviour of the old start guard.
const EMPTIED: &str = "60 keys → 0 when the guard gave up, Ready=True";

/// 4a: the host promotes no replica, because the object is paused.
pub(crate) async fn a_paused_primary_is_killed(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    kill_primary(rows, &env, &keys, "paused, kill -9 of the primary", HostPause::Paused).await;
    fixture::end(rows, env)
}

/// 4b: the host acts on the last accepted spec, because the present one is invalid.
pub(crate) async fn a_primary_with_an_invalid_spec_is_killed(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    kill_primary(rows, &env, &keys, "invalid spec, kill -9 of the primary", HostPause::InvalidSpec)
        .await;
    fixture::end(rows, env)
}

/// 4c: both again with two shards, which have no majority for a vote.
pub(crate) async fn two_shards_cannot_vote(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, mut keys) = fixture::begin(redis).await?;
    let inputs = [
        ("paused, kill -9 of the primary", HostPause::Paused),
        ("invalid spec, kill -9 of the primary", HostPause::InvalidSpec),
    ];
    for (input, pause) in inputs {
        if !kill_primary(rows, &env, &keys, input, pause).await {
            pause.undo(&env)?;
            keys = fixture::recreate(&env).await?;
        }
    }
    fixture::end(rows, env)
}

/// The state of the object while the primary is killed.
#[derive(Clone, Copy)]
enum HostPause {
    Paused,
    InvalidSpec,
}

impl HostPause {
    fn set(self, env: &TestEnvironment) -> Result<()> {
        match self {
            Self::Paused => fixture::annotate(env, "tholepin.dev/paused=true"),
            Self::InvalidSpec => {
                fixture::patch(env, &json!({"spec": {"settings": {"maxmemry": "1gb"}}}))
            }
        }
    }

    fn undo(self, env: &TestEnvironment) -> Result<()> {
        match self {
            Self::Paused => fixture::annotate(env, "tholepin.dev/paused-"),
            Self::InvalidSpec => {
                fixture::patch(env, &json!({"spec": {"settings": {"maxmemry": null}}}))
            }
        }
    }
}

async fn kill_primary(
    rows: &mut FaultRows,
    env: &TestEnvironment,
    keys: &WrittenKeys,
    input: &str,
    pause: HostPause,
) -> bool {
    rows.row(input, EMPTIED, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, primary) = fixture::primary(env, 0).await?;
        pause.set(env)?;
        signal(primary.server.pid()?, "KILL")?;
        let kept = fixture::no_key_is_lost(env, keys, GUARD).await;
        row.keys_after(keys.held(&env.client).await?);
        kept?;
        pause.undo(env)?;
        let (_, took) = fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(keys.check()?);
        row.observed(format!(
            "kept for {} s, healthy {:.1} s after the host could act",
            GUARD.as_secs(),
            took.as_secs_f64()
        ));
        Ok(())
    })
    .await
}

/// 4d: a peer's address in the dead primary's nodes.conf belongs to a fresh process. That process reports
/// neither that the primary owns its slots nor that another node does.
pub(crate) async fn a_fresh_process_is_at_a_peer_s_address(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let (input, before) = (
        "paused, a fresh process at a peer's address, kill -9 of the primary",
        "60 keys → 0: a peer that knows nothing was read as `owns nothing`",
    );
    rows.row(input, before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, primary) = fixture::primary(&env, 0).await?;
        let others = fixture::replicas(&env, 1).await?;
        let peer = others.first().context("the other shard has no replica")?;
        HostPause::Paused.set(&env)?;
        restart_without_identity(peer)?;
        until_fresh_node(peer).await?;
        signal(primary.server.pid()?, "KILL")?;
        let kept = fixture::no_key_is_lost(&env, &keys, GUARD).await;
        row.keys_after(keys.held(&env.client).await?);
        kept?;
        HostPause::Paused.undo(&env)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(keys.check()?);
        row.observed(format!("kept, healthy {:.1} s after the host could act", took.as_secs_f64()));
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Restarts a server without its identity, at the same address.
fn restart_without_identity(member: &ClusterPod) -> Result<()> {
    let pid = member.server.pid()?;
    // A stopped server does not write the file again before it is killed.
    signal(pid, "STOP")?;
    fs::remove_file(data_of(pid).join("nodes.conf"))?;
    signal(pid, "KILL")
}

/// Returns the folder of a server's data, which is its working directory.
pub(crate) fn data_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/cwd"))
}

async fn until_fresh_node(member: &ClusterPod) -> Result<()> {
    let id = member.server.own()?.id.clone();
    let poll = || {
        let now = tests::router::connect(&member.address, Some(tests::redis_cluster::PASSWORD));
        let now = now.and_then(|mut connection| tests::member::ServerInfo::ask(&mut connection));
        let id = id.clone();
        async move {
            let own = now?.own()?.id.clone();
            Ok(if own == id { Poll::NotYet("the same node".to_owned()) } else { Poll::Done(()) })
        }
    };
    until(format!("{} to be a fresh node", member.pod), fixture::HEAL_DEADLINE, poll)
        .await
        .map(drop)
}

/// 4e: the only replica is stopped, so that nothing reports whether it has keys.
pub(crate) async fn the_only_follower_hangs(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, mut keys) = fixture::begin(redis).await?;
    for (input, pause) in [
        ("SIGSTOP of the follower, kill -9 of the primary", None),
        ("the same, paused", Some(HostPause::Paused)),
    ] {
        let before = "60 keys → 0 when the guard gave up";
        let is_green = rows
            .row(input, before, fixture::ROW, async |row| {
                row.keys_before(keys.len());
                let (_, primary) = fixture::primary(&env, 0).await?;
                let followers = fixture::replicas(&env, 0).await?;
                let pid = followers.first().context("a follower")?.server.pid()?;
                if let Some(pause) = pause {
                    pause.set(&env)?;
                }
                signal(pid, "STOP")?;
                signal(primary.server.pid()?, "KILL")?;
                let check =
                    fixture::holds_for("the primary serves without its keys", GUARD, || async {
                        let members = env.redis.answering(&env.client).await?;
                        let empty = members.iter().find(|member| member.server.is_primary());
                        ensure!(empty.is_none(), "{} serves without its keys", primary.pod);
                        Ok(())
                    });
                let kept = check.await;
                signal(pid, "CONT")?;
                kept?;
                fixture::no_key_is_lost(&env, &keys, Duration::from_secs(2)).await?;
                if let Some(pause) = pause {
                    pause.undo(&env)?;
                }
                let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
                row.keys_after(keys.check()?);
                row.observed(format!(
                    "kept, healthy {:.1} s after the replica continued",
                    took.as_secs_f64()
                ));
                Ok(())
            })
            .await;
        if !is_green {
            HostPause::Paused.undo(&env)?;
            keys = fixture::recreate(&env).await?;
        }
    }
    fixture::end(rows, env)
}

/// One input of 4f.
struct EndedCase {
    input: &'static str,
    before: &'static str,
    data_loss: &'static str,
    has_keys: bool,
    /// Whether the Pods are deleted too, so that their successors have no identity.
    fresh_pods: bool,
}

/// 4f: every process of the only shard has ended. Keys are given up only with approval; a shard that never had
/// keys is served again without one.
pub(crate) async fn every_copy_has_ended(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let cases = [
        EndedCase {
            input: "kill -9 of all copies, dataLoss: never",
            before: "served again empty, Ready=True, no approval was asked for",
            data_loss: "never",
            has_keys: true,
            fresh_pods: false,
        },
        EndedCase {
            input: "kill -9 of all copies, dataLoss: acceptable",
            before: "served again empty after the guard's time, without an event",
            data_loss: "acceptable",
            has_keys: true,
            fresh_pods: false,
        },
        EndedCase {
            input: "kill -9 of all copies, dataLoss: never, never a key",
            before: "served again after the guard's time",
            data_loss: "never",
            has_keys: false,
            fresh_pods: false,
        },
        EndedCase {
            input: "delete --force of all Pods, dataLoss: acceptable",
            before: "SlotsLost for ever",
            data_loss: "acceptable",
            has_keys: true,
            fresh_pods: true,
        },
    ];
    for case in cases {
        ended(rows, redis.clone(), &case).await?;
    }
    Ok(())
}

async fn ended(rows: &mut FaultRows, redis: RedisCluster, case: &EndedCase) -> Result<()> {
    let edit = |object: &mut Value| fixture::set(object, &["spec", "dataLoss"], case.data_loss);
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let env = if case.has_keys {
        let (env, keys) = fixture::begin_with(redis, direct, edit).await?;
        ensure!(keys.check()? == keys.len(), "keys are missing at the start");
        env
    } else {
        let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
        let mut object = env.redis.object();
        edit(&mut object);
        fixture::apply(&env, &[env.redis.secret(), object])?;
        env.until_healthy().await?;
        env
    };
    rows.row(case.input, case.before, fixture::ROW, async |row| {
        row.keys_before(if case.has_keys { 60 } else { 0 });
        let members = env.redis.members(&env.client).await?;
        if case.fresh_pods {
            let mut delete = vec!["delete", "pod", "--force", "--grace-period=0", "--wait=false"];
            delete.extend(members.iter().map(|member| member.pod.as_str()));
            env.kubectl.run(&delete)?;
        } else {
            for member in &members {
                signal(member.server.pid()?, "KILL")?;
            }
        }
        row.keys_after(0);
        if case.data_loss == "never" && case.has_keys {
            return asked_for_approval(row, &env).await;
        }
        let (_, took) = fixture::until_healthy(&env, Duration::from_secs(120)).await?;
        row.observed(format!("served again after {:.1} s", took.as_secs_f64()));
        if case.has_keys {
            let matches = |event: &str| event.to_lowercase().contains("lost");
            let event = fixture::event(&env, "what was lost", matches).await?;
            row.observed(format!("event `{event}`"));
        }
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Checks that no member serves until the annotation that the condition names approves it.
async fn asked_for_approval(row: &mut crate::table::FaultRow, env: &TestEnvironment) -> Result<()> {
    let names = |condition: &Condition| {
        condition.status == "True"
            && condition.kind == "Degraded"
            && approval(&condition.message).is_some()
    };
    let lost =
        fixture::condition_where(env, "SlotsLost, and which annotation approves it", names).await?;
    ensure!(lost.reason == "SlotsLost", "{lost}");
    fixture::holds_for("a member serves without approval", GUARD, || async {
        let members = env.redis.answering(&env.client).await?;
        let serves =
            members.iter().find(|member| member.server.is_primary() && member.server.is_serving());
        if let Some(member) = serves {
            bail!("{} serves", member.pod);
        }
        let ready = fixture::condition(env, "Ready")?;
        ensure!(ready.status != "True", "{ready}");
        Ok(())
    })
    .await?;
    let annotation = approval(&lost.message).context("an annotation")?;
    fixture::annotate(env, &annotation)?;
    let (_, took) = fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
    row.observed(format!(
        "SlotsLost until `{annotation}`, then healthy after {:.1} s",
        took.as_secs_f64()
    ));
    Ok(())
}

/// Returns the annotation `tholepin.dev/NAME=VALUE` that a message names.
pub(crate) fn approval(message: &str) -> Option<String> {
    let tokens = message.split(|letter: char| letter.is_whitespace() || "`'\",;".contains(letter));
    let mut annotations = tokens.filter(|text| text.starts_with("tholepin.dev/"));
    let found = annotations.find(|text| text.contains('=')).map(str::to_owned);
    found.map(|text| text.trim_end_matches(['.', ')']).to_owned())
}
