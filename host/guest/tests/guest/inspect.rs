//! Inspection of component files for the command line.

use std::fs;

use tholepin_guest::{CompileCache, grant_yaml, inspect};

use crate::{build, fixture::RegistryFixture};

#[tokio::test]
async fn a_file_is_described() {
    let home = tempfile::tempdir().unwrap();
    let cache = CompileCache::open(home.path().join("cache")).unwrap();
    let found = inspect(&build::config_maker("Hello"), &cache).await.unwrap();
    assert_eq!(found.manifest.name, "config-maker");
    assert_eq!(found.digest.len(), 64);
    let imports = found.imports.join(" ");
    assert!(imports.contains("tholepin:kubernetes/objects@0.1.0"), "{imports}");
    let text = found.to_string();
    assert!(text.contains("asks for    v1/ConfigMap: get, "), "{text}");
}

#[tokio::test]
async fn a_component_loads_with_the_printed_settings() {
    let home = tempfile::tempdir().unwrap();
    let mut fixture = RegistryFixture::with(home.path().join("cache"), false);
    fixture.put("config-maker.wasm", fs::read(build::config_maker("Hello")).unwrap());
    let cache = CompileCache::open(home.path().join("cache")).unwrap();
    let yaml = grant_yaml(&fixture.path("config-maker.wasm"), &cache).await.unwrap();
    fixture.put("config-maker.yaml", &yaml);
    fixture.watch.scan().await;
    assert!(
        fixture.active("config-maker").is_some(),
        "{:?}\n{yaml}",
        fixture.report("config-maker")
    );
}
