//! A hand-written StatefulSet of real Redis servers on the local cluster: it starts, restarts, scales, is updated
//! and deleted with the real kubectl and without the engine.

#![cfg(test)]
#![expect(clippy::print_stdout, reason = "the test prints what it measured")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::LocalClusterProcess;
use tests::kubectl::Kubectl;
use tests::wait::{Poll, until};

const DEADLINE: Duration = Duration::from_secs(60);

/// The first version of the StatefulSet. Every Pod binds its own address, as Pods of the local cluster must.
const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: redis-config}
data:
  redis.conf: |
    dir /data
    appendonly yes
    protected-mode no
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  selector: {app: redis}
  ports: [{name: redis, port: 6379}]
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec:
  selector: {app: redis}
  ports: [{name: redis, port: 6379, targetPort: redis}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: redis}
spec:
  serviceName: peers
  replicas: 3
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: redis
        image: redis:7
        command: [redis-server, /etc/redis/redis.conf, --bind, $(POD_IP)]
        env:
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: ROUND, value: "1"}
        ports: [{name: redis, containerPort: 6379}]
        readinessProbe:
          exec: {command: [sh, -c, "redis-cli -h $POD_IP ping | grep -q PONG"]}
          periodSeconds: 1
        volumeMounts:
        - {name: config, mountPath: /etc/redis}
        - {name: data, mountPath: /data}
      volumes:
      - {name: config, configMap: {name: redis-config}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Gi}}
"#;

/// A Pod that connects to servers by name and then ends.
const ASKS_BY_NAME: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  restartPolicy: Never
  containers:
  - name: asks
    image: redis:7
    command:
    - sh
    - -c
    - redis-cli -h redis ping && redis-cli -h redis-1.peers.default.svc.cluster.local get key
"#;

/// Access to the StatefulSet by kubectl.
struct StatefulSetTest {
    kubectl: Kubectl,
}

impl StatefulSetTest {
    fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl.run(&["get", what, "-o", "json"])?)?)
    }

    fn pod(&self, ordinal: u32) -> Result<Value> {
        self.get(&format!("pod/redis-{ordinal}"))
    }

    fn patch(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let arguments = ["patch", "statefulset/redis", "--type=merge", "-p", &patch];
        self.kubectl.run(&arguments).map(drop)
    }

    /// Changes the template without changing the command.
    fn round(&self, round: &str) -> Result<()> {
        let path = "/spec/template/spec/containers/0/env/1/value";
        let patch = json!([{"op": "replace", "path": path, "value": round}]).to_string();
        let arguments = ["patch", "statefulset/redis", "--type=json", "-p", &patch];
        self.kubectl.run(&arguments).map(drop)
    }

    /// Returns the round in which each Pod was created, by ordinal.
    fn rounds(&self) -> Result<String> {
        let pods = self.get("pods")?;
        let items = pods["items"].as_array().context("a list of Pods")?;
        let of = |pod: &Value| {
            let env = &pod["spec"]["containers"][0]["env"][1]["value"];
            env.as_str().unwrap_or("?").to_owned()
        };
        Ok(items.iter().map(of).collect::<Vec<_>>().join(" "))
    }

    /// Waits until this many Pods exist and are ready at the newest generation; returns how long that took.
    async fn wait_ready(&self, replicas: u32) -> Result<Duration> {
        let (_, took) = until(format!("{replicas} ready replicas"), DEADLINE, async || {
            let set = self.get("statefulset/redis")?;
            let status = &set["status"];
            let is_done = status["observedGeneration"] == set["metadata"]["generation"]
                && status["replicas"] == replicas
                && status["readyReplicas"].as_u64().unwrap_or(0) == u64::from(replicas);
            Ok(if is_done { Poll::Done(()) } else { Poll::NotYet(status.to_string()) })
        })
        .await?;
        Ok(took)
    }

    /// Waits until the Pod has another uid than `before` and is ready.
    async fn wait_successor(&self, ordinal: u32, before: &Value) -> Result<Value> {
        let what = format!("the successor of redis-{ordinal}");
        let (pod, took) = until(what, DEADLINE, async || {
            let pod = self.pod(ordinal)?;
            let is_done = pod["metadata"]["uid"] != before["metadata"]["uid"] && is_ready(&pod);
            Ok(if is_done { Poll::Done(pod) } else { Poll::NotYet(pod["status"].to_string()) })
        })
        .await?;
        println!("redis-{ordinal} returned after {took:?}");
        Ok(pod)
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn address(pod: &Value) -> Result<String> {
    Ok(pod["status"]["podIP"].as_str().context("the Pod has no address")?.to_owned())
}

/// Returns the reply of a Redis to one command.
fn redis(address: &str, command: &[&str]) -> Result<String> {
    let output =
        Command::new("timeout").args(["5", "redis-cli", "-h", address]).args(command).output()?;
    let text = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && error.is_empty(), "redis-cli -h {address}: {error}{text}");
    Ok(text.trim().to_owned())
}

