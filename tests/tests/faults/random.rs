//! Random faults, one after the other, with a running writer. The faults, their times and their targets follow
//! from the seed alone. The seed is printed first, so that a run that lost something can be repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use serde_json::json;
use tests::{
    api_proxy::ApiLink,
    environment::{ApiAccess, QUIET, TestEnvironment},
    guests,
    oracle::WriterReport,
    process::signal,
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, elapse, until},
};

use crate::{fixture, print_line, table::FaultRows};

/// How long a cluster may take to be healthy again after each fault.
const HEAL_DEADLINE: Duration = Duration::from_secs(180);
/// The longest time that a server is stopped, that the API server is away, and that a spec or a Secret is wrong.
const STOPPED_MAX: Duration = Duration::from_secs(8);
const AWAY_MAX: Duration = Duration::from_secs(10);
const WRONG_MAX: Duration = Duration::from_secs(8);
/// The longest pause between two faults of which the second need not wait for the end of the first.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How many restarts a Pod may have before its container is no longer killed.
const RESTARTS_MAX: i32 = 3;
/// How long the slots of a running primary may be unserved: one that was stopped and continues waits for up to
/// 5 s (Redis' longest rejoin delay) before it serves again.
const UNSERVED_MAX: Duration = Duration::from_secs(8);
/// How many minutes the runs on both shapes take together.
const MINUTES: u64 = 20;

/// A fault of the cluster or of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Delete,
    DeleteByForce,
    Stop,
    Forget,
    Reset,
    HostKill,
    Swap,
    InvalidSpec,
    Secret,
    ApiAway,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Kill,
        Self::Delete,
        Self::DeleteByForce,
        Self::Stop,
        Self::Forget,
        Self::Reset,
        Self::HostKill,
        Self::Swap,
        Self::InvalidSpec,
        Self::Secret,
        Self::ApiAway,
    ];

    /// Returns true if the fault hits one member, so that its shard depends on the other members.
    const fn hits_a_member(self) -> bool {
        match self {
            Self::Kill
            | Self::Delete
            | Self::DeleteByForce
            | Self::Stop
            | Self::Forget
            | Self::Reset => true,
            Self::HostKill | Self::Swap | Self::InvalidSpec | Self::Secret | Self::ApiAway => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::DeleteByForce => "delete --force",
            Self::Stop => "SIGSTOP",
            Self::Forget => "FORGET",
            Self::Reset => "RESET of a replica",
            Self::HostKill => "host kill",
            Self::Swap => "plugin swap",
            Self::InvalidSpec => "invalid spec",
            Self::Secret => "Secret changed",
            Self::ApiAway => "API away",
        })
    }
}

/// SplitMix64: the same sequence for a seed on every machine and in every version.
struct SplitMix64(u64);

impl SplitMix64 {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn choose<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(among.len()).ok().filter(|count| *count != 0)?;
        among.get(usize::try_from(self.next() % count).ok()?)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let most = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(500 + self.next() % most)
    }
}

/// A change that must be undone later.
enum PendingUndo {
    Continue { pid: u32, pod: String },
    Spec,
    Secret,
    ApiLink,
}

/// The state of a run.
struct RandomRun {
    env: TestEnvironment,
    /// When the writer was started.
    start: Instant,
    random: SplitMix64,
    undo: Vec<(Instant, PendingUndo)>,
    counts: BTreeMap<Fault, usize>,
    swaps: u8,
}

