//! A greeting becomes a ConfigMap and stays one, whatever changes the greeting, the ConfigMap or the host.

use serde_json::{Value, json};
use tests::{
    guests, oracle,
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, GREETING, HostEnvironment, PLUGIN, PROBE, greeting, probe_object,
    settings,
};

const DATA: &str = "/data/greeting";

#[tokio::test]
async fn an_object_becomes_a_config_map_that_follows_it() {
    let env = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "follow",
    )
    .await;
    let (a, b) = (("follow", "a"), ("follow", "b"));
    env.apply(&greeting("follow", "a", "world"));
    env.apply(&greeting("follow", "b", "neighbour"));
    let (made, _) = env.until_contains(&CONFIG_MAP, a, DATA, "Hello, world").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    env.until_contains(&GREETING, a, "/status/greeting", "Hello, world").await;

    env.apply(&greeting("follow", "a", "moon"));
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, moon").await;
    let (found, _) = env.until_contains(&GREETING, a, "/status/greeting", "Hello, moon").await;
    assert_eq!(found["metadata"]["generation"], 2);
    assert_eq!(found["status"]["observedGeneration"], 2);

    let by_hand = ["patch", "configmap", "a", "-n", "follow", "--type=merge"];
    let patch = ["-p", r#"{"data":{"greeting":"by hand"}}"#];
    env.kubectl.run(&[by_hand.as_slice(), &patch].concat()).unwrap();
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, moon").await;

    let uid = made["metadata"]["uid"].clone();
    env.kubectl.run(&["delete", "configmap", "a", "-n", "follow", "--wait=false"]).unwrap();
    let (remade, _) = env.until_contains(&CONFIG_MAP, a, DATA, "Hello, moon").await;
    assert_ne!(remade["metadata"]["uid"], uid);

    // kubectl waits until the finalizer is removed, which happens after the plugin's own clean-up.
    env.kubectl.run(&["delete", "greeting", "a", "-n", "follow", "--timeout=20s"]).unwrap();
    assert_eq!(env.get(&CONFIG_MAP, "follow", "a").await, None);
    env.until_contains(&CONFIG_MAP, b, DATA, "Hello, neighbour").await;
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let env = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "still",
    )
    .await;
    for name in ["a", "b", "c"] {
        env.apply(&greeting("still", name, name));
    }
    for name in ["a", "b", "c"] {
        env.until_contains(&GREETING, ("still", name), "/status/greeting", "Hello").await;
    }
    // A write is visible a moment before it is in the audit log.
    let in_log = || async {
        let is_status =
            |line: &Value| line["resource"] == "greetings" && line["subresource"] == "status";
        // The accepted specs that the host keeps for itself.
        let is_accepted = |line: &Value| {
            line["name"].as_str().is_some_and(|value| value.starts_with("tholepin-accepted-"))
        };
        let writes = env.writes();
        let counts = (
            writes.iter().filter(|line| is_status(line)).count(),
            writes.iter().filter(|line| is_accepted(line)).count(),
        );
        let is_all = 3 <= counts.0 && 3 <= counts.1;
        Ok(if is_all { Poll::Done(()) } else { Poll::NotYet(format!("{counts:?}")) })
    };
    until("three statuses and accepted specs in the audit log", DEADLINE, in_log).await.unwrap();
    // The host writes its count of objects up to half a second later.
    let (plugin, _) =
        env.until_contains(&PLUGIN, ("", "config-maker"), "/status/objects", "3").await;
    let before = env.writes();
    let first = Some(plugin["status"]["active"].clone());
    // Reconciles without a change: an annotation, and a revision with the same code.
    env.kubectl.run(&["annotate", "greeting", "--all", "-n", "still", "a=b"]).unwrap();
    let more = "  limits: {wallClockMs: 1234}\n";
    env.put("config-maker.yaml", settings("config-maker", more));
    let digest = |plugin: Option<Value>| plugin.map(|plugin| plugin["status"]["active"].clone());
    let host_is_done = || async {
        let swapped = digest(env.get(&PLUGIN, "", "config-maker").await) != first;
        let count = env.log().matches("greets with").count();
        // Each of the three: created, seen again, annotated, called by the new revision.
        Ok(if 12 <= count && swapped {
            Poll::Done(())
        } else {
            Poll::NotYet(format!("{count} reconciles, swapped: {swapped}"))
        })
    };
    until("reconciles without change", DEADLINE, host_is_done).await.unwrap();
    // The host writes its count of objects after the reconciles; then nothing is written any more.
    let logs = [env.cluster.audit_log()];
    let is_quiet = || async {
        let quiet = oracle::quiet(&env.client, &logs, std::time::Duration::from_secs(1)).await;
        Ok(quiet.map_or_else(|error| Poll::NotYet(error.to_string()), |()| Poll::Done(())))
    };
    until("a second without a write", DEADLINE, is_quiet).await.unwrap();
    let after: Vec<Value> = env.writes().into_iter().skip(before.len()).collect();
    let others: Vec<&Value> = after
        .iter()
        .filter(|line| line["group"] == "" || line["resource"] == "greetings")
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_host_that_was_killed_continues_after_its_restart() {
    let component = guests::config_maker("Hello").unwrap();
    let mut env = HostEnvironment::with(&[("config-maker", &component)], "killed").await;
    let names: Vec<String> = (0..20).map(|number| format!("g{number}")).collect();
    let items: Vec<Value> = names.iter().map(|name| greeting("killed", name, "one")).collect();
    env.apply_all(items);
    // Some objects are reconciled and some are not when the host is killed.
    env.host.kill().unwrap();
    let items: Vec<Value> =
        names.iter().skip(1).map(|name| greeting("killed", name, "two")).collect();
    env.apply_all(items);
    env.kubectl.run(&["delete", "greeting", "g0", "-n", "killed", "--wait=false"]).unwrap();
    env.kubectl.run(&["delete", "configmap", "--all", "-n", "killed"]).unwrap();
    env.restart();
    for name in names.iter().skip(1) {
        env.until_contains(&CONFIG_MAP, ("killed", name), DATA, "Hello, two").await;
    }
    env.until_deleted(&GREETING, "killed", "g0").await;
    env.until_deleted(&CONFIG_MAP, "killed", "g0").await;
    assert_eq!(env.count(&CONFIG_MAP, "killed").await, 19);
    env.host.end().unwrap();
}

