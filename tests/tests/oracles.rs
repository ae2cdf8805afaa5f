//! Checks every oracle: a deliberate violation must make it fail, or its success would prove nothing.
//!
//! ```text
//! cargo test -p tests --test oracles -- --nocapture
//! ```
#![cfg(test)]
#![expect(clippy::print_stdout, reason = "what each oracle said is part of the story")]

use std::{sync::LazyLock, time::Duration};

use anyhow::{Context, Result};
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
};
use tokio::{sync::Mutex, task::JoinSet};

/// Held by each test: two clusters at the same time would disturb each other's measurements.
static LOCK: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A lone primary is enough for these tests, and starts quickly.
const SMALL: RedisCluster = RedisCluster { shards: 1, replicas: 0, ..RedisCluster::USUAL };

/// Ends a scenario and returns the error of the oracle that fails.
async fn failure_of(env: TestEnvironment, oracle: &str) -> String {
    let error = env.end(QUIET).await.expect_err("an oracle turns red");
    let error = format!("{error:#}");
    println!("{error}");
    assert!(error.contains(oracle), "{oracle} did not fail, but: {error}");
    error
}

async fn small() -> Result<TestEnvironment> {
    TestEnvironment::with_redis(SMALL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_without_a_saboteur() -> Result<()> {
    let _lock = LOCK.lock().await;
    small().await?.end(QUIET).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_key_that_is_deleted_turns_the_writer_red() -> Result<()> {
    let _lock = LOCK.lock().await;
    let env = small().await?;
    let members = env.redis.members(&env.client).await?;
    let member = members.first().context("a Pod")?;
    let mut connection = connect(&member.address, Some(PASSWORD))?;
    // The key `first` is not counted by the writer; this key is the first one that is counted.
    let tag = env.redis.tags().into_iter().next().context("a tag")?;
    let key = format!("{{{tag}}}:0");
    let deleted: i64 = tests::wait::until("a write", QUIET, || {
        let deleted = cmd("DEL").arg(&key).query::<i64>(&mut connection);
        async move {
            Ok(match deleted? {
                0 => tests::wait::Poll::NotYet("no such key yet".to_owned()),
                count => tests::wait::Poll::Done(count),
            })
        }
    })
    .await?
    .0;
    assert_eq!(deleted, 1);
    let error = failure_of(env, "oracle Writer").await;
    assert!(error.contains(&key), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_that_is_written_again_and_again_turns_quiet_red() -> Result<()> {
    let _lock = LOCK.lock().await;
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
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let error = failure_of(env, "oracle Quiet").await;
    assert!(error.contains("not quiet") && error.contains("RedisCluster"), "{error}");
    annotator.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_a_change_leaves_behind_turns_same_end_red() -> Result<()> {
    let _lock = LOCK.lock().await;
    let env = small().await?;
    let left = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "left-behind", "namespace": NAMESPACE},
    });
    env.kubectl.run_with(&["create", "-f", "-"], &left.to_string())?;
    let error = failure_of(env, "oracle Same end").await;
    assert!(error.contains("ConfigMap left-behind"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_flushed_past_the_host_turns_invariants_red() -> Result<()> {
    let _lock = LOCK.lock().await;
    let mut env = small().await?;
    // The keys are lost as well, which the Writer would report: a new one starts after the flush.
    env.forget_writes()?;
    for member in env.redis.members(&env.client).await? {
        let mut connection = connect(&member.address, Some(PASSWORD))?;
        cmd("FLUSHALL").query::<()>(&mut connection)?;
    }
    env.watch_writes().await?;
    let error = failure_of(env, "oracle Invariants").await;
    assert!(error.contains("FLUSHALL"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_of_one_shard_that_the_host_deletes_turn_invariants_red() -> Result<()> {
    let _lock = LOCK.lock().await;
    let redis = RedisCluster { shards: 1, replicas: 2, ..RedisCluster::USUAL };
    let env = TestEnvironment::with_redis(redis).await?;
    // The request looks like a plugin's delete: it has the host's user agent.
    let file = Kubeconfig::read_from(env.cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.headers.push(("user-agent".parse()?, "tholepin/0".parse()?));
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
    let members = env.redis.members(&env.client).await?;
    let replicas = members.iter().filter(|member| !member.server.is_primary());
    for member in replicas {
        pods.delete(&member.pod, &DeleteParams::default().grace_period(0)).await?;
    }
    let error = failure_of(env, "oracle Invariants").await;
    assert!(error.contains("the host deleted"), "{error}");
    Ok(())
}
