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
    perform::FunctionCalls,
    setting::{RegistryFixture, summary},
};

/// Loads the probe in a new registry with this cache.
async fn load(cache: &Path) {
    let mut setting = RegistryFixture::with(cache.to_owned(), true);
    setting.install("probe", &build::probe(), "");
    setting.watch.scan().await;
    assert!(setting.active("probe").is_some(), "{:?}", setting.report("probe"));
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
async fn compiled_code_is_used_again() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    load(&cache).await;
    let inode = fs::metadata(entry(&cache)).unwrap().ino();
    load(&cache).await;
    assert_eq!(fs::metadata(entry(&cache)).unwrap().ino(), inode, "it was compiled twice");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_damaged_entry_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    load(&cache).await;
    let whole = fs::read(entry(&cache)).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [whole[..whole.len() / 2].to_vec(), flipped, b"garbage".to_vec(), Vec::new()] {
        // Replaces the entry by a rename, because it may be mapped.
        let beside = home.path().join("damaged");
        fs::write(&beside, damaged).unwrap();
        fs::rename(beside, entry(&cache)).unwrap();
        load(&cache).await;
        assert_eq!(fs::read(entry(&cache)).unwrap(), whole);
    }
}

#[tokio::test]
async fn code_that_cannot_be_kept_serves_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let mut setting = RegistryFixture::with(cache.clone(), true);
    // Without the directory, writing fails as on a full disk.
    fs::remove_dir(&cache).unwrap();
    setting.install("probe", &build::probe(), "");
    setting.watch.scan().await;
    let plugin = setting.active("probe").unwrap_or_else(|| panic!("{:?}", setting.report("probe")));
    assert_eq!(summary(&plugin, json!({"do": "nothing"}), FunctionCalls::friendly()).await, "");
}

/// The longest time until idle code is released.
const GIVEN_BACK_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn code_that_nobody_calls_is_given_back_and_loaded_again() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let mut setting = RegistryFixture::resting(cache.clone(), true, Duration::ZERO);
    let mut install = async |name: &str, wasm: &Path| {
        setting.install(name, wasm, "");
        setting.watch.scan().await;
        setting.active(name).unwrap_or_else(|| panic!("{:?}", setting.report(name)))
    };
    let is_mapped =
        || fs::read_to_string("/proc/self/maps").unwrap().contains(cache.to_str().unwrap());
    let in_file = install("probe", &build::probe()).await;
    assert!(is_mapped());
    // Code compiled from now on can only be kept in memory, and the code compiled before is in a deleted file.
    fs::remove_dir_all(&cache).unwrap();
    let in_memory = install("config-maker", &build::config_maker("Hello")).await;

    let given_back = async {
        while is_mapped() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = setting.watch.run() => {}
        given_back = time::timeout(GIVEN_BACK_MAX, given_back) => given_back.unwrap(),
    }
    assert_eq!(summary(&in_file, json!({"do": "nothing"}), FunctionCalls::friendly()).await, "");
    assert!(is_mapped());
    let said = summary(&in_memory, json!({"text": "world"}), FunctionCalls::friendly()).await;
    assert_eq!(said, "Hello, world!");
}
