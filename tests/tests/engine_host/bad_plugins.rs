//! A bad plugin file changes only the `Plugin` object, which reports the stage that the file reached, the reason,
//! and how to fix it.

use std::fs;

use serde_json::Value;
use tests::{
    guests,
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, HostEnvironment, PLUGIN, PROBE, greeting, probe_object, settings,
};

const DATA: &str = "/data/greeting";
const NAME: &str = "config-maker";

/// Grants less than the guest asks for: `delete` is missing.
const TOO_LITTLE: &str = r#"
apiVersion: tholepin.dev/v1alpha1
kind: Plugin
metadata: {name: config-maker}
spec:
  source: {file: config-maker.wasm}
  grants:
    kubernetes:
      - {apiVersion: v1, kind: ConfigMap, verbs: [get, apply]}
      - {apiVersion: tests.tholepin.dev/v1, kind: Greeting, verbs: [get, apply-status, publish]}
"#;

/// The last stage that was reached (`-` if none), the reason, and texts of the message.
type RejectedStage<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Waits until the plugin is refused at this stage with this reason and these texts.
async fn refused(env: &HostEnvironment, plugin: &str, (stage, reason, texts): RejectedStage<'_>) {
    let poll = || async {
        let object = env.get(&PLUGIN, "", plugin).await.unwrap_or_default();
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
        let message = text("/status/message");
        let fits = texts.iter().all(|text| message.contains(text));
        Ok(if fits && (text("/status/stage"), text("/status/reason")) == (stage, reason) {
            Poll::Done(())
        } else {
            Poll::NotYet(object["status"].to_string())
        })
    };
    until(format!("{plugin} to be refused: {stage} {reason} {texts:?}"), DEADLINE, poll)
        .await
        .unwrap();
    let shown = env.kubectl.run(&["get", "plugins", plugin]).unwrap();
    assert!(shown.contains(reason), "{shown}");
}

/// Checks that the old code still serves: a change of an object is processed.
async fn serves(env: &HostEnvironment, text: &str) {
    env.apply(&greeting("bad", "a", text));
    env.until_contains(&CONFIG_MAP, ("bad", "a"), DATA, &format!("Hello, {text}")).await;
}

#[tokio::test]
async fn the_old_code_serves_while_a_bad_file_is_reported() {
    let hello = guests::config_maker("Hello").unwrap();
    let good = hello.clone();
    let env = HostEnvironment::with(&[(NAME, &hello)], "bad").await;
    serves(&env, "first").await;
    let other = guests::build("guest-config-maker", &[("PLUGIN_NAME", "other-maker")]).unwrap();
    let trapping =
        guests::build("guest-probe", &[("PROBE_DESCRIBE", "trap"), ("PLUGIN_NAME", NAME)]).unwrap();
    let foreign = guests::importing("acme:clouds/api@1.2.3", "connect");
    let newer = guests::importing("tholepin:kubernetes/objects@0.9.0", "get");
    let rows: [(&str, Vec<u8>, RejectedStage<'_>); 7] = [
        ("text", b"not wasm".to_vec(), ("Verified", "NotAComponent", &["component"])),
        ("module", b"\0asm\x01\0\0\0".to_vec(), ("Verified", "NotAComponent", &["wasm32-wasip2"])),
        (
            "half",
            good[..good.len() / 2].to_vec(),
            ("Verified", "CompileFailed", &["replace it with the complete file"]),
        ),
        ("foreign", foreign, ("Compiled", "UnknownImport", &["acme:clouds/api@1.2.3"])),
        ("newer", newer, ("Compiled", "UnknownImport", &["tholepin:kubernetes/objects@0.9.0"])),
        ("traps", trapping, ("Compiled", "DescribeFailed", &["describe was told to trap"])),
        ("named", other.clone(), ("Compiled", "ManifestInvalid", &["other-maker.yaml"])),
    ];
    for (what, bytes, expected) in rows {
        env.put("config-maker.wasm", &bytes);
        refused(&env, NAME, expected).await;
        serves(&env, what).await;
    }
    env.put("config-maker.wasm", &good);
    let (object, _) = env.until_contains(&PLUGIN, ("", NAME), "/status/stage", "Active").await;
    assert_eq!(object["status"].get("reason"), None, "{object}");

    // Settings: a missing grant, invalid YAML, and another file than the pinned one.
    let digest = "0".repeat(64);
    let rows: [(String, RejectedStage<'_>); 3] = [
        (
            TOO_LITTLE.to_owned(),
            ("Compiled", "GrantsMissing", &["`delete` on v1/ConfigMap", "tholepin plugin grant"]),
        ),
        ("kind: [".to_owned(), ("-", "SettingsInvalid", &["config-maker.yaml"])),
        (
            settings(NAME, &format!("  digest: '{digest}'\n")),
            ("Fetched", "DigestMismatch", &["replace the component"]),
        ),
    ];
    for (text, expected) in rows {
        env.put("config-maker.yaml", text);
        refused(&env, NAME, expected).await;
        serves(&env, expected.1).await;
    }
    env.put("config-maker.yaml", settings(NAME, ""));
    env.until_contains(&PLUGIN, ("", NAME), "/status/stage", "Active").await;

    // A second plugin for the same kind, first without any settings.
    env.put("other-maker.wasm", other);
    refused(
        &env,
        "other-maker",
        ("-", "SettingsMissing", &["tholepin plugin grant other-maker.wasm"]),
    )
    .await;
    env.put("other-maker.yaml", settings("other-maker", ""));
    refused(
        &env,
        "other-maker",
        ("Compiled", "KindClaimed", &[NAME, "remove `config-maker.yaml` or `other-maker.yaml`"]),
    )
    .await;
    serves(&env, "claimed").await;
    // After the first plugin is removed, the other one serves the kind.
    let directory = env.cluster.plugins().unwrap();
    fs::remove_file(directory.join("config-maker.yaml")).unwrap();
    env.until_contains(&PLUGIN, ("", "other-maker"), "/status/stage", "Active").await;
}

#[tokio::test]
async fn bad_new_code_does_not_affect_other_plugins() {
    let (maker, probe) = (guests::config_maker("Hello").unwrap(), guests::probe().unwrap());
    let env = HostEnvironment::with(&[(NAME, &maker), ("probe", &probe)], "bad").await;
    env.put("probe.wasm", b"broken");
    refused(&env, "probe", ("Verified", "NotAComponent", &["wasm32-wasip2"])).await;
    serves(&env, "neighbour").await;
    // The old code still serves the plugin's own objects.
    env.apply(&probe_object("bad", "p", serde_json::json!({"do": "be-invalid"})));
    let (found, _) =
        env.until_contains(&PROBE, ("bad", "p"), "/status/conditions", "InvalidSpec").await;
    let condition: &Value = &found["status"]["conditions"][0];
    let message = condition["message"].as_str().unwrap();
    assert!(message.starts_with(".spec.do: was told to be invalid; "), "{message}");
}
