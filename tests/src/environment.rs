//! A scenario from its first process to its verdict: what runs, and the four oracles that watch.

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
    wait::{Poll, until},
};

/// How long the product may take to be well before a scenario is given up; the bounds are checked
/// afterwards, so that a slow one is told from one that never ends.
pub const GIVE_UP: Duration = Duration::from_secs(90);
/// How long nothing may happen after a scenario.
pub const QUIET: Duration = Duration::from_secs(3);
/// How long the last writes of a change may take to be made after all is well.
const SETTLE: Duration = Duration::from_secs(8);

/// A scenario that runs. Everything that it started ends with it; if it did not come to its end, the
/// ends of the logs are printed.
pub struct TestEnvironment {
    /// The host; before the cluster, so that it ends first.
    pub host: Process,
    /// The administrator's client.
    pub client: Client,
    /// The administrator's kubectl.
    pub kubectl: Kubectl,
    /// Where the plugins are.
    pub plugins: PathBuf,
    /// The cluster that clients write to.
    pub redis: RedisCluster,
    /// Last, so that its directory goes last.
    pub cluster: LocalClusterProcess,
    /// The road from the host to the API server, in stories that let it go bad.
    pub proxy: Option<ApiProxy>,
    setup: HostOptions,
    watch: Option<RunningOracles>,
    has_ended: bool,
}

/// How a story's host reaches the API server.
#[derive(Clone, Debug)]
pub enum ApiAccess {
    /// As it is started here.
    Direct(HostOptions),
    /// Through a proxy.
    Proxied,
}

/// The oracles that watch all through, and the state that must be reached again.
struct RunningOracles {
    writer: Option<Writer>,
    invariants: Invariants,
    fresh: BTreeMap<String, Value>,
}

impl TestEnvironment {
    /// Starts a cluster with these objects (YAML), and a host with the plugin `redis-cluster` and these
    /// others.
    ///
    /// # Errors
    ///
    /// Fails if one does not become ready.
    pub async fn begin(
        redis: RedisCluster,
        others: &[(&str, Vec<u8>)],
        objects: &str,
    ) -> Result<Self> {
        Self::begin_by(ApiAccess::Direct(HostOptions::default()), redis, others, objects).await
    }

