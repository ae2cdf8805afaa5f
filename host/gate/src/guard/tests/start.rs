//! Guard of a start without data, and what a start gives up.

use super::*;

/// The primary 0 has ended and its successor waits in the same Pod. Each test sets the state of its replica
/// 3.
fn waiting() -> GuardFixture {
    let mut fixture = GuardFixture::healthy();
    fixture.ledger.nodes.get_mut(&node(3)).unwrap().persistent = Some(false);
    fixture.silence(0);
    fixture.snapshot.members[0].kubernetes =
        json!({"lastState": {"terminated": {"containerID": "c-0"}}});
    fixture.deaths = deaths(&fixture.snapshot, &fixture.ledger);
    fixture
}

fn empty(fixture: &mut GuardFixture, index: usize) {
    let facts = fixture.facts(index);
    facts.keys = Some(0);
    facts.replication.as_mut().unwrap().offset_bytes = 1;
}

fn start() -> Verb {
    Verb::AllowStart { pod: pod(0), node: node(0) }
}

#[test]
fn a_replica_that_has_data_or_does_not_answer_keeps_the_primary_waiting() {
    let mut fixture = waiting();
    fixture.policy.data_loss = true;
    assert_eq!(fixture.check(start()), Err("copies"), "the replica has seven keys");
    fixture.silence(3);
    assert_eq!(
        fixture.check(start()),
        Err("copies"),
        "a replica that does not answer counts as having the data"
    );
    fixture.approved.nodes = [node(0)].into();
    assert_eq!(fixture.check(start()), Ok(()), "a person has given the data up");
    let mut fixture = waiting();
    fixture.policy.data_loss = true;
    empty(&mut fixture, 3);
    fixture.facts(3).loading = Some(true);
    assert_eq!(fixture.check(start()), Err("copies"), "the replica is loading its data");
    fixture.facts(3).loading = Some(false);
    assert_eq!(fixture.check(start()), Ok(()));
}

#[test]
fn a_replica_without_a_disk_that_is_proven_ended_has_nothing() {
    let mut fixture = waiting();
    fixture.policy.data_loss = true;
    fixture.kill(3);
    assert_eq!(fixture.check(start()), Ok(()));
    fixture.ledger.nodes.get_mut(&node(3)).unwrap().persistent = Some(true);
    assert_eq!(fixture.check(start()), Err("copies"), "its volume may have the data");
    fixture.ledger.nodes.get_mut(&node(3)).unwrap().persistent = None;
    assert_eq!(fixture.check(start()), Err("copies"), "it is not known whether it has a disk");
}

#[test]
fn slots_that_held_keys_are_given_up_only_by_policy_or_by_a_person() {
    let mut fixture = waiting();
    empty(&mut fixture, 3);
    assert_eq!(fixture.check(start()), Err("data-loss"));
    fixture.approved.nodes = [node(1)].into();
    assert_eq!(fixture.check(start()), Err("data-loss"), "another node's data");
    fixture.approved.unknown = vec!["typo".to_owned()];
    let message = fixture.refusal(start());
    assert!(message.contains("present entry `typo` names no process"), "{message}");
    fixture.approved.nodes = [node(0)].into();
    assert_eq!(fixture.check(start()), Ok(()));
    fixture.approved.nodes.clear();
    fixture.ledger.held_keys = slots("5461-16383");
    assert_eq!(fixture.check(start()), Ok(()), "the shard never held keys");
    fixture.ledger.keys_known_since_ms = None;
    assert_eq!(fixture.check(start()), Err("data-loss"), "an older host did not record held keys");
}

#[test]
fn only_a_process_that_is_proven_to_wait_may_start() {
    let ready = || {
        let mut fixture = waiting();
        fixture.policy.data_loss = true;
        empty(&mut fixture, 3);
        fixture
    };
    let mut fixture = ready();
    fixture.deaths.clear();
    assert_eq!(fixture.check(start()), Err("start"), "the old process may be alive");
    let mut fixture = ready();
    fixture.snapshot.members[0].pod_uid = "another".to_owned();
    assert_eq!(fixture.check(start()), Err("start"), "another Pod does not have its nodes.conf");
    let mut fixture = ready();
    fixture.snapshot.members[0].running = false;
    assert_eq!(fixture.check(start()), Err("start"));
    let running = GuardFixture::healthy();
    assert_eq!(running.check(start()), Err("start"), "the process answers");
    // Its slots are known from the ledger or from any member.
    let mut fixture = ready();
    fixture.ledger.nodes.get_mut(&node(0)).unwrap().slots = SlotSet::EMPTY;
    assert_eq!(fixture.check(start()), Ok(()));
    fixture.snapshot.view.get_mut(&node(0)).unwrap().slots = SlotSet::EMPTY;
    assert_eq!(fixture.check(start()), Err("start"), "a node without slots does not wait");
}

#[test]
fn an_empty_replica_is_not_promoted_over_data_that_may_exist() {
    let mut fixture = waiting();
    empty(&mut fixture, 3);
    assert_eq!(fixture.check(fail_over(3, 0, Force)), Err("data-loss"));
    fixture.facts(3).replication.as_mut().unwrap().offset_bytes = 1000;
    assert_eq!(
        fixture.check(fail_over(3, 0, Force)),
        Ok(()),
        "it has replicated the primary, which has no keys left"
    );
}

#[test]
fn a_dead_owner_is_forgotten_when_no_copy_is_left() {
    let mut fixture = GuardFixture::healthy();
    for index in [0, 3] {
        fixture.kill(index);
        fixture.ledger.nodes.get_mut(&node(index)).unwrap().persistent = Some(false);
    }
    // New Pods have taken their places and know no other node.
    fixture.snapshot.view.remove(&node(3));
    let mut replica = fixture.ledger.nodes.remove(&node(3)).unwrap();
    replica.persistent = Some(true);
    for (index, name) in [(0, "new-0"), (3, "new-3")] {
        fixture.snapshot.members[index].pod_uid = name.to_owned();
        fixture.snapshot.members[index].pod = name.to_owned();
        fixture.snapshot.members[index].address = None;
        fixture.snapshot.members[index].running = false;
    }
    let forget = || Verb::Forget { node: node(0) };
    assert_eq!(fixture.check(forget()), Err("data-loss"));
    fixture.approved.nodes = [node(0)].into();
    assert_eq!(fixture.check(forget()), Ok(()));
    fixture.deaths.insert(node(0), DeathProof::PodGone);
    assert_eq!(fixture.check(forget()), Err("ghost"), "its process may be alive");
    fixture.deaths.insert(node(0), DeathProof::Terminated);
    fixture.approved.nodes.clear();
    fixture.policy.data_loss = true;
    fixture.ledger.nodes.insert(node(3), replica);
    assert_eq!(fixture.check(forget()), Err("copies"), "a volume may have the data");
    fixture.ledger.nodes.get_mut(&node(0)).unwrap().slots = SlotSet::EMPTY;
    fixture.snapshot.view.get_mut(&node(0)).unwrap().slots = SlotSet::EMPTY;
    assert_eq!(fixture.check(forget()), Ok(()), "a node without slots has no data");
}
