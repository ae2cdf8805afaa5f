//! Tests of plans, of the history of reconciles, and of the pause.

use std::sync::Arc;

use serde_json::json;
use tholepin_controller::DryRunError;
use tholepin_core::{PAUSED, PlanStepEffect, ReconcileReport, ReconcileResult, WriteMode};
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
    let fixture = ControllerFixture::start(false);
    let memo = json!({"seen": 1});
    let outcome =
        ReconcileOutcome { memo: Some(memo), summary: "hm".into(), ..ReconcileOutcome::default() };
    fixture.swap("1", &[("a", GuestScript::Answer(Ok(outcome)))]).await;
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 1).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 1).await;

    // The new revision traps: each plan reports the trap, and none counts as a strike.
    fixture.swap("2", &[("a", GuestScript::Answer(Ok(ReconcileOutcome::default())))]).await;
    until(|| fixture.calls_of("a", "2") == 1).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 2).await;
    fixture.script("a", GuestScript::Trap);
    for _ in 0..3 {
        let report = fixture.controller.dry_run(&reference("a"), None).await.unwrap();
        assert_eq!(report.mode, WriteMode::Plan);
        assert!(matches!(report.end, ReconcileResult::Trapped { .. }), "{report:?}");
        assert!(report.steps.is_empty() && report.remarks.is_empty(), "{report:?}");
    }
    fixture.script("a", GuestScript::Answer(Ok(ReconcileOutcome::default())));
    fixture.world.put(thing("a", 2));
    until(|| fixture.calls_of("a", "2") == 5).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 3).await;
    assert!(fixture.reasons_of("a").is_empty(), "no condition was written");
    assert_eq!(
        ends(&fixture.controller.calls(&reference("a"))),
        ["answered"; 3],
        "plans are not kept"
    );
    fixture.end().await;
}

#[tokio::test]
async fn a_plan_for_a_given_object_needs_no_stored_one() {
    let fixture = ControllerFixture::start(true);
    fixture.swap("1", &[]).await;
    let refused = fixture.controller.dry_run(&reference("a"), None).await.unwrap_err();
    assert_eq!(refused, DryRunError::NoObject(reference("a")));
    assert!(refused.to_string().contains("-f FILE"), "{refused}");
    let mut other = reference("a");
    other.kind = kind("Other");
    let refused = fixture.controller.dry_run(&other, None).await.unwrap_err();
    assert!(refused.to_string().contains("reconciled are: Thing"), "{refused}");
    let report = fixture.controller.dry_run(&reference("a"), Some(thing("a", 1))).await.unwrap();
    assert_eq!(fixture.calls_of("a", "1"), 1);
    let PlanStepEffect::Object { by, fields, .. } = &report.steps[0].effect else {
        panic!("{report:?}")
    };
    assert_eq!((by.as_str(), &fields[0].to), ("add-finalizer", &Some(json!("tholepin.dev/p"))));
    assert!(fixture.world.object(&reference("a")).is_none());
    fixture.end().await;
}

#[tokio::test]
async fn a_plan_for_a_quarantined_object_has_a_remark() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    fixture.swap("1", &[("a", GuestScript::Trap)]).await;
    until(|| fixture.calls_of("a", "1") == 2).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 2).await;
    assert_eq!(ends(&fixture.controller.calls(&reference("a"))), ["trapped", "trapped"]);
    fixture.script("a", GuestScript::Answer(Ok(ReconcileOutcome::default())));
    let report = fixture.controller.dry_run(&reference("a"), None).await.unwrap();
    assert!(matches!(report.end, ReconcileResult::Answered { .. }));
    assert!(report.remarks[0].contains("quarantined"), "{:?}", report.remarks);
    fixture.end().await;
}

#[tokio::test]
async fn a_paused_object_is_planned_for_but_not_reconciled_until_it_is_resumed() {
    let fixture = ControllerFixture::start(true);
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "m".into(), retry: true };
    fixture.swap("1", &[("a", GuestScript::Answer(Err(failure)))]).await;
    let mut paused = thing("a", 1);
    paused["metadata"]["annotations"] = json!({PAUSED: "true"});
    fixture.world.put(paused.clone());
    until(|| fixture.controller.paused() == 1).await;
    until(|| fixture.controller.calls(&reference("a")).len() == 1).await;
    paused["metadata"]["generation"] = json!(2);
    fixture.world.put(paused);
    let report = fixture.controller.dry_run(&reference("a"), None).await.unwrap();
    assert!(matches!(report.end, ReconcileResult::Failed(_)), "{report:?}");
    assert!(report.remarks[0].contains("paused"), "{:?}", report.remarks);
    assert_eq!(ends(&fixture.controller.calls(&reference("a"))), ["not called"]);
    let stored = fixture.world.object(&reference("a")).unwrap();
    assert!(stored["metadata"].get("finalizers").is_none(), "the finalizer is not set either");
    assert!(fixture.reasons_of("a").is_empty());
    assert_eq!(fixture.calls_of("a", "1"), 1, "by the plan alone");
    fixture.world.put(thing("a", 2));
    until(|| 2 <= fixture.calls_of("a", "1")).await;
    assert_eq!(fixture.controller.paused(), 0);
    until(|| 2 <= fixture.controller.calls(&reference("a")).len()).await;
    let live = fixture.controller.calls(&reference("a"));
    let PlanStepEffect::Object { by, .. } = &live[1].steps[0].effect else { panic!("{live:?}") };
    assert_eq!(by, "add-finalizer");
    fixture.end().await;
}
