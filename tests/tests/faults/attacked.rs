//! 17: inputs of a tester who knew only the README and tried to break the product.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::cmd;
use serde_json::{Value, json};
use tests::{
    cluster::HostOptions,
    environment::{ApiAccess, TestEnvironment},
    process::signal,
    redis_cluster::{ClusterPod, RedisCluster},
    router::connect,
    wait::{Poll, until, until_every},
};

use crate::{
    fixture::{self, Condition},
    guard::approval,
    table::FaultRows,
};

/// How many keys are written while a replica hangs, and the size of each: more than a socket buffer holds.
const UNHEARD: usize = 200;
const UNHEARD_BYTES: usize = 100_000;
/// The longest time that a vote of the cluster takes, with its delays.
const VOTE: Duration = Duration::from_secs(12);

/// Stops a replica and writes to its primary, until the object reports that the two are not in sync.
async fn write_past_a_stopped_replica(
    env: &TestEnvironment,
    tag: &str,
    pair: [&ClusterPod; 2],
) -> Result<()> {
    let [primary, replica] = pair;
    signal(replica.server.pid()?, "STOP")?;
    let mut to_primary = connect(&primary.address, env.redis.password)?;
    let value = "x".repeat(UNHEARD_BYTES);
    for number in 0..UNHEARD {
        let key = format!("{{{tag}}}:unheard-{number}");
        cmd("SET").arg(key).arg(&value).query::<()>(&mut to_primary)?;
    }
    let matches = |condition: &Condition| condition.kind == "Ready" && condition.status == "False";
    fixture::condition_where(env, "that a replica does not answer", matches).await.map(drop)
}

/// Checks that a replica does not become primary for as long as the cluster could elect it.
async fn is_not_elected(env: &TestEnvironment, replica: &ClusterPod) -> Result<()> {
    fixture::holds_for("the cluster elected the replica", VOTE, || async {
        let members = env.redis.answering(&env.client).await?;
        let now = members.iter().find(|member| member.pod == replica.pod);
        ensure!(now.is_none_or(|member| !member.server.is_primary()), "{} leads", replica.pod);
        Ok(())
    })
    .await
}

