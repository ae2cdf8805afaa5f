//! Failovers, waiting, and data that must not be given up.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde_json::json;
use tholepin_redis_types::redis_cluster::{DataLoss, OnPodDeath};
use tholepin_schema::{
    action::Verb,
    snapshot::{MemberAnswer, UnreachableReason},
};

use super::{reasons, verbs};
use crate::{
    ClusterPlanWaitReason,
    test_cluster::{CLUSTER, TestClusterModel, spec},
};

#[test]
fn a_dead_primary_is_replaced_by_its_replica() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.kill("demo-shard-1-0");
    assert_eq!(verbs(&model), ["failover demo-shard-1-1 force"]);
    let plan = model.plan();
    model.perform(&plan, |_| true);
    model.gossip();
    // The process starts again with its data, learns of the failover and follows.
    model.restart("demo-shard-1-0");
    model.converge();
    assert_eq!(model.plan().shards[1].primary.as_deref(), Some("demo-shard-1-1"));
}

#[test]
fn the_replica_furthest_along_is_promoted_and_the_lowest_id_among_equals() {
    let mut model = TestClusterModel::formed(spec(3, 2));
    model.kill("demo-shard-0-0");
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"], "the lower id");
    let mut observed = model.observed();
    let first = observed.snapshot.members.iter_mut().find(|member| member.pod == "demo-shard-0-1");
    let first = first.unwrap();
    first.kubernetes = json!({"ready": false});
    let MemberAnswer::Answered(facts) = &mut first.answer else { panic!("it answers") };
    facts.uptime_s = Some(60);
    let plan = crate::plan(CLUSTER, &model.spec, &observed);
    assert_eq!(plan.actions()[0].verb.pod(), Some("demo-shard-0-2"), "the one that is ready");
    model.process("demo-shard-0-2").offset_bytes = 10;
    assert_eq!(verbs(&model), ["failover demo-shard-0-2 force"], "the larger offset");
    model.previous.shards[0].members[2].in_sync = Some(false);
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"], "in sync comes first");
}

#[test]
fn a_replica_that_was_not_in_sync_is_promoted_only_in_a_cache() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.kill("demo-shard-0-0");
    model.previous.shards[0].members[1].in_sync = Some(false);
    assert_eq!(verbs(&model), [""; 0]);
    assert!(reasons(&model).contains(&"NoReplicaInSync"));
    // A replica with keys takes over if a person approves the loss of what only the primary has.
    model.process("demo-shard-0-1").keys = 3;
    let approved = |model: &TestClusterModel| model.plan().actions()[0].presume.approved;
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"]);
    assert!(approved(&model));
    model.spec.data_loss = DataLoss::Acceptable;
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"]);
    assert!(!approved(&model));
}

#[test]
fn the_last_status_says_whether_a_replica_was_in_sync_while_its_shard_is_silent() {
    // Silent together with its primary, or while the primary answers; whether it is promoted afterwards.
    for (with_primary, promoted) in [(true, true), (false, false)] {
        let mut model = TestClusterModel::formed(spec(3, 1));
        let silent = if with_primary { 0..2 } else { 1..2 };
        let pods: Vec<_> = silent.map(|index| format!("demo-shard-0-{index}")).collect();
        for pod in &pods {
            model.pods.get_mut(pod).unwrap().silent = Some(UnreachableReason::Auth);
        }
        let plan = model.plan();
        model.perform(&plan, |_| false);
        for pod in &pods {
            model.pods.get_mut(pod).unwrap().silent = None;
        }
        model.kill("demo-shard-0-0");
        assert_eq!(verbs(&model) == ["failover demo-shard-0-1 force"], promoted, "{with_primary}");
    }
}

