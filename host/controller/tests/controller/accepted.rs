//! Tests of the last accepted spec, and of `Ready` while no plugin reconciles an object.

use serde_json::{Value, json};
use tholepin_controller::ActivePluginChange;
use tholepin_core::{
    AcceptedSpec, ReconcileResult,
    condition::{ConditionStatus, READY, RECONCILED, Reason},
    port::WatchedStoreEvent,
};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome};

use crate::{ControllerFixture, fake::GuestScript, reference, thing, until};

/// An object whose spec is refused if `x` is 2, with `Ready=True` reported by the plugin.
fn sized(generation: i64, x: &Value) -> Value {
    let mut thing = thing("a", generation);
    thing["spec"]["x"] = x.clone();
    thing["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    thing
}

impl ControllerFixture {
    /// Returns the spec and the generation of each call.
    fn specs(&self) -> Vec<(Value, i64)> {
        let objects = self.objects.lock().unwrap();
        let spec = |object: &Value| {
            (object["spec"]["x"].clone(), object["metadata"]["generation"].as_i64().unwrap())
        };
        objects.iter().map(spec).collect()
    }

    fn kept(&self) -> Option<(AcceptedSpec, usize)> {
        self.world.accepted_specs.lock().unwrap().get("a").cloned()
    }

    /// Returns the host's last conditions: type, status, reason and message.
    fn conditions(&self) -> Vec<(&'static str, ConditionStatus, Reason, String)> {
        let conditions = self.world.conditions.lock().unwrap();
        let last = conditions.last().map(|(_, conditions)| conditions.clone()).unwrap_or_default();
        last.into_iter()
            .map(|found| (found.condition_type, found.status, found.reason, found.message))
            .collect()
    }

    fn has_conditions(&self, expected: &[(&str, ConditionStatus, Reason)]) -> bool {
        let conditions = self.conditions();
        conditions
            .iter()
            .map(|(name, status, reason, _)| (*name, *status, *reason))
            .eq(expected.iter().copied())
    }
}

const REFUSED: (&str, ConditionStatus, Reason) =
    (RECONCILED, ConditionStatus::False, Reason::InvalidSpec);

#[tokio::test]
async fn while_a_spec_is_refused_the_last_accepted_one_is_reconciled() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(4, &json!(1)));
    until(|| fixture.kept().is_some()).await;
    fixture.world.put(sized(5, &json!(2)));
    until(|| fixture.has_conditions(&[REFUSED])).await;
    assert_eq!(fixture.specs(), [(json!(1), 4), (json!(1), 4)]);
    let message = fixture.conditions()[0].3.clone();
    assert_eq!(message, ".spec.x: must be 1; the spec of generation 4 stays in force");
    assert_eq!(
        fixture.world.conditions.lock().unwrap().last().unwrap().1[0].observed_generation,
        Some(5)
    );

    // The next reconcile uses the same spec.
    fixture.world.put(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "a-secret", "namespace": "n", "uid": "s"}}));
    until(|| fixture.specs().len() == 3).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 3).await;
    let report = fixture.controller.calls(&reference("a"))[2].clone();
    assert!(matches!(report.end, ReconcileResult::Answered { .. }), "{report:?}");
    assert!(report.remarks[0].contains("generation 4 stays in force"), "{report:?}");
    assert_eq!(fixture.kept().unwrap().1, 1, "nothing is kept of a refused spec");

    let mut mended = sized(6, &json!(3));
    mended["status"] = fixture.world.object(&reference("a")).unwrap()["status"].clone();
    fixture.world.put(mended);
    until(|| fixture.specs().last() == Some(&(json!(3), 6)) && fixture.conditions().is_empty())
        .await;
    until(|| fixture.kept().unwrap().0.generation == 6).await;
    fixture.end().await;
}

