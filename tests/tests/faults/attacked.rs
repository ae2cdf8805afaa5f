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
    wait::{Poll, until},
};

use crate::{
    bed::{self, Condition},
    guard::approval,
    table::FaultRows,
};

/// How many keys are written while a replica hangs, and the size of each: more than a socket buffer holds.
const UNHEARD: usize = 200;
const UNHEARD_BYTES: usize = 100_000;
/// The longest time that a vote of the cluster takes, with its delays.
const VOTE: Duration = Duration::from_secs(12);

/// Stops a replica and writes to its primary, until the object reports that the two are not in sync.
async fn written_unheard(story: &TestEnvironment, tag: &str, pair: [&ClusterPod; 2]) -> Result<()> {
    let [primary, replica] = pair;
    signal(replica.member.pid()?, "STOP")?;
    let mut to_primary = connect(&primary.address, story.redis.password)?;
    let value = "x".repeat(UNHEARD_BYTES);
    for number in 0..UNHEARD {
        let key = format!("{{{tag}}}:unheard-{number}");
        cmd("SET").arg(key).arg(&value).query::<()>(&mut to_primary)?;
    }
    let says = |one: &Condition| one.kind == "Ready" && one.status == "False";
    bed::condition_where(story, "that a replica does not answer", says).await.map(drop)
}

/// Checks that a replica does not become primary for as long as the cluster could elect it.
async fn is_not_elected(story: &TestEnvironment, replica: &ClusterPod) -> Result<()> {
    bed::holds("the cluster elected the replica", VOTE, || async {
        let seats = story.redis.answering(&story.client).await?;
        let now = seats.iter().find(|seat| seat.pod == replica.pod);
        ensure!(now.is_none_or(|seat| !seat.member.is_primary()), "{} leads", replica.pod);
        Ok(())
    })
    .await
}

