//! Formation of a cluster, and removal of nodes.

use std::time::Duration;

use tholepin_schema::{
    action::{ActionOutcome, Verb},
    primitives::{ConfigEpoch, Role, SlotRange},
};

use crate::server::{TestServers, node, pod};
use tholepin_core::{RespNode, port::Redis};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_formed_and_serves_a_write_and_a_read() {
    let fleet = TestServers::cluster().await;
    let snapshot = fleet.observe().await;
    assert_eq!(snapshot.view.len(), 6);
    assert_eq!(snapshot.primaries().count(), 3);
    let quorum = snapshot.quorum();
    assert_eq!((quorum.voters, quorum.heard, quorum.agreeing), (3, 3, 3));
    assert_eq!(snapshot.replicas_of(node(&snapshot, 1)).count(), 1);
    let facts = snapshot.member("pod-4").unwrap().facts().unwrap();
    assert_eq!(facts.role, Some(Role::Replica));
    assert_eq!(facts.settings["cluster-node-timeout"], "1000");
    assert!(facts.errors.is_empty(), "{:?}", facts.errors);
    assert!(facts.run_id.is_some() && facts.uptime_s.is_some() && facts.keys == Some(0));

    // Checks the result with Redis' own tool.
    let entry = fleet.members.members[0].address.unwrap().to_string();
    let check = std::process::Command::new("redis-cli")
        .args(["--no-auth-warning", "-a", "secret", "--cluster", "check", &entry])
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    // The key `a` is in slot 15495, which the third primary owns.
    let replies = fleet.pipeline(2, &["SET a 1", "GET a"]).await.unwrap();
    assert_eq!(replies[0].nodes, [RespNode::Status("OK".into())]);
    assert_eq!(replies[1].nodes, [RespNode::Bulk(b"1".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_whose_effect_is_there_changes_nothing() {
    let fleet = TestServers::cluster().await;
    let snapshot = fleet.observe().await;
    let epochs = snapshot.member("pod-0").unwrap().facts().unwrap().cluster.as_ref().unwrap().epoch;
    let outcomes = fleet
        .act(vec![
            Verb::SetConfigEpoch { pod: pod(0), epoch: epochs },
            Verb::AssignSlots {
                pod: pod(0),
                slots: snapshot.view[&node(&snapshot, 0)].slots.clone(),
            },
            Verb::Replicate { pod: pod(3), primary: node(&snapshot, 0) },
            Verb::Failover {
                pod: pod(0),
                primary: node(&snapshot, 3),
                mode: tholepin_schema::action::FailoverMode::Graceful,
            },
        ])
        .await;
    assert!(outcomes.iter().all(ActionOutcome::is_done), "{outcomes:?}");
    assert_eq!(fleet.observe().await.view, snapshot.view);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_redis_keeps_its_text() {
    let fleet = TestServers::cluster().await;
    let snapshot = fleet.observe().await;
    let outcomes = fleet
        .act(vec![
            Verb::SetConfigEpoch { pod: pod(0), epoch: ConfigEpoch(99) },
            Verb::AssignSlots { pod: pod(1), slots: SlotRange::ALL.into() },
            Verb::Replicate { pod: pod(2), primary: node(&snapshot, 0) },
            Verb::Forget { node: node(&snapshot, 5) },
            Verb::Meet { pod: pod(4), with: "pod-99".into() },
        ])
        .await;
    let reasons: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let ActionOutcome::Failed { reason, may_have_run: false, .. } = outcome else {
                panic!("{outcome:?}")
            };
            reason.as_str()
        })
        .collect();
    assert_eq!(reasons, ["Refused", "Refused", "Refused", "Conflict", "NotFound"]);
    let ActionOutcome::Failed { message, .. } = &outcomes[1] else { panic!() };
    assert!(message.contains("pod-1") && message.contains("busy"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_forgotten_by_all_and_stays_so() {
    let mut fleet = TestServers::cluster().await;
    let snapshot = fleet.observe().await;
    let dead = node(&snapshot, 5);
    fleet.servers[5].kill();
    fleet.members.members[5].running = false;
    let failed = |snapshot: &tholepin_schema::snapshot::Snapshot| {
        snapshot.view.get(&dead).is_some_and(|row| row.is_failing())
    };
    fleet.see("the dead replica is failing", failed).await;
    fleet.done(vec![Verb::Forget { node: dead }]).await;
    let known = |snapshot: &tholepin_schema::snapshot::Snapshot| {
        snapshot.members.iter().any(|member| snapshot.row_seen_by(member, dead).is_some())
    };
    // Gossip would add it again within a few pings, which are at most half a node timeout apart.
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        assert!(!known(&fleet.observe().await), "a member knows the forgotten node again");
    }
    fleet.done(vec![Verb::Forget { node: dead }]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_at_run_time() {
    let fleet = TestServers::start(1, true, None);
    let settings = [("cluster-node-timeout".to_owned(), "500".to_owned())].into();
    fleet.done(vec![Verb::Configure { pod: pod(0), settings, temporary: false }]).await;
    let settings = ["hz".to_owned(), "requirepass".to_owned()];
    let snapshot = fleet.port.observe(&fleet.members, &settings).await;
    let facts = snapshot.members[0].facts().unwrap();
    assert_eq!(facts.settings["cluster-node-timeout"], "500");
    assert_eq!(facts.settings["hz"], "10");
    assert!(!facts.settings.contains_key("requirepass"), "a secret must not be read");
}
