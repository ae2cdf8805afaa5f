//! Guards of the verbs that build a cluster.

use super::*;

#[test]
fn a_node_that_knows_foreign_nodes_is_not_met() {
    check_unformed(meet(0, 1), Ok(()), |_| {});
    let brings = |fixture: &mut GuardFixture, change: fn(&mut ClusterNodesRow)| {
        let mut foreign = ClusterNodesRow { slots: SlotSet::EMPTY, ..row(1) };
        change(&mut foreign);
        fixture.facts(1).differs.insert(node(99), foreign);
    };
    check_unformed(meet(0, 1), Err("meet-foreign"), |fixture| brings(fixture, |_| {}));
    // A foreign cluster that is down as a whole is not reachable either.
    check_unformed(meet(0, 1), Err("meet-foreign"), |fixture| {
        brings(fixture, |row| row.connected = false)
    });
    check_unformed(meet(0, 1), Ok(()), |fixture| {
        brings(fixture, |row| row.connected = false);
        fixture.ledger.forgotten.insert(node(99), 1);
    });
    check_unformed(meet(0, 1), Ok(()), |fixture| {
        brings(fixture, |row| {
            row.flags.insert(NodeFlag::Handshake);
        });
    });
}

#[test]
fn a_node_that_claims_slots_of_the_other_side_is_not_met() {
    let claim = |fixture: &mut GuardFixture, index: usize, text: &str| {
        fixture.own(index).slots = slots(text)
    };
    check_unformed(meet(0, 1), Ok(()), |fixture| {
        claim(fixture, 0, "0-5460");
        claim(fixture, 1, "5461-10922");
    });
    check_unformed(meet(0, 1), Err("meet-slots"), |fixture| {
        claim(fixture, 0, "0-5460");
        claim(fixture, 1, "5460-10922");
    });
    // It is no conflict only if each side knows the other's node.
    let knows = |fixture: &mut GuardFixture, index: usize, other: usize| {
        let row = ClusterNodesRow { slots: SlotSet::EMPTY, ..row(other) };
        fixture.facts(index).differs.insert(node(other), row);
    };
    check_unformed(meet(0, 1), Err("meet-slots"), |fixture| {
        claim(fixture, 0, "0-5460");
        claim(fixture, 1, "5460-10922");
        knows(fixture, 0, 1);
    });
    check_unformed(meet(0, 1), Ok(()), |fixture| {
        claim(fixture, 0, "0-5460");
        claim(fixture, 1, "5460-10922");
        knows(fixture, 0, 1);
        knows(fixture, 1, 0);
    });
}

#[test]
fn a_forgotten_primary_that_was_replaced_may_be_met_again() {
    // Pod 0 holds the old primary of pod 3's slots. It knows only itself, and no member knows it.
    let returns = |fixture: &mut GuardFixture, old_epoch: u64| {
        let lone = ClusterNodesRow { epoch: ConfigEpoch(old_epoch), ..row(0) };
        fixture.snapshot.view.remove(&node(0));
        let promoted =
            ClusterNodesRow { role: Role::Primary, primary: None, epoch: ConfigEpoch(7), ..row(0) };
        fixture.snapshot.view.insert(node(3), promoted);
        let others: Vec<NodeId> = fixture.snapshot.view.keys().copied().collect();
        let facts = fixture.facts(0);
        facts.differs = [(node(0), lone)].into();
        facts.lacks = others.into_iter().collect();
        fixture.ledger.forgotten.insert(node(0), 1);
    };
    check_that(meet(3, 0), Ok(()), |fixture| returns(fixture, 1));
    check_that(meet(0, 3), Ok(()), |fixture| returns(fixture, 1));
    check_that(meet(3, 0), Err("meet-slots"), |fixture| returns(fixture, 8));
    check_that(meet(3, 0), Err("meet-slots"), |fixture| returns(fixture, 7));
    check_that(meet(3, 0), Err("meet-slots"), |fixture| {
        returns(fixture, 1);
        fixture.ledger.forgotten.clear();
    });
}

#[test]
fn an_epoch_is_set_on_a_lone_node_only() {
    let verb = |epoch| Verb::SetConfigEpoch { pod: pod(0), epoch: ConfigEpoch(epoch) };
    check_unformed(verb(5), Ok(()), |_| {});
    check_unformed(verb(5), Err("lone-node"), |fixture| fixture.own(0).epoch = ConfigEpoch(4));
    check_unformed(verb(5), Ok(()), |fixture| fixture.own(0).epoch = ConfigEpoch(5));
    check_that(verb(5), Err("lone-node"), |_| {});
    check_that(verb(1), Ok(()), |_| {});
}

