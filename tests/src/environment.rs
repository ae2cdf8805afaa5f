//! The environment of one scenario: its processes, and the four oracles that judge it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::{Value, json};

use crate::{
    api_proxy::{ApiLink, ApiProxy},
    cluster::{HostOptions, LocalClusterProcess},
    guests,
    kubectl::Kubectl,
    oracle::{Invariants, UNSERVED_MAX, Writer, WriterReport, differences, quiet, shape},
    process::{Process, tail},
    redis_cluster::{ClusterPod, NAMESPACE, RedisCluster},
    wait::{Poll, elapse_blocking, until},
};

/// How long to wait for a state before a scenario is given up. Bounds are much shorter and are checked
/// afterwards, so that a slow scenario can be distinguished from one that never converges.
pub const GIVE_UP: Duration = Duration::from_secs(90);
/// For how long nothing may change after a scenario.
pub const QUIET: Duration = Duration::from_secs(3);
/// How long the last writes of a change may take after the cluster is healthy.
const SETTLE: Duration = Duration::from_secs(8);

/// A running scenario. All processes that it started end when it is dropped. If the scenario did not reach
/// its end, dropping it prints the ends of the logs.
pub struct TestEnvironment {
    /// The host. It is declared before `cluster`, so that it ends first.
    pub host: Process,
    /// A client with the administrator's kubeconfig.
    pub client: Client,
    /// A kubectl with the administrator's kubeconfig.
    pub kubectl: Kubectl,
    /// The plugin directory.
    pub plugins: PathBuf,
    /// The RedisCluster under test.
    pub redis: RedisCluster,
    /// The local cluster. It is declared last of the processes, so that its directory is deleted last.
    pub cluster: LocalClusterProcess,
    /// The proxy between the host and the API server, if the scenario has one.
    pub proxy: Option<ApiProxy>,
    setup: HostOptions,
    watch: Option<RunningOracles>,
    has_ended: bool,
}

/// How the host reaches the API server.
#[derive(Clone, Debug)]
pub enum ApiAccess {
    /// Directly, with these options.
    Direct(HostOptions),
    /// Through an [`ApiProxy`].
    Proxied,
}

/// The oracles that run during the scenario, and the state that must be reached again at its end.
struct RunningOracles {
    writer: Option<Writer>,
    invariants: Invariants,
    expected: BTreeMap<String, Value>,
}

impl TestEnvironment {
    /// Starts a cluster, creates these objects (YAML), and starts a host with the plugin `redis-cluster` and
    /// these other plugins.
    ///
    /// # Errors
    ///
    /// Fails if the cluster, the host or a plugin does not become ready.
    pub async fn begin(
        redis: RedisCluster,
        others: &[(&str, Vec<u8>)],
        objects: &str,
    ) -> Result<Self> {
        Self::begin_by(ApiAccess::Direct(HostOptions::default()), redis, others, objects).await
    }

    /// Does the same as [`begin`](Self::begin), with a host that reaches the API server in the given way.
    ///
    /// # Errors
    ///
    /// Fails if the cluster, the host or a plugin does not become ready.
    pub async fn begin_by(
        access: ApiAccess,
        redis: RedisCluster,
        others: &[(&str, Vec<u8>)],
        objects: &str,
    ) -> Result<Self> {
        let component = guests::redis_cluster()?;
        let cluster = LocalClusterProcess::start()?;
        let (kubectl, client) = (cluster.kubectl()?, cluster.client().await?);
        if !objects.is_empty() {
            kubectl.run_with(&["apply", "--server-side", "-f", "-"], objects)?;
        }
        let plugins = cluster.plugins()?;
        let own = ("redis-cluster", component);
        for (name, component) in std::iter::once(&own).chain(others) {
            fs::write(plugins.join(format!("{name}.wasm")), component)?;
            fs::write(plugins.join(format!("{name}.yaml")), guests::settings(name))?;
        }
        let (proxy, setup) = match access {
            ApiAccess::Direct(setup) => (None, setup),
            ApiAccess::Proxied => {
                let proxy = ApiProxy::start(cluster.kubeconfig(), cluster.directory()).await?;
                let kubeconfig = Some(proxy.kubeconfig().to_owned());
                (Some(proxy), HostOptions { kubeconfig, ..HostOptions::default() })
            }
        };
        let host = cluster.host_with(&setup)?;
        let env = Self {
            host,
            client,
            kubectl,
            plugins,
            redis,
            cluster,
            proxy,
            setup,
            watch: None,
            has_ended: false,
        };
        env.until_active("redis-cluster").await?;
        for (name, _) in others {
            env.until_active(name).await?;
        }
        Ok(env)
    }

