//! Makes the steps of a report from calls and their results. Pure.
//!
//! Invariants:
//! - One function makes the step of a planned write and of a performed one.
//! - Of a Secret, a step contains only fingerprints and templates.

use serde_json::{Map, Value};
use tholepin_core::{
    Call, CallError, KubernetesCall, ObjectRef, Pipeline, PlanStep, PlanStepEffect, RedisCall,
    step::{
        self, FieldChange, PlanStepChangeType, RedisCliCommand, StepSkipReason, WritableObjectPart,
    },
};
use tholepin_schema::{
    action::{Action, ActionOutcome},
    command::{self, CommandAccess},
};

use crate::ownership;

/// What was known of an object before it was written.
pub(crate) enum KnownStateBefore<'a> {
    /// The object, or `None` if it did not exist.
    Known(Option<&'a Value>),
    /// It could not be read.
    Unknown,
}

/// Returns the step of an object that was written or would be; `None` if nothing in it changes.
///
/// `intent` is what was sent. For a new object it names the fields to show.
pub(crate) fn written(
    by: &str,
    object: &ObjectRef,
    before: &KnownStateBefore<'_>,
    intent: &Value,
    stored: &Value,
) -> Option<PlanStep> {
    let scope = if by == step::APPLY_STATUS {
        WritableObjectPart::Status
    } else {
        WritableObjectPart::Object
    };
    let (change, fields) = match before {
        KnownStateBefore::Known(Some(before)) if *before == stored => return None,
        KnownStateBefore::Known(Some(before)) => {
            let stored = templated(intent, Some(before), stored);
            (PlanStepChangeType::Changed, step::differences(before, &stored, scope))
        }
        KnownStateBefore::Known(None) => {
            (PlanStepChangeType::Created, asked_for(intent, stored, scope))
        }
        KnownStateBefore::Unknown => {
            (PlanStepChangeType::Unknown, asked_for(intent, stored, scope))
        }
    };
    if change == PlanStepChangeType::Changed && fields.is_empty() {
        return None;
    }
    Some(PlanStep::new(object_effect(by, object, change, fields)))
}

/// Returns the step of an object that was deleted or would be.
pub(crate) fn deleted(object: &ObjectRef) -> PlanStep {
    PlanStep::new(object_effect("delete", object, PlanStepChangeType::Deleted, Vec::new()))
}

/// Returns the step of an action; `None` if it had nothing to do.
pub(crate) fn acted(
    action: &Action,
    outcome: &ActionOutcome,
    commands: Vec<RedisCliCommand>,
) -> Option<PlanStep> {
    let not_done = match outcome {
        ActionOutcome::Done { .. } if commands.is_empty() => return None,
        ActionOutcome::Done { .. } => None,
        ActionOutcome::Refused { guard, message } => {
            Some(StepSkipReason::Refused { guard: guard.clone(), message: message.clone() })
        }
        ActionOutcome::Failed { reason, message, may_have_run } => Some(StepSkipReason::Failed {
            reason: reason.clone(),
            message: message.clone(),
            may_have_run: *may_have_run,
        }),
        ActionOutcome::Skipped { after } => Some(StepSkipReason::Skipped { after: after.clone() }),
        // An outcome that the schema adds later is shown in its debug form.
        other @ (ActionOutcome::Other | _) => {
            let message = format!("{other:?}");
            Some(StepSkipReason::Failed { reason: "Other".to_owned(), message, may_have_run: true })
        }
    };
    Some(PlanStep { effect: verb_effect(action, commands), not_done })
}

/// Returns the effect of a pipeline that writes.
pub(crate) fn commands(pipeline: &Pipeline) -> PlanStepEffect {
    let line = |arguments: &Vec<Vec<u8>>| RedisCliCommand {
        pod: pipeline.pod.clone(),
        command: step::redis_cli(arguments),
    };
    PlanStepEffect::Commands { commands: pipeline.commands.iter().map(line).collect() }
}

