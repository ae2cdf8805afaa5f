//! Polling of watched instances and subscriptions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tholepin_core::{
    ReconcileKey,
    port::{PollDetail, PollReport, Redis},
};
use tholepin_schema::{
    action::{FailoverMode, Verb},
    snapshot::Snapshot,
};
use tokio::{task::JoinSet, time::timeout};

use crate::server::{TestServers, node, owner, pod};

/// The longest wait for a first poll, and for the end of the reports of one change.
const QUIET_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until no change was reported for `quiet`.
async fn until_quiet(fleet: &mut TestServers, quiet: Duration) {
    let start = Instant::now();
    while let Ok(report) = timeout(quiet, fleet.changes.recv()).await {
        assert!(start.elapsed() < QUIET_DEADLINE, "changes are still reported: {report:?}");
    }
}

/// Watches the instance, starts polling and waits for the first poll.
async fn watch_and_poll(fleet: &TestServers, tasks: &mut JoinSet<()>) {
    fleet.port.watch(&fleet.members, PollDetail::Changes).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    // The poller has its own connection to each member, whose last command ends a poll.
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < QUIET_DEADLINE, "the members were not polled");
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
async fn a_lost_connection_is_noticed_immediately_and_a_change_at_the_next_poll() {
    let mut fleet = TestServers::start(2, true, None);
    let mut tasks = JoinSet::new();
    watch_and_poll(&fleet, &mut tasks).await;
    fleet.done(vec![Verb::Meet { pod: pod(0), with: pod(1) }]).await;
    let report = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
    let instance = fleet.members.instance.clone();
    assert_eq!(report, PollReport { instance, changed: true, snapshot: None });
    // Waits until the changes by the handshake have ended.
    until_quiet(&mut fleet, Duration::from_millis(1500)).await;

    // A changed setting is also a change.
    let settings = [("cluster-node-timeout".to_owned(), "4321".to_owned())].into();
    fleet.done(vec![Verb::Configure { pod: pod(0), settings, temporary: false }]).await;
    let report = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
    assert!(report.changed, "{report:?}");

    let since = Instant::now();
    fleet.servers[1].signal(Signal::SIGKILL);
    timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_another_client_is_noticed() {
    let mut fleet = TestServers::cluster().await;
    let mut tasks = JoinSet::new();
    watch_and_poll(&fleet, &mut tasks).await;
    until_quiet(&mut fleet, Duration::from_millis(600)).await;
    let primary = node(&fleet.observe().await, 0);
    let mode = FailoverMode::Graceful;
    fleet.done(vec![Verb::Failover { pod: pod(3), primary, mode }]).await;
    timeout(Duration::from_secs(1), fleet.changes.recv()).await.unwrap();
    fleet.port.unwatch(&fleet.members.instance);
    // A poll that is running may still report; later changes are not reported.
    until_quiet(&mut fleet, Duration::from_millis(600)).await;
    let settings = [("cluster-node-timeout".to_owned(), "4321".to_owned())].into();
    fleet.done(vec![Verb::Configure { pod: pod(0), settings, temporary: false }]).await;
    let report = timeout(Duration::from_millis(600), fleet.changes.recv()).await;
    assert!(report.is_err(), "reported after `unwatch`: {report:?}");
}

/// Watches instances until one is refused. Returns how many were accepted, and the refusal.
fn watch_many(
    fleet: &TestServers,
    mut owner_of: impl FnMut(usize) -> Arc<ReconcileKey>,
) -> (usize, String) {
    let mut members = fleet.members.clone();
    for index in 0.. {
        members.owner = owner_of(index);
        members.instance = format!("{}-{}-{index}", members.owner.plugin, members.owner.name);
        if let Err(refused) = fleet.port.watch(&members, PollDetail::Changes) {
            assert!(fleet.port.join(&members, &[]).is_err(), "a wait has the same bound");
            return (index, refused.to_string());
        }
    }
    unreachable!("the number of instances is bounded")
}

#[tokio::test]
async fn each_object_and_each_plugin_has_its_own_share_of_polled_instances() {
    let fleet = TestServers::start(0, true, None);
    let (greedy, refused) = watch_many(&fleet, |_| owner("hostile", "greedy"));
    assert_eq!(greedy, 8);
    assert!(refused.contains("8 instances of this object"), "{refused}");
    // The other objects of the plugin have what the greedy one could not take.
    let (others, refused) = watch_many(&fleet, |index| owner("hostile", &format!("o-{index}")));
    assert_eq!(greedy + others, 2048);
    assert!(refused.contains("2048 instances of the plugin `hostile`"), "{refused}");
    // The other plugins have their whole share.
    let (theirs, _) = watch_many(&fleet, |index| owner("other", &format!("o-{index}")));
    assert_eq!(theirs, 2048);
}

/// Returns how often `INFO` was called on the first member.
async fn infos(fleet: &TestServers) -> u64 {
    let replies = fleet.pipeline(0, &["INFO commandstats"]).await.unwrap();
    let text = String::from_utf8(bytes(&replies[0])).unwrap();
    let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_info:calls="));
    calls.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_get_snapshots_immediately_and_share_the_polls() {
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
    let mut polls = 0;
    while polls < 10 {
        for subscription in &mut joined {
            timeout(Duration::from_secs(2), subscription.next()).await.unwrap();
        }
        polls += 1;
    }
    let polled = infos(&fleet).await - before;
    assert!((10..40).contains(&polled), "{polled} polls");
    assert!(fleet.changes.try_recv().is_err(), "an instance that is not watched is not reported");

    // A change appears in a following snapshot.
    fleet.done(vec![Verb::Meet { pod: pod(0), with: pod(1) }]).await;
    let knows = |snapshot: &Snapshot| snapshot.seen_by(&snapshot.members[0]).unwrap().len() == 2;
    let start = Instant::now();
    let mut seen = joined[0].next().await;
    while !knows(&seen) {
        assert!(start.elapsed() < QUIET_DEADLINE, "the handshake is not visible: {seen:#?}");
        seen = timeout(Duration::from_secs(5), joined[0].next()).await.unwrap();
    }
    drop(joined);
    // The instance without subscriptions no longer counts against the bound.
    let mut other = fleet.members.clone();
    for index in 0..8 {
        other.instance = format!("many-{index}");
        fleet.port.watch(&other, PollDetail::Changes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_watch_reports_every_poll() {
    let mut fleet = TestServers::start(1, true, None);
    let mut tasks = JoinSet::new();
    let depth = PollDetail::Whole { settings: &[] };
    fleet.port.watch(&fleet.members, depth).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    for _ in 0..3 {
        let report = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap().unwrap();
        assert!(!report.changed && report.snapshot.is_some(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_does_not_make_a_whole_watch_report_more_often() {
    let mut fleet = TestServers::start(1, true, None);
    let mut tasks = JoinSet::new();
    fleet.port.watch(&fleet.members, PollDetail::Whole { settings: &[] }).unwrap();
    let mut joined = fleet.port.join(&fleet.members, &[]).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_polling().await });
    let since = Instant::now();
    let polls = 40;
    for _ in 0..polls {
        timeout(Duration::from_secs(2), joined.next()).await.unwrap();
    }
    // One report for each 200 ms, the first one, and those of the changes while the server starts.
    let expected = since.elapsed().as_millis() / 200 + 5;
    let mut reports = 0;
    while fleet.changes.try_recv().is_ok() {
        reports += 1;
    }
    assert!((1..=expected).contains(&reports), "{reports} reports of {polls} polls");
}
