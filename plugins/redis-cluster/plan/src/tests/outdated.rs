//! Pods of an older template: counted, reported, and replaced if they never ran or never answered.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde_json::{Value, json};
use tholepin_schema::snapshot::UnreachableReason;

use crate::{
    OutdatedPods, OutdatedRedisPodChoice, StatefulSetTemplateRevision,
    test_cluster::{CLUSTER, TestClusterModel, spec},
};

fn outdated(pods: [&str; 4], sets: [Option<&str>; 2]) -> OutdatedPods {
    outdated_of(&TestClusterModel::formed(spec(2, 1)), &pods, &sets)
}

fn outdated_of(model: &TestClusterModel, pods: &[&str], sets: &[Option<&str>]) -> OutdatedPods {
    let mut observed = model.observed();
    for (member, revision) in observed.snapshot.members.iter_mut().zip(pods) {
        member.kubernetes = json!({"labels": {"controller-revision-hash": revision}});
    }
    let template = |(shard, revision): (usize, &Option<&str>)| StatefulSetTemplateRevision {
        set: format!("{CLUSTER}-shard-{shard}"),
        revision: revision.map(Into::into),
    };
    observed.templates = sets.iter().enumerate().map(template).collect();
    crate::plan(CLUSTER, &model.spec, &observed).outdated
}

#[test]
fn pods_of_an_older_template_are_counted_and_a_replica_comes_first() {
    let some = |count: usize, next: &str| OutdatedPods::Some {
        count,
        of: 4,
        next: OutdatedRedisPodChoice::Pod(next.into()),
    };
    let new = [Some("b0"), Some("b1")];
    let cases = [
        (["b0", "b0", "b1", "b1"], new, OutdatedPods::UpToDate),
        (["b0", "a0", "b1", "a1"], new, some(2, "demo-shard-0-1")),
        (["a0", "b0", "b1", "a1"], new, some(2, "demo-shard-1-1")),
        (["a0", "b0", "b1", "b1"], new, some(1, "demo-shard-0-0")),
        (["", "b0", "b1", "b1"], new, some(1, "demo-shard-0-0")),
        (["a0", "b0", "b1", "b1"], [Some("b0"), None], OutdatedPods::Unknown),
    ];
    for (pods, sets, expected) in cases {
        assert_eq!(outdated(pods, sets), expected, "{pods:?} {sets:?}");
    }
    assert_eq!(
        TestClusterModel::formed(spec(1, 0)).plan().outdated,
        OutdatedPods::Unknown,
        "nothing is known"
    );
}

#[test]
fn no_pod_is_named_while_one_is_missing_or_has_the_only_copy() {
    let some = |next: OutdatedRedisPodChoice| OutdatedPods::Some { count: 1, of: 2, next };
    let mut model = TestClusterModel::formed(spec(1, 1));
    model.pods.get_mut("demo-shard-0-1").unwrap().silent = Some(UnreachableReason::NotRunning);
    assert_eq!(
        outdated_of(&model, &["a", "b"], &[Some("b")]),
        some(OutdatedRedisPodChoice::NotYet)
    );

    let mut model = TestClusterModel::formed(spec(1, 0));
    let only = "demo-shard-0-0".to_string();
    let some = |next: OutdatedRedisPodChoice| OutdatedPods::Some { count: 1, of: 1, next };
    let copy = some(OutdatedRedisPodChoice::OnlyCopy(only.clone()));
    assert_eq!(outdated_of(&model, &["a"], &[Some("b")]), copy);
    model.spec.storage = serde_json::from_value(serde_json::json!({"size": "1Gi"})).unwrap();
    assert_eq!(outdated_of(&model, &["a"], &[Some("b")]), some(OutdatedRedisPodChoice::Pod(only)));
}

#[test]
fn a_template_has_a_revision_once_its_controller_has_seen_it() {
    let set = |observed: i64| {
        json!({"metadata": {"name": "s", "generation": 2},
            "status": {"observedGeneration": observed, "updateRevision": "s-1"}})
    };
    assert_eq!(StatefulSetTemplateRevision::of(&set(2)).unwrap().revision.as_deref(), Some("s-1"));
    assert_eq!(StatefulSetTemplateRevision::of(&set(1)).unwrap().revision, None);
    assert_eq!(
        StatefulSetTemplateRevision::of(&json!({"metadata": {"name": "s"}})).unwrap().revision,
        None
    );
    assert_eq!(StatefulSetTemplateRevision::of(&json!({})), None);
}

#[test]
fn a_pod_of_an_older_template_is_replaced_only_if_it_never_ran_or_answered() {
    let stuck =
        |change: &dyn Fn(&mut TestClusterModel, &mut crate::ObservedRedisCluster)| -> Vec<String> {
            let mut model = TestClusterModel::new(spec(1, 1));
            model.kill("demo-shard-0-1");
            let mut observed = model.observed();
            for member in &mut observed.snapshot.members {
                member.kubernetes = json!({"labels": {"controller-revision-hash": "old"}});
            }
            let (set, revision) = (format!("{CLUSTER}-shard-0"), Some("new".into()));
            observed.templates = [StatefulSetTemplateRevision { set, revision }].into();
            change(&mut model, &mut observed);
            let plan = crate::plan(CLUSTER, &model.spec, &observed);
            plan.stuck.into_iter().map(|(pod, _)| pod).collect()
        };
    assert_eq!(stuck(&|_, _| {}), ["demo-shard-0-1"]);
    assert_eq!(stuck(&|_, seen| seen.snapshot.members[1].running = true), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.snapshot.members[1].deleting = true), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.templates[0].revision = Some("old".into())), [""; 0]);
    assert_eq!(stuck(&|_, seen| seen.templates.clear()), [""; 0], "no template is known");
    let answered = |_: &mut TestClusterModel, seen: &mut crate::ObservedRedisCluster| {
        let formed = TestClusterModel::formed(spec(1, 1));
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
