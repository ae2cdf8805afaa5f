//! What must be so before a verb is sent, whatever the plugin says.
//!
//! Pure functions over a live snapshot, the ledger, the object's policy and the clock. They follow
//! what Redis does and what Redis does not check itself: `redis.md` §1.8 and §4 say why each is there.
//!
//! Invariants:
//! - What the snapshot does not tell counts as not so.
//! - Nothing is sent to a Pod that is no running member which answered, and no member is told an
//!   address of one that is not.
//! - A verb that can lose data needs the object's policy; proof that a primary is dead never comes
//!   from its silence.
//! - A refusal says what was wanted and what was seen.

mod absence;
mod common;
mod death;
mod failover;
mod forget;
mod start;
mod stop;
mod topology;

pub(crate) use absence::OUT_OF_SERVICE;
pub use absence::{
    DeathConfirmations, DeathFinding, MissingProof, NodeAbsence, confirmed, due_at_ms, find,
};
pub use death::{DeathProof, DialOutcome, NodeLiveness, deaths, proof_of_death};
pub(crate) use failover::suspects;
pub(crate) use stop::{PodStop, stop, stopping};

use std::collections::{BTreeMap, BTreeSet};

use tholepin_schema::{
    action::{Action, ActionOutcome, FailoverMode, Verb},
    command,
    ledger::Ledger,
    primitives::{NodeId, SlotSet},
    snapshot::{Member, MemberFacts, Snapshot},
};

use crate::fact::ObservedObjects;

/// How old a snapshot may be when an action is sent after it.
pub const SNAPSHOT_AGE_MS_MAX: u64 = 2_000;

/// What the object's owner allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SafetyPolicy {
    /// Whether a primary that died may be replaced though writes that only it had are lost.
    pub tail_loss: bool,
    /// Whether everything may be lost: the object is a cache.
    pub data_loss: bool,
}

/// What a person gives up, by the annotation on the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataLossApproval {
    /// The nodes whose data is given up.
    pub nodes: BTreeSet<NodeId>,
    /// What of the annotation names no process that is known: a slip, or an approval of one that is gone.
    pub unknown: Vec<String>,
}

/// What an action can lose, by its effect on this snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossClass {
    /// Nothing.
    Safe,
    /// Writes that were acknowledged and not replicated.
    TailLoss,
    /// More than that.
    DataLoss,
}

/// All that a guard may look at.
#[derive(Clone, Copy, Debug)]
pub struct GuardInput<'a> {
    /// Taken for this wave.
    pub snapshot: &'a Snapshot,
    /// With this snapshot learnt.
    pub ledger: &'a Ledger,
    /// The object's.
    pub policy: SafetyPolicy,
    /// Nodes that are proven dead: [`deaths`] and what live reads added to it.
    pub deaths: &'a BTreeMap<NodeId, DeathProof>,
    /// Nodes whose data a person gives up, by the annotation on the object.
    pub approved: &'a DataLossApproval,
    /// What is missing to call nodes dead for a takeover that live reads were made about.
    pub unproven: &'a BTreeMap<NodeId, MissingProof>,
    /// What live reads say of the objects that actions presume something about.
    pub objects: &'a ObservedObjects,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Why an action is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{guard}: {message}")]
pub struct GuardRefusal {
    /// The guard, from a closed set.
    pub guard: &'static str,
    /// What was wanted and the value seen.
    pub message: String,
}

impl GuardRefusal {
    pub(crate) fn new(guard: &'static str, message: impl Into<String>) -> Self {
        Self { guard, message: message.into() }
    }
}

impl From<GuardRefusal> for ActionOutcome {
    fn from(refusal: GuardRefusal) -> Self {
        let GuardRefusal { guard, message } = refusal;
        Self::Refused { guard: guard.to_owned(), message }
    }
}

/// Checks one action on a snapshot, with no other proof of death than the snapshot's own Pod facts and
/// without a look at any object.
///
/// # Errors
///
/// Fails with the first guard that does not hold.
pub fn check(
    action: &Action,
    snapshot: &Snapshot,
    ledger: &Ledger,
    policy: &SafetyPolicy,
    now_ms: u64,
) -> Result<(), GuardRefusal> {
    let deaths = deaths(snapshot, ledger);
    let (objects, approved, unproven) =
        (ObservedObjects::new(), DataLossApproval::default(), BTreeMap::new());
    let scene = GuardInput {
        snapshot,
        ledger,
        policy: *policy,
        deaths: &deaths,
        unproven: &unproven,
        approved: &approved,
        objects: &objects,
        now_ms,
    };
    judge(action, &scene)
}

