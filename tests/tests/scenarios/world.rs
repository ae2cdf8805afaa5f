//! The world goes bad and comes back: the API server is away, hangs or forgets; Redis hangs; a disk is
//! full. Each story tells what was seen and how long it took until all was well again.

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
    wait::{Poll, until},
};

use crate::{
    ScenarioResult,
    engine::greeted,
    healing::{find, healed, kill_a_primary, primary, same_processes},
    objects::TestObjects,
};

/// How many objects of the test kind there are.
const GREETINGS: usize = 20;
/// What a watch that hangs may cost: the server ends it after 30 s, five more are allowed.
const HUNG_WATCH_S: f64 = 35.0;
const HOUR_S: i64 = 3_600;
/// How many changes push the oldest out of the API server's memory of one kind.
const CHANGES: usize = 2_200;

/// A story in which the host reaches the API server through a proxy, with greetings beside the cluster.
async fn begin(reach: ApiAccess) -> Result<(TestEnvironment, TestObjects, Vec<String>)> {
    let plugins = [("config-maker", guests::config_maker("Hello")?)];
    let mut story = TestEnvironment::begin_by(reach, RedisCluster::USUAL, &plugins, "").await?;
    story.redis.create(&story.kubectl)?;
    let greetings = TestObjects::new(&story.client, "Greeting");
    let names = greetings.create(GREETINGS, |_| json!({"text": "before"})).await?;
    story.well().await?;
    greeted(&story, "Hello, before", &names).await?;
    story.watch().await?;
    Ok((story, greetings, names))
}

/// Changes the greetings back and hears the oracles.
async fn end(
    story: TestEnvironment,
    greetings: &TestObjects,
    names: &[String],
) -> Result<WriterReport> {
    greetings.change(names, &json!({"text": "before"})).await?;
    greeted(&story, "Hello, before", names).await?;
    story.end(QUIET).await
}

/// W1: the API server is away for 10 s.
pub(crate) async fn the_api_server_is_away_for_ten_seconds() -> Result<ScenarioResult> {
    away(Duration::from_secs(10), "the API server is away for 10 s").await
}

/// W2: the API server is away for 60 s.
pub(crate) async fn the_api_server_is_away_for_a_minute() -> Result<ScenarioResult> {
    away(Duration::from_secs(60), "the API server is away for 60 s").await
}

/// A primary dies, objects are changed and a plugin is swapped, all while the host reaches no API
/// server.
async fn away(time: Duration, fault: &'static str) -> Result<ScenarioResult> {
    let (story, greetings, names) = begin(ApiAccess::Proxied).await?;
    let (tag, died) = primary(&story, 0).await?;
    let before = story.plugin("config-maker")?;
    story.road()?.set(ApiLink::Cut);
    story.writer()?.forget_outages();
    signal(died.member.pid()?, "KILL")?;
    greetings.change(&names, &json!({"text": "meanwhile"})).await?;
    story.put("config-maker.wasm", &guests::config_maker("Howdy")?)?;
    tokio::time::sleep(time).await;
    let outage = story.writer()?.outage(&tag)?;
    ensure!(story.plugin("config-maker")? == before, "the host wrote although it was cut off");

    let start = Instant::now();
    story.road()?.set(ApiLink::Clear);
    let all = async {
        greeted(&story, "Howdy, meanwhile", &names).await?;
        healed(&story, &died).await
    };
    all.await.context("after the API server was back")?;
    let took = start.elapsed();
    let swapped = || async {
        let now = story.plugin("config-maker")?;
        let swapped = now.pointer("/status/active") != before.pointer("/status/active");
        Ok(if swapped { Poll::There(()) } else { Poll::NotYet(now.to_string()) })
    };
    until("the swap to be told", GIVE_UP, swapped).await?;
    let log = story.host_log()?;
    story.put("config-maker.wasm", &guests::config_maker("Hello")?)?;
    let failing = log.lines().filter(|line| line.contains("watch waits")).count();
    ensure!(0 < failing, "the host did not say that its watches fail");
    let report = end(story, &greetings, &names).await?;
    let seen = format!(
        "{failing} warnings about watches; new code served within; writes to the dead primary's slots \
         went on after {:.1} s, by the cluster's own vote",
        outage.as_secs_f64()
    );
    Ok(ScenarioResult::new("well again", took, 8.0, &report).fault(fault, seen))
}

