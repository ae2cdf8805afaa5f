//! The condition about refused wake triggers.

use tholepin_core::condition::Reason;
use tholepin_schema::reconcile::ReconcileFailure;

use crate::{ControllerFixture, fake::GuestScript, secret_of, thing, until};

#[tokio::test]
async fn refused_wakes_are_a_condition_until_an_outcome_has_none() {
    let fixture = ControllerFixture::start(false);
    *fixture.wakes.refusal.lock().unwrap() = Some(".wake[0]: no grant".to_owned());
    fixture.world.put(thing("a", 1));
    fixture.swap("1", &[]).await;
    until(|| !fixture.reasons_of("a").is_empty()).await;
    for calls in 2..4 {
        fixture.world.put(secret_of("a"));
        until(|| fixture.calls_of("a", "1") == calls).await;
        until(|| fixture.world.conditions.lock().unwrap().len() == calls).await;
    }
    let written = fixture.world.conditions.lock().unwrap().clone();
    for (_, conditions) in &written {
        let [condition] = &conditions[..] else { panic!("it comes and goes: {written:?}") };
        assert_eq!(condition.reason, Reason::WakeRefused);
        assert_eq!(condition.message, ".wake[0]: no grant");
    }
    assert_eq!(fixture.calls_of("a", "1"), 3, "the condition causes no reconcile");

    *fixture.wakes.refusal.lock().unwrap() = None;
    fixture.world.put(secret_of("a"));
    until(|| fixture.world.conditions.lock().unwrap().last().unwrap().1.is_empty()).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_failure_takes_the_place_of_refused_wakes() {
    let fixture = ControllerFixture::start(false);
    *fixture.wakes.refusal.lock().unwrap() = Some("refused".to_owned());
    fixture.world.put(thing("a", 1));
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "try".into(), retry: false };
    let scripts = [GuestScript::Answer(Ok(Default::default())), GuestScript::Answer(Err(failure))];
    fixture.swap("1", &[("a", GuestScript::Sequence(scripts.into()))]).await;
    until(|| fixture.reasons_of("a") == [Reason::WakeRefused]).await;
    for expected in [Reason::Failed, Reason::WakeRefused] {
        fixture.world.put(secret_of("a"));
        until(|| fixture.reasons_of("a").last() == Some(&expected)).await;
    }
    fixture.end().await;
}
