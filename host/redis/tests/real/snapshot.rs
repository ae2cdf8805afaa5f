//! Snapshots with members that hang, have ended, refuse the credentials or are not in cluster mode.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tholepin_core::port::{Redis, RedisCredentials};
use tholepin_schema::{
    action::Verb,
    snapshot::{MemberAnswer, Snapshot, UnreachableReason},
};

use crate::server::{TestServers, node, pod};

fn reason(snapshot: &Snapshot, index: usize) -> Option<UnreachableReason> {
    match &snapshot.members[index].answer {
        MemberAnswer::Answered(_) => None,
        MemberAnswer::Unreachable { reason, .. } => Some(*reason),
        MemberAnswer::Other => panic!("an answer that is not known"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_member_delays_the_snapshot_by_its_deadline_only() {
    let fleet = TestServers::start(3, true, None);
    fleet.observe().await;
    fleet.servers[1].signal(Signal::SIGSTOP);
    let since = Instant::now();
    let snapshot = fleet.observe().await;
    let took = since.elapsed();
    fleet.servers[1].signal(Signal::SIGCONT);
    assert_eq!(reason(&snapshot, 1), Some(UnreachableReason::Timeout));
    assert_eq!((reason(&snapshot, 0), reason(&snapshot, 2)), (None, None));
    assert!(Duration::from_millis(290) <= took && took < Duration::from_millis(450), "{took:?}");
    // The times of the other two answers are their own, not that of the slowest.
    let age = |index: usize| {
        snapshot.members[index].facts().unwrap().answered_at_ms - snapshot.observed_at_ms
    };
    assert!(age(0) < 250 && age(2) < 250, "{} {}", age(0), age(2));
    fleet.see("it answers again", |snapshot| reason(snapshot, 1).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_unreachable_member_has_its_reason() {
    let mut fleet = TestServers::start(4, true, Some("secret"));
    fleet.observe().await;
    fleet.servers[0].kill();
    fleet.members.members[1].running = false;
    fleet.members.members[2].address = None;
    // The first snapshot may still use a pooled connection whose end was not noticed yet.
    let first = reason(&fleet.observe().await, 0);
    let ended = [Some(UnreachableReason::Gone), Some(UnreachableReason::Refused)];
    assert!(ended.contains(&first), "{first:?}");
    let snapshot = fleet.observe().await;
    assert_eq!(reason(&snapshot, 0), Some(UnreachableReason::Refused));
    assert_eq!(reason(&snapshot, 1), Some(UnreachableReason::NotRunning));
    assert_eq!(reason(&snapshot, 2), Some(UnreachableReason::NoAddress));
    assert_eq!(reason(&snapshot, 3), None);
    for password in [None, Some("wrong".to_owned())] {
        fleet.members.credentials = RedisCredentials { user: None, password };
        let snapshot = fleet.observe().await;
        assert_eq!(reason(&snapshot, 3), Some(UnreachableReason::Auth));
        let text = serde_json::to_string(&snapshot).unwrap();
        assert!(!text.contains("secret") && !text.contains("\"wrong"), "{text}");
    }
    let error = fleet.pipeline(3, &["PING"]).await.unwrap_err();
    assert_eq!(error.reason(), "Denied", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_cluster_mode_still_reports_facts() {
    let fleet = TestServers::start(1, false, None);
    let snapshot = fleet.port.observe(&fleet.members, &[]).await;
    let facts = snapshot.members[0].facts().unwrap();
    assert!(facts.run_id.is_some() && facts.replication.is_some());
    assert_eq!((facts.node, facts.cluster.as_ref()), (None, None));
    assert!(facts.errors.contains_key("CLUSTER NODES"), "{:?}", facts.errors);
}

/// The primary was deleted with its Pod, and a fresh server answers instead: before it has met the replica, and
/// after it knows the dead primary by gossip.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_member_does_not_outvote_the_replica_of_a_dead_primary() {
    let mut fleet = TestServers::start(3, true, Some("secret"));
    let fresh = fleet.members.members.pop().unwrap();
    fleet.form(1).await;
    let dead = node(&fleet.observe().await, 0);
    fleet.servers[0].kill();
    fleet.members.members.remove(0);
    fleet.members.members.push(fresh);
    let voters = |snapshot: &Snapshot| {
        let quorum = snapshot.quorum();
        assert!(!snapshot.is_agreed());
        assert!(snapshot.primaries().all(|(id, _)| id == dead), "{snapshot:#?}");
        (quorum.voters, quorum.heard)
    };
    assert_eq!(voters(&fleet.observe().await), (1, 0));
    fleet.done(vec![Verb::Meet { pod: pod(2), with: pod(1) }]).await;
    let row_is_empty = |snapshot: &Snapshot| {
        let fresh = snapshot.member(&pod(2)).unwrap();
        snapshot.row_seen_by(fresh, dead).map(|row| row.slots.is_empty())
    };
    let knows_dead = |snapshot: &Snapshot| row_is_empty(snapshot).is_some();
    let met = fleet.see("the fresh server knows the dead primary", knows_dead).await;
    assert_eq!(row_is_empty(&met), Some(true), "gossip does not include slots");
    assert_eq!(voters(&met), (1, 0));
}
