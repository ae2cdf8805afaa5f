//! A recorded reconcile of `redis-cluster` in a fresh Wasm instance, beside the same crate as native code, built
//! with the same profile.
//!
//! The recording is real: a healthy RedisCluster on real servers, reconciled once through the real gate. The
//! calls of both sides are answered from it by key, so that neither waits for anything.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use tests::{
    cluster::LocalClusterProcess,
    guests,
    redis_cluster::RedisCluster,
    wait::{Poll, until},
};
use tholepin_core::{Answer, RecordedCallKey, Recording, Reply, port::PluginExports};
use tholepin_redis::{RedisClient, RedisClientLimits};
use tholepin_schema::{
    reconcile::{ReconcileOutcome, ReconcileRequest},
    snapshot::Snapshot,
};
use tokio::sync::mpsc;

use crate::{
    engine::{BenchEngine, MeasuredReconcile, WallClock},
    fake_host_calls::RecordedCalls,
    plugin::BenchPlugin,
    proc, snapshot,
    table::{BenchRow, RowUnit, print_line},
};

const REDIS: RedisCluster = RedisCluster::USUAL;
/// How long a cluster may take to be healthy before the measurement is given up.
const HEALTHY_MAX: Duration = Duration::from_secs(90);
/// Both sides are measured in turns, so that the machine's load affects both alike.
const TURNS: usize = 20;
const RECONCILES_PER_TURN: usize = 25;
const GOAL: f64 = 1.3;

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let plugin = BenchPlugin::load("redis-cluster", &guests::redis_cluster()?).await?;
    let MeasuredReconcile { request, outcome, recording, .. } = record(&plugin).await?;
    check_generated(&recording)?;
    let _processor = proc::OneProcessor::choose()?;
    let mut native = NativeProcess::start(&request, &recording)?;
    let answers = Arc::new(recording.answers());
    let (mut wasm, mut json, mut values) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn warms both up.
    for turn in 0..=TURNS {
        let replayed = replay(&plugin, &request, &answers, &outcome).await?;
        let [through_json, with_values] =
            ["json", "values"].map(|order| native.take_turn(order, &outcome));
        if turn != 0 {
            wasm.push(replayed);
            json.push(through_json?);
            values.push(with_values?);
        }
    }
    let row = |name, turns: &[Vec<Duration>]| BenchRow::us(name, &turns.concat());
    let through_json = row("reconcile 3+3, native, JSON at the border", &json);
    let with_values = row("reconcile 3+3, native, no border", &values);
    Ok(vec![
        BenchRow::new("reconcile 3+3, Wasm ÷ native", RowUnit::Ratio, ratios(&wasm, &json))
            .goal(GOAL),
        BenchRow::new(
            "reconcile 3+3, Wasm ÷ native without a border",
            RowUnit::Ratio,
            ratios(&wasm, &values),
        ),
        row("reconcile 3+3, Wasm", &wasm).beside("native", &through_json),
        through_json,
        with_values,
    ])
}

/// Returns the ratio of the medians of each turn.
fn ratios(ones: &[Vec<Duration>], others: &[Vec<Duration>]) -> Vec<f64> {
    let median = |turn: &Vec<Duration>| BenchRow::us("", turn).median();
    ones.iter().zip(others).map(|(one, other)| median(one) / median(other)).collect()
}

/// Lets a host create a RedisCluster, ends the host, and reconciles twice in its place: the second reconcile has
/// nothing left to do and is returned.
async fn record(plugin: &BenchPlugin) -> Result<MeasuredReconcile> {
    let cluster = LocalClusterProcess::start()?;
    let (kubectl, client) = (cluster.kubectl()?, cluster.client().await?);
    guests::install(&cluster.plugins()?, "redis-cluster", &guests::redis_cluster()?)?;
    let mut host = cluster.host()?;
    REDIS.create(&kubectl)?;
    let poll = || async { Ok(Poll::Done(REDIS.check_healthy(&kubectl, &client).await?)) };
    until(format!("{} to be healthy", REDIS.name), HEALTHY_MAX, poll).await?;
    host.end()?;
    let (changed, _changes) = mpsc::channel(16);
    let redis = RedisClient::new(RedisClientLimits::default(), Arc::new(WallClock), changed);
    let mut engine = BenchEngine::connect(cluster.kubeconfig(), Arc::new(redis)).await?;
    engine.follow_all(&plugin.loaded.manifest).await?;
    let object = snapshot::object(REDIS.name);
    engine.reconcile(&plugin.loaded, &object).await?;
    let measured = engine.reconcile(&plugin.loaded, &object).await?;
    let summary = &measured.outcome.summary;
    ensure!(summary.starts_with("ready: 3/3"), "not a reconcile of a healthy cluster: {summary}");
    print_line(&format!(
        "  recorded {} calls, {} bytes: {summary}",
        measured.recording.calls().len(),
        serde_json::to_string(&measured.recording)?.len()
    ));
    Ok(measured)
}

/// Checks that the generated snapshots of the part `growth` have the fields of real ones.
fn check_generated(recording: &Recording) -> Result<()> {
    let observed = recording.calls().iter().find(|call| call.call.function() == "redis/observe");
    let Some(Ok(Reply::Document(real))) = observed.map(|observed| &observed.answer) else {
        return Err(anyhow!("the recording has no snapshot"));
    };
    let real: Snapshot = serde_json::from_value(real.clone())?;
    snapshot::check_shape(&real)
}

/// Runs one turn of the guest.
async fn replay(
    plugin: &BenchPlugin,
    request: &ReconcileRequest,
    answers: &Arc<BTreeMap<RecordedCallKey, Answer>>,
    expected: &ReconcileOutcome,
) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    for _ in 0..RECONCILES_PER_TURN {
        let (context, request_copy) = (plugin.loaded.context(None), request.clone());
        let host_calls = RecordedCalls::of(answers);
        let start = Instant::now();
        let outcome = plugin.loaded.reconcile(context, request_copy, host_calls).await?;
        taken.push(start.elapsed());
        ensure!(outcome.as_ref() == Ok(expected), "the replay returned {outcome:?}");
    }
    Ok(taken)
}

/// The native plugin in its own process, which ends when its stdin is closed.
struct NativeProcess {
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    child: Child,
}

/// The answer to an order.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NativeAnswer {
    taken_ns: Vec<u64>,
    outcome: ReconcileOutcome,
}

impl NativeProcess {
    fn start(request: &ReconcileRequest, recording: &Recording) -> Result<Self> {
        let mut child = Command::new(guests::native_plugin()?);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut orders = child.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        writeln!(orders, "{}", serde_json::to_string(request)?)?;
        writeln!(orders, "{}", serde_json::to_string(recording)?)?;
        Ok(Self { orders: Some(orders), answers, child })
    }

    fn take_turn(&mut self, order: &str, expected: &ReconcileOutcome) -> Result<Vec<Duration>> {
        let orders = self.orders.as_mut().context("the native plugin's stdin is closed")?;
        writeln!(orders, "{order} {RECONCILES_PER_TURN}")?;
        let line = self.answers.next().context("the native plugin has ended")??;
        let turn: NativeAnswer = serde_json::from_str(&line)?;
        ensure!(turn.outcome == *expected, "the native plugin returned {:?}", turn.outcome);
        Ok(turn.taken_ns.into_iter().map(Duration::from_nanos).collect())
    }
}

impl Drop for NativeProcess {
    fn drop(&mut self) {
        drop(self.orders.take());
        // The process ends with its stdin; a drop cannot report an error.
        self.child.wait().ok();
    }
}
