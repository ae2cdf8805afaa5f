//! How long a shard cannot be written after its primary's process was killed: with the host, and by the vote of
//! the Redis Cluster alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    wait::{Poll, elapse, until, until_blocking},
};

use crate::table::{BenchRow, print_line};

/// How many kills are measured with the host, and without it.
const KILLS: usize = 10;
const KILLS_ALONE: usize = 3;
/// How long a shard may be unwritable before the measurement is given up.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How long a cluster may take to be healthy before the measurement is given up.
const HEALTHY_MAX: Duration = Duration::from_secs(60);
/// The pause after a refused write.
const PAUSE: Duration = Duration::from_millis(2);
/// After this time no further kill is started; the table shows how many there were.
const BUDGET: Duration = Duration::from_secs(150);
const GOAL_MS: f64 = 500.0;
const REDIS: RedisCluster = RedisCluster::USUAL;

/// A RedisCluster and the clients to use it.
struct FailoverBench {
    cluster: LocalClusterProcess,
    kubectl: Kubectl,
    client: Client,
    /// When the cluster was created, or when a primary was last killed.
    disturbed: Instant,
}

/// Kills primaries of a cluster with this node timeout, one shard after the other.
pub(crate) async fn measure(node_timeout_ms: u64) -> Result<[BenchRow; 2]> {
    print_line(&format!("failover at node timeout {node_timeout_ms} ms"));
    let cluster = LocalClusterProcess::start()?;
    let (kubectl, client) = (cluster.kubectl()?, cluster.client().await?);
    guests::install(&cluster.plugins()?, "redis-cluster", &guests::redis_cluster()?)?;
    let mut host = cluster.host()?;
    let mut bench = FailoverBench { cluster, kubectl, client, disturbed: Instant::now() };
    bench.create(node_timeout_ms).await?;
    bench.until_healthy().await?;
    bench.disturbed = Instant::now();
    let spread = Duration::from_millis(2 * node_timeout_ms + 1000);
    let healed = bench.kills(KILLS, spread, true).await?;
    bench.until_healthy().await?;
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
    /// Kills this many primaries, the shards in turn, each `spread` after the last disturbance of the cluster: the
    /// host fails over only in a shard that was quiet for so long. If a host heals the cluster, each round over
    /// the shards begins when the cluster is healthy.
    async fn kills(
        &mut self,
        count: usize,
        spread: Duration,
        heals: bool,
    ) -> Result<Vec<Duration>> {
        let entry = REDIS.entry(&self.client).await?;
        let tags = REDIS.tags();
        let start = Instant::now();
        let mut outages = Vec::new();
        for (number, tag) in tags.iter().cycle().take(count).enumerate() {
            if BUDGET < start.elapsed() {
                break;
            }
            if heals && number % tags.len() == 0 {
                self.until_healthy().await?;
            }
            elapse(spread.saturating_sub(self.disturbed.elapsed())).await;
            let outage = kill_and_write(&entry, tag)?;
            print_line(&format!("  {tag}: {:.0} ms", outage.as_secs_f64() * 1000.0));
            outages.push(outage);
            self.disturbed = Instant::now();
        }
        Ok(outages)
    }

    async fn until_healthy(&self) -> Result<()> {
        let poll =
            || async { Ok(Poll::Done(REDIS.check_healthy(&self.kubectl, &self.client).await?)) };
        until(format!("{} to be healthy", REDIS.name), HEALTHY_MAX, poll).await.map(drop)
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
            Ok(Poll::Done(self.kubectl.run_with(&arguments, &stream)?))
        };
        // The CRD is installed with the plugin.
        until("the RedisCluster to be accepted", HEALTHY_MAX, apply).await.map(drop)
    }
}

/// Kills the primary that serves keys with this tag, and writes until a write succeeds; returns how long that took.
fn kill_and_write(entry: &str, tag: &str) -> Result<Duration> {
    let mut router = ClusterClient::new(entry, Some(PASSWORD));
    let write = cmd("SET").arg(format!("{{{tag}}}bench")).arg("x").to_owned();
    write_until_done(&mut router, tag, &write)?;
    // The reply comes from the server that accepted the write.
    let info: InfoDict = router.send(tag, cmd("INFO").arg("server"))?;
    let pid: u32 = info.get("process_id").context("INFO has no process_id")?;
    let start = Instant::now();
    signal(pid, "KILL")?;
    write_until_done(&mut router, tag, &write)?;
    Ok(start.elapsed())
}

/// Repeats a write until it succeeds.
fn write_until_done(router: &mut ClusterClient, tag: &str, write: &Cmd) -> Result<()> {
    let poll = || Ok(Poll::Done(router.send::<()>(tag, write)?));
    until_blocking(PAUSE, format!("a write of {tag}"), WRITE_MAX, poll).map(drop)
}
