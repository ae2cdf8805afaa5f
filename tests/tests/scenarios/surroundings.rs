//! Faults of the surroundings: the API server is away, hangs or forgets; Redis hangs; a disk is full; the clock
//! jumps. Each scenario prints what was observed and how long it took until the cluster was healthy again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tests::{
    api_proxy::ApiLink,
    cluster::HostOptions,
    environment::{ApiAccess, GIVE_UP, QUIET, TestEnvironment},
    faked_clock::FakedClock,
    guests,
    oracle::WriterReport,
    process::signal,
    redis_cluster::{ClusterPod, NAMESPACE, RedisCluster},
    wait::{Poll, elapse, until},
};

use crate::{
    ScenarioResult,
    engine::until_greeted,
    healing::{find, healed, kill_a_primary, primary, same_processes},
    objects::TestObjects,
};

/// How many objects of the test kind there are.
const GREETINGS: usize = 20;
/// The bound for a hung watch: the server should end each watch after 30 s; 5 s more are allowed.
const HUNG_WATCH_S: f64 = 35.0;
const HOUR_S: i64 = 3_600;
/// How many changes push the oldest one of a kind out of the API server's memory.
const CHANGES: usize = 2_200;

/// Starts a scenario with greetings beside the cluster.
async fn begin(access: ApiAccess) -> Result<(TestEnvironment, TestObjects, Vec<String>)> {
    let plugins = [("config-maker", guests::config_maker("Hello")?)];
    let mut env = TestEnvironment::begin_by(access, RedisCluster::USUAL, &plugins, "").await?;
    env.redis.create(&env.kubectl)?;
    let greetings = TestObjects::new(&env.client, "Greeting");
    let names = greetings.create(GREETINGS, |_| json!({"text": "before"})).await?;
    env.until_healthy().await?;
    until_greeted(&env, "Hello, before", &names).await?;
    env.watch().await?;
    Ok((env, greetings, names))
}

/// Changes the greetings back and judges the oracles.
async fn end(
    env: TestEnvironment,
    greetings: &TestObjects,
    names: &[String],
) -> Result<WriterReport> {
    greetings.change(names, &json!({"text": "before"})).await?;
    until_greeted(&env, "Hello, before", names).await?;
    env.end(QUIET).await
}

/// W1: the API server is away for 10 s.
pub(crate) async fn the_api_server_is_away_for_ten_seconds() -> Result<ScenarioResult> {
    away(Duration::from_secs(10), "the API server is away for 10 s").await
}

/// W2: the API server is away for 60 s.
pub(crate) async fn the_api_server_is_away_for_a_minute() -> Result<ScenarioResult> {
    away(Duration::from_secs(60), "the API server is away for 60 s").await
}

/// A primary is killed, objects are changed and a plugin is swapped, all while the host reaches no API server.
async fn away(time: Duration, fault: &'static str) -> Result<ScenarioResult> {
    let (env, greetings, names) = begin(ApiAccess::Proxied).await?;
    let (tag, died) = primary(&env, 0).await?;
    let before = env.plugin("config-maker")?;
    env.api_proxy()?.set(ApiLink::Cut);
    env.writer()?.forget_outages();
    signal(died.server.pid()?, "KILL")?;
    greetings.change(&names, &json!({"text": "meanwhile"})).await?;
    env.put("config-maker.wasm", &guests::config_maker("Howdy")?)?;
    elapse(time).await;
    let outage = env.writer()?.outage(&tag)?;
    ensure!(env.plugin("config-maker")? == before, "the host wrote although it was cut off");

    let start = Instant::now();
    env.api_proxy()?.set(ApiLink::Clear);
    let all = async {
        until_greeted(&env, "Howdy, meanwhile", &names).await?;
        healed(&env, &died).await
    };
    all.await.context("after the API server returned")?;
    let took = start.elapsed();
    let swapped = || async {
        let now = env.plugin("config-maker")?;
        let swapped = now.pointer("/status/active") != before.pointer("/status/active");
        Ok(if swapped { Poll::Done(()) } else { Poll::NotYet(now.to_string()) })
    };
    until("the swap to be reported", GIVE_UP, swapped).await?;
    let log = env.host_log()?;
    env.put("config-maker.wasm", &guests::config_maker("Hello")?)?;
    let failing = log.lines().filter(|line| line.contains("watch waits")).count();
    ensure!(0 < failing, "the host did not log that its watches fail");
    let report = end(env, &greetings, &names).await?;
    let seen = format!(
        "{failing} warnings about watches; new code served within; writes to the dead primary's slots \
         went on after {:.1} s, by the cluster's own vote",
        outage.as_secs_f64()
    );
    Ok(ScenarioResult::new("healthy again", took, 8.0, &report).fault(fault, seen))
}

