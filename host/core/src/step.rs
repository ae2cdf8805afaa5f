//! What a pass does, or would do, outside the host: one type for the plan and for what was done, so that
//! the two can be compared.
//!
//! Invariants:
//! - A write that changes nothing is no step.
//! - Equal effects are equal steps, whether they were planned or done: a step holds no time, no resource
//!   version and no measurement of its own.
//! - A secret value is in no step: values of Secrets are fingerprints, or the template that makes them.

mod difference;
mod redis_cli;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use difference::{ChangeScope, created, differences};
pub use redis_cli::redis_cli;

use crate::{CallError, EventType, ObjectRef};

/// One step, in the order in which the plugin asked for it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    /// What it changes.
    #[serde(flatten)]
    pub effect: StepEffect,
    /// Why it was not done, or would not be; absent if nothing stands against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_done: Option<SkipReason>,
}

/// What a step changes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StepEffect {
    /// An object of Kubernetes.
    Object {
        /// By which call: `apply`, `apply-status`, `merge-patch`, `delete`, `add-finalizer`,
        /// `remove-finalizer`.
        by: String,
        /// Which object.
        object: ObjectRef,
        /// What becomes of it.
        change: ObjectChange,
        /// Field by field. A created object shows the fields that the plugin asked for, with the values
        /// that the server gave them; a deleted one shows none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fields: Vec<FieldChange>,
    },
    /// A verb of `redis/topology`.
    Verb {
        /// Its name.
        verb: String,
        /// Its arguments.
        args: Value,
        /// The commands that it stands for on the members as they are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        commands: Vec<MemberCommandLine>,
    },
    /// Commands of `redis/commands` that write, with those sent in the same pipeline.
    Commands {
        /// The commands in order.
        commands: Vec<MemberCommandLine>,
    },
    /// An event about the object: tells people, changes nothing else.
    Event {
        /// Ordinary or not.
        event_type: EventType,
        /// Its name.
        reason: String,
        /// Its text.
        message: String,
    },
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ObjectChange {
    /// It is made.
    Created,
    /// It is changed.
    Changed,
    /// It goes.
    Deleted,
    /// It was not looked at, because the call was refused before.
    Unknown,
}

/// One field of an object that changes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Where, such as `.spec.containers[name=redis].image`.
    pub field: String,
    /// What it was; absent if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What it becomes; absent if it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// A command for one member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberCommandLine {
    /// The member, by the name of its Pod.
    pub pod: String,
    /// The command as redis-cli takes it.
    pub command: String,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SkipReason {
    /// A guard or a presumption did not hold; nothing was sent.
    Refused {
        /// The guard's name.
        guard: String,
        /// What was wanted and what was seen.
        message: String,
    },
    /// It was refused or did not work.
    Failed {
        /// A stable CamelCase name.
        reason: String,
        /// What happened, for people.
        message: String,
        /// Whether it may have taken effect all the same.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_have_run: bool,
    },
    /// A step that must come first was not done; in a plan also: whether this one may be done depends on
    /// the effect of that step.
    Skipped {
        /// The id of that action.
        after: String,
    },
}

impl PlanStep {
    /// A step against which nothing stands.
    #[must_use]
    pub const fn new(effect: StepEffect) -> Self {
        Self { effect, not_done: None }
    }

    /// The step, not done because of an error.
    #[must_use]
    pub fn failed(effect: StepEffect, error: &CallError) -> Self {
        let (reason, message) = (error.reason().to_owned(), error.to_string());
        let not_done = SkipReason::Failed { reason, message, may_have_run: error.may_have_run() };
        Self { effect, not_done: Some(not_done) }
    }

    /// Whether it changes more than what people are told.
    #[must_use]
    pub const fn is_work(&self) -> bool {
        match self.effect {
            StepEffect::Object { .. } | StepEffect::Verb { .. } | StepEffect::Commands { .. } => {
                true
            }
            StepEffect::Event { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_reads_like_a_sentence_and_comes_back() {
        let step = PlanStep {
            effect: StepEffect::Verb {
                verb: "failover".into(),
                args: json!({"pod": "demo-0-1"}),
                commands: vec![MemberCommandLine {
                    pod: "demo-0-1".into(),
                    command: "CLUSTER FAILOVER TAKEOVER".into(),
                }],
            },
            not_done: Some(SkipReason::Refused { guard: "policy".into(), message: "m".into() }),
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
    fn an_event_is_no_work() {
        let event = StepEffect::Event {
            event_type: EventType::Normal,
            reason: "Ready".into(),
            message: String::new(),
        };
        assert!(!PlanStep::new(event).is_work());
        assert!(PlanStep::new(StepEffect::Commands { commands: Vec::new() }).is_work());
    }
}
