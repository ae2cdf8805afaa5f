//! Tests of what the ledger records, and of what it does not record because it is not certain.

use serde_json::json;
use tholepin_schema::{
    action::{FailoverMode, Verb},
    primitives::ConfigEpoch,
    snapshot::{ClusterNodesRow, MemberAnswer, NodeFlag, UnreachableReason},
};

use super::*;

fn node(digit: char) -> NodeId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn run(digit: char) -> RunId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn row(slots: &str, primary: Option<NodeId>) -> ClusterNodesRow {
    ClusterNodesRow {
        role: if primary.is_some() { Role::Replica } else { Role::Primary },
        address: Some("10.0.0.1:7000".into()),
        primary,
        epoch: ConfigEpoch(1),
        slots: slots
            .parse()
            .map(|range: tholepin_schema::primitives::SlotRange| range.into())
            .unwrap_or_default(),
        flags: Default::default(),
        connected: true,
    }
}

/// Node `a` in Pod `a`, a primary with all slots, and its replica `b` in Pod `b`.
fn snapshot() -> Snapshot {
    let member = |name: char| {
        json!({
            "pod": name.to_string(), "podUid": format!("uid-{name}"), "running": true,
            "containerId": format!("container-{name}"), "kubernetes": {},
            "answer": {"answered": {
                "answeredAtMs": 1, "node": node(name), "runId": run(name),
                "settings": {"cluster-node-timeout": "5000"},
            }},
        })
    };
    Snapshot {
        observed_at_ms: 1,
        view: [(node('a'), row("0-16383", None)), (node('b'), row("", Some(node('a'))))].into(),
        members: ['a', 'b'].map(|name| serde_json::from_value(member(name)).unwrap()).into(),
        ..Snapshot::default()
    }
}

fn facts(snapshot: &mut Snapshot, index: usize) -> &mut MemberFacts {
    match &mut snapshot.members[index].answer {
        MemberAnswer::Answered(facts) => facts,
        MemberAnswer::Unreachable { .. } | MemberAnswer::Other => panic!("it is silent"),
    }
}

fn silence(snapshot: &mut Snapshot, index: usize) {
    let reason = UnreachableReason::Timeout;
    snapshot.members[index].answer = MemberAnswer::Unreachable { reason, message: String::new() };
}

/// The ledger after recording [`snapshot`] at 100 ms.
fn recorded() -> Ledger {
    let mut ledger = Ledger::default();
    assert!(record(&mut ledger, &snapshot(), 100));
    ledger
}

#[test]
fn an_equal_snapshot_changes_nothing() {
    let mut ledger = recorded();
    let before = ledger.clone();
    assert!(!record(&mut ledger, &snapshot(), 200));
    assert_eq!(ledger, before);
    assert_eq!(ledger.nodes[&node('a')].container_id, "container-a");
    assert_eq!(ledger.nodes[&node('b')].role, Role::Replica);
}

#[test]
fn an_instance_is_adopted_when_all_have_answered_and_agreed_once() {
    let mut observed = snapshot();
    silence(&mut observed, 1);
    let mut ledger = Ledger::default();
    record(&mut ledger, &observed, 100);
    assert_eq!(ledger.adopted_at_ms, None);
    // Each member has answered, but never both in one snapshot: the other was killed while the cluster
    // formed.
    let mut formed = ledger.clone();
    let mut other = snapshot();
    silence(&mut other, 0);
    record(&mut formed, &other, 150);
    assert_eq!((formed.adopted_at_ms, formed.keys_known_since_ms), (Some(150), None));
    record(&mut ledger, &snapshot(), 200);
    assert_eq!(ledger.adopted_at_ms, Some(200));
    record(&mut ledger, &observed, 300);
    assert_eq!(ledger.adopted_at_ms, Some(200));
}

#[test]
fn a_process_is_never_tied_to_a_container_that_may_not_be_its_own() {
    let mut ledger = recorded();
    let mut observed = snapshot();
    // Another process answers, but the Pod's status still names the old container.
    facts(&mut observed, 0).run_id = Some(run('c'));
    record(&mut ledger, &observed, 200);
    assert_eq!(ledger.nodes[&node('a')].container_id, "");
    record(&mut ledger, &observed, 300);
    assert_eq!(ledger.nodes[&node('a')].container_id, "", "the container stays unknown");
    observed.members[0].container_id = "container-c".into();
    record(&mut ledger, &observed, 400);
    assert_eq!(ledger.nodes[&node('a')].container_id, "container-c");
    assert_eq!(ledger.nodes[&node('a')].run_id, run('c'));
}

