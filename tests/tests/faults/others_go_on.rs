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
    fixture,
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
    const fn text(self) -> &'static str {
        match self {
            Self::Typo => "maxmemry",
            Self::NoSecret => "Secret",
            Self::NoOwner => "ConfigMap",
            Self::Refused => "refused by the test",
        }
    }

    fn apply_to(self, env: &TestEnvironment) -> Result<()> {
        match self {
            Self::Typo => fixture::patch(env, &json!({"spec": {"settings": {"maxmemry": "1gb"}}})),
            Self::NoSecret => env.kubectl.run(&["delete", "secret", "password"]).map(drop),
            Self::NoOwner => owned_config_maps(env)?.iter().try_for_each(|name| {
                fixture::patch_of(
                    env,
                    "configmap",
                    name,
                    &json!({"metadata": {"ownerReferences": null}}),
                )
            }),
            Self::Refused => {
                env.api_proxy()?.refuse(Some("poddisruptionbudgets"));
                let budget = format!("{}-shard-0", env.redis.name);
                env.kubectl.run(&["delete", "poddisruptionbudget", &budget]).map(drop)
            }
        }
    }

    /// Undoes the change; `maps` are the ConfigMaps that had an owner before.
    fn undo(self, env: &TestEnvironment, maps: &[String]) -> Result<()> {
        match self {
            Self::Typo => fixture::patch(env, &json!({"spec": {"settings": {"maxmemry": null}}})),
            Self::NoSecret => fixture::apply(env, &[env.redis.secret()]),
            Self::NoOwner => {
                let object = fixture::get(env, "rediscluster", env.redis.name)?;
                let uid = object.pointer("/metadata/uid").context("a uid")?;
                let owner = json!([{
                    "apiVersion": "redis.tholepin.dev/v1alpha1", "kind": "RedisCluster",
                    "name": env.redis.name, "uid": uid,
                    "controller": true, "blockOwnerDeletion": true,
                }]);
                let owned = json!({"metadata": {"ownerReferences": owner}});
                maps.iter().try_for_each(|name| fixture::patch_of(env, "configmap", name, &owned))
            }
            Self::Refused => {
                env.api_proxy()?.refuse(None);
                // A change of the object, so that it is reconciled immediately.
                fixture::annotate(env, "tests.tholepin.dev/looked=again")
            }
        }
    }
}

/// Returns the ConfigMaps that the plugin applied.
fn owned_config_maps(env: &TestEnvironment) -> Result<Vec<String>> {
    let list: Value =
        serde_json::from_str(&env.kubectl.run(&["get", "configmap", "-o", "json"])?)?;
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
pub(crate) async fn one_change_cannot_be_applied(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, _) = fixture::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    env.watch().await?;
    let before = "8.3 s by the cluster's vote and not 0.2; a deleted Pod never rejoined";
    for (round, change) in UnappliedChange::ALL.into_iter().enumerate() {
        let maps = owned_config_maps(&env)?;
        let is_green = rows
            .row(change.input(), before, fixture::ROW, async |row| {
                check_continues(row, &mut env, change, round, &maps).await
            })
            .await;
        if !is_green {
            // The deletion of the cluster may need what was deleted.
            change.undo(&env, &maps).ok();
            env.api_proxy()?.set(ApiLink::Clear);
            env.forget_writes().ok();
            fixture::recreate(&env).await?;
            env.watch().await?;
        }
    }
    fixture::end(rows, env)
}