#[tokio::test]
async fn another_host_reads_the_stored_spec_and_validates_it() {
    let rows = [
        (json!(1), 4, Some((json!(1), 4)), ""),
        (json!(2), 4, None, "refuses the last accepted spec too"),
        (json!(1), 5, None, "an earlier revision"),
    ];
    for (x, generation, reconciled, why) in rows {
        let fixture = ControllerFixture::start(false);
        let spec = AcceptedSpec::of(&sized(generation, &x), generation);
        fixture.world.accepted_specs.lock().unwrap().insert("a".to_owned(), (spec, 1));
        fixture.world.put(sized(5, &json!(2)));
        fixture.swap("1", &[]).await;
        until(|| fixture.reasons_of("a").contains(&Reason::InvalidSpec)).await;
        assert_eq!(fixture.specs(), Vec::from_iter(reconciled.clone()), "{x}");
        let unknown = (READY, ConditionStatus::Unknown, Reason::InvalidSpec);
        let both = [REFUSED, unknown];
        assert!(
            fixture.has_conditions(if reconciled.is_some() { &both[..1] } else { &both }),
            "{x}"
        );
        assert!(fixture.conditions()[0].3.contains(why), "{:?}", fixture.conditions());
        assert_eq!(fixture.kept().unwrap().1, 1);
        fixture.end().await;
    }
}

#[tokio::test]
async fn an_accepted_spec_is_stored_once_and_retried_after_a_failed_write() {
    let fixture = ControllerFixture::start(false);
    fixture.world.api_server_is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(4, &json!(1)));
    until(|| fixture.specs().len() == 1).await;
    // The spec is in memory, so that the failed write delays nothing.
    fixture.world.put(sized(5, &json!(2)));
    until(|| fixture.specs().len() == 2).await;
    assert_eq!(fixture.kept(), None);
    fixture.world.api_server_is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    fixture.world.put(sized(6, &json!(1)));
    until(|| fixture.kept().is_some()).await;
    fixture.swap("2", &[]).await;
    until(|| fixture.calls_of("a", "2") == 1).await;
    fixture.world.put(thing("b", 1));
    until(|| fixture.calls_of("b", "2") == 1).await;
    assert_eq!(fixture.kept().map(|(spec, count)| (spec.generation, count)), Some((6, 1)));
    fixture.end().await;
}

#[tokio::test]
async fn the_stored_spec_is_read_again_after_the_server_was_away() {
    let fixture = ControllerFixture::start(false);
    let spec = AcceptedSpec::of(&sized(4, &json!(1)), 4);
    fixture.world.accepted_specs.lock().unwrap().insert("a".to_owned(), (spec, 1));
    fixture.world.api_server_is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    fixture.world.put(sized(5, &json!(2)));
    fixture.world.put(thing("b", 1));
    fixture.swap("1", &[]).await;
    until(|| fixture.calls_of("b", "1") == 1).await;
    fixture.world.api_server_is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    fixture.world.send_store_event(&WatchedStoreEvent::Resumed);
    until(|| fixture.specs().contains(&(json!(1), 4))).await;
    until(|| fixture.has_conditions(&[REFUSED])).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_trap_in_validate_refuses_the_spec_and_is_no_strike_live_or_planned() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(4, &json!(1)));
    until(|| fixture.specs().len() == 1).await;
    fixture.world.put(sized(5, &json!("trap")));
    until(|| fixture.has_conditions(&[(RECONCILED, ConditionStatus::False, Reason::Trapped)]))
        .await;
    let secret = |uid: &str| {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "a-secret", "namespace": "n", "uid": uid}})
    };
    for (count, uid) in ["s", "t", "u"].into_iter().enumerate() {
        fixture.world.put(secret(uid));
        until(|| fixture.specs().len() == 3 + count).await;
    }
    assert!(fixture.specs().iter().all(|spec| *spec == (json!(1), 4)));
    assert!(!fixture.reasons_of("a").contains(&Reason::TooManyStrikes));
    let planned = fixture.controller.dry_run(&reference("a"), None).await.unwrap();
    assert!(matches!(planned.end, ReconcileResult::Answered { .. }), "{planned:?}");
    assert!(planned.remarks[0].contains("generation 4 stays in force"), "{planned:?}");
    fixture.end().await;
}