/// Returns how long the random faults on both shapes take together.
pub(crate) fn time() -> Duration {
    let minutes = env::var("MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(MINUTES);
    Duration::from_secs(minutes * 60)
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let given = env::var("SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| u64::from(now().subsec_nanos()))
}

/// Injects random faults into one cluster, for half of the time.
pub(crate) async fn faults(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (seed, time) = (seed(), time() / 2);
    let kept = if redis.storage { "storage" } else { "memory" };
    print_line(&format!("random faults, {kept}: SEED={seed} for {} s", time.as_secs()));
    let (mut env, _) = fixture::begin_with(redis, ApiAccess::Proxied, |_| {}).await?;
    env.watch_with(UNSERVED_MAX).await?;
    let random = SplitMix64(seed);
    let counts = BTreeMap::new();
    let start = Instant::now();
    let mut run = RandomRun { env, start, random, undo: Vec::new(), counts, swaps: 0 };
    let input = format!("random faults, SEED={seed}");
    let deadline = time + HEAL_DEADLINE * 2;
    rows.row(
        &input,
        "0 lost of 611,000 in 300 s, where a copy was in sync",
        deadline,
        async |row| {
            let end = Instant::now() + time;
            let result = run.until(end).await;
            let counts = run.counts.iter().map(|(fault, count)| format!("{fault} {count}"));
            row.observed(counts.collect::<Vec<_>>().join(", "));
            result?;
            run.settle().await?;
            let report = run.env.take_writes()?;
            let WriterReport { acknowledged, lost, longest_outage } = &report;
            row.keys_before(*acknowledged);
            row.keys_after(acknowledged - lost.len());
            row.observed(format!(
                "{acknowledged} acknowledged, {} lost, longest gap {:.1} s",
                lost.len(),
                longest_outage.as_secs_f64()
            ));
            ensure!(lost.is_empty(), "lost: {}", lost.join(", "));
            run.env.watch_writes().await
        },
    )
    .await;
    if rows.is_green() { run.env.end(QUIET).await.map(drop) } else { fixture::end(rows, run.env) }
}

impl RandomRun {
    /// Injects one fault after the other until `end`.
    async fn until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            let chosen = *self.random.choose(&Fault::ALL).context("there are faults")?;
            let target = if chosen.hits_a_member() { self.target(chosen).await? } else { None };
            let fault = self.avoid_back_off(chosen, target.as_ref()).await?;
            let on = target.as_ref().map(|member| member.pod.clone()).unwrap_or_default();
            self.print_line(&format!("{fault} {on}"));
            *self.counts.entry(fault).or_default() += 1;
            self.inject(fault, target).await.with_context(|| format!("{fault} {on}"))?;
            if self.env.redis.storage {
                let pause = self.random.up_to(PAUSE_MAX);
                self.undo_until(Instant::now() + pause).await?;
            } else {
                self.settle().await.with_context(|| format!("after {fault} {on}"))?;
            }
        }
        Ok(())
    }

    /// Prints a line with the time since the writer's start, which lost keys are printed with too.
    fn print_line(&self, what: &str) {
        print_line(&format!("  {:.3} s: {what}", self.start.elapsed().as_secs_f64()));
    }

    /// Replaces the fault `kill` by `delete` if the Pod was restarted often: its container would be restarted only
    /// after minutes of back-off, which says nothing about the product.
    async fn avoid_back_off(&self, fault: Fault, target: Option<&ClusterPod>) -> Result<Fault> {
        let (Fault::Kill, Some(member)) = (fault, target) else { return Ok(fault) };
        let restarts = fixture::restarts(&self.env).await?;
        let often =
            restarts.iter().any(|(pod, count)| *pod == member.pod && RESTARTS_MAX <= *count);
        Ok(if often { Fault::Delete } else { fault })
    }

    /// Undoes every change that is due before `end`, and waits until `end`.
    async fn undo_until(&mut self, end: Instant) -> Result<()> {
        while let Some(at) = self.undo.iter().map(|(at, _)| *at).min().filter(|at| *at <= end) {
            elapse(at.saturating_duration_since(Instant::now())).await;
            let due = self.undo.iter().position(|(due, _)| *due == at);
            let (_, undo) = self.undo.swap_remove(due.context("the next")?);
            self.undo_now(&undo)?;
        }
        elapse(end.saturating_duration_since(Instant::now())).await;
        Ok(())
    }

    /// Undoes every change, and waits until the cluster is healthy.
    async fn settle(&mut self) -> Result<()> {
        if let Some(last) = self.undo.iter().map(|(at, _)| *at).max() {
            self.undo_until(last).await?;
        }
        fixture::until_healthy(&self.env, HEAL_DEADLINE).await.map(drop)
    }

    /// Chooses the member to hit: one of a shard whose other members are all in sync.
    async fn target(&mut self, fault: Fault) -> Result<Option<ClusterPod>> {
        let number = self.random.next();
        if !self.env.redis.storage {
            let (members, _) = fixture::until_healthy(&self.env, HEAL_DEADLINE).await?;
            return Ok(chosen(fault, &members, number));
        }
        // A stopped member must not meet the next fault in the same shard.
        self.undo_until(Instant::now()).await?;
        let lasting =
            self.undo.iter().any(|(_, undo)| matches!(undo, PendingUndo::Continue { .. }));
        if lasting {
            self.settle().await?;
        }
        let poll = || async {
            let members = self.env.redis.answering(&self.env.client).await?;
            let whole = whole_shards(&self.env.redis, members);
            Ok(match chosen(fault, &whole, number) {
                Some(member) => Poll::Done(member),
                None => Poll::NotYet("no shard is whole".to_owned()),
            })
        };
        Ok(Some(until("a shard that is whole", HEAL_DEADLINE, poll).await?.0))
    }

    async fn inject(&mut self, fault: Fault, target: Option<ClusterPod>) -> Result<()> {
        let member = || target.as_ref().context("a member");
        let pod = target.as_ref().map(|member| member.pod.as_str()).unwrap_or_default();
        match fault {
            Fault::Kill => signal(member()?.server.pid()?, "KILL")?,
            Fault::Delete => {
                self.env.kubectl.run(&["delete", "pod", pod, "--wait=false"])?;
            }
            Fault::DeleteByForce => {
                let delete = ["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"];
                self.env.kubectl.run(&delete)?;
            }
            Fault::Stop => {
                let pid = member()?.server.pid()?;
                signal(pid, "STOP")?;
                self.undo_later(STOPPED_MAX, PendingUndo::Continue { pid, pod: pod.to_owned() });
            }
            Fault::Forget => self.forget(member()?).await?,
            Fault::Reset => {
                let mut connection = connect(&member()?.address, Some(PASSWORD))?;
                // The reply is ignored: a busy machine may answer late.
                cmd("CLUSTER").arg("RESET").arg("SOFT").query::<()>(&mut connection).ok();
            }
            Fault::HostKill => {
                self.env.host.kill()?;
                let pause = self.random.up_to(Duration::from_secs(3));
                self.undo_until(Instant::now() + pause).await?;
                // A host that finds no API server waits for it.
                let away =
                    self.undo.iter().position(|(_, undo)| matches!(undo, PendingUndo::ApiLink));
                match away.map(|away| self.undo.swap_remove(away).0) {
                    Some(until) => self.env.restart_while_away(until)?,
                    None => drop(self.env.restart()?),
                }
            }
            Fault::Swap => {
                self.swaps = self.swaps.wrapping_add(1);
                let component = guests::renamed(&guests::redis_cluster()?, self.swaps);
                self.env.put("redis-cluster.wasm", &component)?;
            }
            Fault::InvalidSpec => {
                fixture::patch(&self.env, &json!({"spec": {"settings": {"maxmemry": "1gb"}}}))?;
                self.undo_later(WRONG_MAX, PendingUndo::Spec);
            }
            Fault::Secret => {
                set_password(&self.env, "another password")?;
                self.undo_later(WRONG_MAX, PendingUndo::Secret);
            }
            Fault::ApiAway => {
                self.env.api_proxy()?.set(ApiLink::Cut);
                self.undo_later(AWAY_MAX, PendingUndo::ApiLink);
            }
        }
        Ok(())
    }

    /// Makes all other members forget one; its own replicas refuse that.
    async fn forget(&self, forgotten: &ClusterPod) -> Result<()> {
        let id = &forgotten.server.own()?.id;
        for other in self.env.redis.answering(&self.env.client).await? {
            let mut connection = connect(&other.address, Some(PASSWORD))?;
            // A node refuses to forget itself or its own primary.
            cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection).ok();
        }
        Ok(())
    }

    fn undo_later(&mut self, longest: Duration, undo: PendingUndo) {
        let at = Instant::now() + self.random.up_to(longest);
        self.undo.push((at, undo));
    }

    fn undo_now(&self, undo: &PendingUndo) -> Result<()> {
        match undo {
            // An error is ignored: the liveness probe may have killed the process meanwhile.
            PendingUndo::Continue { pid, pod } => {
                self.print_line(&format!("SIGCONT {pod}"));
                drop(signal(*pid, "CONT"));
            }
            PendingUndo::Spec => {
                // The original spec has no settings.
                fixture::patch(&self.env, &json!({"spec": {"settings": null}}))?;
            }
            PendingUndo::Secret => set_password(&self.env, PASSWORD)?,
            PendingUndo::ApiLink => self.env.api_proxy()?.set(ApiLink::Clear),
        }
        Ok(())
    }
}

