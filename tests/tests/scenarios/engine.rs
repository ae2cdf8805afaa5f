//! Plugins are overwritten, refused and misbehave, with many objects of a test kind and one RedisCluster with
//! the oracle Writer beside them.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    guests,
    redis_cluster::{NAMESPACE, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    ScenarioResult,
    objects::{TestObjects, conditions},
};

/// How often E1 overwrites the plugin.
const SWAPS: usize = 20;
/// The memory limit of a guest, in KiB.
const GUEST_KIB: u64 = 64 << 10;
/// How much the host's memory may grow beyond the memory limit of the guest while it misbehaves, in KiB.
const GROWTH_MAX_KIB: u64 = 32 << 10;

/// E1: the plugin is overwritten twenty times, alternating between two versions.
pub(crate) async fn the_plugin_is_overwritten_twenty_times() -> Result<ScenarioResult> {
    let versions = [guests::config_maker("Howdy")?, guests::config_maker("Hello")?];
    let [_, hello] = &versions;
    let plugins = [("config-maker", hello.clone())];
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &plugins, "").await?;
    env.redis.create(&env.kubectl)?;
    let greetings = TestObjects::new(&env.client, "Greeting");
    let names = greetings.create(50, |name| json!({ "text": name })).await?;
    env.until_healthy().await?;
    until_greeted(&env, "Hello", &names).await?;
    env.watch().await?;

    let mut firsts = Vec::new();
    for swap in 0..SWAPS {
        let greeting = if swap % 2 == 0 { "Howdy" } else { "Hello" };
        let component = versions.get(swap % 2).context("two versions")?;
        let first = tokio::time::timeout(GIVE_UP, overwrite(&env, component, greeting, &names));
        let first = first.await.with_context(|| format!("swap {swap} is not done"))?;
        firsts.push(first.with_context(|| format!("swap {swap}"))?);
    }
    for (name, greeting) in greetings.all().await? {
        let found = conditions(&greeting);
        ensure!(found.is_empty(), "a reconcile of {name} failed: {found:?}");
    }
    let report = env.end(QUIET).await?;
    firsts.sort();
    let p50 = *firsts.get(SWAPS / 2).context("twenty swaps")?;
    let slowest = firsts.last().copied().unwrap_or_default();
    let outcome = ScenarioResult::new("first new reconcile (p50)", p50, 0.5, &report);
    Ok(outcome.note(format!("slowest of {SWAPS} swaps {:.2} s", slowest.as_secs_f64())))
}

/// Overwrites the plugin and waits until every object was reconciled by the new version; returns how long the
/// first took. Fails if the old version reconciles an object after the new one has.
async fn overwrite(
    env: &TestEnvironment,
    component: &[u8],
    greeting: &str,
    names: &[String],
) -> Result<Duration> {
    let api: Api<ConfigMap> = Api::namespaced(env.client.clone(), NAMESPACE);
    let now = api.list(&ListParams::default()).await?;
    let version = now.metadata.resource_version.unwrap_or_default();
    let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
    let start = Instant::now();
    env.put("config-maker.wasm", component)?;
    let mut until_greeted: BTreeMap<String, Duration> = BTreeMap::new();
    while until_greeted.len() < names.len() {
        let event = events.try_next().await?.context("the watch ended")?;
        let WatchEvent::Modified(map) = event else { continue };
        let name = map.name_any();
        let Some(text) = map.data.as_ref().and_then(|data| data.get("greeting")) else { continue };
        if text.starts_with(greeting) {
            until_greeted.entry(name).or_insert_with(|| start.elapsed());
        } else if until_greeted.contains_key(&name) {
            bail!("{name} went back to `{text}`");
        }
    }
    until_greeted.into_values().min().context("there are objects")
}

/// Waits until every object's ConfigMap has this greeting.
pub(crate) async fn until_greeted(
    env: &TestEnvironment,
    greeting: &str,
    names: &[String],
) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(env.client.clone(), NAMESPACE);
    let poll = || async {
        let maps = api.list(&ListParams::default()).await?;
        let texts = maps.items.iter().filter_map(|map| map.data.as_ref()?.get("greeting"));
        let done = texts.filter(|text| text.starts_with(greeting)).count();
        let all = done == names.len();
        Ok(if all { Poll::Done(()) } else { Poll::NotYet(format!("{done} greeted")) })
    };
    until(format!("all to be greeted with {greeting}"), GIVE_UP, poll).await.map(drop)
}

