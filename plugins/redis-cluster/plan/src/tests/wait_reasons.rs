//! The reasons reported for a cluster that is not in the desired state.

use alloc::{format, string::ToString};

use serde_json::json;
use tholepin_schema::{
    primitives::SlotSet,
    snapshot::{MemberAnswer, UnreachableReason},
};

use super::reasons;
use crate::{
    ClusterPlanWaitReason, ClusterStage,
    test_cluster::{CLUSTER, TestClusterModel, spec},
};

#[test]
fn a_pod_that_is_not_ready_or_an_open_slot_is_a_fault() {
    let model = TestClusterModel::formed(spec(3, 1));
    let reported = |change: &dyn Fn(&mut tholepin_schema::snapshot::Member)| {
        let mut observed = model.observed();
        change(&mut observed.snapshot.members[0]);
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        plan.reasons().map(ClusterPlanWaitReason::as_str).next()
    };
    let facts = |member: &mut tholepin_schema::snapshot::Member, uptime_s: u64| {
        member.kubernetes = serde_json::json!({"ready": false});
        let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("it answers") };
        facts.uptime_s = Some(uptime_s);
    };
    assert_eq!(reported(&|member| facts(member, 9)), None, "it has not been probed yet");
    assert_eq!(reported(&|member| facts(member, 10)), Some("PodNotReady"));
    let slot = serde_json::json!({"slot": 7, "direction": "migrating", "peer": "ab".repeat(20)});
    let open = |member: &mut tholepin_schema::snapshot::Member| {
        let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("it answers") };
        facts.open_slots = [serde_json::from_value(slot.clone()).unwrap()].into();
    };
    assert_eq!(reported(&open), Some("SlotOpen"));
}

#[test]
fn the_kubernetes_message_about_a_pod_that_does_not_run_is_reported() {
    let waiting = |reason: &str| serde_json::json!({"state": {"waiting": {"reason": reason, "message": "m"}}});
    let unplaced =
        serde_json::json!({"unplaced": "0/3 nodes are available: 3 Insufficient memory."});
    let rows = [
        (UnreachableReason::NotRunning, waiting("ErrImagePull"), Some("ErrImagePull: m")),
        (
            UnreachableReason::NoAddress,
            unplaced,
            Some("0/3 nodes are available: 3 Insufficient memory."),
        ),
        (UnreachableReason::NotRunning, waiting("ContainerCreating"), None),
        (UnreachableReason::Timeout, waiting("ErrImagePull"), None),
    ];
    for (reason, kubernetes, expected) in rows {
        let mut model = TestClusterModel::formed(spec(1, 1));
        model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(reason);
        let mut observed = model.observed();
        observed.snapshot.members[1].kubernetes = kubernetes;
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        let pod = "demo-shard-0-1".to_string();
        let expected =
            expected.map(|why| ClusterPlanWaitReason::PodDoesNotRun { pod, why: why.into() });
        let reported = plan.reasons().find(|reason| reason.as_str() == "PodDoesNotRun");
        assert_eq!(reported, expected.as_ref(), "{reason:?}");
        assert!(plan.reasons().all(|other| other.is_fault() == reported.is_some()), "{reason:?}");
    }
}

#[test]
fn the_reason_for_a_missing_pod_or_volume_is_reported() {
    let mut model = TestClusterModel::formed(spec(1, 1));
    let obstacle = |observed: &mut crate::ObservedRedisCluster| {
        observed.obstacles.insert("demo-shard-0-1".into(), "class `x` not found".into());
    };
    let reported = |observed: &crate::ObservedRedisCluster| {
        let plan = crate::plan(CLUSTER, &spec(1, 1), observed);
        let mut reasons = plan.reasons().map(ToString::to_string);
        reasons.find(|text| text.contains("does not run")).unwrap_or_default()
    };
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::NoAddress);
    let mut unplaced = model.observed();
    unplaced.snapshot.members[1].kubernetes = json!({"unplaced": "unbound PersistentVolumeClaims"});
    obstacle(&mut unplaced);
    assert!(reported(&unplaced).ends_with("unbound PersistentVolumeClaims (class `x` not found)"));
    model.pods.remove("demo-shard-0-1");
    let mut missing = model.observed();
    assert_eq!(reported(&missing), "", "it will come");
    obstacle(&mut missing);
    assert_eq!(reported(&missing), "the Pod `demo-shard-0-1` does not run: class `x` not found");
}