#[tokio::test]
async fn a_failure_of_the_spec_in_force_is_shown_beside_the_refusal() {
    let fixture = ControllerFixture::start(false);
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "try".into(), retry: false };
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(4, &json!(1)));
    until(|| fixture.specs().len() == 1).await;
    fixture.script("a", GuestScript::Answer(Err(failure)));
    fixture.world.put(sized(5, &json!(2)));
    until(|| fixture.has_conditions(&[REFUSED])).await;
    let message = fixture.conditions()[0].3.clone();
    assert!(message.contains("must be 1") && message.contains("NoLuck: try"), "{message}");
    fixture.end().await;
}

#[tokio::test]
async fn a_stored_object_is_planned_with_the_spec_in_force_and_a_file_is_not() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(4, &json!(1)));
    until(|| fixture.specs().len() == 1).await;
    fixture.world.put(sized(5, &json!(2)));
    until(|| fixture.has_conditions(&[REFUSED])).await;
    let calls = fixture.specs().len();
    let plan = async |given| fixture.controller.dry_run(&reference("a"), given).await.unwrap();
    let stored = plan(None).await;
    assert!(matches!(stored.end, ReconcileResult::Answered { .. }), "{stored:?}");
    assert!(stored.remarks[0].contains("generation 4 stays in force"), "{stored:?}");
    assert_eq!(fixture.specs().len(), calls + 1);
    let file = plan(Some(sized(5, &json!(2)))).await;
    assert!(matches!(file.end, ReconcileResult::Invalid { .. }), "{file:?}");
    fixture.end().await;
}

#[tokio::test]
async fn ready_is_unknown_while_the_plugin_is_missing_or_the_object_quarantined() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    fixture.world.put(sized(1, &json!(1)));
    until(|| fixture.calls_of("a", "1") == 1).await;
    let event = || ActivePluginChange::Changed("p".parse().unwrap());
    let active = fixture.plugins.active.lock().unwrap().take();
    fixture.events.send(event()).await.unwrap();
    let unknown = |reason| (READY, ConditionStatus::Unknown, reason);
    let missing = (RECONCILED, ConditionStatus::False, Reason::PluginMissing);
    until(|| fixture.has_conditions(&[missing, unknown(Reason::PluginMissing)])).await;

    // The plugin is back and has not reported yet: the host writes only that it was called.
    *fixture.plugins.active.lock().unwrap() = active;
    fixture.events.send(event()).await.unwrap();
    until(|| fixture.has_conditions(&[(RECONCILED, ConditionStatus::True, Reason::Succeeded)]))
        .await;
    fixture.world.put(sized(2, &json!(1)));
    until(|| fixture.calls_of("a", "1") == 3).await;

    fixture.swap("2", &[("a", GuestScript::Trap)]).await;
    until(|| fixture.conditions().len() == 2).await;
    assert_eq!(fixture.conditions()[1].2, Reason::Quarantined);
    let mut paused = fixture.world.object(&reference("a")).unwrap();
    paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": "true"});
    fixture.world.put(paused);
    until(|| fixture.controller.paused() == 1).await;
    let writes = fixture.world.conditions.lock().unwrap().len();
    fixture.plugins.active.lock().unwrap().take();
    fixture.events.send(event()).await.unwrap();
    fixture.world.put(thing("b", 1));
    until(|| fixture.reasons_of("b") == [Reason::PluginMissing]).await;
    assert_eq!(
        fixture.world.conditions.lock().unwrap().len(),
        writes + 1,
        "a paused object is not written"
    );
    fixture.end().await;
}

#[tokio::test]
async fn an_object_with_an_invalid_spec_is_deleted() {
    let fixture = ControllerFixture::start(true);
    let finished = ReconcileOutcome { finished: true, ..ReconcileOutcome::default() };
    fixture.swap("1", &[("a", GuestScript::Answer(Ok(finished)))]).await;
    let mut going = sized(5, &json!(2));
    going["metadata"]["finalizers"] = json!(["tholepin.dev/p"]);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fixture.world.put(going);
    until(|| fixture.world.object(&reference("a")).is_none()).await;
    assert_eq!(fixture.kept(), None);
    fixture.end().await;
}
