//! Tests of the last accepted spec, and of `Ready` while no plugin reconciles an object.

use serde_json::{Value, json};
use tholepin_controller::PluginEvent;
use tholepin_core::{
    AcceptedSpec, ReconcileResult,
    condition::{ConditionStatus, READY, RECONCILED, Reason},
    port::StoreEvent,
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
        let marks = self.world.conditions.lock().unwrap();
        let last = marks.last().map(|(_, conditions)| conditions.clone()).unwrap_or_default();
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
    let bench = ControllerFixture::start(false);
    bench.swap("1", &[]).await;
    bench.world.put(sized(4, &json!(1)));
    until(|| bench.kept().is_some()).await;
    bench.world.put(sized(5, &json!(2)));
    until(|| bench.has_conditions(&[REFUSED])).await;
    assert_eq!(bench.specs(), [(json!(1), 4), (json!(1), 4)]);
    let message = bench.conditions()[0].3.clone();
    assert_eq!(message, ".spec.x: must be 1; the spec of generation 4 stays in force");
    assert_eq!(
        bench.world.conditions.lock().unwrap().last().unwrap().1[0].observed_generation,
        Some(5)
    );

    // The next reconcile uses the same spec.
    bench.world.put(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "a-secret", "namespace": "n", "uid": "s"}}));
    until(|| bench.specs().len() == 3).await;
    until(|| bench.controller.calls(&reference("a")).len() == 3).await;
    let report = bench.controller.calls(&reference("a"))[2].clone();
    assert!(matches!(report.end, ReconcileResult::Answered { .. }), "{report:?}");
    assert!(report.remarks[0].contains("generation 4 stays in force"), "{report:?}");
    assert_eq!(bench.kept().unwrap().1, 1, "nothing is kept of a refused spec");

    let mut mended = sized(6, &json!(3));
    mended["status"] = bench.world.object(&reference("a")).unwrap()["status"].clone();
    bench.world.put(mended);
    until(|| bench.specs().last() == Some(&(json!(3), 6)) && bench.conditions().is_empty()).await;
    until(|| bench.kept().unwrap().0.generation == 6).await;
    bench.end().await;
}

#[tokio::test]
async fn another_host_reads_the_stored_spec_and_validates_it() {
    let rows = [
        (json!(1), 4, Some((json!(1), 4)), ""),
        (json!(2), 4, None, "refuses the last accepted spec too"),
        (json!(1), 5, None, "an earlier revision"),
    ];
    for (x, generation, reconciled, why) in rows {
        let bench = ControllerFixture::start(false);
        let spec = AcceptedSpec::of(&sized(generation, &x), generation);
        bench.world.accepted_specs.lock().unwrap().insert("a".to_owned(), (spec, 1));
        bench.world.put(sized(5, &json!(2)));
        bench.swap("1", &[]).await;
        until(|| bench.reasons_of("a").contains(&Reason::InvalidSpec)).await;
        assert_eq!(bench.specs(), Vec::from_iter(reconciled.clone()), "{x}");
        let unknown = (READY, ConditionStatus::Unknown, Reason::InvalidSpec);
        let both = [REFUSED, unknown];
        assert!(bench.has_conditions(if reconciled.is_some() { &both[..1] } else { &both }), "{x}");
        assert!(bench.conditions()[0].3.contains(why), "{:?}", bench.conditions());
        assert_eq!(bench.kept().unwrap().1, 1);
        bench.end().await;
    }
}

#[tokio::test]
async fn an_accepted_spec_is_stored_once_and_retried_after_a_failed_write() {
    let bench = ControllerFixture::start(false);
    bench.world.api_server_is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.swap("1", &[]).await;
    bench.world.put(sized(4, &json!(1)));
    until(|| bench.specs().len() == 1).await;
    // The spec is in memory, so that the failed write delays nothing.
    bench.world.put(sized(5, &json!(2)));
    until(|| bench.specs().len() == 2).await;
    assert_eq!(bench.kept(), None);
    bench.world.api_server_is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    bench.world.put(sized(6, &json!(1)));
    until(|| bench.kept().is_some()).await;
    bench.swap("2", &[]).await;
    until(|| bench.calls_of("a", "2") == 1).await;
    bench.world.put(thing("b", 1));
    until(|| bench.calls_of("b", "2") == 1).await;
    assert_eq!(bench.kept().map(|(spec, count)| (spec.generation, count)), Some((6, 1)));
    bench.end().await;
}

#[tokio::test]
async fn the_stored_spec_is_read_again_after_the_server_was_away() {
    let bench = ControllerFixture::start(false);
    let spec = AcceptedSpec::of(&sized(4, &json!(1)), 4);
    bench.world.accepted_specs.lock().unwrap().insert("a".to_owned(), (spec, 1));
    bench.world.api_server_is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.world.put(sized(5, &json!(2)));
    bench.world.put(thing("b", 1));
    bench.swap("1", &[]).await;
    until(|| bench.calls_of("b", "1") == 1).await;
    bench.world.api_server_is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    bench.world.send_store_event(&StoreEvent::Resumed);
    until(|| bench.specs().contains(&(json!(1), 4))).await;
    until(|| bench.has_conditions(&[REFUSED])).await;
    bench.end().await;
}

