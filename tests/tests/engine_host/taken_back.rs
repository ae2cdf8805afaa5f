//! A revision that fails for many objects is rolled back by the host, and a user can roll back by hand.

use serde_json::Value;
use tests::{
    command::CommandLine,
    guests,
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, EVENT, GREETING, HostEnvironment, PLUGIN, greeting,
};

const DATA: &str = "/data/greeting";
const NAME: &str = "config-maker";
const OBJECTS: [&str; 3] = ["a", "b", "c"];

/// Writes a new text to every greeting, and waits until the ConfigMap of each has it.
async fn until_all_say(env: &HostEnvironment, greeted: &str, text: &str) {
    env.apply_all(OBJECTS.map(|name| greeting("back", name, text)));
    for name in OBJECTS {
        env.until_contains(&CONFIG_MAP, ("back", name), DATA, &format!("{greeted}, {text}")).await;
    }
}

/// Returns the status and the reason of a condition of the plugin.
fn condition(plugin: &Value, kind: &str) -> String {
    let conditions = plugin.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|value| value["type"] == kind);
    let text =
        |field: &str| found.and_then(|value| value[field].as_str()).unwrap_or("-").to_owned();
    format!("{} {}", text("status"), text("reason"))
}

/// Waits until an event about the plugin has this reason.
async fn until_event(env: &HostEnvironment, reason: &str) {
    let poll = || async {
        let listed =
            env.kubectl.run(&["get", "events.events.k8s.io", "-n", "default", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let events = listed["items"].as_array().into_iter().flatten();
        let mut about = events.filter(|event| event["regarding"]["name"] == NAME);
        let is_done = about.any(|event| event["reason"] == reason);
        Ok(if is_done { Poll::Done(()) } else { Poll::NotYet(listed.to_string()) })
    };
    until(format!("an event {reason} ({})", EVENT.2), DEADLINE, poll).await.unwrap();
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the test prints what it measured")]
async fn a_revision_that_traps_is_rolled_back_by_the_host() {
    let good = guests::config_maker("Hello").unwrap();
    let mut env = HostEnvironment::with(&[(NAME, &good)], "back").await;
    let command = CommandLine::of(&env.cluster);
    until_all_say(&env, "Hello", "one").await;
    let first = env.active(NAME, "").await;
    until_event(&env, "Activated").await;

    env.put("config-maker.wasm", guests::config_maker("Trap").unwrap());
    let (plugin, _) = env.until_contains(&PLUGIN, ("", NAME), "/status/reason", "TakenBack").await;
    assert_eq!(plugin["status"]["active"], first.as_str());
    assert_eq!(condition(&plugin, "Serving"), "True EarlierRevision");
    let message = plugin["status"]["message"].as_str().unwrap();
    for texts in
        ["twice in a row for 3 of 3 objects", "back/a", "tholepin plugin rollback config-maker"]
    {
        assert!(message.contains(texts), "no {texts:?} in {message}");
    }
    until_event(&env, "TakenBack").await;
    let logged = env.until_logged(&["the revision is rolled back"]).await;
    let took = logged.split_once("took=").map(|(_, took)| took.split(' ').next());
    println!("the earlier revision served again after {took:?}");
    // No object stays quarantined.
    until_all_say(&env, "Hello", "two").await;
    let (plugin, _) =
        env.until_contains(&PLUGIN, ("", NAME), "/status/unhealthyObjects", "0").await;
    assert_eq!(
        (condition(&plugin, "Healthy"), &plugin["status"]["objects"]),
        ("True AllWell".into(), &3.into())
    );
    let table = env.kubectl.run(&["get", "plugins"]).unwrap();
    assert!(table.contains("SERVING") && table.contains("TakenBack"), "{table}");

    // A restarted host does not try the bad revision again.
    env.host.kill().unwrap();
    env.restart();
    until_all_say(&env, "Hello", "three").await;
    let shown = command.run(&["plugin", "history", NAME]).unwrap();
    for texts in
        ["serves", "rolled back: it failed twice", "is refused until the component or `spec`"]
    {
        assert!(shown.stdout.contains(texts), "no {texts:?} in {shown:?}");
    }

    // Both tables show the same time.
    let plugin = env.get(&PLUGIN, "", NAME).await.unwrap();
    let since = plugin["status"]["activatedAt"].as_str().unwrap();
    let serves = shown.stdout.lines().find(|line| line.contains("serves")).unwrap();
    assert!(serves.contains(since), "no {since} in {serves}");

    // Another file is tried, and a user rolls back from it.
    env.put("config-maker.wasm", guests::config_maker("Ahoy").unwrap());
    env.until_contains(&PLUGIN, ("", NAME), "/status/version", "Ahoy").await;
    until_all_say(&env, "Ahoy", "four").await;
    let back = command.run(&["plugin", "rollback", NAME]).unwrap();
    assert_eq!((back.code, back.stdout.contains(&first[..12])), (0, true), "{back:?}");
    until_all_say(&env, "Hello", "five").await;
    env.until_contains(&PLUGIN, ("", NAME), "/status/reason", "RolledBack").await;
    let refused = command.run(&["plugin", "rollback", NAME, "nothing"]).unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("begins with `nothing`"), "{refused:?}");
}

#[tokio::test]
async fn a_plugin_without_files_stays_visible_while_it_has_objects() {
    let good = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[(NAME, &good)], "back").await;
    until_all_say(&env, "Hello", "one").await;
    env.until_contains(&PLUGIN, ("", NAME), "/status/objects", "3").await;
    let directory = env.cluster.plugins().unwrap();
    let settings = std::fs::read(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    let (plugin, _) = env.until_contains(&PLUGIN, ("", NAME), "/status/stage", "Unloaded").await;
    assert_eq!(condition(&plugin, "Serving"), "False Unloaded");
    assert_eq!(
        (&plugin["status"]["reason"], &plugin["status"]["objects"]),
        (&"Unloaded".into(), &3.into())
    );
    let command = CommandLine::of(&env.cluster);
    let shown = command.run(&["status"]).unwrap();
    for texts in ["Unloaded: its files are gone", "Greeting back/a", "not reconciled: the plugin"] {
        assert!(shown.stdout.contains(texts), "no {texts:?} in {shown:?}");
    }
    until_event(&env, "Unloaded").await;
    env.until_contains(&GREETING, ("back", "a"), "/status/conditions", "PluginMissing").await;
    // The records of its objects are still shown.
    for (asked, found) in [("status", "not reconciled: the plugin"), ("calls", "Hello, one")] {
        let answer = command.run(&[asked, "greeting/a", "-n", "back"]).unwrap();
        assert!(answer.stdout.contains(found), "no {found:?} in {answer:?}");
    }
    guests::put(&directory, "config-maker.yaml", &settings).unwrap();
    env.put("config-maker.wasm", &good);
    until_all_say(&env, "Hello", "two").await;
    let (plugin, _) = env.until_contains(&PLUGIN, ("", NAME), "/status/stage", "Active").await;
    assert_eq!(condition(&plugin, "Serving"), "True Active");
    let found = command.run(&["status", "greeting/a", "-n", "back", "-o", "json"]).unwrap();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(
        (&found["objects"][0]["object"]["name"], &found["objects"][0]["isServed"]),
        (&"a".into(), &true.into())
    );
    env.kubectl.run(&["delete", "greetings", "--all", "-n", "back"]).unwrap();
    env.until_contains(&PLUGIN, ("", NAME), "/status/objects", "0").await;
    std::fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    env.until_deleted(&PLUGIN, "", NAME).await;
}

#[tokio::test]
async fn a_plugin_object_that_is_edited_or_deleted_is_restored() {
    let good = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[(NAME, &good)], "back").await;
    let first = env.active(NAME, "").await;
    let patch = r#"{"spec":{"limits":{"memoryMiB":1},"digest":null,"grants":{}}}"#;
    env.kubectl.run(&["patch", "plugin", NAME, "--type=merge", "-p", patch]).unwrap();
    until_event(&env, "PutBack").await;
    let (plugin, _) = env.until_contains(&PLUGIN, ("", NAME), "/spec/grants", "asRequested").await;
    assert_eq!(plugin["spec"].get("limits"), None, "{plugin}");
    let uid = plugin["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(env.active(NAME, "").await, first, "the file decides, not the edited object");

    env.kubectl.run(&["delete", "plugin", NAME]).unwrap();
    let poll = || async {
        let found = env.get(&PLUGIN, "", NAME).await.unwrap_or_default();
        let is_new = found["metadata"]["uid"].as_str().is_some_and(|now| now != uid);
        let is_whole = found["status"]["active"] == first.as_str();
        Ok(if is_new && is_whole { Poll::Done(()) } else { Poll::NotYet(found.to_string()) })
    };
    until("the object to be created again", DEADLINE, poll).await.unwrap();
}

#[tokio::test]
async fn two_hosts_are_reported_and_a_restarted_host_is_not() {
    let good = guests::config_maker("Hello").unwrap();
    let mut env = HostEnvironment::with(&[(NAME, &good)], "back").await;
    until_all_say(&env, "Hello", "one").await;
    env.host.kill().unwrap();
    env.restart();
    until_all_say(&env, "Hello", "two").await;
    let plugin = env.get(&PLUGIN, "", NAME).await.unwrap();
    assert_eq!(condition(&plugin, "AnotherHost"), "- -", "the earlier process is no other host");
    let mut other = env.cluster.host().unwrap();
    env.until_contains(&PLUGIN, ("", NAME), "/status/conditions", "AnotherHost").await;
    until_event(&env, "AnotherHost").await;
    other.kill().unwrap();
    // The remaining host removes the condition with its next write.
    let poll = || async {
        let name = format!("x{}", std::time::UNIX_EPOCH.elapsed()?.as_nanos());
        env.apply(&greeting("back", &name, "more"));
        let plugin = env.get(&PLUGIN, "", NAME).await.unwrap_or_default();
        let is_alone = condition(&plugin, "AnotherHost") == "- -";
        Ok(if is_alone { Poll::Done(()) } else { Poll::NotYet(plugin["status"].to_string()) })
    };
    until("the condition to be removed", DEADLINE, poll).await.unwrap();
}