/// E2: files that are no usable plugin; the previous revision serves throughout.
pub(crate) async fn bad_plugins_are_refused() -> Result<ScenarioResult> {
    let good = guests::config_maker("Hello")?;
    let plugins = [("config-maker", good.clone())];
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &plugins, "").await?;
    env.redis.create(&env.kubectl)?;
    let greetings = TestObjects::new(&env.client, "Greeting");
    let names = greetings.create(100, |_| json!({"text": "you"})).await?;
    env.until_healthy().await?;
    until_greeted(&env, "Hello, you", &names).await?;
    env.watch().await?;

    let trap = [("PLUGIN_NAME", "config-maker"), ("PROBE_DESCRIBE", "trap")];
    let bad: [(&str, Vec<u8>); 4] = [
        ("NotAComponent", b"no component".to_vec()),
        ("UnknownImport", guests::importing("example:other/thing@1.0.0", "go")),
        ("UnknownImport", guests::importing("tholepin:kubernetes/objects@9.0.0", "get")),
        ("DescribeFailed", guests::build("guest-probe", &trap)?),
    ];
    let mut slowest = Duration::ZERO;
    for (reason, component) in &bad {
        let start = Instant::now();
        env.put("config-maker.wasm", component)?;
        until_refused(&env, reason).await?;
        slowest = slowest.max(start.elapsed());
        check_serves(&env, &greetings, &names, reason).await?;
    }
    env.put("config-maker.wasm", &good)?;
    until_serving(&env).await?;
    // The same component with no grants.
    let settings = guests::settings("config-maker");
    let start = Instant::now();
    let nothing = settings.replace("asRequested", "{}");
    env.put("config-maker.yaml", nothing.as_bytes())?;
    until_refused(&env, "GrantsMissing").await?;
    slowest = slowest.max(start.elapsed());
    check_serves(&env, &greetings, &names, "without grants").await?;
    env.put("config-maker.yaml", settings.as_bytes())?;
    until_serving(&env).await?;
    let report = env.end(QUIET).await?;
    Ok(ScenarioResult::new("refused (slowest of 5)", slowest, 2.0, &report))
}

/// Waits until the plugin is refused for this reason while another revision serves.
async fn until_refused(env: &TestEnvironment, reason: &str) -> Result<()> {
    let poll = || async {
        let plugin = env.plugin("config-maker")?;
        let text_at =
            |field: &str| plugin.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let complete =
            !text_at("/status/active").is_empty() && !text_at("/status/message").is_empty();
        let done = text_at("/status/reason") == reason && complete;
        Ok(if done { Poll::Done(()) } else { Poll::NotYet(plugin.to_string()) })
    };
    until(format!("the plugin to be refused: {reason}"), GIVE_UP, poll).await.map(drop)
}

/// Waits until the plugin's status has no reason against it.
async fn until_serving(env: &TestEnvironment) -> Result<()> {
    let poll = || async {
        let plugin = env.plugin("config-maker")?;
        let done = plugin.pointer("/status/reason").is_none();
        Ok(if done { Poll::Done(()) } else { Poll::NotYet(plugin.to_string()) })
    };
    until("the plugin to serve", GIVE_UP, poll).await.map(drop)
}

/// Checks that the serving revision reconciles every object: all are changed and changed back.
async fn check_serves(
    env: &TestEnvironment,
    all: &TestObjects,
    names: &[String],
    text: &str,
) -> Result<()> {
    for text in [text, "you"] {
        all.change(names, &json!({ "text": text })).await?;
        until_greeted(env, &format!("Hello, {text}"), names).await?;
    }
    Ok(())
}

