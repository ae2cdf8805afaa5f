//! Inspection of component files for the command line.

use std::fs;

use tholepin_guest::{CompileCache, grant_yaml, inspect};

use crate::{build, setting::RegistryFixture};

#[tokio::test]
async fn a_file_tells_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let cache = CompileCache::open(home.path().join("cache")).unwrap();
    let found = inspect(&build::config_maker("Hello"), &cache).await.unwrap();
    assert_eq!(found.manifest.name, "config-maker");
    assert_eq!(found.digest.len(), 64);
    let imports = found.imports.join(" ");
    assert!(imports.contains("tholepin:kubernetes/objects@0.1.0"), "{imports}");
    let told = found.to_string();
    assert!(told.contains("asks for    v1/ConfigMap: get, "), "{told}");
}

#[tokio::test]
async fn the_settings_that_grant_make_the_file_load() {
    let home = tempfile::tempdir().unwrap();
    let mut setting = RegistryFixture::with(home.path().join("cache"), false);
    setting.put("config-maker.wasm", fs::read(build::config_maker("Hello")).unwrap());
    let cache = CompileCache::open(home.path().join("cache")).unwrap();
    let yaml = grant_yaml(&setting.path("config-maker.wasm"), &cache).await.unwrap();
    setting.put("config-maker.yaml", &yaml);
    setting.watch.scan().await;
    assert!(
        setting.active("config-maker").is_some(),
        "{:?}\n{yaml}",
        setting.report("config-maker")
    );
}