fn process_id(address: &str) -> Result<String> {
    let info = redis(address, &["info", "server"])?;
    let line = info.lines().find_map(|line| line.strip_prefix("process_id:"));
    Ok(line.context("INFO has no process_id")?.trim().to_owned())
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_of_real_redis_runs_restarts_and_scales() -> Result<()> {
    let mut cluster = LocalClusterProcess::start()?;
    let test = StatefulSetTest { kubectl: cluster.kubectl()? };
    test.kubectl.run_with(&["apply", "--server-side", "-f", "-"], MANIFEST)?;
    println!("three replicas are ready after {:?}", test.wait_ready(3).await?);

    serves_by_address_and_name(&test).await?;
    restarts_in_the_same_pod(&test).await?;
    orphans_and_adopts_its_pods(&test).await?;
    returns_with_its_volume(&test).await?;
    scales(&test).await?;
    updates(&test).await?;
    deletes_everything(&test).await?;
    cluster.process.end()
}

/// Checks that the client Service reaches all replicas, and that Pods find Services and each other by name.
async fn serves_by_address_and_name(test: &StatefulSetTest) -> Result<()> {
    let service = test.get("service/redis")?;
    let service = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    until("the Service answers", DEADLINE, async || Ok(Poll::Done(redis(service, &["ping"])?)))
        .await?;
    let mut answered = Vec::new();
    for _ in 0..6 {
        answered.push(process_id(service)?);
    }
    answered.sort();
    answered.dedup();
    ensure!(answered.len() == 3, "connections do not reach all Pods: {answered:?}");

    redis(&address(&test.pod(1)?)?, &["set", "key", "of redis-1"])?;
    test.kubectl.run_with(&["apply", "--server-side", "-f", "-"], ASKS_BY_NAME)?;
    until("the asking Pod ends", DEADLINE, async || {
        let phase = test.get("pod/asks")?["status"]["phase"].clone();
        Ok(if phase == "Succeeded" { Poll::Done(()) } else { Poll::NotYet(phase.to_string()) })
    })
    .await
    .with_context(|| test.kubectl.run(&["logs", "asks"]).unwrap_or_default())?;
    ensure!(test.kubectl.run(&["logs", "asks"])?.trim() == "PONG\nof redis-1");
    test.kubectl.run(&["delete", "pod", "asks"]).map(drop)
}

/// Checks that a killed process is restarted in the same Pod, at the same address.
async fn restarts_in_the_same_pod(test: &StatefulSetTest) -> Result<()> {
    let before = test.pod(0)?;
    let home = address(&before)?;
    redis(&home, &["set", "key", "of redis-0"])?;
    let killed = process_id(&home)?;
    ensure!(Command::new("kill").args(["-9", &killed]).status()?.success());
    let (after, took) = until("the restart", DEADLINE, async || {
        let pod = test.pod(0)?;
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        let is_done = *restarts == 1 && is_ready(&pod);
        Ok(if is_done { Poll::Done(pod) } else { Poll::NotYet(restarts.to_string()) })
    })
    .await?;
    println!("a killed process was restarted after {took:?}");
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"] && address(&after)? == home);
    ensure!(process_id(&home)? != killed);
    ensure!(redis(&home, &["get", "key"])? == "of redis-0");
    test.wait_ready(3).await.map(drop)
}

/// Checks that a deleted Pod is created again with its name and volume, at another address.
async fn returns_with_its_volume(test: &StatefulSetTest) -> Result<()> {
    let before = test.pod(0)?;
    let pid = process_id(&address(&before)?)?;
    test.kubectl.run(&["delete", "pod", "redis-0", "--wait=false"])?;
    let after = test.wait_successor(0, &before).await?;
    ensure!(address(&after)? != address(&before)?, "the new Pod has the old address");
    ensure!(redis(&address(&after)?, &["get", "key"])? == "of redis-0");
    ensure!(!is_alive(&pid), "the old Pod's process still runs");
    test.wait_ready(3).await.map(drop)
}

async fn scales(test: &StatefulSetTest) -> Result<()> {
    let pid = process_id(&address(&test.pod(2)?)?)?;
    test.patch(&json!({"replicas": 1}))?;
    test.wait_ready(1).await?;
    ensure!(!is_alive(&pid), "the process of redis-2 still runs");
    let claims = test.get("persistentvolumeclaims")?;
    ensure!(claims["items"].as_array().map(Vec::len) == Some(3), "the claims were deleted");
    test.patch(&json!({"replicas": 3}))?;
    println!("scaled from one to three after {:?}", test.wait_ready(3).await?);
    ensure!(redis(&address(&test.pod(1)?)?, &["get", "key"])? == "of redis-1");
    Ok(())
}

/// Checks that a rolling update stops at its partition, and that with OnDelete only a deleted Pod gets the new
/// template.
async fn updates(test: &StatefulSetTest) -> Result<()> {
    let strategy = |partition: u32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    let wait_rounds = async |expected: &str| {
        until(format!("rounds {expected}"), DEADLINE, async || {
            let rounds = test.rounds()?;
            Ok(if rounds == expected { Poll::Done(()) } else { Poll::NotYet(rounds) })
        })
        .await?;
        test.wait_ready(3).await
    };
    test.patch(&strategy(2))?;
    test.round("2")?;
    wait_rounds("1 1 2").await?;
    test.patch(&strategy(0))?;
    wait_rounds("2 2 2").await?;

    test.patch(&json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}))?;
    test.round("3")?;
    test.wait_ready(3).await?;
    let before = test.pod(1)?;
    test.kubectl.run(&["delete", "pod", "redis-1", "--wait=false"])?;
    test.wait_successor(1, &before).await?;
    ensure!(
        test.rounds()? == "2 3 2",
        "another Pod than the deleted one is new: {}",
        test.rounds()?
    );
    Ok(())
}

