//! 17: inputs from public bug reports of other operators that found a fault here.

use std::{
    fs,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use serde_json::json;
use tests::{
    environment::{ApiAccess, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, elapse, until},
};

use crate::{
    fixture::{self, Condition},
    guard::data_of,
    table::FaultRows,
};

/// 17a: a primary is lost with its volume, and its replica is killed too (kubeblocks 10753).
pub(crate) async fn a_volume_is_lost(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "`NoReplicaInSync … restore a backup` for ever, beside a replica with all keys";
    rows.row(
        "a shard's Pods deleted by force, its primary's volume too",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            let (_, primary) = fixture::primary(&env, 0).await?;
            let replicas = fixture::replicas(&env, 0).await?;
            let claim = format!("data-{}", primary.pod);
            env.kubectl.run(&["delete", "pvc", &claim, "--wait=false"])?;
            let mut delete = vec!["delete", "pod", "--force", "--grace-period=0", "--wait=false"];
            delete.push(&primary.pod);
            delete.extend(replicas.iter().map(|member| member.pod.as_str()));
            env.kubectl.run(&delete)?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE * 2).await?;
            row.observed(format!("healthy after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}

/// 17b: both copies of a shard lose their nodes.conf (bitnami charts 7703).
pub(crate) async fn identities_are_lost(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "the data was set aside, and the condition said \"bring it back\"";
    rows.row("nodes.conf of both copies emptied, kill -9", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, primary) = fixture::primary(&env, 0).await?;
        let mut members = fixture::replicas(&env, 0).await?;
        members.push(primary);
        let folders = members.iter().map(empty_identity).collect::<Result<Vec<_>>>()?;
        let matches = |condition: &Condition| {
            let is_told = condition.message.contains("is set aside in")
                && condition.message.contains("approve-data-loss");
            condition.kind == "Degraded" && condition.status == "True" && is_told
        };
        let condition =
            fixture::condition_where(&env, "where the data is, and how it is given up", matches)
                .await?;
        row.observed(format!("`{condition}`"));
        for folder in folders {
            let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
            let kept = fs::read_dir(path)?.filter_map(Result::ok);
            let mut kept =
                kept.filter(|file| file.file_name().to_string_lossy().starts_with("aside-"));
            ensure!(kept.next().is_some(), "nothing is set aside");
        }
        row.keys_after(0);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Stops a server, empties its nodes.conf and kills it. Returns its open data folder, which has no path any more
/// once the process has ended.
fn empty_identity(member: &ClusterPod) -> Result<fs::File> {
    let pid = member.server.pid()?;
    signal(pid, "STOP")?;
    let data = data_of(pid);
    let folder = fs::File::open(&data)?;
    fs::write(data.join("nodes.conf"), "")?;
    signal(pid, "KILL")?;
    Ok(folder)
}

/// 17c: a manual change to a server that the host can still reach (redis-operator 1359, redis 11304).
pub(crate) async fn new_clients_are_refused(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "`Ready=True`, no fault";
    let cases: [(&str, &[&str], &[&str], &str); 2] = [
        (
            "CONFIG SET maxclients 1 on a primary",
            &["CONFIG", "SET", "maxclients", "1"],
            &["CONFIG", "SET", "maxclients", "10000"],
            "PodNotReady",
        ),
        (
            "CLUSTER SETSLOT MIGRATING, never finished",
            &["CLUSTER", "SETSLOT", "SLOT", "MIGRATING", "OTHER"],
            &["CLUSTER", "SETSLOT", "SLOT", "STABLE"],
            "SlotOpen",
        ),
    ];
    for (input, break_it, mend_it, reason) in cases {
        rows.row(input, before, fixture::ROW, async |row| {
            row.keys_before(keys.len());
            let (_, primary) = fixture::primary(&env, 0).await?;
            let (_, other) = fixture::primary(&env, 1).await?;
            let slot = primary.server.own()?.slots.first().context("a slot")?.0.to_string();
            let other = other.server.own()?.id.clone();
            // Kept open: with one client allowed no other one gets in.
            let mut connection = connect(&primary.address, env.redis.password)?;
            let mut send = |words: &[&str]| -> Result<()> {
                let words = words.iter().map(|text| match *text {
                    "SLOT" => slot.as_str(),
                    "OTHER" => other.as_str(),
                    text => text,
                });
                let words: Vec<&str> = words.collect();
                let (name, rest) = words.split_first().context("a command")?;
                Ok(cmd(name).arg(rest).query::<()>(&mut connection)?)
            };
            send(break_it)?;
            let matches = |condition: &Condition| {
                condition.kind == "Degraded"
                    && condition.status == "True"
                    && condition.reason == reason
            };
            let condition = fixture::condition_where(&env, reason, matches).await?;
            row.observed(format!("`{condition}`"));
            ensure!(
                fixture::condition(&env, "Ready")?.status == "False",
                "the cluster is reported as Ready"
            );
            send(mend_it)?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!("repaired: healthy after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        })
        .await;
    }
    fixture::end(rows, env)
}

/// 17d: the password ends with a line break, as it does when it was made from a file (redis-operator 29 and others).
pub(crate) async fn the_password_has_a_line_break(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    let before =
        "no server started; with the password corrected: \"a new password needs a new cluster\"";
    rows.row("a password with a line break, then without", before, fixture::ROW, async |row| {
        let mut secret = env.redis.secret();
        fixture::set(&mut secret, &["stringData", "password"], format!("{PASSWORD}\n"));
        fixture::apply(&env, &[secret, env.redis.object()])?;
        let matches = |condition: &Condition| {
            condition.kind == "Degraded" && condition.message.contains("line break")
        };
        row.observed(format!(
            "`{}`",
            fixture::condition_where(&env, "that it has a line break", matches).await?
        ));
        let corrected = json!({"stringData": {"password": PASSWORD}});
        fixture::patch_of(&env, "secret", "password", &corrected)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!("corrected: healthy after {:.1} s", took.as_secs_f64()));
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// How many keys are written while the replica is disconnected.
const UNHEARD: usize = 50;
/// How long the replica is disconnected before its primary is killed, and how often that is killed: after the
/// third time the node restarts it only after twenty seconds, in which the cluster could elect the replica.
const FALLS_AWAY: [(Duration, usize); 2] =
    [(Duration::from_secs(3), 1), (Duration::from_secs(9), 3)];

/// 17e: a replica has lost its link, and its primary is killed with the writes since then on its volume.
pub(crate) async fn a_replica_is_disconnected(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    for (pause, kills) in FALLS_AWAY {
        let (env, keys) = fixture::begin(redis.clone()).await?;
        let input = format!(
            "link of a replica lost {} s, its primary killed {kills} times",
            pause.as_secs()
        );
        let before = "the replica was promoted: what was written since was lost, `Ready=True`";
        rows.row(&input, before, fixture::ROW, async |row| {
            row.keys_before(keys.len() + UNHEARD);
            let (tag, primary) = fixture::primary(&env, 0).await?;
            let replica =
                fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
            let mut to_replica = connect(&replica.address, env.redis.password)?;
            let config = |value: &str| cmd("CONFIG").arg(&["SET", "masterauth", value]).to_owned();
            config("bad").query::<()>(&mut to_replica)?;
            let mut to_primary = connect(&primary.address, env.redis.password)?;
            cmd("CLIENT").arg(&["KILL", "TYPE", "replica"]).query::<()>(&mut to_primary)?;
            for number in 0..UNHEARD {
                let key = format!("{{{tag}}}:unheard-{number}");
                cmd("SET").arg(key).arg("x").query::<()>(&mut to_primary)?;
            }
            let since = Instant::now();
            let fallen =
                |condition: &Condition| condition.kind == "Ready" && condition.status == "False";
            row.observed(format!(
                "`{}`",
                fixture::condition_where(&env, "that it is not in sync", fallen).await?
            ));
            elapse(pause.saturating_sub(since.elapsed())).await;
            for _ in 0..kills {
                let primary = serving(&env, &tag, &primary).await?;
                signal(primary.server.pid()?, "KILL")?;
            }
            let primary = serving(&env, &tag, &primary).await?;
            let mut to_primary = connect(&primary.address, env.redis.password)?;
            let unheard: Vec<String> =
                (0..UNHEARD).map(|number| format!("{{{tag}}}:unheard-{number}")).collect();
            let left: usize = cmd("EXISTS").arg(&unheard).query(&mut to_primary)?;
            ensure!(left == UNHEARD, "{left} of {UNHEARD} keys exist");
            config(PASSWORD).query::<()>(&mut to_replica)?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!("link restored: healthy after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()? + left);
            Ok(())
        })
        .await;
        fixture::end(rows, env)?;
    }
    Ok(())
}

/// Waits until the slots of this tag are served, which must be by the same Pod.
async fn serving(env: &TestEnvironment, tag: &str, before: &ClusterPod) -> Result<ClusterPod> {
    let poll = || async {
        let members = env.redis.answering(&env.client).await?;
        let serves = members.into_iter().find(|member| member.serves(tag));
        let Some(member) = serves else {
            return Ok(Poll::NotYet("no member serves them".to_owned()));
        };
        let is_well = member.server.field("loading") == "0" && member.server.is_serving();
        Ok(if is_well {
            Poll::Done(member)
        } else {
            Poll::NotYet("the member is loading".to_owned())
        })
    };
    let (member, _) = until("the slots to be served", fixture::HEAL_DEADLINE, poll).await?;
    ensure!(member.pod == before.pod, "{} took over", member.pod);
    Ok(member)
}