/// Returns the steps of a call that failed as a whole, before or while it was sent; none for a read.
pub(crate) fn not_sent(call: &Call, error: &CallError) -> Vec<PlanStep> {
    let effects = match call {
        Call::Kubernetes(call) => object_call(call).into_iter().collect(),
        Call::Redis(RedisCall::Pipeline(pipeline)) => writing(std::slice::from_ref(pipeline)),
        Call::Redis(RedisCall::FanOut { pipelines }) => writing(pipelines),
        Call::Redis(RedisCall::Act { instance: _, actions }) => {
            let actions = actions.iter().filter_map(|action| {
                let action: Action = serde_json::from_value(action.clone()).ok()?;
                Some(verb_effect(&action, Vec::new()))
            });
            actions.collect()
        }
        Call::Redis(RedisCall::Observe { .. }) | Call::Runtime(_) => Vec::new(),
    };
    effects.into_iter().map(|effect| PlanStep::failed(effect, error)).collect()
}

fn object_call(call: &KubernetesCall) -> Option<PlanStepEffect> {
    let unseen = |by: &str, object: &ObjectRef| {
        Some(object_effect(by, object, PlanStepChangeType::Unknown, Vec::new()))
    };
    match call {
        KubernetesCall::Get { .. }
        | KubernetesCall::List { .. }
        | KubernetesCall::Warnings { .. } => None,
        KubernetesCall::Apply { object, .. } => {
            unseen("apply", &ownership::reference(object).ok()?)
        }
        KubernetesCall::ApplyStatus { object } => {
            unseen(step::APPLY_STATUS, &ownership::reference(object).ok()?)
        }
        KubernetesCall::MergePatch { object, .. } => unseen("merge-patch", object),
        KubernetesCall::Delete { object, .. } => unseen("delete", object),
        KubernetesCall::Publish { event_type, reason, message } => Some(PlanStepEffect::Event {
            event_type: *event_type,
            reason: reason.clone(),
            message: message.clone(),
        }),
    }
}

/// Returns the effects of the pipelines that write. A pipeline with a command that is never allowed counts as
/// writing.
fn writing(pipelines: &[Pipeline]) -> Vec<PlanStepEffect> {
    let writes = |pipeline: &&Pipeline| {
        command::check_list(&pipeline.commands)
            .map_or(true, |access| access == CommandAccess::Write)
    };
    pipelines.iter().filter(writes).map(commands).collect()
}

fn object_effect(
    by: &str,
    object: &ObjectRef,
    change: PlanStepChangeType,
    fields: Vec<FieldChange>,
) -> PlanStepEffect {
    PlanStepEffect::Object { by: by.to_owned(), object: object.clone(), change, fields }
}

fn verb_effect(action: &Action, commands: Vec<RedisCliCommand>) -> PlanStepEffect {
    // This cannot fail: a verb holds strings, numbers and lists only.
    let verb = serde_json::to_value(&action.verb).unwrap_or_default();
    let args = verb.get("args").cloned().unwrap_or_default();
    PlanStepEffect::Verb { verb: action.verb.name().to_owned(), args, commands }
}

fn asked_for(intent: &Value, stored: &Value, scope: WritableObjectPart) -> Vec<FieldChange> {
    let stored = templated(intent, None, stored);
    step::created(&as_stored(intent), &stored, scope)
}

fn is_secret(object: &Value) -> bool {
    ownership::text(object, "/kind") == "Secret" && ownership::text(object, "/apiVersion") == "v1"
}

fn texts(intent: &Value) -> impl Iterator<Item = (&String, &Value)> {
    intent.get("stringData").and_then(Value::as_object).into_iter().flatten()
}

/// Returns the intent of a Secret as the server stores it: `stringData` becomes `data`.
fn as_stored(intent: &Value) -> Value {
    let mut shown = intent.clone();
    if !is_secret(intent) {
        return shown;
    }
    let Some(fields) = shown.as_object_mut() else { return shown };
    fields.remove("stringData");
    let mut data: Map<String, Value> =
        texts(intent).map(|(key, _)| (key.clone(), Value::Null)).collect();
    if let Some(Value::Object(given)) = fields.remove("data") {
        data.extend(given);
    }
    fields.insert("data".to_owned(), Value::Object(data));
    shown
}

