//! Actions: changes to an instance's topology, each with its preconditions.
//!
//! An action is complete: it names a Pod or a node, never an address, and the state it depends on. Right
//! before the effect the host reads that state again and refuses the action if it has changed, so an outdated
//! plan does nothing.
//!
//! Invariants:
//! - An unknown field is refused. Otherwise the writer would believe that it has an effect.
//! - Performing an action twice does no harm: if its goal is already reached, the result is
//!   [`ActionOutcome::Done`].

mod wave;

pub use wave::{ACTIONS_MAX, ActionOrderError, waves};

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::open_enum::open_enum;
use crate::{
    fact::Fact,
    primitives::{ConfigEpoch, NodeId, Role, RunId, SlotSet},
};

/// One action: `{"id": …, "verb": …, "args": …, "presume": …, "after": […]}`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "ActionJson", into = "ActionJson")]
pub struct Action {
    /// The name that `after` of other actions refers to; unique in its list.
    pub id: Option<String>,
    /// What to do.
    pub verb: Verb,
    /// The conditions that must hold right before the action.
    pub presume: Preconditions,
    /// The ids of actions in the same list that must be done first. If one of them is not done, this action
    /// is skipped.
    pub after: Vec<String>,
}

impl From<Verb> for Action {
    fn from(verb: Verb) -> Self {
        Self { id: None, verb, presume: Preconditions::default(), after: Vec::new() }
    }
}

/// The verb of an action with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "verb", content = "args", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// `CLUSTER MEET`: starts a handshake of the node in `pod` with the node in `with`. Done when the
    /// handshake has started; observe to learn when both know each other.
    Meet {
        /// The Pod that receives the command.
        pod: String,
        /// The Pod whose address is sent.
        with: String,
    },
    /// `CLUSTER SET-CONFIG-EPOCH`: works only on a node that knows no other node and has no epoch yet.
    SetConfigEpoch {
        /// The Pod.
        pod: String,
        /// The epoch; must be different for each node.
        epoch: ConfigEpoch,
    },
    /// `CLUSTER ADDSLOTSRANGE`: assigns slots without an owner to the node in `pod`.
    AssignSlots {
        /// The Pod of a primary.
        pod: String,
        /// The slots; those that the node owns already are left out.
        slots: SlotSet,
    },
    /// `CLUSTER REPLICATE`: makes the node in `pod` follow `primary`.
    Replicate {
        /// The Pod of a node without slots.
        pod: String,
        /// The primary to follow.
        primary: NodeId,
    },
    /// `CLUSTER FAILOVER` in one of its forms: makes the replica in `pod` primary. Done when the
    /// roles have changed.
    Failover {
        /// The Pod of the replica.
        pod: String,
        /// The primary to replace.
        primary: NodeId,
        /// The form of the failover.
        mode: FailoverMode,
    },
    /// `CLUSTER FORGET` on every member, within the 60 s in which Redis refuses to learn a forgotten node
    /// from other nodes again.
    Forget {
        /// A node that is not a member any more.
        node: NodeId,
    },
    /// Lets a waiting process start. A process waits if it has nothing to load and its start could empty the
    /// replicas that follow it. Done when the host has written [`crate::reserved::MAY_START`] to the Pod.
    AllowStart {
        /// The Pod.
        pod: String,
        /// The id of the node that the process was before its restart.
        node: NodeId,
    },
    /// `CONFIG SET` of settings from a closed table ([`crate::command::RUNTIME_SETTINGS`]).
    Configure {
        /// The Pod.
        pod: String,
        /// The new values by name.
        settings: BTreeMap<String, String>,
        /// If true, the host restores the old values when the reconcile ends, traps or times out.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        temporary: bool,
    },
}