#[test]
fn slots_are_assigned_if_no_other_node_could_own_them() {
    let verb = |index: usize| Verb::AssignSlots { pod: pod(index), slots: slots("0-5460") };
    check_unformed(verb(0), Ok(()), |_| {});
    check_unformed(verb(0), Ok(()), |fixture| fixture.own(0).slots = slots("0-99"));
    check_unformed(verb(0), Err("slots"), |fixture| fixture.own(1).slots = slots("5460"));
    check_unformed(verb(0), Err("slots"), |fixture| fixture.silence(5));
    check_that(verb(0), Ok(()), |_| {});
    check_that(verb(1), Err("slots"), |_| {});
    check_that(verb(3), Err("role"), |_| {});
    let none = Verb::AssignSlots { pod: pod(0), slots: SlotSet::EMPTY };
    check_unformed(none, Err("slots"), |_| {});
}

#[test]
fn giving_away_a_lost_shards_slots_is_data_loss() {
    let lose = |fixture: &mut GuardFixture| {
        fixture.ledger.adopted_at_ms = Some(1);
        let lost = KnownNode { slots: slots("0-9"), ..fixture.ledger.nodes[&node(5)].clone() };
        fixture.ledger.nodes.insert(node(77), lost);
    };
    let verb = || Verb::AssignSlots { pod: pod(0), slots: slots("0-5460") };
    check_unformed(verb(), Err("data-loss"), lose);
    check_unformed(verb(), Ok(()), |fixture| {
        lose(fixture);
        fixture.policy.data_loss = true;
    });
    check_unformed(verb(), Err("adopted"), |fixture| {
        lose(fixture);
        fixture.ledger.adopted_at_ms = None;
    });
}

#[test]
fn a_node_becomes_a_replica_if_it_loses_nothing() {
    let verb = || Verb::Replicate { pod: pod(3), primary: node(0) };
    let met = |fixture: &mut GuardFixture| {
        for index in 0..6 {
            let lone: BTreeMap<_, _> = fixture.facts(index).differs.clone();
            fixture.snapshot.view.extend(lone);
        }
        for index in 0..6 {
            fixture.facts(index).differs.clear();
        }
    };
    check_unformed(verb(), Ok(()), met);
    check_unformed(verb(), Err("primary"), |_| {});
    check_unformed(verb(), Err("empty"), |fixture| {
        met(fixture);
        fixture.facts(3).keys = Some(1);
    });
    check_unformed(verb(), Err("empty"), |fixture| {
        met(fixture);
        fixture.facts(3).keys = None;
    });
    check_unformed(verb(), Err("slots"), |fixture| {
        met(fixture);
        fixture.snapshot.view.get_mut(&node(3)).unwrap().slots = slots("5");
    });
    check_unformed(verb(), Err("primary"), |fixture| {
        met(fixture);
        fixture.silence(0);
    });
    check_that(verb(), Ok(()), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(4) }, Err("primary"), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(3) }, Err("primary"), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(1) }, Ok(()), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(1) }, Err("only-copy"), |fixture| {
        fixture.kill(0);
    });
}

#[test]
fn a_replica_follows_a_primary_that_it_knows_and_leaves_a_shard_without_slots() {
    let verb = |primary: usize| Verb::Replicate { pod: pod(3), primary: node(primary) };
    // It follows this primary already.
    check_that(verb(0), Ok(()), |fixture| fixture.silence(0));
    check_that(verb(1), Ok(()), |_| {});
    check_that(verb(1), Err("only-copy"), |fixture| fixture.silence(0));
    check_that(verb(1), Ok(()), |fixture| {
        fixture.silence(0);
        fixture.snapshot.view.get_mut(&node(0)).unwrap().slots = SlotSet::EMPTY;
    });
    for change in [(|row| row.role = Role::Replica) as fn(&mut ClusterNodesRow), |row| {
        row.flags.insert(NodeFlag::Handshake);
    }] {
        check_that(verb(1), Err("primary"), |fixture| {
            let mut seen = row(1);
            change(&mut seen);
            fixture.facts(3).differs.insert(node(1), seen);
        });
    }
}
