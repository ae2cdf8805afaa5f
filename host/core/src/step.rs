//! The steps of a reconcile outside the host. A plan and a live reconcile use the same type, so that the two can be
//! compared.
//!
//! Invariants:
//! - A write that changes nothing is no step.
//! - Equal effects are equal steps, planned or done: a step holds no time, no resource version and no measurement.
//! - No step holds a secret value: values of Secrets are fingerprints, or the template that generates them.

mod difference;
mod redis_cli;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use difference::{WritableObjectPart, created, differences};
pub use redis_cli::redis_cli;

use crate::{CallError, EventType, ObjectRef};

/// One step. Steps are in the order of the plugin's calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    /// The change.
    #[serde(flatten)]
    pub effect: PlanStepEffect,
    /// Why it was not done, or would not be; absent for a step that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_done: Option<StepSkipReason>,
}

/// The `by` of a [`PlanStepEffect::Object`] whose status was applied.
pub const APPLY_STATUS: &str = "apply-status";

/// The change of a step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PlanStepEffect {
    /// An object of Kubernetes.
    Object {
        /// By which call: `apply`, `apply-status`, `merge-patch`, `delete`, `add-finalizer`,
        /// `remove-finalizer`.
        by: String,
        /// Which object.
        object: ObjectRef,
        /// The kind of change.
        change: PlanStepChangeType,
        /// The changed fields. A created object shows the fields of the plugin's intent with the values that the server
        /// stored; a deleted one shows none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fields: Vec<FieldChange>,
    },
    /// A verb of `redis/topology`.
    Verb {
        /// Its name.
        verb: String,
        /// Its arguments.
        args: Value,
        /// Its commands for the members in their present state.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        commands: Vec<RedisCliCommand>,
    },
    /// Commands of `redis/commands` that write, with those sent in the same pipeline.
    Commands {
        /// The commands in order.
        commands: Vec<RedisCliCommand>,
    },
    /// An event about the object, which has no other effect.
    Event {
        /// Ordinary or not.
        event_type: EventType,
        /// Its name.
        reason: String,
        /// Its text.
        message: String,
    },
}

/// The kind of change of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PlanStepChangeType {
    /// It is created.
    Created,
    /// It is changed.
    Changed,
    /// It is deleted.
    Deleted,
    /// Not known, because the call was refused before the object was read.
    Unknown,
}

/// The change of one field of an object.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// The path, such as `.spec.containers[name=redis].image`.
    pub field: String,
    /// The value before; absent for an added field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The value after; absent for a removed field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// A command for one member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisCliCommand {
    /// The member, by the name of its Pod.
    pub pod: String,
    /// The command in the syntax of redis-cli.
    pub command: String,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StepSkipReason {
    /// A guard or a precondition refused it; nothing was sent.
    Refused {
        /// The guard's name.
        guard: String,
        /// What the guard requires and what it observed.
        message: String,
    },
    /// The API server or Redis refused it, or it failed.
    Failed {
        /// A stable CamelCase name.
        reason: String,
        /// The error, for people.
        message: String,
        /// Whether it may have taken effect nevertheless.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_have_run: bool,
    },
    /// A step that must come before it was not done. In a plan also: a guard of this step depends on the effect of that
    /// step.
    Skipped {
        /// The id of that action.
        after: String,
    },
}

impl PlanStep {
    /// Creates a step that is done.
    #[must_use]
    pub const fn new(effect: PlanStepEffect) -> Self {
        Self { effect, not_done: None }
    }

    /// Creates a step that was not done because of an error.
    #[must_use]
    pub fn failed(effect: PlanStepEffect, error: &CallError) -> Self {
        let (reason, message) = (error.reason().to_owned(), error.to_string());
        let not_done =
            StepSkipReason::Failed { reason, message, may_have_run: error.may_have_run() };
        Self { effect, not_done: Some(not_done) }
    }

    /// Returns true for every step except an event.
    #[must_use]
    pub const fn is_work(&self) -> bool {
        match self.effect {
            PlanStepEffect::Object { .. }
            | PlanStepEffect::Verb { .. }
            | PlanStepEffect::Commands { .. } => true,
            PlanStepEffect::Event { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_survives_serialisation() {
        let step = PlanStep {
            effect: PlanStepEffect::Verb {
                verb: "failover".into(),
                args: json!({"pod": "demo-0-1"}),
                commands: vec![RedisCliCommand {
                    pod: "demo-0-1".into(),
                    command: "CLUSTER FAILOVER TAKEOVER".into(),
                }],
            },
            not_done: Some(StepSkipReason::Refused { guard: "policy".into(), message: "m".into() }),
        };
        let text = serde_json::to_value(&step).unwrap();
        assert_eq!(
            text,
            json!({
                "kind": "verb",
                "verb": "failover",
                "args": {"pod": "demo-0-1"},
                "commands": [{"pod": "demo-0-1", "command": "CLUSTER FAILOVER TAKEOVER"}],
                "notDone": {"refused": {"guard": "policy", "message": "m"}},
            })
        );
        assert_eq!(serde_json::from_value::<PlanStep>(text).unwrap(), step);
    }

    #[test]
    fn an_event_does_not_count_as_work() {
        let event = PlanStepEffect::Event {
            event_type: EventType::Normal,
            reason: "Ready".into(),
            message: String::new(),
        };
        assert!(!PlanStep::new(event).is_work());
        assert!(PlanStep::new(PlanStepEffect::Commands { commands: Vec::new() }).is_work());
    }
}