#[test]
fn a_link_that_went_down_just_now_may_have_done_so_with_the_primary() {
    for (down_s, promoted) in [(1, true), (2, false)] {
        let mut model = TestClusterModel::formed(spec(3, 1));
        let mut observed = model.observed();
        let replica =
            observed.snapshot.members.iter_mut().find(|member| member.pod == "demo-shard-0-1");
        let MemberAnswer::Answered(facts) = &mut replica.unwrap().answer else {
            panic!("it answers")
        };
        let upstream = facts.replication.as_mut().unwrap().upstream.as_mut().unwrap();
        (upstream.link_up, upstream.down_since_s) = (false, Some(down_s));
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        model.perform(&plan, |_| false);
        model.kill("demo-shard-0-0");
        let actions = model.plan().actions();
        let is_promoted = actions.first().is_some_and(|action| !action.presume.approved);
        assert_eq!(is_promoted, promoted, "{down_s}");
    }
}

#[test]
fn a_silent_primary_is_not_replaced() {
    // A member that requires another password is not a process that hangs.
    let rows = [
        (UnreachableReason::Timeout, "PrimaryHangs"),
        (UnreachableReason::Auth, "CredentialsRefused"),
    ];
    for (reason, said) in rows {
        let mut model = TestClusterModel::formed(spec(3, 1));
        model.pods.get_mut("demo-shard-0-0").unwrap().silent = Some(reason);
        model.gossip();
        assert_eq!(verbs(&model), [""; 0], "{reason:?}");
        assert!(reasons(&model).contains(&said), "{reason:?}");
    }
    let silent = ClusterPlanWaitReason::PrimarySilent { pod: "p".into(), slots: "0-5460".into() };
    assert!(silent.to_string().contains("`p` of the slots 0-5460"), "{silent}");
}

#[test]
fn the_plan_waits_for_a_silent_replica() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::Timeout);
    model.gossip();
    assert_eq!(verbs(&model), [""; 0]);
    assert_eq!(reasons(&model), ["PodsNotAnswering"]);
}

#[test]
fn the_spec_can_leave_failovers_to_the_cluster() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.spec.failover.on_pod_death = OnPodDeath::Wait;
    model.kill("demo-shard-0-0");
    assert_eq!(verbs(&model), [""; 0]);
    assert!(reasons(&model).contains(&"LeftToTheCluster"));
}

#[test]
fn without_a_majority_only_deaths_allow_a_takeover() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.kill("demo-shard-0-0");
    model.kill("demo-shard-1-0");
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 takeover"], "one at a time");
    assert!(reasons(&model).contains(&"OtherShardFirst"));
    model.pods.get_mut("demo-shard-1-0").unwrap().silent = Some(UnreachableReason::Timeout);
    assert_eq!(verbs(&model), [""; 0], "it may be alive behind a cut network");
    assert!(reasons(&model).contains(&"NoMajority"));
}

/// All primaries end at the same time with their Pods and data, and fresh Pods answer at their positions,
/// before they know any node and after. The replicas take over one after the other.
#[test]
fn replicas_of_primaries_that_ended_together_take_over_one_by_one() {
    let cases = [(1, 1, 1), (2, 1, 1), (2, 1, 2), (3, 1, 2), (3, 1, 3), (3, 2, 3), (5, 2, 5)];
    for (shards, replicas, lost) in cases {
        for met in [false, true] {
            let mut model = TestClusterModel::formed(spec(shards, replicas));
            for shard in 0..lost {
                model.recreate(&format!("{CLUSTER}-shard-{shard}-0"), false);
            }
            if met {
                let plan = model.plan();
                model.perform(&plan, |action| matches!(action.verb, Verb::Meet { .. }));
            }
            // The survivors notice that their links are down.
            model.gossip();
            for shard in 0..lost {
                let survivors = usize::from(shards - lost + shard);
                let has_majority = usize::from(shards) < survivors * 2;
                let mode = if has_majority { "force" } else { "takeover" };
                let planned = verbs(&model);
                let failover = format!("failover {CLUSTER}-shard-{shard}-1 {mode}");
                assert!(
                    planned.contains(&failover),
                    "{shards}x{replicas}, {lost} lost: {planned:?}"
                );
                let plan = model.plan();
                model.perform(&plan, |_| true);
                model.gossip();
            }
            model.converge();
            let plan = model.plan();
            for shard in plan.shards.iter().take(usize::from(lost)) {
                let expected = format!("{}-1", shard.name);
                assert_eq!(shard.primary.as_ref(), Some(&expected));
            }
        }
    }
}

