//! Guards of the three modes of failover.

use super::*;

#[test]
fn a_graceful_failover_needs_a_replica_in_sync() {
    let verb = || fail_over(3, 0, Graceful);
    check_that(verb(), Ok(()), |_| {});
    check_that(fail_over(4, 0, Graceful), Err("replica"), |_| {});
    check_that(fail_over(0, 0, Graceful), Err("replica"), |_| {});
    check_that(verb(), Err("in-sync"), |fixture| fixture.silence(0));
    check_that(verb(), Err("replica"), |fixture| fixture.facts(3).loading = Some(true));
    check_that(verb(), Err("in-sync"), |fixture| {
        let replication = fixture.facts(3).replication.as_mut().unwrap();
        replication.upstream.as_mut().unwrap().link_up = false;
    });
    check_that(verb(), Err("in-sync"), |fixture| {
        fixture.facts(0).replication.as_mut().unwrap().replicas.clear();
    });
    check_that(verb(), Err("in-sync"), |fixture| {
        fixture.facts(0).replication.as_mut().unwrap().offset_bytes = 1_000 + 1_048_577;
    });
    check_that(verb(), Ok(()), |fixture| {
        fixture.facts(0).replication.as_mut().unwrap().offset_bytes = 1_000 + 1_048_576;
    });
    check_that(verb(), Err("open-slots"), |fixture| {
        let slot = Slot::new(7).unwrap();
        let open = OpenSlot { slot, direction: SlotDirection::Migrating, peer: node(1) };
        fixture.facts(0).open_slots.push(open);
    });
}

#[test]
fn the_node_and_the_majority_must_both_report_the_replica_and_its_primary() {
    let own = |change: fn(&mut ClusterNodesRow)| {
        move |fixture: &mut GuardFixture| {
            let mut own = row(3);
            change(&mut own);
            fixture.facts(3).differs.insert(node(3), own);
        }
    };
    let majority = |change: fn(&mut ClusterNodesRow)| {
        move |fixture: &mut GuardFixture| {
            fixture.facts(3).differs.insert(node(3), row(3));
            change(fixture.snapshot.view.get_mut(&node(3)).unwrap());
        }
    };
    check_that(fail_over(3, 0, Graceful), Ok(()), own(|_| {}));
    check_that(fail_over(3, 0, Graceful), Ok(()), majority(|_| {}));
    for change in [(|row| row.role = Role::Primary) as fn(&mut ClusterNodesRow), |row| {
        row.primary = Some(node(1))
    }] {
        check_that(fail_over(3, 0, Graceful), Err("replica"), own(change));
        check_that(fail_over(3, 0, Graceful), Err("replica"), majority(change));
    }
}

#[test]
fn no_shard_fails_over_twice_in_twice_the_node_timeout() {
    let changed = |fixture: &mut GuardFixture, index: usize, ago_ms: u64| {
        let known = fixture.ledger.nodes.get_mut(&node(index)).unwrap();
        known.role_changed_at_ms = Some(NOW_MS - ago_ms);
    };
    let verb = || fail_over(3, 0, Graceful);
    check_that(verb(), Err("quiet"), |fixture| changed(fixture, 0, 4_999));
    check_that(verb(), Err("quiet"), |fixture| changed(fixture, 3, 4_999));
    check_that(verb(), Ok(()), |fixture| changed(fixture, 0, 5_000));
    check_that(verb(), Ok(()), |fixture| changed(fixture, 1, 10));
    check_that(verb(), Err("quiet"), |fixture| {
        fixture.ledger.nodes.get_mut(&node(3)).unwrap().failover_tried_at_ms = Some(NOW_MS - 10);
    });
    check_that(verb(), Err("quiet"), |fixture| fixture.facts(3).settings.clear());
}

