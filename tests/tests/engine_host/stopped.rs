//! What is shown of plugins while no host serves them.

use serde_json::{Value, json};
use tests::{command::CommandLine, guests};

use crate::environment::{GREETING, HostEnvironment, PLUGIN, greeting};

const NAME: &str = "config-maker";

/// `tholepin plugin list` against a cluster.
fn list(story: &HostEnvironment) -> String {
    let kubeconfig = story.cluster.kubeconfig().to_str().unwrap();
    let listed =
        CommandLine::of(&story.cluster).run(&["plugin", "list", "--kubeconfig", kubeconfig]);
    let listed = listed.unwrap();
    assert_eq!(listed.code, 0, "{listed:?}");
    listed.stdout
}

fn remove_files(story: &HostEnvironment) {
    let directory = story.cluster.plugins().unwrap();
    for file in ["config-maker.yaml", "config-maker.wasm"] {
        std::fs::remove_file(directory.join(file)).unwrap();
    }
}

#[tokio::test]
async fn nothing_looks_alive_when_no_host_runs() {
    let good = guests::config_maker("Hello").unwrap();
    let mut story = HostEnvironment::with(&[(NAME, &good)], "stopped").await;
    story.apply(&greeting("stopped", "a", "one"));
    story.says(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    let running = list(&story);
    assert_eq!(running.lines().count(), 2, "a host that answers is no news: {running}");

    story.host.end().unwrap();
    let plugin = story.get(&PLUGIN, "", NAME).await.unwrap();
    assert_eq!(plugin["status"]["reason"], "HostStopped", "{plugin}");
    let serving = &plugin["status"]["conditions"][0];
    assert_eq!((&serving["type"], &serving["status"]), (&json!("Serving"), &json!("Unknown")));
    let table = story.kubectl.run(&["get", "plugins"]).unwrap();
    assert!(table.contains("HostStopped"), "{table}");
    assert!(list(&story).contains("HostStopped: the host"));

    story.restart();
    story.says(&PLUGIN, ("", NAME), "/status/conditions", "AllWell").await;
    story.host.kill().unwrap();
    let killed = list(&story);
    assert!(killed.contains("which wrote this, has ended"), "{killed}");
}

#[tokio::test]
async fn a_plugin_object_without_a_file_is_told_of_with_its_objects() {
    let good = guests::config_maker("Hello").unwrap();
    let mut story = HostEnvironment::with(&[(NAME, &good)], "fileless").await;
    story.apply(&greeting("fileless", "a", "one"));
    story.says(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    story.host.kill().unwrap();
    remove_files(&story);
    let by_hand = json!({"apiVersion": "tholepin.dev/v1alpha1", "kind": "Plugin",
        "metadata": {"name": "by-hand"}, "spec": {"source": {"file": "by-hand.wasm"}, "grants": {}}});
    story.apply(&by_hand);
    story.restart();
    story.says(&PLUGIN, ("", NAME), "/status/reason", "Unloaded").await;
    story.says(&PLUGIN, ("", NAME), "/status/objects", "1").await;
    let (made, _) = story.says(&PLUGIN, ("", "by-hand"), "/status/reason", "NoFile").await;
    let message = made["status"]["message"].as_str().unwrap();
    assert!(message.contains("put `by-hand.wasm` and `by-hand.yaml`"), "{message}");
    let shown = CommandLine::of(&story.cluster).run(&["status"]).unwrap().stdout;
    for words in ["Greeting fileless/a", "not reconciled: the plugin"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    // Whoever tries again is told again.
    story.kubectl.run(&["delete", "plugin", "by-hand"]).unwrap();
    story.apply(&by_hand);
    story.says(&PLUGIN, ("", "by-hand"), "/status/reason", "NoFile").await;

    // It goes with the last object that waits for it.
    let free = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "greeting", "a", "-n", "fileless", "--type=merge", "-p", free];
    story.kubectl.run(&patch).unwrap();
    story.kubectl.run(&["delete", "greeting", "a", "-n", "fileless"]).unwrap();
    story.gone(&PLUGIN, "", NAME).await;
    assert!(story.get(&PLUGIN, "", "by-hand").await.is_some(), "somebody made it");
}

#[tokio::test]
async fn an_object_whose_name_is_taken_is_made_when_the_other_goes() {
    let good = guests::config_maker("Hello").unwrap();
    let story = HostEnvironment::with(&[(NAME, &good)], "taken").await;
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "taken"}, "data": {"k": "theirs"}});
    story.apply(&theirs);
    story.apply(&greeting("taken", "a", "one"));
    story.says(&GREETING, ("taken", "a"), "/status/conditions", "nobody controls it").await;
    story.kubectl.run(&["delete", "configmap", "a", "-n", "taken"]).unwrap();
    story.says(&GREETING, ("taken", "a"), "/status/greeting", "Hello, one").await;
    let calls =
        CommandLine::of(&story.cluster).run(&["calls", "greeting/a", "-n", "taken", "--json"]);
    let calls: Value = serde_json::from_str(&calls.unwrap().stdout).unwrap();
    assert!(calls.to_string().contains("name clash"), "{calls}");
}
