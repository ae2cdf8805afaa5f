//! The sample that `tholepin plugin new` copies: a kind that is not Redis, with only the grants of its own settings
//! file.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::guests;

use crate::environment::{CONFIG_MAP, EVENT, HostEnvironment, PLUGIN, TestKind};

const SITE_CONFIG: TestKind = ("samples.example", "v1", "SiteConfig", "siteconfigs");
const SERVICE: TestKind = ("", "v1", "Service", "services");

/// Starts a host that serves the unchanged sample.
async fn serving_sample(namespace: &str) -> HostEnvironment {
    let env = HostEnvironment::with(&[], namespace).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/samples/site-config");
    let settings = fs::read(folder.join("site-config.yaml")).unwrap();
    assert!(
        !String::from_utf8_lossy(&settings).contains("asRequested"),
        "each grant is written out"
    );
    env.put("site-config.wasm", guests::build("site-config", &[]).unwrap());
    env.put("site-config.yaml", settings);
    env.until_contains(&PLUGIN, ("", "site-config"), "/status/stage", "Active").await;
    let example = fs::read_to_string(folder.join("example.yaml")).unwrap();
    let example = example.replace("namespace: default", &format!("namespace: {namespace}"));
    env.kubectl.run_with(&["apply", "-f", "-"], &example).unwrap();
    env
}

#[tokio::test]
async fn manual_changes_are_repaired_and_counted() {
    let env = serving_sample("healed").await;
    let home = ("healed", "home");
    let (made, _) = env.until_contains(&CONFIG_MAP, home, "/data/colour", "green").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    env.until_contains(&SITE_CONFIG, home, "/status/repairs", "0").await;

    let patch = ["-p", r#"{"data":{"colour":"red"}}"#, "--type=merge"];
    let by_hand = ["patch", "configmap", "home", "-n", "healed"];
    env.kubectl.run(&[by_hand.as_slice(), &patch].concat()).unwrap();
    env.until_contains(&SITE_CONFIG, home, "/status/repairs", "1").await;
    env.until_contains(&CONFIG_MAP, home, "/data/colour", "green").await;

    env.kubectl.run(&["delete", "service", "home", "-n", "healed"]).unwrap();
    env.until_contains(&SITE_CONFIG, home, "/status/repairs", "2").await;
    let (service, _) = env.until_contains(&SERVICE, home, "/spec/ports/0/port", "8080").await;
    assert_eq!(service["spec"]["selector"]["app"], "home");
    let shown = env.kubectl.run(&["get", "siteconfig", "home", "-n", "healed"]).unwrap();
    assert!(shown.contains("2 objects are up to date"), "{shown}");
    let events = env.kubectl.run(&["get", "events", "-n", "healed"]).unwrap();
    assert!(events.contains("corrected ConfigMap home (.data.colour)"), "{events}");
    assert!(events.contains("created Service home"), "{events}");
    assert!(env.count(&EVENT, "healed").await < 10, "{events}");

    // A change of the spec is not counted as a repair.
    let want = |settings: Value| {
        let expected = json!({"spec": {"settings": settings}}).to_string();
        let patch =
            ["patch", "siteconfig", "home", "-n", "healed", "--type=merge", "-p", &expected];
        env.kubectl.run(&patch).unwrap();
    };
    want(json!({"colour": "blue", "once": "wanted"}));
    env.until_contains(&CONFIG_MAP, home, "/data/once", "wanted").await;
    env.until_contains(&SITE_CONFIG, home, "/status/observedGeneration", "2").await;
    env.until_contains(&SITE_CONFIG, home, "/status/repairs", "2").await;

    // A setting that is removed from the spec is removed from the ConfigMap.
    want(json!({"once": null}));
    let (found, _) =
        env.until_contains(&SITE_CONFIG, home, "/status/observedGeneration", "3").await;
    assert_eq!(found["status"]["repairs"], 2);
    let (map, _) = env.until_contains(&CONFIG_MAP, home, "/data/colour", "blue").await;
    assert_eq!(map["data"].get("once"), None, "{map}");
}

#[tokio::test]
async fn objects_of_others_are_not_changed_and_a_bad_spec_is_refused() {
    let env = serving_sample("others").await;
    let taken = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "taken", "namespace": "others"}, "data": {"colour": "theirs"}
    });
    env.apply(&taken);
    let object = |name: &str, setting: &str| {
        json!({
            "apiVersion": "samples.example/v1", "kind": "SiteConfig",
            "metadata": {"name": name, "namespace": "others"},
            "spec": {"settings": {setting: "x"}}
        })
    };
    env.apply(&object("taken", "colour"));
    let (found, _) = env
        .until_contains(&SITE_CONFIG, ("others", "taken"), "/status/conditions", "NameTaken")
        .await;
    let message = found["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("ConfigMap taken belongs to another owner"), "{message}");
    env.until_contains(&SERVICE, ("others", "taken"), "/spec/ports/0/port", "80").await;
    env.until_contains(&CONFIG_MAP, ("others", "taken"), "/data/colour", "theirs").await;

    env.apply(&object("bad", "two words"));
    let (found, _) = env
        .until_contains(&SITE_CONFIG, ("others", "bad"), "/status/conditions", "InvalidSpec")
        .await;
    assert!(found.to_string().contains("two words"), "{found}");
}
