use tholepin_core::plugin_report::ServingRevision;

use super::*;

fn counts(health: ObjectHealthCounts) -> PluginObjectsSummary {
    PluginObjectsSummary {
        objects: Some(health.objects),
        health,
        ..PluginObjectsSummary::default()
    }
}

const ALONE: PluginStatusWriterHosts<'_> = PluginStatusWriterHosts { this: "h", other: None };

#[test]
fn a_second_host_is_a_condition_and_an_earlier_process_is_not() {
    let well = ObjectHealthCounts { objects: 1, ..ObjectHealthCounts::default() };
    let theirs = json!({"host": "other"});
    assert_eq!(other_host(&theirs, "h", false), None, "the status is from before this process");
    assert_eq!(other_host(&json!({"host": "h"}), "h", true), None);
    let other = other_host(&theirs, "h", true);
    let hosts = PluginStatusWriterHosts { this: "h", other };
    let status = plugin_status(&report(Some("c"), None), &counts(well), hosts, &theirs, 1_000);
    assert!(reports_hosts(&status.into()) && !reports_hosts(&theirs));
}

fn digest(name: &str) -> RevisionDigest {
    RevisionDigest(name.repeat(64))
}

fn report(serving: Option<&str>, reason: Option<PluginRejectReason>) -> PluginStageReport {
    PluginStageReport {
        name: "p".parse().unwrap(),
        stage: Some(RevisionLoadStage::Active),
        candidate: Some(digest("c")),
        serving: serving.map(|name| ServingRevision {
            revision: digest(name),
            component: "f".repeat(64),
            version: "1.2".to_owned(),
            since_ms: 0,
            previous: None,
        }),
        reason,
        message: reason.map(|_| "why".to_owned()).unwrap_or_default(),
        object: None,
    }
}

#[test]
fn the_reason_is_that_of_the_first_bad_condition() {
    let well = ObjectHealthCounts { objects: 3, ..ObjectHealthCounts::default() };
    let failing = ObjectHealthCounts { failing: 1, ..well };
    let quarantined = ObjectHealthCounts { quarantined: 2, ..failing };
    let refused = Some(PluginRejectReason::TakenBack);
    // serving, refused, health, Serving, Healthy, reason, unhealthy objects
    let rows = [
        (Some("c"), None, well, "True Active", "True AllWell", None, 0),
        (
            Some("c"),
            None,
            failing,
            "True Active",
            "False ObjectsFailing",
            Some("ObjectsFailing"),
            1,
        ),
        (
            Some("c"),
            None,
            quarantined,
            "True Active",
            "False ObjectsQuarantined",
            Some("ObjectsQuarantined"),
            3,
        ),
        (
            Some("b"),
            refused,
            failing,
            "True EarlierRevision",
            "False ObjectsFailing",
            Some("TakenBack"),
            1,
        ),
        (None, refused, well, "False TakenBack", "Unknown NotServing", Some("TakenBack"), 0),
        (None, None, well, "False Loading", "Unknown NotServing", Some("Loading"), 0),
    ];
    for (serving, refused, health, serves, healthy, reason, unhealthy) in rows {
        let report = report(serving, refused);
        let status = plugin_status(&report, &counts(health), ALONE, &Value::Null, 5_000);
        let text = |index: usize| {
            let condition = &status["conditions"][index];
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            format!("{} {}", text("status"), text("reason"))
        };
        assert_eq!((text(0).as_str(), text(1).as_str()), (serves, healthy));
        assert_eq!(status.get("reason").and_then(Value::as_str), reason, "{serves} {healthy}");
        assert_eq!(status["unhealthyObjects"], unhealthy);
        assert_eq!(status.contains_key("candidate"), serving != Some("c"));
    }
}

/// Returns the condition `Healthy` of an active plugin.
fn healthy(health: ObjectHealthCounts) -> String {
    let Condition { status, reason, message, .. } =
        is_healthy(&report(Some("c"), None), &counts(health));
    format!("{status} {reason}: {message}")
}

#[test]
fn counts_are_written_with_singular_and_plural() {
    let objects = |objects, quarantined, failing, paused| ObjectHealthCounts {
        objects,
        quarantined,
        failing,
        paused,
    };
    let rows = [
        (objects(1, 0, 0, 0), "True AllWell: it reconciles 1 object"),
        (objects(3, 0, 0, 2), "True AllWell: it reconciles 3 objects, 2 of them paused"),
        (objects(2, 0, 0, 2), "Unknown AllPaused: of 2 objects all are paused"),
        (objects(0, 0, 0, 0), "True AllWell: it reconciles 0 objects"),
        (objects(3, 1, 0, 0), "1 of 3 objects and is not called for them; the condition"),
        (objects(3, 1, 1, 0), "for them, and 1 more fails; the"),
        (objects(4, 1, 2, 0), "for them, and 2 more fail; the"),
    ];
    for (health, expected) in rows {
        let found = healthy(health);
        assert!(found.contains(expected), "{found}");
    }
    let all_paused = counts(objects(2, 0, 0, 2));
    let status = plugin_status(&report(Some("c"), None), &all_paused, ALONE, &Value::Null, 0);
    assert_eq!(status["reason"], ALL_PAUSED);
}

