//! Connections: reused, bounded, closed at a deadline and at the end of their process.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tholepin_core::{RespNode, RespReply, port::Redis};

use crate::{
    proxy::{RepliesEnd, ReplyProxy},
    server::{TestServers, command, pod, room},
};

/// Returns `connected_clients` of the first server, including this call.
async fn clients(fleet: &TestServers) -> String {
    let replies = fleet.pipeline(0, &["INFO clients"]).await.unwrap();
    let RespNode::Bulk(text) = &replies[0].nodes[0] else { panic!("{replies:?}") };
    let text = String::from_utf8(text.clone()).unwrap();
    text.lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_and_its_number_is_bounded() {
    let fleet = TestServers::start(1, false, Some("secret"));
    for _ in 0..20 {
        fleet.pipeline(0, &["PING"]).await.unwrap();
    }
    assert_eq!(clients(&fleet).await, "1");
    let many = (0..50).map(|_| fleet.pipeline(0, &["PING", "PING"]));
    let all = futures::future::join_all(many).await;
    assert!(all.iter().all(|replies| replies.as_ref().is_ok_and(|all| all.len() == 2)));
    let count: usize = clients(&fleet).await.parse().unwrap();
    assert!(count <= 8, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_reply_does_not_affect_the_other_replies() {
    let fleet = TestServers::start(1, false, None);
    let replies = fleet.pipeline(0, &["SET a x", "INCR a", "GET a", "HGETALL h"]).await.unwrap();
    assert!(matches!(&replies[1].nodes[0], RespNode::Error(text) if text.starts_with("ERR")));
    assert_eq!(replies[2], RespReply { nodes: vec![RespNode::Bulk(b"x".to_vec())] });
    assert_eq!(replies[3].nodes, [RespNode::Array(vec![])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_closes_the_connection_and_the_next_call_is_not_confused() {
    let fleet = TestServers::start(1, false, None);
    fleet.pipeline(0, &["PING"]).await.unwrap();
    fleet.servers[0].signal(Signal::SIGSTOP);
    let deadline = Duration::from_millis(100);
    let echo = [command("ECHO first")];
    let since = Instant::now();
    let error =
        fleet.port.pipeline(&fleet.members, &pod(0), &echo, deadline, &room()).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(200), "{:?}", since.elapsed());
    assert_eq!(error.reason(), "Timeout");
    fleet.servers[0].signal(Signal::SIGCONT);
    let replies = fleet.pipeline(0, &["ECHO second"]).await.unwrap();
    assert_eq!(replies[0].nodes, [RespNode::Bulk(b"second".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_process_that_is_killed_ends_immediately() {
    let mut fleet = TestServers::start(1, false, None);
    fleet.pipeline(0, &["PING"]).await.unwrap();
    let (members, port) = (fleet.members.clone(), fleet.port.clone());
    let blocked = [command("BLPOP nothing 0")];
    let call =
        async { port.pipeline(&members, "pod-0", &blocked, Duration::from_secs(5), &room()).await };
    let killed = async {
        // The call must have reached the server before the server is killed.
        let start = Instant::now();
        while !client_is_blocked(&fleet).await {
            assert!(start.elapsed() < Duration::from_secs(4), "the call did not reach the server");
        }
        fleet.servers[0].kill();
        Instant::now()
    };
    let (result, killed_at) = tokio::join!(call, killed);
    assert_eq!(result.unwrap_err().reason(), "Gone");
    assert!(killed_at.elapsed() < Duration::from_millis(100), "{:?}", killed_at.elapsed());
    let error = fleet.pipeline(0, &["PING"]).await.unwrap_err();
    assert_eq!(error.reason(), "Gone", "no process listens: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_container_that_has_ended_fails_though_its_process_hangs() {
    let fleet = TestServers::start(1, false, None);
    fleet.servers[0].signal(Signal::SIGSTOP);
    let call = fleet.pipeline(0, &["PING"]);
    let ended = async {
        tokio::task::yield_now().await;
        fleet.port.container_ended("container-0");
        Instant::now()
    };
    let (result, ended_at) = tokio::join!(call, ended);
    assert_eq!(result.unwrap_err().reason(), "Gone");
    assert!(ended_at.elapsed() < Duration::from_millis(100), "{:?}", ended_at.elapsed());
    assert_eq!(fleet.pipeline(0, &["PING"]).await.unwrap_err().reason(), "Gone");
    fleet.servers[0].signal(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_container_that_has_ended_are_closed() {
    let mut fleet = TestServers::start(1, false, None);
    let [first, again] = [client_id(&fleet).await, client_id(&fleet).await];
    assert_eq!(first, again, "the connection is kept");
    fleet.port.container_ended("container-0");
    // Another container has the same address, and the server sees only the connection to that container.
    fleet.members.members[0].container_id = "container-1".to_owned();
    assert_ne!(client_id(&fleet).await, first);
    let start = Instant::now();
    while clients(&fleet).await != "1" {
        assert!(start.elapsed() < Duration::from_secs(5), "the old connection is still open");
    }
}

/// Returns the server's id of the connection that a call uses.
async fn client_id(fleet: &TestServers) -> Vec<RespNode> {
    fleet.pipeline(0, &["CLIENT ID"]).await.unwrap().remove(0).nodes
}

/// A call that ends within a reply fails, the next call gets its own replies, and no command is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_breaks_off_in_a_reply_fails_and_is_not_sent_again() {
    let mut fleet = TestServers::start(1, false, None);
    let proxy = ReplyProxy::to(fleet.members.members[0].address.unwrap()).await;
    fleet.members.members[0].address = Some(proxy.address);
    let deadline = Duration::from_millis(300);
    for (round, (end, reason)) in
        [(RepliesEnd::Silence, "Timeout"), (RepliesEnd::Cut, "Gone")].iter().enumerate()
    {
        // Opens the connection first, so that only the replies to the pipeline are limited.
        fleet.pipeline(0, &["PING"]).await.unwrap();
        let replies = "+PONG\r\n:1\r\n$5\r\nfi".len();
        proxy.limit(replies, *end);
        let broken = ["PING", "INCR counter", "ECHO first"].map(command);
        let since = Instant::now();
        let result = fleet.port.pipeline(&fleet.members, &pod(0), &broken, deadline, &room()).await;
        assert_eq!(result.unwrap_err().reason(), *reason, "{end:?}");
        assert!(since.elapsed() < deadline * 2, "{end:?} took {:?}", since.elapsed());
        assert_eq!(
            *end == RepliesEnd::Cut,
            since.elapsed() < deadline,
            "{end:?}: {:?}",
            since.elapsed()
        );
        proxy.open();
        let replies = fleet.pipeline(0, &["ECHO second", "GET counter"]).await.unwrap();
        assert_eq!(replies[0].nodes, [RespNode::Bulk(b"second".to_vec())], "{end:?}");
        let counted = (round + 1).to_string().into_bytes();
        assert_eq!(replies[1].nodes, [RespNode::Bulk(counted)], "{end:?}: sent again");
    }
}

async fn client_is_blocked(fleet: &TestServers) -> bool {
    let replies = fleet.pipeline(0, &["INFO clients"]).await.unwrap();
    let RespNode::Bulk(text) = &replies[0].nodes[0] else { return false };
    String::from_utf8_lossy(text).contains("blocked_clients:1")
}