#[test]
fn a_server_that_does_not_start_is_quoted() {
    let mut model = TestClusterModel::new(spec(1, 1));
    model.kill("demo-shard-0-1");
    let mut observed = model.observed();
    let ended = json!({"exitCode": 1, "message": "it cannot\n"});
    observed.snapshot.members[1].kubernetes = json!({"lastState": {"terminated": ended}});
    let forming = crate::plan(CLUSTER, &model.spec, &observed);
    let formed = TestClusterModel::formed(spec(1, 1)).observed().snapshot;
    (observed.snapshot.members[0], observed.snapshot.view) =
        (formed.members[0].clone(), formed.view);
    let formed = crate::plan(CLUSTER, &model.spec, &observed);
    for plan in [forming, formed] {
        let reason = plan.shards[0].decision.reason().unwrap();
        assert!(reason.is_fault() && format!("{reason}").contains("`it cannot`"), "{reason}");
    }
}

#[test]
fn a_member_that_is_not_ok_reports_slots_and_their_owner() {
    let mut model = TestClusterModel::formed(spec(2, 1));
    model.pods.get_mut("demo-shard-1-0").unwrap().silent = Some(UnreachableReason::Timeout);
    model.gossip();
    let plan = model.plan();
    let text = format!("{}", plan.shards[0].decision.reason().unwrap());
    let expected = "the slots 8192-16383 belong to `demo-shard-1-0`, which it does not reach";
    assert!(text.contains(expected), "{text}");

    let few = SlotSet::from_iter(["5-6".parse().unwrap()]);
    let scattered = (0..2000).step_by(2).map(|slot: u16| format!("{slot}").parse().unwrap());
    let cases = [
        (few, "the slots 5-6 have no owner that it knows"),
        // The text is bounded, whatever the slots are.
        (SlotSet::from_iter(scattered), "66 68 and more (1000 in total) have no owner"),
    ];
    for (dropped, expected) in cases {
        let mut model = TestClusterModel::formed(spec(2, 0));
        for pod in model.pods.values_mut() {
            for row in pod.process.as_mut().unwrap().table.values_mut() {
                row.slots = row.slots.difference(&dropped);
            }
        }
        let text = format!("{}", model.plan().shards[1].decision.reason().unwrap());
        assert!(text.contains(expected) && text.len() < 250, "{text}");
    }
}

#[test]
fn slots_of_an_owner_that_is_alive_are_not_lost() {
    let mut model = TestClusterModel::formed(spec(3, 0));
    let (id, pod) = (model.id("demo-shard-1-0"), model.pods["demo-shard-1-0"].clone());
    // The StatefulSet was orphaned: its Pod answers the others but is not a member.
    model.pods.remove("demo-shard-1-0");
    let reason = model.plan().shards[1].decision.reason().cloned().unwrap();
    let address = pod.address;
    let slots = "5462-10922".into();
    assert_eq!(reason, ClusterPlanWaitReason::OwnerNoMember { node: id, address, slots });
    model.gossip();
    assert!(reasons(&model).contains(&"SlotsLost"), "no member reaches it any more");
}

#[test]
fn slots_that_their_owner_disowns_are_reported_with_the_fix() {
    let mut model = TestClusterModel::formed(spec(3, 1));
    let (first, third) = (model.id("demo-shard-0-0"), model.id("demo-shard-2-0"));
    let slot: SlotSet = "12001".parse::<tholepin_schema::primitives::SlotRange>().unwrap().into();
    let table = &mut model.process("demo-shard-2-0").table;
    let own = table.get_mut(&third).unwrap();
    own.slots = own.slots.difference(&slot);
    let other = table.get_mut(&first).unwrap();
    other.slots = other.slots.union(&slot);
    let reason = model.plan().shards[2].decision.reason().cloned().unwrap();
    assert!(reason.is_fault());
    let text = reason.to_string();
    for output in
        ["the slots 12001", "`demo-shard-2-0`", "itself names `demo-shard-0-0`", &third.to_string()]
    {
        assert!(text.contains(output), "no {output} in {text}");
    }
    assert_eq!(model.plan().stage, ClusterStage::Healing);
}
