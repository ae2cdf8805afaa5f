//! Many objects: a swap with a thousand, two plugins side by side, an object on which the plugin loops, and
//! fifty real clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use redis::cmd;
use serde_json::{Value, json};
use tests::{
    cluster::HostOptions,
    environment::{ApiAccess, GIVE_UP, QUIET, TestEnvironment},
    guests,
    oracle::{host_writes, written_at},
    redis_cluster::{NAMESPACE, RedisCluster},
    router::connect,
    wait::{Poll, elapse, until, until_every},
};

use crate::{
    ScenarioResult,
    engine::{peak_kib, resident_kib, until_conditions},
    objects::TestObjects,
};

/// The number of objects of the test kinds.
const OBJECTS: usize = 1_000;
/// How many of them belong to the second plugin in L1.
const OTHERS: usize = 200;
/// The work of one reconcile: one to two milliseconds.
const TURNS: u64 = 1_000_000;
/// The pause between two reads of the host's log.
const LOG_PAUSE: Duration = Duration::from_millis(2);
/// How many live events are measured during a swap.
const EVENTS: usize = 20;
/// How many of them must have met a backlog; otherwise nothing was measured.
const EVENTS_MIN: usize = 5;
/// The most resident memory of the host in these scenarios, in KiB.
const MEMORY_MAX_KIB: u64 = 256 << 10;
/// The number of real clusters of one shard in L2.
const CLUSTERS: usize = 50;

/// The begin of one reconcile of the guest `probe`, as the guest logged it.
#[derive(Clone, Debug)]
struct LoggedReconcile {
    at: Timestamp,
    plugin: String,
    object: String,
    revision: String,
    number: u64,
}

/// Reads the reconciles from the host's log, from its last start on.
struct ReconcileLog {
    log: PathBuf,
    offset: u64,
    rest: String,
    all: Vec<LoggedReconcile>,
}

impl ReconcileLog {
    fn of(env: &TestEnvironment) -> Self {
        let log = env.cluster.directory().join("host.log");
        Self { log, offset: 0, rest: String::new(), all: Vec::new() }
    }

    /// Reads the new lines; returns all reconciles so far.
    fn read(&mut self) -> Result<&[LoggedReconcile]> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut new = String::new();
        self.offset += u64::try_from(file.read_to_string(&mut new)?)?;
        self.rest.push_str(&new);
        if let Some((whole, rest)) = self.rest.rsplit_once('\n') {
            self.all.extend(whole.lines().filter_map(parse_reconcile));
            self.rest = rest.to_owned();
        }
        Ok(&self.all)
    }

    /// Returns the objects that have begun a reconcile after the first `from` ones.
    fn objects(&self, from: usize) -> BTreeSet<&str> {
        self.all.iter().skip(from).map(|reconcile| reconcile.object.as_str()).collect()
    }

    /// Returns how many objects have begun a reconcile after those with another revision than `old`.
    fn new_since(&self, from: usize, old: &str) -> usize {
        let new = self.all.iter().skip(from).filter(|reconcile| reconcile.revision != old);
        new.map(|reconcile| reconcile.object.as_str()).collect::<BTreeSet<_>>().len()
    }
}

fn parse_reconcile(line: &str) -> Option<LoggedReconcile> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |path: &str| line.pointer(path).and_then(Value::as_str);
    let number = text("/fields/message")?.strip_prefix("began ")?.parse().ok()?;
    let owned = |path: &str| text(path).map(str::to_owned);
    Some(LoggedReconcile {
        at: text("/timestamp")?.parse().ok()?,
        plugin: owned("/span/plugin")?,
        object: owned("/span/object")?,
        revision: owned("/span/revision")?,
        number,
    })
}

/// Starts the host with a log in JSON.
fn logged() -> ApiAccess {
    ApiAccess::Direct(HostOptions {
        arguments: vec!["--log-format", "json"],
        ..HostOptions::default()
    })
}

fn work(number: usize) -> Value {
    json!({"do": "work", "turns": TURNS, "number": number})
}

/// Waits until this many objects have begun a reconcile after the first `from` ones.
async fn begun(reconciles: &mut ReconcileLog, from: usize, count: usize) -> Result<Duration> {
    let poll = async || -> Result<Poll<()>> {
        reconciles.read()?;
        let seen = reconciles.objects(from).len();
        Ok(if count <= seen { Poll::Done(()) } else { Poll::NotYet(format!("{seen} of {count}")) })
    };
    Ok(until_every(LOG_PAUSE, "the objects to be reconciled", GIVE_UP, poll).await?.1)
}

