//! Waiting for facts, probing a port, and temporary settings, with a real Redis and a host that is killed.
#![cfg(test)]

use std::time::{Duration, Instant};

use redis::{Connection, cmd};
use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    command::CommandLine,
    guests,
    kubectl::Kubectl,
    process::Process,
    router::connect,
    wait::{Poll, until},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// The setting with which the process was started, and its temporary value during a reconcile.
const USUAL: &str = "5000";
const SUSPENDED: &str = "700";

/// A cluster with a host, a probe with Redis grants, and a server that is the probe's only member.
struct FactsEnvironment {
    host: Process,
    cluster: LocalClusterProcess,
    kubectl: Kubectl,
    server: Connection,
}

impl FactsEnvironment {
    async fn start() -> Self {
        let cluster = LocalClusterProcess::start().unwrap();
        let kubectl = cluster.kubectl().unwrap();
        kubectl.run_with(&["apply", "-f", "-"], guests::PROBES).unwrap();
        let probe = guests::probe_of_redis().unwrap();
        guests::install(&cluster.plugins().unwrap(), "probe", &probe).unwrap();
        let host = cluster.host().unwrap();
        kubectl.run_with(&["apply", "-f", "-"], &probe_object(&json!({"do": "nothing"}))).unwrap();
        let uid = kubectl.run(&["get", "probe", "a", "-o", "jsonpath={.metadata.uid}"]).unwrap();
        kubectl.run_with(&["create", "-f", "-"], &member(uid.trim())).unwrap();
        let poll = || async {
            let path = "jsonpath={.status.podIP}";
            let address = kubectl.run(&["get", "pod", "a-0", "-o", path])?;
            Ok(Poll::Done(connect(&format!("{}:6379", address.trim()), None)?))
        };
        let (server, _) = until("the server", DEADLINE, poll).await.unwrap();
        Self { host, cluster, kubectl, server }
    }

    /// Makes the probe change the setting temporarily and then behave as `then` says.
    fn suspend(&self, then: &str) {
        self.suspend_if(then, &json!([]));
    }

    /// The same, with these facts as preconditions.
    fn suspend_if(&self, then: &str, presume: &Value) {
        let spec = json!({"do": "suspend", "then": then, "instance": instance(), "pod": "a-0",
            "settings": {"cluster-node-timeout": SUSPENDED}, "presume": presume});
        self.kubectl.run_with(&["apply", "-f", "-"], &probe_object(&spec)).unwrap();
    }

    /// Runs `kubectl annotate` on the probe.
    fn annotate(&self, annotation: &str) {
        self.kubectl.run(&["annotate", "probe", "a", "--overwrite", annotation]).unwrap();
    }

    /// Waits until the server has this value; returns how long that took.
    async fn has(&self, value: &str) -> Duration {
        let mut server = self.server().unwrap();
        let poll = || {
            let got: redis::RedisResult<(String, String)> =
                cmd("CONFIG").arg("GET").arg("cluster-node-timeout").query(&mut server);
            async move {
                let (_, got) = got?;
                Ok(if got == value { Poll::Done(()) } else { Poll::NotYet(got) })
            }
        };
        until(format!("the setting to be {value}"), DEADLINE, poll).await.unwrap().1
    }

    fn server(&self) -> anyhow::Result<Connection> {
        let path = "jsonpath={.status.podIP}";
        let address = self.kubectl.run(&["get", "pod", "a-0", "-o", path])?;
        connect(&format!("{}:6379", address.trim()), None)
    }

    /// Waits until the host has logged this many lines with this text.
    async fn logged(&self, text: &str, count: usize) {
        let poll = || async {
            let log = std::fs::read_to_string(self.cluster.host_log())?;
            let found = log.lines().filter(|line| line.contains(text)).count();
            Ok(if count <= found { Poll::Done(()) } else { Poll::NotYet(log) })
        };
        until(format!("the host to log {text:?}"), DEADLINE, poll).await.unwrap();
    }

    /// Sets `maxmemory`, the setting for which the guest waits.
    fn limit_memory(&mut self, bytes: &str) {
        let text = ["SET", "maxmemory", bytes];
        cmd("CONFIG").arg(&text).exec(&mut self.server).unwrap();
    }

    /// Returns how many `CONFIG SET` commands the server has run.
    fn config_set_count(&mut self) -> u64 {
        let info: String = cmd("INFO").arg("commandstats").query(&mut self.server).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_config|set:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_default()
    }
}

fn instance() -> Value {
    json!({"namespace": "default", "selector": "app=a", "container": "redis", "port": 6379})
}

fn probe_object(spec: &Value) -> String {
    json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Probe",
        "metadata": {"name": "a", "namespace": "default"}, "spec": spec})
    .to_string()
}

