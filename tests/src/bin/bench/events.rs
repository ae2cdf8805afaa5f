//! From a change of an object to the reconcile that it causes, at 1,000 objects of a test kind.
//!
//! The clock is the machine's, read by the client right before it sends the change, and by the host's log
//! when the guest that was entered says which change it sees: both are microseconds of one clock.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use ::tests::{
    cluster::LocalClusterProcess,
    guests,
    redis_cluster::NAMESPACE,
    wait::{Poll, until},
};
use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    objects, proc,
    table::{BenchRow, RowUnit},
};

const OBJECTS: u32 = 1_000;
const CHANGES: u32 = 1_000;
/// One change after the other at this pace, whether or not the one before was seen: so that a slow one
/// does not hide that those behind it wait.
const PACE: Duration = Duration::from_millis(10);
/// Spreads the changes over the objects; has no divisor in common with their number.
const STRIDE: u32 = 617;
const GOAL_P99_MS: f64 = 10.0;
const GOAL_BYTES: f64 = 256.0 * 1024.0 * 1024.0;
/// After this what was not seen is given up.
const SEEN_MAX: Duration = Duration::from_secs(60);
/// What the guest says before the number that it sees.
const TOLD: &str = "told number ";

/// Measures it.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let cluster = LocalClusterProcess::start_api_only()?;
    let client = cluster.client().await?;
    cluster.kubectl()?.run_with(&["apply", "-f", "-"], guests::PROBES)?;
    guests::install(&cluster.plugins()?, "probe", &guests::probe()?)?;
    let host = cluster.host()?;
    let probes = objects::api(&client, ["tests.tholepin.dev", "v1", "Probe"]);
    objects::create(&probes, "bench", (0..OBJECTS).map(probe)).await?;
    // Each says its own number once at least, beyond those of the changes.
    seen(&cluster, (0..OBJECTS).map(|number| CHANGES + number)).await?;

    let sent = change(&probes).await?;
    let told = seen(&cluster, 0..CHANGES).await?;
    let mut waited = Vec::new();
    for (number, (at, _)) in &sent {
        let entered = told.get(number).with_context(|| format!("change {number} was not seen"))?;
        waited.push(Duration::try_from(entered.duration_since(*at)).context("a clock went back")?);
    }
    let answered: Vec<Duration> = sent.values().map(|(_, took)| *took).collect();
    let answered = BenchRow::ms("change answered by the API server, 1,000 objects", &answered);
    let memory = proc::resident_bytes(host.pid())?;
    Ok(vec![
        BenchRow::ms("change sent to guest entered, 1,000 objects", &waited)
            .goal_p99(GOAL_P99_MS)
            .beside("its answer", &answered),
        answered,
        BenchRow::new("host's memory, 1,000 objects", RowUnit::Bytes, vec![memory])
            .goal(GOAL_BYTES),
    ])
}

fn probe(number: u32) -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Probe",
        "metadata": {"name": name(number), "namespace": NAMESPACE},
        "spec": {"do": "tell", "number": CHANGES + number},
    })
}

fn name(number: u32) -> String {
    format!("object-{number:04}")
}

/// Sends the changes; gives when each was sent, and how long the API server took to answer.
async fn change(probes: &Api<DynamicObject>) -> Result<BTreeMap<u32, (Timestamp, Duration)>> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = JoinSet::new();
    for number in 0..CHANGES {
        ticks.tick().await;
        let probes = probes.clone();
        changes.spawn(async move {
            let object = name(number * STRIDE % OBJECTS);
            let patch = Patch::Merge(json!({"spec": {"number": number}}));
            let (at, start) = (Timestamp::now(), Instant::now());
            probes.patch(&object, &PatchParams::default(), &patch).await?;
            anyhow::Ok((number, (at, start.elapsed())))
        });
    }
    let mut sent = BTreeMap::new();
    while let Some(change) = changes.join_next().await {
        sent.extend([change??]);
    }
    ensure!(sent.len() == usize::try_from(CHANGES)?, "{} changes were sent", sent.len());
    Ok(sent)
}

/// Waits until the host has logged all these numbers; gives when each was first.
async fn seen(
    cluster: &LocalClusterProcess,
    numbers: impl Iterator<Item = u32> + Clone,
) -> Result<BTreeMap<u32, Timestamp>> {
    let look = || async {
        let told = delivered(&fs::read_to_string(cluster.host_log())?)?;
        let missing = numbers.clone().filter(|number| !told.contains_key(number)).count();
        let wait = || Poll::NotYet(format!("{missing} are missing"));
        Ok(if missing == 0 { Poll::There(told) } else { wait() })
    };
    Ok(until("each change to be seen", SEEN_MAX, look).await?.0)
}

/// When each number was told first, by a log.
fn delivered(log: &str) -> Result<BTreeMap<u32, Timestamp>> {
    let mut told = BTreeMap::new();
    for line in log.lines() {
        let Some((_, number)) = line.split_once(TOLD) else { continue };
        // The last line may be half written: its number is told by whoever looks next.
        let Some((number, _)) = number.split_once('.') else { continue };
        let time = line.split_whitespace().next().context("a line begins with its time")?;
        told.entry(number.parse()?).or_insert(time.parse().context("a time")?);
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts_and_half_a_line_does_not() {
        let log = "2026-11-21T14:00:00.000100Z  INFO reconcile: plugin: told number 7.\n\
                   2026-11-21T14:00:01Z  INFO other\n\
                   2026-11-21T14:00:02.5Z  INFO reconcile: plugin: told number 7.\n\
                   2026-11-21T14:00:03Z  INFO reconcile: plugin: told number 1";
        let told = delivered(log).unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[&7].to_string(), "2026-11-21T14:00:00.0001Z");
    }
}