#[test]
fn a_primary_hands_over_before_its_pod_is_deleted() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.pods.get_mut("demo-shard-2-0").unwrap().deleting = true;
    assert_eq!(verbs(&model), ["failover demo-shard-2-1 graceful"]);
    model.pods.get_mut("demo-shard-2-1").unwrap().deleting = true;
    assert_eq!(verbs(&model), [""; 0]);
    assert_eq!(reasons(&model), ["NobodyToTakeOver"]);
}

#[test]
fn lost_slots_are_reassigned_only_after_the_host_allows_forgetting_their_owner() {
    let mut model = TestClusterModel::formed(spec(3, 0));
    let lost = model.id("demo-shard-0-0");
    model.recreate("demo-shard-0-0", false);
    model.gossip();
    for _ in 0..2 {
        let plan = model.plan();
        model.perform(&plan, |action| !matches!(action.verb, Verb::Forget { .. }));
        model.gossip();
    }
    assert_eq!(verbs(&model), [format!("forget {}", lost.short())]);
    assert_eq!(reasons(&model), ["StateNotOk"]);
    model.converge();
    assert_eq!(model.plan().slots_served, 16_384);
}

#[test]
fn a_waiting_primary_without_data_may_start_when_no_member_has_more() {
    let mut model = TestClusterModel::formed(spec(1, 1));
    for pod in ["demo-shard-0-0", "demo-shard-0-1"] {
        model.kill(pod);
    }
    model.pods.get_mut("demo-shard-0-0").unwrap().waits = true;
    assert_eq!(verbs(&model), ["allow-start demo-shard-0-0"]);
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::Auth);
    assert_eq!(verbs(&model), [""; 0], "a replica that requires another password is alive");
    assert!(reasons(&model).contains(&"CredentialsRefused"));
    model.restart("demo-shard-0-1");
    let began_anew = model.process("demo-shard-0-1");
    (began_anew.keys, began_anew.offset_bytes) = (0, 1);
    assert_eq!(verbs(&model), ["allow-start demo-shard-0-0"], "it has nothing of what was in sync");
    model.previous.shards[0].members[1].in_sync = Some(false);
    model.process("demo-shard-0-1").keys = 3;
    let asks = model.plan().actions()[0].presume.approved;
    assert!(asks, "a replica that was not in sync has keys");
    model.process("demo-shard-0-1").keys = 0;
    assert_eq!(verbs(&model), ["allow-start demo-shard-0-0"]);
}

#[test]
fn a_foreign_node_is_reported_and_not_touched() {
    let mut model = TestClusterModel::formed(spec(3, 0));
    let foreign = TestClusterModel::new(spec(1, 0)).pods[&format!("{CLUSTER}-shard-0-0")].clone();
    let mut foreign = foreign.process.unwrap();
    let id = "ff".repeat(20).parse().unwrap();
    let row = foreign.table.remove(&foreign.id).unwrap();
    for pod in model.pods.values_mut() {
        pod.process.as_mut().unwrap().table.insert(id, row.clone());
    }
    assert_eq!(verbs(&model), [""; 0]);
    assert_eq!(reasons(&model), ["ForeignNode"]);
}

#[test]
fn a_member_with_keys_of_its_own_is_not_emptied() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.recreate("demo-shard-0-1", false);
    model.process("demo-shard-0-1").keys = 5;
    for _ in 0..3 {
        let plan = model.plan();
        model.perform(&plan, |_| true);
        model.gossip();
    }
    assert!(reasons(&model).contains(&"HoldsKeys"));
}

/// Returns the value to which the plan sets `cluster-replica-no-failover` of a member that reports `no`, if
/// it does.
fn election_of(model: &TestClusterModel, pod: &str) -> Option<String> {
    election_where(model, pod, "no")
}

