//! Tests of whole plans on the model of a cluster.

mod common;
mod heal;
mod model;
mod outdated;
mod preconditions;
mod wait_reasons;

use alloc::{format, string::String, vec, vec::Vec};

use proptest::prelude::*;
use tholepin_schema::{
    action::{FailoverMode, Verb},
    primitives::SlotSet,
    snapshot::{ClusterNodesRow, MemberAnswer},
};

use crate::{
    ClusterPlanWaitReason, ClusterStage, RedisClusterPlanViolation,
    test_cluster::{CLUSTER, TestClusterModel, spec},
};

/// Returns the planned verbs without variable parts: `failover demo-shard-0-1 force`.
fn verbs(model: &TestClusterModel) -> Vec<String> {
    let actions = model.plan().actions();
    let text = |verb: &Verb| match verb {
        Verb::Failover { pod, mode, .. } => format!("failover {pod} {}", mode.name()),
        Verb::Meet { pod, with } => format!("meet {pod} {with}"),
        Verb::AssignSlots { pod, slots } => format!("assign {pod} {slots}"),
        Verb::Forget { node } => format!("forget {}", node.short()),
        Verb::SetConfigEpoch { .. }
        | Verb::Replicate { .. }
        | Verb::AllowStart { .. }
        | Verb::Configure { .. } => {
            format!("{} {}", verb.name(), verb.pod().unwrap_or_default())
        }
    };
    actions.iter().map(|action| text(&action.verb)).collect()
}

fn reasons(model: &TestClusterModel) -> Vec<&'static str> {
    let mut reasons: Vec<_> = model.plan().reasons().map(ClusterPlanWaitReason::as_str).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

#[test]
fn a_cluster_forms_and_reaches_the_desired_state() {
    for (shards, replicas) in [(1, 0), (1, 2), (2, 1), (3, 0), (3, 1), (5, 2)] {
        let model = TestClusterModel::formed(spec(shards, replicas));
        let plan = model.plan();
        assert_eq!(
            (plan.stage, plan.actions().len()),
            (ClusterStage::Steady, 0),
            "{shards} {replicas}"
        );
        assert_eq!(plan.slots_served, 16_384);
        assert_eq!(plan.shards_done(), usize::from(shards));
        let timeouts = model.pods.values().map(|pod| pod.process.as_ref().unwrap().node_timeout_ms);
        assert!(timeouts.into_iter().all(|ms| ms == 5000), "the short timeout must be taken back");
    }
}

#[test]
fn the_first_plan_prepares_all_members_before_they_meet() {
    let model = TestClusterModel::new(spec(2, 0));
    let expected = [
        "configure demo-shard-0-0",
        "configure demo-shard-1-0",
        "set-config-epoch demo-shard-0-0",
        "set-config-epoch demo-shard-1-0",
        "meet demo-shard-0-0 demo-shard-1-0",
        "assign demo-shard-0-0 0-8191",
        "assign demo-shard-1-0 8192-16383",
    ];
    assert_eq!(verbs(&model), expected);
    let actions = model.plan().actions();
    let meet = actions.iter().find(|action| action.verb.name() == "meet").unwrap();
    assert_eq!(meet.after, ["epoch:demo-shard-0-0", "epoch:demo-shard-1-0"]);
}

#[test]
fn a_recreated_pod_joins_as_replica_and_its_old_node_is_forgotten() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let old = model.id("demo-shard-0-0");
    model.recreate("demo-shard-0-0", false);
    model.gossip();
    assert!(verbs(&model).contains(&String::from("failover demo-shard-0-1 force")));
    model.converge();
    let known = model.pods.values().flat_map(|pod| pod.process.as_ref().unwrap().table.keys());
    assert!(!known.into_iter().any(|id| *id == old));
    assert_eq!(model.plan().shards[0].primary.as_deref(), Some("demo-shard-0-1"));
}

#[test]
fn a_pod_with_its_volume_keeps_its_id_at_a_new_address() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let id = model.id("demo-shard-0-1");
    model.recreate("demo-shard-0-1", true);
    model.gossip();
    model.converge();
    assert_eq!(model.id("demo-shard-0-1"), id);
}

