//! Performs `allow-start`: permits a process that waits in its Pod to start without data, by an annotation on
//! the Pod.

use serde_json::{Value, json};
use tholepin_core::{
    ObjectRef, WriteMode, condition::HOST_FIELD_MANAGER, port::PerformedAction,
    step::RedisCliCommand,
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    primitives::NodeId,
    reserved::MAY_START,
    snapshot::Snapshot,
};

use crate::{instance::pod_kind, reconcile_context::ReconcileContext};

/// The age, in milliseconds, at which the annotation is written again. A process accepts only one that is not
/// older than its own start, and the clocks of two machines differ.
const ANNOTATION_MS_MAX: u64 = 10_000;

/// Returns true if the action is performed on the Pod and not on Redis.
pub(crate) const fn is_allow_start(action: &Action) -> bool {
    matches!(action.verb, Verb::AllowStart { .. })
}

/// Writes the annotation on the Pod, unless a recent one exists.
pub(crate) async fn allow(
    context: &ReconcileContext,
    snapshot: &Snapshot,
    pod: &str,
    node: NodeId,
) -> PerformedAction {
    let now_ms = context.gate.ports.clock.now_ms();
    let note = format!("`{pod}` starts without data");
    let done = |took_ms| ActionOutcome::Done { took_ms, note: note.clone() };
    let written_at_ms = snapshot.member(pod).and_then(|member| {
        let value = member.kubernetes.get("annotations")?.get(MAY_START)?.as_str()?;
        let (permitted, at_ms) = value.split_once('/')?;
        let at_ms: u64 = at_ms.parse().ok()?;
        (permitted == node.to_string()).then_some(at_ms)
    });
    if written_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < ANNOTATION_MS_MAX) {
        return PerformedAction { outcome: done(0), commands: Vec::new() };
    }
    let value = format!("{node}/{now_ms}");
    let object = ObjectRef {
        kind: pod_kind(),
        namespace: context.scope.key.namespace.clone(),
        name: pod.to_owned(),
    };
    let uid = snapshot.member(pod).map(|member| member.pod_uid.clone());
    let patch: Value = json!({"metadata": {"uid": uid, "annotations": {MAY_START: value}}});
    let command = format!("kubectl annotate pod {pod} {MAY_START}={value}");
    let commands = vec![RedisCliCommand { pod: pod.to_owned(), command }];
    let (port, manager) = (&context.gate.ports.kubernetes, HOST_FIELD_MANAGER.to_owned());
    let dry_run = context.scope.mode == WriteMode::Plan;
    let outcome = match port.merge_patch(object, patch, manager, dry_run).await {
        Ok(_) => {
            let took_ms = context.gate.ports.clock.now_ms().saturating_sub(now_ms);
            done(took_ms)
        }
        Err(error) => ActionOutcome::Failed {
            reason: error.reason().to_owned(),
            message: error.to_string(),
            may_have_run: error.may_have_run(),
        },
    };
    PerformedAction { outcome, commands }
}
