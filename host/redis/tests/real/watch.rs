//! Changes are noticed without being asked for.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tholepin_core::port::Redis;
use tholepin_schema::action::{FailoverMode, Verb};
use tokio::{task::JoinSet, time::timeout};

use crate::server::{Fleet, node, pod};

/// Watches the fleet and waits until its members have been looked at.
async fn watched(fleet: &Fleet, tasks: &mut JoinSet<()>) {
    fleet.port.watch(&fleet.members).unwrap();
    let port = fleet.port.clone();
    tasks.spawn(async move { port.run_watches().await });
    // The watch keeps a connection of its own to each member.
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
    let mut fleet = Fleet::start(2, true, None);
    let mut tasks = JoinSet::new();
    watched(&fleet, &mut tasks).await;
    fleet.done(vec![Verb::Meet { pod: pod(0), with: pod(1) }]).await;
    let name = timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap();
    assert_eq!(name.as_deref(), Some(fleet.members.instance.as_str()));
    // Everything that the meeting changes, until it is quiet for two looks.
    while timeout(Duration::from_millis(1500), fleet.changes.recv()).await.is_ok() {}

    let since = Instant::now();
    fleet.servers[1].signal(Signal::SIGKILL);
    timeout(Duration::from_secs(2), fleet.changes.recv()).await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_another_hand_is_noticed() {
    let mut fleet = Fleet::cluster().await;
    let mut tasks = JoinSet::new();
    watched(&fleet, &mut tasks).await;
    while timeout(Duration::from_millis(600), fleet.changes.recv()).await.is_ok() {}
    let primary = node(&fleet.observe().await, 0);
    let mode = FailoverMode::Graceful;
    fleet.done(vec![Verb::Failover { pod: pod(3), primary, mode }]).await;
    timeout(Duration::from_secs(1), fleet.changes.recv()).await.unwrap();
    fleet.port.unwatch(&fleet.members.instance);
    // A look that is under way may still report; after that it is quiet.
    while timeout(Duration::from_millis(600), fleet.changes.recv()).await.is_ok() {}
}

#[tokio::test]
async fn the_number_of_instances_is_bounded() {
    let fleet = Fleet::start(0, true, None);
    let mut members = fleet.members.clone();
    for index in 0..4096 {
        members.instance = format!("many-{index}");
        fleet.port.watch(&members).unwrap();
    }
    fleet.port.watch(&members).unwrap();
    members.instance = "one-more".to_owned();
    assert_eq!(fleet.port.watch(&members).unwrap_err().reason(), "Transient");
}
