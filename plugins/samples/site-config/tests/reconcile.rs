//! Whole reconciles without Wasm and without a cluster; the host answers from a list of objects.
#![cfg(test)]

use serde_json::{Value, json};
use site_config::SiteConfigReconciler;
use tholepin_sdk::{ReconcileOutcome, ReconcileRequest, Reconciler, ReplayHost};

fn object() -> Value {
    json!({
        "apiVersion": "samples.example/v1",
        "kind": "SiteConfig",
        "metadata": {"name": "home", "namespace": "default", "uid": "u-1", "generation": 1},
        "spec": {"settings": {"colour": "green"}, "port": 8080},
    })
}

/// Returns a host that has only these objects and accepts every write.
fn host(objects: &[Value]) -> ReplayHost {
    let empty = ReplayHost::default().without_other_objects().with_writes_accepted().with_now_ms(0);
    objects.iter().fold(empty, ReplayHost::with_object)
}

fn reconcile(host: &ReplayHost, object: Value) -> ReconcileOutcome {
    let request = ReconcileRequest { object, deleting: false, causes: Vec::new(), memo: None };
    let outcome = SiteConfigReconciler::reconcile(host, request).unwrap();
    assert_eq!(
        host.missing(),
        Vec::<String>::new(),
        "the plugin made calls for which this test has no answers"
    );
    outcome
}

/// Runs a first reconcile and returns the objects that it creates, and the object with its new status.
fn created() -> (Vec<Value>, Value) {
    let host = host(&[]);
    reconcile(&host, object());
    let mut object = object();
    object["status"] = host.statuses_applied()[0]["status"].clone();
    (host.applied(), object)
}

#[test]
fn a_new_object_gets_a_config_map_and_a_service() {
    let host = host(&[]);
    let outcome = reconcile(&host, object());
    assert_eq!(outcome.summary, "created ConfigMap home, Service home");
    let applied = host.applied();
    assert_eq!(applied[0]["data"], json!({"colour": "green"}));
    assert_eq!(applied[1]["spec"]["ports"][0]["port"], 8080);
    for object in applied {
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u-1", "{object}");
    }
    let status = &host.statuses_applied()[0]["status"];
    assert_eq!((&status["repairs"], &status["observedGeneration"]), (&json!(0), &json!(1)));
    assert_eq!(status["conditions"][0]["status"], "True");
    assert_eq!(host.published(), Vec::<String>::new(), "nothing was corrected");
}

#[test]
fn a_manual_change_is_corrected_and_reported() {
    let (mut objects, object) = created();
    objects[0]["data"]["colour"] = json!("red");
    let host = host(&objects);
    let outcome = reconcile(&host, object);
    assert_eq!(outcome.summary, "corrected ConfigMap home (.data.colour); kept Service home");
    assert_eq!(host.applied()[0]["data"]["colour"], "green");
    assert_eq!(host.statuses_applied()[0]["status"]["repairs"], 1);
    assert_eq!(host.published(), ["Repaired"]);
}

#[test]
fn a_manual_deletion_is_corrected() {
    let (mut objects, object) = created();
    objects.remove(1);
    let host = host(&objects);
    reconcile(&host, object);
    assert_eq!(host.applied()[1]["kind"], "Service");
    assert_eq!(host.published(), ["Repaired"]);
}

/// With a new revision that wants other objects, or a new spec, the digest in the status differs.
#[test]
fn a_change_of_spec_or_revision_is_not_a_repair() {
    let (objects, object) = created();
    let mut by_revision = object.clone();
    by_revision["status"]["wantedDigest"] = json!("the digest of another revision");
    let mut by_spec = object;
    by_spec["metadata"]["generation"] = json!(2);
    by_spec["spec"]["settings"]["colour"] = json!("blue");
    let mut changed = objects.clone();
    changed[0]["data"]["colour"] = json!("red");
    for (objects, object) in [(changed, by_revision), (objects, by_spec)] {
        let host = host(&objects);
        let outcome = reconcile(&host, object);
        assert!(outcome.summary.starts_with("corrected ConfigMap home"), "{}", outcome.summary);
        assert_eq!(host.statuses_applied()[0]["status"]["repairs"], 0);
        assert_eq!(host.published(), Vec::<String>::new());
    }
}

#[test]
fn an_unchanged_object_is_applied_again_without_effect() {
    let (objects, object) = created();
    let host = host(&objects);
    let outcome = reconcile(&host, object.clone());
    assert_eq!(outcome.summary, "kept ConfigMap home, Service home");
    assert_eq!(host.applied(), objects);
    assert_eq!(host.statuses_applied()[0]["status"], object["status"], "the status is the same");
}

#[test]
fn a_setting_with_an_invalid_name_is_refused() {
    let mut object = object();
    assert_eq!(SiteConfigReconciler::validate(None, object.clone()), []);
    object["spec"]["settings"] = json!({"two words": ""});
    let violations = SiteConfigReconciler::validate(None, object);
    assert_eq!(violations[0].field, ".spec.settings");
    assert!(violations[0].message.contains("two words"), "{}", violations[0].message);
}
