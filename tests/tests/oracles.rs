//! Checks every oracle: a deliberate violation must make it fail, or its success would prove nothing.
//!
//! ```text
//! cargo test -p tests --test oracles                       all
//! cargo test -p tests --test oracles -- --only writer      one, by its name
//! cargo test -p tests --test oracles -- --list             the names
//! ```
//!
//! The cases run one after the other, because two clusters at the same time would disturb each other's
//! measurements. A name without a case is an error, also where cargo passes the filter of another test target to
//! this one.

use std::{env, future::Future, pin::Pin, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::DeleteParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use redis::cmd;
use serde_json::json;
use tests::{
    environment::{QUIET, TestEnvironment},
    redis_cluster::{NAMESPACE, PASSWORD, RedisCluster},
    router::connect,
    selection::{self, Arguments, print_line},
    wait::{Poll, elapse, until},
};
use tokio::task::JoinSet;

/// After this time a case has failed, whatever it waits for.
const GIVE_UP: Duration = Duration::from_secs(240);
/// A lone primary is enough for these tests, and starts quickly.
const SMALL: RedisCluster = RedisCluster { shards: 1, replicas: 0, ..RedisCluster::USUAL };

type CaseFuture = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A case: a deliberate violation and the oracle that must report it.
struct OracleCase {
    name: &'static str,
    run: fn() -> CaseFuture,
}

macro_rules! case {
    ($name:literal, $run:path) => {
        OracleCase { name: $name, run: || Box::pin($run()) }
    };
}

const CASES: &[OracleCase] = &[
    case!("no-violation", no_oracle_fails_without_a_violation),
    case!("writer", a_deleted_acknowledged_key_fails_the_writer),
    case!("quiet", a_timestamp_that_is_written_again_and_again_fails_quiet),
    case!("same-end", an_object_that_a_change_leaves_behind_fails_same_end),
    case!("invariants-flush", a_server_that_is_flushed_past_the_host_fails_invariants),
    case!("invariants-pods", two_pods_of_one_shard_that_the_host_deletes_fail_invariants),
];

fn main() -> ExitCode {
    selection::exit_code(run())
}

fn run() -> Result<bool> {
    let given: Vec<String> = env::args().skip(1).collect();
    let arguments = Arguments::parse(&given, &[])?;
    let known: Vec<_> = CASES.iter().map(|case| case.name.to_owned()).collect();
    let named = |name: &str| CASES.iter().filter(|case| case.name == name).collect();
    let selected = if arguments.names.is_empty() {
        CASES.iter().collect()
    } else {
        arguments.named(named, &known)?
    };
    let selected = arguments.without_skipped(selected, |case| case.name.to_owned(), &known)?;
    if arguments.is_list {
        selected.iter().for_each(|case| print_line(&format!("{}: test", case.name)));
        return Ok(true);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let mut failed = 0;
    for case in &selected {
        let limited = async { tokio::time::timeout(GIVE_UP, (case.run)()).await };
        let result = runtime.block_on(limited);
        let result = result.unwrap_or_else(|_| bail!("not finished after {GIVE_UP:?}"));
        match result {
            Ok(()) => print_line(&format!("{} ok", case.name)),
            Err(error) => {
                print_line(&format!("{} FAILED: {error:#}", case.name));
                failed += 1;
            }
        }
    }
    print_line(&format!("{} cases, failed: {failed}", selected.len()));
    Ok(failed == 0)
}

/// Ends a scenario and returns the error of the oracle that must fail.
async fn failure_of(env: TestEnvironment, oracle: &str) -> Result<String> {
    let Err(error) = env.end(QUIET).await else { bail!("{oracle} did not fail") };
    let error = format!("{error:#}");
    print_line(&format!("  {error}"));
    ensure!(error.contains(oracle), "{oracle} did not fail, but {error}");
    Ok(error)
}

async fn small() -> Result<TestEnvironment> {
    TestEnvironment::with_redis(SMALL).await
}

async fn no_oracle_fails_without_a_violation() -> Result<()> {
    small().await?.end(QUIET).await.map(drop)
}

async fn a_deleted_acknowledged_key_fails_the_writer() -> Result<()> {
    let env = small().await?;
    let members = env.redis.members(&env.client).await?;
    let member = members.first().context("a Pod")?;
    let mut connection = connect(&member.address, Some(PASSWORD))?;
    // The key `first` is not counted by the writer; this key is the first one that is counted.
    let tag = env.redis.tags().into_iter().next().context("a tag")?;
    let key = format!("{{{tag}}}:0");
    let deleted: i64 = until("a write", QUIET, || {
        let deleted = cmd("DEL").arg(&key).query::<i64>(&mut connection);
        async move {
            Ok(match deleted? {
                0 => Poll::NotYet("no such key yet".to_owned()),
                count => Poll::Done(count),
            })
        }
    })
    .await?
    .0;
    ensure!(deleted == 1, "{deleted} keys were deleted");
    let error = failure_of(env, "oracle Writer").await?;
    ensure!(error.contains(&key), "{error}");
    Ok(())
}

async fn a_timestamp_that_is_written_again_and_again_fails_quiet() -> Result<()> {
    let env = small().await?;
    let kubectl = env.kubectl.clone();
    let mut annotator = JoinSet::new();
    annotator.spawn(async move {
        for second in 0.. {
            let note = format!("seen-at={second}");
            // The cluster ends while this task runs; then nothing can be written any more.
            let arguments = ["annotate", "rediscluster", SMALL.name, "--overwrite", &note];
            if kubectl.run(&arguments).is_err() {
                break;
            }
            elapse(Duration::from_millis(300)).await;
        }
    });
    let error = failure_of(env, "oracle Quiet").await?;
    ensure!(error.contains("not quiet") && error.contains("RedisCluster"), "{error}");
    annotator.shutdown().await;
    Ok(())
}

async fn an_object_that_a_change_leaves_behind_fails_same_end() -> Result<()> {
    let env = small().await?;
    let left = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "left-behind", "namespace": NAMESPACE},
    });
    env.kubectl.run_with(&["create", "-f", "-"], &left.to_string())?;
    let error = failure_of(env, "oracle Same end").await?;
    ensure!(error.contains("ConfigMap left-behind"), "{error}");
    Ok(())
}

