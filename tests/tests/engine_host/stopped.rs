//! What is shown about plugins while no host serves them.

use serde_json::{Value, json};
use tests::{command::CommandLine, guests};

use crate::environment::{GREETING, HostEnvironment, PLUGIN, greeting};

const NAME: &str = "config-maker";

/// Returns the output of `tholepin plugin list` for a cluster.
fn list(env: &HostEnvironment) -> String {
    let kubeconfig = env.cluster.kubeconfig().to_str().unwrap();
    let listed = CommandLine::of(&env.cluster).run(&["plugin", "list", "--kubeconfig", kubeconfig]);
    let listed = listed.unwrap();
    assert_eq!(listed.code, 0, "{listed:?}");
    listed.stdout
}

fn remove_files(env: &HostEnvironment) {
    let directory = env.cluster.plugins().unwrap();
    for file in ["config-maker.yaml", "config-maker.wasm"] {
        std::fs::remove_file(directory.join(file)).unwrap();
    }
}

#[tokio::test]
async fn nothing_is_shown_as_serving_when_no_host_runs() {
    let good = guests::config_maker("Hello").unwrap();
    let mut env = HostEnvironment::with(&[(NAME, &good)], "stopped").await;
    env.apply(&greeting("stopped", "a", "one"));
    env.until_contains(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    let running = list(&env);
    assert_eq!(running.lines().count(), 2, "a running host adds no line: {running}");

    env.host.end().unwrap();
    let plugin = env.get(&PLUGIN, "", NAME).await.unwrap();
    assert_eq!(plugin["status"]["reason"], "HostStopped", "{plugin}");
    let serving = &plugin["status"]["conditions"][0];
    assert_eq!((&serving["type"], &serving["status"]), (&json!("Serving"), &json!("Unknown")));
    let table = env.kubectl.run(&["get", "plugins"]).unwrap();
    assert!(table.contains("HostStopped"), "{table}");
    assert!(list(&env).contains("HostStopped: the host"));

    env.restart();
    env.until_contains(&PLUGIN, ("", NAME), "/status/conditions", "AllWell").await;
    env.host.kill().unwrap();
    let killed = list(&env);
    assert!(killed.contains("which wrote this, has ended"), "{killed}");
}

#[tokio::test]
async fn a_plugin_object_without_a_file_is_reported_with_its_objects() {
    let good = guests::config_maker("Hello").unwrap();
    let mut env = HostEnvironment::with(&[(NAME, &good)], "fileless").await;
    env.apply(&greeting("fileless", "a", "one"));
    env.until_contains(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    env.host.kill().unwrap();
    remove_files(&env);
    let by_hand = json!({"apiVersion": "tholepin.dev/v1alpha1", "kind": "Plugin",
        "metadata": {"name": "by-hand"}, "spec": {"source": {"file": "by-hand.wasm"}, "grants": {}}});
    env.apply(&by_hand);
    env.restart();
    env.until_contains(&PLUGIN, ("", NAME), "/status/reason", "Unloaded").await;
    env.until_contains(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    let (made, _) = env.until_contains(&PLUGIN, ("", "by-hand"), "/status/reason", "NoFile").await;
    let message = made["status"]["message"].as_str().unwrap();
    assert!(message.contains("put `by-hand.wasm` and `by-hand.yaml`"), "{message}");
    let shown = CommandLine::of(&env.cluster).run(&["status"]).unwrap().stdout;
    for texts in ["Greeting fileless/a", "not reconciled: the plugin"] {
        assert!(shown.contains(texts), "no {texts:?} in {shown}");
    }

    // A `Plugin` object that is created again gets the status again.
    env.kubectl.run(&["delete", "plugin", "by-hand"]).unwrap();
    env.apply(&by_hand);
    env.until_contains(&PLUGIN, ("", "by-hand"), "/status/reason", "NoFile").await;

    // The `Plugin` object is deleted with the last object that waits for it.
    let free = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "greeting", "a", "-n", "fileless", "--type=merge", "-p", free];
    env.kubectl.run(&patch).unwrap();
    env.kubectl.run(&["delete", "greeting", "a", "-n", "fileless"]).unwrap();
    env.until_deleted(&PLUGIN, "", NAME).await;
    assert!(
        env.get(&PLUGIN, "", "by-hand").await.is_some(),
        "an object that a user created was deleted"
    );
}

#[tokio::test]
async fn a_name_clash_ends_when_the_other_object_is_deleted() {
    let good = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[(NAME, &good)], "taken").await;
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "taken"}, "data": {"k": "theirs"}});
    env.apply(&theirs);
    env.apply(&greeting("taken", "a", "one"));
    env.until_contains(&GREETING, ("taken", "a"), "/status/conditions", "it has no controller")
        .await;
    env.kubectl.run(&["delete", "configmap", "a", "-n", "taken"]).unwrap();
    env.until_contains(&GREETING, ("taken", "a"), "/status/greeting", "Hello, one").await;
    let calls =
        CommandLine::of(&env.cluster).run(&["calls", "greeting/a", "-n", "taken", "--json"]);
    let calls: Value = serde_json::from_str(&calls.unwrap().stdout).unwrap();
    assert!(calls.to_string().contains("name clash"), "{calls}");
}
