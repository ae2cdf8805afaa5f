//! RedisClusters that cannot work, on a whole local cluster: each is refused or reports how to fix it, and a good
//! cluster beside them becomes and stays Ready.
#![cfg(test)]

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    guests,
    kubectl::Kubectl,
    process::Process,
    wait::{Poll, until},
};

/// How long a cluster of one member may take to be Ready; an idle machine needs a few seconds.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a condition may take to report a fault.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "bad";

/// Returns a RedisCluster of one member with these additional fields of `spec`.
fn redis_cluster(name: &str, fields: &Value) -> String {
    redis_cluster_in(NAMESPACE, name, fields)
}

fn redis_cluster_in(namespace: &str, name: &str, fields: &Value) -> String {
    let mut object = json!({
        "apiVersion": "redis.tholepin.dev/v1alpha1",
        "kind": "RedisCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"shards": 1, "replicasPerShard": 0, "image": "redis:7.0"}
    });
    let spec = object["spec"].as_object_mut().unwrap();
    spec.extend(fields.as_object().unwrap().clone());
    object.to_string()
}

fn apply(kubectl: &Kubectl, text: &str) -> Result<String, String> {
    kubectl.run_with(&["apply", "-f", "-"], text).map_err(|error| error.to_string())
}

/// Waits until kubectl's output contains all these texts; returns the output.
async fn until_printed(
    kubectl: &Kubectl,
    arguments: &[&str],
    texts: &[&str],
    deadline: Duration,
) -> String {
    let arguments = [arguments, &["--namespace", NAMESPACE]].concat();
    until_output(kubectl, &arguments, texts, deadline).await
}

/// The same in any namespace, within the usual time.
async fn until_reported(kubectl: &Kubectl, arguments: &[&str], texts: &[&str]) -> String {
    until_output(kubectl, arguments, texts, REPORT_DEADLINE).await
}

async fn until_output(
    kubectl: &Kubectl,
    arguments: &[&str],
    texts: &[&str],
    deadline: Duration,
) -> String {
    let poll = || async {
        let text = kubectl.run(arguments)?;
        Ok(if texts.iter().all(|text| text.contains(text)) {
            Poll::Done(text)
        } else {
            Poll::NotYet(text)
        })
    };
    until(format!("kubectl {arguments:?} to print {texts:?}"), deadline, poll).await.unwrap().0
}

async fn until_ready(kubectl: &Kubectl, name: &str) {
    let condition = ["get", "rediscluster", name, "-o"];
    let path = [r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#];
    until_printed(kubectl, &[condition.as_slice(), &path].concat(), &["True"], READY_DEADLINE)
        .await;
}

/// Checks that the API server refuses the object immediately with these texts.
fn refused(kubectl: &Kubectl, fields: &Value, texts: &[&str]) {
    let error = apply(kubectl, &redis_cluster("refused", fields)).unwrap_err();
    for text in texts {
        assert!(error.contains(text), "no {text:?} in {error}");
    }
}

/// Runs the command between backticks in the condition `Degraded` of a cluster, unchanged.
fn follow_advice(kubectl: &Kubectl, name: &str) {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Degraded")].message}"#;
    let message = kubectl.run(&["get", "rediscluster", name, "-n", NAMESPACE, "-o", path]).unwrap();
    let command = message.split('`').find(|part| part.starts_with("kubectl ")).unwrap();
    let output = kubectl.shell(command).unwrap();
    let until_output = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {until_output}");
}

/// Starts a local cluster with the namespace, and a host with the plugin.
fn start() -> (LocalClusterProcess, Process, Kubectl) {
    let cluster = LocalClusterProcess::start().unwrap();
    let directory = cluster.plugins().unwrap();
    let component = guests::redis_cluster().unwrap();
    guests::put(&directory, "redis-cluster.wasm", &component).unwrap();
    let settings = guests::settings("redis-cluster");
    guests::put(&directory, "redis-cluster.yaml", settings.as_bytes()).unwrap();
    let host = cluster.host().unwrap();
    let kubectl = cluster.kubectl().unwrap();
    apply(&kubectl, &namespace(NAMESPACE, &json!({}))).unwrap();
    (cluster, host, kubectl)
}

fn namespace(name: &str, labels: &Value) -> String {
    let metadata = json!({"name": name, "labels": labels});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).to_string()
}

fn end(mut host: Process, cluster: &LocalClusterProcess) {
    host.end().unwrap_or_else(|error| {
        panic!("{error}\n{}", fs::read_to_string(&cluster.logs()[1]).unwrap_or_default())
    });
}

/// A reason why a cluster cannot be created, and the expected column, condition and texts.
struct FailureCause {
    namespace: &'static str,
    name: &'static str,
    fields: Value,
    reason: &'static str,
    condition: &'static str,
    texts: &'static [&'static str],
}