/// The same for a member that reports `shown`.
fn election_where(model: &TestClusterModel, pod: &str, shown: &str) -> Option<String> {
    let mut observed = model.observed();
    let member = observed.snapshot.members.iter_mut().find(|member| member.pod == pod).unwrap();
    let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("it answers") };
    facts.settings.insert(crate::NO_FAILOVER.into(), shown.into());
    let plan = crate::plan(CLUSTER, &model.spec, &observed);
    plan.settings.iter().find_map(|action| {
        let Verb::Configure { pod: whose, settings, .. } = &action.verb else { return None };
        settings.get(crate::NO_FAILOVER).filter(|_| whose == pod).cloned()
    })
}

#[test]
fn the_cluster_must_not_elect_a_replica_that_missed_writes_while_it_hung() {
    // Columns: in sync when its primary last answered; data loss policy; the value set if the primary has
    // ended or hangs.
    let rows = [
        (false, DataLoss::Never, [Some("yes"); 2]),
        (true, DataLoss::Never, [None, Some("yes")]),
        (false, DataLoss::Acceptable, [None; 2]),
    ];
    for (was_in_sync, data_loss, expected) in rows {
        for (hangs, expected) in [false, true].into_iter().zip(expected) {
            let mut model = TestClusterModel::formed(spec(3, 1));
            model.spec.data_loss = data_loss;
            model.previous.shards[0].members[1].in_sync = Some(was_in_sync);
            if hangs {
                let primary = model.pods.get_mut("demo-shard-0-0").unwrap();
                primary.silent = Some(UnreachableReason::Timeout);
            } else {
                model.kill("demo-shard-0-0");
            }
            let set = election_of(&model, "demo-shard-0-1");
            assert_eq!(set.as_deref(), expected, "{was_in_sync} {data_loss:?} {hangs}");
        }
    }
}

/// Returns a model in which the primary of the first shard has hung for `for_ms` milliseconds.
fn hung(for_ms: u64, change: impl Fn(&mut TestClusterModel)) -> TestClusterModel {
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.pods.get_mut("demo-shard-0-0").unwrap().silent = Some(UnreachableReason::Timeout);
    model.silence.for_ms = for_ms;
    change(&mut model);
    model
}

#[test]
fn a_primary_that_hangs_is_ended_before_its_replica_takes_over() {
    // At first no replica may be elected. When the majority has marked the primary as failed, its Pod is
    // deleted.
    let mut model = hung(0, |_| {});
    let fenced =
        |model: &TestClusterModel| model.plan().fenced.into_iter().map(|(pod, _)| pod).next();
    assert_eq!(election_of(&model, "demo-shard-0-1").as_deref(), Some("yes"));
    assert_eq!(fenced(&model), None, "the majority still hears it");
    model.gossip();
    assert_eq!(fenced(&model).as_deref(), Some("demo-shard-0-0"));
    assert!(reasons(&model).contains(&"PrimaryHangs"));
    assert_eq!(verbs(&model), [""; 0], "its end comes first");
    // Its Pod is deleted once, and no replica may be elected until the process has ended.
    model.pods.get_mut("demo-shard-0-0").unwrap().deleting = true;
    assert_eq!(fenced(&model), None);
    assert_eq!(election_of(&model, "demo-shard-0-1").as_deref(), Some("yes"));
    model.kill("demo-shard-0-0");
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"]);
    // The primary answers again while it is being ended: its replica, which has marked it as failed, cannot
    // take over before.
    model.restart("demo-shard-0-0");
    assert_eq!(verbs(&model), [""; 0]);
    assert!(reasons(&model).contains(&"CalledFailed"));
    // The same before its Pod is deleted: the process is ended all the same, and no replica may be elected
    // before.
    model.pods.get_mut("demo-shard-0-0").unwrap().deleting = false;
    model.answer_again.push("demo-shard-0-0".into());
    assert_eq!(election_of(&model, "demo-shard-0-1").as_deref(), Some("yes"));
    assert_eq!(fenced(&model).as_deref(), Some("demo-shard-0-0"));
    model.gossip();
    assert_eq!(fenced(&model), None, "no member has marked it as failed");
    assert_eq!(election_of(&model, "demo-shard-0-1"), None);
    model.pods.get_mut("demo-shard-0-0").unwrap().deleting = true;
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 graceful"]);
    // The primary answers again before it is marked as failed: nothing happens.
    let mut model = hung(0, |_| {});
    model.pods.get_mut("demo-shard-0-0").unwrap().silent = None;
    assert_eq!(election_of(&model, "demo-shard-0-1"), None, "the setting was not changed");
}