/// W3: the API server is away, and so much changes meanwhile that no watch can go on where it was.
pub(crate) async fn watches_have_expired() -> Result<ScenarioResult> {
    let (story, _, names) = begin(ApiAccess::Proxied).await?;
    let maps: Api<ConfigMap> = Api::namespaced(story.client.clone(), NAMESPACE);
    let road = story.road()?;
    road.set(ApiLink::Cut);
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
    road.set(ApiLink::Clear);
    greeted(&story, "Hello, before", &names).await?;
    let took = start.elapsed();
    let expired = road.expired();
    ensure!(0 < expired, "no watch was told that its position is too old");
    let report = story.end(QUIET).await?;
    let seen = format!(
        "{expired} watches were told 410 and listed anew; what was deleted and edited meanwhile was found"
    );
    Ok(ScenarioResult::new("well again", took, 8.0, &report).fault("watches have expired", seen))
}

/// W4: every open watch goes silent; nobody closes a connection.
pub(crate) async fn watches_hang() -> Result<ScenarioResult> {
    let (story, greetings, names) = begin(ApiAccess::Proxied).await?;
    story.road()?.hang_watches();
    let start = Instant::now();
    greetings.change(&names, &json!({"text": "unheard"})).await?;
    greeted(&story, "Hello, unheard", &names).await?;
    let took = start.elapsed();
    ensure!(took.as_secs_f64() < HUNG_WATCH_S + 5.0, "a hung watch was noticed after {took:?}");
    ensure!(Duration::from_secs(5) < took, "the watches did not hang: {took:?}");
    let report = end(story, &greetings, &names).await?;
    let seen = "nothing, until each watch had been silent for 35 s; then it went on where it was";
    let outcome = ScenarioResult::new("noticed and done", took, HUNG_WATCH_S, &report);
    Ok(outcome.fault("watches hang, connections stay open", seen.to_owned()))
}

/// W5: the API server takes connections and answers nothing for 12 s.
pub(crate) async fn the_api_server_hangs() -> Result<ScenarioResult> {
    let (story, greetings, names) = begin(ApiAccess::Proxied).await?;
    greetings.change(&names, &json!({"text": "first"})).await?;
    story.road()?.set(ApiLink::Silent);
    greetings.change(&names, &json!({"text": "silence"})).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let start = Instant::now();
    story.road()?.set(ApiLink::Clear);
    greeted(&story, "Hello, silence", &names).await?;
    story.well().await?;
    let took = start.elapsed();
    let report = end(story, &greetings, &names).await?;
    let seen = "requests ended at their deadline of 5 s and were tried again".to_owned();
    let outcome = ScenarioResult::new("well again", took, 8.0, &report);
    Ok(outcome.fault("the API server hangs for 12 s", seen))
}

/// W6: a primary hangs until the others have replaced it, and then goes on.
pub(crate) async fn a_primary_hangs() -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let (tag, hung) = primary(&story, 0).await?;
    story.writer()?.forget_outages();
    let pid = hung.member.pid()?;
    signal(pid, "STOP")?;
    let replaced = || async {
        let shard = |seat: &ClusterPod| seat.shard == hung.shard && seat.pod != hung.pod;
        let others = story.redis.answering(&story.client).await?;
        let serves = others.iter().any(|seat| shard(seat) && seat.serves(&tag));
        Ok(if serves { Poll::There(()) } else { Poll::NotYet("nobody else serves".to_owned()) })
    };
    let (_, replaced) = until("another to serve", GIVE_UP, replaced).await?;
    let start = Instant::now();
    signal(pid, "CONT")?;
    let (seats, _) = story.well().await?;
    let took = start.elapsed();
    let now = find(&seats, &hung.pod)?;
    ensure!(!now.member.is_primary(), "{} went on as the primary", now.pod);
    let outage = story.writer()?.outage(&tag)?;
    let report = story.end(QUIET).await?;
    let seen = format!(
        "replaced after {:.1} s by the cluster's vote, outage {:.1} s; it came back as a replica",
        replaced.as_secs_f64(),
        outage.as_secs_f64()
    );
    Ok(ScenarioResult::new("well again", took, 10.0, &report)
        .fault("a primary hangs (SIGSTOP)", seen))
}