async fn a_server_that_is_flushed_past_the_host_fails_invariants() -> Result<()> {
    let mut env = small().await?;
    // The keys are lost as well, which the Writer would report: a new one starts after the flush.
    env.forget_writes()?;
    for member in env.redis.members(&env.client).await? {
        let mut connection = connect(&member.address, Some(PASSWORD))?;
        cmd("FLUSHALL").query::<()>(&mut connection)?;
    }
    env.watch_writes().await?;
    let error = failure_of(env, "oracle Invariants").await?;
    ensure!(error.contains("FLUSHALL"), "{error}");
    Ok(())
}

async fn two_pods_of_one_shard_that_the_host_deletes_fail_invariants() -> Result<()> {
    let redis = RedisCluster { shards: 1, replicas: 2, ..RedisCluster::USUAL };
    let env = TestEnvironment::with_redis(redis).await?;
    // The request looks like a plugin's delete: it has the host's user agent.
    let file = Kubeconfig::read_from(env.cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.headers.push(("user-agent".parse()?, "tholepin/0".parse()?));
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
    let members = env.redis.members(&env.client).await?;
    let replicas = members.iter().filter(|member| !member.server.is_primary());
    // With a grace period the first Pod still exists when the second is deleted. Without one, its StatefulSet can
    // create it again in between, which the oracle allows.
    for member in replicas {
        pods.delete(&member.pod, &DeleteParams::default().grace_period(5)).await?;
    }
    let error = failure_of(env, "oracle Invariants").await?;
    ensure!(error.contains("the host deleted"), "{error}");
    Ok(())
}