#[test]
fn a_stopped_host_is_in_the_status_until_the_next_one_writes_it() {
    let well = ObjectHealthCounts { objects: 1, ..ObjectHealthCounts::default() };
    let (report, counts) = (report(Some("c"), None), counts(well));
    let running = Value::Object(plugin_status(&report, &counts, ALONE, &Value::Null, 1_000));
    let stopped = stopped_status(&running, "h", 9_000);
    assert_eq!(
        (&stopped["reason"], &stopped["active"]),
        (&json!(HOST_STOPPED), &running["active"])
    );
    let serving = &stopped["conditions"][0];
    assert_eq!((&serving["type"], &serving["status"]), (&json!("Serving"), &json!("Unknown")));
    assert_eq!(serving["lastTransitionTime"], "1970-01-01T00:00:09Z");
    assert_eq!(
        other_host(&stopped, "other", true),
        None,
        "a stopped host does not count as a second one"
    );
    let again = plugin_status(&report, &counts, ALONE, &stopped, 20_000);
    assert_eq!(again["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:20Z");
    assert!(!again.contains_key("reason"));
}

#[test]
fn an_object_without_a_file_is_reported_unless_another_host_may_have_it() {
    let name: PluginName = "p".parse().unwrap();
    let reason = |status: &Value| {
        let report = without_file(&name, Some(status))?;
        let status = plugin_status(&report, &PluginObjectsSummary::default(), ALONE, status, 0);
        assert!(!status.contains_key("objects"), "the number of objects is not known");
        Some(status["reason"].as_str().unwrap().to_owned())
    };
    let ended = host_name::name_of(u32::MAX);
    assert_eq!(reason(&Value::Null).as_deref(), Some("NoFile"), "it was created by hand");
    assert_eq!(reason(&json!({"host": ended})).as_deref(), Some("Unloaded"));
    let stopped = stopped_status(&json!({"host": "elsewhere"}), "elsewhere", 0);
    assert_eq!(reason(&stopped).as_deref(), Some("Unloaded"));
    assert_eq!(reason(&json!({"host": "elsewhere"})), None);
    assert_eq!(reason(&json!({"host": host_name::own_name()})), None);
}

#[test]
fn a_missing_kind_is_reported_with_the_command_that_installs_it() {
    let missing = PluginObjectsSummary {
        missing_kinds: vec!["a/v1/K".to_owned()],
        ..PluginObjectsSummary::default()
    };
    let status = plugin_status(&report(Some("c"), None), &missing, ALONE, &Value::Null, 0);
    assert_eq!(status["reason"], "KindMissing");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("a/v1/K") && message.contains("--crds p.wasm"), "{message}");
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let well = ObjectHealthCounts { objects: 1, ..ObjectHealthCounts::default() };
    let first = plugin_status(&report(Some("c"), None), &counts(well), ALONE, &Value::Null, 1_000);
    let first = Value::Object(first);
    let failing = ObjectHealthCounts { failing: 1, ..well };
    let then = plugin_status(&report(Some("c"), None), &counts(failing), ALONE, &first, 9_000);
    let at =
        |status: &Value, index: usize| status["conditions"][index]["lastTransitionTime"].clone();
    let then = Value::Object(then);
    assert_eq!((at(&then, 0), at(&first, 1)), (at(&first, 0), json!("1970-01-01T00:00:01Z")));
    assert_eq!(at(&then, 1), "1970-01-01T00:00:09Z");
}

#[test]
fn each_change_has_one_event() {
    let refused = Some(PluginRejectReason::TakenBack);
    // before, now, the event's reason
    let rows = [
        (None, report(Some("c"), None), Some("Activated")),
        (Some(report(Some("c"), None)), report(Some("c"), None), None),
        (Some(report(Some("c"), None)), report(Some("d"), None), Some("Activated")),
        (Some(report(Some("c"), None)), report(Some("b"), refused), Some("TakenBack")),
        (Some(report(Some("b"), refused)), report(Some("b"), refused), None),
        (Some(report(Some("b"), refused)), report(Some("b"), None), Some("Activated")),
        (Some(report(Some("b"), None)), report(None, None), Some("Loading")),
        (None, report(None, None), None),
    ];
    for (before, now, expected) in rows {
        let found = event(before.as_ref(), &now).map(|event| event.reason);
        assert_eq!(found.as_deref(), expected, "{before:?} {now:?}");
    }
}