    /// Starts so, with a host that reaches the API server in this way.
    ///
    /// # Errors
    ///
    /// Fails if one does not become ready.
    pub async fn begin_by(
        reach: ApiAccess,
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
        let mine = ("redis-cluster", component);
        for (name, component) in std::iter::once(&mine).chain(others) {
            fs::write(plugins.join(format!("{name}.wasm")), component)?;
            fs::write(plugins.join(format!("{name}.yaml")), guests::settings(name))?;
        }
        let (proxy, setup) = match reach {
            ApiAccess::Direct(setup) => (None, setup),
            ApiAccess::Proxied => {
                let proxy = ApiProxy::start(cluster.kubeconfig(), cluster.directory()).await?;
                let kubeconfig = Some(proxy.kubeconfig().to_owned());
                (Some(proxy), HostOptions { kubeconfig, ..HostOptions::default() })
            }
        };
        let host = cluster.host_as(&setup)?;
        let story = Self {
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
        story.active("redis-cluster").await?;
        for (name, _) in others {
            story.active(name).await?;
        }
        Ok(story)
    }

    /// Starts with a RedisCluster that is well and watched.
    ///
    /// # Errors
    ///
    /// Fails if it does not become so.
    pub async fn with_redis(redis: RedisCluster) -> Result<Self> {
        let mut story = Self::begin(redis, &[], "").await?;
        story.redis.create(&story.kubectl)?;
        story.well().await?;
        story.watch().await?;
        Ok(story)
    }

    /// The road from the host to the API server.
    ///
    /// # Errors
    ///
    /// Fails in a story without one.
    pub fn road(&self) -> Result<&ApiProxy> {
        self.proxy.as_ref().context("the host reaches the API server through a proxy")
    }

    /// Starts the host again after it was killed; gives how long that took.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready.
    pub fn restart(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.host.kill()?;
        self.host = self.cluster.host_as(&self.setup)?;
        Ok(start.elapsed())
    }

    /// Starts the host again after it was killed, while the API server is away until then.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready, or if nothing is between it and the API server.
    pub fn restart_while_away(&mut self, until: Instant) -> Result<()> {
        self.host.kill()?;
        let (road, cluster, setup) = (self.road()?, &self.cluster, &self.setup);
        let host = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(until.saturating_duration_since(Instant::now()));
                road.set(ApiLink::Clear);
            });
            cluster.host_as(setup)
        })?;
        self.host = host;
        Ok(())
    }

    /// What the host has logged since its last start.
    ///
    /// # Errors
    ///
    /// Fails if the log cannot be read.
    pub fn host_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.cluster.directory().join("host.log"))?)
    }

    /// Puts a plugin's file in place by a rename.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be written.
    pub fn put(&self, file: &str, bytes: &[u8]) -> Result<()> {
        guests::put(&self.plugins, file, bytes)
    }

    /// A `Plugin` object as it is now.
    ///
    /// # Errors
    ///
    /// Fails if there is none.
    pub fn plugin(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl.run(&["get", "plugin", name, "-o", "json"])?)?)
    }

    async fn active(&self, name: &str) -> Result<()> {
        let look = || async {
            let plugin = self.plugin(name)?;
            let active = plugin.pointer("/status/stage").is_some_and(|stage| stage == "Active");
            Ok(if active { Poll::There(()) } else { Poll::NotYet(plugin.to_string()) })
        };
        until(format!("plugin {name} to be active"), GIVE_UP, look).await.map(drop)
    }

    /// Waits until the RedisCluster is well; gives its Pods and how long that took.
    ///
    /// # Errors
    ///
    /// Fails with what is not well after a long time.
    pub async fn well(&self) -> Result<(Vec<ClusterPod>, Duration)> {
        let look =
            || async { Ok(Poll::There(self.redis.well(&self.kubectl, &self.client).await?)) };
        until(format!("{} to be well", self.redis.name), GIVE_UP, look).await
    }

    /// Starts the oracles on a RedisCluster that is well, and keeps its present state as the one that
    /// must be reached again.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be written to.
    pub async fn watch(&mut self) -> Result<()> {
        self.watch_with(UNSERVED_MAX).await
    }

    /// As [`watch`](Self::watch), with another bound of how long a living primary's slots may be without
    /// service.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub async fn watch_with(&mut self, unserved_max: Duration) -> Result<()> {
        self.settle(Duration::from_secs(1)).await?;
        let fresh = shape(&self.client, NAMESPACE).await?;
        let seats = self.redis.seats(&self.client).await?;
        let servers: Vec<_> = seats.into_iter().map(|seat| seat.address).collect();
        let audit_log = self.cluster.audit_log();
        let invariants = Invariants::start(&servers, self.redis.password, &audit_log, unserved_max);
        self.watch = Some(RunningOracles { writer: None, invariants, fresh });
        self.watch_writes().await
    }

    /// Lets the writer end without a verdict: keys may go from now on.
    ///
    /// # Errors
    ///
    /// Fails before the oracles were started, or if what was written cannot be read.
    pub fn forget_writes(&mut self) -> Result<()> {
        self.take_writes().map(drop)
    }

    /// Lets the writer end and gives what it saw; [`watch_writes`](Self::watch_writes) starts another.
    ///
    /// # Errors
    ///
    /// Fails before the oracles were started, or if what was written cannot be read.
    pub fn take_writes(&mut self) -> Result<WriterReport> {
        let watch = self.watch.as_mut().context("the oracles watch")?;
        watch.writer.take().context("the writer writes")?.finish()
    }

    /// Starts a writer after [`forget_writes`](Self::forget_writes).
    ///
    /// # Errors
    ///
    /// Fails if the cluster cannot be written to.
    pub async fn watch_writes(&mut self) -> Result<()> {
        let entry = self.redis.entry(&self.client).await?;
        let writer = Writer::start(&entry, self.redis.password, &self.redis.tags())?;
        self.watch.as_mut().context("the oracles watch")?.writer = Some(writer);
        Ok(())
    }

    /// The writer, to ask when it could write last.
    ///
    /// # Errors
    ///
    /// Fails before the oracles were started.
    pub fn writer(&self) -> Result<&Writer> {
        let watch = self.watch.as_ref().context("the oracles watch")?;
        watch.writer.as_ref().context("the writer writes")
    }

    /// Lets the last writes of a change be made: waits for a moment as long as this without any.
    ///
    /// # Errors
    ///
    /// Fails if there is none for a long time.
    pub async fn settle(&self, pause: Duration) -> Result<()> {
        let look = || async { Ok(Poll::There(quiet(&self.client, &[], pause).await?)) };
        until("the cluster to settle", SETTLE, look).await.map(drop)
    }

    /// The ledger of the Redis cluster: its name and what it says.
    ///
    /// # Errors
    ///
    /// Fails if there is none or it cannot be read.
    pub fn ledger(&self) -> Result<(String, Value)> {
        let path = "jsonpath={.metadata.uid}";
        let uid = self.kubectl.run(&["get", "rediscluster", self.redis.name, "-o", path])?;
        let name = format!("tholepin-ledger-rediscluster-{uid}");
        let map: Value =
            serde_json::from_str(&self.kubectl.run(&["get", "configmap", &name, "-o", "json"])?)?;
        let text = map.pointer("/data/ledger.json").and_then(Value::as_str);
        Ok((name, serde_json::from_str(text.context("a ledger has its document")?)?))
    }

    /// Waits until the host has seen that every shard holds keys, which it does at its next look and writes
    /// down once.
    ///
    /// # Errors
    ///
    /// Fails if it has not after a long time.
    pub async fn keys_are_known(&self) -> Result<()> {
        let look = || async {
            let (_, ledger) = self.ledger()?;
            let held = ledger.get("heldKeys").cloned().unwrap_or_default();
            Ok(if held == json!(["0-16383"]) {
                Poll::There(())
            } else {
                Poll::NotYet(held.to_string())
            })
        };
        until("the ledger to know of keys in every shard", GIVE_UP, look).await.map(drop)
    }

    /// Ends everything without the oracles.
    ///
    /// # Errors
    ///
    /// Fails if a process does not end as it should.
    pub fn stop(mut self) -> Result<()> {
        self.watch = None;
        self.host.end()?;
        self.cluster.process.end()?;
        self.has_ended = true;
        Ok(())
    }

    /// Hears the oracles, ends everything and gives what the writer saw.
    ///
    /// # Errors
    ///
    /// Fails if an oracle is red, or if a process does not end as it should.
    pub async fn end(mut self, pause: Duration) -> Result<WriterReport> {
        let watch = self.watch.take().context("the oracles watch")?;
        self.well().await?;
        self.keys_are_known().await?;
        // What was noticed last may still be written, but not for long.
        self.settle(Duration::from_secs(1)).await.context("oracle Quiet")?;
        quiet(&self.client, &[self.cluster.audit_log()], pause).await.context("oracle Quiet")?;
        let end = shape(&self.client, NAMESPACE).await?;
        let differences = differences(&watch.fresh, &end);
        ensure!(differences.is_empty(), "oracle Same end: {}", differences.join("; "));
        let writer = watch.writer.context("the writer writes")?;
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
