//! The three modes of a failover, with real servers.

use nix::sys::signal::Signal;
use tholepin_schema::{
    action::{ActionOutcome, FailoverMode, Verb},
    primitives::Role,
};
use tokio::time::{Duration, Instant};

use crate::server::{TestServers, node, pod};

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_failover_returns_when_both_roles_have_changed() {
    let fleet = TestServers::cluster().await;
    let before = fleet.observe().await;
    let (old, new) = (node(&before, 0), node(&before, 3));
    let verb = Verb::Failover { pod: pod(3), primary: old, mode: FailoverMode::Graceful };
    fleet.done(vec![verb.clone()]).await;
    let after = fleet.observe().await;
    let role = |index: usize| after.member(&pod(index)).unwrap().facts().unwrap().role;
    assert_eq!((role(0), role(3)), (Some(Role::Replica), Some(Role::Primary)));
    let agreed = |snapshot: &tholepin_schema::snapshot::Snapshot| {
        snapshot.view[&new].slots == before.view[&old].slots
    };
    fleet.see("all see the new primary", agreed).await;
    // Repeating the verb changes nothing.
    fleet.done(vec![verb]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_failover_needs_no_primary() {
    let mut fleet = TestServers::cluster().await;
    let before = fleet.observe().await;
    let old = node(&before, 1);
    fleet.servers[1].kill();
    let since = Instant::now();
    fleet.done(vec![Verb::Failover { pod: pod(4), primary: old, mode: FailoverMode::Force }]).await;
    // Without the verb, an election takes at least the node timeout and its own delay, together 1.9 s.
    assert!(since.elapsed() < Duration::from_millis(1500), "{:?}", since.elapsed());
    let after = fleet.observe().await;
    assert_eq!(after.member("pod-4").unwrap().facts().unwrap().role, Some(Role::Primary));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_needs_no_majority() {
    let mut fleet = TestServers::cluster().await;
    let before = fleet.observe().await;
    fleet.servers[0].kill();
    fleet.servers[1].kill();
    let verb = |mode| Verb::Failover { pod: pod(3), primary: node(&before, 0), mode };
    let outcomes = fleet.act(vec![verb(FailoverMode::Force)]).await;
    let [ActionOutcome::Failed { reason, may_have_run: true, .. }] = &outcomes[..] else {
        panic!("one voter of three is no majority: {outcomes:?}")
    };
    assert_eq!(reason, "Timeout");
    fleet.done(vec![verb(FailoverMode::Takeover)]).await;
    let after = fleet.observe().await;
    assert_eq!(after.member("pod-3").unwrap().facts().unwrap().role, Some(Role::Primary));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_failover_of_a_hung_primary_fails() {
    let fleet = TestServers::cluster().await;
    let before = fleet.observe().await;
    fleet.servers[2].signal(Signal::SIGSTOP);
    let verb =
        Verb::Failover { pod: pod(5), primary: node(&before, 2), mode: FailoverMode::Graceful };
    let outcomes = fleet.act(vec![verb]).await;
    fleet.servers[2].signal(Signal::SIGCONT);
    // Meanwhile the cluster's own election has promoted the replica, but the old primary does not know it.
    let [ActionOutcome::Failed { reason, may_have_run: true, .. }] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(reason, "Timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_primary_is_not_failed_over() {
    let fleet = TestServers::cluster().await;
    let before = fleet.observe().await;
    let verb =
        Verb::Failover { pod: pod(5), primary: node(&before, 0), mode: FailoverMode::Takeover };
    let outcomes = fleet.act(vec![verb]).await;
    let [ActionOutcome::Failed { reason, may_have_run: false, .. }] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(reason, "Conflict");
    assert_eq!(fleet.observe().await.view, before.view);
}
