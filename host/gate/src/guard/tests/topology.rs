//! Guards of the verbs that build a cluster.

use super::*;

#[test]
fn nobody_who_brings_foreign_nodes_along_is_met() {
    check_unformed(meet(0, 1), Ok(()), |_| {});
    let brings = |world: &mut GuardFixture, change: fn(&mut NodeRow)| {
        let mut foreign = NodeRow { slots: SlotSet::EMPTY, ..row(1) };
        change(&mut foreign);
        world.facts(1).differs.insert(node(99), foreign);
    };
    check_unformed(meet(0, 1), Err("meet-foreign"), |world| brings(world, |_| {}));
    // A whole foreign cluster that is down looks like a ghost.
    check_unformed(meet(0, 1), Err("meet-foreign"), |world| {
        brings(world, |row| row.connected = false)
    });
    check_unformed(meet(0, 1), Ok(()), |world| {
        brings(world, |row| row.connected = false);
        world.ledger.forgotten.insert(node(99), 1);
    });
    check_unformed(meet(0, 1), Ok(()), |world| {
        brings(world, |row| {
            row.flags.insert(NodeFlag::Handshake);
        });
    });
}

#[test]
fn nobody_who_claims_the_others_slots_is_met() {
    let claim =
        |world: &mut GuardFixture, index: usize, text: &str| world.own(index).slots = slots(text);
    check_unformed(meet(0, 1), Ok(()), |world| {
        claim(world, 0, "0-5460");
        claim(world, 1, "5461-10922");
    });
    check_unformed(meet(0, 1), Err("meet-slots"), |world| {
        claim(world, 0, "0-5460");
        claim(world, 1, "5460-10922");
    });
}

#[test]
fn a_forgotten_primary_that_was_replaced_may_come_back() {
    // Pod 0 holds the old primary of pod 3's slots. It knows only itself, and no member knows it.
    let returns = |world: &mut GuardFixture, old_epoch: u64| {
        let lone = NodeRow { epoch: ConfigEpoch(old_epoch), ..row(0) };
        world.snapshot.view.remove(&node(0));
        let promoted =
            NodeRow { role: Role::Primary, primary: None, epoch: ConfigEpoch(7), ..row(0) };
        world.snapshot.view.insert(node(3), promoted);
        let others: Vec<NodeId> = world.snapshot.view.keys().copied().collect();
        let facts = world.facts(0);
        facts.differs = [(node(0), lone)].into();
        facts.lacks = others.into_iter().collect();
        world.ledger.forgotten.insert(node(0), 1);
    };
    check_that(meet(3, 0), Ok(()), |world| returns(world, 1));
    check_that(meet(0, 3), Ok(()), |world| returns(world, 1));
    check_that(meet(3, 0), Err("meet-slots"), |world| returns(world, 8));
    check_that(meet(3, 0), Err("meet-slots"), |world| {
        returns(world, 1);
        world.ledger.forgotten.clear();
    });
}

#[test]
fn an_epoch_is_set_on_a_lone_node_only() {
    let verb = |epoch| Verb::SetConfigEpoch { pod: pod(0), epoch: ConfigEpoch(epoch) };
    check_unformed(verb(5), Ok(()), |_| {});
    check_unformed(verb(5), Err("lone-node"), |world| world.own(0).epoch = ConfigEpoch(4));
    check_unformed(verb(5), Ok(()), |world| world.own(0).epoch = ConfigEpoch(5));
    check_that(verb(5), Err("lone-node"), |_| {});
    check_that(verb(1), Ok(()), |_| {});
}

#[test]
fn slots_are_assigned_if_nobody_could_own_them() {
    let verb = |index: usize| Verb::AssignSlots { pod: pod(index), slots: slots("0-5460") };
    check_unformed(verb(0), Ok(()), |_| {});
    check_unformed(verb(0), Ok(()), |world| world.own(0).slots = slots("0-99"));
    check_unformed(verb(0), Err("slots"), |world| world.own(1).slots = slots("5460"));
    check_unformed(verb(0), Err("slots"), |world| world.silence(5));
    check_that(verb(0), Ok(()), |_| {});
    check_that(verb(1), Err("slots"), |_| {});
    check_that(verb(3), Err("role"), |_| {});
    let none = Verb::AssignSlots { pod: pod(0), slots: SlotSet::EMPTY };
    check_unformed(none, Err("slots"), |_| {});
}

#[test]
fn giving_away_a_lost_shards_slots_is_data_loss() {
    let lose = |world: &mut GuardFixture| {
        world.ledger.adopted_at_ms = Some(1);
        let lost = KnownNode { slots: slots("0-9"), ..world.ledger.nodes[&node(5)].clone() };
        world.ledger.nodes.insert(node(77), lost);
    };
    let verb = || Verb::AssignSlots { pod: pod(0), slots: slots("0-5460") };
    check_unformed(verb(), Err("data-loss"), lose);
    check_unformed(verb(), Ok(()), |world| {
        lose(world);
        world.policy.data_loss = true;
    });
    check_unformed(verb(), Err("adopted"), |world| {
        lose(world);
        world.ledger.adopted_at_ms = None;
    });
}

#[test]
fn a_replica_has_nothing_to_lose() {
    let verb = || Verb::Replicate { pod: pod(3), primary: node(0) };
    let met = |world: &mut GuardFixture| {
        for index in 0..6 {
            let lone: BTreeMap<_, _> = world.facts(index).differs.clone();
            world.snapshot.view.extend(lone);
        }
        for index in 0..6 {
            world.facts(index).differs.clear();
        }
    };
    check_unformed(verb(), Ok(()), met);
    check_unformed(verb(), Err("primary"), |_| {});
    check_unformed(verb(), Err("empty"), |world| {
        met(world);
        world.facts(3).keys = Some(1);
    });
    check_unformed(verb(), Err("empty"), |world| {
        met(world);
        world.facts(3).keys = None;
    });
    check_unformed(verb(), Err("slots"), |world| {
        met(world);
        world.snapshot.view.get_mut(&node(3)).unwrap().slots = slots("5");
    });
    check_unformed(verb(), Err("primary"), |world| {
        met(world);
        world.silence(0);
    });
    check_that(verb(), Ok(()), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(4) }, Err("primary"), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(3) }, Err("primary"), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(1) }, Ok(()), |_| {});
    check_that(Verb::Replicate { pod: pod(3), primary: node(1) }, Err("only-copy"), |world| {
        world.kill(0);
    });
}
