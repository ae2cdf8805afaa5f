//! 5: one thing that cannot be applied must not stop polling, healing and failover.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    api_proxy::ApiLink,
    environment::{ApiAccess, TestEnvironment},
    guests,
    keys::WrittenKeys,
    process::signal,
    redis_cluster::{ClusterPod, NAMESPACE, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    bed,
    table::{FaultRow, FaultRows},
};

/// How long writes may stop when a primary is killed: three times the bound of scenario F1.
const OUTAGE_MAX: Duration = Duration::from_millis(1500);
/// The prefix of ConfigMaps and Secrets that the host keeps for itself.
const RESERVED: &str = "tholepin-";

/// The change that cannot be applied.
#[derive(Clone, Copy)]
enum UnappliedChange {
    Typo,
    NoSecret,
    NoOwner,
    Refused,
}

impl UnappliedChange {
    const ALL: [Self; 4] = [Self::Typo, Self::NoSecret, Self::NoOwner, Self::Refused];

    const fn input(self) -> &'static str {
        match self {
            Self::Typo => "a typing error in settings, kill -9 of a primary, delete of a Pod",
            Self::NoSecret => "the Secret deleted, kill -9 of a primary, delete of a Pod",
            Self::NoOwner => "ownerReferences removed from a ConfigMap, kill -9, delete of a Pod",
            Self::Refused => "a refused apply, kill -9 of a primary, delete of a Pod",
        }
    }

    /// Returns a text that a condition must contain.
    const fn word(self) -> &'static str {
        match self {
            Self::Typo => "maxmemry",
            Self::NoSecret => "Secret",
            Self::NoOwner => "ConfigMap",
            Self::Refused => "refused by the test",
        }
    }

    fn set(self, story: &TestEnvironment) -> Result<()> {
        match self {
            Self::Typo => bed::patch(story, &json!({"spec": {"settings": {"maxmemry": "1gb"}}})),
            Self::NoSecret => story.kubectl.run(&["delete", "secret", "password"]).map(drop),
            Self::NoOwner => owned_config_maps(story)?.iter().try_for_each(|name| {
                bed::patch_of(
                    story,
                    "configmap",
                    name,
                    &json!({"metadata": {"ownerReferences": null}}),
                )
            }),
            Self::Refused => {
                story.road()?.refuse(Some("poddisruptionbudgets"));
                let budget = format!("{}-shard-0", story.redis.name);
                story.kubectl.run(&["delete", "poddisruptionbudget", &budget]).map(drop)
            }
        }
    }

    /// Undoes the change; `maps` are the ConfigMaps that had an owner before.
    fn undo(self, story: &TestEnvironment, maps: &[String]) -> Result<()> {
        match self {
            Self::Typo => bed::patch(story, &json!({"spec": {"settings": {"maxmemry": null}}})),
            Self::NoSecret => bed::apply(story, &[story.redis.secret()]),
            Self::NoOwner => {
                let object = bed::get(story, "rediscluster", story.redis.name)?;
                let uid = object.pointer("/metadata/uid").context("a uid")?;
                let owner = json!([{
                    "apiVersion": "redis.tholepin.dev/v1alpha1", "kind": "RedisCluster",
                    "name": story.redis.name, "uid": uid,
                    "controller": true, "blockOwnerDeletion": true,
                }]);
                let owned = json!({"metadata": {"ownerReferences": owner}});
                maps.iter().try_for_each(|name| bed::patch_of(story, "configmap", name, &owned))
            }
            Self::Refused => {
                story.road()?.refuse(None);
                // A change of the object, so that it is reconciled immediately.
                bed::annotate(story, "tests.tholepin.dev/looked=again")
            }
        }
    }
}

/// Returns the ConfigMaps that the plugin applied.
fn owned_config_maps(story: &TestEnvironment) -> Result<Vec<String>> {
    let list: Value =
        serde_json::from_str(&story.kubectl.run(&["get", "configmap", "-o", "json"])?)?;
    let items = list.get("items").and_then(Value::as_array);
    let owned = items.into_iter().flatten().filter(|map| {
        let owner = map.pointer("/metadata/ownerReferences/0/kind");
        owner.is_some_and(|kind| kind == "RedisCluster")
    });
    let names = owned.filter_map(|map| map.pointer("/metadata/name")?.as_str());
    let names: Vec<_> =
        names.filter(|name| !name.starts_with(RESERVED)).map(str::to_owned).collect();
    ensure!(!names.is_empty(), "the plugin has applied no ConfigMap in {NAMESPACE}");
    Ok(names)
}

/// 5a: each change in turn; meanwhile a primary is killed and a Pod is deleted.
pub(crate) async fn one_trouble_at_a_time(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (mut story, _) = bed::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    story.watch().await?;
    let before = "8.3 s by the cluster's vote and not 0.2; a deleted Pod never rejoined";
    for (turn, trouble) in UnappliedChange::ALL.into_iter().enumerate() {
        let maps = owned_config_maps(&story)?;
        let is_green = rows
            .row(trouble.input(), before, bed::ROW, async |row| {
                goes_on(row, &mut story, trouble, turn, &maps).await
            })
            .await;
        if !is_green {
            // The deletion of the cluster may need what was deleted.
            trouble.undo(&story, &maps).ok();
            story.road()?.set(ApiLink::Clear);
            story.forget_writes().ok();
            bed::anew(&story).await?;
            story.watch().await?;
        }
    }
    bed::end(rows, story)
}

