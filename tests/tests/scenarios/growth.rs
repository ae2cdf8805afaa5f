//! A cluster is created and deleted two hundred times: the memory and file descriptors that the host and the
//! local cluster do not release.

use std::{fmt, fs, time::Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    core::DynamicObject,
};
use serde_json::json;
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    redis_cluster::{NAMESPACE, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    ScenarioResult,
    engine::resident_kib,
    load::{clusters, is_ready},
    print_line,
};

/// How many clusters are created and deleted.
const CYCLES: usize = 200;
/// After this many cycles every bounded cache is full.
const SETTLED: usize = 50;
/// After how many cycles the sizes are recorded each time.
const RECORD_EVERY: usize = 10;
/// How much the host may grow after [`SETTLED`] cycles, in KiB.
const HOST_GROWTH_MAX_KIB: u64 = 8 << 10;
/// How much the local cluster may grow after [`SETTLED`] cycles, in KiB.
const LOCAL_GROWTH_MAX_KIB: u64 = 64 << 10;
/// How many more file descriptors either may have, because it is measured while it works.
const DESCRIPTORS_MORE_MAX: usize = 16;

/// The size of a process.
#[derive(Clone, Copy, Debug)]
struct ProcessSize {
    resident_kib: u64,
    descriptors: usize,
}

impl ProcessSize {
    fn of(pid: u32) -> Result<Self> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { resident_kib: resident_kib(pid)?, descriptors })
    }
}

impl fmt::Display for ProcessSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB, {} descriptors", self.resident_kib >> 10, self.descriptors)
    }
}

/// The sizes of the two processes after a number of cycles.
#[derive(Clone, Copy, Debug)]
struct ProcessSizes {
    cycles: usize,
    host: ProcessSize,
    local: ProcessSize,
}

impl ProcessSizes {
    fn of(env: &TestEnvironment, cycles: usize) -> Result<Self> {
        let host = ProcessSize::of(env.host.pid())?;
        Ok(Self { cycles, host, local: ProcessSize::of(env.cluster.process.pid())? })
    }
}

/// L3: a cluster of one primary and one replica is created and deleted again and again.
pub(crate) async fn a_cluster_is_created_and_deleted_repeatedly() -> Result<ScenarioResult> {
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &[], "").await?;
    env.redis.create(&env.kubectl)?;
    env.until_healthy().await?;
    env.watch().await?;
    let clusters = clusters(&env.client);
    let pods = Api::namespaced(env.client.clone(), NAMESPACE);
    let start = Instant::now();
    let mut sizes_by_cycle = vec![ProcessSizes::of(&env, 0)?];
    for cycle in 1..=CYCLES {
        create_and_delete(&clusters, &pods, &format!("guest-{cycle:03}")).await?;
        if cycle.is_multiple_of(RECORD_EVERY) {
            let sizes = ProcessSizes::of(&env, cycle)?;
            print_line(&format!("L3 {cycle:3} cycles: host {}; local {}", sizes.host, sizes.local));
            sizes_by_cycle.push(sizes);
        }
    }
    let took = start.elapsed();
    judge(&sizes_by_cycle)?;
    let report = env.end(QUIET).await?;
    let ends = sizes_by_cycle.iter().filter(|sizes| [0, SETTLED, CYCLES].contains(&sizes.cycles));
    let outcome = ScenarioResult::new("200 clusters created and deleted", took, 400.0, &report);
    Ok(ends.fold(outcome, |outcome, ProcessSizes { cycles, host, local }| {
        outcome.note(format!("after {cycles}: host {host}, local {local}"))
    }))
}

/// Compares the sizes after [`SETTLED`] cycles with all later ones.
fn judge(sizes_by_cycle: &[ProcessSizes]) -> Result<()> {
    let settled = sizes_by_cycle.iter().skip_while(|sizes| sizes.cycles < SETTLED);
    let Some(base) = settled.clone().next() else { bail!("no size was recorded") };
    for now in settled {
        let pairs = [
            ("host", base.host, now.host, HOST_GROWTH_MAX_KIB),
            ("local cluster", base.local, now.local, LOCAL_GROWTH_MAX_KIB),
        ];
        for (what, before, after, growth_max_kib) in pairs {
            let cycles = now.cycles;
            ensure!(
                after.resident_kib <= before.resident_kib + growth_max_kib,
                "the {what} grew from {before} after {SETTLED} cycles to {after} after {cycles}"
            );
            ensure!(
                after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX,
                "the {what} had {before} after {SETTLED} cycles and {after} after {cycles}"
            );
        }
    }
    Ok(())
}

/// Creates a cluster, waits until it is ready, deletes it, and waits until its Pods are deleted.
async fn create_and_delete(
    clusters: &Api<DynamicObject>,
    pods: &Api<Pod>,
    name: &str,
) -> Result<()> {
    let cluster = json!({
        "apiVersion": "redis.tholepin.dev/v1alpha1",
        "kind": "RedisCluster",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "shards": 1,
            "replicasPerShard": 1,
            "image": "redis:7.0",
            "failover": {"nodeTimeoutMs": 2000},
        },
    });
    clusters.create(&PostParams::default(), &serde_json::from_value(cluster)?).await?;
    let poll = || async {
        let is_ready = is_ready(&clusters.get(name).await?);
        Ok(if is_ready { Poll::Done(()) } else { Poll::NotYet("not Ready".to_owned()) })
    };
    until(format!("{name} to be ready"), GIVE_UP, poll).await?;
    clusters.delete(name, &DeleteParams::default()).await?;
    let own_pods = ListParams::default().labels(&format!("redis.tholepin.dev/cluster={name}"));
    let poll = || async {
        let object = clusters.get_opt(name).await?;
        let pods = pods.list(&own_pods).await?.items.len();
        let is_deleted = object.is_none() && pods == 0;
        Ok(if is_deleted { Poll::Done(()) } else { Poll::NotYet(format!("{pods} Pods")) })
    };
    until(format!("{name} to be deleted"), GIVE_UP, poll).await.map(drop)
}