/// The clock of this host is behind that of the host that wrote the ledger, so the times in the ledger are in
/// the future.
#[test]
fn a_time_in_the_future_restarts_a_wait() {
    let hour_ms = 3_600_000;
    let mut fixture = GuardFixture::healthy();
    let known = fixture.ledger.nodes.get_mut(&node(0)).unwrap();
    known.role_changed_at_ms = Some(NOW_MS + hour_ms);
    known.failover_tried_at_ms = Some(NOW_MS + hour_ms);
    record(&mut fixture.ledger, &fixture.snapshot, NOW_MS - 4_999);
    assert_eq!(fixture.check(fail_over(3, 0, Graceful)), Err("quiet"), "the guard must refuse");
    record(&mut fixture.ledger, &fixture.snapshot, NOW_MS);
    assert_eq!(fixture.check(fail_over(3, 0, Graceful)), Err("quiet"));
    let known = fixture.ledger.nodes.get_mut(&node(0)).unwrap();
    let times = [known.role_changed_at_ms, known.failover_tried_at_ms];
    assert_eq!(times, [Some(NOW_MS - 4_999); 2], "counted from when it was first read");

    let mut fixture = GuardFixture::healthy();
    let known = fixture.ledger.nodes.get_mut(&node(0)).unwrap();
    known.role_changed_at_ms = Some(NOW_MS + hour_ms);
    record(&mut fixture.ledger, &fixture.snapshot, NOW_MS - 5_000);
    assert_eq!(fixture.check(fail_over(3, 0, Graceful)), Ok(()), "the wait is over");
}

/// A node that does not answer is not dead, however long ago it last answered.
#[test]
fn elapsed_time_alone_proves_no_death() {
    for changed_at_ms in [0, NOW_MS, NOW_MS + 3_600_000] {
        let mut fixture = GuardFixture::healthy();
        fixture.silence(0);
        for known in fixture.ledger.nodes.values_mut() {
            known.changed_at_ms = changed_at_ms;
        }
        record(&mut fixture.ledger, &fixture.snapshot, NOW_MS);
        fixture.deaths = deaths(&fixture.snapshot, &fixture.ledger);
        assert_eq!(fixture.check(fail_over(3, 0, Force)), Err("death"), "{changed_at_ms}");
    }
}

#[test]
fn a_failover_needs_a_majority_that_agrees() {
    let disagree = |fixture: &mut GuardFixture, index: usize| {
        let other = ClusterNodesRow { slots: slots("0-100"), ..row(0) };
        fixture.facts(index).differs.insert(node(0), other);
    };
    check_that(fail_over(3, 0, Graceful), Ok(()), |fixture| disagree(fixture, 1));
    check_that(fail_over(3, 0, Graceful), Err("majority"), |fixture| {
        disagree(fixture, 1);
        disagree(fixture, 2);
    });
    check_that(fail_over(3, 0, Force), Err("majority"), |fixture| {
        fixture.kill(0);
        fixture.silence(1);
    });
}

#[test]
fn force_needs_a_primary_that_is_dead_or_reported_failed() {
    let verb = || fail_over(3, 0, Force);
    check_that(verb(), Ok(()), |fixture| fixture.kill(0));
    check_that(verb(), Err("death"), |_| {});
    check_that(verb(), Err("death"), |fixture| fixture.silence(0));
    check_that(verb(), Ok(()), |fixture| {
        fixture.silence(0);
        fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::Fail);
    });
    check_that(verb(), Err("death"), |fixture| {
        fixture.silence(0);
        fixture.snapshot.view.get_mut(&node(0)).unwrap().flags.insert(NodeFlag::MaybeFail);
    });
    check_that(verb(), Ok(()), |fixture| {
        fixture.silence(0);
        fixture.deaths.insert(node(0), DeathProof::PodGone);
    });
    check_that(verb(), Err("policy"), |fixture| {
        fixture.kill(0);
        fixture.policy.tail_loss = false;
    });
    check_that(verb(), Err("adopted"), |fixture| {
        fixture.kill(0);
        fixture.ledger.adopted_at_ms = None;
    });
}

#[test]
fn the_replica_that_is_furthest_is_promoted() {
    let two_replicas = |fixture: &mut GuardFixture, offset_bytes: u64| {
        fixture.kill(0);
        let follows = ClusterNodesRow { primary: Some(node(0)), ..row(4) };
        fixture.snapshot.view.insert(node(4), follows);
        fixture.facts(4).replication.as_mut().unwrap().offset_bytes = offset_bytes;
    };
    check_that(fail_over(3, 0, Force), Err("furthest"), |fixture| two_replicas(fixture, 1_001));
    check_that(fail_over(3, 0, Force), Ok(()), |fixture| two_replicas(fixture, 1_000));
    check_that(fail_over(4, 0, Force), Ok(()), |fixture| two_replicas(fixture, 1_001));
}