impl Verb {
    /// Returns the verb's name as JSON and grants write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AllowStart { .. } => "allow-start",
            Self::Meet { .. } => "meet",
            Self::SetConfigEpoch { .. } => "set-config-epoch",
            Self::AssignSlots { .. } => "assign-slots",
            Self::Replicate { .. } => "replicate",
            Self::Failover { .. } => "failover",
            Self::Forget { .. } => "forget",
            Self::Configure { .. } => "configure",
        }
    }

    /// Returns the Pod that the verb is sent to; `None` for a verb that goes to every member.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::Meet { pod, .. }
            | Self::SetConfigEpoch { pod, .. }
            | Self::AssignSlots { pod, .. }
            | Self::Replicate { pod, .. }
            | Self::Failover { pod, .. }
            | Self::AllowStart { pod, .. }
            | Self::Configure { pod, .. } => Some(pod),
            Self::Forget { .. } => None,
        }
    }

    /// The names of all verbs in ascending order.
    pub const NAMES: &[&str] = &[
        "allow-start",
        "assign-slots",
        "configure",
        "failover",
        "forget",
        "meet",
        "replicate",
        "set-config-epoch",
    ];
}

/// How a failover changes the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverMode {
    /// The primary holds writes until the replica has all of them: nothing is lost. Needs a primary that
    /// answers and a majority of the voters.
    Graceful,
    /// Without the primary, by a majority of the voters: writes that the replica has not received are lost.
    Force,
    /// Without the primary and without a vote. If the old primary still runs, two primaries own the same
    /// slots.
    Takeover,
}

impl FailoverMode {
    /// Returns the mode's name as JSON writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Force => "force",
            Self::Takeover => "takeover",
        }
    }
}

/// Conditions that must hold right before an action; an absent field is not checked. The host checks them
/// against a live snapshot, and a value that the snapshot does not contain counts as a mismatch.
///
/// `node`, `runId` and `role` are about the node in the action's Pod. Which node `epoch` is about depends on
/// the verb. Role and epoch come from a node row of the snapshot (the member's own row or the majority's),
/// which no field path reaches. For every other condition there are [`Fact`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preconditions {
    /// The id of the node in the action's Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The process in the action's Pod, by its run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The role of the node in the action's Pod, in that node's own view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// A configuration epoch in the majority's view: that of the primary to replace for `failover`, of the
    /// primary to follow for `replicate`, of the node to forget for `forget`, of the node to start for
    /// `allow-start`. For other verbs, the epoch of the node in the action's Pod in its own view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<ConfigEpoch>,
    /// Requires that a person has approved, with the annotation [`crate::reserved::APPROVE_DATA_LOSS`], the
    /// loss of the data that only certain nodes have: the node to replace, forget or start, and the last
    /// owners of the slots to assign. A plugin sets it where it does not know that nothing is lost.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub approved: bool,
    /// Further conditions about other members, the majority's view or Kubernetes objects; at most
    /// [`FACTS_MAX`](crate::fact::FACTS_MAX). Facts about members and the view are read from the snapshot of
    /// the wave and name no instance; facts about objects are read from the API server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
}

impl Preconditions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The result of one action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionResult {
    /// The action's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The outcome of the action.
    pub outcome: ActionOutcome,
}

/// The outcome of one action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[non_exhaustive]
pub enum ActionOutcome {
    /// The action's goal is reached.
    #[serde(rename_all = "camelCase")]
    Done {
        /// How long the action took, in milliseconds.
        took_ms: u64,
        /// What was observed, for people.
        note: String,
    },
    /// A guard refused the action or a precondition did not hold; nothing was sent.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// The guard's name: one of [`GuardId`](crate::guard_id::GuardId), or a later one.
        guard: String,
        /// The expected and the observed value, for people.
        message: String,
    },
    /// The action was sent and failed, or did not finish in time.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// A stable CamelCase name (`Timeout`, `Gone`, …), as call errors have.
        reason: String,
        /// What happened, for people.
        message: String,
        /// Whether it may have taken effect all the same; if true, observe before repeating it.
        may_have_run: bool,
    },
    /// An action that must be done first was not done; nothing was sent.
    #[serde(rename_all = "camelCase")]
    Skipped {
        /// The id of that action.
        after: String,
    },
    /// A case that this version does not name.
    Other,
}

open_enum!(ActionOutcome: "done", "refused", "failed", "skipped", "other");

impl ActionOutcome {
    /// Returns true if the action's goal is reached.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// An action in its JSON form: the verb's name and arguments are fields beside the others.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ActionJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    verb: Value,
    args: Value,
    #[serde(default, skip_serializing_if = "Preconditions::is_empty")]
    presume: Preconditions,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
}

impl TryFrom<ActionJson> for Action {
    type Error = serde_json::Error;