/// E3: the plugin misbehaves in six ways on one of 100 objects.
pub(crate) async fn a_plugin_misbehaves_on_one_object() -> Result<ScenarioResult> {
    let plugins = [("probe", guests::probe()?)];
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &plugins, guests::PROBES).await?;
    env.redis.create(&env.kubectl)?;
    let probes = TestObjects::new(&env.client, "Probe");
    let names = probes.create(100, |_| json!({"do": "nothing"})).await?;
    let (bad, others) = names.split_first().context("there are objects")?;
    env.until_healthy().await?;
    // The misbehaving object too, so that it has a status to return to.
    let alone = round(&probes, &names).await?;
    env.watch().await?;
    let memory = resident_kib(env.host.pid())?;

    let mut slowest = Duration::ZERO;
    let mut meanwhile = Duration::ZERO;
    let tasks = [
        json!({"do": "trap"}),
        json!({"do": "loop"}),
        json!({"do": "eat-memory"}),
        json!({"do": "many-calls", "number": 1_000_000}),
        json!({"do": "return-huge", "number": 100_000_000}),
        json!({"do": "recurse", "number": 0}),
        json!({"do": "flood", "with": "maps"}),
        json!({"do": "flood", "with": "nested"}),
        json!({"do": "flood", "with": "texts"}),
        json!({"do": "flood", "with": "actions"}),
        json!({"do": "flood", "with": "commands"}),
        json!({"do": "flood", "with": "names"}),
        json!({"do": "flood", "with": "logs"}),
    ];
    let mut grown = String::new();
    for task in &tasks {
        let bad = std::slice::from_ref(bad);
        let start = Instant::now();
        probes.change(bad, task).await?;
        let quarantine = until_conditions(&probes, bad, &["Quarantined"]);
        let (others, quarantined) = tokio::join!(round(&probes, others), quarantine);
        meanwhile = meanwhile.max(others.with_context(|| format!("others meanwhile {task}"))?);
        quarantined.with_context(|| task.to_string())?;
        slowest = slowest.max(start.elapsed());
        // After a change of its spec the object is called again, and succeeds.
        probes.change(bad, &json!({"do": "nothing", "number": null, "with": null})).await?;
        until_conditions(&probes, bad, &[]).await.context("after a change")?;
        let growth = peak_kib(env.host.pid())?.saturating_sub(memory);
        let most = GUEST_KIB + GROWTH_MAX_KIB;
        ensure!(growth <= most, "the host grew by {growth} KiB, more than {most}, during {task}");
        grown.push_str(&format!(" {}", growth >> 10));
    }
    let limit = alone * 3 + Duration::from_secs(1);
    ensure!(meanwhile <= limit, "the other 99 took {meanwhile:?}; alone they take {alone:?}");
    let report = env.end(QUIET).await?;
    let (alone, meanwhile) = (alone.as_secs_f64(), meanwhile.as_secs_f64());
    Ok(ScenarioResult::new("quarantined (slowest of 13)", slowest, 5.0, &report)
        .note(format!("the other 99 twice: {alone:.2} s alone, {meanwhile:.2} s meanwhile"))
        .note(format!(
            "the host grew by{grown} MiB after each, of which the guest may have {}",
            GUEST_KIB >> 10
        )))
}

/// Makes these objects invalid and valid again, and waits for the host's conditions on all each time.
async fn round(probes: &TestObjects, names: &[String]) -> Result<Duration> {
    let start = Instant::now();
    probes.change(names, &json!({"do": "be-invalid"})).await?;
    until_conditions(probes, names, &["Reconciled"]).await?;
    probes.change(names, &json!({"do": "nothing"})).await?;
    until_conditions(probes, names, &[]).await?;
    Ok(start.elapsed())
}

/// Waits until each of these objects has exactly these conditions of the host.
pub(crate) async fn until_conditions(
    probes: &TestObjects,
    names: &[String],
    expected: &[&str],
) -> Result<()> {
    let poll = || async {
        let all = probes.all().await?;
        for name in names {
            let object = all.get(name).with_context(|| format!("no {name}"))?;
            let found = conditions(object);
            let fits = found.iter().map(|(name, _)| name.as_str()).eq(expected.iter().copied());
            // A condition of an earlier generation is one that the host has not removed yet.
            let old = expected.is_empty() && object.pointer("/status/conditions/0").is_some();
            if !fits || old {
                return Ok(Poll::NotYet(format!("{name}: {object}")));
            }
        }
        Ok(Poll::Done(()))
    };
    until(format!("{} objects to have {expected:?}", names.len()), GIVE_UP, poll).await.map(drop)
}

pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

pub(crate) fn peak_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("no {field}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
