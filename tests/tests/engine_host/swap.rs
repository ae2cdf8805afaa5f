//! New code is used from the next reconcile on, however its file is replaced, and a running call is finished by
//! the code that started it.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use serde_json::json;
use tests::guests;

use crate::environment::{
    CONFIG_MAP, GREETING, HostEnvironment, PLUGIN, greeting, probe_object, settings,
};

const DATA: &str = "/data/greeting";
const OBJECTS: usize = 20;

/// How long it may take from the file to the last object; the aim is a second for the first.
const SWAP_MAX: Duration = Duration::from_secs(10);

/// Waits until all greetings contain `text`; returns the time until the first and the last.
async fn until_all_say(env: &HostEnvironment, namespace: &str, text: &str) -> (Duration, Duration) {
    let start = Instant::now();
    let mut first = None;
    for number in 0..OBJECTS {
        let name = format!("g{number}");
        env.until_contains(&CONFIG_MAP, (namespace, &name), DATA, text).await;
        first.get_or_insert(start.elapsed());
    }
    let last = start.elapsed();
    assert!(last < SWAP_MAX, "{last:?}");
    (first.unwrap(), last)
}

#[expect(clippy::print_stdout, reason = "the test prints what it measured")]
fn report(how: &str, (first, last): (Duration, Duration)) {
    println!("swap {how}: first object after {first:?}, last of {OBJECTS} after {last:?}");
}

/// The work of the running call: a few seconds.
const TURNS: u64 = 2_000_000_000;

#[tokio::test]
async fn a_file_is_swapped_by_rename_by_writing_and_behind_a_link() {
    let (hello, ahoy) =
        (guests::config_maker("Hello").unwrap(), guests::config_maker("Ahoy").unwrap());
    let env = HostEnvironment::with(&[("config-maker", &hello)], "swap").await;
    let items: Vec<_> =
        (0..OBJECTS).map(|number| greeting("swap", &format!("g{number}"), "you")).collect();
    env.apply_all(items);
    until_all_say(&env, "swap", "Hello, you").await;
    let directory = env.cluster.plugins().unwrap();
    let file = directory.join("config-maker.wasm");

    env.put("config-maker.wasm", &ahoy);
    let renamed = until_all_say(&env, "swap", "Ahoy, you").await;
    let (plugin, _) =
        env.until_contains(&PLUGIN, ("", "config-maker"), "/status/version", "Ahoy").await;
    assert_eq!(plugin["status"]["stage"], "Active");
    report("by rename", renamed);

    // In place and in pieces, like a slow copy: no incomplete file may be loaded.
    let mut open = fs::File::create(&file).unwrap();
    for piece in hello.chunks(hello.len() / 5) {
        std::io::Write::write_all(&mut open, piece).unwrap();
    }
    drop(open);
    let written = until_all_say(&env, "swap", "Hello, you").await;
    report("by writing in place", written);

    // As Kubernetes mounts a ConfigMap: the file is a link through `..data`, which is swapped.
    for (folder, component) in [("..1", &hello), ("..2", &ahoy)] {
        fs::create_dir(directory.join(folder)).unwrap();
        fs::write(directory.join(folder).join("config-maker.wasm"), component).unwrap();
    }
    symlink("..1", directory.join("..data")).unwrap();
    symlink("..data/config-maker.wasm", directory.join(".link")).unwrap();
    fs::rename(directory.join(".link"), &file).unwrap();
    symlink("..2", directory.join("..tmp")).unwrap();
    fs::rename(directory.join("..tmp"), directory.join("..data")).unwrap();
    let linked = until_all_say(&env, "swap", "Ahoy, you").await;
    report("behind a link", linked);
}

#[tokio::test]
async fn other_settings_are_another_revision() {
    let env =
        HostEnvironment::with(&[("config-maker", &guests::config_maker("Hello").unwrap())], "yaml")
            .await;
    env.apply(&greeting("yaml", "a", "you"));
    env.until_contains(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, you").await;
    let before = env.active("config-maker", "").await;
    env.put("config-maker.yaml", settings("config-maker", "  parameters: {suffix: '!!'}\n"));
    env.until_contains(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, you!!").await;
    env.until_contains(&PLUGIN, ("", "config-maker"), "/spec/parameters/suffix", "!!").await;
    env.active("config-maker", &before).await;

    env.put("config-maker.yaml", settings("config-maker", "  parameters: {sufix: '?'}\n"));
    let (refused, _) = env
        .until_contains(&PLUGIN, ("", "config-maker"), "/status/reason", "ParametersInvalid")
        .await;
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("sufix"), "{message}");
    env.apply(&greeting("yaml", "a", "all"));
    env.until_contains(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, all!!").await;
}

#[tokio::test]
async fn a_running_call_is_finished_by_the_code_that_started_it() {
    let env = HostEnvironment::with(&[("probe", &guests::probe().unwrap())], "flight").await;
    let swap = async |before: &str, limits: &str, sign: &str| {
        env.put("probe.yaml", settings("probe", &format!("  limits: {{computeMs: {limits}}}\n")));
        let active = env.active("probe", before).await;
        env.apply(&probe_object("flight", sign, json!({"do": "compute", "turns": 1})));
        let line = env.until_logged(&[&format!("flight/{sign}"), "turned 1 times"]).await;
        assert!(line.contains(&active[..12]), "{line}");
        active
    };
    let old = swap(&env.active("probe", "").await, "30000", "before").await;
    // Long enough to run during the swap.
    env.apply(&probe_object("flight", "slow", json!({"do": "compute", "turns": TURNS})));
    env.until_logged(&["flight/slow", "begins"]).await;
    swap(&old, "29000", "after").await;
    assert!(!env.log().contains(&reported()), "the call ended before the swap: increase TURNS");
    let finished = env.until_logged(&["flight/slow", &reported()]).await;
    assert!(finished.contains(&old[..12]), "{finished}");
}

/// Returns the text that a finished call logs.
fn reported() -> String {
    format!("turned {TURNS} times")
}

#[tokio::test]
async fn an_object_without_its_plugin_stays_with_a_condition() {
    let component = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[("config-maker", &component)], "removed").await;
    let a = ("removed", "a");
    env.apply(&greeting("removed", "a", "you"));
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, you").await;
    let directory = env.cluster.plugins().unwrap();
    fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    let (found, _) = env.until_contains(&GREETING, a, "/status/conditions", "PluginMissing").await;
    let message = found["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("config-maker.wasm"), "the message does not name the file: {message}");
    env.until_contains(&PLUGIN, ("", "config-maker"), "/status/stage", "Unloaded").await;
    assert!(env.get(&CONFIG_MAP, "removed", "a").await.is_some());

    env.put("config-maker.wasm", &component);
    env.put("config-maker.yaml", settings("config-maker", ""));
    env.apply(&greeting("removed", "a", "again"));
    env.until_contains(&CONFIG_MAP, a, DATA, "Hello, again").await;
    let poll = || async {
        let object = env.get(&GREETING, "removed", "a").await.unwrap();
        let left = object.pointer("/status/conditions/0").cloned();
        Ok(left.map_or(tests::wait::Poll::Done(()), |left| {
            tests::wait::Poll::NotYet(left.to_string())
        }))
    };
    tests::wait::until("the condition to be removed", SWAP_MAX, poll).await.unwrap();
}