#[test]
fn takeover_needs_proof_of_death_for_every_voter_that_does_not_answer() {
    let verb = || fail_over(3, 0, Takeover);
    check_that(verb(), Err("no-majority"), |fixture| fixture.kill(0));
    check_that(verb(), Ok(()), |fixture| {
        fixture.kill(0);
        fixture.kill(1);
    });
    check_that(verb(), Err("death"), |fixture| {
        fixture.kill(0);
        fixture.silence(1);
    });
    check_that(verb(), Err("death"), |fixture| {
        fixture.kill(1);
        fixture.silence(0);
        fixture.deaths.insert(node(0), DeathProof::PodGone);
    });
    // It answers, whatever was proven before.
    check_that(verb(), Err("death"), |fixture| {
        fixture.kill(1);
        fixture.kill(2);
        fixture.deaths.insert(node(0), DeathProof::Terminated);
    });
}

/// Half of the voters cannot elect: a takeover is the only way.
#[test]
fn takeover_is_possible_with_half_of_the_voters_and_without_proof_about_others() {
    let two_voters = |fixture: &mut GuardFixture| {
        let row = fixture.snapshot.view.get_mut(&node(2)).unwrap();
        row.slots = SlotSet::EMPTY;
        fixture.kill(0);
    };
    check_that(fail_over(3, 0, Takeover), Ok(()), two_voters);
    // A primary without slots, a replica, and a node in its handshake have no vote.
    for index in [2, 4] {
        check_that(fail_over(3, 0, Takeover), Ok(()), |fixture| {
            two_voters(fixture);
            fixture.silence(index);
        });
    }
    check_that(fail_over(3, 0, Takeover), Ok(()), |fixture| {
        two_voters(fixture);
        fixture.silence(2);
        let greeting = ClusterNodesRow { flags: [NodeFlag::Handshake].into(), ..row(2) };
        fixture.facts(1).differs.insert(node(2), greeting);
    });
    check_that(fail_over(3, 0, Takeover), Err("death"), |fixture| {
        two_voters(fixture);
        fixture.silence(2);
        fixture.facts(1).differs.insert(node(2), row(2));
    });
}

#[test]
fn a_replica_whose_link_fell_before_its_primary_ended_lacks_the_later_writes() {
    let now = jiff::Timestamp::from_millisecond(NOW_MS as i64).unwrap();
    let fixture = |down_s: u64, ended_s: i64| {
        let mut fixture = GuardFixture::healthy();
        fixture.policy.tail_loss = true;
        fixture.kill(0);
        let at = (now - jiff::SignedDuration::from_secs(ended_s)).to_string();
        fixture.snapshot.members[0].kubernetes =
            json!({"state": {"terminated": {"containerID": "c-0", "finishedAt": at}}});
        let facts = fixture.facts(3);
        let upstream = facts.replication.as_mut().unwrap().upstream.as_mut().unwrap();
        (upstream.link_up, upstream.down_since_s) = (false, Some(down_s));
        fixture
    };
    assert_eq!(
        fixture(1, 1).check(fail_over(3, 0, Force)),
        Ok(()),
        "the link fell when the primary ended"
    );
    assert_eq!(
        fixture(2, 1).check(fail_over(3, 0, Force)),
        Ok(()),
        "the clocks may differ by a second"
    );
    let mut fell = fixture(3, 1);
    assert_eq!(fell.check(fail_over(3, 0, Force)), Err("data-loss"));
    fell.snapshot.members[0].kubernetes["state"]["terminated"]["finishedAt"] = json!(null);
    assert_eq!(fell.check(fail_over(3, 0, Force)), Ok(()), "the end of the primary is not known");
}

#[test]
fn a_required_approval_must_be_given_by_a_person() {
    let mut fixture = GuardFixture::healthy();
    fixture.policy.tail_loss = true;
    fixture.kill(0);
    let mut action: Action = fail_over(3, 0, Force).into();
    action.presume.approved = true;
    assert_eq!(fixture.check(action.clone()), Err("not-in-sync"));
    assert!(fixture.refusal(action.clone()).contains("approve-data-loss="));
    fixture.approved.nodes = [node(0)].into();
    assert_eq!(fixture.check(action), Ok(()));
}