/// 17f: a replica hangs while its primary is written to, and continues after the primary has ended or hangs.
pub(crate) async fn a_replica_hung(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let is_kept = redis.storage;
    let (env, keys) = fixture::begin(redis).await?;
    let how = if is_kept { "SIGSTOP" } else { "kill -9" };
    let input = format!(
        "a replica stopped, {UNHEARD} keys written, its primary {how}, the replica continued"
    );
    let before =
        "the cluster elected it beside `Ready=False NoReplicaInSync`: 160 to 400 keys lost";
    rows.row(&input, before, fixture::ROW, async |row| {
        row.keys_before(keys.len() + UNHEARD);
        let (tag, primary) = fixture::primary(&env, 0).await?;
        let replica = fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
        write_past_a_stopped_replica(&env, &tag, [&primary, &replica]).await?;
        signal(primary.server.pid()?, if is_kept { "STOP" } else { "KILL" })?;
        signal(replica.server.pid()?, "CONT")?;
        let kept = is_not_elected(&env, &replica).await;
        if is_kept {
            signal(primary.server.pid()?, "CONT")?;
            kept?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!(
                "not elected; its primary continued: healthy after {:.1} s",
                took.as_secs_f64()
            ));
            let now = fixture::primary(&env, 0).await?.1;
            let mut to_primary = connect(&now.address, env.redis.password)?;
            let unheard: Vec<String> =
                (0..UNHEARD).map(|number| format!("{{{tag}}}:unheard-{number}")).collect();
            let left: usize = cmd("EXISTS").arg(&unheard).query(&mut to_primary)?;
            ensure!(left == UNHEARD, "{left} of {UNHEARD} keys exist");
            row.keys_after(keys.check()? + left);
            return Ok(());
        }
        kept?;
        let names = |condition: &Condition| {
            condition.kind == "Degraded" && approval(&condition.message).is_some()
        };
        let condition =
            fixture::condition_where(&env, "how to give up what only the primary had", names)
                .await?;
        ensure!(condition.reason == "NoReplicaInSync", "{condition}");
        fixture::annotate(&env, &approval(&condition.message).context("an annotation")?)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!(
            "not elected; healthy {:.1} s after the approval",
            took.as_secs_f64()
        ));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// 17g: all primaries of a cluster without volumes are killed while it is being created.
pub(crate) async fn killed_at_creation(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let direct = ApiAccess::Direct(HostOptions::default());
    let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    let before =
        "stuck for ever: `adopted: not all members have answered and agreed yet`, no remedy named";
    rows.row(
        "all primaries killed when slots are first served",
        before,
        fixture::ROW,
        async |row| {
            fixture::apply(&env, &[env.redis.secret(), env.redis.object()])?;
            let served = || async {
                let object = fixture::get(&env, "rediscluster", env.redis.name)?;
                let served = object.pointer("/status/slotsServed").and_then(Value::as_u64);
                Ok(if served.unwrap_or_default() == 0 {
                    Poll::NotYet("no slots".to_owned())
                } else {
                    Poll::Done(())
                })
            };
            until("slots to be served", fixture::HEAL_DEADLINE, served).await?;
            for member in env.redis.answering(&env.client).await? {
                if member.server.is_primary() && member.server.is_serving() {
                    signal(member.server.pid()?, "KILL")?;
                }
            }
            let mut approved = 0;
            // Follows what the condition asks for, as a user would, one annotation after the other.
            let poll = async || -> Result<Poll<()>> {
                if env.redis.check_healthy(&env.kubectl, &env.client).await.is_ok() {
                    return Ok(Poll::Done(()));
                }
                let degraded = fixture::condition(&env, "Degraded")?;
                if let Some(annotation) = approval(&degraded.message)
                    && degraded.status == "True"
                {
                    fixture::annotate(&env, &annotation)?;
                    approved += 1;
                }
                Ok(Poll::NotYet(degraded.to_string()))
            };
            let pause = Duration::from_millis(500);
            let deadline = fixture::HEAL_DEADLINE * 2;
            let (_, took) = until_every(pause, "the cluster to be healthy", deadline, poll).await?;
            let took = took.as_secs_f64();
            row.observed(format!(
                "healthy after {took:.1} s, {approved} annotations as the condition named them"
            ));
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}

/// 17h: a client other than the host tells a primary that another node owns one of its slots.
pub(crate) async fn a_slot_is_disowned(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "`Ready=True`, 16383 slots, no member serves the slot";
    rows.row(
        "CLUSTER SETSLOT of an empty slot on its owner alone",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            let (_, owner) = fixture::primary(&env, 2).await?;
            let (_, other) = fixture::primary(&env, 0).await?;
            let mut to_owner = connect(&owner.address, env.redis.password)?;
            let slot = 16_000..16_384;
            let empty = slot.into_iter().find(|slot| {
                let count =
                    cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(*slot).query::<u64>(&mut to_owner);
                count.is_ok_and(|count| count == 0)
            });
            let slot: u64 = empty.context("a slot without keys")?;
            let set = |to: &str| cmd("CLUSTER").arg(("SETSLOT", slot, "NODE", to)).to_owned();
            set(&other.server.own()?.id).query::<()>(&mut to_owner)?;
            let matches = |condition: &Condition| {
                condition.kind == "Degraded" && condition.reason == "SlotsDisowned"
            };
            let condition = fixture::condition_where(&env, "who disowned it", matches).await?;
            let own = owner.server.own()?.id.clone();
            ensure!(condition.message.contains(&format!("NODE {own}")), "{condition}");
            set(&own).query::<()>(&mut to_owner)?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!(
                "`{}`; followed its advice: healthy after {:.1} s",
                condition.reason,
                took.as_secs_f64()
            ));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}

/// 17i: a cluster is created over the volumes of one with another number of shards.
pub(crate) async fn other_shards(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let retain =
        |object: &mut Value| fixture::set(object, &["spec", "storage", "onDelete"], "Retain");
    let direct = ApiAccess::Direct(HostOptions::default());
    let (env, mut keys) = fixture::begin_with(redis, direct, retain).await?;
    let object = |shards: usize| {
        let mut object = env.redis.object();
        retain(&mut object);
        fixture::set(&mut object, &["spec", "shards"], shards);
        object
    };
    let before = "never Ready, blamed a member; a replica's copy was replaced by another shard's";
    for shards in [4, 2] {
        let input = format!("deleted, created again over its volumes with {shards} shards");
        rows.row(&input, before, fixture::ROW, async |row| {
            row.keys_before(keys.len());
            fixture::delete(&env).await?;
            fixture::apply(&env, &[object(shards)])?;
            let matches = |condition: &Condition| {
                condition.kind == "Degraded" && condition.reason == "OtherShards"
            };
            let condition =
                fixture::condition_where(&env, "that the data is of other shards", matches).await?;
            row.observed(format!("`{}`", condition.reason));
            fixture::delete(&env).await?;
            fixture::apply(&env, &[object(env.redis.shards)])?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            keys.enter(&env.client).await?;
            row.observed(format!("with its own number: healthy after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        })
        .await;
    }
    fixture::end(rows, env)
}

/// 17j: the accepted spec that the host keeps is deleted, the spec becomes invalid, the host restarts.
pub(crate) async fn the_accepted_spec_is_deleted(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, keys) = fixture::begin(redis).await?;
    let before = "`no earlier spec of this object was accepted`: failover and healing were off";
    rows.row(
        "the accepted spec deleted, an invalid one, a new host",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            let maps = env.kubectl.run(&["get", "configmap", "-o", "name"])?;
            let name = maps.lines().find(|name| name.contains("tholepin-accepted-"));
            let name = name.context("an accepted spec")?.to_owned();
            env.kubectl.run(&["delete", &name])?;
            let back = || async {
                let maps = env.kubectl.run(&["get", "configmap", "-o", "name"])?;
                let is_back = maps.lines().any(|line| line == name);
                Ok(if is_back { Poll::Done(()) } else { Poll::NotYet("it is deleted".to_owned()) })
            };
            let (_, took) =
                until("the accepted spec to be kept again", fixture::HEAL_DEADLINE, back).await?;
            row.observed(format!("kept again after {:.1} s", took.as_secs_f64()));
            fixture::patch(&env, &json!({"spec": {"settings": {"maxmemry": "1gb"}}}))?;
            env.restart()?;
            let matches = |condition: &Condition| {
                condition.reason == "InvalidSpec" && condition.message.contains("stays in force")
            };
            fixture::condition_where(&env, "that the earlier one stays in force", matches).await?;
            let (_, primary) = fixture::primary(&env, 0).await?;
            fixture::until_shard_quiet(&env, &primary).await?;
            signal(primary.server.pid()?, "KILL")?;
            let (_, took) = fixture::until_servers_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!("a primary killed: healed after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}
