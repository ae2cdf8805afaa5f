//! A plugin without grants: every call of the contract is denied, or needs no grant.

use serde_json::json;
use tholepin_core::{
    Call, CallError, EventType, HostCalls, KubernetesCall, Pipeline, PluginRuntimeCall, ReadMode,
    RedisCall, WriteMode,
};
use tholepin_schema::{manifest::Grants, probe::PodPortProbe};

use crate::{GateFixture, config_map, fixture::object, instance};

/// Whether a call needs a grant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Grant {
    Needed,
    /// It reads nothing but the plugin's own settings, time and randomness, or writes a log line.
    NotNeeded,
}

/// Returns a sample of the call after this one in the order of the contract, `None` after the last. Without a
/// wildcard: a call that is added to the contract must get a sample here, or the test does not compile.
fn following_kubernetes(call: Option<&KubernetesCall>) -> Option<KubernetesCall> {
    let object = config_map("mine");
    Some(match call {
        None => KubernetesCall::Get { object, read: ReadMode::Live, fields: vec![] },
        Some(KubernetesCall::Get { .. }) => KubernetesCall::List {
            kind: object.kind,
            namespace: "n".into(),
            selector: String::new(),
            read: ReadMode::Live,
            fields: vec![],
        },
        Some(KubernetesCall::List { .. }) => {
            KubernetesCall::Apply { object: intent("mine"), force: false }
        }
        Some(KubernetesCall::Apply { .. }) => KubernetesCall::ApplyStatus {
            object: json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Thing",
                "metadata": {"name": "me", "namespace": "n"}, "status": {"x": 1}}),
        },
        Some(KubernetesCall::ApplyStatus { .. }) => {
            KubernetesCall::MergePatch { object, patch: json!({"data": {"x": "1"}}) }
        }
        Some(KubernetesCall::MergePatch { .. }) => KubernetesCall::Delete {
            object,
            uid: None,
            resource_version: None,
            grace_seconds: None,
        },
        Some(KubernetesCall::Delete { .. }) => KubernetesCall::Publish {
            event_type: EventType::Normal,
            reason: "R".into(),
            message: String::new(),
        },
        Some(KubernetesCall::Publish { .. }) => KubernetesCall::Warnings { object },
        Some(KubernetesCall::Warnings { .. }) => return None,
    })
}

/// As [`following_kubernetes`].
fn following_redis(call: Option<&RedisCall>) -> Option<RedisCall> {
    let pipeline = Pipeline {
        instance: instance(),
        pod: "a-0".into(),
        commands: vec![vec![b"GET".to_vec(), b"k".to_vec()]],
        deadline_ms: 100,
    };
    Some(match call {
        None => RedisCall::Pipeline(pipeline),
        Some(RedisCall::Pipeline(_)) => RedisCall::FanOut { pipelines: vec![pipeline] },
        Some(RedisCall::FanOut { .. }) => RedisCall::Observe { instance: instance() },
        Some(RedisCall::Observe { .. }) => RedisCall::Act {
            instance: instance(),
            actions: vec![json!({"verb": "meet", "args": {"pod": "a-0", "with": "b-0"}})],
        },
        Some(RedisCall::Act { .. }) => return None,
    })
}

/// As [`following_kubernetes`], with whether the call needs a grant.
fn following_runtime(call: Option<&PluginRuntimeCall>) -> Option<(Grant, PluginRuntimeCall)> {
    let fact = json!({"subject": {"member": {"instance": instance(), "pod": "a-0"}},
        "field": ".answer.answered.keys", "op": "at-least", "value": 1});
    Some(match call {
        None => (Grant::NotNeeded, PluginRuntimeCall::Now),
        Some(PluginRuntimeCall::Now) => (Grant::NotNeeded, PluginRuntimeCall::Random { bytes: 1 }),
        Some(PluginRuntimeCall::Random { .. }) => (Grant::NotNeeded, PluginRuntimeCall::Parameters),
        Some(PluginRuntimeCall::Parameters) => {
            (Grant::Needed, PluginRuntimeCall::Wait { facts: vec![fact], ms: 1 })
        }
        Some(PluginRuntimeCall::Wait { .. }) => {
            (Grant::Needed, PluginRuntimeCall::Probe(PodPortProbe::connect("a-0", 22_123)))
        }
        Some(PluginRuntimeCall::Probe(_)) => {
            (Grant::NotNeeded, PluginRuntimeCall::Log { level: "info".into(), message: "x".into() })
        }
        Some(PluginRuntimeCall::Log { .. }) => return None,
    })
}

fn intent(name: &str) -> serde_json::Value {
    let mut intent = object("v1", "ConfigMap", name, Some("me"));
    intent["metadata"].as_object_mut().unwrap().remove("uid");
    intent
}

/// One sample of every call of the contract.
fn samples() -> Vec<(Grant, Call)> {
    let mut samples = Vec::new();
    let mut kubernetes = following_kubernetes(None);
    while let Some(call) = kubernetes {
        kubernetes = following_kubernetes(Some(&call));
        samples.push((Grant::Needed, Call::Kubernetes(call)));
    }
    let mut redis = following_redis(None);
    while let Some(call) = redis {
        redis = following_redis(Some(&call));
        samples.push((Grant::Needed, Call::Redis(call)));
    }
    let mut runtime = following_runtime(None);
    while let Some((grant, call)) = runtime {
        runtime = following_runtime(Some(&call));
        samples.push((grant, Call::Runtime(call)));
    }
    samples
}

#[tokio::test]
async fn without_grants_every_call_is_denied_or_needs_none_and_nothing_is_written() {
    let samples = samples();
    assert_eq!(samples.len(), 18, "the calls of the contract");
    for mode in [WriteMode::Live, WriteMode::Plan] {
        for (grant, call) in &samples {
            // A gate of its own for each call: a denial must not depend on the calls before it.
            let bench = GateFixture::new(Grants::default(), mode);
            let answer = bench.context.perform(&bench.call_context, call.clone()).await;
            let is_denied = matches!(answer, Err(CallError::Denied(_)));
            assert_eq!(is_denied, *grant == Grant::Needed, "{mode:?} {call:?}: {answer:?}");
            assert_eq!(bench.writes(), [] as [String; 0], "{mode:?} {call:?}");
            assert!(bench.world.secrets_read.lock().unwrap().is_empty(), "{mode:?} {call:?}");
            assert!(bench.world.observed_members.lock().unwrap().is_empty(), "{mode:?} {call:?}");
        }
    }
}
