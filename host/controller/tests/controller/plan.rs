//! Tests of plans, of the history of reconciles, and of the pause.

use std::sync::Arc;

use serde_json::json;
use tholepin_controller::PlanError;
use tholepin_core::{PAUSED, ReconcileReport, ReconcileResult, StepEffect, WriteMode};
use tholepin_schema::reconcile::{ReconcileFailure, ReconcileOutcome};

use crate::{ControllerFixture, fake::GuestScript, kind, reference, thing, until};

fn ends(reports: &[Arc<ReconcileReport>]) -> Vec<&'static str> {
    let name = |report: &Arc<ReconcileReport>| match &report.end {
        ReconcileResult::Answered { .. } => "answered",
        ReconcileResult::Failed(_) => "failed",
        ReconcileResult::Invalid { .. } => "invalid",
        ReconcileResult::Trapped { .. } => "trapped",
        ReconcileResult::NotCalled { .. } => "not called",
    };
    reports.iter().map(name).collect()
}

#[tokio::test]
async fn a_plan_calls_the_plugin_and_changes_nothing_in_memory() {
    let bench = ControllerFixture::start(false);
    let memo = json!({"seen": 1});
    let outcome =
        ReconcileOutcome { memo: Some(memo), summary: "hm".into(), ..ReconcileOutcome::default() };
    bench.swap("1", &[("a", GuestScript::Answer(Ok(outcome)))]).await;
    bench.world.put(thing("a", 1));
    until(|| bench.calls_of("a", "1") == 1).await;
    until(|| bench.controller.calls(&reference("a")).len() == 1).await;

    // The new revision traps: each plan reports the trap, and none counts as a strike.
    bench.swap("2", &[("a", GuestScript::Answer(Ok(ReconcileOutcome::default())))]).await;
    until(|| bench.calls_of("a", "2") == 1).await;
    until(|| bench.controller.calls(&reference("a")).len() == 2).await;
    bench.script("a", GuestScript::Trap);
    for _ in 0..3 {
        let report = bench.controller.plan(&reference("a"), None).await.unwrap();
        assert_eq!(report.mode, WriteMode::Plan);
        assert!(matches!(report.end, ReconcileResult::Trapped { .. }), "{report:?}");
        assert!(report.steps.is_empty() && report.remarks.is_empty(), "{report:?}");
    }
    bench.script("a", GuestScript::Answer(Ok(ReconcileOutcome::default())));
    bench.world.put(thing("a", 2));
    until(|| bench.calls_of("a", "2") == 5).await;
    until(|| bench.controller.calls(&reference("a")).len() == 3).await;
    assert!(bench.reasons_of("a").is_empty(), "no condition was written");
    assert_eq!(
        ends(&bench.controller.calls(&reference("a"))),
        ["answered"; 3],
        "plans are not kept"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_plan_for_a_given_object_needs_no_stored_one() {
    let bench = ControllerFixture::start(true);
    bench.swap("1", &[]).await;
    let refused = bench.controller.plan(&reference("a"), None).await.unwrap_err();
    assert_eq!(refused, PlanError::NoObject(reference("a")));
    assert!(refused.to_string().contains("-f FILE"), "{refused}");
    let mut other = reference("a");
    other.kind = kind("Other");
    let refused = bench.controller.plan(&other, None).await.unwrap_err();
    assert!(refused.to_string().contains("reconciled are: Thing"), "{refused}");
    let report = bench.controller.plan(&reference("a"), Some(thing("a", 1))).await.unwrap();
    assert_eq!(bench.calls_of("a", "1"), 1);
    let StepEffect::Object { by, fields, .. } = &report.steps[0].effect else {
        panic!("{report:?}")
    };
    assert_eq!((by.as_str(), &fields[0].to), ("add-finalizer", &Some(json!("tholepin.dev/p"))));
    assert!(bench.world.object(&reference("a")).is_none());
    bench.end().await;
}

#[tokio::test]
async fn a_plan_for_a_quarantined_object_has_a_remark() {
    let bench = ControllerFixture::start(false);
    bench.world.put(thing("a", 1));
    bench.swap("1", &[("a", GuestScript::Trap)]).await;
    until(|| bench.calls_of("a", "1") == 2).await;
    until(|| bench.controller.calls(&reference("a")).len() == 2).await;
    assert_eq!(ends(&bench.controller.calls(&reference("a"))), ["trapped", "trapped"]);
    bench.script("a", GuestScript::Answer(Ok(ReconcileOutcome::default())));
    let report = bench.controller.plan(&reference("a"), None).await.unwrap();
    assert!(matches!(report.end, ReconcileResult::Answered { .. }));
    assert!(report.remarks[0].contains("quarantined"), "{:?}", report.remarks);
    bench.end().await;
}

#[tokio::test]
async fn a_paused_object_is_planned_for_but_not_reconciled_until_it_is_resumed() {
    let bench = ControllerFixture::start(true);
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "m".into(), retry: true };
    bench.swap("1", &[("a", GuestScript::Answer(Err(failure)))]).await;
    let mut paused = thing("a", 1);
    paused["metadata"]["annotations"] = json!({PAUSED: "true"});
    bench.world.put(paused.clone());
    until(|| bench.controller.paused() == 1).await;
    until(|| bench.controller.calls(&reference("a")).len() == 1).await;
    paused["metadata"]["generation"] = json!(2);
    bench.world.put(paused);
    let report = bench.controller.plan(&reference("a"), None).await.unwrap();
    assert!(matches!(report.end, ReconcileResult::Failed(_)), "{report:?}");
    assert!(report.remarks[0].contains("paused"), "{:?}", report.remarks);
    assert_eq!(ends(&bench.controller.calls(&reference("a"))), ["not called"]);
    let stored = bench.world.object(&reference("a")).unwrap();
    assert!(stored["metadata"].get("finalizers").is_none(), "the finalizer is not set either");
    assert!(bench.reasons_of("a").is_empty());
    assert_eq!(bench.calls_of("a", "1"), 1, "by the plan alone");
    bench.world.put(thing("a", 2));
    until(|| 2 <= bench.calls_of("a", "1")).await;
    assert_eq!(bench.controller.paused(), 0);
    until(|| 2 <= bench.controller.calls(&reference("a")).len()).await;
    let live = bench.controller.calls(&reference("a"));
    let StepEffect::Object { by, .. } = &live[1].steps[0].effect else { panic!("{live:?}") };
    assert_eq!(by, "add-finalizer");
    bench.end().await;
}