#[test]
fn held_keys_and_the_time_a_pod_was_deleted_are_recorded() {
    let mut ledger = recorded();
    assert!(ledger.held_keys.is_empty(), "no member reported keys");
    let mut observed = snapshot();
    facts(&mut observed, 0).keys = Some(3);
    facts(&mut observed, 1).keys = Some(3);
    let disk = [("appendonly", "no"), ("save", "60 1")];
    facts(&mut observed, 0).settings.extend(disk.map(|(name, value)| (name.into(), value.into())));
    record(&mut ledger, &observed, 200);
    assert_eq!(ledger.held_keys.slot_count(), 16_384);
    assert_eq!(ledger.nodes[&node('a')].persistent, Some(true));
    assert_eq!(ledger.nodes[&node('b')].persistent, None, "its settings are not known");
    assert_eq!(ledger.nodes[&node('b')].primary, Some(node('a')));
    let gone = observed.members.remove(1);
    record(&mut ledger, &observed, 300);
    record(&mut ledger, &observed, 400);
    assert_eq!(ledger.nodes[&node('b')].gone_at_ms, Some(300));
    observed.members.push(gone);
    silence(&mut observed, 1);
    record(&mut ledger, &observed, 500);
    assert_eq!(ledger.nodes[&node('b')].gone_at_ms, None);
    facts(&mut observed, 0).keys = Some(0);
    record(&mut ledger, &observed, 600);
    assert_eq!(ledger.held_keys.slot_count(), 16_384, "held keys stay recorded");
}

#[test]
fn a_member_that_does_not_answer_keeps_its_entry() {
    let mut ledger = recorded();
    let mut observed = snapshot();
    silence(&mut observed, 0);
    observed.members[0].container_id = "container-z".into();
    assert!(!record(&mut ledger, &observed, 200));
    assert_eq!(ledger.nodes[&node('a')].container_id, "container-a");
}

#[test]
fn a_change_of_roles_is_recorded_for_the_shard() {
    let mut ledger = recorded();
    let quiet = snapshot();
    assert_eq!(shard_changed_at_ms(&ledger, &quiet, node('a')), None);
    // `b` has replaced `a`, which does not answer.
    let mut observed = snapshot();
    silence(&mut observed, 0);
    observed.view = [(node('a'), row("", None)), (node('b'), row("0-16383", None))].into();
    record(&mut ledger, &observed, 200);
    assert_eq!(shard_changed_at_ms(&ledger, &observed, node('b')), Some(200));
    assert!(ledger.nodes[&node('a')].slots.is_empty());
    // That `a` returns as a replica is not another change.
    let mut observed = snapshot();
    observed.view =
        [(node('a'), row("", Some(node('b')))), (node('b'), row("0-16383", None))].into();
    record(&mut ledger, &observed, 900);
    assert_eq!(shard_changed_at_ms(&ledger, &observed, node('b')), Some(200));
    // A failover that is tried counts too, from either end.
    let verb = Verb::Failover { pod: "a".into(), primary: node('b'), mode: FailoverMode::Graceful };
    record_failover_try(&mut ledger, &verb.into(), 950);
    assert_eq!(shard_changed_at_ms(&ledger, &observed, node('b')), Some(950));
}

#[test]
fn becoming_a_replica_without_having_had_slots_is_no_change_of_roles() {
    let mut observed = snapshot();
    observed.view.insert(node('b'), row("", None));
    let mut ledger = Ledger::default();
    record(&mut ledger, &observed, 100);
    record(&mut ledger, &snapshot(), 200);
    assert_eq!(ledger.nodes[&node('b')].role, Role::Replica);
    assert_eq!(shard_changed_at_ms(&ledger, &snapshot(), node('a')), None);
}

#[test]
fn a_node_that_no_member_knows_is_forgotten_but_not_foreign() {
    let mut ledger = recorded();
    let mut observed = snapshot();
    observed.members.pop();
    record(&mut ledger, &observed, 200);
    assert!(ledger.nodes.contains_key(&node('b')), "`a` still knows it");
    observed.view.remove(&node('b'));
    record(&mut ledger, &observed, 300);
    assert!(!ledger.nodes.contains_key(&node('b')));
    assert_eq!(ledger.forgotten.get(&node('b')), Some(&300));
    for index in 0..300_u64 {
        record_forgotten(&mut ledger, format!("{index:040x}").parse().unwrap(), 1_000 + index);
    }
    assert_eq!(ledger.forgotten.len(), FORGOTTEN_MAX);
    assert!(!ledger.forgotten.contains_key(&node('b')), "the oldest go first");
}

/// Node `c` in the Pod of `a`, and `d` in that of `b`: fresh nodes that know only themselves, or that have
/// met.
fn fresh(met: bool) -> Snapshot {
    let mut observed = snapshot();
    observed.view =
        if met { ['c', 'd'].map(|name| (node(name), row("", None))).into() } else { [].into() };
    for (index, name) in ['c', 'd'].into_iter().enumerate() {
        observed.members[index].pod_uid = format!("uid-{name}");
        let facts = facts(&mut observed, index);
        (facts.node, facts.run_id) = (Some(node(name)), Some(run(name)));
        if !met {
            facts.differs = [(node(name), row("", None))].into();
        }
    }
    observed
}

