//! Performs `allow-start`: permits a process that waits in its Pod to start without data, by an annotation on
//! the Pod.

use serde_json::{Value, json};
use tholepin_core::{
    ObjectRef, WriteMode, condition::HOST_FIELD_MANAGER, port::PerformedAction,
    step::MemberCommandLine,
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    primitives::{NodeId, RunId},
    reserved::{APPROVE_DATA_LOSS, MAY_START},
    snapshot::Snapshot,
};

use crate::{
    guard::DataLossApproval, instance::pod_kind, ledger_document::Ledger,
    reconcile_context::ReconcileContext,
};

/// The age, in milliseconds, at which the annotation is written again. A process accepts only one that is not
/// older than its own start, and the clocks of two machines differ.
const ANNOTATION_MS_MAX: u64 = 10_000;

/// How many characters of an unknown approval a message repeats.
const APPROVAL_CHARS_MAX: usize = 90;

/// Returns true if the action is performed on the Pod and not on Redis.
pub(crate) const fn is_allow_start(action: &Action) -> bool {
    matches!(action.verb, Verb::AllowStart { .. })
}

/// Returns the nodes whose data a person gives up, by the annotation that the object has now. An approval
/// names the process whose data is given up, so that it does not apply to the next process of that node.
pub(crate) fn approved(context: &ReconcileContext, ledger: &Ledger) -> DataLossApproval {
    let view = context.gate.ports.kubernetes.view();
    let meta = view.meta(&context.scope.reference());
    let text = meta.as_ref().and_then(|meta| meta.annotations.get(APPROVE_DATA_LOSS));
    let text = text.map(String::as_str).unwrap_or_default();
    let mut approved = DataLossApproval::default();
    for approval in text.split([',', ' ']).filter(|approval| !approval.is_empty()) {
        let known = || {
            let (node, run_id) = approval.split_once('/')?;
            let (node, run_id): (NodeId, RunId) = (node.parse().ok()?, run_id.parse().ok()?);
            ledger.nodes.get(&node).filter(|known| known.run_id == run_id).map(|_| node)
        };
        match known() {
            Some(node) => drop(approved.nodes.insert(node)),
            None => approved.unknown.push(approval.chars().take(APPROVAL_CHARS_MAX).collect()),
        }
    }
    approved
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
    let commands = vec![MemberCommandLine { pod: pod.to_owned(), command }];
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