/// W3: the API server is away, and so much changes meanwhile that no watch can resume at its resource version.
pub(crate) async fn watches_have_expired() -> Result<ScenarioResult> {
    let (env, _, names) = begin(ApiAccess::Proxied).await?;
    let maps: Api<ConfigMap> = Api::namespaced(env.client.clone(), NAMESPACE);
    let proxy = env.api_proxy()?;
    proxy.set(ApiLink::Cut);
    let [deleted, edited] = [0, 1].map(|index| names.get(index).cloned().unwrap_or_default());
    maps.delete(&deleted, &DeleteParams::default()).await?;
    let by_hand = Patch::Merge(json!({"data": {"greeting": "by hand"}}));
    maps.patch(&edited, &PatchParams::default(), &by_hand).await?;
    let noise = "noise";
    let mut map = ConfigMap::default();
    map.metadata.name = Some(noise.to_owned());
    maps.create(&PostParams::default(), &map).await?;
    let change = |number: usize| {
        let maps = maps.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {"number": number.to_string()}}));
            maps.patch(noise, &PatchParams::default(), &patch).await.map(drop)
        }
    };
    stream::iter((0..CHANGES).map(change)).buffer_unordered(16).try_collect::<()>().await?;
    maps.delete(noise, &DeleteParams::default()).await?;

    let start = Instant::now();
    proxy.set(ApiLink::Clear);
    until_greeted(&env, "Hello, before", &names).await?;
    let took = start.elapsed();
    let expired = proxy.expired();
    ensure!(0 < expired, "no watch got 410 Gone");
    let report = env.end(QUIET).await?;
    let seen = format!(
        "{expired} watches got 410 and listed again; objects deleted and edited meanwhile were repaired"
    );
    Ok(ScenarioResult::new("healthy again", took, 8.0, &report).fault("watches have expired", seen))
}

/// W4: every open watch stops forwarding events, and no connection is closed.
pub(crate) async fn watches_hang() -> Result<ScenarioResult> {
    let (env, greetings, names) = begin(ApiAccess::Proxied).await?;
    env.api_proxy()?.hang_watches();
    let start = Instant::now();
    greetings.change(&names, &json!({"text": "unheard"})).await?;
    until_greeted(&env, "Hello, unheard", &names).await?;
    let took = start.elapsed();
    ensure!(took.as_secs_f64() < HUNG_WATCH_S + 5.0, "a hung watch was replaced after {took:?}");
    ensure!(Duration::from_secs(5) < took, "the watches did not hang: {took:?}");
    let report = end(env, &greetings, &names).await?;
    let seen = "nothing, until each watch had been silent for 35 s; then it resumed";
    let outcome = ScenarioResult::new("noticed and done", took, HUNG_WATCH_S, &report);
    Ok(outcome.fault("watches hang, connections stay open", seen.to_owned()))
}