fn causes() -> Vec<FailureCause> {
    let cause = |name, fields, reason, texts| FailureCause {
        namespace: NAMESPACE,
        name,
        fields,
        reason,
        condition: "Degraded",
        texts,
    };
    let password = json!({"auth": {"secretName": "two-lines", "key": "password"}});
    let none = || json!({});
    vec![
        cause(
            "image",
            json!({"image": "acme/none:1.0"}),
            "PodDoesNotRun",
            &["ErrImagePull", "acme/none:1.0"],
        ),
        cause(
            "memory",
            json!({"resources": {"requests": {"memory": "9Ti"}}}),
            "PodDoesNotRun",
            &["Insufficient memory"],
        ),
        cause(
            "crash",
            json!({"settings": {"activedefrag": "yes"}}),
            "DoesNotStart",
            &["activedefrag"],
        ),
        cause("password", password, "SecretUnusable", &["two-lines", "line break", "printf"]),
        cause(
            "class",
            json!({"storage": {"size": "64Mi", "storageClassName": "nope"}}),
            "PodDoesNotRun",
            &["\"nope\" not found"],
        ),
        FailureCause {
            namespace: "hardened",
            ..cause("security", none(), "PodDoesNotRun", &["violates PodSecurity", "runAsNonRoot"])
        },
        FailureCause {
            namespace: "full",
            ..cause("quota", none(), "PodDoesNotRun", &["exceeded quota: few", "limited: pods=0"])
        },
        FailureCause {
            condition: "Reconciled",
            ..cause(
                "spec",
                json!({"settings": {"maxmemroy": "1gb"}}),
                "InvalidSpec",
                &[".spec.settings.maxmemroy", "did you mean"],
            )
        },
    ]
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the test prints the table")]
async fn a_cause_of_failure_is_in_the_table_and_in_a_condition() {
    let (cluster, host, kubectl) = start();
    let enforce = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    apply(&kubectl, &namespace("hardened", &enforce)).unwrap();
    apply(&kubectl, &namespace("full", &json!({}))).unwrap();
    let in_namespace = |name: &str, namespace: &str| json!({"name": name, "namespace": namespace});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": in_namespace("few", "full"), "spec": {"hard": {"pods": "0"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": in_namespace("two-lines", NAMESPACE), "stringData": {"password": "one\ntwo"}});
    for object in [quota, secret] {
        apply(&kubectl, &object.to_string()).unwrap();
    }
    let causes = causes();
    for FailureCause { namespace, name, fields, .. } in &causes {
        apply(&kubectl, &redis_cluster_in(namespace, name, fields)).unwrap();
    }
    for FailureCause { namespace, name, reason, condition, texts, .. } in &causes {
        let path = format!(r#"jsonpath={{.status.conditions[?(@.type=="{condition}")].message}}"#);
        let arguments = ["get", "rediscluster", name, "--namespace", namespace];
        let message =
            until_reported(&kubectl, &[&arguments[..], &["-o", &path]].concat(), texts).await;
        let row = row_with(&kubectl, &arguments, reason).await;
        println!("{row}\n  {message}");
    }
    // The quota is removed, and the cluster becomes Ready.
    kubectl.run(&["delete", "resourcequota", "few", "--namespace", "full"]).unwrap();
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let arguments = ["get", "rediscluster", "quota", "--namespace", "full", "-o", ready];
    until_reported(&kubectl, &arguments, &["True"]).await;
    end(host, &cluster);
}

/// Returns the row of an object in kubectl's table, once it names this reason.
async fn row_with(kubectl: &Kubectl, arguments: &[&str], reason: &str) -> String {
    until_reported(kubectl, &[arguments, &["--no-headers"]].concat(), &[reason]).await
}

#[tokio::test]
async fn a_bad_cluster_reports_how_to_fix_it_and_affects_no_other() {
    let (cluster, host, kubectl) = start();
    apply(&kubectl, &redis_cluster("good", &json!({}))).unwrap();

    // Violations of the CRD's schema are refused before anything is stored.
    refused(&kubectl, &json!({"shards": 0}), &["spec.shards", "greater than or equal to 1"]);
    refused(&kubectl, &json!({"sharts": 3}), &["unknown field", "spec.sharts"]);
    refused(&kubectl, &json!({"port": 80}), &["spec.port", "1024"]);

    // Violations that only the plugin knows are reported on the object.
    let describe = |name: &'static str| ["describe", "rediscluster", name];
    let unknown = json!({"settings": {"maxmemroy": "1gb"}});
    apply(&kubectl, &redis_cluster("unknown", &unknown)).unwrap();
    let texts = ["InvalidSpec", ".spec.settings.maxmemroy", "did you mean `maxmemory`"];
    until_printed(&kubectl, &describe("unknown"), &texts, REPORT_DEADLINE).await;

    let secret = json!({"auth": {"secretName": "absent", "key": "password"}});
    apply(&kubectl, &redis_cluster("secretless", &secret)).unwrap();
    let texts = ["SecretMissing", "kubectl", "create secret generic absent"];
    until_printed(&kubectl, &describe("secretless"), &texts, REPORT_DEADLINE).await;

    apply(&kubectl, &redis_cluster("imageless", &json!({"image": "acme/none:1.0"}))).unwrap();
    let texts = ["acme/none:1.0", "no program", "images"];
    until_printed(&kubectl, &["describe", "pods"], &texts, REPORT_DEADLINE).await;
    let texts = ["imageless", "ErrImagePull"];
    until_printed(&kubectl, &["get", "pods"], &texts, REPORT_DEADLINE).await;
    until_printed(&kubectl, &describe("imageless"), &["imageless-"], REPORT_DEADLINE).await;

    // The good cluster is Ready, and following each advice works.
    until_ready(&kubectl, "good").await;
    apply(&kubectl, &redis_cluster("unknown", &json!({"settings": {"maxmemory": "1gb"}}))).unwrap();
    follow_advice(&kubectl, "secretless");
    until_ready(&kubectl, "unknown").await;
    until_ready(&kubectl, "secretless").await;
    until_ready(&kubectl, "good").await;
    end(host, &cluster);
}
