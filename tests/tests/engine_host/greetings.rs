//! A greeting becomes a ConfigMap and stays one, whatever changes the greeting, the ConfigMap or the host.

use serde_json::{Value, json};
use tests::{
    guests, oracle,
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, GREETING, HostEnvironment, PLUGIN, PROBE, greeting, order, settings,
};

const DATA: &str = "/data/greeting";

#[tokio::test]
async fn an_object_becomes_a_config_map_that_follows_it() {
    let story = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "follow",
    )
    .await;
    let (a, b) = (("follow", "a"), ("follow", "b"));
    story.apply(&greeting("follow", "a", "world"));
    story.apply(&greeting("follow", "b", "neighbour"));
    let (made, _) = story.says(&CONFIG_MAP, a, DATA, "Hello, world").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    story.says(&GREETING, a, "/status/greeting", "Hello, world").await;

    story.apply(&greeting("follow", "a", "moon"));
    story.says(&CONFIG_MAP, a, DATA, "Hello, moon").await;
    let (told, _) = story.says(&GREETING, a, "/status/greeting", "Hello, moon").await;
    assert_eq!(told["metadata"]["generation"], 2);
    assert_eq!(told["status"]["observedGeneration"], 2);

    let by_hand = ["patch", "configmap", "a", "-n", "follow", "--type=merge"];
    let patch = ["-p", r#"{"data":{"greeting":"by hand"}}"#];
    story.kubectl.run(&[by_hand.as_slice(), &patch].concat()).unwrap();
    story.says(&CONFIG_MAP, a, DATA, "Hello, moon").await;

    let uid = made["metadata"]["uid"].clone();
    story.kubectl.run(&["delete", "configmap", "a", "-n", "follow", "--wait=false"]).unwrap();
    let (remade, _) = story.says(&CONFIG_MAP, a, DATA, "Hello, moon").await;
    assert_ne!(remade["metadata"]["uid"], uid);

    // kubectl waits until the finalizer is removed, which happens after the plugin's own clean-up.
    story.kubectl.run(&["delete", "greeting", "a", "-n", "follow", "--timeout=20s"]).unwrap();
    assert_eq!(story.get(&CONFIG_MAP, "follow", "a").await, None);
    story.says(&CONFIG_MAP, b, DATA, "Hello, neighbour").await;
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let story = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "still",
    )
    .await;
    for name in ["a", "b", "c"] {
        story.apply(&greeting("still", name, name));
    }
    for name in ["a", "b", "c"] {
        story.says(&GREETING, ("still", name), "/status/greeting", "Hello").await;
    }
    // A write is visible a moment before it is in the audit log.
    let in_log = || async {
        let is_status =
            |line: &Value| line["resource"] == "greetings" && line["subresource"] == "status";
        // The accepted specs that the host keeps for itself.
        let is_accepted = |line: &Value| {
            line["name"].as_str().is_some_and(|it| it.starts_with("tholepin-accepted-"))
        };
        let writes = story.writes();
        let counts = (
            writes.iter().filter(|line| is_status(line)).count(),
            writes.iter().filter(|line| is_accepted(line)).count(),
        );
        let is_all = 3 <= counts.0 && 3 <= counts.1;
        Ok(if is_all { Poll::There(()) } else { Poll::NotYet(format!("{counts:?}")) })
    };
    until("three statuses and accepted specs in the audit log", DEADLINE, in_log).await.unwrap();
    // The host writes its count of objects up to half a second later.
    let (plugin, _) = story.says(&PLUGIN, ("", "config-maker"), "/status/objects", "3").await;
    let before = story.writes();
    let first = Some(plugin["status"]["active"].clone());
    // Reconciles without a change: an annotation, and a revision with the same code.
    story.kubectl.run(&["annotate", "greeting", "--all", "-n", "still", "a=b"]).unwrap();
    let more = "  limits: {wallClockMs: 1234}\n";
    story.put("config-maker.yaml", settings("config-maker", more));
    let digest = |plugin: Option<Value>| plugin.map(|plugin| plugin["status"]["active"].clone());
    let host_is_done = || async {
        let swapped = digest(story.get(&PLUGIN, "", "config-maker").await) != first;
        let count = story.log().matches("greets with").count();
        // Each of the three: created, seen again, annotated, called by the new revision.
        Ok(if 12 <= count && swapped {
            Poll::There(())
        } else {
            Poll::NotYet(format!("{count} reconciles, swapped: {swapped}"))
        })
    };
    until("reconciles without change", DEADLINE, host_is_done).await.unwrap();
    // The host writes its count of objects after the reconciles; then nothing is written any more.
    let logs = [story.cluster.audit_log()];
    let is_quiet = || async {
        let quiet = oracle::quiet(&story.client, &logs, std::time::Duration::from_secs(1)).await;
        Ok(quiet.map_or_else(|error| Poll::NotYet(error.to_string()), |()| Poll::There(())))
    };
    until("a second without a write", DEADLINE, is_quiet).await.unwrap();
    let after: Vec<Value> = story.writes().into_iter().skip(before.len()).collect();
    let others: Vec<&Value> = after
        .iter()
        .filter(|line| line["group"] == "" || line["resource"] == "greetings")
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_host_killed_at_work_goes_on_after_its_restart() {
    let component = guests::config_maker("Hello").unwrap();
    let mut story = HostEnvironment::with(&[("config-maker", &component)], "killed").await;
    let names: Vec<String> = (0..20).map(|number| format!("g{number}")).collect();
    let items: Vec<Value> = names.iter().map(|name| greeting("killed", name, "one")).collect();
    story.apply_all(items);
    // Some objects are reconciled and some are not when the host is killed.
    story.host.kill().unwrap();
    let items: Vec<Value> =
        names.iter().skip(1).map(|name| greeting("killed", name, "two")).collect();
    story.apply_all(items);
    story.kubectl.run(&["delete", "greeting", "g0", "-n", "killed", "--wait=false"]).unwrap();
    story.kubectl.run(&["delete", "configmap", "--all", "-n", "killed"]).unwrap();
    story.restart();
    for name in names.iter().skip(1) {
        story.says(&CONFIG_MAP, ("killed", name), DATA, "Hello, two").await;
    }
    story.gone(&GREETING, "killed", "g0").await;
    story.gone(&CONFIG_MAP, "killed", "g0").await;
    assert_eq!(story.count(&CONFIG_MAP, "killed").await, 19);
    story.host.end().unwrap();
}