/// Checks that `--cascade=orphan` keeps the Pods, and that a new set adopts them. Several times, because a
/// controller that wrongly adopts for a set that is being deleted does so only sometimes.
async fn orphans_and_adopts_its_pods(test: &StatefulSetTest) -> Result<()> {
    let pods = || -> Result<Vec<Value>> { (0..3).map(|ordinal| test.pod(ordinal)).collect() };
    let uids = |pods: &[Value]| -> Vec<Value> {
        pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
    };
    let before = uids(&pods()?);
    for _ in 0..8 {
        test.kubectl.run(&["delete", "statefulset/redis", "--cascade=orphan"])?;
        for pod in pods()? {
            let metadata = &pod["metadata"];
            ensure!(
                metadata["ownerReferences"].is_null(),
                "the Pod still has an owner: {metadata}"
            );
        }
        test.kubectl.run_with(&["apply", "--server-side", "-f", "-"], MANIFEST)?;
        let set = test.get("statefulset/redis")?["metadata"]["uid"].clone();
        until("the new set to adopt the Pods", DEADLINE, async || {
            let pods = pods()?;
            ensure!(uids(&pods) == before, "the Pods were replaced");
            let owners = pods.iter().map(|pod| &pod["metadata"]["ownerReferences"][0]["uid"]);
            let is_adopted = owners.clone().all(|uid| *uid == set);
            let owners_text = || format!("{:?}", owners.collect::<Vec<_>>());
            Ok(if is_adopted { Poll::Done(()) } else { Poll::NotYet(owners_text()) })
        })
        .await?;
    }
    test.wait_ready(3).await?;
    ensure!(uids(&pods()?) == before, "the Pods were replaced");
    Ok(())
}

async fn deletes_everything(test: &StatefulSetTest) -> Result<()> {
    let mut pids = Vec::new();
    for ordinal in 0..3 {
        pids.push(process_id(&address(&test.pod(ordinal)?)?)?);
    }
    test.kubectl.run(&["delete", "statefulset/redis", "service/redis", "service/peers"])?;
    until("no process and no Pod", DEADLINE, async || {
        let left = test.kubectl.run(&["get", "pods,statefulsets,endpointslices", "-o", "name"])?;
        let alive: Vec<&String> = pids.iter().filter(|pid| is_alive(pid)).collect();
        let is_done = left.trim().is_empty() && alive.is_empty();
        Ok(if is_done { Poll::Done(()) } else { Poll::NotYet(format!("{left} {alive:?}")) })
    })
    .await?;
    let claims = test.get("persistentvolumeclaims")?;
    ensure!(claims["items"].as_array().map(Vec::len) == Some(3), "the claims were deleted");
    Ok(())
}