    /// Starts with a healthy RedisCluster and running oracles.
    ///
    /// # Errors
    ///
    /// Fails if the cluster does not become healthy.
    pub async fn with_redis(redis: RedisCluster) -> Result<Self> {
        let mut env = Self::begin(redis, &[], "").await?;
        env.redis.create(&env.kubectl)?;
        env.until_healthy().await?;
        env.watch().await?;
        Ok(env)
    }

    /// Returns the proxy between the host and the API server.
    ///
    /// # Errors
    ///
    /// Fails in a scenario without a proxy.
    pub fn api_proxy(&self) -> Result<&ApiProxy> {
        self.proxy.as_ref().context("this scenario has no API proxy")
    }

    /// Kills the host if it still runs, and starts it again; returns how long that took.
    ///
    /// # Errors
    ///
    /// Fails if the host does not become ready.
    pub fn restart(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.host.kill()?;
        self.host = self.cluster.host_with(&self.setup)?;
        Ok(start.elapsed())
    }

    /// Kills the host and starts it again while the link to the API server is down; restores the link at `until`.
    ///
    /// # Errors
    ///
    /// Fails if the host does not become ready, or in a scenario without a proxy.
    pub fn restart_while_away(&mut self, until: Instant) -> Result<()> {
        self.host.kill()?;
        let (api_proxy, cluster, setup) = (self.api_proxy()?, &self.cluster, &self.setup);
        let host = thread::scope(|scope| {
            scope.spawn(|| {
                elapse_blocking(until.saturating_duration_since(Instant::now()));
                api_proxy.set(ApiLink::Clear);
            });
            cluster.host_with(setup)
        })?;
        self.host = host;
        Ok(())
    }