/// W5: the API server accepts connections and answers nothing for 12 s.
pub(crate) async fn the_api_server_hangs() -> Result<ScenarioResult> {
    let (env, greetings, names) = begin(ApiAccess::Proxied).await?;
    greetings.change(&names, &json!({"text": "first"})).await?;
    env.api_proxy()?.set(ApiLink::Silent);
    greetings.change(&names, &json!({"text": "silence"})).await?;
    elapse(Duration::from_secs(12)).await;
    let start = Instant::now();
    env.api_proxy()?.set(ApiLink::Clear);
    until_greeted(&env, "Hello, silence", &names).await?;
    env.until_healthy().await?;
    let took = start.elapsed();
    let report = end(env, &greetings, &names).await?;
    let seen = "requests ended at their deadline of 5 s and were tried again".to_owned();
    let outcome = ScenarioResult::new("healthy again", took, 8.0, &report);
    Ok(outcome.fault("the API server hangs for 12 s", seen))
}

/// W6: a primary hangs. Its Pod is deleted before another member takes over, so that it cannot continue as a primary.
pub(crate) async fn a_primary_hangs() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let (tag, hung) = primary(&env, 0).await?;
    env.writer()?.forget_outages();
    let pid = hung.server.pid()?;
    signal(pid, "STOP")?;
    let replaced = || async {
        let shard = |member: &ClusterPod| member.shard == hung.shard && member.pod != hung.pod;
        let others = env.redis.answering(&env.client).await?;
        let serves = others.iter().any(|member| shard(member) && member.serves(&tag));
        Ok(if serves { Poll::Done(()) } else { Poll::NotYet("no other member serves".to_owned()) })
    };
    let (_, replaced) = until("another member to serve", GIVE_UP, replaced).await?;
    let start = Instant::now();
    ensure!(
        signal(pid, "CONT").is_err(),
        "the hung process exists although another member serves its slots"
    );
    let (members, _) = env.until_healthy().await?;
    let took = start.elapsed();
    let now = find(&members, &hung.pod)?;
    ensure!(!now.server.is_primary(), "{} continued as the primary", now.pod);
    let outage = env.writer()?.outage(&tag)?;
    let report = env.end(QUIET).await?;
    let seen = format!(
        "replaced after {:.1} s, outage {:.1} s; it returned as a replica",
        replaced.as_secs_f64(),
        outage.as_secs_f64()
    );
    Ok(ScenarioResult::new("healthy again", took, 10.0, &report)
        .fault("a primary hangs (SIGSTOP)", seen))
}

