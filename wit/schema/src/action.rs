//! What may be done to a cluster's topology: verbs, with what each presumes.
//!
//! An action leaves nothing to choose: it names a Pod or a node, never an address, and says which
//! state it presumes. The host reads that state anew right before the effect and refuses when it has
//! changed; a plan that came too late therefore does nothing.
//!
//! Invariants:
//! - A field that is not known is refused: the writer must not believe it had been heard.
//! - Performing an action twice does no harm: what is already so is [`ActionOutcome::Done`].

mod wave;

pub use wave::{ACTIONS_MAX, WaveError, waves};

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    fact::Fact,
    primitives::{ConfigEpoch, NodeId, Role, RunId, SlotSet},
};

/// One step: `{"id": …, "verb": …, "args": …, "presume": …, "after": […]}`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Action {
    /// A name for `after`, unique in its list.
    pub id: Option<String>,
    /// What to do.
    pub verb: Verb,
    /// What must be so right before.
    pub presume: Preconditions,
    /// The ids of actions in the same list that must be done first. If one of them is not done, this
    /// one is skipped.
    pub after: Vec<String>,
}

impl From<Verb> for Action {
    fn from(verb: Verb) -> Self {
        Self { id: None, verb, presume: Preconditions::default(), after: Vec::new() }
    }
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "verb", content = "args", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// `CLUSTER MEET`: makes the node in `pod` shake hands with the one in `with`. Done when the
    /// handshake has begun; that both know each other must be observed.
    Meet {
        /// The Pod that is told.
        pod: String,
        /// The Pod whose address it is told.
        with: String,
    },
    /// `CLUSTER SET-CONFIG-EPOCH`: only on a node that knows no other and has no epoch yet.
    SetConfigEpoch {
        /// The Pod.
        pod: String,
        /// The epoch; differs from node to node.
        epoch: ConfigEpoch,
    },
    /// `CLUSTER ADDSLOTSRANGE`: gives slots that nobody owns to the node in `pod`.
    AssignSlots {
        /// The Pod of a primary.
        pod: String,
        /// The slots; those that it owns already are left out.
        slots: SlotSet,
    },
    /// `CLUSTER REPLICATE`: makes the node in `pod` follow `primary`.
    Replicate {
        /// The Pod of a node without slots.
        pod: String,
        /// Whom to follow.
        primary: NodeId,
    },
    /// `CLUSTER FAILOVER` in one of its forms: makes the replica in `pod` primary. Done when the
    /// roles have changed.
    Failover {
        /// The Pod of the replica.
        pod: String,
        /// The primary that it replaces.
        primary: NodeId,
        /// How.
        mode: FailoverMode,
    },
    /// `CLUSTER FORGET` on every member, within the minute in which Redis bans a forgotten node from
    /// coming back by hearsay.
    Forget {
        /// A node that is no member any more.
        node: NodeId,
    },
    /// Lets a process start that waits because it has nothing to load, and whose start could empty those
    /// who follow it. Done when the host has written [`crate::reserved::MAY_START`] to its Pod.
    AllowStart {
        /// The Pod.
        pod: String,
        /// The node that it was.
        node: NodeId,
    },
    /// `CONFIG SET` of settings from a closed table ([`crate::command::RUNTIME_SETTINGS`]).
    Configure {
        /// The Pod.
        pod: String,
        /// New values by name.
        settings: BTreeMap<String, String>,
        /// Whether the host puts the old values back when the pass ends, traps or times out.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        temporary: bool,
    },
}

impl Verb {
    /// Its name as JSON and grants write it.
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

    /// The Pod that it is sent to; none for a verb that goes to every member.
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

    /// The names of all verbs, ascending.
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

/// How roles are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverMode {
    /// The primary holds writes until the replica has all of them: nothing is lost. Needs a primary
    /// that answers and a majority of voters.
    Graceful,
    /// Without the primary, with a majority of voters: what the replica has not received is lost.
    Force,
    /// Without the primary and without a vote. Two primaries for the same slots, if the old one
    /// lives.
    Takeover,
}

impl FailoverMode {
    /// Its name as JSON writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Force => "force",
            Self::Takeover => "takeover",
        }
    }
}

/// What must be so right before an action: what is absent is not asked. Read from a live snapshot;
/// what the snapshot does not tell counts as not so.
///
/// The first four are about the action's own node, and what they mean depends on the verb: a role and
/// an epoch are those of a row that the snapshot tells folded (a member's own, or the majority's), which
/// no path leads to. Everything else that an action can rest on is a [`Fact`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preconditions {
    /// The id of the node in the action's Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The process in the action's Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The role of the node in the action's Pod, in its own view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The configuration epoch in the majority's view: of the primary to be replaced for `failover`,
    /// of the primary to be followed for `replicate`, of the node to be forgotten for `forget`; else
    /// of the node in the action's Pod, as it sees itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<ConfigEpoch>,
    /// That a person has given up what only the node had that is replaced, forgotten or started, by the
    /// annotation [`crate::reserved::APPROVE_DATA_LOSS`]. A plugin presumes it where it does not know that
    /// nothing is lost.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub approved: bool,
    /// Whatever else must hold, at most [`FACTS_MAX`](crate::fact::FACTS_MAX): about another member, the
    /// view or an object of Kubernetes. Facts about members and the view are read from the wave's
    /// snapshot and name no instance, those about objects from the API server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
}

impl Preconditions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of one action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionResult {
    /// The action's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What became of it.
    pub outcome: ActionOutcome,
}

/// What became of one action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ActionOutcome {
    /// It is as wanted.
    #[serde(rename_all = "camelCase")]
    Done {
        /// How long it took.
        took_ms: u64,
        /// What was seen, for people.
        note: String,
    },
    /// A guard or a presumption did not hold; nothing was sent.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// The guard's name: one of [`GuardId`](crate::guard_id::GuardId), or a later one.
        guard: String,
        /// What was wanted and the value seen.
        message: String,
    },
    /// It was sent and did not work, or not in time.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// A stable CamelCase name (`Timeout`, `Gone`, …), as call errors have.
        reason: String,
        /// What happened, for people.
        message: String,
        /// Whether it may have taken effect all the same: observe before repeating it.
        may_have_run: bool,
    },
    /// An action that must be done first was not done.
    #[serde(rename_all = "camelCase")]
    Skipped {
        /// The id of that action.
        after: String,
    },
}

impl ActionOutcome {
    /// Whether it is as wanted.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// An action as it is written: `Action` with its verb's tag and arguments beside the rest.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    verb: Value,
    args: Value,
    #[serde(default, skip_serializing_if = "Preconditions::is_empty")]
    presume: Preconditions,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
}

impl TryFrom<Raw> for Action {
    type Error = serde_json::Error;

    fn try_from(raw: Raw) -> Result<Self, serde_json::Error> {
        let Raw { id, verb, args, presume, after } = raw;
        let verb = serde_json::from_value(serde_json::json!({ "verb": verb, "args": args }))?;
        Ok(Self { id, verb, presume, after })
    }
}

impl From<Action> for Raw {
    fn from(action: Action) -> Self {
        let Action { id, verb, presume, after } = action;
        // A verb holds strings, numbers and lists only, so that this cannot fail.
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
    fn what_is_not_known_is_refused() {
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
