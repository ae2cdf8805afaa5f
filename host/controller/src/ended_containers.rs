//! Finds the containers that ended with a change of a Pod: the first sign that a process has ended.

use std::collections::BTreeSet;

use serde_json::Value;
use tholepin_core::port::WatchedStoreChange;

/// Returns the ids of containers that ran before the change and do not run after it.
pub(crate) fn ended_containers(change: &WatchedStoreChange) -> Vec<String> {
    if change.object.kind.kind != "Pod" || !change.object.kind.group().is_empty() {
        return Vec::new();
    }
    let Some(before) = &change.before else { return Vec::new() };
    let after = change.after.as_ref().map(|after| running(&after.value())).unwrap_or_default();
    running(&before.value()).difference(&after).cloned().collect()
}

fn running(pod: &Value) -> BTreeSet<String> {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let runs = |status: &&Value| status.pointer("/state/running").is_some();
    let id = |status: &Value| status.get("containerID").and_then(Value::as_str).map(str::to_owned);
    statuses.into_iter().flatten().filter(runs).filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tholepin_core::WatchedStoreObject;

    fn pod(state: &str, id: &str) -> WatchedStoreObject {
        WatchedStoreObject::new(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"},
            "status": {"containerStatuses": [{"containerID": id, "state": {state: {}}}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_container_has_ended_when_it_ran_before_and_does_not_after() {
        let rows = [
            (pod("running", "1"), Some(pod("terminated", "1")), vec!["1"]),
            (pod("running", "1"), Some(pod("running", "2")), vec!["1"]),
            (pod("running", "1"), None, vec!["1"]),
            (pod("running", "1"), Some(pod("running", "1")), vec![]),
            (pod("waiting", "1"), Some(pod("terminated", "1")), vec![]),
        ];
        for (before, after, expected) in rows {
            let object = before.meta().object.clone();
            let change = WatchedStoreChange { object, before: Some(before), after };
            assert_eq!(ended_containers(&change), expected, "{change:?}");
        }
    }
}
