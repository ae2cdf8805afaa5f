//! The terminal transcripts of the documentation, replayed in real shells.
#![cfg(test)]

use std::{env, fs, os::unix::fs::symlink, path::Path, time::Instant};

use tests::{guests, kubectl::Kubectl, process::tholepin, transcript};

/// Replays `plugins/README.md`. The build folder is kept for the next run, which then takes seconds, not minutes.
#[test]
#[expect(clippy::print_stdout, reason = "the test prints what it measured")]
fn the_transcript_of_the_plugin_tutorial_replays() {
    let home = tempfile::Builder::new().prefix("tholepin-test-").tempdir().unwrap();
    let path = programs(home.path());
    let built = guests::target().unwrap().join("transcripts");
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (built, cache) = (text(&built), text(&home.path().join("cache")));
    let variables = [
        ("PATH", path.as_str()),
        ("CARGO_TARGET_DIR", built.as_str()),
        ("XDG_CACHE_HOME", cache.as_str()),
        // Without it the host's admin file is in the cache folder, so no other host's file is found.
        ("XDG_RUNTIME_DIR", ""),
        ("CARGO_TERM_COLOR", "never"),
        // The crates of the project's lock file are on this machine, because this tree was built here.
        ("CARGO_NET_OFFLINE", "true"),
        // The new plugin's tests print in a fixed order.
        ("RUST_TEST_THREADS", "1"),
        ("NO_COLOR", "1"),
        ("THOLEPIN_LOG", "warn"),
    ];
    let start = Instant::now();
    transcript::play(include_str!("../transcripts/first-plugin.txt"), &empty, &variables).unwrap();
    println!("from nothing to a plugin of one's own in {:?}", start.elapsed());
}

/// Returns a PATH that begins with this tree's `tholepin` and the tests' kubectl.
fn programs(home: &Path) -> String {
    let programs = home.join("programs");
    fs::create_dir(&programs).unwrap();
    symlink(tholepin().unwrap(), programs.join("tholepin")).unwrap();
    symlink(Kubectl::program().unwrap(), programs.join("kubectl")).unwrap();
    format!("{}:{}", programs.display(), env::var("PATH").unwrap())
}

/// Replays a bad build, a rollback, removed plugin files and a manual edit.
#[test]
#[expect(clippy::print_stdout, reason = "the test prints what it measured")]
fn the_transcript_of_the_operator_replays() {
    let home = tempfile::Builder::new().prefix("tholepin-test-").tempdir().unwrap();
    let (path, folder) = (programs(home.path()), home.path().join("work"));
    fs::create_dir(&folder).unwrap();
    for (file, greeting) in [("hello", "Hello"), ("trap", "Trap"), ("ahoy", "Ahoy")] {
        let component = guests::config_maker(greeting).unwrap();
        fs::write(folder.join(format!("{file}.wasm")), component).unwrap();
    }
    for plugin in ["config-maker", "redis-cluster"] {
        fs::write(folder.join(format!("{plugin}.yaml")), guests::settings(plugin)).unwrap();
    }
    fs::write(folder.join("redis-cluster.wasm"), guests::redis_cluster().unwrap()).unwrap();
    let demo = "apiVersion: redis.tholepin.dev/v1alpha1\nkind: RedisCluster\nmetadata: {name: demo}\n\
                spec: {shards: 1, replicasPerShard: 0}\n";
    fs::write(folder.join("demo.yaml"), demo).unwrap();
    let greeting = |name: &str| {
        let head = "apiVersion: tests.tholepin.dev/v1\nkind: Greeting\n";
        format!("---\n{head}metadata: {{name: {name}}}\nspec: {{text: world}}\n")
    };
    fs::write(folder.join("greetings.yaml"), ["a", "b", "c"].map(greeting).concat()).unwrap();
    let cache = home.path().join("cache");
    let variables = [
        ("PATH", path.as_str()),
        ("XDG_CACHE_HOME", cache.to_str().unwrap()),
        ("XDG_RUNTIME_DIR", ""),
        ("NO_COLOR", "1"),
        ("THOLEPIN_LOG", "error"),
    ];
    let start = Instant::now();
    transcript::play(include_str!("../transcripts/operator.txt"), &folder, &variables).unwrap();
    println!("the operator's transcript in {:?}", start.elapsed());
}
