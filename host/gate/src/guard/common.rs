//! Guards that several verbs share.

use tholepin_schema::{
    action::{Action, Preconditions, Verb},
    fact::FactCheckOutcome,
    guard_id::GuardId,
    primitives::{ConfigEpoch, NodeId},
    snapshot::{ClusterNodesRow, Member, MemberAnswer, MemberFacts, Snapshot},
};

use super::{GuardInput, GuardRefusal, LossClass, SNAPSHOT_AGE_MS_MAX, start};
use crate::{
    fact::{self, FactSubjectDocuments},
    ledger::foreign_nodes,
    ledger_document::{KnownNode, Ledger},
};

/// Requires that the snapshot is young enough to act on.
pub(super) fn is_fresh(input: &GuardInput<'_>) -> Result<(), GuardRefusal> {
    let observed_at_ms = input.snapshot.observed_at_ms;
    let Some(age_ms) = input.now_ms.checked_sub(observed_at_ms) else {
        let text = format!(
            "the snapshot was taken at {observed_at_ms} ms, and it is {} ms now: the clock went back",
            input.now_ms
        );
        return Err(GuardRefusal::new(GuardId::Fresh, text));
    };
    if SNAPSHOT_AGE_MS_MAX < age_ms {
        let text = format!("the snapshot is {age_ms} ms old, {SNAPSHOT_AGE_MS_MAX} are allowed");
        return Err(GuardRefusal::new(GuardId::Fresh, text));
    }
    Ok(())
}

/// Returns the member in this Pod, which must run and have answered.
pub(super) fn answering<'a>(
    snapshot: &'a Snapshot,
    pod: &str,
) -> Result<(&'a Member, &'a MemberFacts), GuardRefusal> {
    let refused = |text: String| Err(GuardRefusal::new(GuardId::Member, text));
    if snapshot.strangers.iter().any(|stranger| stranger == pod) {
        return refused(format!("`{pod}` matches the selector and belongs to another owner"));
    }
    let Some(member) = snapshot.member(pod) else {
        return refused(format!("`{pod}` is no Pod of this instance"));
    };
    if !member.running {
        return refused(format!("the container of `{pod}` does not run"));
    }
    match &member.answer {
        MemberAnswer::Answered(facts) => Ok((member, facts)),
        MemberAnswer::Unreachable { message, .. } => {
            refused(format!("`{pod}` does not answer: {message}"))
        }
        MemberAnswer::Other => refused(format!("the answer of `{pod}` is not known to this host")),
    }
}

/// Returns the node id of a member that answered, and the row in which it reports itself.
pub(super) fn own_row<'a>(
    snapshot: &'a Snapshot,
    pod: &str,
) -> Result<(NodeId, &'a ClusterNodesRow), GuardRefusal> {
    let (member, facts) = answering(snapshot, pod)?;
    let row = facts.node.and_then(|id| Some((id, snapshot.row_seen_by(member, id)?)));
    row.ok_or_else(|| {
        GuardRefusal::new(
            GuardId::Member,
            format!("`{pod}` does not report its own row of CLUSTER NODES"),
        )
    })
}

/// Requires that no member knows a reachable node that is neither a member nor in the ledger.
pub(super) fn no_foreign(snapshot: &Snapshot, ledger: &Ledger) -> Result<(), GuardRefusal> {
    let foreign = foreign_nodes(snapshot, ledger);
    let Some(first) = foreign.first() else { return Ok(()) };
    let address = snapshot
        .members
        .iter()
        .find_map(|member| snapshot.row_seen_by(member, *first)?.address.clone())
        .unwrap_or_default();
    let count = foreign.len();
    let text = format!(
        "members know {count} foreign nodes, among them {} at {address}: two clusters may have merged; the \
         topology is not changed until a person has resolved this",
        first.short()
    );
    Err(GuardRefusal::new(GuardId::Foreign, text))
}

