//! The preconditions that bind each planned action to the process and the state that it was planned for.

use tholepin_schema::{
    action::{Action, Preconditions},
    primitives::ConfigEpoch,
    snapshot::Member,
};

use super::*;

/// Checks an action against the snapshot that it was planned for.
#[track_caller]
fn check_bound(model: &TestClusterModel, action: &Action) {
    let snapshot = model.observed().snapshot;
    let Preconditions { node, run_id, epoch, .. } = &action.presume;
    let epoch_of = |node| snapshot.view.get(node).map(|row| row.epoch);
    if let Some(pod) = action.verb.pod()
        && let Some(facts) = snapshot.member(pod).and_then(Member::facts)
    {
        assert!(facts.run_id.is_some(), "the model reports no run id");
        assert_eq!((*node, *run_id), (facts.node, facts.run_id), "{action:?}");
    }
    match &action.verb {
        Verb::SetConfigEpoch { .. } => assert_eq!(*epoch, Some(ConfigEpoch(0)), "{action:?}"),
        Verb::Forget { node: gone } => assert_eq!(*epoch, epoch_of(gone), "{action:?}"),
        Verb::Failover { primary, .. } => assert_eq!(*epoch, epoch_of(primary), "{action:?}"),
        Verb::Meet { .. }
        | Verb::AssignSlots { .. }
        | Verb::Replicate { .. }
        | Verb::AllowStart { .. }
        | Verb::Configure { .. } => {}
    }
}

/// Plans and performs until the cluster is steady. Returns the names of the verbs that were planned.
fn converge_checked(model: &mut TestClusterModel, seen: &mut Vec<&'static str>) {
    for _ in 0..30 {
        let plan = model.plan();
        for action in plan.actions() {
            check_bound(model, &action);
            seen.push(action.verb.name());
        }
        model.perform(&plan, |_| true);
        if plan.stage == ClusterStage::Steady {
            return;
        }
        model.gossip();
    }
    panic!("not steady");
}

#[test]
fn every_action_is_bound_to_the_process_and_the_epoch_that_were_seen() {
    let mut seen = Vec::new();
    let mut model = TestClusterModel::new(spec(3, 1));
    converge_checked(&mut model, &mut seen);
    model.kill("demo-shard-0-0");
    converge_failover(&mut model, &mut seen);
    model.recreate("demo-shard-0-0", false);
    converge_checked(&mut model, &mut seen);
    model.spec.failover.node_timeout_ms = 7_000;
    converge_checked(&mut model, &mut seen);
    for verb in
        ["set-config-epoch", "meet", "assign-slots", "replicate", "failover", "forget", "configure"]
    {
        assert!(seen.contains(&verb), "no {verb} among {seen:?}");
    }
}

/// Plans and performs one round while a Pod is down, so that the cluster is not steady afterwards.
fn converge_failover(model: &mut TestClusterModel, seen: &mut Vec<&'static str>) {
    for _ in 0..5 {
        let plan = model.plan();
        for action in plan.actions() {
            check_bound(model, &action);
            seen.push(action.verb.name());
        }
        model.perform(&plan, |_| true);
        model.gossip();
    }
}
