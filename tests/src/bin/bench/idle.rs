//! The host's writes to the API server while nothing changes, from the server's audit log.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    guests, oracle,
    redis_cluster::{NAMESPACE, RedisCluster},
    wait::{Poll, elapse, until},
};

use crate::{
    objects,
    table::{BenchRow, RowUnit, print_line},
};

const REDIS: RedisCluster = RedisCluster::USUAL;
const GREETINGS: usize = 20;
/// Two of the host's rounds over healthy objects, so that the writes of a round are counted.
const IDLE: Duration = Duration::from_secs(60);
/// How long the cluster may take to be healthy and quiet before the measurement is given up.
const HEALTHY_MAX: Duration = Duration::from_secs(90);

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let cluster = LocalClusterProcess::start()?;
    let (kubectl, client) = (cluster.kubectl()?, cluster.client().await?);
    let plugins = cluster.plugins()?;
    guests::install(&plugins, "redis-cluster", &guests::redis_cluster()?)?;
    guests::install(&plugins, "config-maker", &guests::config_maker("Hello")?)?;
    let _host = cluster.host()?;
    REDIS.create(&kubectl)?;
    let greetings = objects::api(&client, ["tests.tholepin.dev", "v1", "Greeting"]);
    objects::create(&greetings, "bench", (0..GREETINGS).map(greeting)).await?;
    let poll_health = || async { Ok(Poll::Done(REDIS.check_healthy(&kubectl, &client).await?)) };
    until(format!("{} to be healthy", REDIS.name), HEALTHY_MAX, poll_health).await?;
    // The last writes of the creation must be done.
    let poll_quiet =
        || async { Ok(Poll::Done(oracle::quiet(&client, &[], Duration::from_secs(2)).await?)) };
    until("the cluster to settle", HEALTHY_MAX, poll_quiet).await?;
    let before = writes(&cluster)?;
    elapse(IDLE).await;
    let after = writes(&cluster)?;
    for write in after.iter().skip(before.len()) {
        print_line(&format!("  {write}"));
    }
    let count = u32::try_from(after.len().saturating_sub(before.len()))?;
    let per_minute = f64::from(count) * 60.0 / IDLE.as_secs_f64();
    let name = "host's writes while idle, without Leases";
    Ok(vec![BenchRow::new(name, RowUnit::PerMinute, vec![per_minute]).goal(0.0)])
}

fn greeting(number: usize) -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Greeting",
        "metadata": {"name": format!("greeting-{number}"), "namespace": NAMESPACE},
        "spec": {"text": "world"},
    })
}

/// Returns the host's writes so far, without Leases.
fn writes(cluster: &LocalClusterProcess) -> Result<Vec<Value>> {
    let text = fs::read_to_string(cluster.audit_log())?;
    // The last line may be incomplete.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines =
        whole.lines().map(|line| serde_json::from_str(line).context("cannot parse an audit line"));
    let lines = lines.collect::<Result<Vec<Value>>>()?;
    let field = |line: &Value, name: &str| -> String {
        line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let counts = |line: &Value| {
        field(line, "field_manager").starts_with("tholepin") && field(line, "resource") != "leases"
    };
    Ok(lines.into_iter().filter(counts).collect())
}