    fn try_from(raw: ActionJson) -> Result<Self, serde_json::Error> {
        let ActionJson { id, verb, args, presume, after } = raw;
        let verb = serde_json::from_value(serde_json::json!({ "verb": verb, "args": args }))?;
        Ok(Self { id, verb, presume, after })
    }
}

impl From<Action> for ActionJson {
    fn from(action: Action) -> Self {
        let Action { id, verb, presume, after } = action;
        // Cannot fail: a verb contains only strings, numbers, lists and maps.
        let mut verb = serde_json::to_value(verb).unwrap_or_default();
        let args = verb.get_mut("args").map(Value::take).unwrap_or_default();
        let verb = verb.get_mut("verb").map(Value::take).unwrap_or_default();
        Self { id, verb, args, presume, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec};
    use serde_json::json;

    fn id(digit: &str) -> NodeId {
        digit.repeat(40).parse().unwrap()
    }

    #[test]
    fn every_verb_round_trips_under_its_name() {
        let pod = || "demo-0".to_string();
        let verbs = vec![
            Verb::AllowStart { pod: pod(), node: id("d") },
            Verb::AssignSlots { pod: pod(), slots: crate::primitives::SlotRange::ALL.into() },
            Verb::Configure {
                pod: pod(),
                settings: [("cluster-node-timeout".to_string(), "500".to_string())].into(),
                temporary: true,
            },
            Verb::Failover { pod: pod(), primary: id("a"), mode: FailoverMode::Graceful },
            Verb::Forget { node: id("b") },
            Verb::Meet { pod: pod(), with: "demo-1".into() },
            Verb::Replicate { pod: pod(), primary: id("c") },
            Verb::SetConfigEpoch { pod: pod(), epoch: ConfigEpoch(3) },
        ];
        let names: Vec<_> = verbs.iter().map(Verb::name).collect();
        assert_eq!(names, Verb::NAMES);
        for verb in verbs {
            let action = Action { id: Some("x".into()), after: vec!["y".into()], ..verb.into() };
            let json = serde_json::to_value(&action).unwrap();
            assert_eq!(json["verb"], action.verb.name());
            assert_eq!(serde_json::from_value::<Action>(json).unwrap(), action);
        }
    }

    #[test]
    fn an_action_reads_like_the_contract() {
        let text = json!({
            "verb": "failover",
            "args": {"pod": "demo-1-0", "primary": id("a"), "mode": "force"},
            "presume": {"epoch": 7, "runId": id("d").to_string(), "facts": [{
                "subject": {"member": {"pod": "demo-1-1"}},
                "field": ".answer.answered.role", "op": "equals", "value": "primary",
            }]},
        });
        let action: Action = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(action.presume.epoch, Some(ConfigEpoch(7)));
        assert_eq!(serde_json::to_value(action).unwrap(), text);
    }

    #[test]
    fn unknown_verbs_and_fields_are_refused() {
        let cases = [
            (json!({"verb": "flush", "args": {}}), "flush"),
            (json!({"verb": "forget", "args": {"node": id("a"), "hard": true}}), "hard"),
            (json!({"verb": "forget", "args": {"node": id("a")}, "force": true}), "force"),
            (json!({"verb": "forget", "args": {"node": id("a")}, "presume": {"uid": 1}}), "uid"),
            (json!({"verb": "forget", "args": {"node": "10.0.0.1:7000"}}), "hex"),
            (
                json!({"verb": "forget", "args": {"node": id("a")}, "presume": {"facts": [
                    {"subject": {"member": {"pod": "a"}}, "field": ".rol", "op": "exists"}
                ]}}),
                "no field `rol`",
            ),
            (json!({"verb": "forget"}), "args"),
        ];
        for (json, word) in cases {
            let error = serde_json::from_value::<Action>(json.clone()).unwrap_err();
            assert!(format!("{error}").contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn results_round_trip() {
        let outcome = ActionOutcome::Failed {
            reason: "Gone".into(),
            message: "m".into(),
            may_have_run: true,
        };
        let result = ActionResult { id: None, outcome };
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(json["outcome"]["failed"]["mayHaveRun"], true);
        assert_eq!(serde_json::from_value::<ActionResult>(json).unwrap(), result);
    }
}
