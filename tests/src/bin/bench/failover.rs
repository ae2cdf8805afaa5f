//! How long a shard cannot be written after the death of its primary's process: with the host, and as
//! Redis does it alone.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::Client;
use redis::{Cmd, InfoDict, cmd};
use serde_json::json;
use tests::{
    cluster::LocalClusterProcess,
    guests,
    kubectl::Kubectl,
    process::signal,
    redis_cluster::{NAMESPACE, PASSWORD, RedisCluster},
    router::ClusterClient,
    wait::{Poll, until},
};

use crate::table::{BenchRow, say};

/// How many kills are measured with the host, and without it.
const KILLS: usize = 10;
const KILLS_ALONE: usize = 3;
/// After this a shard is given up.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// After this a cluster that is not well is given up.
const WELL_MAX: Duration = Duration::from_secs(60);
/// How long a writer that was refused waits.
const PAUSE: Duration = Duration::from_millis(2);
/// After this no more kills are begun; the table says how many there were.
const BUDGET: Duration = Duration::from_secs(150);
const GOAL_MS: f64 = 500.0;
const REDIS: RedisCluster = RedisCluster::USUAL;

/// A RedisCluster with what is needed to ask for it.
struct FailoverBench {
    cluster: LocalClusterProcess,
    kubectl: Kubectl,
    client: Client,
    /// When the cluster was made, or when a primary was killed last.
    disturbed: Instant,
}

/// Kills primaries of a cluster with this node timeout, shard after shard.
pub(crate) async fn measure(node_timeout_ms: u64) -> Result<[BenchRow; 2]> {
    say(&format!("failover at node timeout {node_timeout_ms} ms"));
    let cluster = LocalClusterProcess::start()?;
    let (kubectl, client) = (cluster.kubectl()?, cluster.client().await?);
    guests::install(&cluster.plugins()?, "redis-cluster", &guests::redis_cluster()?)?;
    let mut host = cluster.host()?;
    let mut bench = FailoverBench { cluster, kubectl, client, disturbed: Instant::now() };
    bench.create(node_timeout_ms).await?;
    bench.well().await?;
    bench.disturbed = Instant::now();
    let spread = Duration::from_millis(2 * node_timeout_ms + 1000);
    let healed = bench.kills(KILLS, spread, true).await?;
    bench.well().await?;
    host.end()?;
    let alone = bench.kills(KILLS_ALONE, spread, false).await?;
    bench.cluster.process.end()?;
    let name = |who| format!("failover at {node_timeout_ms} ms, {who}");
    let alone = BenchRow::ms(name("Redis alone"), &alone);
    Ok([
        BenchRow::ms(name("with host"), &healed).goal(GOAL_MS).beside("Redis alone", &alone),
        alone,
    ])
}

impl FailoverBench {
    /// Kills this many primaries, the shards in turn, each `spread` after what disturbed the cluster last:
    /// the guard of a failover wants a shard that was quiet for so long. Where somebody heals, each
    /// round over the shards begins when all is well.
    async fn kills(
        &mut self,
        count: usize,
        spread: Duration,
        heals: bool,
    ) -> Result<Vec<Duration>> {
        let entry = REDIS.entry(&self.client).await?;
        let tags = REDIS.tags();
        let begun = Instant::now();
        let mut outages = Vec::new();
        for (number, tag) in tags.iter().cycle().take(count).enumerate() {
            if BUDGET < begun.elapsed() {
                break;
            }
            if heals && number % tags.len() == 0 {
                self.well().await?;
            }
            tokio::time::sleep(spread.saturating_sub(self.disturbed.elapsed())).await;
            let outage = kill(&entry, tag)?;
            say(&format!("  {tag}: {:.0} ms", outage.as_secs_f64() * 1000.0));
            outages.push(outage);
            self.disturbed = Instant::now();
        }
        Ok(outages)
    }

    async fn well(&self) -> Result<()> {
        let look = || async { Ok(Poll::There(REDIS.well(&self.kubectl, &self.client).await?)) };
        until(format!("{} to be well", REDIS.name), WELL_MAX, look).await.map(drop)
    }

    async fn create(&self, node_timeout_ms: u64) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "password", "namespace": NAMESPACE},
            "stringData": {"password": PASSWORD},
        });
        let object = json!({
            "apiVersion": "redis.tholepin.dev/v1alpha1",
            "kind": "RedisCluster",
            "metadata": {"name": REDIS.name, "namespace": NAMESPACE},
            "spec": {
                "shards": REDIS.shards,
                "replicasPerShard": REDIS.replicas,
                "image": "redis:7.0",
                "auth": {"secretName": "password", "key": "password"},
                "failover": {"nodeTimeoutMs": node_timeout_ms},
            },
        });
        let stream = format!("{secret}\n---\n{object}\n");
        let apply = || async {
            let arguments = ["apply", "--server-side", "-f", "-"];
            Ok(Poll::There(self.kubectl.run_with(&arguments, &stream)?))
        };
        // The CRD comes with the plugin.
        until("the RedisCluster to be taken", WELL_MAX, apply).await.map(drop)
    }
}

/// Kills the process of the primary to which keys with this tag belong, and writes until that succeeds.
fn kill(entry: &str, tag: &str) -> Result<Duration> {
    let mut router = ClusterClient::new(entry, Some(PASSWORD));
    let write = cmd("SET").arg(format!("{{{tag}}}bench")).arg("x").to_owned();
    written(&mut router, tag, &write)?;
    // The server that took the write is the one that is asked.
    let info: InfoDict = router.send(tag, cmd("INFO").arg("server"))?;
    let pid: u32 = info.get("process_id").context("INFO names the process")?;
    let start = Instant::now();
    signal(pid, "KILL")?;
    written(&mut router, tag, &write)?;
    Ok(start.elapsed())
}

/// Writes until that succeeds.
fn written(router: &mut ClusterClient, tag: &str, write: &Cmd) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = router.send::<()>(tag, write) {
        let waited = start.elapsed();
        ensure!(waited < WRITE_MAX, "no write to {tag} for {waited:?}: {error:#}");
        thread::sleep(PAUSE);
    }
    Ok(())
}