async fn goes_on(
    row: &mut FaultRow,
    story: &mut TestEnvironment,
    trouble: UnappliedChange,
    turn: usize,
    maps: &[String],
) -> Result<()> {
    let shards = story.redis.shards;
    let (tag, primary) = bed::primary(story, turn % shards).await?;
    // A Pod of another shard, so that no shard is without both members.
    let other = bed::replicas(story, (turn + 1) % shards).await?;
    let other = other.into_iter().next().context("a replica")?;
    bed::quiet(story, &primary).await?;
    trouble.set(story)?;
    let said =
        bed::condition_where(story, trouble.word(), |one| one.message.contains(trouble.word()))
            .await;
    let said = said.context("no condition reports the change")?;
    story.writer()?.forget_outages();
    signal(primary.member.pid()?, "KILL")?;
    bed::restarted(story, &primary, bed::WELL).await?;
    let outage = story.writer()?.outage(&tag)?;
    row.saw(format!("`{}`; outage {:.2} s", said.reason, outage.as_secs_f64()));
    ensure!(outage <= OUTAGE_MAX, "writes continued after {:.2} s", outage.as_secs_f64());
    let other = now_or_another(story, other, shards, turn).await?;
    story.kubectl.run(&["delete", "pod", &other.pod, "--wait=false"])?;
    let took = bed::rejoined(story, &other, bed::WELL).await?;
    row.saw(format!("the deleted Pod rejoined after {:.1} s", took.as_secs_f64()));
    trouble.undo(story, maps)?;
    bed::well(story, bed::WELL).await?;
    written(row, story).await
}

/// Returns the same member if it is still a replica, else another replica of the shard: with one shard the
/// former replica is the primary now.
async fn now_or_another(
    story: &TestEnvironment,
    seat: ClusterPod,
    shards: usize,
    turn: usize,
) -> Result<ClusterPod> {
    let now = bed::replicas(story, (turn + 1) % shards).await?;
    let same = now.iter().find(|one| one.pod == seat.pod);
    same.or(now.first()).cloned().context("a replica")
}

/// Compares the acknowledged writes with the existing keys, and starts a new writer.
async fn written(row: &mut FaultRow, story: &mut TestEnvironment) -> Result<()> {
    let report = story.take_writes()?;
    row.keys_before(report.acknowledged);
    row.keys_after(report.acknowledged - report.lost.len());
    story.watch_writes().await?;
    ensure!(report.lost.is_empty(), "{} acknowledged writes are lost", report.lost.len());
    Ok(())
}

/// 5b: without the plugin's files nothing heals the cluster, so the object must not report `Ready=True`.
pub(crate) async fn the_plugin_is_gone(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "Ready=True although no plugin reconciled the object";
    rows.row("the plugin's files removed", before, bed::ROW, async |row| {
        row.keys_before(keys.len());
        for file in ["redis-cluster.wasm", "redis-cluster.yaml"] {
            std::fs::remove_file(story.plugins.join(file))?;
        }
        let look = || async {
            let ready = bed::condition(&story, "Ready")?;
            let is_unknown = ready.status == "Unknown";
            Ok(if is_unknown { Poll::There(ready) } else { Poll::NotYet(ready.to_string()) })
        };
        let (ready, took) = until("Ready to be Unknown", bed::TOLD, look).await?;
        row.saw(format!("{ready} after {:.1} s", took.as_secs_f64()));
        guests::install(&story.plugins, "redis-cluster", &guests::redis_cluster()?)?;
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!("Ready=True again {:.1} s after they were restored", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

/// 5c: another host takes over while the spec is invalid: it must know the last accepted spec.
pub(crate) async fn another_host_finds_the_accepted_spec(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut story, keys): (TestEnvironment, WrittenKeys) = bed::begin(redis).await?;
    story.watch().await?;
    let before = "nothing heals after the restart";
    rows.row(
        "a typing error, the host restarted, kill -9 of a primary",
        before,
        bed::ROW,
        async |row| {
            row.keys_before(keys.len());
            UnappliedChange::Typo.set(&story)?;
            let word = UnappliedChange::Typo.word();
            bed::condition_where(&story, word, |one| one.message.contains(word)).await?;
            story.restart()?;
            let (tag, primary) = bed::primary(&story, 0).await?;
            // A host that has just started must have polled every member.
            bed::at_peace(&story, bed::WELL).await?;
            story.settle(Duration::from_secs(1)).await?;
            story.writer()?.forget_outages();
            signal(primary.member.pid()?, "KILL")?;
            bed::restarted(&story, &primary, bed::WELL).await?;
            let outage = story.writer()?.outage(&tag)?;
            row.saw(format!("outage {:.2} s", outage.as_secs_f64()));
            ensure!(outage <= OUTAGE_MAX, "writes continued after {:.2} s", outage.as_secs_f64());
            UnappliedChange::Typo.undo(&story, &[])?;
            bed::well(&story, bed::WELL).await?;
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    bed::end(rows, story)
}