async fn check_continues(
    row: &mut FaultRow,
    env: &mut TestEnvironment,
    change: UnappliedChange,
    round: usize,
    maps: &[String],
) -> Result<()> {
    let shards = env.redis.shards;
    let (tag, primary) = fixture::primary(env, round % shards).await?;
    // A Pod of another shard, so that no shard is without both members.
    let other = fixture::replicas(env, (round + 1) % shards).await?;
    let other = other.into_iter().next().context("a replica")?;
    fixture::until_shard_quiet(env, &primary).await?;
    change.apply_to(env)?;
    let condition = fixture::condition_where(env, change.text(), |condition| {
        condition.message.contains(change.text())
    })
    .await;
    let condition = condition.context("no condition reports the change")?;
    env.writer()?.forget_outages();
    signal(primary.server.pid()?, "KILL")?;
    fixture::restarted(env, &primary, fixture::HEAL_DEADLINE).await?;
    let outage = env.writer()?.outage(&tag)?;
    row.observed(format!("`{}`; outage {:.2} s", condition.reason, outage.as_secs_f64()));
    ensure!(outage <= OUTAGE_MAX, "writes continued after {:.2} s", outage.as_secs_f64());
    let other = now_or_another(env, other, shards, round).await?;
    env.kubectl.run(&["delete", "pod", &other.pod, "--wait=false"])?;
    let took = fixture::rejoined(env, &other, fixture::HEAL_DEADLINE).await?;
    row.observed(format!("the deleted Pod rejoined after {:.1} s", took.as_secs_f64()));
    change.undo(env, maps)?;
    fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
    written(row, env).await
}

/// Returns the same member if it is still a replica, else another replica of the shard: with one shard the
/// former replica is the primary now.
async fn now_or_another(
    env: &TestEnvironment,
    member: ClusterPod,
    shards: usize,
    round: usize,
) -> Result<ClusterPod> {
    let now = fixture::replicas(env, (round + 1) % shards).await?;
    let same = now.iter().find(|condition| condition.pod == member.pod);
    same.or(now.first()).cloned().context("a replica")
}

/// Compares the acknowledged writes with the existing keys, and starts a new writer.
async fn written(row: &mut FaultRow, env: &mut TestEnvironment) -> Result<()> {
    let report = env.take_writes()?;
    row.keys_before(report.acknowledged);
    row.keys_after(report.acknowledged - report.lost.len());
    env.watch_writes().await?;
    ensure!(report.lost.is_empty(), "{} acknowledged writes are lost", report.lost.len());
    Ok(())
}

/// 5b: without the plugin's files nothing heals the cluster, so the object must not report `Ready=True`.
pub(crate) async fn the_plugin_s_files_are_removed(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "Ready=True although no plugin reconciled the object";
    rows.row("the plugin's files removed", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        for file in ["redis-cluster.wasm", "redis-cluster.yaml"] {
            std::fs::remove_file(env.plugins.join(file))?;
        }
        let poll = || async {
            let ready = fixture::condition(&env, "Ready")?;
            let is_unknown = ready.status == "Unknown";
            Ok(if is_unknown { Poll::Done(ready) } else { Poll::NotYet(ready.to_string()) })
        };
        let (ready, took) = until("Ready to be Unknown", fixture::REPORT_DEADLINE, poll).await?;
        row.observed(format!("{ready} after {:.1} s", took.as_secs_f64()));
        guests::install(&env.plugins, "redis-cluster", &guests::redis_cluster()?)?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!(
            "Ready=True again {:.1} s after they were restored",
            took.as_secs_f64()
        ));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// 5c: another host takes over while the spec is invalid: it must know the last accepted spec.
pub(crate) async fn another_host_finds_the_accepted_spec(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, keys): (TestEnvironment, WrittenKeys) = fixture::begin(redis).await?;
    env.watch().await?;
    let before = "nothing heals after the restart";
    rows.row(
        "a typing error, the host restarted, kill -9 of a primary",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            UnappliedChange::Typo.apply_to(&env)?;
            let text = UnappliedChange::Typo.text();
            fixture::condition_where(&env, text, |condition| condition.message.contains(text))
                .await?;
            env.restart()?;
            let (tag, primary) = fixture::primary(&env, 0).await?;
            // A host that has just started must have polled every member.
            fixture::until_servers_healthy(&env, fixture::HEAL_DEADLINE).await?;
            env.settle(Duration::from_secs(1)).await?;
            env.writer()?.forget_outages();
            signal(primary.server.pid()?, "KILL")?;
            fixture::restarted(&env, &primary, fixture::HEAL_DEADLINE).await?;
            let outage = env.writer()?.outage(&tag)?;
            row.observed(format!("outage {:.2} s", outage.as_secs_f64()));
            ensure!(outage <= OUTAGE_MAX, "writes continued after {:.2} s", outage.as_secs_f64());
            UnappliedChange::Typo.undo(&env, &[])?;
            fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}
