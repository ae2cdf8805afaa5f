//! What plans do, told on the model.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tholepin_redis_types::redis_cluster::{Durability, OnPodDeath};
use tholepin_schema::{
    action::{FailoverMode, Verb},
    snapshot::{MemberAnswer, UnreachableReason},
    word::SlotSet,
};

use crate::{
    Next, Outdated, Stage, Template, WaitReason,
    model::{CLUSTER, Model, spec},
};

/// The verbs planned, without what varies: `failover demo-shard-0-1 force`.
fn verbs(model: &Model) -> Vec<String> {
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

fn reasons(model: &Model) -> Vec<&'static str> {
    let mut reasons: Vec<_> = model.plan().reasons().map(WaitReason::as_str).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

#[test]
fn a_cluster_forms_and_then_nothing_is_left_to_do() {
    for (shards, replicas) in [(1, 0), (1, 2), (2, 1), (3, 0), (3, 1), (5, 2)] {
        let model = Model::formed(spec(shards, replicas));
        let plan = model.plan();
        assert_eq!((plan.stage, plan.actions().len()), (Stage::Steady, 0), "{shards} {replicas}");
        assert_eq!(plan.slots_served, 16_384);
        assert_eq!(plan.shards_done(), usize::from(shards));
        let timeouts = model.pods.values().map(|pod| pod.process.as_ref().unwrap().node_timeout_ms);
        assert!(timeouts.into_iter().all(|ms| ms == 5000), "the short timeout must be taken back");
    }
}

#[test]
fn the_first_plan_prepares_everybody_before_they_meet() {
    let model = Model::new(spec(2, 0));
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
fn a_dead_primary_is_replaced_by_its_replica() {
    let mut model = Model::formed(spec(3, 1));
    model.kill("demo-shard-1-0");
    assert_eq!(verbs(&model), ["failover demo-shard-1-1 force"]);
    let plan = model.plan();
    model.perform(&plan, |_| true);
    model.gossip();
    // The process returns with its memory, hears the news and follows.
    model.restart("demo-shard-1-0");
    model.converge();
    assert_eq!(model.plan().shards[1].primary.as_deref(), Some("demo-shard-1-1"));
}

#[test]
fn the_replica_furthest_along_is_promoted_and_the_lowest_id_among_equals() {
    let mut model = Model::formed(spec(3, 2));
    model.kill("demo-shard-0-0");
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"], "the lower id");
    let mut observed = model.observed();
    let first = observed.snapshot.members.iter_mut().find(|it| it.pod == "demo-shard-0-1");
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
fn nobody_is_promoted_who_was_not_in_sync_unless_the_data_is_a_cache() {
    let mut model = Model::formed(spec(3, 1));
    model.kill("demo-shard-0-0");
    model.previous.shards[0].members[1].in_sync = Some(false);
    assert_eq!(verbs(&model), [""; 0]);
    assert!(reasons(&model).contains(&"NoReplicaInSync"));
    // One that holds keys takes over if a person gives up what only the primary has.
    model.process("demo-shard-0-1").keys = 3;
    let approved = |model: &Model| model.plan().actions()[0].presume.approved;
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"]);
    assert!(approved(&model));
    model.spec.durability = Durability::Cache;
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 force"]);
    assert!(!approved(&model));
}

#[test]
fn that_a_replica_was_in_sync_is_known_while_nobody_of_its_shard_answers() {
    // silent with its primary, or while that one answers; whether it is promoted afterwards
    for (with_primary, promoted) in [(true, true), (false, false)] {
        let mut model = Model::formed(spec(3, 1));
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
fn a_link_that_fell_just_now_may_have_fallen_with_the_primary() {
    for (down_s, promoted) in [(1, true), (2, false)] {
        let mut model = Model::formed(spec(3, 1));
        let mut observed = model.observed();
        let replica = observed.snapshot.members.iter_mut().find(|it| it.pod == "demo-shard-0-1");
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
fn a_pod_that_is_not_ready_and_an_open_slot_are_no_cluster_as_wanted() {
    let model = Model::formed(spec(3, 1));
    let told = |change: &dyn Fn(&mut tholepin_schema::snapshot::Member)| {
        let mut observed = model.observed();
        change(&mut observed.snapshot.members[0]);
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        plan.reasons().map(WaitReason::as_str).next()
    };
    let facts = |member: &mut tholepin_schema::snapshot::Member, uptime_s: u64| {
        member.kubernetes = serde_json::json!({"ready": false});
        let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("it answers") };
        facts.uptime_s = Some(uptime_s);
    };
    assert_eq!(told(&|member| facts(member, 9)), None, "it has not been probed yet");
    assert_eq!(told(&|member| facts(member, 10)), Some("PodNotReady"));
    let slot = serde_json::json!({"slot": 7, "direction": "migrating", "peer": "ab".repeat(20)});
    let open = |member: &mut tholepin_schema::snapshot::Member| {
        let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("it answers") };
        facts.open_slots = [serde_json::from_value(slot.clone()).unwrap()].into();
    };
    assert_eq!(told(&open), Some("SlotOpen"));
}

#[test]
fn a_silent_primary_is_left_alone() {
    // One that wants another password is no process that hangs.
    let rows = [
        (UnreachableReason::Timeout, "PrimarySilent"),
        (UnreachableReason::Auth, "CredentialsRefused"),
    ];
    for (reason, said) in rows {
        let mut model = Model::formed(spec(3, 1));
        model.pods.get_mut("demo-shard-0-0").unwrap().silent = Some(reason);
        model.gossip();
        assert_eq!(verbs(&model), [""; 0], "{reason:?}");
        assert!(reasons(&model).contains(&said), "{reason:?}");
    }
    let silent = WaitReason::PrimarySilent { pod: "p".into(), slots: "0-5460".into() };
    assert!(silent.to_string().contains("`p` of the slots 0-5460"), "{silent}");
}

#[test]
fn a_silent_replica_is_waited_for() {
    let mut model = Model::formed(spec(3, 1));
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::Timeout);
    model.gossip();
    assert_eq!(verbs(&model), [""; 0]);
    assert_eq!(reasons(&model), ["PodsNotAnswering"]);
}

#[test]
fn the_spec_can_leave_it_to_the_cluster() {
    let mut model = Model::formed(spec(3, 1));
    model.spec.failover.on_pod_death = OnPodDeath::Wait;
    model.kill("demo-shard-0-0");
    assert_eq!(verbs(&model), [""; 0]);
    assert!(reasons(&model).contains(&"LeftToTheCluster"));
}

#[test]
fn without_a_majority_only_deaths_allow_a_takeover() {
    let mut model = Model::formed(spec(3, 1));
    model.kill("demo-shard-0-0");
    model.kill("demo-shard-1-0");
    assert_eq!(verbs(&model), ["failover demo-shard-0-1 takeover"], "one at a time");
    assert!(reasons(&model).contains(&"OtherShardFirst"));
    model.pods.get_mut("demo-shard-1-0").unwrap().silent = Some(UnreachableReason::Timeout);
    assert_eq!(verbs(&model), [""; 0], "it may be alive behind a cut network");
    assert!(reasons(&model).contains(&"NoMajority"));
}

/// All primaries are gone at once with their Pods and their memory, and fresh Pods answer in their
/// seats: before they have met anybody, and after. The replicas take over one after the other.
#[test]
fn replicas_of_primaries_that_vanished_together_take_over_one_by_one() {
    let cases = [(1, 1, 1), (2, 1, 1), (2, 1, 2), (3, 1, 2), (3, 1, 3), (3, 2, 3), (5, 2, 5)];
    for (shards, replicas, lost) in cases {
        for met in [false, true] {
            let mut model = Model::formed(spec(shards, replicas));
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
fn a_primary_hands_over_before_its_pod_goes() {
    let mut model = Model::formed(spec(3, 1));
    model.pods.get_mut("demo-shard-2-0").unwrap().deleting = true;
    assert_eq!(verbs(&model), ["failover demo-shard-2-1 graceful"]);
    model.pods.get_mut("demo-shard-2-1").unwrap().deleting = true;
    assert_eq!(verbs(&model), [""; 0]);
    assert_eq!(reasons(&model), ["NobodyToTakeOver"]);
}

#[test]
fn a_recreated_pod_joins_as_replica_and_its_old_node_is_forgotten() {
    let mut model = Model::formed(spec(3, 1));
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
    let mut model = Model::formed(spec(3, 1));
    let id = model.id("demo-shard-0-1");
    model.recreate("demo-shard-0-1", true);
    model.gossip();
    model.converge();
    assert_eq!(model.id("demo-shard-0-1"), id);
}

#[test]
fn all_pods_at_new_addresses_find_each_other() {
    let mut model = Model::formed(spec(3, 1));
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
fn a_forgotten_node_is_introduced_by_those_who_forgot_it() {
    let mut model = Model::formed(spec(3, 1));
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
fn slots_that_the_owner_dropped_go_back_to_it() {
    let mut model = Model::formed(spec(3, 1));
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
        "nobody knows"
    );
    model.converge();
}

#[test]
fn slots_are_given_only_when_every_pod_has_said_what_it_owns() {
    let mut model = Model::new(spec(2, 1));
    model.kill("demo-shard-1-1");
    assert!(!verbs(&model).iter().any(|verb| verb.starts_with("assign")));
    assert_eq!(reasons(&model), ["PodsNotAnswering"]);
}

#[test]
fn lost_slots_are_not_given_away_until_the_host_lets_their_owner_be_forgotten() {
    let mut model = Model::formed(spec(3, 0));
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
fn a_primary_that_waits_with_nothing_to_load_is_let_start_when_nobody_has_more() {
    let mut model = Model::formed(spec(1, 1));
    for pod in ["demo-shard-0-0", "demo-shard-0-1"] {
        model.kill(pod);
    }
    model.pods.get_mut("demo-shard-0-0").unwrap().waits = true;
    assert_eq!(verbs(&model), ["allow-start demo-shard-0-0"]);
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::Auth);
    assert_eq!(verbs(&model), [""; 0], "a replica that wants another password lives");
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
fn a_stranger_in_the_cluster_is_reported_and_left_alone() {
    let mut model = Model::formed(spec(3, 0));
    let foreign = Model::new(spec(1, 0)).pods[&format!("{CLUSTER}-shard-0-0")].clone();
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
    let mut model = Model::formed(spec(3, 1));
    model.recreate("demo-shard-0-1", false);
    model.process("demo-shard-0-1").keys = 5;
    for _ in 0..3 {
        let plan = model.plan();
        model.perform(&plan, |_| true);
        model.gossip();
    }
    assert!(reasons(&model).contains(&"HoldsKeys"));
}

#[test]
fn each_setting_of_the_spec_is_an_action_of_its_own_and_holds_nothing_up() {
    let mut model = Model::formed(spec(1, 1));
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
    assert_eq!((plan.stage, plan.actions().len()), (Stage::Steady, 0));
    let ids: Vec<_> = plan.settings.iter().map(|action| action.id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["set:demo-shard-0-0:slowlog-max-len"], "`hz` waits for a restart");
    // What a member does not tell is not set again and again.
    assert_eq!(model.plan().settings, []);
}

/// How the Pods of a cluster of two shards compare with these templates, each of one revision.
fn outdated(pods: [&str; 4], sets: [Option<&str>; 2]) -> Outdated {
    outdated_of(&Model::formed(spec(2, 1)), &pods, &sets)
}

fn outdated_of(model: &Model, pods: &[&str], sets: &[Option<&str>]) -> Outdated {
    let mut observed = model.observed();
    for (member, revision) in observed.snapshot.members.iter_mut().zip(pods) {
        member.kubernetes = json!({"labels": {"controller-revision-hash": revision}});
    }
    let template = |(shard, revision): (usize, &Option<&str>)| Template {
        set: format!("{CLUSTER}-shard-{shard}"),
        revision: revision.map(Into::into),
    };
    observed.templates = sets.iter().enumerate().map(template).collect();
    crate::plan(CLUSTER, &model.spec, &observed).outdated
}

#[test]
fn pods_of_an_older_template_are_counted_and_a_replica_comes_first() {
    let some =
        |count: usize, next: &str| Outdated::Some { count, of: 4, next: Next::Pod(next.into()) };
    let new = [Some("b0"), Some("b1")];
    let cases = [
        (["b0", "b0", "b1", "b1"], new, Outdated::Nobody),
        (["b0", "a0", "b1", "a1"], new, some(2, "demo-shard-0-1")),
        (["a0", "b0", "b1", "a1"], new, some(2, "demo-shard-1-1")),
        (["a0", "b0", "b1", "b1"], new, some(1, "demo-shard-0-0")),
        (["", "b0", "b1", "b1"], new, some(1, "demo-shard-0-0")),
        (["a0", "b0", "b1", "b1"], [Some("b0"), None], Outdated::Unknown),
    ];
    for (pods, sets, expected) in cases {
        assert_eq!(outdated(pods, sets), expected, "{pods:?} {sets:?}");
    }
    assert_eq!(Model::formed(spec(1, 0)).plan().outdated, Outdated::Unknown, "nothing is known");
}

#[test]
fn none_is_named_while_one_is_missing_nor_the_only_copy() {
    let some = |next: Next| Outdated::Some { count: 1, of: 2, next };
    let mut model = Model::formed(spec(1, 1));
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::NotRunning);
    assert_eq!(outdated_of(&model, &["a", "b"], &[Some("b")]), some(Next::NotYet));

    let mut model = Model::formed(spec(1, 0));
    let only = "demo-shard-0-0".to_string();
    let some = |next: Next| Outdated::Some { count: 1, of: 1, next };
    let copy = some(Next::OnlyCopy(only.clone()));
    assert_eq!(outdated_of(&model, &["a"], &[Some("b")]), copy);
    model.spec.storage = serde_json::from_value(serde_json::json!({"size": "1Gi"})).unwrap();
    assert_eq!(outdated_of(&model, &["a"], &[Some("b")]), some(Next::Pod(only)));
}

#[test]
fn what_kubernetes_says_of_a_pod_that_does_not_run_is_told() {
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
        let mut model = Model::formed(spec(1, 1));
        model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(reason);
        let mut observed = model.observed();
        observed.snapshot.members[1].kubernetes = kubernetes;
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        let pod = "demo-shard-0-1".to_string();
        let expected = expected.map(|why| WaitReason::PodDoesNotRun { pod, why: why.into() });
        let told = plan.reasons().find(|it| it.as_str() == "PodDoesNotRun");
        assert_eq!(told, expected.as_ref(), "{reason:?}");
        assert!(plan.reasons().all(|it| it.is_fault() == told.is_some()), "{reason:?}");
    }
}

#[test]
fn a_template_tells_its_revision_once_its_controller_has_seen_it() {
    let set = |observed: i64| {
        json!({"metadata": {"name": "s", "generation": 2},
            "status": {"observedGeneration": observed, "updateRevision": "s-1"}})
    };
    assert_eq!(Template::of(&set(2)).unwrap().revision.as_deref(), Some("s-1"));
    assert_eq!(Template::of(&set(1)).unwrap().revision, None);
    assert_eq!(Template::of(&json!({"metadata": {"name": "s"}})).unwrap().revision, None);
    assert_eq!(Template::of(&json!({})), None);
}

#[test]
fn a_server_that_does_not_start_is_quoted() {
    let mut model = Model::new(spec(1, 1));
    model.kill("demo-shard-0-1");
    let mut observed = model.observed();
    let ended = json!({"exitCode": 1, "message": "it cannot\n"});
    observed.snapshot.members[1].kubernetes = json!({"lastState": {"terminated": ended}});
    let forming = crate::plan(CLUSTER, &model.spec, &observed);
    let formed = Model::formed(spec(1, 1)).observed().snapshot;
    (observed.snapshot.members[0], observed.snapshot.view) =
        (formed.members[0].clone(), formed.view);
    let formed = crate::plan(CLUSTER, &model.spec, &observed);
    for plan in [forming, formed] {
        let reason = plan.shards[0].decision.reason().unwrap();
        assert!(reason.is_fault() && format!("{reason}").contains("`it cannot`"), "{reason}");
    }
}

#[test]
fn a_cluster_that_is_not_well_names_the_slots_and_their_owner() {
    let mut model = Model::formed(spec(2, 1));
    model.pods.get_mut("demo-shard-1-0").unwrap().silent = Some(UnreachableReason::Timeout);
    model.gossip();
    let plan = model.plan();
    let text = format!("{}", plan.shards[0].decision.reason().unwrap());
    let expected = "the slots 8192-16383 belong to `demo-shard-1-0`, which it does not reach";
    assert!(text.contains(expected), "{text}");

    let few = SlotSet::from_iter(["5-6".parse().unwrap()]);
    let scattered = (0..2000).step_by(2).map(|slot: u16| format!("{slot}").parse().unwrap());
    let cases = [
        (few, "the slots 5-6 belong to nobody it knows of"),
        // The text is bounded whatever the slots are.
        (SlotSet::from_iter(scattered), "66 68 and more (1000 in all) belong to nobody"),
    ];
    for (dropped, expected) in cases {
        let mut model = Model::formed(spec(2, 0));
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
fn slots_of_an_owner_that_lives_are_not_lost() {
    let mut model = Model::formed(spec(3, 0));
    let (id, pod) = (model.id("demo-shard-1-0"), model.pods["demo-shard-1-0"].clone());
    // The StatefulSet was orphaned: its Pod answers the others, and is no member.
    model.pods.remove("demo-shard-1-0");
    let reason = model.plan().shards[1].decision.reason().cloned().unwrap();
    let address = pod.address;
    let slots = "5462-10922".into();
    assert_eq!(reason, WaitReason::OwnerNoMember { node: id, address, slots });
    model.gossip();
    assert!(reasons(&model).contains(&"SlotsLost"), "nobody reaches it any more");
}

/// What may happen to a cluster between two looks.
#[derive(Clone, Debug)]
enum Event {
    /// Some of the planned actions are performed, those whose bit is set.
    Act(u64),
    /// News spreads.
    Gossip,
    /// The process of the n-th Pod ends.
    Kill(usize),
    /// It starts again.
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

    /// Wherever formation was dropped, and whoever died meanwhile, it ends where it should; on the
    /// way no plan asks for what a plan must not ask for (the model and `Model::plan` check that).
    #[test]
    fn formation_goes_on_from_any_state(
        (shards, replicas) in prop_oneof![Just((1, 1)), Just((2, 1)), Just((3, 1)), Just((3, 2))],
        events in prop::collection::vec(event(), 0..24),
    ) {
        let mut model = Model::new(spec(shards, replicas));
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
        let mut model = Model::formed(spec(3, 2));
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

#[test]
fn a_plan_that_asks_too_much_is_found_out() {
    let mut model = Model::formed(spec(3, 1));
    model.kill("demo-shard-1-0");
    let observed = model.observed();
    let mut plan = model.plan();
    let crate::Decision::Act(actions) = &mut plan.shards[1].decision else { panic!("{plan:?}") };
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
        "3 failovers at once",
        "is no replica of",
        "would be forgotten",
        "which nobody knows",
        "`meet` goes to `demo-shard-1-0`",
        "claimed by another",
    ];
    for text in expected {
        assert!(violations.iter().any(|it| it.contains(text)), "{text}: {violations:#?}");
    }
}

#[test]
fn a_pod_of_an_older_template_is_replaced_only_if_it_never_ran_or_answered() {
    let stuck = |change: &dyn Fn(&mut Model, &mut crate::Observed)| -> Vec<String> {
        let mut model = Model::new(spec(1, 1));
        model.kill("demo-shard-0-1");
        let mut observed = model.observed();
        for member in &mut observed.snapshot.members {
            member.kubernetes = json!({"labels": {"controller-revision-hash": "old"}});
        }
        let (set, revision) = (format!("{CLUSTER}-shard-0"), Some("new".into()));
        observed.templates = [Template { set, revision }].into();
        change(&mut model, &mut observed);
        let plan = crate::plan(CLUSTER, &model.spec, &observed);
        plan.stuck.into_iter().map(|(pod, _)| pod).collect()
    };
    assert_eq!(stuck(&|_, _| {}), ["demo-shard-0-1"]);
    assert_eq!(stuck(&|_, seen| seen.snapshot.members[1].running = true), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.snapshot.members[1].deleting = true), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.templates[0].revision = Some("old".into())), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.templates.clear()), [""; 0], "nobody tells");
    let answered = |_: &mut Model, seen: &mut crate::Observed| {
        let formed = Model::formed(spec(1, 1));
        seen.previous = formed.previous;
    };
    assert_eq!(stuck(&answered), [""; 0], "it was a member");
    let ran = |container: &str, last: Value| {
        stuck(&|model, seen| {
            answered(model, seen);
            let member = &mut seen.snapshot.members[1];
            member.container_id = container.into();
            member.kubernetes["lastState"] = last.clone();
        })
    };
    let terminated = json!({"terminated": {"containerID": "c-0"}});
    assert_eq!(ran("", json!({})), ["demo-shard-0-1"], "another Pod of this name was a member");
    assert_eq!(ran("", Value::Null), ["demo-shard-0-1"]);
    assert_eq!(ran("", terminated), [""; 0], "its container ran");
    assert_eq!(ran("c-1", json!({})), [""; 0], "its container ran");
}
