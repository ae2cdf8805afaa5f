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
    wait::{Poll, until, until_every},
};

use crate::{
    ScenarioResult,
    basics::deleted,
    healing::{healed, primary},
    print_line,
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
    fn record(&mut self, what: impl fmt::Display, took: Duration) {
        self.steps += 1;
        self.slowest = self.slowest.max(took);
        print_line(&format!(
            "  {what} → same end, healthy {:.1} s after the restart",
            took.as_secs_f64()
        ));
    }

    /// Creates the cluster once more with the oracles, and judges them.
    async fn judge(self, mut env: TestEnvironment) -> Result<ScenarioResult> {
        env.redis.create(&env.kubectl)?;
        env.until_healthy().await?;
        env.watch().await?;
        let report = env.end(QUIET).await?;
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
async fn was_killed(mut was_killed: tokio::sync::watch::Receiver<bool>) -> bool {
    let wait =
        tokio::time::timeout(WRITE_DEADLINE, was_killed.wait_for(|was_killed| *was_killed)).await;
    wait.is_ok_and(|was_killed| was_killed.is_ok())
}

/// Waits until the state equals that of an undisturbed run; returns how long the cluster took to be healthy.
async fn same_end(env: &TestEnvironment, expected: &BTreeMap<String, Value>) -> Result<Duration> {
    let (_, took) = env.until_healthy().await?;
    let poll = || async {
        let differences = differences(expected, &shape(&env.client, NAMESPACE).await?);
        Ok(if differences.is_empty() {
            Poll::Done(())
        } else {
            Poll::NotYet(differences.join("; "))
        })
    };
    // The last writes come a moment after the cluster is healthy.
    until("the same end", GIVE_UP, poll).await?;
    Ok(took)
}

async fn creation(moment: KillMoment) -> Result<ScenarioResult> {
    let mut env = TestEnvironment::begin_by(ApiAccess::Proxied, SMALL, &[], "").await?;
    // The first cluster gives the expected state. The writes are counted for a second one, because the host
    // discovers kinds only once.
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    env.settle(Duration::from_secs(1)).await?;
    let expected = shape(&env.client, NAMESPACE).await?;
    deleted(&env).await?;
    env.api_proxy()?.take_writes();
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    env.settle(Duration::from_secs(1)).await?;
    let writes = env.api_proxy()?.take_writes();
    deleted(&env).await?;

    let mut table = FormedTopology::default();
    for (index, write) in writes.iter().enumerate() {
        let step = index + 1;
        let seen = env.api_proxy()?.kill_at(step, moment, env.host.pid());
        env.redis.create(&env.kubectl)?;
        let write = if was_killed(seen).await {
            let now = env.api_proxy()?.take_writes();
            now.last().cloned().unwrap_or_default()
        } else {
            format!("(fewer writes this time; without a kill: {write})")
        };
        env.api_proxy()?.cancel_kill();
        env.restart()?;
        let took = same_end(&env, &expected).await;
        let took = took.with_context(|| format!("killed {moment} write {step}, {write}"))?;
        table.record(format_args!("{step:>2} {moment} {write}"), took);
        deleted(&env).await?;
    }
    table.judge(env).await
}

async fn heal(moment: KillMoment) -> Result<ScenarioResult> {
    let mut env =
        TestEnvironment::begin_by(ApiAccess::Proxied, RedisCluster::USUAL, &[], "").await?;
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    env.watch().await?;
    let expected = shape(&env.client, NAMESPACE).await?;
    env.api_proxy()?.take_writes();
    let (_, died) = primary(&env, 0).await?;
    kill_pod(&env, &died.pod)?;
    healed(&env, &died).await?;
    env.settle(Duration::from_secs(1)).await?;
    let writes = env.api_proxy()?.take_writes();

    let mut table = FormedTopology::default();
    for (index, write) in writes.iter().enumerate() {
        let step = index + 1;
        // Another shard each time, so that no shard has just failed over.
        let (_, died) = primary(&env, step % 3).await?;
        let seen = env.api_proxy()?.kill_at(step, moment, env.host.pid());
        kill_pod(&env, &died.pod)?;
        let write = if was_killed(seen).await {
            let now = env.api_proxy()?.take_writes();
            now.last().cloned().unwrap_or_default()
        } else {
            format!("(fewer writes this time; in the first run: {write})")
        };
        env.api_proxy()?.cancel_kill();
        env.restart()?;
        let start = Instant::now();
        let end = async {
            healed(&env, &died).await?;
            let took = start.elapsed();
            same_end(&env, &expected).await?;
            anyhow::Ok(took)
        };
        let took = end.await;
        let took = took.with_context(|| format!("killed {moment} write {step}, {write}"))?;
        table.record(format_args!("{step:>2} {moment} {write}"), took);
        env.settle(Duration::from_secs(1)).await?;
    }
    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("slowest of all steps", table.slowest, BOUND_S, &report);
    Ok(outcome.note(format!("{} steps, each with the same end", table.steps)))
}

fn kill_pod(env: &TestEnvironment, pod: &str) -> Result<()> {
    let kill = ["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"];
    env.kubectl.run(&kill).map(drop)
}

/// K5: as soon as each write of a creation is seen in Redis.
pub(crate) async fn at_each_write_to_redis() -> Result<ScenarioResult> {
    let redis = RedisCluster { shards: 2, replicas: 1, ..RedisCluster::USUAL };
    let mut env = TestEnvironment::begin(redis, &[], "").await?;
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    env.settle(Duration::from_secs(1)).await?;
    let expected = shape(&env.client, NAMESPACE).await?;
    let mut counts = CommandCounts::default();
    counts.learn(&env).await?;
    let total = counts.read();
    ensure!(0 < total, "no write was seen in Redis");
    deleted(&env).await?;

    let mut table = FormedTopology::default();
    for step in 1..=total {
        env.redis.create(&env.kubectl)?;
        let seen = CommandCounts::until(&env, step).await?;
        signal(env.host.pid(), "KILL")?;
        env.restart()?;
        let took = same_end(&env, &expected).await;
        let took = took.with_context(|| format!("killed at write {step} to Redis, {seen}"))?;
        table.record(format_args!("{step:>2} of {total}, {seen}"), took);
        deleted(&env).await?;
    }
    table.judge(env).await
}

/// How many commands that change the cluster each server has run, by the servers' own counts.
#[derive(Default)]
struct CommandCounts {
    servers: BTreeMap<String, Connection>,
    by_verb: BTreeMap<String, u64>,
}

impl CommandCounts {
    /// Connects to the servers of the present Pods.
    async fn learn(&mut self, env: &TestEnvironment) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(env.client.clone(), NAMESPACE);
        let selector = format!("redis.tholepin.dev/cluster={}", env.redis.name);
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
    fn read(&mut self) -> u64 {
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
    async fn until(env: &TestEnvironment, count: u64) -> Result<String> {
        let mut counts = Self::default();
        let mut learnt = None;
        let poll = async || -> Result<Poll<String>> {
            if learnt.is_none_or(|at: Instant| Duration::from_millis(100) < at.elapsed()) {
                counts.learn(env).await?;
                learnt = Some(Instant::now());
            }
            let seen = counts.read();
            if seen < count {
                return Ok(Poll::NotYet(format!("{seen} of {count}")));
            }
            let verbs = counts.by_verb.iter().map(|(verb, calls)| format!("{calls} {verb}"));
            let verbs: Vec<_> = verbs.collect();
            Ok(Poll::Done(format!("{seen} were done by then ({})", verbs.join(", "))))
        };
        Ok(until_every(PAUSE, "the writes to Redis", GIVE_UP, poll).await?.0)
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