/// Returns a Secret with templates in place of the fingerprints of the values that they made, where those
/// values are new. A random value would have another fingerprint in every plan.
fn templated(intent: &Value, before: Option<&Value>, stored: &Value) -> Value {
    let mut shown = stored.clone();
    if !is_secret(intent) {
        return shown;
    }
    let Some(data) = shown.get_mut("data").and_then(Value::as_object_mut) else { return shown };
    for (key, text) in texts(intent) {
        let was = before.and_then(|before| before.get("data")?.get(key));
        let is_template = text.as_str().is_some_and(|text| text.contains("${"));
        if is_template && was != data.get(key) {
            data.insert(key.clone(), text.clone());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tholepin_schema::manifest::KindName;

    fn secret(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "n", "resourceVersion": "1"}, "data": data})
    }

    fn reference() -> ObjectRef {
        let kind = KindName { api_version: "v1".into(), kind: "Secret".into() };
        ObjectRef { kind, namespace: "n".into(), name: "s".into() }
    }

    fn fields(step: Option<PlanStep>) -> Vec<(String, Option<Value>, Option<Value>)> {
        let Some(PlanStep { effect: PlanStepEffect::Object { fields, .. }, .. }) = step else {
            return Vec::new();
        };
        fields.into_iter().map(|field| (field.field, field.from, field.to)).collect()
    }

    #[test]
    fn a_secret_shows_its_template_when_it_is_made_and_nothing_while_it_stays() {
        let intent = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "stringData": {"k": "${random:8}", "plain": "hunter2"}});
        let stored = secret(json!({"k": "fingerprint:1", "plain": "fingerprint:2"}));
        let made = written("apply", &reference(), &KnownStateBefore::Known(None), &intent, &stored);
        assert_eq!(
            fields(made),
            [
                (".data.k".to_owned(), None, Some(json!("${random:8}"))),
                (".data.plain".to_owned(), None, Some(json!("fingerprint:2"))),
            ]
        );
        let before = KnownStateBefore::Known(Some(&stored));
        assert_eq!(written("apply", &reference(), &before, &intent, &stored), None);
        let mut newer = secret(json!({"k": "fingerprint:1", "plain": "fingerprint:3"}));
        newer["metadata"]["resourceVersion"] = json!("2");
        assert_eq!(
            fields(written("apply", &reference(), &before, &intent, &newer)),
            [(
                ".data.plain".to_owned(),
                Some(json!("fingerprint:2")),
                Some(json!("fingerprint:3"))
            )]
        );
    }

    #[test]
    fn an_action_without_effect_has_no_step_and_a_refused_one_has_its_reason() {
        let action: Action =
            serde_json::from_value(json!({"verb": "meet", "args": {"pod": "a", "with": "b"}}))
                .unwrap();
        let done = ActionOutcome::Done { took_ms: 1, note: String::new() };
        assert_eq!(acted(&action, &done, Vec::new()), None);
        let command = RedisCliCommand { pod: "a".into(), command: "CLUSTER MEET 1 2".into() };
        assert_eq!(acted(&action, &done, vec![command]).unwrap().not_done, None);
        let refused = ActionOutcome::Refused { guard: "member".into(), message: "m".into() };
        let step = acted(&action, &refused, Vec::new()).unwrap();
        assert_eq!(
            step.not_done,
            Some(StepSkipReason::Refused { guard: "member".into(), message: "m".into() })
        );
    }

    #[test]
    fn only_writes_among_failed_calls_have_steps() {
        let error = CallError::Denied("no grant".into());
        let pipeline = |line: &str| Pipeline {
            instance: json!({}),
            pod: "p".into(),
            commands: vec![line.split(' ').map(|argument| argument.as_bytes().to_vec()).collect()],
            deadline_ms: 1,
        };
        let sent = |line| Call::Redis(RedisCall::Pipeline(pipeline(line)));
        for (call, steps) in [
            (sent("GET a"), 0),
            (sent("SET a 1"), 1),
            (sent("FLUSHALL"), 1),
            (Call::Redis(RedisCall::Observe { instance: json!({}) }), 0),
            (
                Call::Kubernetes(KubernetesCall::Apply { object: secret(json!({})), force: false }),
                1,
            ),
        ] {
            assert_eq!(not_sent(&call, &error).len(), steps, "{call:?}");
        }
    }
}