/// Waits until this many objects have begun a reconcile with another revision than `old`.
async fn until_new(
    reconciles: &mut ReconcileLog,
    from: usize,
    old: &str,
    count: usize,
) -> Result<()> {
    let poll = async || -> Result<Poll<()>> {
        reconciles.read()?;
        let seen = reconciles.new_since(from, old);
        Ok(if count <= seen { Poll::Done(()) } else { Poll::NotYet(format!("{seen} of {count}")) })
    };
    until_every(LOG_PAUSE, "the objects to meet the new code", GIVE_UP, poll).await.map(drop)
}

/// E9: a thousand objects are queued again by a swap, and live events arrive meanwhile.
pub(crate) async fn live_events_overtake_a_swap() -> Result<ScenarioResult> {
    let component = guests::probe()?;
    let plugins = [("probe", component.clone())];
    let mut env =
        TestEnvironment::begin_by(logged(), RedisCluster::USUAL, &plugins, guests::PROBES).await?;
    env.redis.create(&env.kubectl)?;
    let probes = TestObjects::new(&env.client, "Probe");
    let mut reconciles = ReconcileLog::of(&env);
    let names = probes.create(OBJECTS, |_| work(0)).await?;
    begun(&mut reconciles, 0, OBJECTS).await?;
    env.until_healthy().await?;
    env.watch().await?;
    let from = reconciles.read()?.len();
    let old = reconciles.all.last().map(|reconcile| reconcile.revision.clone()).unwrap_or_default();

    env.put("probe.wasm", &guests::renamed(&component, 1))?;
    until_new(&mut reconciles, from, &old, 1).await?;
    let mut starts = Vec::new();
    let mut touched = Vec::new();
    for number in 1..=EVENTS {
        let name = names.get(number * 47 % OBJECTS).context("an object")?.clone();
        probes.change(std::slice::from_ref(&name), &json!({"number": number})).await?;
        let number = u64::try_from(number)?;
        let poll = async || -> Result<Poll<Timestamp>> {
            let found = reconciles.read()?.iter().find(|begun| begun.number == number);
            let at = found.map(|begun| begun.at);
            Ok(at.map_or_else(|| Poll::NotYet("no reconcile".to_owned()), Poll::Done))
        };
        let what = format!("{name} to be reconciled");
        let (at, _) = until_every(Duration::from_millis(1), what, GIVE_UP, poll).await?;
        if reconciles.new_since(from, &old) < OBJECTS {
            starts.push((name.clone(), at));
        }
        touched.push(name);
    }
    until_new(&mut reconciles, from, &old, OBJECTS).await?;
    let mut waits = Vec::new();
    for (name, at) in &starts {
        let written = written_at(&env.cluster.audit_log(), "probes", name)?;
        waits.push(Duration::try_from(at.duration_since(written)).unwrap_or_default());
    }
    let in_time = waits.len();
    ensure!(EVENTS_MIN <= in_time, "only {in_time} events arrived while other objects were queued");
    probes.change(&touched, &json!({"number": 0})).await?;
    let report = env.end(QUIET).await?;
    waits.sort();
    let p50 = waits.get(in_time / 2).copied().unwrap_or_default();
    let slowest = waits.last().copied().unwrap_or_default();
    let what = "live event → start of its reconcile (slowest)";
    Ok(ScenarioResult::new(what, slowest, 0.1, &report)
        .note(format!(
            "{in_time} events while other objects were queued, p50 {:.0} ms",
            p50.as_secs_f64() * 1e3
        ))
        .note(format!("all {OBJECTS} were reconciled by the new code")))
}

