//! A plugin without grants calls every import of the contract, with a real server within reach.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use redis::cmd;
use serde_json::{Value, json};
use tests::{
    environment::{GIVE_UP, QUIET, TestEnvironment},
    guests,
    imports::{ALLOWED, DENIED},
    oracle::host_writes,
    redis_cluster::{NAMESPACE, RedisCluster},
    router::connect,
    wait::{Poll, until},
};
use tholepin_schema::reserved;

use crate::{ScenarioResult, objects::TestObjects};

/// The commands that a client sends by itself when it connects, and those of this test.
const OURS: &[&str] = &["cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello"];

/// The server that the guest names. Nothing else has a reason to connect to it.
const SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: a-0, namespace: default, labels: {app: a}}
spec:
  containers:
    - name: redis
      image: redis:7.0
      command: [redis-server, --bind, $(POD_IP), --port, "6379", --save, ""]
      env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
"#;

/// E4: each call is denied with the missing grant, and nothing reaches Kubernetes or Redis.
pub(crate) async fn every_import_is_denied() -> Result<ScenarioResult> {
    let plugins = [("probe", guests::probe()?)];
    let mut env = TestEnvironment::begin(RedisCluster::USUAL, &plugins, guests::PROBES).await?;
    env.redis.create(&env.kubectl)?;
    env.kubectl.run_with(&["create", "-f", "-"], SERVER)?;
    env.until_healthy().await?;
    let address = address(&env).await?;
    let mut server = connect(&address, None)?;
    env.watch().await?;
    env.settle(Duration::from_secs(1)).await?;
    let before: String = cmd("INFO").arg("stats").query(&mut server)?;
    let writes = host_writes(&env.cluster.audit_log())?.len();

    let functions: Vec<_> = DENIED.iter().chain(ALLOWED).collect();
    let probes = TestObjects::new(&env.client, "Probe");
    let start = Instant::now();
    let names = probes
        .create(functions.len(), |name| {
            let number: Option<usize> = name.rsplit('-').next().and_then(|text| text.parse().ok());
            let function = number.and_then(|number| functions.get(number)).map(|row| row.0);
            json!({"do": "call-in-reconcile", "function": function})
        })
        .await?;
    for (name, (function, expected)) in names.iter().zip(&functions) {
        let is_denied = DENIED.iter().any(|(denied, _)| denied == function);
        let object = format!("{NAMESPACE}/{name} ");
        let poll = || async {
            let log = env.host_log()?.to_lowercase();
            let mut lines = log.lines().filter(|line| line.contains(&object));
            let matches = |line: &str| {
                line.contains(&expected.to_lowercase()) && (!is_denied || line.contains("denied"))
            };
            Ok(match lines.find(|line| matches(line)) {
                Some(_) => Poll::Done(()),
                None => Poll::NotYet(format!("no answer with {expected}")),
            })
        };
        until(format!("{function} to be answered"), GIVE_UP, poll).await?;
    }
    let took = start.elapsed();

    let after: String = cmd("INFO").arg("stats").query(&mut server)?;
    let connections = |info: &str| {
        let line = info.lines().find(|line| line.starts_with("total_connections_received"));
        line.map(str::to_owned)
    };
    ensure!(connections(&before) == connections(&after), "the host connected: {after}");
    let commands: String = cmd("INFO").arg("commandstats").query(&mut server)?;
    let named = commands.lines().filter_map(|line| line.split_once(':'));
    let others: Vec<_> = named.map(|(name, _)| name).filter(|name| !OURS.contains(name)).collect();
    ensure!(others.is_empty(), "the server was sent {others:?}");
    let written = host_writes(&env.cluster.audit_log())?;
    // The host's own objects and its count of a plugin's objects are no writes of the plugin.
    let is_kept = |write: &&Value| {
        let is_reserved =
            write["name"].as_str().is_some_and(|name| name.starts_with(reserved::PREFIX));
        is_reserved || write["resource"] == "plugins" && write["subresource"] == "status"
    };
    let written = written.get(writes..).unwrap_or_default();
    let written: Vec<_> = written.iter().filter(|write| !is_kept(write)).collect();
    ensure!(written.is_empty(), "the host wrote {written:?}");
    env.kubectl.run(&["delete", "probes", "--all", "-n", NAMESPACE])?;
    let report = env.end(QUIET).await?;
    let what = "every import answered";
    Ok(ScenarioResult::new(what, took, 5.0, &report).note(format!(
        "{} denied with the grant that is missing, {} need none; 0 writes, 0 connections",
        DENIED.len(),
        ALLOWED.len()
    )))
}

async fn address(env: &TestEnvironment) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(env.client.clone(), NAMESPACE);
    let poll = || async {
        let status = pods.get("a-0").await?.status.context("no status yet")?;
        let ip = status.pod_ip.context("no address yet")?;
        let address = format!("{ip}:6379");
        connect(&address, None)?;
        Ok(Poll::Done(address))
    };
    Ok(until("the lone server", GIVE_UP, poll).await?.0)
}