/// Requires that the object's policy allows what the action can lose, and that the instance is adopted (all
/// members have answered and agreed once): before that, only safe actions are allowed.
pub(super) fn allowed(
    class: LossClass,
    lost: &[NodeId],
    input: &GuardInput<'_>,
) -> Result<(), GuardRefusal> {
    let is_allowed = match class {
        LossClass::Safe => return Ok(()),
        LossClass::TailLoss => input.policy.tail_loss,
        LossClass::DataLoss => input.policy.data_loss,
    };
    if input.ledger.adopted_at_ms.is_none() {
        let has_answered = |member: &&Member| {
            let is_known = |known: &KnownNode| known.pod_uid == member.pod_uid;
            member.facts().is_some() || input.ledger.nodes.values().any(is_known)
        };
        let text = match input.snapshot.members.iter().find(|member| !has_answered(member)) {
            Some(member) => format!(
                "`{}` has never answered, so its data is not known: make it answer once, or delete its Pod if \
                 it has no data",
                member.pod
            ),
            None => "the members that answer do not agree yet who owns which slots".to_owned(),
        };
        return Err(GuardRefusal::new(GuardId::Adopted, text));
    }
    if is_allowed {
        return Ok(());
    }
    let text = match (class, lost.first()) {
        (LossClass::DataLoss, Some(node)) => format!(
            "it gives up the data that only {} had, and the object's policy does not allow that; bring that \
             node back, or give up its data: {}",
            node.short(),
            start::remedy(input, *node)
        ),
        (LossClass::DataLoss, None) => {
            "it can lose data, and the object's policy does not allow that".to_owned()
        }
        (LossClass::Safe | LossClass::TailLoss, _) => {
            "it can lose writes that were not replicated, and the object's policy does not allow that"
                .to_owned()
        }
    };
    Err(GuardRefusal::new(
        if class == LossClass::DataLoss { GuardId::DataLoss } else { GuardId::Policy },
        text,
    ))
}

/// Requires that the action's preconditions hold.
pub(super) fn check_preconditions(
    action: &Action,
    input: &GuardInput<'_>,
) -> Result<(), GuardRefusal> {
    let GuardInput { snapshot, objects, .. } = input;
    let Preconditions { node, run_id, role, epoch, approved, facts: presumed } = &action.presume;
    let member = action.verb.pod().and_then(|pod| snapshot.member(pod));
    let facts = member.and_then(Member::facts);
    let own = member.and_then(|member| snapshot.row_seen_by(member, member.node()?));
    is_as_presumed("node", node.as_ref(), facts.and_then(|facts| facts.node.as_ref()))?;
    is_as_presumed("run id", run_id.as_ref(), facts.and_then(|facts| facts.run_id.as_ref()))?;
    is_as_presumed("role", role.as_ref(), own.map(|row| &row.role))?;
    let agreed = |node: &NodeId| snapshot.view.get(node).map(|row| row.epoch);
    let found: Option<ConfigEpoch> = match &action.verb {
        Verb::Failover { primary, .. } | Verb::Replicate { primary, .. } => agreed(primary),
        Verb::Forget { node } | Verb::AllowStart { node, .. } => agreed(node),
        Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::AssignSlots { .. }
        | Verb::Configure { .. } => own.map(|row| row.epoch),
    };
    is_as_presumed("epoch", epoch.as_ref(), found.as_ref())?;
    if *approved {
        is_approved(&super::given_up_by(action, input), input)?;
    }
    let documents = FactSubjectDocuments::of(snapshot, presumed);
    for fact in presumed {
        let held = fact::evaluate(fact, Some(&documents), objects);
        if held != FactCheckOutcome::Yes {
            return Err(GuardRefusal::new(
                GuardId::Presume,
                format!("the precondition that {fact} does not hold: {held}"),
            ));
        }
    }
    Ok(())
}

/// Requires that a person has given up the data of each of these nodes.
fn is_approved(nodes: &[NodeId], input: &GuardInput<'_>) -> Result<(), GuardRefusal> {
    let Some(node) = nodes.iter().find(|node| !input.approved.nodes.contains(node)) else {
        return Ok(());
    };
    let text = format!(
        "no replica is known to have all data of {}; bring that node back, or give up the data that only it \
         has: {}",
        node.short(),
        start::remedy(input, *node)
    );
    Err(GuardRefusal::new(GuardId::NotInSyncReason, text))
}

fn is_as_presumed<T: PartialEq + std::fmt::Display>(
    what: &str,
    presumed: Option<&T>,
    found: Option<&T>,
) -> Result<(), GuardRefusal> {
    match (presumed, found) {
        (None, _) => Ok(()),
        (Some(presumed), Some(found)) if presumed == found => Ok(()),
        (Some(presumed), Some(found)) => {
            let text = format!("the {what} must be {presumed} and is {found}");
            Err(GuardRefusal::new(GuardId::Presume, text))
        }
        (Some(presumed), None) => {
            let text = format!("the {what} must be {presumed} and is not known");
            Err(GuardRefusal::new(GuardId::Presume, text))
        }
    }
}