/// Checks what only the whole list shows: the actions of one wave are judged on one snapshot, and two
/// of them must not be right by themselves and wrong together.
///
/// # Errors
///
/// Fails if two actions assign the same slot to two Pods, or fail over the same primary.
pub fn check_list(actions: &[Action]) -> Result<(), GuardRefusal> {
    let mut assigned: Vec<(&str, &SlotSet)> = Vec::new();
    let mut replaced: BTreeSet<NodeId> = BTreeSet::new();
    for action in actions {
        match &action.verb {
            Verb::AssignSlots { pod, slots } => {
                for (other, theirs) in assigned.iter().filter(|(other, _)| other != pod) {
                    let both = theirs.intersection(slots);
                    if !both.is_empty() {
                        let text = format!("`{other}` and `{pod}` would both own {both}");
                        return Err(GuardRefusal::new("list", text));
                    }
                }
                assigned.push((pod, slots));
            }
            Verb::Failover { primary, .. } => {
                if !replaced.insert(*primary) {
                    let text = format!("{} would be replaced twice", primary.short());
                    return Err(GuardRefusal::new("list", text));
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

/// Checks one action with all that is known.
///
/// # Errors
///
/// Fails with the first guard that does not hold.
pub fn judge(action: &Action, scene: &GuardInput<'_>) -> Result<(), GuardRefusal> {
    let GuardInput { snapshot, ledger, .. } = scene;
    common::is_fresh(scene)?;
    common::presumed(action, scene)?;
    match &action.verb {
        // It changes no topology: a frozen instance may be calmed by it.
        Verb::Configure { pod, settings, temporary } => {
            return configure(snapshot, pod, settings, *temporary);
        }
        Verb::Meet { pod, with } => topology::meet(scene, pod, with)?,
        Verb::SetConfigEpoch { pod, epoch } => topology::set_epoch(scene, pod, *epoch)?,
        Verb::AssignSlots { pod, slots } => topology::assign(scene, pod, slots)?,
        Verb::Replicate { pod, primary } => topology::replicate(scene, pod, *primary)?,
        Verb::Failover { pod, primary, mode } => failover::failover(scene, pod, *primary, *mode)?,
        Verb::Forget { node } => forget::forget(scene, *node)?,
        Verb::AllowStart { pod, node } => start::start(scene, pod, *node)?,
    }
    common::no_foreign(snapshot, ledger)?;
    common::allowed(class(action, scene), &lost_with(action, scene), scene)
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
        .map_err(|error| GuardRefusal::new("setting", error.to_string()))?;
    let unknown = settings.keys().find(|name| temporary && !facts.settings.contains_key(*name));
    let Some(name) = unknown else { return Ok(()) };
    let text = format!(
        "the value of `{name}` to go back to is not known: name it in the instance's `settings`"
    );
    Err(GuardRefusal::new("restore", text))
}

/// What an action can lose.
#[must_use]
pub fn class(action: &Action, scene: &GuardInput<'_>) -> LossClass {
    match &action.verb {
        Verb::Failover { mode: FailoverMode::Graceful, .. } => LossClass::Safe,
        Verb::Failover { pod, primary, mode: FailoverMode::Force | FailoverMode::Takeover } => {
            let facts = scene.snapshot.member(pod).and_then(Member::facts);
            let is_empty = facts.is_some_and(MemberFacts::has_never_synced);
            if !is_empty && !death::fell_away_before(scene, pod, *primary) {
                return LossClass::TailLoss;
            }
            let slots = start::slots_of(scene, *primary);
            start::class(scene, &[*primary], &slots).max(LossClass::TailLoss)
        }
        // The data of nodes that are away is given up.
        Verb::AssignSlots { slots, .. } => {
            let lost = lost_with(action, scene);
            if lost.is_empty() { LossClass::Safe } else { start::class(scene, &lost, slots) }
        }
        Verb::Forget { node } | Verb::AllowStart { node, .. } => {
            start::class(scene, &[*node], &start::slots_of(scene, *node))
        }
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::Replicate { .. }
        | Verb::Configure { .. } => LossClass::Safe,
    }
}

/// The nodes whose data an action gives up.
pub(crate) fn lost_with(action: &Action, scene: &GuardInput<'_>) -> Vec<NodeId> {
    match &action.verb {
        Verb::AssignSlots { pod, slots } => {
            let own = scene.snapshot.member(pod).and_then(|member| member.node());
            let others = scene.ledger.nodes.iter().filter(|(node, _)| Some(**node) != own);
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
