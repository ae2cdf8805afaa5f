//! The time from a change of an object to the reconcile that it causes, with 1,000 objects of a test kind.
//!
//! The start is read right before the client sends the change, the end is the time of the host's log line in
//! which the guest names the change: both are microseconds of the machine's clock.

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
/// The time between two changes, whether or not the previous one was seen: so that a slow reconcile does not
/// hide the waiting time of those behind it.
const PACE: Duration = Duration::from_millis(10);
/// Spreads the changes over the objects; coprime to their number.
const STRIDE: u32 = 617;
const GOAL_P99_MS: f64 = 10.0;
const GOAL_BYTES: f64 = 256.0 * 1024.0 * 1024.0;
/// How long the host may take to log all changes.
const SEEN_MAX: Duration = Duration::from_secs(60);
/// The guest logs this text before the number that it sees.
const NUMBER_PREFIX: &str = "told number ";

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let cluster = LocalClusterProcess::start_api_only()?;
    let client = cluster.client().await?;
    cluster.kubectl()?.run_with(&["apply", "-f", "-"], guests::PROBES)?;
    guests::install(&cluster.plugins()?, "probe", &guests::probe()?)?;
    let host = cluster.host()?;
    let probes = objects::api(&client, ["tests.tholepin.dev", "v1", "Probe"]);
    objects::create(&probes, "bench", (0..OBJECTS).map(probe)).await?;
    // Each object logs its initial number first; those are larger than the numbers of the changes.
    until_logged(&cluster, (0..OBJECTS).map(|number| CHANGES + number)).await?;

    let sent = change(&probes).await?;
    let logged = until_logged(&cluster, 0..CHANGES).await?;
    let mut waited = Vec::new();
    for (number, (at, _)) in &sent {
        let entered =
            logged.get(number).with_context(|| format!("change {number} was not logged"))?;
        waited.push(
            Duration::try_from(entered.duration_since(*at)).context("the clock went backwards")?,
        );
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

/// Sends the changes; returns when each was sent, and how long the API server took to respond.
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

/// Waits until the host has logged all these numbers; returns the time of each number's first line.
async fn until_logged(
    cluster: &LocalClusterProcess,
    numbers: impl Iterator<Item = u32> + Clone,
) -> Result<BTreeMap<u32, Timestamp>> {
    let poll = || async {
        let logged = logged_numbers(&fs::read_to_string(cluster.host_log())?)?;
        let missing = numbers.clone().filter(|number| !logged.contains_key(number)).count();
        let wait = || Poll::NotYet(format!("{missing} are missing"));
        Ok(if missing == 0 { Poll::Done(logged) } else { wait() })
    };
    Ok(until("each change to be logged", SEEN_MAX, poll).await?.0)
}

/// Returns the time of the first line with each number in a log.
fn logged_numbers(log: &str) -> Result<BTreeMap<u32, Timestamp>> {
    let mut logged = BTreeMap::new();
    for line in log.lines() {
        let Some((_, number)) = line.split_once(NUMBER_PREFIX) else { continue };
        // The last line may be incomplete; the next poll reads it whole.
        let Some((number, _)) = number.split_once('.') else { continue };
        let time = line.split_whitespace().next().context("the line does not begin with a time")?;
        logged.entry(number.parse()?).or_insert(time.parse().context("a time")?);
    }
    Ok(logged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_and_an_incomplete_line_does_not() {
        let log = "2026-11-21T14:00:00.000100Z  INFO reconcile: plugin: told number 7.\n\
                   2026-11-21T14:00:01Z  INFO other\n\
                   2026-11-21T14:00:02.5Z  INFO reconcile: plugin: told number 7.\n\
                   2026-11-21T14:00:03Z  INFO reconcile: plugin: told number 1";
        let logged = logged_numbers(log).unwrap();
        assert_eq!(logged.len(), 1);
        assert_eq!(logged[&7].to_string(), "2026-11-21T14:00:00.0001Z");
    }
}
