//! Guard of a start without data, and what a start gives up.

use super::*;

/// The primary 0 has ended and its successor waits in the same Pod. Each test sets the state of its replica
/// 3.
fn waiting() -> GuardFixture {
    let mut world = GuardFixture::healthy();
    world.ledger.nodes.get_mut(&node(3)).unwrap().persistent = Some(false);
    world.silence(0);
    world.snapshot.members[0].kubernetes =
        json!({"lastState": {"terminated": {"containerID": "c-0"}}});
    world.deaths = deaths(&world.snapshot, &world.ledger);
    world
}

fn empty(world: &mut GuardFixture, index: usize) {
    let facts = world.facts(index);
    facts.keys = Some(0);
    facts.replication.as_mut().unwrap().offset_bytes = 1;
}

fn start() -> Verb {
    Verb::AllowStart { pod: pod(0), node: node(0) }
}

#[test]
fn a_replica_that_has_data_or_says_nothing_keeps_the_primary_waiting() {
    let mut world = waiting();
    world.policy.data_loss = true;
    assert_eq!(world.judge(start()), Err("copies"), "it has seven keys");
    world.silence(3);
    assert_eq!(world.judge(start()), Err("copies"), "silence counts as keys");
    world.approved.nodes = [node(0)].into();
    assert_eq!(world.judge(start()), Ok(()), "a person gives them up");
    let mut world = waiting();
    world.policy.data_loss = true;
    empty(&mut world, 3);
    world.facts(3).loading = Some(true);
    assert_eq!(world.judge(start()), Err("copies"), "it reads its data");
    world.facts(3).loading = Some(false);
    assert_eq!(world.judge(start()), Ok(()));
}

#[test]
fn a_replica_without_a_disk_that_is_proven_ended_has_nothing() {
    let mut world = waiting();
    world.policy.data_loss = true;
    world.kill(3);
    assert_eq!(world.judge(start()), Ok(()));
    world.ledger.nodes.get_mut(&node(3)).unwrap().persistent = Some(true);
    assert_eq!(world.judge(start()), Err("copies"), "its volume has the data");
    world.ledger.nodes.get_mut(&node(3)).unwrap().persistent = None;
    assert_eq!(world.judge(start()), Err("copies"), "nobody knows");
}

#[test]
fn what_held_keys_once_is_given_up_by_policy_or_by_a_person_only() {
    let mut world = waiting();
    empty(&mut world, 3);
    assert_eq!(world.judge(start()), Err("data-loss"));
    world.approved.nodes = [node(1)].into();
    assert_eq!(world.judge(start()), Err("data-loss"), "another node's data");
    world.approved.unknown = vec!["slip".to_owned()];
    let said = world.refusal(start());
    assert!(said.contains("present entry `slip` names no process"), "{said}");
    world.approved.nodes = [node(0)].into();
    assert_eq!(world.judge(start()), Ok(()));
    world.approved.nodes.clear();
    world.ledger.held_keys = slots("5461-16383");
    assert_eq!(world.judge(start()), Ok(()), "the shard never held any");
    world.ledger.keys_known_since_ms = None;
    assert_eq!(world.judge(start()), Err("data-loss"), "an older host did not look");
}

#[test]
fn only_the_process_that_is_proven_to_wait_is_let_start() {
    let ready = || {
        let mut world = waiting();
        world.policy.data_loss = true;
        empty(&mut world, 3);
        world
    };
    let mut world = ready();
    world.deaths.clear();
    assert_eq!(world.judge(start()), Err("start"), "the old process may live");
    let mut world = ready();
    world.snapshot.members[0].pod_uid = "another".to_owned();
    assert_eq!(world.judge(start()), Err("start"), "another Pod has no nodes.conf of it");
    let mut world = ready();
    world.snapshot.members[0].running = false;
    assert_eq!(world.judge(start()), Err("start"));
    let lives = GuardFixture::healthy();
    assert_eq!(lives.judge(start()), Err("start"), "it answers");
}

#[test]
fn an_empty_replica_is_not_promoted_over_data_that_may_exist() {
    let mut world = waiting();
    empty(&mut world, 3);
    assert_eq!(world.judge(fail_over(3, 0, Force)), Err("data-loss"));
    world.facts(3).replication.as_mut().unwrap().offset_bytes = 1000;
    assert_eq!(world.judge(fail_over(3, 0, Force)), Ok(()), "it followed, and all keys are gone");
}

#[test]
fn a_dead_owner_is_forgotten_when_no_copy_is_left() {
    let mut world = GuardFixture::healthy();
    for index in [0, 3] {
        world.kill(index);
        world.ledger.nodes.get_mut(&node(index)).unwrap().persistent = Some(false);
    }
    // New Pods have taken their places and know no other node.
    world.snapshot.view.remove(&node(3));
    world.ledger.nodes.remove(&node(3));
    for (index, name) in [(0, "new-0"), (3, "new-3")] {
        world.snapshot.members[index].pod_uid = name.to_owned();
        world.snapshot.members[index].pod = name.to_owned();
        world.snapshot.members[index].address = None;
        world.snapshot.members[index].running = false;
    }
    let forget = || Verb::Forget { node: node(0) };
    assert_eq!(world.judge(forget()), Err("data-loss"));
    world.approved.nodes = [node(0)].into();
    assert_eq!(world.judge(forget()), Ok(()));
    world.deaths.insert(node(0), DeathProof::PodGone);
    assert_eq!(world.judge(forget()), Err("ghost"), "its process may live");
}
