//! The host is killed at every write, one after the other, and restarted: the end state must be the same as
//! without a kill.
//!
//! Writes to Kubernetes are counted by a proxy between the host and the API server, which kills the host
//! exactly before or after it forwards one. Writes to Redis do not pass a proxy. There the servers' command
//! counts are polled, so the host is killed as soon as the n-th write is *seen*; the table prints how many
//! writes were done by then.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use redis::{Connection, cmd};
use serde_json::Value;
use tests::{
    api_proxy::KillMoment,
    environment::{ApiAccess, GIVE_UP, QUIET, TestEnvironment},
    oracle::{differences, shape},
    process::signal,
    redis_cluster::{NAMESPACE, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::{
    ScenarioResult,
    basics::deleted,
    healing::{healed, primary},
    say,
};

/// The smallest cluster whose creation needs every kind of write.
const SMALL: RedisCluster = RedisCluster { shards: 1, replicas: 1, ..RedisCluster::USUAL };
/// How long a step's write may take to come; a run may have fewer writes than the run without a kill.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// The pause between two polls of the servers' counts.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it may take until the cluster is healthy after the host's restart.
const BOUND_S: f64 = 15.0;

/// The number of finished steps and the slowest of them.
#[derive(Default)]
struct FormedTopology {
    steps: usize,
    slowest: Duration,
}

impl FormedTopology {
    /// Records and prints a step that reached the same end.
    fn row(&mut self, what: impl fmt::Display, took: Duration) {
        self.steps += 1;
        self.slowest = self.slowest.max(took);
        say(&format!("  {what} → same end, healthy {:.1} s after the restart", took.as_secs_f64()));
    }

    /// Creates the cluster once more with the oracles, and judges them.
    async fn judged(self, mut story: TestEnvironment) -> Result<ScenarioResult> {
        story.redis.create(&story.kubectl)?;
        story.well().await?;
        story.watch().await?;
        let report = story.end(QUIET).await?;
        let outcome = ScenarioResult::new("slowest of all steps", self.slowest, BOUND_S, &report);
        Ok(outcome.note(format!("{} steps, each with the same end", self.steps)))
    }
}

/// K1: right after each write of a creation, before the host gets the response.
pub(crate) async fn after_each_write_of_a_creation() -> Result<ScenarioResult> {
    creation(KillMoment::After).await
}

/// K2: right before each write of a creation.
pub(crate) async fn before_each_write_of_a_creation() -> Result<ScenarioResult> {
    creation(KillMoment::Before).await
}

/// K3: right after each write of a heal.
pub(crate) async fn after_each_write_of_a_heal() -> Result<ScenarioResult> {
    heal(KillMoment::After).await
}

/// K4: right before each write of a heal.
pub(crate) async fn before_each_write_of_a_heal() -> Result<ScenarioResult> {
    heal(KillMoment::Before).await
}

/// Waits until the host was killed; returns false if the write did not come within the deadline.
async fn sprung(mut sprung: tokio::sync::watch::Receiver<bool>) -> bool {
    let wait = tokio::time::timeout(WRITE_DEADLINE, sprung.wait_for(|sprung| *sprung)).await;
    wait.is_ok_and(|sprung| sprung.is_ok())
}

/// Waits until the state equals that of an undisturbed run; returns how long the cluster took to be healthy.
async fn same_end(story: &TestEnvironment, wanted: &BTreeMap<String, Value>) -> Result<Duration> {
    let (_, took) = story.well().await?;
    let look = || async {
        let differences = differences(wanted, &shape(&story.client, NAMESPACE).await?);
        Ok(if differences.is_empty() {
            Poll::There(())
        } else {
            Poll::NotYet(differences.join("; "))
        })
    };
    // The last writes come a moment after the cluster is healthy.
    until("the same end", GIVE_UP, look).await?;
    Ok(took)
}

async fn creation(moment: KillMoment) -> Result<ScenarioResult> {
    let mut story = TestEnvironment::begin_by(ApiAccess::Proxied, SMALL, &[], "").await?;
    // The first cluster gives the expected state. The writes are counted for a second one, because the host
    // discovers kinds only once.
    story.redis.create(&story.kubectl)?;
    story.well().await?;
    story.settle(Duration::from_secs(1)).await?;
    let wanted = shape(&story.client, NAMESPACE).await?;
    deleted(&story).await?;
    story.road()?.take_writes();
    story.redis.create(&story.kubectl)?;
    story.well().await?;
    story.settle(Duration::from_secs(1)).await?;
    let writes = story.road()?.take_writes();
    deleted(&story).await?;

    let mut table = FormedTopology::default();
    for (index, write) in writes.iter().enumerate() {
        let step = index + 1;
        let seen = story.road()?.kill_at(step, moment, story.host.pid());
        story.redis.create(&story.kubectl)?;
        let write = if sprung(seen).await {
            let now = story.road()?.take_writes();
            now.last().cloned().unwrap_or_default()
        } else {
            format!("(fewer writes this time; without a kill: {write})")
        };
        story.road()?.spare();
        story.restart()?;
        let took = same_end(&story, &wanted).await;
        let took = took.with_context(|| format!("killed {moment} write {step}, {write}"))?;
        table.row(format_args!("{step:>2} {moment} {write}"), took);
        deleted(&story).await?;
    }
    table.judged(story).await
}

async fn heal(moment: KillMoment) -> Result<ScenarioResult> {
    let mut story =
        TestEnvironment::begin_by(ApiAccess::Proxied, RedisCluster::USUAL, &[], "").await?;
    story.redis.create(&story.kubectl)?;
    story.well().await?;
    story.watch().await?;
    let wanted = shape(&story.client, NAMESPACE).await?;
    story.road()?.take_writes();
    let (_, died) = primary(&story, 0).await?;
    kill_pod(&story, &died.pod)?;
    healed(&story, &died).await?;
    story.settle(Duration::from_secs(1)).await?;
    let writes = story.road()?.take_writes();

    let mut table = FormedTopology::default();
    for (index, write) in writes.iter().enumerate() {
        let step = index + 1;
        // Another shard each time, so that no shard has just failed over.
        let (_, died) = primary(&story, step % 3).await?;
        let seen = story.road()?.kill_at(step, moment, story.host.pid());
        kill_pod(&story, &died.pod)?;
        let write = if sprung(seen).await {
            let now = story.road()?.take_writes();
            now.last().cloned().unwrap_or_default()
        } else {
            format!("(fewer writes this time; in the first run: {write})")
        };
        story.road()?.spare();
        story.restart()?;
        let start = Instant::now();
        let end = async {
            healed(&story, &died).await?;
            let took = start.elapsed();
            same_end(&story, &wanted).await?;
            anyhow::Ok(took)
        };
        let took = end.await;
        let took = took.with_context(|| format!("killed {moment} write {step}, {write}"))?;
        table.row(format_args!("{step:>2} {moment} {write}"), took);
        story.settle(Duration::from_secs(1)).await?;
    }
    let report = story.end(QUIET).await?;
    let outcome = ScenarioResult::new("slowest of all steps", table.slowest, BOUND_S, &report);
    Ok(outcome.note(format!("{} steps, each with the same end", table.steps)))
}

fn kill_pod(story: &TestEnvironment, pod: &str) -> Result<()> {
    let kill = ["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"];
    story.kubectl.run(&kill).map(drop)
}

/// K5: as soon as each write of a creation is seen in Redis.
pub(crate) async fn at_each_write_to_redis() -> Result<ScenarioResult> {
    let redis = RedisCluster { shards: 2, replicas: 1, ..RedisCluster::USUAL };
    let mut story = TestEnvironment::begin(redis, &[], "").await?;
    story.redis.create(&story.kubectl)?;
    story.well().await?;
    story.settle(Duration::from_secs(1)).await?;
    let wanted = shape(&story.client, NAMESPACE).await?;
    let mut counts = CommandCounts::default();
    counts.learn(&story).await?;
    let total = counts.look();
    ensure!(0 < total, "no write was seen in Redis");
    deleted(&story).await?;

    let mut table = FormedTopology::default();
    for step in 1..=total {
        story.redis.create(&story.kubectl)?;
        let seen = CommandCounts::until(&story, step).await?;
        signal(story.host.pid(), "KILL")?;
        story.restart()?;
        let took = same_end(&story, &wanted).await;
        let took = took.with_context(|| format!("killed at write {step} to Redis, {seen}"))?;
        table.row(format_args!("{step:>2} of {total}, {seen}"), took);
        deleted(&story).await?;
    }
    table.judged(story).await
}

/// How many commands that change the cluster each server has run, by the servers' own counts.
#[derive(Default)]
struct CommandCounts {
    servers: BTreeMap<String, Connection>,
    by_verb: BTreeMap<String, u64>,
}

impl CommandCounts {
    /// Connects to the servers of the present Pods.
    async fn learn(&mut self, story: &TestEnvironment) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(story.client.clone(), NAMESPACE);
        let selector = format!("redis.tholepin.dev/cluster={}", story.redis.name);
        for pod in pods.list(&ListParams::default().labels(&selector)).await? {
            let Some(ip) = pod.status.and_then(|status| status.pod_ip) else { continue };
            let address = format!("{ip}:6379");
            if !self.servers.contains_key(&address)
                && let Ok(connection) = connect(&address, Some(PASSWORD))
            {
                self.servers.insert(address, connection);
            }
        }
        Ok(())
    }

    /// Reads the counts; returns the number of writes of all servers.
    fn look(&mut self) -> u64 {
        self.by_verb.clear();
        for server in self.servers.values_mut() {
            let stats: String = cmd("INFO").arg("commandstats").query(server).unwrap_or_default();
            for (verb, calls) in stats.lines().filter_map(write) {
                *self.by_verb.entry(verb.to_owned()).or_default() += calls;
            }
        }
        self.by_verb.values().sum()
    }

    /// Waits until there were this many writes; returns the counts as text.
    async fn until(story: &TestEnvironment, count: u64) -> Result<String> {
        let mut counts = Self::default();
        let start = Instant::now();
        let mut learnt = None;
        loop {
            if learnt.is_none_or(|at: Instant| Duration::from_millis(100) < at.elapsed()) {
                counts.learn(story).await?;
                learnt = Some(Instant::now());
            }
            let seen = counts.look();
            if count <= seen {
                let verbs = counts.by_verb.iter().map(|(verb, calls)| format!("{calls} {verb}"));
                let verbs: Vec<_> = verbs.collect();
                return Ok(format!("{seen} were done by then ({})", verbs.join(", ")));
            }
            ensure!(start.elapsed() < GIVE_UP, "{seen} of {count} writes were seen");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Parses a line of `INFO commandstats` about a command that changes the cluster.
fn write(line: &str) -> Option<(&str, u64)> {
    const VERBS: &[&str] = &[
        "meet",
        "addslots",
        "addslotsrange",
        "replicate",
        "set-config-epoch",
        "failover",
        "forget",
    ];
    let (verb, rest) = line.strip_prefix("cmdstat_cluster|")?.split_once(":calls=")?;
    let calls = rest.split(',').next()?.parse().ok()?;
    VERBS.contains(&verb).then_some((verb, calls))
}