/// L1: a thousand objects of two plugins are due at the same time; then again while the plugin loops on one.
pub(crate) async fn two_plugins_share_the_host() -> Result<ScenarioResult> {
    let other = [("PLUGIN_NAME", "other"), ("PLUGIN_KIND", "Other")];
    let plugins = [("probe", guests::probe()?), ("other", guests::build("guest-probe", &other)?)];
    let other = guests::PROBES.replace("probe", "other").replace("Probe", "Other");
    let kinds = format!("{}\n---\n{other}", guests::PROBES);
    let mut env =
        TestEnvironment::begin_by(logged(), RedisCluster::USUAL, &plugins, &kinds).await?;
    env.redis.create(&env.kubectl)?;
    let [probes, others] = ["Probe", "Other"].map(|kind| TestObjects::new(&env.client, kind));
    let names = probes.create(OBJECTS - OTHERS, |_| work(0)).await?;
    others.create(OTHERS, |_| work(0)).await?;
    let mut reconciles = ReconcileLog::of(&env);
    begun(&mut reconciles, 0, OBJECTS).await?;
    // So that the object on which the plugin will loop has a status to return to.
    let looping = std::slice::from_ref(names.first().context("an object")?);
    probes.change(looping, &json!({"do": "be-invalid"})).await?;
    until_conditions(&probes, looping, &["Reconciled"]).await?;
    probes.change(looping, &work(0)).await?;
    until_conditions(&probes, looping, &[]).await?;
    env.until_healthy().await?;
    env.watch().await?;

    env.restart()?;
    let mut reconciles = ReconcileLog::of(&env);
    begun(&mut reconciles, 0, OBJECTS).await?;
    let alone = span(&reconciles.all);
    let share = share(&reconciles.all);
    ensure!(
        (0.4..=0.6).contains(&share),
        "the plugin with fewer objects got {share:.2} of the reconciles"
    );
    let gap = longest_gap(&reconciles.all);
    ensure!(gap < Duration::from_secs(3), "nothing was reconciled for {gap:?}");

    probes.change(looping, &json!({"do": "loop"})).await?;
    until_conditions(&probes, looping, &["Quarantined"]).await?;
    env.restart()?;
    let mut reconciles = ReconcileLog::of(&env);
    begun(&mut reconciles, 0, OBJECTS - 1).await?;
    let with_looping = span(&reconciles.all);
    let limit = alone * 2 + Duration::from_secs(1);
    ensure!(with_looping < limit, "with a looping object {with_looping:?}, without {alone:?}");
    probes.change(looping, &work(0)).await?;
    until_conditions(&probes, looping, &[]).await?;

    env.settle(Duration::from_secs(1)).await?;
    let memory = resident_kib(env.host.pid())?;
    ensure!(memory < MEMORY_MAX_KIB, "the host has {memory} KiB");
    let idle = idle_writes(&env).await?;
    let peak = peak_kib(env.host.pid())?;
    let report = env.end(QUIET).await?;
    Ok(ScenarioResult::new("a thousand reconciled after a start", alone, 10.0, &report)
        .note(format!("share of the plugin with fewer objects while both were queued: {share:.2}"))
        .note(format!("longest pause {:.2} s", gap.as_secs_f64()))
        .note(format!("with a looping object {:.2} s", with_looping.as_secs_f64()))
        .note(format!("memory {} MiB, at its peak {} MiB", memory >> 10, peak >> 10))
        .note(format!("writes while idle for 5 s: {idle}")))
}

/// Returns the time from the first reconcile to the last.
fn span(reconciles: &[LoggedReconcile]) -> Duration {
    let ends = reconciles.first().zip(reconciles.last());
    let span = ends.map(|(first, last)| last.at.duration_since(first.at));
    span.and_then(|span| Duration::try_from(span).ok()).unwrap_or_default()
}

/// Returns the share of the plugin `other` in the reconciles, counted while objects of both plugins were queued.
fn share(reconciles: &[LoggedReconcile]) -> f64 {
    let is_other = |reconcile: &LoggedReconcile| reconcile.plugin == "other";
    let first = |other_first: bool| {
        reconciles.iter().position(|reconcile| is_other(reconcile) == other_first)
    };
    let from = first(true).max(first(false)).unwrap_or_default();
    let to = reconciles.iter().rposition(is_other).unwrap_or_default();
    let both = reconciles.get(from..=to).unwrap_or_default();
    let count = |reconciles: usize| f64::from(u32::try_from(reconciles).unwrap_or(u32::MAX));
    count(both.iter().filter(|reconcile| is_other(reconcile)).count()) / count(both.len().max(1))
}

fn longest_gap(reconciles: &[LoggedReconcile]) -> Duration {
    let gaps = reconciles.windows(2).filter_map(|pair| match pair {
        [before, next] => Duration::try_from(next.at.duration_since(before.at)).ok(),
        _ => None,
    });
    gaps.max().unwrap_or_default()
}

/// Returns how many writes the host sends in 5 s.
async fn idle_writes(env: &TestEnvironment) -> Result<usize> {
    let before = host_writes(&env.cluster.audit_log())?.len();
    elapse(Duration::from_secs(5)).await;
    let writes = host_writes(&env.cluster.audit_log())?.len() - before;
    ensure!(writes == 0, "the host wrote {writes} times although nothing changed");
    Ok(writes)
}

