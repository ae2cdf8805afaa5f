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
static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A lone primary is enough for these tests, and starts quickly.
const SMALL: RedisCluster = RedisCluster { shards: 1, replicas: 0, ..RedisCluster::USUAL };

/// Ends a scenario and returns the error of the oracle that fails.
async fn verdict(story: TestEnvironment, oracle: &str) -> String {
    let said = story.end(QUIET).await.expect_err("an oracle turns red");
    let said = format!("{said:#}");
    println!("{said}");
    assert!(said.contains(oracle), "{oracle} did not fail, but: {said}");
    said
}

async fn small() -> Result<TestEnvironment> {
    TestEnvironment::with_redis(SMALL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_without_a_saboteur() -> Result<()> {
    let _turn = TURN.lock().await;
    small().await?.end(QUIET).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_key_that_is_deleted_turns_the_writer_red() -> Result<()> {
    let _turn = TURN.lock().await;
    let story = small().await?;
    let seats = story.redis.seats(&story.client).await?;
    let seat = seats.first().context("a Pod")?;
    let mut connection = connect(&seat.address, Some(PASSWORD))?;
    // The key `first` is not counted by the writer; this key is the first one that is counted.
    let tag = story.redis.tags().into_iter().next().context("a tag")?;
    let key = format!("{{{tag}}}:0");
    let deleted: i64 = tests::wait::until("a write", QUIET, || {
        let deleted = cmd("DEL").arg(&key).query::<i64>(&mut connection);
        async move {
            Ok(match deleted? {
                0 => tests::wait::Poll::NotYet("no such key yet".to_owned()),
                count => tests::wait::Poll::There(count),
            })
        }
    })
    .await?
    .0;
    assert_eq!(deleted, 1);
    let said = verdict(story, "oracle Writer").await;
    assert!(said.contains(&key), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_that_is_written_again_and_again_turns_quiet_red() -> Result<()> {
    let _turn = TURN.lock().await;
    let story = small().await?;
    let kubectl = story.kubectl.clone();
    let mut saboteur = JoinSet::new();
    saboteur.spawn(async move {
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
    let said = verdict(story, "oracle Quiet").await;
    assert!(said.contains("not quiet") && said.contains("RedisCluster"), "{said}");
    saboteur.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_a_change_leaves_behind_turns_same_end_red() -> Result<()> {
    let _turn = TURN.lock().await;
    let story = small().await?;
    let left = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "left-behind", "namespace": NAMESPACE},
    });
    story.kubectl.run_with(&["create", "-f", "-"], &left.to_string())?;
    let said = verdict(story, "oracle Same end").await;
    assert!(said.contains("ConfigMap left-behind"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_flushed_past_the_host_turns_invariants_red() -> Result<()> {
    let _turn = TURN.lock().await;
    let mut story = small().await?;
    // The keys are lost as well, which the Writer would report: a new one starts after the flush.
    story.forget_writes()?;
    for seat in story.redis.seats(&story.client).await? {
        let mut connection = connect(&seat.address, Some(PASSWORD))?;
        cmd("FLUSHALL").query::<()>(&mut connection)?;
    }
    story.watch_writes().await?;
    let said = verdict(story, "oracle Invariants").await;
    assert!(said.contains("FLUSHALL"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_of_one_shard_that_the_host_deletes_turn_invariants_red() -> Result<()> {
    let _turn = TURN.lock().await;
    let redis = RedisCluster { shards: 1, replicas: 2, ..RedisCluster::USUAL };
    let story = TestEnvironment::with_redis(redis).await?;
    // The request looks like a plugin's delete: it has the host's user agent.
    let file = Kubeconfig::read_from(story.cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.headers.push(("user-agent".parse()?, "tholepin/0".parse()?));
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
    let seats = story.redis.seats(&story.client).await?;
    let replicas = seats.iter().filter(|seat| !seat.member.is_primary());
    for seat in replicas {
        pods.delete(&seat.pod, &DeleteParams::default().grace_period(0)).await?;
    }
    let said = verdict(story, "oracle Invariants").await;
    assert!(said.contains("the host deleted"), "{said}");
    Ok(())
}