/// 17f: a replica hangs while its primary is written to, and continues after the primary has ended or hangs.
pub(crate) async fn a_replica_hung(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let is_kept = redis.storage;
    let (story, keys) = bed::begin(redis).await?;
    let how = if is_kept { "SIGSTOP" } else { "kill -9" };
    let input = format!(
        "a replica stopped, {UNHEARD} keys written, its primary {how}, the replica continued"
    );
    let before =
        "the cluster elected it beside `Ready=False NoReplicaInSync`: 160 to 400 keys lost";
    rows.row(&input, before, bed::ROW, async |row| {
        row.keys_before(keys.len() + UNHEARD);
        let (tag, primary) = bed::primary(&story, 0).await?;
        let replica = bed::replicas(&story, 0).await?.into_iter().next().context("a replica")?;
        written_unheard(&story, &tag, [&primary, &replica]).await?;
        signal(primary.member.pid()?, if is_kept { "STOP" } else { "KILL" })?;
        signal(replica.member.pid()?, "CONT")?;
        let kept = is_not_elected(&story, &replica).await;
        if is_kept {
            signal(primary.member.pid()?, "CONT")?;
            kept?;
            let (_, took) = bed::well(&story, bed::WELL).await?;
            row.saw(format!(
                "not elected; its primary continued: healthy after {:.1} s",
                took.as_secs_f64()
            ));
            let now = bed::primary(&story, 0).await?.1;
            let mut to_primary = connect(&now.address, story.redis.password)?;
            let unheard: Vec<String> =
                (0..UNHEARD).map(|number| format!("{{{tag}}}:unheard-{number}")).collect();
            let left: usize = cmd("EXISTS").arg(&unheard).query(&mut to_primary)?;
            ensure!(left == UNHEARD, "{left} of {UNHEARD} keys exist");
            row.keys_after(keys.check()? + left);
            return Ok(());
        }
        kept?;
        let names = |one: &Condition| one.kind == "Degraded" && approval(&one.message).is_some();
        let told =
            bed::condition_where(&story, "how to give up what only the primary had", names).await?;
        ensure!(told.reason == "NoReplicaInSync", "{told}");
        bed::annotate(&story, &approval(&told.message).context("an annotation")?)?;
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!("not elected; healthy {:.1} s after the approval", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// 17g: all primaries of a cluster without volumes are killed while it is being created.
pub(crate) async fn killed_at_creation(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let direct = ApiAccess::Direct(HostOptions::default());
    let story = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    let before =
        "stuck for ever: `adopted: not all members have answered and agreed yet`, no remedy named";
    rows.row("all primaries killed when slots are first served", before, bed::ROW, async |row| {
        bed::apply(&story, &[story.redis.secret(), story.redis.object()])?;
        let served = || async {
            let object = bed::get(&story, "rediscluster", story.redis.name)?;
            let served = object.pointer("/status/slotsServed").and_then(Value::as_u64);
            Ok(if served.unwrap_or_default() == 0 {
                Poll::NotYet("no slots".to_owned())
            } else {
                Poll::There(())
            })
        };
        until("slots to be served", bed::WELL, served).await?;
        for seat in story.redis.answering(&story.client).await? {
            if seat.member.is_primary() && seat.member.is_serving() {
                signal(seat.member.pid()?, "KILL")?;
            }
        }
        let mut approved = 0;
        let start = std::time::Instant::now();
        // Follows what the condition asks for, as a user would, one annotation after the other.
        loop {
            if story.redis.well(&story.kubectl, &story.client).await.is_ok() {
                break;
            }
            ensure!(start.elapsed() < bed::WELL * 2, "{}", bed::condition(&story, "Degraded")?);
            let degraded = bed::condition(&story, "Degraded")?;
            if let Some(annotation) = approval(&degraded.message)
                && degraded.status == "True"
            {
                bed::annotate(&story, &annotation)?;
                approved += 1;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let took = start.elapsed().as_secs_f64();
        row.saw(format!(
            "healthy after {took:.1} s, {approved} annotations as the condition named them"
        ));
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// 17h: a client other than the host tells a primary that another node owns one of its slots.
pub(crate) async fn a_slot_is_disowned(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "`Ready=True`, 16383 slots, no member serves the slot";
    rows.row(
        "CLUSTER SETSLOT of an empty slot on its owner alone",
        before,
        bed::ROW,
        async |row| {
            row.keys_before(keys.len());
            let (_, owner) = bed::primary(&story, 2).await?;
            let (_, other) = bed::primary(&story, 0).await?;
            let mut to_owner = connect(&owner.address, story.redis.password)?;
            let slot = 16_000..16_384;
            let empty = slot.into_iter().find(|slot| {
                let count =
                    cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(*slot).query::<u64>(&mut to_owner);
                count.is_ok_and(|count| count == 0)
            });
            let slot: u64 = empty.context("a slot without keys")?;
            let set = |to: &str| cmd("CLUSTER").arg(("SETSLOT", slot, "NODE", to)).to_owned();
            set(&other.member.own()?.id).query::<()>(&mut to_owner)?;
            let says = |one: &Condition| one.kind == "Degraded" && one.reason == "SlotsDisowned";
            let told = bed::condition_where(&story, "who disowned it", says).await?;
            let own = owner.member.own()?.id.clone();
            ensure!(told.message.contains(&format!("NODE {own}")), "{told}");
            set(&own).query::<()>(&mut to_owner)?;
            let (_, took) = bed::well(&story, bed::WELL).await?;
            row.saw(format!(
                "`{}`; followed its advice: healthy after {:.1} s",
                told.reason,
                took.as_secs_f64()
            ));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    bed::end(rows, story)
}

/// 17i: a cluster is created over the volumes of one with another number of shards.
pub(crate) async fn other_shards(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let retain = |object: &mut Value| bed::set(object, &["spec", "storage", "onDelete"], "Retain");
    let direct = ApiAccess::Direct(HostOptions::default());
    let (story, mut keys) = bed::begin_with(redis, direct, retain).await?;
    let object = |shards: usize| {
        let mut object = story.redis.object();
        retain(&mut object);
        bed::set(&mut object, &["spec", "shards"], shards);
        object
    };
    let before = "never Ready, blamed a member; a replica's copy was replaced by another shard's";
    for shards in [4, 2] {
        let input = format!("deleted, created again over its volumes with {shards} shards");
        rows.row(&input, before, bed::ROW, async |row| {
            row.keys_before(keys.len());
            bed::delete(&story).await?;
            bed::apply(&story, &[object(shards)])?;
            let says = |one: &Condition| one.kind == "Degraded" && one.reason == "OtherShards";
            let told =
                bed::condition_where(&story, "that the data is of other shards", says).await?;
            row.saw(format!("`{}`", told.reason));
            bed::delete(&story).await?;
            bed::apply(&story, &[object(story.redis.shards)])?;
            let (_, took) = bed::well(&story, bed::WELL).await?;
            keys.enter(&story.client).await?;
            row.saw(format!("with its own number: healthy after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        })
        .await;
    }
    bed::end(rows, story)
}

/// 17j: the accepted spec that the host keeps is deleted, the spec becomes invalid, the host restarts.
pub(crate) async fn the_accepted_spec_is_deleted(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut story, keys) = bed::begin(redis).await?;
    let before = "`no earlier spec of this object was accepted`: failover and healing were off";
    rows.row(
        "the accepted spec deleted, an invalid one, a new host",
        before,
        bed::ROW,
        async |row| {
            row.keys_before(keys.len());
            let maps = story.kubectl.run(&["get", "configmap", "-o", "name"])?;
            let name = maps.lines().find(|name| name.contains("tholepin-accepted-"));
            let name = name.context("an accepted spec")?.to_owned();
            story.kubectl.run(&["delete", &name])?;
            let back = || async {
                let maps = story.kubectl.run(&["get", "configmap", "-o", "name"])?;
                let is_back = maps.lines().any(|it| it == name);
                Ok(if is_back { Poll::There(()) } else { Poll::NotYet("it is deleted".to_owned()) })
            };
            let (_, took) = until("the accepted spec to be kept again", bed::WELL, back).await?;
            row.saw(format!("kept again after {:.1} s", took.as_secs_f64()));
            bed::patch(&story, &json!({"spec": {"settings": {"maxmemry": "1gb"}}}))?;
            story.restart()?;
            let says = |one: &Condition| {
                one.reason == "InvalidSpec" && one.message.contains("stays in force")
            };
            bed::condition_where(&story, "that the earlier one stays in force", says).await?;
            let (_, primary) = bed::primary(&story, 0).await?;
            bed::quiet(&story, &primary).await?;
            signal(primary.member.pid()?, "KILL")?;
            let (_, took) = bed::at_peace(&story, bed::WELL).await?;
            row.saw(format!("a primary killed: healed after {:.1} s", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    bed::end(rows, story)
}