#[tokio::test]
async fn two_plugins_work_side_by_side_and_a_bad_object_harms_nobody() {
    let (maker, probe) = (guests::config_maker("Hello").unwrap(), guests::probe().unwrap());
    let story = HostEnvironment::with(&[("config-maker", &maker), ("probe", &probe)], "two").await;
    let bad = [
        ("panics", json!({"do": "panic", "number": 42}), "told to panic with number 42"),
        ("traps", json!({"do": "trap"}), "trapped"),
        ("loops", json!({"do": "loop"}), "used more than 1000 ms"),
        ("eats", json!({"do": "eat-memory"}), "memory"),
    ];
    let items: Vec<Value> =
        bad.iter().map(|(name, spec, _)| order("two", name, spec.clone())).collect();
    story.apply_all(items);
    story.apply(&order(
        "two",
        "calm",
        json!({"do": "call-in-reconcile", "function": "runtime/parameters"}),
    ));
    story.apply(&greeting("two", "a", "world"));
    // Other objects do not wait for those on which the plugin misbehaves.
    story.says(&CONFIG_MAP, ("two", "a"), DATA, "Hello, world").await;
    story.logged(&["two/calm", "ok "]).await;
    for (name, _, words) in bad {
        let (told, _) =
            story.says(&PROBE, ("two", name), "/status/conditions", "TooManyStrikes").await;
        let condition = &told["status"]["conditions"][0];
        assert_eq!(condition["type"], "Quarantined");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains(words), "{name}: {message}");
        assert!(message.contains("change the object or the plugin"), "{name}: {message}");
    }
    // Following the advice works.
    story.apply(&order("two", "panics", json!({"do": "nothing"})));
    let look = || async {
        let object = story.get(&PROBE, "two", "panics").await.unwrap();
        let left = object.pointer("/status/conditions/0").cloned();
        Ok(left.map_or(Poll::There(()), |left| Poll::NotYet(left.to_string())))
    };
    until("the condition to be removed", DEADLINE, look).await.unwrap();
    story.apply(&greeting("two", "a", "moon"));
    story.says(&CONFIG_MAP, ("two", "a"), DATA, "Hello, moon").await;
}

#[tokio::test]
async fn a_paused_object_is_left_alone_until_it_goes_on() {
    let story = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "paused",
    )
    .await;
    let (a, b) = (("paused", "a"), ("paused", "b"));
    story.apply(&greeting("paused", "a", "one"));
    story.says(&CONFIG_MAP, a, DATA, "Hello, one").await;
    story
        .kubectl
        .run(&["annotate", "greeting", "a", "-n", "paused", "tholepin.dev/paused=true"])
        .unwrap();
    story.logged(&["paused/a", "paused by the annotation"]).await;
    story.apply(&json!({
        "apiVersion": "tests.tholepin.dev/v1", "kind": "Greeting",
        "metadata": {"name": "a", "namespace": "paused", "annotations": {"tholepin.dev/paused": "true"}},
        "spec": {"text": "two"}
    }));
    story.kubectl.run(&["delete", "configmap", "a", "-n", "paused"]).unwrap();
    // A later change is reconciled, so the paused object was skipped on purpose.
    story.apply(&greeting("paused", "b", "later"));
    story.says(&GREETING, b, "/status/greeting", "Hello, later").await;
    assert_eq!(story.get(&CONFIG_MAP, "paused", "a").await, None);
    story
        .kubectl
        .run(&["annotate", "greeting", "a", "-n", "paused", "tholepin.dev/paused-"])
        .unwrap();
    story.says(&CONFIG_MAP, a, DATA, "Hello, two").await;
    story.says(&GREETING, a, "/status/observedGeneration", "2").await;
    // A paused object that is deleted gets an event that names what the deletion waits for.
    let pause = |value: &str| {
        story.kubectl.run(&["annotate", "greeting", "a", "-n", "paused", value]).unwrap();
    };
    pause("tholepin.dev/paused=true");
    story.kubectl.run(&["delete", "greeting", "a", "-n", "paused", "--wait=false"]).unwrap();
    let look = || async {
        let events = story.kubectl.run(&["get", "events", "-n", "paused", "-o", "json"])?;
        let told = "nothing cleans up until the annotation `tholepin.dev/paused` is removed";
        Ok(if events.contains(told) { Poll::There(()) } else { Poll::NotYet(events) })
    };
    until("an event that names what the deletion waits for", DEADLINE, look).await.unwrap();
    pause("tholepin.dev/paused-");
    story.gone(&GREETING, "paused", "a").await;
}