/// W7: a replica answers slowly for 10 s: it runs a fifth of the time.
pub(crate) async fn a_replica_is_slow() -> Result<ScenarioResult> {
    let story = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let seats = story.redis.seats(&story.client).await?;
    let replica = seats.iter().find(|seat| !seat.member.is_primary()).context("a replica")?;
    let pid = replica.member.pid()?;
    for _ in 0..20 {
        signal(pid, "STOP")?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        signal(pid, "CONT")?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    let (after, _) = story.well().await?;
    let took = start.elapsed();
    same_processes(&seats, &after)?;
    let report = story.end(QUIET).await?;
    let seen = "no failover, no restart".to_owned();
    Ok(ScenarioResult::new("in sync", took, 5.0, &report).fault("a replica is slow for 10 s", seen))
}

/// W8: there is no room for compiled code; new code arrives.
pub(crate) async fn the_disk_is_full() -> Result<ScenarioResult> {
    let disk = SmallDisk::mount()?;
    let setup = HostOptions { cache: Some(disk.path.clone()), ..HostOptions::default() };
    let (story, _, names) = begin(ApiAccess::Direct(setup)).await?;
    disk.fill()?;
    let start = Instant::now();
    story.put("config-maker.wasm", &guests::config_maker("Howdy")?)?;
    greeted(&story, "Howdy, before", &names).await?;
    let took = start.elapsed();
    let log = story.host_log()?;
    ensure!(
        log.contains("compiled code cannot be kept"),
        "the host did not say that there is no room"
    );
    let plugin = story.plugin("config-maker")?;
    ensure!(plugin.pointer("/status/reason").is_none(), "the new code is refused: {plugin}");
    disk.empty()?;
    let start = Instant::now();
    story.put("config-maker.wasm", &guests::renamed(&guests::config_maker("Hello")?, 1))?;
    greeted(&story, "Hello, before", &names).await?;
    let emptied = start.elapsed();
    let report = story.end(QUIET).await?;
    let seen = format!(
        "a warning that says where to make room; new code served from memory, and after room was made \
         within {:.1} s",
        emptied.as_secs_f64()
    );
    let outcome = ScenarioResult::new("new code served", took, 2.0, &report);
    Ok(outcome.fault("the disk under the compile cache is full", seen))
}

/// W9: the host's wall clock jumps an hour ahead, then two hours back. After each jump new code comes and a
/// primary dies.
pub(crate) async fn the_clock_jumps() -> Result<ScenarioResult> {
    let clock = FakedClock::new()?;
    let setup = HostOptions { clock: Some(clock.clone()), ..HostOptions::default() };
    let (story, greetings, names) = begin(ApiAccess::Direct(setup)).await?;
    let (mut seen, mut slowest) = (Vec::new(), Duration::ZERO);
    for (shard, (ahead_s, code)) in [(HOUR_S, "Howdy"), (-HOUR_S, "Salut")].into_iter().enumerate()
    {
        clock.jump(ahead_s)?;
        lives_at(&story, ahead_s).await?;
        story.put("config-maker.wasm", &guests::config_maker(code)?)?;
        greeted(&story, &format!("{code}, before"), &names).await?;
        let (outage, took, _) = kill_a_primary(&story, shard).await?;
        seen.push(format!("{ahead_s:+} s: outage {:.1} s", outage.as_secs_f64()));
        slowest = slowest.max(took);
    }
    clock.jump(0)?;
    story.put("config-maker.wasm", &guests::config_maker("Hello")?)?;
    let report = end(story, &greetings, &names).await?;
    let outcome = ScenarioResult::new("well again", slowest, 10.0, &report);
    Ok(outcome.fault("the host's clock jumps", seen.join("; ")))
}

/// Waits until the host's log tells times of a clock that is so far ahead; each look has it tell one.
async fn lives_at(story: &TestEnvironment, ahead_s: i64) -> Result<()> {
    let component = guests::config_maker("Hello")?;
    let mut variant = 0;
    let look = || {
        variant = u8::wrapping_add(variant, 1);
        let put = story.put("config-maker.wasm", &guests::renamed(&component, variant));
        async move {
            put?;
            let log = story.host_log()?;
            let time = log.lines().rev().find_map(|line| line.split(' ').next()?.parse().ok());
            let time: Timestamp = time.context("a line of the log begins with a time")?;
            let off_s = time.duration_since(Timestamp::now()).as_secs() - ahead_s;
            let near = off_s.abs() < HOUR_S / 2;
            Ok(if near { Poll::There(()) } else { Poll::NotYet(format!("{off_s} s off")) })
        }
    };
    until(format!("the host's clock to be {ahead_s} s ahead"), GIVE_UP, look).await.map(drop)
}

/// A small disk of the test's own; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Needs root, or the right to mount.
    fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tholepin-disk-").tempdir()?;
        let path = directory.path().join("disk");
        fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "tholepin-test"]).arg(&path);
        let done = mount.output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "this story mounts a small disk, run it as root: {said}");
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