    /// Returns the host's log since its last start.
    ///
    /// # Errors
    ///
    /// Fails if the log cannot be read.
    pub fn host_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.cluster.directory().join("host.log"))?)
    }

    /// Puts a file into the plugin directory by a rename.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn put(&self, file: &str, bytes: &[u8]) -> Result<()> {
        guests::put(&self.plugins, file, bytes)
    }

    /// Reads a `Plugin` object.
    ///
    /// # Errors
    ///
    /// Fails if it does not exist.
    pub fn plugin(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl.run(&["get", "plugin", name, "-o", "json"])?)?)
    }

    async fn until_active(&self, name: &str) -> Result<()> {
        let poll = || async {
            let plugin = self.plugin(name)?;
            let until_active =
                plugin.pointer("/status/stage").is_some_and(|stage| stage == "Active");
            Ok(if until_active { Poll::Done(()) } else { Poll::NotYet(plugin.to_string()) })
        };
        until(format!("plugin {name} to be active"), GIVE_UP, poll).await.map(drop)
    }

    /// Waits until the RedisCluster is healthy; returns its members and how long that took.
    ///
    /// # Errors
    ///
    /// Fails at the deadline with what was not healthy.
    pub async fn until_healthy(&self) -> Result<(Vec<ClusterPod>, Duration)> {
        let poll = || async {
            Ok(Poll::Done(self.redis.check_healthy(&self.kubectl, &self.client).await?))
        };
        until(format!("{} to be healthy", self.redis.name), GIVE_UP, poll).await
    }

    /// Starts the oracles on a healthy RedisCluster, and records its present state as the one that must be
    /// reached again.
    ///
    /// # Errors
    ///
    /// Fails if the cluster cannot be written to.
    pub async fn watch(&mut self) -> Result<()> {
        self.watch_with(UNSERVED_MAX).await
    }

    /// Does the same as [`watch`](Self::watch), with a bound on how long the slots of a running primary may be
    /// unserved.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub async fn watch_with(&mut self, unserved_max: Duration) -> Result<()> {
        self.settle(Duration::from_secs(1)).await?;
        let expected = shape(&self.client, NAMESPACE).await?;
        let members = self.redis.members(&self.client).await?;
        let servers: Vec<_> = members.into_iter().map(|member| member.address).collect();
        let audit_log = self.cluster.audit_log();
        let invariants = Invariants::start(&servers, self.redis.password, &audit_log, unserved_max);
        self.watch = Some(RunningOracles { writer: None, invariants, expected });
        self.watch_writes().await
    }

    /// Stops the writer without judging it: keys may be lost from now on.
    ///
    /// # Errors
    ///
    /// Fails if the oracles do not run, or if the written keys cannot be read.
    pub fn forget_writes(&mut self) -> Result<()> {
        self.take_writes().map(drop)
    }

    /// Stops the writer and returns its report; [`watch_writes`](Self::watch_writes) starts another.
    ///
    /// # Errors
    ///
    /// Fails if the oracles do not run, or if the written keys cannot be read.
    pub fn take_writes(&mut self) -> Result<WriterReport> {
        let watch = self.watch.as_mut().context("the oracles do not run")?;
        watch.writer.take().context("the writer does not run")?.finish()
    }

    /// Starts a new writer after [`forget_writes`](Self::forget_writes) or [`take_writes`](Self::take_writes).
    ///
    /// # Errors
    ///
    /// Fails if the cluster cannot be written to.
    pub async fn watch_writes(&mut self) -> Result<()> {
        let entry = self.redis.entry(&self.client).await?;
        let writer = Writer::start(&entry, self.redis.password, &self.redis.tags())?;
        self.watch.as_mut().context("the oracles do not run")?.writer = Some(writer);
        Ok(())
    }

    /// Returns the running writer, which knows the outages so far.
    ///
    /// # Errors
    ///
    /// Fails if the oracles do not run.
    pub fn writer(&self) -> Result<&Writer> {
        let watch = self.watch.as_ref().context("the oracles do not run")?;
        watch.writer.as_ref().context("the writer does not run")
    }

    /// Waits until nothing was written for the duration `pause`, so that the last writes of a change are done.
    ///
    /// # Errors
    ///
    /// Fails if something is still written after 8 s.
    pub async fn settle(&self, pause: Duration) -> Result<()> {
        let poll = || async { Ok(Poll::Done(quiet(&self.client, &[], pause).await?)) };
        until("the cluster to settle", SETTLE, poll).await.map(drop)
    }

    /// Returns the name and the document of the Redis cluster's ledger.
    ///
    /// # Errors
    ///
    /// Fails if it does not exist or cannot be read.
    pub fn ledger(&self) -> Result<(String, Value)> {
        let path = "jsonpath={.metadata.uid}";
        let uid = self.kubectl.run(&["get", "rediscluster", self.redis.name, "-o", path])?;
        let name = format!("tholepin-ledger-rediscluster-{uid}");
        let map: Value =
            serde_json::from_str(&self.kubectl.run(&["get", "configmap", &name, "-o", "json"])?)?;
        let text = map.pointer("/data/ledger.json").and_then(Value::as_str);
        Ok((name, serde_json::from_str(text.context("the ledger has no document")?)?))
    }

    /// Waits until the ledger records that every shard holds keys. The host notices that at its next poll and
    /// writes it once.
    ///
    /// # Errors
    ///
    /// Fails at the deadline with what the ledger records.
    pub async fn until_keys_known(&self) -> Result<()> {
        let poll = || async {
            let (_, ledger) = self.ledger()?;
            let held = ledger.get("heldKeys").cloned().unwrap_or_default();
            Ok(if held == json!(["0-16383"]) {
                Poll::Done(())
            } else {
                Poll::NotYet(held.to_string())
            })
        };
        until("the ledger to know of keys in every shard", GIVE_UP, poll).await.map(drop)
    }

    /// Ends all processes without judging the oracles.
    ///
    /// # Errors
    ///
    /// Fails if a process does not exit with code 0 in time.
    pub fn stop(mut self) -> Result<()> {
        self.watch = None;
        self.host.end()?;
        self.cluster.process.end()?;
        self.has_ended = true;
        Ok(())
    }

    /// Judges the oracles, ends all processes and returns the writer's report.
    ///
    /// # Errors
    ///
    /// Fails if an oracle finds a violation, or if a process does not exit with code 0 in time.
    pub async fn end(mut self, pause: Duration) -> Result<WriterReport> {
        let watch = self.watch.take().context("the oracles do not run")?;
        self.until_healthy().await?;
        self.until_keys_known().await?;
        // Writes about the last changes may still be under way for a moment.
        self.settle(Duration::from_secs(1)).await.context("oracle Quiet")?;
        quiet(&self.client, &[self.cluster.audit_log()], pause).await.context("oracle Quiet")?;
        let end = shape(&self.client, NAMESPACE).await?;
        let differences = differences(&watch.expected, &end);
        ensure!(differences.is_empty(), "oracle Same end: {}", differences.join("; "));
        let writer = watch.writer.context("the writer does not run")?;
        let report = writer.finish().context("oracle Writer")?;
        let lost = report.lost.len();
        ensure!(lost == 0, "oracle Writer: {lost} lost, the first {:?}", report.lost.first());
        watch.invariants.finish().context("oracle Invariants")?;
        self.host.end()?;
        self.cluster.process.end()?;
        self.has_ended = true;
        Ok(report)
    }
}

impl Drop for TestEnvironment {
    #[expect(clippy::print_stderr, reason = "a test that failed shows why")]
    fn drop(&mut self) {
        if !self.has_ended {
            for log in self.cluster.logs() {
                eprintln!("--- the end of {}\n{}", log.display(), tail(&log));
            }
        }
    }
}
