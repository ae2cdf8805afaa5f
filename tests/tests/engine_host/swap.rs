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
    CONFIG_MAP, GREETING, HostEnvironment, PLUGIN, greeting, order, settings,
};

const DATA: &str = "/data/greeting";
const OBJECTS: usize = 20;

/// How long it may take from the file to the last object; the aim is a second for the first.
const SWAP_MAX: Duration = Duration::from_secs(10);

/// Waits until all greetings contain `word`; returns the time until the first and the last.
async fn all_say(story: &HostEnvironment, namespace: &str, word: &str) -> (Duration, Duration) {
    let start = Instant::now();
    let mut first = None;
    for number in 0..OBJECTS {
        let name = format!("g{number}");
        story.says(&CONFIG_MAP, (namespace, &name), DATA, word).await;
        first.get_or_insert(start.elapsed());
    }
    let last = start.elapsed();
    assert!(last < SWAP_MAX, "{last:?}");
    (first.unwrap(), last)
}

#[expect(clippy::print_stdout, reason = "what was measured is told with the test")]
fn report(how: &str, (first, last): (Duration, Duration)) {
    println!("swap {how}: first object after {first:?}, last of {OBJECTS} after {last:?}");
}

/// The work of the running call: a few seconds.
const TURNS: u64 = 2_000_000_000;

#[tokio::test]
async fn a_file_is_swapped_by_rename_by_writing_and_behind_a_link() {
    let (hello, ahoy) =
        (guests::config_maker("Hello").unwrap(), guests::config_maker("Ahoy").unwrap());
    let story = HostEnvironment::with(&[("config-maker", &hello)], "swap").await;
    let items: Vec<_> =
        (0..OBJECTS).map(|number| greeting("swap", &format!("g{number}"), "you")).collect();
    story.apply_all(items);
    all_say(&story, "swap", "Hello, you").await;
    let directory = story.cluster.plugins().unwrap();
    let file = directory.join("config-maker.wasm");

    story.put("config-maker.wasm", &ahoy);
    let renamed = all_say(&story, "swap", "Ahoy, you").await;
    let (plugin, _) = story.says(&PLUGIN, ("", "config-maker"), "/status/version", "Ahoy").await;
    assert_eq!(plugin["status"]["stage"], "Active");
    report("by rename", renamed);

    // In place and in pieces, like a slow copy: no incomplete file may be loaded.
    let mut open = fs::File::create(&file).unwrap();
    for piece in hello.chunks(hello.len() / 5) {
        std::io::Write::write_all(&mut open, piece).unwrap();
    }
    drop(open);
    let written = all_say(&story, "swap", "Hello, you").await;
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
    let linked = all_say(&story, "swap", "Ahoy, you").await;
    report("behind a link", linked);
}

#[tokio::test]
async fn other_settings_are_another_revision() {
    let story =
        HostEnvironment::with(&[("config-maker", &guests::config_maker("Hello").unwrap())], "yaml")
            .await;
    story.apply(&greeting("yaml", "a", "you"));
    story.says(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, you").await;
    let before = story.active("config-maker", "").await;
    story.put("config-maker.yaml", settings("config-maker", "  parameters: {suffix: '!!'}\n"));
    story.says(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, you!!").await;
    story.says(&PLUGIN, ("", "config-maker"), "/spec/parameters/suffix", "!!").await;
    story.active("config-maker", &before).await;

    story.put("config-maker.yaml", settings("config-maker", "  parameters: {sufix: '?'}\n"));
    let (refused, _) =
        story.says(&PLUGIN, ("", "config-maker"), "/status/reason", "ParametersInvalid").await;
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("sufix"), "{message}");
    story.apply(&greeting("yaml", "a", "all"));
    story.says(&CONFIG_MAP, ("yaml", "a"), DATA, "Hello, all!!").await;
}

#[tokio::test]
async fn a_call_in_flight_is_finished_by_the_code_that_began_it() {
    let story = HostEnvironment::with(&[("probe", &guests::probe().unwrap())], "flight").await;
    let swap = async |before: &str, limits: &str, sign: &str| {
        story.put("probe.yaml", settings("probe", &format!("  limits: {{computeMs: {limits}}}\n")));
        let active = story.active("probe", before).await;
        story.apply(&order("flight", sign, json!({"do": "compute", "turns": 1})));
        let line = story.logged(&[&format!("flight/{sign}"), "turned 1 times"]).await;
        assert!(line.contains(&active[..12]), "{line}");
        active
    };
    let old = swap(&story.active("probe", "").await, "30000", "before").await;
    // Long enough to run during the swap.
    story.apply(&order("flight", "slow", json!({"do": "compute", "turns": TURNS})));
    story.logged(&["flight/slow", "begins"]).await;
    swap(&old, "29000", "after").await;
    assert!(!story.log().contains(&reported()), "the call ended before the swap: increase TURNS");
    let finished = story.logged(&["flight/slow", &reported()]).await;
    assert!(finished.contains(&old[..12]), "{finished}");
}

/// Returns the text that a finished call logs.
fn reported() -> String {
    format!("turned {TURNS} times")
}

#[tokio::test]
async fn without_its_plugin_an_object_stays_and_says_so() {
    let component = guests::config_maker("Hello").unwrap();
    let story = HostEnvironment::with(&[("config-maker", &component)], "removed").await;
    let a = ("removed", "a");
    story.apply(&greeting("removed", "a", "you"));
    story.says(&CONFIG_MAP, a, DATA, "Hello, you").await;
    let directory = story.cluster.plugins().unwrap();
    fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    fs::remove_file(directory.join("config-maker.wasm")).unwrap();
    let (told, _) = story.says(&GREETING, a, "/status/conditions", "PluginMissing").await;
    let message = told["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("config-maker.wasm"), "the message does not name the file: {message}");
    story.says(&PLUGIN, ("", "config-maker"), "/status/stage", "Unloaded").await;
    assert!(story.get(&CONFIG_MAP, "removed", "a").await.is_some());

    story.put("config-maker.wasm", &component);
    story.put("config-maker.yaml", settings("config-maker", ""));
    story.apply(&greeting("removed", "a", "again"));
    story.says(&CONFIG_MAP, a, DATA, "Hello, again").await;
    let look = || async {
        let object = story.get(&GREETING, "removed", "a").await.unwrap();
        let left = object.pointer("/status/conditions/0").cloned();
        Ok(left.map_or(tests::wait::Poll::There(()), |left| {
            tests::wait::Poll::NotYet(left.to_string())
        }))
    };
    tests::wait::until("the condition to be removed", SWAP_MAX, look).await.unwrap();
}
