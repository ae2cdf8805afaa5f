//! Reads from the status of a Pod whether the container that ran a recorded process has ended. Pure.

use serde_json::Value;
use tholepin_schema::snapshot::Snapshot;

use crate::ledger_document::KnownNode;

/// Returns when the recorded container ended, in milliseconds since 1970, if the Pod's status has the time.
pub(crate) fn ended_at_ms(known: &KnownNode, snapshot: &Snapshot) -> Option<u64> {
    let member = snapshot.members.iter().find(|member| member.pod_uid == known.pod_uid)?;
    let states =
        ["state", "lastState"].map(|state| member.kubernetes.get(state)?.get("terminated"));
    let is_its = |ended: &&Value| {
        ended.get("containerID").and_then(Value::as_str) == Some(known.container_id.as_str())
    };
    let ended = states.into_iter().flatten().find(is_its)?;
    let at: jiff::Timestamp = ended.get("finishedAt")?.as_str()?.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// Returns true if the Pod facts of the snapshot report the recorded container as terminated.
pub(crate) fn is_reported_terminated(known: &KnownNode, snapshot: &Snapshot) -> bool {
    let same_pod = snapshot.members.iter().find(|member| member.pod_uid == known.pod_uid);
    same_pod.is_some_and(|member| is_terminated(known, &member.kubernetes))
}

/// Returns true if a container's status shows that the recorded container has terminated: in `state`, in
/// `lastState`, or because another container was started in its place since. Two containers of one name never
/// run at once in a Pod.
pub(crate) fn is_terminated(known: &KnownNode, status: &Value) -> bool {
    let is = |state: &str| {
        status
            .get(state)
            .and_then(|state| state.pointer("/terminated/containerID"))
            .is_some_and(|id| id.as_str().is_some_and(|id| id == known.container_id))
    };
    let restarts = status.get("restartCount").and_then(Value::as_u64);
    let was_replaced =
        matches!((restarts, known.restart_count), (Some(now), Some(then)) if then < now);
    !known.container_id.is_empty() && (is("state") || is("lastState") || was_replaced)
}