#[test]
fn the_last_owner_of_slots_that_held_keys_is_kept_until_they_have_another() {
    for held_keys in [false, true] {
        let mut observed = snapshot();
        facts(&mut observed, 0).keys = Some(u64::from(held_keys));
        let mut ledger = Ledger::default();
        record(&mut ledger, &observed, 100);
        let kept = |ledger: &Ledger| ['a', 'b'].map(|name| ledger.nodes.contains_key(&node(name)));
        record(&mut ledger, &fresh(false), 200);
        assert_eq!(kept(&ledger), [held_keys; 2], "fresh members know no other nodes");
        record(&mut ledger, &fresh(true), 300);
        assert_eq!(kept(&ledger), [held_keys; 2], "the members that met them do not either");
        let mut owned = fresh(true);
        owned.view.insert(node('c'), row("0-16383", None));
        record(&mut ledger, &owned, 400);
        assert_eq!(kept(&ledger), [false; 2]);
    }
}

#[test]
fn the_identity_of_a_node_follows_from_all_views_and_the_ledger() {
    let ledger = recorded();
    let mut observed = snapshot();
    let with = |observed: &mut Snapshot, row: ClusterNodesRow| {
        observed.view.insert(node('f'), row);
    };
    assert_eq!(identify(node('a'), &observed, &ledger), RedisNodeIdRelation::Member);
    silence(&mut observed, 0);
    assert_eq!(identify(node('a'), &observed, &ledger), RedisNodeIdRelation::Absent);
    with(&mut observed, row("", None));
    assert_eq!(identify(node('f'), &observed, &ledger), RedisNodeIdRelation::Foreign);
    assert_eq!(foreign_nodes(&observed, &ledger), [node('f')].into());
    with(&mut observed, ClusterNodesRow { connected: false, ..row("", None) });
    assert_eq!(identify(node('f'), &observed, &ledger), RedisNodeIdRelation::Unreachable);
    for flag in [NodeFlag::Fail, NodeFlag::MaybeFail, NodeFlag::NoAddress] {
        with(&mut observed, ClusterNodesRow { flags: [flag].into(), ..row("", None) });
        assert_eq!(
            identify(node('f'), &observed, &ledger),
            RedisNodeIdRelation::Unreachable,
            "{flag:?}"
        );
    }
    with(&mut observed, ClusterNodesRow { flags: [NodeFlag::Handshake].into(), ..row("", None) });
    assert_eq!(identify(node('f'), &observed, &ledger), RedisNodeIdRelation::Handshake);
    // A node that the ledger has forgotten is not foreign.
    with(&mut observed, row("", None));
    let forgotten = Ledger { forgotten: [(node('f'), 1)].into(), ..ledger };
    assert_eq!(identify(node('f'), &observed, &forgotten), RedisNodeIdRelation::Unreachable);
}

#[test]
fn a_suspended_setting_is_restored_once() {
    let mut ledger = recorded();
    let mut observed = snapshot();
    let set = |value: &str| -> Action {
        let settings = [("cluster-node-timeout".to_owned(), value.to_owned())].into();
        Verb::Configure { pod: "a".into(), settings, temporary: true }.into()
    };
    suspend(&mut ledger, &set("500"), &observed, 100);
    facts(&mut observed, 0).settings.insert("cluster-node-timeout".into(), "500".into());
    suspend(&mut ledger, &set("700"), &observed, 200);
    assert_eq!(ledger.suspensions.len(), 1, "{:?}", ledger.suspensions);
    let [lift] = &restore_actions(&ledger)[..] else { panic!() };
    assert_eq!(lift.presume.run_id, Some(run('a')));
    let Verb::Configure { settings, temporary: false, .. } = &lift.verb else { panic!("{lift:?}") };
    assert_eq!(settings["cluster-node-timeout"], "5000");

    drop_restored(&mut ledger, &observed);
    assert_eq!(ledger.suspensions.len(), 1, "the setting is not restored yet");
    facts(&mut observed, 0).settings.insert("cluster-node-timeout".into(), "5000".into());
    drop_restored(&mut ledger, &observed);
    assert!(ledger.suspensions.is_empty());
}

#[test]
fn a_suspension_ends_with_its_process() {
    let mut ledger = recorded();
    let mut observed = snapshot();
    let settings = [("cluster-node-timeout".to_owned(), "500".to_owned())].into();
    let verb = Verb::Configure { pod: "a".into(), settings, temporary: true };
    suspend(&mut ledger, &verb.into(), &observed, 100);
    facts(&mut observed, 0).settings.insert("cluster-node-timeout".into(), "500".into());
    let mut silent = observed.clone();
    silence(&mut silent, 0);
    drop_restored(&mut ledger, &silent);
    assert_eq!(ledger.suspensions.len(), 1, "a member that does not answer keeps its suspensions");
    facts(&mut observed, 0).run_id = Some(run('c'));
    drop_restored(&mut ledger, &observed);
    assert!(ledger.suspensions.is_empty());
}
