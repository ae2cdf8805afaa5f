//! Guards of the three modes of failover.

use super::*;

#[test]
fn a_graceful_failover_needs_a_replica_in_sync() {
    let verb = || fail_over(3, 0, Graceful);
    check_that(verb(), Ok(()), |_| {});
    check_that(fail_over(4, 0, Graceful), Err("replica"), |_| {});
    check_that(fail_over(0, 0, Graceful), Err("replica"), |_| {});
    check_that(verb(), Err("in-sync"), |world| world.silence(0));
    check_that(verb(), Err("replica"), |world| world.facts(3).loading = Some(true));
    check_that(verb(), Err("in-sync"), |world| {
        let replication = world.facts(3).replication.as_mut().unwrap();
        replication.upstream.as_mut().unwrap().link_up = false;
    });
    check_that(verb(), Err("in-sync"), |world| {
        world.facts(0).replication.as_mut().unwrap().replicas.clear();
    });
    check_that(verb(), Err("in-sync"), |world| {
        world.facts(0).replication.as_mut().unwrap().offset_bytes = 1_000 + (1 << 21);
    });
    check_that(verb(), Err("open-slots"), |world| {
        let slot = Slot::new(7).unwrap();
        let open = OpenSlot { slot, direction: SlotDirection::Migrating, peer: node(1) };
        world.facts(0).open_slots.push(open);
    });
}

#[test]
fn no_shard_fails_over_twice_in_twice_the_node_timeout() {
    let changed = |world: &mut GuardFixture, index: usize, ago_ms: u64| {
        let known = world.ledger.nodes.get_mut(&node(index)).unwrap();
        known.role_changed_at_ms = Some(NOW_MS - ago_ms);
    };
    let verb = || fail_over(3, 0, Graceful);
    check_that(verb(), Err("quiet"), |world| changed(world, 0, 4_999));
    check_that(verb(), Err("quiet"), |world| changed(world, 3, 4_999));
    check_that(verb(), Ok(()), |world| changed(world, 0, 5_000));
    check_that(verb(), Ok(()), |world| changed(world, 1, 10));
    check_that(verb(), Err("quiet"), |world| {
        world.ledger.nodes.get_mut(&node(3)).unwrap().failover_tried_at_ms = Some(NOW_MS - 10);
    });
    check_that(verb(), Err("quiet"), |world| world.facts(3).settings.clear());
}

/// The clock of this host is behind that of the host that wrote the ledger, so the times in the ledger are in
/// the future.
#[test]
fn a_clock_that_was_ahead_makes_a_wait_begin_anew_and_not_last_for_ever() {
    let hour_ms = 3_600_000;
    let mut world = GuardFixture::healthy();
    let known = world.ledger.nodes.get_mut(&node(0)).unwrap();
    known.role_changed_at_ms = Some(NOW_MS + hour_ms);
    known.failover_tried_at_ms = Some(NOW_MS + hour_ms);
    learn(&mut world.ledger, &world.snapshot, NOW_MS - 4_999);
    assert_eq!(world.judge(fail_over(3, 0, Graceful)), Err("quiet"), "no false pass");
    learn(&mut world.ledger, &world.snapshot, NOW_MS);
    assert_eq!(world.judge(fail_over(3, 0, Graceful)), Err("quiet"));
    let known = world.ledger.nodes.get_mut(&node(0)).unwrap();
    let times = [known.role_changed_at_ms, known.failover_tried_at_ms];
    assert_eq!(times, [Some(NOW_MS - 4_999); 2], "counted from when it was first read");

    let mut world = GuardFixture::healthy();
    let known = world.ledger.nodes.get_mut(&node(0)).unwrap();
    known.role_changed_at_ms = Some(NOW_MS + hour_ms);
    learn(&mut world.ledger, &world.snapshot, NOW_MS - 5_000);
    assert_eq!(world.judge(fail_over(3, 0, Graceful)), Ok(()), "the wait is over");
}

/// A node that does not answer is not dead, however long ago it last answered.
#[test]
fn no_jump_of_the_clock_proves_a_death() {
    for changed_at_ms in [0, NOW_MS, NOW_MS + 3_600_000] {
        let mut world = GuardFixture::healthy();
        world.silence(0);
        for known in world.ledger.nodes.values_mut() {
            known.changed_at_ms = changed_at_ms;
        }
        learn(&mut world.ledger, &world.snapshot, NOW_MS);
        world.deaths = deaths(&world.snapshot, &world.ledger);
        assert_eq!(world.judge(fail_over(3, 0, Force)), Err("death"), "{changed_at_ms}");
    }
}

