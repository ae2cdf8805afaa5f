//! Compiled code is cached, reused, and compiled again when it is damaged.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tokio::time;

use crate::{
    build,
    fixture::{RegistryFixture, summary},
    host_calls::FunctionCalls,
};

/// Loads the probe in a new registry with this cache.
async fn load(cache: &Path) {
    let mut fixture = RegistryFixture::with(cache.to_owned(), true);
    fixture.install("probe", &build::probe(), "");
    fixture.watch.scan().await;
    assert!(fixture.active("probe").is_some(), "{:?}", fixture.report("probe"));
}

/// Returns the path of the only file of compiled code.
fn entry(cache: &Path) -> PathBuf {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let mut compiled: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "cwasm")).collect();
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    compiled.pop().unwrap()
}

#[tokio::test]
async fn compiled_code_is_reused() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    load(&cache).await;
    let inode = fs::metadata(entry(&cache)).unwrap().ino();
    load(&cache).await;
    assert_eq!(fs::metadata(entry(&cache)).unwrap().ino(), inode, "it was compiled twice");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    load(&cache).await;
    let whole = fs::read(entry(&cache)).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [whole[..whole.len() / 2].to_vec(), flipped, b"garbage".to_vec(), Vec::new()] {
        // Replaces the entry by a rename, because it may be mapped.
        let temporary = home.path().join("damaged");
        fs::write(&temporary, damaged).unwrap();
        fs::rename(temporary, entry(&cache)).unwrap();
        load(&cache).await;
        assert_eq!(fs::read(entry(&cache)).unwrap(), whole);
    }
}

#[tokio::test]
async fn code_that_cannot_be_stored_still_serves() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let mut fixture = RegistryFixture::with(cache.clone(), true);
    // Without the directory, writing fails as on a full disk.
    fs::remove_dir(&cache).unwrap();
    fixture.install("probe", &build::probe(), "");
    fixture.watch.scan().await;
    let plugin = fixture.active("probe").unwrap_or_else(|| panic!("{:?}", fixture.report("probe")));
    assert_eq!(summary(&plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await, "");
}

/// The longest time until idle code is released.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn idle_code_is_released_and_loaded_again() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let mut fixture = RegistryFixture::resting(cache.clone(), true, Duration::ZERO);
    let mut install = async |name: &str, wasm: &Path| {
        fixture.install(name, wasm, "");
        fixture.watch.scan().await;
        fixture.active(name).unwrap_or_else(|| panic!("{:?}", fixture.report(name)))
    };
    let is_mapped =
        || fs::read_to_string("/proc/self/maps").unwrap().contains(cache.to_str().unwrap());
    let stored_plugin = install("probe", &build::probe()).await;
    assert!(is_mapped());
    // Code compiled from now on can only be kept in memory, and the code compiled before is in a deleted file.
    fs::remove_dir_all(&cache).unwrap();
    let memory_plugin = install("config-maker", &build::config_maker("Hello")).await;

    let released = async {
        while is_mapped() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = fixture.watch.run() => {}
        released = time::timeout(RELEASE_DEADLINE, released) => released.unwrap(),
    }
    assert_eq!(
        summary(&stored_plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await,
        ""
    );
    assert!(is_mapped());
    let greeting =
        summary(&memory_plugin, json!({"text": "world"}), FunctionCalls::friendly()).await;
    assert_eq!(greeting, "Hello, world!");
}
