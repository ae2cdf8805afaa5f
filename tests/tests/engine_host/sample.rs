//! The sample that `tholepin plugin new` copies: a kind that is not Redis, with only the grants of its own settings
//! file.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::guests;

use crate::environment::{CONFIG_MAP, EVENT, HostEnvironment, PLUGIN, TestKind};

const SITE_CONFIG: TestKind = ("samples.example", "v1", "SiteConfig", "siteconfigs");
const SERVICE: TestKind = ("", "v1", "Service", "services");

/// Starts a host that serves the unchanged sample.
async fn story(namespace: &str) -> HostEnvironment {
    let story = HostEnvironment::with(&[], namespace).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/samples/site-config");
    let settings = fs::read(folder.join("site-config.yaml")).unwrap();
    assert!(
        !String::from_utf8_lossy(&settings).contains("asRequested"),
        "each grant is written out"
    );
    story.put("site-config.wasm", guests::build("site-config", &[]).unwrap());
    story.put("site-config.yaml", settings);
    story.says(&PLUGIN, ("", "site-config"), "/status/stage", "Active").await;
    let example = fs::read_to_string(folder.join("example.yaml")).unwrap();
    let example = example.replace("namespace: default", &format!("namespace: {namespace}"));
    story.kubectl.run_with(&["apply", "-f", "-"], &example).unwrap();
    story
}

#[tokio::test]
async fn drift_by_hand_is_healed_at_once_and_told() {
    let story = story("healed").await;
    let home = ("healed", "home");
    let (made, _) = story.says(&CONFIG_MAP, home, "/data/colour", "green").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    story.says(&SITE_CONFIG, home, "/status/repairs", "0").await;

    let patch = ["-p", r#"{"data":{"colour":"red"}}"#, "--type=merge"];
    let by_hand = ["patch", "configmap", "home", "-n", "healed"];
    story.kubectl.run(&[by_hand.as_slice(), &patch].concat()).unwrap();
    story.says(&SITE_CONFIG, home, "/status/repairs", "1").await;
    story.says(&CONFIG_MAP, home, "/data/colour", "green").await;

    story.kubectl.run(&["delete", "service", "home", "-n", "healed"]).unwrap();
    story.says(&SITE_CONFIG, home, "/status/repairs", "2").await;
    let (service, _) = story.says(&SERVICE, home, "/spec/ports/0/port", "8080").await;
    assert_eq!(service["spec"]["selector"]["app"], "home");
    let shown = story.kubectl.run(&["get", "siteconfig", "home", "-n", "healed"]).unwrap();
    assert!(shown.contains("2 objects are as wanted"), "{shown}");
    let events = story.kubectl.run(&["get", "events", "-n", "healed"]).unwrap();
    assert!(events.contains("put right ConfigMap home (.data.colour)"), "{events}");
    assert!(events.contains("made Service home"), "{events}");
    assert!(story.count(&EVENT, "healed").await < 10, "{events}");

    // A change of the spec is not counted as a repair.
    let want = |settings: Value| {
        let wanted = json!({"spec": {"settings": settings}}).to_string();
        let patch = ["patch", "siteconfig", "home", "-n", "healed", "--type=merge", "-p", &wanted];
        story.kubectl.run(&patch).unwrap();
    };
    want(json!({"colour": "blue", "once": "wanted"}));
    story.says(&CONFIG_MAP, home, "/data/once", "wanted").await;
    story.says(&SITE_CONFIG, home, "/status/observedGeneration", "2").await;
    story.says(&SITE_CONFIG, home, "/status/repairs", "2").await;

    // A setting that is removed from the spec is removed from the ConfigMap.
    want(json!({"once": null}));
    let (told, _) = story.says(&SITE_CONFIG, home, "/status/observedGeneration", "3").await;
    assert_eq!(told["status"]["repairs"], 2);
    let (map, _) = story.says(&CONFIG_MAP, home, "/data/colour", "blue").await;
    assert_eq!(map["data"].get("once"), None, "{map}");
}

#[tokio::test]
async fn what_belongs_to_others_is_left_alone_and_a_bad_spec_is_refused() {
    let story = story("others").await;
    let taken = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "taken", "namespace": "others"}, "data": {"colour": "theirs"}
    });
    story.apply(&taken);
    let object = |name: &str, setting: &str| {
        json!({
            "apiVersion": "samples.example/v1", "kind": "SiteConfig",
            "metadata": {"name": name, "namespace": "others"},
            "spec": {"settings": {setting: "x"}}
        })
    };
    story.apply(&object("taken", "colour"));
    let (told, _) =
        story.says(&SITE_CONFIG, ("others", "taken"), "/status/conditions", "NameTaken").await;
    let message = told["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("ConfigMap taken belongs to somebody else"), "{message}");
    story.says(&SERVICE, ("others", "taken"), "/spec/ports/0/port", "80").await;
    story.says(&CONFIG_MAP, ("others", "taken"), "/data/colour", "theirs").await;

    story.apply(&object("bad", "two words"));
    let (told, _) =
        story.says(&SITE_CONFIG, ("others", "bad"), "/status/conditions", "InvalidSpec").await;
    assert!(told.to_string().contains("two words"), "{told}");
}