#[test]
fn a_hanging_primary_is_left_to_the_election_where_it_must_not_be_fenced() {
    type Change = fn(&mut TestClusterModel);
    let rows: [(&str, u64, Change); 7] = [
        ("it did not end in time", 13_000, |_| {}),
        ("its deletion did not succeed", 0, |model| model.silence.is_unfenced = true),
        ("served soon counts more", 0, |model| model.spec.data_loss = DataLoss::Acceptable),
        ("left to the cluster", 0, |model| {
            model.spec.failover.on_pod_death = OnPodDeath::Wait;
        }),
        ("no replica was in sync", 0, |model| {
            model.previous.shards[0].members[1].in_sync = Some(false);
        }),
        ("no majority", 0, |model| {
            model.pods.get_mut("demo-shard-1-0").unwrap().silent = Some(UnreachableReason::Timeout);
        }),
        ("it requires another password", 0, |model| {
            model.pods.get_mut("demo-shard-0-0").unwrap().silent = Some(UnreachableReason::Auth);
        }),
    ];
    for (why, for_ms, change) in rows {
        let mut model = hung(for_ms, change);
        model.gossip();
        assert!(model.plan().fenced.is_empty(), "{why}");
        assert!(!reasons(&model).contains(&"PrimaryHangs"), "{why}");
        if why != "no replica was in sync" {
            assert_eq!(election_of(&model, "demo-shard-0-1"), None, "{why}");
        }
    }
    let mut late = hung(12_999, |_| {});
    late.gossip();
    assert_eq!(late.plan().fenced.len(), 1, "in time");
}

#[test]
fn an_election_that_was_forbidden_is_allowed_again() {
    let again = |model: &TestClusterModel, pod: &str| election_where(model, pod, "yes");
    let mut model = hung(0, |_| {});
    assert_eq!(again(&model, "demo-shard-0-1"), None);
    model.silence.for_ms = 13_000;
    assert_eq!(again(&model, "demo-shard-0-1").as_deref(), Some("no"), "it did not end in time");
    model.pods.get_mut("demo-shard-0-0").unwrap().silent = None;
    assert_eq!(again(&model, "demo-shard-0-1").as_deref(), Some("no"), "it answers again");
    assert_eq!(again(&model, "demo-shard-1-0").as_deref(), Some("no"), "it is primary itself");
    model.kill("demo-shard-0-0");
    assert_eq!(again(&model, "demo-shard-0-1").as_deref(), Some("no"), "its primary has ended");
}

#[test]
fn volumes_of_a_cluster_with_another_number_of_shards_are_not_touched() {
    for (had, desired) in [(3, 4), (3, 2), (2, 3), (4, 2), (1, 3)] {
        let mut model = TestClusterModel::formed(spec(had, 1));
        model.spec = spec(desired, 1);
        model.previous = Default::default();
        assert_eq!(reasons(&model), ["OtherShards"], "{had} {desired}");
        assert_eq!(verbs(&model), [""; 0], "{had} {desired}");
        // For an object that reached the desired state once, a person has moved slots, and healing continues.
        model.previous.formed = true;
        assert!(!reasons(&model).contains(&"OtherShards"), "{had} {desired}");
    }
    let mut model = TestClusterModel::formed(spec(3, 1));
    model.previous = Default::default();
    assert_eq!(reasons(&model), [""; 0]);
    // Only the members of one shard were started; their volumes still name the others.
    model.spec = spec(1, 1);
    model.pods.retain(|pod, _| pod.starts_with("demo-shard-0-"));
    assert_eq!(reasons(&model), ["OtherShards"]);
    assert_ne!(model.plan().stage, crate::ClusterStage::Steady);
}