/// L2: fifty real clusters of one shard become ready and get a setting.
pub(crate) async fn fifty_clusters() -> Result<ScenarioResult> {
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &[], "").await?;
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    let clusters = clusters(&env.client);
    let start = Instant::now();
    let item = |number: usize| {
        let clusters = clusters.clone();
        async move {
            let item = json!({
                "apiVersion": "redis.tholepin.dev/v1alpha1",
                "kind": "RedisCluster",
                "metadata": {"name": format!("many-{number:02}"), "namespace": NAMESPACE},
                "spec": {"shards": 1, "replicasPerShard": 0, "image": "redis:7.0"},
            });
            let item: DynamicObject = serde_json::from_value(item)?;
            clusters.create(&PostParams::default(), &item).await?;
            anyhow::Ok(())
        }
    };
    stream::iter((0..CLUSTERS).map(item)).buffer_unordered(8).try_collect::<()>().await?;
    let firsts = all_ready(&clusters).await?;
    let took = start.elapsed();
    env.until_healthy().await?;
    env.watch().await?;

    let start = Instant::now();
    let setting = Patch::Merge(json!({"spec": {"settings": {"slowlog-max-len": "256"}}}));
    for number in 0..CLUSTERS {
        let name = format!("many-{number:02}");
        clusters.patch(&name, &PatchParams::default(), &setting).await?;
    }
    until("every server to have the setting", GIVE_UP, || have_setting(&env.client)).await?;
    let set = start.elapsed();
    let back = Patch::Merge(json!({"spec": {"settings": null}}));
    for number in 0..CLUSTERS {
        clusters.patch(&format!("many-{number:02}"), &PatchParams::default(), &back).await?;
    }
    all_ready(&clusters).await?;
    until("the cluster to settle", GIVE_UP, || async {
        env.settle(Duration::from_secs(2)).await.map(Poll::Done)
    })
    .await?;
    let memory = resident_kib(env.host.pid())?;
    ensure!(memory < MEMORY_MAX_KIB, "the host has {memory} KiB");
    let idle = idle_writes(&env).await?;
    let report = env.end(QUIET).await?;
    Ok(ScenarioResult::new("fifty clusters of one shard ready", took, 60.0, &report)
        .note(format!("the first after {:.1} s", firsts.as_secs_f64()))
        .note(format!("a setting reached all in {:.1} s", set.as_secs_f64()))
        .note(format!("memory {} MiB", memory >> 10))
        .note(format!("writes while idle for 5 s: {idle}")))
}

/// Returns the API of the RedisClusters of the namespace.
pub(crate) fn clusters(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("redis.tholepin.dev", "v1alpha1", "RedisCluster");
    let kind = ApiResource::from_gvk_with_plural(&kind, "redisclusters");
    Api::namespaced_with(client.clone(), NAMESPACE, &kind)
}

/// Waits until every cluster is Ready at its present generation; returns when the first of them was.
async fn all_ready(clusters: &Api<DynamicObject>) -> Result<Duration> {
    let start = Instant::now();
    let mut first = None;
    let poll = async || -> Result<Poll<()>> {
        let all = clusters.list(&ListParams::default()).await?.items;
        let ready = all.iter().filter(|object| is_ready(object)).count();
        if 1 < ready {
            first.get_or_insert_with(|| start.elapsed());
        }
        if ready == CLUSTERS + 1 {
            return Ok(Poll::Done(()));
        }
        let unready = all.iter().find(|object| !is_ready(object));
        let why = unready.map(|object| {
            format!("{}: {}", object.name_any(), object.data.get("status").unwrap_or(&Value::Null))
        });
        Ok(Poll::NotYet(format!("{ready} are ready; {why:?}")))
    };
    let pause = Duration::from_millis(100);
    until_every(pause, "all clusters to be ready", GIVE_UP * 3, poll).await?;
    Ok(first.unwrap_or_default())
}

/// Returns true if a cluster is Ready at its present generation.
pub(crate) fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Ready"
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == object.metadata.generation
    })
}

async fn have_setting(client: &Client) -> Result<Poll<()>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.name_any();
        if !name.starts_with("many-") {
            continue;
        }
        let ip = pod.status.and_then(|status| status.pod_ip).context("an address")?;
        let mut server = connect(&format!("{ip}:6379"), None)?;
        let set: BTreeMap<String, String> =
            cmd("CONFIG").arg("GET").arg("slowlog-max-len").query(&mut server)?;
        if set.values().any(|value| value != "256") {
            return Ok(Poll::NotYet(format!("{name} has {set:?}")));
        }
    }
    Ok(Poll::Done(()))
}