#[test]
fn a_failover_needs_a_majority_that_agrees() {
    let disagree = |world: &mut GuardFixture, index: usize| {
        let other = NodeRow { slots: slots("0-100"), ..row(0) };
        world.facts(index).differs.insert(node(0), other);
    };
    check_that(fail_over(3, 0, Graceful), Ok(()), |world| disagree(world, 1));
    check_that(fail_over(3, 0, Graceful), Err("majority"), |world| {
        disagree(world, 1);
        disagree(world, 2);
    });
    check_that(fail_over(3, 0, Force), Err("majority"), |world| {
        world.kill(0);
        world.silence(1);
    });
}

#[test]
fn force_needs_a_primary_that_is_dead_or_given_up() {
    let verb = || fail_over(3, 0, Force);
    check_that(verb(), Ok(()), |world| world.kill(0));
    check_that(verb(), Err("death"), |_| {});
    check_that(verb(), Err("death"), |world| world.silence(0));
    check_that(verb(), Ok(()), |world| {
        world.silence(0);
        world.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::Fail);
    });
    check_that(verb(), Err("death"), |world| {
        world.silence(0);
        world.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::MaybeFail);
    });
    check_that(verb(), Ok(()), |world| {
        world.silence(0);
        world.deaths.insert(node(0), DeathProof::PodGone);
    });
    check_that(verb(), Err("policy"), |world| {
        world.kill(0);
        world.policy.tail_loss = false;
    });
    check_that(verb(), Err("adopted"), |world| {
        world.kill(0);
        world.ledger.adopted_at_ms = None;
    });
}

#[test]
fn the_replica_that_is_furthest_is_promoted() {
    let two_replicas = |world: &mut GuardFixture, offset_bytes: u64| {
        world.kill(0);
        let follows = NodeRow { primary: Some(node(0)), ..row(4) };
        world.snapshot.view.insert(node(4), follows);
        world.facts(4).replication.as_mut().unwrap().offset_bytes = offset_bytes;
    };
    check_that(fail_over(3, 0, Force), Err("furthest"), |world| two_replicas(world, 1_001));
    check_that(fail_over(3, 0, Force), Ok(()), |world| two_replicas(world, 1_000));
    check_that(fail_over(4, 0, Force), Ok(()), |world| two_replicas(world, 1_001));
}

#[test]
fn takeover_needs_proof_for_every_voter_that_is_not_heard() {
    let verb = || fail_over(3, 0, Takeover);
    check_that(verb(), Err("no-majority"), |world| world.kill(0));
    check_that(verb(), Ok(()), |world| {
        world.kill(0);
        world.kill(1);
    });
    check_that(verb(), Err("death"), |world| {
        world.kill(0);
        world.silence(1);
    });
    check_that(verb(), Err("death"), |world| {
        world.kill(1);
        world.silence(0);
        world.deaths.insert(node(0), DeathProof::PodGone);
    });
}

#[test]
fn a_replica_whose_link_fell_before_its_primary_ended_lacks_what_was_written_since() {
    let now = jiff::Timestamp::from_millisecond(NOW_MS as i64).unwrap();
    let world = |down_s: u64, ended_s: i64| {
        let mut world = GuardFixture::healthy();
        world.policy.tail_loss = true;
        world.kill(0);
        let at = (now - jiff::SignedDuration::from_secs(ended_s)).to_string();
        world.snapshot.members[0].kubernetes =
            json!({"state": {"terminated": {"containerID": "c-0", "finishedAt": at}}});
        let facts = world.facts(3);
        let upstream = facts.replication.as_mut().unwrap().upstream.as_mut().unwrap();
        (upstream.link_up, upstream.down_since_s) = (false, Some(down_s));
        world
    };
    assert_eq!(world(1, 1).judge(fail_over(3, 0, Force)), Ok(()), "it fell with it");
    assert_eq!(world(2, 1).judge(fail_over(3, 0, Force)), Ok(()), "or the clocks differ");
    let mut fell = world(3, 1);
    assert_eq!(fell.judge(fail_over(3, 0, Force)), Err("data-loss"));
    fell.snapshot.members[0].kubernetes["state"]["terminated"]["finishedAt"] = json!(null);
    assert_eq!(fell.judge(fail_over(3, 0, Force)), Ok(()), "nobody knows when it ended");
}

#[test]
fn what_is_presumed_to_be_given_up_must_be_given_up_by_a_person() {
    let mut world = GuardFixture::healthy();
    world.policy.tail_loss = true;
    world.kill(0);
    let mut action: Action = fail_over(3, 0, Force).into();
    action.presume.approved = true;
    assert_eq!(world.judge(action.clone()), Err("not-in-sync"));
    assert!(world.refusal(action.clone()).contains("approve-data-loss="));
    world.approved.nodes = [node(0)].into();
    assert_eq!(world.judge(action), Ok(()));
}
