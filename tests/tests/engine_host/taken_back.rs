//! A revision that goes wrong for many objects is taken back by itself, and a person goes back by hand.

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

/// Writes a new text to every greeting, and waits until each is greeted so.
async fn all_say(story: &HostEnvironment, greeted: &str, text: &str) {
    story.apply_all(OBJECTS.map(|name| greeting("back", name, text)));
    for name in OBJECTS {
        story.says(&CONFIG_MAP, ("back", name), DATA, &format!("{greeted}, {text}")).await;
    }
}

/// A condition of the plugin: its status and its reason.
fn condition(plugin: &Value, kind: &str) -> String {
    let conditions = plugin.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|it| it["type"] == kind);
    let text = |field: &str| found.and_then(|it| it[field].as_str()).unwrap_or("-").to_owned();
    format!("{} {}", text("status"), text("reason"))
}

/// Waits until an event about the plugin has this reason.
async fn announced(story: &HostEnvironment, reason: &str) {
    let look = || async {
        let listed =
            story.kubectl.run(&["get", "events.events.k8s.io", "-n", "default", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let events = listed["items"].as_array().into_iter().flatten();
        let mut about = events.filter(|event| event["regarding"]["name"] == NAME);
        let is_there = about.any(|event| event["reason"] == reason);
        Ok(if is_there { Poll::There(()) } else { Poll::NotYet(listed.to_string()) })
    };
    until(format!("an event {reason} ({})", EVENT.2), DEADLINE, look).await.unwrap();
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "what was measured is told with the test")]
async fn a_revision_that_traps_goes_back_by_itself() {
    let good = guests::config_maker("Hello").unwrap();
    let mut story = HostEnvironment::with(&[(NAME, &good)], "back").await;
    let command = CommandLine::of(&story.cluster);
    all_say(&story, "Hello", "one").await;
    let first = story.active(NAME, "").await;
    announced(&story, "Activated").await;

    story.put("config-maker.wasm", guests::config_maker("Trap").unwrap());
    let (plugin, _) = story.says(&PLUGIN, ("", NAME), "/status/reason", "TakenBack").await;
    assert_eq!(plugin["status"]["active"], first.as_str());
    assert_eq!(condition(&plugin, "Serving"), "True EarlierRevision");
    let message = plugin["status"]["message"].as_str().unwrap();
    for words in
        ["twice in a row for 3 of 3 objects", "back/a", "tholepin plugin rollback config-maker"]
    {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    announced(&story, "TakenBack").await;
    let logged = story.logged(&["the revision is taken back"]).await;
    let took = logged.split_once("took=").map(|(_, took)| took.split(' ').next());
    println!("the earlier revision served again after {took:?}");
    // Nobody is left quarantined.
    all_say(&story, "Hello", "two").await;
    let (plugin, _) = story.says(&PLUGIN, ("", NAME), "/status/unhealthyObjects", "0").await;
    assert_eq!(
        (condition(&plugin, "Healthy"), &plugin["status"]["objects"]),
        ("True AllWell".into(), &3.into())
    );
    let table = story.kubectl.run(&["get", "plugins"]).unwrap();
    assert!(table.contains("SERVING") && table.contains("TakenBack"), "{table}");

    // A host that is started again does not try it once more.
    story.host.kill().unwrap();
    story.restart();
    all_say(&story, "Hello", "three").await;
    let shown = command.run(&["plugin", "history", NAME]).unwrap();
    for words in
        ["serves", "taken back: it failed twice", "is refused until the component or `spec`"]
    {
        assert!(shown.stdout.contains(words), "no {words:?} in {shown:?}");
    }

    // Both tables have one time.
    let plugin = story.get(&PLUGIN, "", NAME).await.unwrap();
    let since = plugin["status"]["activatedAt"].as_str().unwrap();
    let serves = shown.stdout.lines().find(|line| line.contains("serves")).unwrap();
    assert!(serves.contains(since), "no {since} in {serves}");

    // Another file does, and a person goes back from it.
    story.put("config-maker.wasm", guests::config_maker("Ahoy").unwrap());
    story.says(&PLUGIN, ("", NAME), "/status/version", "Ahoy").await;
    all_say(&story, "Ahoy", "four").await;
    let back = command.run(&["plugin", "rollback", NAME]).unwrap();
    assert_eq!((back.code, back.stdout.contains(&first[..12])), (0, true), "{back:?}");
    all_say(&story, "Hello", "five").await;
    story.says(&PLUGIN, ("", NAME), "/status/reason", "RolledBack").await;
    let refused = command.run(&["plugin", "rollback", NAME, "nothing"]).unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("begins with `nothing`"), "{refused:?}");
}

#[tokio::test]
async fn a_plugin_whose_files_are_gone_stays_visible_while_it_has_objects() {
    let good = guests::config_maker("Hello").unwrap();
    let story = HostEnvironment::with(&[(NAME, &good)], "back").await;
    all_say(&story, "Hello", "one").await;
    story.says(&PLUGIN, ("", NAME), "/status/objects", "3").await;
    let directory = story.cluster.plugins().unwrap();
    let settings = std::fs::read(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    let (plugin, _) = story.says(&PLUGIN, ("", NAME), "/status/stage", "Unloaded").await;
    assert_eq!(condition(&plugin, "Serving"), "False Unloaded");
    assert_eq!(
        (&plugin["status"]["reason"], &plugin["status"]["objects"]),
        (&"Unloaded".into(), &3.into())
    );
    let command = CommandLine::of(&story.cluster);
    let shown = command.run(&["status"]).unwrap();
    for words in ["Unloaded: its files are gone", "Greeting back/a", "not reconciled: the plugin"] {
        assert!(shown.stdout.contains(words), "no {words:?} in {shown:?}");
    }
    announced(&story, "Unloaded").await;
    story.says(&GREETING, ("back", "a"), "/status/conditions", "PluginMissing").await;
    // What was known of its objects is still told.
    for (asked, told) in [("status", "not reconciled: the plugin"), ("calls", "Hello, one")] {
        let answer = command.run(&[asked, "greeting/a", "-n", "back"]).unwrap();
        assert!(answer.stdout.contains(told), "no {told:?} in {answer:?}");
    }
    guests::put(&directory, "config-maker.yaml", &settings).unwrap();
    story.put("config-maker.wasm", &good);
    all_say(&story, "Hello", "two").await;
    let (plugin, _) = story.says(&PLUGIN, ("", NAME), "/status/stage", "Active").await;
    assert_eq!(condition(&plugin, "Serving"), "True Active");
    let told = command.run(&["status", "greeting/a", "-n", "back", "-o", "json"]).unwrap();
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(
        (&told["objects"][0]["object"]["name"], &told["objects"][0]["isServed"]),
        (&"a".into(), &true.into())
    );
    story.kubectl.run(&["delete", "greetings", "--all", "-n", "back"]).unwrap();
    story.says(&PLUGIN, ("", NAME), "/status/objects", "0").await;
    std::fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    std::fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    story.gone(&PLUGIN, "", NAME).await;
}

#[tokio::test]
async fn a_plugin_object_that_is_edited_or_deleted_is_put_back() {
    let good = guests::config_maker("Hello").unwrap();
    let story = HostEnvironment::with(&[(NAME, &good)], "back").await;
    let first = story.active(NAME, "").await;
    let patch = r#"{"spec":{"limits":{"memoryMiB":1},"digest":null,"grants":{}}}"#;
    story.kubectl.run(&["patch", "plugin", NAME, "--type=merge", "-p", patch]).unwrap();
    announced(&story, "PutBack").await;
    let (plugin, _) = story.says(&PLUGIN, ("", NAME), "/spec/grants", "asRequested").await;
    assert_eq!(plugin["spec"].get("limits"), None, "{plugin}");
    let uid = plugin["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(story.active(NAME, "").await, first, "the file counts all the while");

    story.kubectl.run(&["delete", "plugin", NAME]).unwrap();
    let look = || async {
        let found = story.get(&PLUGIN, "", NAME).await.unwrap_or_default();
        let is_new = found["metadata"]["uid"].as_str().is_some_and(|now| now != uid);
        let is_whole = found["status"]["active"] == first.as_str();
        Ok(if is_new && is_whole { Poll::There(()) } else { Poll::NotYet(found.to_string()) })
    };
    until("the object to be made again", DEADLINE, look).await.unwrap();
}

#[tokio::test]
async fn two_hosts_say_so_and_a_restarted_one_is_no_other() {
    let good = guests::config_maker("Hello").unwrap();
    let mut story = HostEnvironment::with(&[(NAME, &good)], "back").await;
    all_say(&story, "Hello", "one").await;
    story.host.kill().unwrap();
    story.restart();
    all_say(&story, "Hello", "two").await;
    let plugin = story.get(&PLUGIN, "", NAME).await.unwrap();
    assert_eq!(condition(&plugin, "AnotherHost"), "- -", "the earlier process has ended");
    let mut other = story.cluster.host().unwrap();
    story.says(&PLUGIN, ("", NAME), "/status/conditions", "AnotherHost").await;
    announced(&story, "AnotherHost").await;
    other.kill().unwrap();
    // The one that is left writes the next news alone.
    let look = || async {
        let name = format!("x{}", std::time::UNIX_EPOCH.elapsed()?.as_nanos());
        story.apply(&greeting("back", &name, "more"));
        let plugin = story.get(&PLUGIN, "", NAME).await.unwrap_or_default();
        let is_alone = condition(&plugin, "AnotherHost") == "- -";
        Ok(if is_alone { Poll::There(()) } else { Poll::NotYet(plugin["status"].to_string()) })
    };
    until("the condition to go", DEADLINE, look).await.unwrap();
}