#[test]
fn all_pods_at_new_addresses_meet_again() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let pods: Vec<String> = model.pods.keys().cloned().collect();
    let ids: Vec<_> = pods.iter().map(|pod| model.id(pod)).collect();
    for pod in &pods {
        model.recreate(pod, true);
    }
    model.gossip();
    model.converge();
    assert_eq!(pods.iter().map(|pod| model.id(pod)).collect::<Vec<_>>(), ids);
}

#[test]
fn nodes_that_forgot_a_member_meet_it_again() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let id = model.id("demo-shard-1-1");
    for pod in ["demo-shard-0-0", "demo-shard-0-1", "demo-shard-2-0"] {
        model.process(pod).table.remove(&id);
        model.process(pod).banned.insert(id);
    }
    let expected = ["demo-shard-0-0", "demo-shard-0-1", "demo-shard-2-0"]
        .map(|pod| if pod < "demo-shard-1-1" { pod } else { "demo-shard-2-0" })
        .map(|pod| format!("meet {pod} demo-shard-1-1"));
    assert_eq!(verbs(&model), expected);
    model.converge();
}

#[test]
fn slots_that_the_owner_dropped_are_assigned_to_it_again() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let owner = model.process("demo-shard-1-0");
    let own = owner.table.get_mut(&owner.id.clone()).unwrap();
    let dropped: SlotSet = SlotSet::from_iter(["5500-5509".parse().unwrap()]);
    own.slots = own.slots.difference(&dropped);
    assert_eq!(
        verbs(&model),
        ["configure demo-shard-1-0", "assign demo-shard-1-0 5500-5509"],
        "only the owner does not know"
    );
    for pod in model.pods.values_mut() {
        for row in pod.process.as_mut().unwrap().table.values_mut() {
            row.slots = row.slots.difference(&dropped);
        }
    }
    assert!(
        verbs(&model).contains(&String::from("assign demo-shard-1-0 5500-5509")),
        "no node knows the owner"
    );
    model.converge();
}

#[test]
fn slots_are_assigned_only_when_every_pod_answers() {
    let mut model = TestClusterModel::new(spec(2, 1));
    model.kill("demo-shard-1-1");
    assert!(!verbs(&model).iter().any(|verb| verb.starts_with("assign")));
    assert_eq!(reasons(&model), ["PodsNotAnswering"]);
}

#[test]
fn each_setting_of_the_spec_is_an_action_of_its_own_and_delays_nothing() {
    let mut model = TestClusterModel::formed(spec(1, 1));
    model.spec.settings = [("slowlog-max-len", "256"), ("repl-backlog-size", "1mb"), ("hz", "20")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let mut observed = model.observed();
    for (member, length) in observed.snapshot.members.iter_mut().zip(["128", "256"]) {
        let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("{member:?}") };
        let shown = [("slowlog-max-len", length), ("repl-backlog-size", "1048576"), ("hz", "10")];
        facts.settings.extend(shown.map(|(name, value)| (name.into(), value.into())));
    }
    let plan = crate::plan(CLUSTER, &model.spec, &observed);
    assert_eq!((plan.stage, plan.actions().len()), (ClusterStage::Steady, 0));
    let ids: Vec<_> = plan.settings.iter().map(|action| action.id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["set:demo-shard-0-0:slowlog-max-len"], "`hz` waits for a restart");
    // A setting that a member does not report is not set again and again.
    assert_eq!(model.plan().settings, []);
}

