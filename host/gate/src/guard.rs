//! Checks whether an action may be sent. The guards apply to every action, whichever plugin sends it.
//!
//! Guards are pure functions over a [`GuardInput`]: a live snapshot, the ledger, the object's policy, the clock
//! and what was read for the action. They cover what Redis itself does not check and what loses data or a
//! shard. Measured with Redis 7.0.15:
//! - One `CLUSTER MEET` to an address that another cluster uses by now merges the two clusters within 1.2 s,
//!   and the keys of the one with the lower epochs are dropped.
//! - A primary that restarts without data before its failure is detected makes its replicas delete theirs
//!   within 3 s.
//! - A second manual failover of one shard within twice the node timeout is refused by the voters and stalls
//!   writes for 5 s.
//! - A failover while a slot is open takes down the shard at the other end of the slot as well.
//! - A primary that is cut off from the majority goes on acknowledging writes; after a `TAKEOVER` all of them
//!   are lost.
//!
//! Invariants:
//! - A fact that the snapshot does not contain counts as not holding.
//! - An action is sent only to a Pod that is a running member which answered, and a member is only given the
//!   address of such a Pod. `allow-start` alone is for a member that does not answer yet.
//! - A verb that can lose data needs the object's policy or a person's approval, and besides the plugin's grant
//!   `lose-data` (checked in `act.rs`). That a primary does not answer never proves its death.
//! - A refusal names what was expected and what was found.
//!
//! To add a guard: add its id to [`GuardId`], check it in the module of its verb (or in `common` for several
//! verbs), and call it from [`check`].

mod absence;
mod common;
mod death;
mod failover;
mod forget;
mod start;
mod stop;
mod topology;

pub(crate) use absence::{
    AbsentNodeEvidence, MissingDeathProof, NodesConfirmedByPerson, OUT_OF_SERVICE,
    RedisNodeDeathVerdict, conclude, confirmed, due_at_ms,
};
pub(crate) use death::{DeathProof, DialOutcome, RedisNodeLiveReads, deaths, proof_of_death};
pub(crate) use failover::suspects;
pub(crate) use stop::{PodStoppedByCall, record_stops, stop};

use std::collections::{BTreeMap, BTreeSet};

use tholepin_core::CallError;
use tholepin_schema::{
    action::{Action, ActionOutcome, FailoverMode, Verb},
    command,
    guard_id::GuardId,
    primitives::{NodeId, SlotSet},
    snapshot::{Member, MemberFacts, Snapshot},
};

use crate::{fact::ObservedObjects, ledger_document::Ledger};

/// The maximum age of a snapshot, in milliseconds, when an action is sent after it.
pub(crate) const SNAPSHOT_AGE_MS_MAX: u64 = 2_000;

/// The losses that the object's owner allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SafetyPolicy {
    /// Whether a dead primary may be replaced although writes that only it had are lost.
    pub(crate) tail_loss: bool,
    /// Whether all data may be lost, as of a cache.
    pub(crate) data_loss: bool,
}

/// The data that a person gives up by an annotation on the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DataLossApproval {
    /// The nodes whose data is given up.
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Entries of the annotation that name no known process: a typo, or an approval for a process that has
    /// ended.
    pub(crate) unknown: Vec<String>,
}

/// What an action can lose, judged by its effect on this snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LossClass {
    /// Nothing.
    Safe,
    /// Writes that were acknowledged and not replicated.
    TailLoss,
    /// Any data.
    DataLoss,
}

/// The input of the guards that check an action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardInput<'a> {
    /// Taken for the wave of this action.
    pub(crate) snapshot: &'a Snapshot,
    /// The ledger, with this snapshot recorded in it.
    pub(crate) ledger: &'a Ledger,
    /// The object's policy.
    pub(crate) policy: SafetyPolicy,
    /// Nodes that are proven dead, by [`deaths`] or by live reads.
    pub(crate) deaths: &'a BTreeMap<NodeId, DeathProof>,
    /// Nodes whose data a person gives up, by the annotation on the object.
    pub(crate) approved: &'a DataLossApproval,
    /// For nodes that live reads did not prove dead: what is missing for a takeover.
    pub(crate) unproven: &'a BTreeMap<NodeId, MissingDeathProof>,
    /// The objects that the actions' preconditions name, read for this wave: from the API server, or in a plan
    /// from the reconcile's view.
    pub(crate) objects: &'a ObservedObjects,
    /// Now, in milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// The refusal of an action by a guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{guard}: {message}")]
pub(crate) struct GuardRefusal {
    /// The guard that refuses.
    pub(crate) guard: GuardId,
    /// What was expected, and the value that was found.
    pub(crate) message: String,
}

impl GuardRefusal {
    pub(crate) fn new(guard: GuardId, message: impl Into<String>) -> Self {
        Self { guard, message: message.into() }
    }
}

