//! Asks Kubernetes and the network about a recorded process that may be dead.

use std::net::SocketAddr;

use serde_json::Value;
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{instance::Instance, ledger::KnownNode, manifest::KindName};

use crate::{
    guard::{Dial, Witness},
    instance::container_status,
    ownership::text,
    pass::Pass,
};

/// What live reads say. What cannot be read speaks for life.
pub(crate) async fn of(pass: &Pass, instance: &Instance, known: &KnownNode) -> Witness {
    let kubernetes = &pass.gate.ports.kubernetes;
    let pod = kubernetes.get(reference("Pod", &instance.namespace, &known.pod)).await;
    let container_status = match &pod {
        Ok(pod) if text(pod, "/metadata/uid") == known.pod_uid => {
            Some(container_status(pod, &instance.container).cloned().unwrap_or_default())
        }
        Ok(_) | Err(CallError::NotFound(_)) => None,
        // An empty status proves nothing.
        Err(_) => Some(Value::Null),
    };
    let kube_node_ready = match kubernetes.get(reference("Node", "", &known.kube_node)).await {
        Ok(node) => is_ready(&node),
        Err(_) => false,
    };
    let address: Option<SocketAddr> = known.address.as_ref().and_then(|text| text.parse().ok());
    let dial = match address {
        Some(address) if pass.gate.ports.redis.refuses(address).await => Dial::Refused,
        _ => Dial::Inconclusive,
    };
    Witness { container_status, kube_node_ready, dial }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    })
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: kind.to_owned() },
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
