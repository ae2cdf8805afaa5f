//! What is lost by stopping a primary that hangs.

use super::*;

/// Returns the class of a stop of the first primary, which hangs, or the guard that refuses it.
fn stopped(change: impl FnOnce(&mut GuardFixture)) -> Result<LossClass, &'static str> {
    let mut fixture = GuardFixture::healthy();
    fixture.silence(0);
    fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::Fail);
    change(&mut fixture);
    let hung = [PodStop { pod: pod(0), uid: "uid-0".into(), runs: true, drops_volume: false }];
    let GuardFixture { snapshot, ledger, policy, .. } = &fixture;
    stop(snapshot, ledger, *policy, &hung, NOW_MS).map_err(|refusal| refusal.guard.as_str())
}

#[test]
fn a_primary_that_hangs_may_be_stopped_once_the_majority_reports_it_failed() {
    let lost = Err("data-loss");
    assert_eq!(stopped(|_| {}), Ok(LossClass::TailLoss));
    assert_eq!(stopped(|fixture| fixture.policy.tail_loss = false), Err("policy"));
    let upstream = |fixture: &mut GuardFixture| {
        let replication = fixture.facts(3).replication.take().unwrap();
        (replication.clone(), replication.upstream.unwrap())
    };
    let linked = |fixture: &mut GuardFixture, link_up: bool, sync_in_progress: bool| {
        let (mut replication, upstream) = upstream(fixture);
        replication.upstream =
            Some(tholepin_schema::snapshot::Upstream { link_up, sync_in_progress, ..upstream });
        fixture.facts(3).replication = Some(replication);
    };
    assert_eq!(
        stopped(|fixture| linked(fixture, false, false)),
        lost,
        "the link of the replica is down"
    );
    assert_eq!(
        stopped(|fixture| linked(fixture, true, true)),
        lost,
        "the replica has a part of the data"
    );
    assert_eq!(stopped(|fixture| fixture.silence(3)), lost, "the replica does not answer");
    assert_eq!(stopped(|fixture| fixture.facts(3).loading = Some(true)), lost);
    assert_eq!(
        stopped(|fixture| fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.clear()),
        lost
    );
    // A primary that answers but is marked as failed cannot be replaced by a graceful failover; one that is
    // not marked can.
    let answers = |fixture: &mut GuardFixture| {
        fixture.snapshot.members[0].answer =
            GuardFixture::healthy().snapshot.members[0].answer.clone();
    };
    assert_eq!(stopped(answers), Ok(LossClass::TailLoss));
    assert_eq!(
        stopped(|fixture| {
            answers(fixture);
            fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.clear();
        }),
        Err("stop")
    );
    assert_eq!(
        stopped(|fixture| fixture.silence(1)),
        lost,
        "two of three primaries are no majority"
    );
}
