//! Decisions about the cluster as a whole: handshakes, unknown nodes, and the node timeout.

use tholepin_schema::{
    primitives::{ConfigEpoch, NodeId, Role},
    snapshot::{MemberFacts, NodeFlag},
};

use super::*;
use crate::{ObservedRedisCluster, RedisPlanDecision};

/// Plans for an observation and returns the verbs of the decision about the cluster as a whole.
fn common_verbs(model: &TestClusterModel, observed: &ObservedRedisCluster) -> Vec<Verb> {
    let plan = crate::plan(CLUSTER, &model.spec, observed);
    plan.common.actions().iter().map(|action| action.verb.clone()).collect()
}

fn facts<'a>(observed: &'a mut ObservedRedisCluster, pod: &str) -> &'a mut MemberFacts {
    let member = observed.snapshot.members.iter_mut().find(|member| member.pod == pod).unwrap();
    let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("{pod} does not answer") };
    facts
}

#[test]
fn members_with_a_handshake_in_progress_are_not_introduced_again() {
    let model = TestClusterModel::new(spec(3, 0));
    let mut observed = model.observed();
    let meets = |observed: &ObservedRedisCluster| {
        let verbs = common_verbs(&model, observed);
        verbs.iter().filter(|verb| matches!(verb, Verb::Meet { .. })).count()
    };
    assert_eq!(meets(&observed), 3, "each pair once");
    let address = |observed: &ObservedRedisCluster, pod: &str| {
        observed.snapshot.member(pod).and_then(|member| member.address.clone())
    };
    let second = address(&observed, "demo-shard-1-0");
    let greeting = |address: Option<String>, flags: &[NodeFlag]| ClusterNodesRow {
        role: Role::Primary,
        address,
        primary: None,
        epoch: ConfigEpoch(0),
        slots: SlotSet::EMPTY,
        flags: flags.iter().copied().collect(),
        connected: true,
    };
    let id: NodeId = "f".repeat(40).parse().unwrap();
    for (row, expected) in [
        (greeting(second.clone(), &[NodeFlag::Handshake]), 2),
        (greeting(second, &[]), 3),
        (greeting(Some("10.9.9.9:6379".into()), &[NodeFlag::Handshake]), 3),
        (greeting(None, &[NodeFlag::Handshake]), 3),
    ] {
        facts(&mut observed, "demo-shard-0-0").differs.insert(id, row.clone());
        assert_eq!(meets(&observed), expected, "{row:?}");
    }
}

#[test]
fn an_unknown_node_is_forgotten_if_it_is_unreachable_and_foreign_otherwise() {
    let model = TestClusterModel::formed(spec(3, 0));
    let id: NodeId = "f".repeat(40).parse().unwrap();
    let unknown = |connected: bool, flags: &[NodeFlag]| {
        let mut observed = model.observed();
        let mut row = observed.snapshot.view.values().next().unwrap().clone();
        (row.connected, row.slots) = (connected, SlotSet::EMPTY);
        row.flags = flags.iter().copied().collect();
        observed.snapshot.view.insert(id, row);
        crate::plan(CLUSTER, &model.spec, &observed).common
    };
    let forgets = |decision: &RedisPlanDecision| {
        decision.actions().iter().any(|action| action.verb == Verb::Forget { node: id })
    };
    for (connected, flags) in [
        (false, &[] as &[_]),
        (true, &[NodeFlag::Fail]),
        (true, &[NodeFlag::MaybeFail]),
        (true, &[NodeFlag::NoAddress]),
    ] {
        assert!(forgets(&unknown(connected, flags)), "{connected} {flags:?}");
    }
    let reachable = unknown(true, &[]);
    assert!(
        matches!(reachable, RedisPlanDecision::Wait(ClusterPlanWaitReason::ForeignNode { node, .. }) if node == id),
        "{reachable:?}"
    );
}

/// The node timeout is short until the member has reported `ok` once, unless a node fails.
#[test]
fn the_node_timeout_is_short_while_the_cluster_is_formed_and_never_because_a_node_fails() {
    let model = TestClusterModel::formed(spec(3, 1));
    let pod = "demo-shard-0-0";
    let timeout = |present: &str, assigned: u64, ok: bool, fails: bool| {
        let mut observed = model.observed();
        if fails {
            let other = model.id("demo-shard-1-1");
            observed.snapshot.view.get_mut(&other).unwrap().flags.insert(NodeFlag::MaybeFail);
        }
        let facts = facts(&mut observed, pod);
        facts.settings.insert("cluster-node-timeout".into(), present.into());
        let cluster = facts.cluster.as_mut().unwrap();
        (cluster.slots_assigned, cluster.ok) = (assigned, ok);
        let verbs = common_verbs(&model, &observed);
        verbs.into_iter().find_map(|verb| {
            let Verb::Configure { pod: configured, settings, .. } = verb else { return None };
            settings.get("cluster-node-timeout").cloned().filter(|_| configured == pod)
        })
    };
    let all = 16_384;
    for (present, assigned, ok, fails, expected) in [
        ("5000", all - 1, false, false, Some("500")),
        ("500", all - 1, false, false, None),
        ("500", all, false, false, None),
        ("500", all, false, true, Some("5000")),
        ("500", all, true, false, Some("5000")),
        ("5000", all, false, false, None),
        ("5000", all, true, false, None),
    ] {
        let found = timeout(present, assigned, ok, fails);
        assert_eq!(found.as_deref(), expected, "{present} {assigned} {ok} {fails}");
    }
}

/// Every server has these settings, whatever the spec contains.
#[test]
fn settings_of_tholepin_are_restored() {
    let model = TestClusterModel::formed(spec(3, 0));
    let mut observed = model.observed();
    let pod = "demo-shard-0-0";
    let present = &mut facts(&mut observed, pod).settings;
    for (name, value) in [
        ("cluster-allow-replica-migration", "yes"),
        ("repl-diskless-sync-delay", "5"),
        ("cluster-require-full-coverage", "no"),
    ] {
        present.insert(name.into(), value.into());
    }
    let verbs = common_verbs(&model, &observed);
    let [Verb::Configure { pod: configured, settings, .. }] = verbs.as_slice() else {
        panic!("{verbs:?}")
    };
    assert_eq!(configured, pod);
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(settings[0], "cluster-allow-replica-migration no");
    assert_eq!(settings.last().unwrap(), "repl-diskless-sync-delay 0");
}