impl From<GuardRefusal> for CallError {
    fn from(refusal: GuardRefusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

impl From<GuardRefusal> for ActionOutcome {
    fn from(refusal: GuardRefusal) -> Self {
        let GuardRefusal { guard, message } = refusal;
        Self::Refused { guard: guard.to_string(), message }
    }
}

/// Checks the actions of a list against each other. All actions of a wave are checked on one snapshot, so two
/// of them can each be right and still contradict each other.
///
/// # Errors
///
/// Fails if two actions assign the same slot to two Pods, or fail over the same primary.
pub(crate) fn check_list(actions: &[Action]) -> Result<(), GuardRefusal> {
    let mut assigned: Vec<(&str, &SlotSet)> = Vec::new();
    let mut replaced: BTreeSet<NodeId> = BTreeSet::new();
    for action in actions {
        match &action.verb {
            Verb::AssignSlots { pod, slots } => {
                for (other, theirs) in assigned.iter().filter(|(other, _)| other != pod) {
                    let both = theirs.intersection(slots);
                    if !both.is_empty() {
                        let text = format!("`{other}` and `{pod}` would both own {both}");
                        return Err(GuardRefusal::new(GuardId::List, text));
                    }
                }
                assigned.push((pod, slots));
            }
            Verb::Failover { primary, .. } => {
                if !replaced.insert(*primary) {
                    let text = format!("{} would be replaced twice", primary.short());
                    return Err(GuardRefusal::new(GuardId::List, text));
                }
            }
            Verb::Meet { .. }
            | Verb::SetConfigEpoch { .. }
            | Verb::Replicate { .. }
            | Verb::Forget { .. }
            | Verb::AllowStart { .. }
            | Verb::Configure { .. } => {}
        }
    }
    Ok(())
}

/// Checks one action with all available inputs.
///
/// # Errors
///
/// Fails with the first guard that refuses.
pub(crate) fn check(action: &Action, input: &GuardInput<'_>) -> Result<(), GuardRefusal> {
    let GuardInput { snapshot, ledger, .. } = input;
    common::is_fresh(input)?;
    common::check_preconditions(action, input)?;
    match &action.verb {
        // A setting changes no topology and may help an instance that a foreign node blocks, so the checks
        // below do not apply.
        Verb::Configure { pod, settings, temporary } => {
            return configure(snapshot, pod, settings, *temporary);
        }
        Verb::Meet { pod, with } => topology::meet(input, pod, with)?,
        Verb::SetConfigEpoch { pod, epoch } => topology::set_epoch(input, pod, *epoch)?,
        Verb::AssignSlots { pod, slots } => topology::assign(input, pod, slots)?,
        Verb::Replicate { pod, primary } => topology::replicate(input, pod, *primary)?,
        Verb::Failover { pod, primary, mode } => failover::failover(input, pod, *primary, *mode)?,
        Verb::Forget { node } => forget::forget(input, *node)?,
        Verb::AllowStart { pod, node } => start::start(input, pod, *node)?,
    }
    common::no_foreign(snapshot, ledger)?;
    common::allowed(class(action, input), &given_up_by(action, input), input)
}

fn configure(
    snapshot: &Snapshot,
    pod: &str,
    settings: &BTreeMap<String, String>,
    temporary: bool,
) -> Result<(), GuardRefusal> {
    let (member, facts) = common::answering(snapshot, pod)?;
    let address = member.address.as_deref().and_then(|address| address.rsplit_once(':'));
    command::check_settings(settings, address.map(|(ip, _)| ip))
        .map_err(|error| GuardRefusal::new(GuardId::Setting, error.to_string()))?;
    let unknown = settings.keys().find(|name| temporary && !facts.settings.contains_key(*name));
    let Some(name) = unknown else { return Ok(()) };
    let text = format!(
        "the present value of `{name}`, which must be restored later, is not known: name it in the instance's \
         `settings`"
    );
    Err(GuardRefusal::new(GuardId::Restore, text))
}

/// Returns what an action can lose, whether or not a person has approved it.
#[must_use]
pub(crate) fn class_without_approval(action: &Action, input: &GuardInput<'_>) -> LossClass {
    let approved = &DataLossApproval::default();
    class(action, &GuardInput { approved, ..*input })
}

/// Returns what an action can lose that no person has approved.
#[must_use]
pub(crate) fn class(action: &Action, input: &GuardInput<'_>) -> LossClass {
    match &action.verb {
        Verb::Failover { mode: FailoverMode::Graceful, .. } => LossClass::Safe,
        Verb::Failover { pod, primary, mode: FailoverMode::Force | FailoverMode::Takeover } => {
            let facts = input.snapshot.member(pod).and_then(Member::facts);
            let is_empty = facts.is_some_and(MemberFacts::has_never_synced);
            if !is_empty && !death::lost_link_before(input, pod, *primary) {
                return LossClass::TailLoss;
            }
            let slots = start::slots_of(input, *primary);
            start::class(input, &[*primary], &slots).max(LossClass::TailLoss)
        }
        // The slots may belong to nodes that are away: their data is given up.
        Verb::AssignSlots { slots, .. } => {
            let lost = given_up_by(action, input);
            if lost.is_empty() { LossClass::Safe } else { start::class(input, &lost, slots) }
        }
        Verb::Forget { node } | Verb::AllowStart { node, .. } => {
            start::class(input, &[*node], &start::slots_of(input, *node))
        }
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::Replicate { .. }
        | Verb::Configure { .. } => LossClass::Safe,
    }
}

/// Returns the nodes whose data an action gives up.
pub(crate) fn given_up_by(action: &Action, input: &GuardInput<'_>) -> Vec<NodeId> {
    match &action.verb {
        Verb::AssignSlots { pod, slots } => {
            let own = input.snapshot.member(pod).and_then(|member| member.node());
            let others = input.ledger.nodes.iter().filter(|(node, _)| Some(**node) != own);
            let had = others.filter(|(_, known)| !known.slots.intersection(slots).is_empty());
            had.map(|(node, _)| *node).collect()
        }
        Verb::Forget { node } | Verb::AllowStart { node, .. } => vec![*node],
        Verb::Failover { primary, .. } => vec![*primary],
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::Replicate { .. }
        | Verb::Configure { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
