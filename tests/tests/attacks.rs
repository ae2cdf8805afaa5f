//! Plays the attacks of `tests/guests/attacks` against the real host, the local API server and a real Redis, and
//! prints a table: attack, rule, answer, what was written.
//!
//! ```text
//! cargo test -p tests --test attacks                     all attacks
//! cargo test -p tests --test attacks -- NAME…            these
//! ```
#![cfg(test)]

use std::{env, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use guest_attacks::{ATTACKS, Attack};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use redis::{Connection, cmd};
use serde_json::{Value, json};
use tests::{
    environment::{GIVE_UP, TestEnvironment},
    guests,
    imports::DENIED,
    oracle::host_writes,
    redis_cluster::{NAMESPACE, RedisCluster},
    router::connect,
    selection::{self, Arguments, print_line},
    wait::{Poll, until},
};
use tholepin_schema::reserved;

/// The objects that the attacks meet. The Pod is created when the uid of its owner is known.
const OBJECTS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: attacks.tests.tholepin.dev}
spec:
  group: tests.tholepin.dev
  scope: Namespaced
  names: {kind: Attack, listKind: AttackList, plural: attacks, singular: attack}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

/// The object that is reconciled, another one, and an object of nobody.
const INSTANCES: &str = r"
apiVersion: tests.tholepin.dev/v1
kind: Attack
metadata: {name: a, namespace: default}
spec: {}
---
apiVersion: tests.tholepin.dev/v1
kind: Attack
metadata: {name: b, namespace: default}
spec: {}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: theirs, namespace: default}
data: {k: v}
";

/// How long the counters of Redis and the audit log are compared after an answer.
const SETTLE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    selection::exit_code(run())
}

fn run() -> Result<bool> {
    let given: Vec<String> = env::args().skip(1).collect();
    let arguments = Arguments::parse(&given, &[])?;
    let known: Vec<_> = ATTACKS.iter().map(|attack| attack.name.to_owned()).collect();
    let named = |name: &str| ATTACKS.iter().filter(|attack| attack.name == name).collect();
    let selected: Vec<&Attack> = if arguments.names.is_empty() {
        ATTACKS.iter().collect()
    } else {
        arguments.named(named, &known)?
    };
    let selected = arguments.without_skipped(selected, |attack| attack.name.to_owned(), &known)?;
    if arguments.is_list {
        selected.iter().for_each(|attack| print_line(&format!("{}: test", attack.name)));
        return Ok(true);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    runtime.block_on(play(&selected))
}

async fn play(attacks: &[&Attack]) -> Result<bool> {
    let plugins = [("attacks", guests::attacks()?), ("probe", guests::probe()?)];
    let kinds = format!("{OBJECTS}---{}", guests::PROBES);
    let env = TestEnvironment::begin(RedisCluster::USUAL, &plugins, &kinds).await?;
    let target = Target::create(&env).await?;
    print_line("attack | rule | answer | written");
    let mut failed = 0;
    for attack in attacks {
        match target.judge(&env, attack).await {
            Ok(row) => print_line(&row),
            Err(error) => {
                print_line(&format!("{} FAILED: {error:#}", attack.name));
                failed += 1;
            }
        }
    }
    let imports = if attacks.len() == ATTACKS.len() { DENIED } else { &[] };
    for (function, expected) in imports {
        match target.judge_import(&env, function, expected).await {
            Ok(row) => print_line(&row),
            Err(error) => {
                print_line(&format!("{function} FAILED: {error:#}"));
                failed += 1;
            }
        }
    }
    print_line(&format!("{} attacks, failed: {failed}", attacks.len() + imports.len()));
    env.stop()?;
    Ok(failed == 0)
}

/// The reconciled object's Redis server, with one key.
struct Target {
    address: String,
}

impl Target {
    async fn create(env: &TestEnvironment) -> Result<Self> {
        env.kubectl.run_with(&["apply", "--server-side", "-f", "-"], INSTANCES)?;
        let uid = env.kubectl.run(&["get", "attack", "a", "-o", "jsonpath={.metadata.uid}"])?;
        let owner = json!([{"apiVersion": guest_attacks::API_VERSION, "kind": guest_attacks::KIND,
            "name": "a", "uid": uid, "controller": true}]);
        let mine = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "mine", "namespace": NAMESPACE, "ownerReferences": owner}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a-0", "namespace": NAMESPACE, "labels": {"app": "a"},
                "ownerReferences": owner},
            "spec": {"containers": [{"name": "redis", "image": "redis:7.0",
                "command": ["redis-server", "--bind", "$(POD_IP)", "--port", "6379", "--save", ""],
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}});
        for object in [mine, pod] {
            let text = object.to_string();
            env.kubectl.run_with(&["apply", "--server-side", "-f", "-"], &text)?;
        }
        let pods: Api<Pod> = Api::namespaced(env.client.clone(), NAMESPACE);
        let poll = || async {
            let status = pods.get("a-0").await?.status.context("no status yet")?;
            let address = format!("{}:6379", status.pod_ip.context("no address yet")?);
            let () = cmd("SET").arg("key").arg("value").query(&mut connect(&address, None)?)?;
            Ok(Poll::Done(address))
        };
        let (address, _) = until("the server of the attacks", GIVE_UP, poll).await?;
        env.settle(Duration::from_secs(1)).await?;
        Ok(Self { address })
    }

    /// Lets the plugin make one attack, and returns its row of the table.
    async fn judge(&self, env: &TestEnvironment, attack: &Attack) -> Result<String> {
        let Attack { name, rule, error: (reason, words), .. } = attack;
        let patch = json!({"spec": {"attack": name}}).to_string();
        let answer = self
            .unchanged(env, async || {
                env.kubectl.run(&["patch", "attack", "a", "--type", "merge", "--patch", &patch])?;
                answer(env, &format!("attack {name}: "), " plugin=", "").await
            })
            .await?;
        ensure!(answer.starts_with(reason) && answer.contains(words), "the answer is {answer}");
        Ok(format!("{name} | {rule} | {answer} | nothing"))
    }

    /// Lets a plugin without grants call an import, and returns its row of the table.
    async fn judge_import(
        &self,
        env: &TestEnvironment,
        function: &str,
        grant: &str,
    ) -> Result<String> {
        let name = function.replace('/', "-");
        let probe = json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Probe",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"do": "call-in-reconcile", "function": function}})
        .to_string();
        let answer = self
            .unchanged(env, async || {
                env.kubectl.run_with(&["create", "-f", "-"], &probe)?;
                let object = format!("{NAMESPACE}/{name} ");
                answer(env, "tholepin_controller::reconcile: ", " plugin=", &object).await
            })
            .await?;
        let is_denied = answer.to_lowercase().starts_with("denied");
        ensure!(is_denied && answer.contains(grant), "the answer is {answer}");
        Ok(format!("{function} | an import needs its grant | {answer} | nothing"))
    }

    /// Returns the answer of an attack after checking that nothing was written and no command was sent.
    async fn unchanged(
        &self,
        env: &TestEnvironment,
        attack: impl AsyncFnOnce() -> Result<String>,
    ) -> Result<String> {
        let mut server = connect(&self.address, None)?;
        let audit = env.cluster.audit_log();
        let (writes, before) = (host_writes(&audit)?.len(), commands(&mut server)?);
        let answer = attack().await?;
        env.settle(SETTLE).await?;
        let written = host_writes(&audit)?;
        let written = written.get(writes..).unwrap_or_default();
        let written: Vec<_> = written.iter().filter(|write| !is_hosts_own(write)).collect();
        ensure!(written.is_empty(), "the host wrote {written:?} and answered {answer}");
        let after = commands(&mut server)?;
        ensure!(before == after, "the server was sent commands: {before:?} became {after:?}");
        let value: String = cmd("GET").arg("key").query(&mut server)?;
        ensure!(value == "value", "the key has the value {value}");
        Ok(answer)
    }
}