#[tokio::test]
async fn a_trap_in_validate_refuses_the_spec_and_is_no_strike_live_or_planned() {
    let bench = ControllerFixture::start(false);
    bench.swap("1", &[]).await;
    bench.world.put(sized(4, &json!(1)));
    until(|| bench.specs().len() == 1).await;
    bench.world.put(sized(5, &json!("trap")));
    until(|| bench.has_conditions(&[(RECONCILED, ConditionStatus::False, Reason::Trapped)])).await;
    let secret = |uid: &str| {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "a-secret", "namespace": "n", "uid": uid}})
    };
    for (count, uid) in ["s", "t", "u"].into_iter().enumerate() {
        bench.world.put(secret(uid));
        until(|| bench.specs().len() == 3 + count).await;
    }
    assert!(bench.specs().iter().all(|spec| *spec == (json!(1), 4)));
    assert!(!bench.reasons_of("a").contains(&Reason::TooManyStrikes));
    let planned = bench.controller.plan(&reference("a"), None).await.unwrap();
    assert!(matches!(planned.end, ReconcileResult::Answered { .. }), "{planned:?}");
    assert!(planned.remarks[0].contains("generation 4 stays in force"), "{planned:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_failure_of_the_spec_in_force_is_shown_beside_the_refusal() {
    let bench = ControllerFixture::start(false);
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "try".into(), retry: false };
    bench.swap("1", &[]).await;
    bench.world.put(sized(4, &json!(1)));
    until(|| bench.specs().len() == 1).await;
    bench.script("a", GuestScript::Answer(Err(failure)));
    bench.world.put(sized(5, &json!(2)));
    until(|| bench.has_conditions(&[REFUSED])).await;
    let message = bench.conditions()[0].3.clone();
    assert!(message.contains("must be 1") && message.contains("NoLuck: try"), "{message}");
    bench.end().await;
}

#[tokio::test]
async fn a_stored_object_is_planned_with_the_spec_in_force_and_a_file_is_not() {
    let bench = ControllerFixture::start(false);
    bench.swap("1", &[]).await;
    bench.world.put(sized(4, &json!(1)));
    until(|| bench.specs().len() == 1).await;
    bench.world.put(sized(5, &json!(2)));
    until(|| bench.has_conditions(&[REFUSED])).await;
    let calls = bench.specs().len();
    let plan = async |given| bench.controller.plan(&reference("a"), given).await.unwrap();
    let stored = plan(None).await;
    assert!(matches!(stored.end, ReconcileResult::Answered { .. }), "{stored:?}");
    assert!(stored.remarks[0].contains("generation 4 stays in force"), "{stored:?}");
    assert_eq!(bench.specs().len(), calls + 1);
    let file = plan(Some(sized(5, &json!(2)))).await;
    assert!(matches!(file.end, ReconcileResult::Invalid { .. }), "{file:?}");
    bench.end().await;
}

#[tokio::test]
async fn ready_is_unknown_while_the_plugin_is_missing_or_the_object_quarantined() {
    let bench = ControllerFixture::start(false);
    bench.swap("1", &[]).await;
    bench.world.put(sized(1, &json!(1)));
    until(|| bench.calls_of("a", "1") == 1).await;
    let event = || PluginEvent::Changed("p".parse().unwrap());
    let active = bench.plugins.active.lock().unwrap().take();
    bench.events.send(event()).await.unwrap();
    let unknown = |reason| (READY, ConditionStatus::Unknown, reason);
    let missing = (RECONCILED, ConditionStatus::False, Reason::PluginMissing);
    until(|| bench.has_conditions(&[missing, unknown(Reason::PluginMissing)])).await;

    // The plugin is back and has not reported yet: the host writes only that it was called.
    *bench.plugins.active.lock().unwrap() = active;
    bench.events.send(event()).await.unwrap();
    until(|| bench.has_conditions(&[(RECONCILED, ConditionStatus::True, Reason::Succeeded)])).await;
    bench.world.put(sized(2, &json!(1)));
    until(|| bench.calls_of("a", "1") == 3).await;

    bench.swap("2", &[("a", GuestScript::Trap)]).await;
    until(|| bench.conditions().len() == 2).await;
    assert_eq!(bench.conditions()[1].2, Reason::Quarantined);
    let mut paused = bench.world.object(&reference("a")).unwrap();
    paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": "true"});
    bench.world.put(paused);
    until(|| bench.controller.paused() == 1).await;
    let writes = bench.world.conditions.lock().unwrap().len();
    bench.plugins.active.lock().unwrap().take();
    bench.events.send(event()).await.unwrap();
    bench.world.put(thing("b", 1));
    until(|| bench.reasons_of("b") == [Reason::PluginMissing]).await;
    assert_eq!(
        bench.world.conditions.lock().unwrap().len(),
        writes + 1,
        "a paused object is not written"
    );
    bench.end().await;
}

#[tokio::test]
async fn an_object_with_an_invalid_spec_is_deleted() {
    let bench = ControllerFixture::start(true);
    let finished = ReconcileOutcome { finished: true, ..ReconcileOutcome::default() };
    bench.swap("1", &[("a", GuestScript::Answer(Ok(finished)))]).await;
    let mut going = sized(5, &json!(2));
    going["metadata"]["finalizers"] = json!(["tholepin.dev/p"]);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.world.put(going);
    until(|| bench.world.object(&reference("a")).is_none()).await;
    assert_eq!(bench.kept(), None);
    bench.end().await;
}
