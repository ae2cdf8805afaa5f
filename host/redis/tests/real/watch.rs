//! Polling of watched instances and subscriptions.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tholepin_core::port::{PollDetail, PollReport, Redis};
use tholepin_schema::{
    action::{FailoverMode, Verb},
    snapshot::Snapshot,
};
use tokio::{task::JoinSet, time::timeout};

use crate::server::{TestServers, node, pod};

/// Watches the instance, starts polling and waits for the first poll.
async fn watched(fleet: &TestServers, tasks: &mut JoinSet<()>) {
    fleet.port.watch(&fleet.members, PollDetail::Changes).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    // The poller has its own connection to each member, whose last command ends a poll.
    loop {
        let replies = fleet.pipeline(0, &["CLIENT LIST"]).await.unwrap();
        if format!("{:?}", String::from_utf8_lossy(&bytes(&replies[0])))
            .contains("cmd=cluster|nodes")
        {
            return;
        }
    }
}

fn bytes(reply: &tholepin_core::RespReply) -> Vec<u8> {
    let tholepin_core::RespNode::Bulk(bytes) = &reply.nodes[0] else { panic!("{reply:?}") };
    bytes.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_noticed_at_once_and_a_change_at_the_next_look() {
    let mut fleet = TestServers::start(2, true, None);
    let mut tasks = JoinSet::new();
    watched(&fleet, &mut tasks).await;
    fleet.done(vec![Verb::Meet { pod: pod(0), with: pod(1) }]).await;
    let look = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
    let instance = fleet.members.instance.clone();
    assert_eq!(look, PollReport { instance, changed: true, snapshot: None });
    // Waits until the changes by the handshake have ended.
    while timeout(Duration::from_millis(1500), fleet.changes.recv()).await.is_ok() {}

    // A changed setting is also a change.
    let settings = [("cluster-node-timeout".to_owned(), "4321".to_owned())].into();
    fleet.done(vec![Verb::Configure { pod: pod(0), settings, temporary: false }]).await;
    let look = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
    assert!(look.changed, "{look:?}");

    let since = Instant::now();
    fleet.servers[1].signal(Signal::SIGKILL);
    timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_another_hand_is_noticed() {
    let mut fleet = TestServers::cluster().await;
    let mut tasks = JoinSet::new();
    watched(&fleet, &mut tasks).await;
    while timeout(Duration::from_millis(600), fleet.changes.recv()).await.is_ok() {}
    let primary = node(&fleet.observe().await, 0);
    let mode = FailoverMode::Graceful;
    fleet.done(vec![Verb::Failover { pod: pod(3), primary, mode }]).await;
    timeout(Duration::from_secs(1), fleet.changes.recv()).await.unwrap();
    fleet.port.unwatch(&fleet.members.instance);
    // A poll that is running may still report.
    while timeout(Duration::from_millis(600), fleet.changes.recv()).await.is_ok() {}
}

#[tokio::test]
async fn the_number_of_instances_is_bounded() {
    let fleet = TestServers::start(0, true, None);
    let mut members = fleet.members.clone();
    for index in 0..4096 {
        members.instance = format!("many-{index}");
        fleet.port.watch(&members, PollDetail::Changes).unwrap();
    }
    fleet.port.watch(&members, PollDetail::Changes).unwrap();
    members.instance = "one-more".to_owned();
    let refused = fleet.port.watch(&members, PollDetail::Changes).unwrap_err();
    assert_eq!(refused.reason(), "Transient");
    assert!(fleet.port.join(&members, &[]).is_err());
}

/// Returns how often `INFO` was called on the first member.
async fn infos(fleet: &TestServers) -> u64 {
    let replies = fleet.pipeline(0, &["INFO commandstats"]).await.unwrap();
    let text = String::from_utf8(bytes(&replies[0])).unwrap();
    let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_info:calls="));
    calls.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_sees_whole_looks_at_once_and_all_share_them() {
    let mut fleet = TestServers::start(2, true, Some("secret"));
    let mut tasks = JoinSet::new();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    let settings = ["maxmemory-policy".to_owned()];
    let mut joined = Vec::new();
    for _ in 0..20 {
        joined.push(fleet.port.join(&fleet.members, &settings).unwrap());
    }
    let since = Instant::now();
    let snapshot = timeout(Duration::from_secs(2), joined[0].next()).await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(150), "{:?}", since.elapsed());
    let facts = snapshot.member(&pod(0)).unwrap().facts().unwrap();
    assert!(facts.settings.contains_key("maxmemory-policy") && facts.run_id.is_some());

    // All twenty subscriptions share the polls, so their number is that of one subscription.
    let before = infos(&fleet).await;
    let mut looks = 0;
    while looks < 10 {
        for one in &mut joined {
            timeout(Duration::from_secs(2), one.next()).await.unwrap();
        }
        looks += 1;
    }
    let asked = infos(&fleet).await - before;
    assert!((10..40).contains(&asked), "{asked} polls");
    assert!(fleet.changes.try_recv().is_err(), "an instance that is not watched is not reported");

    // A change appears in a following snapshot.
    fleet.done(vec![Verb::Meet { pod: pod(0), with: pod(1) }]).await;
    let knows = |snapshot: &Snapshot| snapshot.seen_by(&snapshot.members[0]).unwrap().len() == 2;
    let mut seen = joined[0].next().await;
    while !knows(&seen) {
        seen = timeout(Duration::from_secs(5), joined[0].next()).await.unwrap();
    }
    drop(joined);
    // The instance without subscriptions no longer counts against the bound.
    let mut other = fleet.members.clone();
    for index in 0..4096 {
        other.instance = format!("many-{index}");
        fleet.port.watch(&other, PollDetail::Changes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_watch_reports_every_look() {
    let mut fleet = TestServers::start(1, true, None);
    let mut tasks = JoinSet::new();
    let depth = PollDetail::Whole { settings: &[] };
    fleet.port.watch(&fleet.members, depth).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    for _ in 0..3 {
        let look = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
        assert!(!look.changed && look.snapshot.is_some(), "{look:?}");
    }
}