/// Waits for the line of the host's log that contains `object`, and returns its part between `begin` and `end`.
async fn answer(env: &TestEnvironment, begin: &str, end: &str, object: &str) -> Result<String> {
    let poll = || async {
        let log = env.host_log()?;
        let mut lines = log.lines().filter(|line| line.contains(object));
        let answer = lines.find_map(|line| Some(line.split_once(begin)?.1.split_once(end)?.0));
        let answer = answer.map(str::to_owned);
        Ok(answer.map_or_else(|| Poll::NotYet("no answer".to_owned()), Poll::Done))
    };
    Ok(until(format!("an answer that begins with `{begin}`"), GIVE_UP, poll).await?.0)
}

/// Returns how often each command was called, except those of this test and of observations, which read.
fn commands(server: &mut Connection) -> Result<Vec<String>> {
    const READS: &[&str] = &[
        "client|setinfo",
        "cluster|info",
        "cluster|nodes",
        "config|get",
        "dbsize",
        "get",
        "hello",
        "info",
        "ping",
        "role",
    ];
    let info: String = cmd("INFO").arg("commandstats").query(server)?;
    let row = |line: &str| {
        let (name, counters) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = counters.split(',').next()?;
        (!READS.contains(&name)).then(|| format!("{name} {calls}"))
    };
    Ok(info.lines().filter_map(row).collect())
}

/// Returns true for writes that the host makes of its own account: its reserved objects, and the counts in a
/// `Plugin` object.
fn is_hosts_own(write: &Value) -> bool {
    let is_reserved = write["name"].as_str().is_some_and(|name| name.starts_with(reserved::PREFIX));
    is_reserved || write["resource"] == "plugins" && write["subresource"] == "status"
}
