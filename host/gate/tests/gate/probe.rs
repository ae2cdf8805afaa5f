//! Which ports of which Pods a plugin may probe.

use serde_json::{Value, json};
use tholepin_core::{Answer, Call, CallError, HostCalls, PluginRuntimeCall, Reply, WriteMode};
use tholepin_schema::{
    manifest::{GrantScope, Grants},
    probe::PodPortProbe,
};

use crate::{GateFixture, fixture::object, grants};

/// A reconcile that may probe one port. One Pod is the object's, one is another owner's, one uses the network
/// of its Kubernetes node.
fn bench(mode: WriteMode) -> GateFixture {
    let bench =
        GateFixture::new(Grants { probes: vec![22_123], ..grants(GrantScope::Owned) }, mode);
    for (name, owner) in [("a-0", "me"), ("a-1", "me"), ("b-0", "them"), ("host-0", "me")] {
        let mut pod = object("v1", "Pod", name, Some(owner));
        if name != "a-1" {
            pod["status"] = json!({"podIP": "127.9.9.9"});
        }
        pod["spec"] = json!({"hostNetwork": name == "host-0"});
        bench.world.put(pod);
    }
    bench
}

async fn probe(bench: &GateFixture, probe: PodPortProbe) -> Answer {
    bench.context.perform(&bench.call_context, Call::Runtime(PluginRuntimeCall::Probe(probe))).await
}

fn outcome(answer: Answer) -> Value {
    let Ok(Reply::Document(outcome)) = answer else { panic!("{answer:?}") };
    outcome
}

#[tokio::test]
async fn a_granted_port_of_a_pod_of_the_object_is_probed_also_in_a_plan() {
    for mode in [WriteMode::Live, WriteMode::Plan] {
        let bench = bench(mode);
        let seen = outcome(probe(&bench, PodPortProbe::get("a-0", 22_123, "/stats?all")).await);
        assert_eq!(seen["answered"]["body"], "127.9.9.9:22123 /stats?all", "{seen}");
        let seen = outcome(probe(&bench, PodPortProbe::connect("a-0", 22_123)).await);
        assert_eq!(seen, json!({"connected": {"tookMs": 0}}));
        let seen = outcome(probe(&bench, PodPortProbe::connect("a-1", 22_123)).await);
        assert_eq!(seen["silent"]["why"], "the Pod has no address yet");
    }
}

#[tokio::test]
async fn any_other_probe_is_refused_with_its_reason() {
    let bench = bench(WriteMode::Live);
    let late = PodPortProbe { deadline_ms: 2_001, ..PodPortProbe::connect("a-0", 22_123) };
    let rows = [
        (PodPortProbe::connect("a-0", 22), "spec.grants.probes needs 22"),
        (PodPortProbe::connect("b-0", 22_123), "does not belong"),
        (PodPortProbe::connect("host-0", 22_123), "network of its Kubernetes node"),
        (PodPortProbe::connect("c-0", 22_123), "c-0"),
        (PodPortProbe::get("a-0", 22_123, "stats"), "begins with `/`"),
        (PodPortProbe::get("a-0", 22_123, "/a HTTP/1.1\r\nX: y\r\n\r\n"), "percent-encoded"),
        (late, "1 to 2000, not 2001"),
    ];
    for (probed, expected) in rows {
        let error = probe(&bench, probed.clone()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{probed:?}: {error}");
    }
    assert_eq!(bench.writes(), [] as [&str; 0], "nothing was probed");
}

#[tokio::test]
async fn an_urgent_event_ends_a_probe() {
    let bench = bench(WriteMode::Live);
    bench.scope.urgent.cancel();
    let answer = probe(&bench, PodPortProbe::connect("a-0", 22_123)).await;
    assert_eq!(answer, Err(CallError::Interrupted));
}