fn set_password(env: &TestEnvironment, password: &str) -> Result<()> {
    fixture::patch_of(env, "secret", "password", &json!({"stringData": {"password": password}}))
}

/// Chooses one of these members; for a reset, a replica.
fn chosen(fault: Fault, members: &[ClusterPod], number: u64) -> Option<ClusterPod> {
    let fits = |member: &&ClusterPod| fault != Fault::Reset || !member.server.is_primary();
    let fitting: Vec<_> = members.iter().filter(fits).collect();
    let count = u64::try_from(fitting.len()).ok().filter(|count| *count != 0)?;
    let at = usize::try_from(number % count).ok()?;
    fitting.get(at).copied().cloned()
}

/// Returns the members of those shards of which every member runs and is in sync.
fn whole_shards(redis: &RedisCluster, members: Vec<ClusterPod>) -> Vec<ClusterPod> {
    let in_order =
        |member: &ClusterPod| member.server.check_healthy(redis.pods(), redis.shards).is_ok();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members.iter().filter(|member| in_order(member)) {
        *count.entry(&member.shard).or_default() += 1;
    }
    let expected = 1 + redis.replicas;
    let whole = count.into_iter().filter(|(_, count)| *count == expected);
    let whole: BTreeSet<_> = whole.map(|(shard, _)| shard.to_owned()).collect();
    members.into_iter().filter(|member| whole.contains(&member.shard)).collect()
}