/// Returns the Pod of a server that is a cluster of one, owned by the probe.
fn member(uid: &str) -> String {
    let owner = json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Probe", "name": "a",
        "uid": uid, "controller": true});
    let usual = ["redis-server", "--bind", "$(POD_IP)", "--port", "6379", "--save", ""];
    let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", USUAL];
    let command = [&usual[..], &more].concat();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a-0", "namespace": "default", "labels": {"app": "a"},
            "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "redis", "image": "redis:7.0",
            "command": command,
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}})
    .to_string()
}

#[tokio::test]
async fn temporary_settings_are_restored_however_the_reconcile_ends() {
    let mut env = FactsEnvironment::start().await;
    env.has(USUAL).await;

    // The guest waits for a memory limit. The wait ends with the limit, and the temporary setting with the reconcile.
    env.suspend("wait");
    env.has(SUSPENDED).await;
    let since = Instant::now();
    env.limit_memory("1gb");
    env.has(USUAL).await;
    env.logged("waited: ok Held", 1).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());

    // The guest traps, and in a second run computes until it is stopped.
    for (then, text) in [("panic", "told to panic"), ("loop", "used more than")] {
        let before = env.config_set_count();
        env.suspend(then);
        env.logged(text, 1).await;
        env.has(USUAL).await;
        assert!(before + 2 <= env.config_set_count(), "set and restored, both by the host");
    }

    env.limit_memory("0");

    // The object is paused while the guest waits for a value that never comes.
    env.suspend("wait-in-vain");
    env.has(SUSPENDED).await;
    env.annotate("tholepin.dev/paused=true");
    let took = env.has(USUAL).await;
    env.logged("waited: Interrupted", 1).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    env.annotate("tholepin.dev/paused-");

    let ask = json!({"do": "call-in-reconcile", "function": "runtime/probe"});
    env.kubectl.run_with(&["apply", "-f", "-"], &probe_object(&ask)).unwrap();
    env.logged("ok Connected", 1).await;

    // The host is killed: the setting is restored only after a host runs again.
    env.suspend("wait-long");
    env.has(SUSPENDED).await;
    env.host.kill().unwrap();
    env.has(SUSPENDED).await;
    let poll = json!({"do": "look", "instance": instance()});
    env.kubectl.run_with(&["apply", "-f", "-"], &probe_object(&poll)).unwrap();
    let commands_before = env.config_set_count();
    env.host = env.cluster.host().unwrap();
    env.has(USUAL).await;
    assert_eq!(env.config_set_count(), commands_before + 1, "by the host, once");
    env.host.end().unwrap();
}

#[tokio::test]
async fn facts_end_a_plan_guard_an_action_and_wake_an_object() {
    let mut env = FactsEnvironment::start().await;
    env.annotate("tholepin.dev/paused=true");
    env.suspend("planned");
    env.logged("paused by the annotation", 1).await;
    let commands_before = env.config_set_count();
    let command = CommandLine::of(&env.cluster);
    let poll = || async {
        let (code, plan) = command.plan(&["probe/a"])?;
        Ok(if code == 2 { Poll::Done(plan) } else { Poll::NotYet(plan.to_string()) })
    };
    let (plan, _) = until("a plan with steps", DEADLINE, poll).await.unwrap();
    let commands: Vec<&str> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["commands"][0]["command"].as_str())
        .collect();
    let set = |value: &str| format!("CONFIG SET cluster-node-timeout {value}");
    assert_eq!(commands, [set(SUSPENDED), set(USUAL)], "{plan:#}");
    let stops = plan["stops"].as_str().unwrap();
    assert!(stops.starts_with("the wait until member `a-0`"), "{stops}");
    assert!(stops.ends_with("and it is \"0\""), "{stops}");
    assert_eq!(env.config_set_count(), commands_before, "a plan sends no settings");

    // Preconditions are read again right before the action, and the refusal names the present value.
    let presumed = json!([{"subject": {"member": {"pod": "a-0"}},
        "field": ".answer.answered.settings.maxmemory", "op": "equals", "value": "7"}]);
    env.suspend_if("presumed", &presumed);
    env.annotate("tholepin.dev/paused-");
    env.logged("the precondition that member `a-0`", 1).await;
    assert_eq!(env.config_set_count(), commands_before, "a refused action is not sent");

    // Between reconciles a fact wakes the object, long before its requeue.
    let fact = json!({"subject": {"member": {"instance": instance(), "pod": "a-0"}},
        "field": ".answer.answered.settings.maxmemory", "op": "not-equals", "value": "0"});
    let sleep = json!({"do": "sleep", "wake": [{"fact": fact}]});
    env.kubectl.run_with(&["apply", "-f", "-"], &probe_object(&sleep)).unwrap();
    env.logged("asleep until", 1).await;
    env.limit_memory("1gb");
    let since = Instant::now();
    env.logged("asleep until", 2).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    env.host.end().unwrap();
}
