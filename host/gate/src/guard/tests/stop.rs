//! What is lost by stopping a primary that hangs.

use super::*;

/// Returns the class of a stop of the first primary, which hangs, or the guard that refuses it.
fn stopped(change: impl FnOnce(&mut GuardFixture)) -> Result<LossClass, &'static str> {
    let mut fixture = GuardFixture::healthy();
    fixture.silence(0);
    fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::Fail);
    change(&mut fixture);
    let hung =
        [PodStoppedByCall { pod: pod(0), uid: "uid-0".into(), runs: true, drops_volume: false }];
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

/// Returns the class of a stop of a Pod of the healthy instance after a change, or the guard that refuses it.
fn stop_of(
    index: usize,
    change: impl FnOnce(&mut GuardFixture, &mut PodStoppedByCall),
) -> Result<LossClass, &'static str> {
    let mut fixture = GuardFixture::healthy();
    let uid = format!("uid-{index}");
    let mut stopped = PodStoppedByCall { pod: pod(index), uid, runs: true, drops_volume: false };
    fixture.policy.data_loss = true;
    change(&mut fixture, &mut stopped);
    let GuardFixture { snapshot, ledger, policy, .. } = &fixture;
    let result = stop(snapshot, ledger, *policy, &[stopped], NOW_MS);
    result.map_err(|refusal| refusal.guard.as_str())
}

#[test]
fn a_pod_that_never_served_has_nothing_to_lose_unless_it_runs_or_its_volume_goes_too() {
    let never = |fixture: &mut GuardFixture, stopped: &mut PodStoppedByCall| {
        fixture.silence(5);
        fixture.snapshot.members[5].running = false;
        fixture.ledger.nodes.remove(&node(5));
        stopped.runs = false;
    };
    assert_eq!(stop_of(5, never), Ok(LossClass::Safe));
    for change in [(|stopped| stopped.runs = true) as fn(&mut PodStoppedByCall), |stopped| {
        stopped.drops_volume = true
    }] {
        let result = stop_of(5, |fixture, stopped| {
            never(fixture, stopped);
            change(stopped);
        });
        assert_eq!(result, Err("stop"));
    }
}

#[test]
fn a_primary_without_slots_is_stopped_safely_only_if_it_has_no_keys() {
    let lone = |keys: u64| {
        stop_of(5, |fixture, _| {
            let lone = ClusterNodesRow { role: Role::Primary, primary: None, ..row(5) };
            fixture.snapshot.view.insert(node(5), lone);
            fixture.facts(5).keys = Some(keys);
        })
    };
    assert_eq!(lone(0), Ok(LossClass::Safe));
    assert_eq!(lone(1), Ok(LossClass::DataLoss));
}

#[test]
fn a_stop_is_recorded_with_the_node_of_the_pod() {
    let mut fixture = GuardFixture::healthy();
    let stop =
        PodStoppedByCall { pod: pod(4), uid: "uid-4".into(), runs: true, drops_volume: false };
    record_stops(&mut fixture.ledger, &[stop], NOW_MS);
    let stopped = &fixture.ledger.stopped["uid-4"];
    assert_eq!((stopped.node, stopped.at_ms), (Some(node(4)), NOW_MS));
}