/// W7: a replica is slow for 10 s: it runs a fifth of the time.
pub(crate) async fn a_replica_is_slow() -> Result<ScenarioResult> {
    let env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let members = env.redis.members(&env.client).await?;
    let replica = members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
    let pid = replica.server.pid()?;
    for _ in 0..20 {
        signal(pid, "STOP")?;
        elapse(Duration::from_millis(400)).await;
        signal(pid, "CONT")?;
        elapse(Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    let (after, _) = env.until_healthy().await?;
    let took = start.elapsed();
    same_processes(&members, &after)?;
    let report = env.end(QUIET).await?;
    let seen = "no failover, no restart".to_owned();
    Ok(ScenarioResult::new("in sync", took, 5.0, &report).fault("a replica is slow for 10 s", seen))
}

/// W8: the disk of the compile cache is full when new code arrives.
pub(crate) async fn the_disk_is_full() -> Result<ScenarioResult> {
    let disk = SmallDisk::mount()?;
    let setup = HostOptions { cache: Some(disk.path.clone()), ..HostOptions::default() };
    let (env, _, names) = begin(ApiAccess::Direct(setup)).await?;
    disk.fill()?;
    let start = Instant::now();
    env.put("config-maker.wasm", &guests::config_maker("Howdy")?)?;
    until_greeted(&env, "Howdy, before", &names).await?;
    let took = start.elapsed();
    let log = env.host_log()?;
    ensure!(
        log.contains("cannot store compiled code"),
        "the host did not log that the disk is full"
    );
    let plugin = env.plugin("config-maker")?;
    ensure!(plugin.pointer("/status/reason").is_none(), "the new code is refused: {plugin}");
    disk.empty()?;
    let start = Instant::now();
    env.put("config-maker.wasm", &guests::renamed(&guests::config_maker("Hello")?, 1))?;
    until_greeted(&env, "Hello, before", &names).await?;
    let emptied = start.elapsed();
    let report = env.end(QUIET).await?;
    let seen = format!(
        "a warning that names the folder; new code served from memory, and after space was freed \
         within {:.1} s",
        emptied.as_secs_f64()
    );
    let outcome = ScenarioResult::new("new code served", took, 2.0, &report);
    Ok(outcome.fault("the disk under the compile cache is full", seen))
}

/// W9: the host's wall clock jumps an hour ahead, then two hours back. After each jump new code arrives and a
/// primary is killed.
pub(crate) async fn the_clock_jumps() -> Result<ScenarioResult> {
    let clock = FakedClock::new()?;
    let setup = HostOptions { clock: Some(clock.clone()), ..HostOptions::default() };
    let (env, greetings, names) = begin(ApiAccess::Direct(setup)).await?;
    let (mut seen, mut slowest) = (Vec::new(), Duration::ZERO);
    for (shard, (ahead_s, code)) in [(HOUR_S, "Howdy"), (-HOUR_S, "Salut")].into_iter().enumerate()
    {
        clock.jump(ahead_s)?;
        until_clock_is(&env, ahead_s).await?;
        env.put("config-maker.wasm", &guests::config_maker(code)?)?;
        until_greeted(&env, &format!("{code}, before"), &names).await?;
        let (outage, took, _) = kill_a_primary(&env, shard).await?;
        seen.push(format!("{ahead_s:+} s: outage {:.1} s", outage.as_secs_f64()));
        slowest = slowest.max(took);
    }
    clock.jump(0)?;
    env.put("config-maker.wasm", &guests::config_maker("Hello")?)?;
    let report = end(env, &greetings, &names).await?;
    let outcome = ScenarioResult::new("healthy again", slowest, 10.0, &report);
    Ok(outcome.fault("the host's clock jumps", seen.join("; ")))
}

/// Waits until the host's log has times of a clock that is so far ahead; each poll makes the host log a line.
async fn until_clock_is(env: &TestEnvironment, ahead_s: i64) -> Result<()> {
    let component = guests::config_maker("Hello")?;
    let mut variant = 0;
    let poll = || {
        variant = u8::wrapping_add(variant, 1);
        let put = env.put("config-maker.wasm", &guests::renamed(&component, variant));
        async move {
            put?;
            let log = env.host_log()?;
            let time = log.lines().rev().find_map(|line| line.split(' ').next()?.parse().ok());
            let time: Timestamp = time.context("a line of the log begins with a time")?;
            let off_s = time.duration_since(Timestamp::now()).as_secs() - ahead_s;
            let near = off_s.abs() < HOUR_S / 2;
            Ok(if near { Poll::Done(()) } else { Poll::NotYet(format!("{off_s} s off")) })
        }
    };
    until(format!("the host's clock to be {ahead_s} s ahead"), GIVE_UP, poll).await.map(drop)
}

/// A small disk for one test; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs, which needs root.
    fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tholepin-disk-").tempdir()?;
        let path = directory.path().join("disk");
        fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "tholepin-test"]).arg(&path);
        let done = mount.output()?;
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(
            done.status.success(),
            "this scenario mounts a small disk; run it as root: {stderr}"
        );
        Ok(Self { path, directory })
    }

    fn fill(&self) -> Result<()> {
        let written = fs::write(self.ballast(), vec![1_u8; 80 << 20]);
        let error = written.err().context("80 MiB fit on a disk of 64 MiB")?;
        ensure!(error.kind() == std::io::ErrorKind::StorageFull, "{error}");
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    #[expect(clippy::print_stderr, reason = "a disk that stays mounted must be known")]
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let path: &Path = self.directory.path();
            eprintln!("cannot unmount {}/disk", path.display());
        }
    }
}