#[tokio::test]
async fn a_bad_object_does_not_affect_other_objects_and_plugins() {
    let (maker, probe) = (guests::config_maker("Hello").unwrap(), guests::probe().unwrap());
    let env = HostEnvironment::with(&[("config-maker", &maker), ("probe", &probe)], "two").await;
    let bad = [
        ("panics", json!({"do": "panic", "number": 42}), "told to panic with number 42"),
        ("traps", json!({"do": "trap"}), "trapped"),
        ("loops", json!({"do": "loop"}), "used more than 1000 ms"),
        ("eats", json!({"do": "eat-memory"}), "memory"),
    ];
    let items: Vec<Value> =
        bad.iter().map(|(name, spec, _)| probe_object("two", name, spec.clone())).collect();
    env.apply_all(items);
    env.apply(&probe_object(
        "two",
        "calm",
        json!({"do": "call-in-reconcile", "function": "runtime/parameters"}),
    ));
    env.apply(&greeting("two", "a", "world"));
    // Other objects do not wait for those on which the plugin misbehaves.
    env.until_contains(&CONFIG_MAP, ("two", "a"), DATA, "Hello, world").await;
    env.until_logged(&["two/calm", "ok "]).await;
    for (name, _, texts) in bad {
        let (found, _) =
            env.until_contains(&PROBE, ("two", name), "/status/conditions", "TooManyStrikes").await;
        let condition = &found["status"]["conditions"][0];
        assert_eq!(condition["type"], "Quarantined");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains(texts), "{name}: {message}");
        assert!(message.contains("change the object or the plugin"), "{name}: {message}");
    }
    // Following the advice works.
    env.apply(&probe_object("two", "panics", json!({"do": "nothing"})));
    let poll = || async {
        let object = env.get(&PROBE, "two", "panics").await.unwrap();
        let left = object.pointer("/status/conditions/0").cloned();
        Ok(left.map_or(Poll::Done(()), |left| Poll::NotYet(left.to_string())))
    };
    until("the condition to be removed", DEADLINE, poll).await.unwrap();
    env.apply(&greeting("two", "a", "moon"));
    env.until_contains(&CONFIG_MAP, ("two", "a"), DATA, "Hello, moon").await;
}

#[tokio::test]
async fn a_paused_object_is_not_reconciled_until_the_pause_ends() {
    let env = HostEnvironment::with(
        &[("config-maker", &guests::config_maker("Hello").unwrap())],
        "paused",
    )
    .await;
    let (a, b) = (("paused", "a"), ("paused", "b"));
    env.apply(&greeting("paused", "a", "one"));
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, one").await;
    env.kubectl
        .run(&["annotate", "greeting", "a", "-n", "paused", "tholepin.dev/paused=true"])
        .unwrap();
    env.until_logged(&["paused/a", "paused by the annotation"]).await;
    env.apply(&json!({
        "apiVersion": "tests.tholepin.dev/v1", "kind": "Greeting",
        "metadata": {"name": "a", "namespace": "paused", "annotations": {"tholepin.dev/paused": "true"}},
        "spec": {"text": "two"}
    }));
    env.kubectl.run(&["delete", "configmap", "a", "-n", "paused"]).unwrap();
    // A later change is reconciled, so the paused object was skipped on purpose.
    env.apply(&greeting("paused", "b", "later"));
    env.until_contains(&GREETING, b, "/status/greeting", "Hello, later").await;
    assert_eq!(env.get(&CONFIG_MAP, "paused", "a").await, None);
    env.kubectl
        .run(&["annotate", "greeting", "a", "-n", "paused", "tholepin.dev/paused-"])
        .unwrap();
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, two").await;
    env.until_contains(&GREETING, a, "/status/observedGeneration", "2").await;
    // A paused object that is deleted gets an event that names what the deletion waits for.
    let pause = |value: &str| {
        env.kubectl.run(&["annotate", "greeting", "a", "-n", "paused", value]).unwrap();
    };
    pause("tholepin.dev/paused=true");
    env.kubectl.run(&["delete", "greeting", "a", "-n", "paused", "--wait=false"]).unwrap();
    let poll = || async {
        let events = env.kubectl.run(&["get", "events", "-n", "paused", "-o", "json"])?;
        let found = "nothing cleans up until the annotation `tholepin.dev/paused` is removed";
        Ok(if events.contains(found) { Poll::Done(()) } else { Poll::NotYet(events) })
    };
    until("an event that names what the deletion waits for", DEADLINE, poll).await.unwrap();
    pause("tholepin.dev/paused-");
    env.until_deleted(&GREETING, "paused", "a").await;
}
