//! The fake of the ports, and objects for it.

use serde_json::{Value, json};
pub(crate) use tholepin_fakes::{FakeCluster, FixedClock, NOW_MS};

/// An object of a kind in namespace `n`, controlled by the owner if one is named.
pub(crate) fn object(api_version: &str, kind: &str, name: &str, owner: Option<&str>) -> Value {
    let references: Vec<_> = owner
        .iter()
        .map(|owner| {
            json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Thing", "name": owner,
                "uid": format!("uid-{owner}"), "controller": true})
        })
        .collect();
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"),
            "ownerReferences": references}
    })
}

/// A Pod of the object reconciled with a running container `redis`, which the usual selector matches.
pub(crate) fn pod(name: &str) -> Value {
    let mut pod = object("v1", "Pod", name, Some("me"));
    pod["metadata"]["labels"] = json!({"app": "x"});
    pod["spec"] = json!({"containers": [{"name": "redis"}]});
    pod["status"] = json!({"podIP": "127.0.0.1", "containerStatuses": [
        {"name": "redis", "containerID": format!("c-{name}"), "state": {"running": {}}}]});
    pod
}