/// What may happen to a cluster between two observations.
#[derive(Clone, Debug)]
enum Event {
    /// Some of the planned actions are performed: those whose bit is set.
    Act(u64),
    /// Gossip spreads.
    Gossip,
    /// The process of the n-th Pod ends.
    Kill(usize),
    /// The process of the n-th Pod starts again.
    Restart(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u64>().prop_map(Event::Act),
        3 => Just(Event::Gossip),
        1 => any::<usize>().prop_map(Event::Kill),
        2 => any::<usize>().prop_map(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// Wherever forming was interrupted, and whichever processes ended meanwhile, the cluster reaches the
    /// desired state. No plan on the way contains a forbidden action (the model and `TestClusterModel::plan` check
    /// that).
    #[test]
    fn formation_goes_on_from_any_state(
        (shards, replicas) in prop_oneof![Just((1, 1)), Just((2, 1)), Just((3, 1)), Just((3, 2))],
        events in prop::collection::vec(event(), 0..24),
    ) {
        let mut model = TestClusterModel::new(spec(shards, replicas));
        let pods: Vec<String> = model.pods.keys().cloned().collect();
        for event in events {
            match event {
                Event::Act(bits) => {
                    let plan = model.plan();
                    let mut bit = 0;
                    model.perform(&plan, |_| {
                        bit += 1;
                        bits >> (bit % 64) & 1 == 1
                    });
                }
                Event::Gossip => model.gossip(),
                Event::Kill(n) => model.kill(&pods[n % pods.len()]),
                Event::Restart(n) => model.restart(&pods[n % pods.len()]),
            }
        }
        for pod in &pods {
            model.restart(pod);
        }
        model.gossip();
        model.converge();
        prop_assert_eq!(model.plan().slots_served, 16_384);
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        kills in prop::collection::vec(0_usize..9, 0..3),
        shuffle in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let mut model = TestClusterModel::formed(spec(3, 2));
        let pods: Vec<String> = model.pods.keys().cloned().collect();
        for kill in kills {
            model.kill(&pods[kill]);
        }
        let observed = model.observed();
        let mut shuffled = observed.clone();
        shuffled.snapshot.members =
            shuffle.iter().map(|index| observed.snapshot.members[*index].clone()).collect();
        prop_assert_eq!(
            crate::plan(CLUSTER, &model.spec, &observed),
            crate::plan(CLUSTER, &model.spec, &shuffled)
        );
    }
}

/// An owner of slots is forgotten only when no replica follows it any more.
#[test]
fn the_check_finds_an_owner_that_is_forgotten_before_its_replica_took_over() {
    let forgets_owner = |model: &TestClusterModel, node, change: fn(&mut ClusterNodesRow)| {
        let mut observed = model.observed();
        change(observed.snapshot.view.get_mut(&node).unwrap());
        let mut plan = crate::plan(CLUSTER, &model.spec, &observed);
        plan.shards[1].decision = crate::RedisPlanDecision::Act(vec![Verb::Forget { node }.into()]);
        let violations = plan.check(&observed);
        violations.contains(&RedisClusterPlanViolation::ForgetsOwner(node))
    };
    for (replicas, change, expected) in [
        (1, (|_| {}) as fn(&mut ClusterNodesRow), true),
        // It owns nothing.
        (1, |row| row.slots = SlotSet::EMPTY, false),
        // No replica follows it.
        (0, |_| {}, false),
    ] {
        let mut model = TestClusterModel::formed(spec(3, replicas));
        let node = model.id("demo-shard-1-0");
        model.recreate("demo-shard-1-0", false);
        assert_eq!(forgets_owner(&model, node, change), expected, "{replicas} replicas");
    }
}

#[test]
fn the_check_finds_forbidden_actions() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.kill("demo-shard-1-0");
    let observed = model.observed();
    let mut plan = model.plan();
    let crate::RedisPlanDecision::Act(actions) = &mut plan.shards[1].decision else {
        panic!("{plan:?}")
    };
    let member = model.id("demo-shard-0-0");
    let stranger = "ee".repeat(20).parse().unwrap();
    actions.push(actions[0].clone());
    actions.extend([
        Verb::Failover {
            pod: "demo-shard-2-1".into(),
            primary: member,
            mode: FailoverMode::Takeover,
        }
        .into(),
        Verb::Forget { node: member }.into(),
        Verb::Forget { node: stranger }.into(),
        Verb::Meet { pod: "demo-shard-0-0".into(), with: "demo-shard-1-0".into() }.into(),
        Verb::AssignSlots {
            pod: "demo-shard-2-0".into(),
            slots: SlotSet::from_iter(["5-6".parse().unwrap()]),
        }
        .into(),
    ]);
    let violations: Vec<String> = plan.check(&observed).iter().map(|it| format!("{it}")).collect();
    let expected = [
        "two actions have the id",
        "3 failovers, one is allowed",
        "is not a replica of",
        "would be forgotten",
        "which no member knows",
        "`meet` goes to `demo-shard-1-0`",
        "claimed by another node",
    ];
    for text in expected {
        assert!(
            violations.iter().any(|violation| violation.contains(text)),
            "{text}: {violations:#?}"
        );
    }
}
