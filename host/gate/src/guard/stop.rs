//! Guards of a write to Kubernetes that stops a member or drops its volume, whichever call it is.

use std::collections::BTreeMap;

use tholepin_schema::{
    guard_id::GuardId,
    primitives::{NodeId, Role},
    snapshot::{ClusterNodesRow, Member, MemberFacts, NodeFlag, Snapshot},
};

use super::{DataLossApproval, GuardInput, GuardRefusal, LossClass, SafetyPolicy, common};
use crate::{
    fact::ObservedObjects,
    ledger_document::{Ledger, MemberStoppedByHost},
};

/// A Pod that a call would end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodStoppedByCall {
    /// Its name.
    pub(crate) pod: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Whether the group's container runs now.
    pub(crate) runs: bool,
    /// Whether its volume is deleted as well.
    pub(crate) drops_volume: bool,
}

/// Returns what stopping these Pods can lose.
///
/// # Errors
///
/// Fails with the first guard that refuses.
pub(crate) fn stop(
    snapshot: &Snapshot,
    ledger: &Ledger,
    policy: SafetyPolicy,
    stops: &[PodStoppedByCall],
    now_ms: u64,
) -> Result<LossClass, GuardRefusal> {
    let with_data: Vec<&PodStoppedByCall> =
        stops.iter().filter(|stop| !never_served(stop, ledger)).collect();
    let Some(first) = with_data.first() else { return Ok(LossClass::Safe) };
    if let Some(second) = with_data.get(1) {
        let (count, first, second) = (with_data.len(), &first.pod, &second.pod);
        let text = format!(
            "it would stop {count} members at once, among them `{first}` and `{second}`; stop one, and the \
             next when the first has returned"
        );
        return Err(GuardRefusal::new(GuardId::Stop, text));
    }
    let (deaths, unproven) = (BTreeMap::new(), BTreeMap::new());
    let (objects, approved) = (ObservedObjects::new(), DataLossApproval::default());
    let input = GuardInput {
        snapshot,
        ledger,
        policy,
        deaths: &deaths,
        unproven: &unproven,
        approved: &approved,
        objects: &objects,
        now_ms,
    };
    common::is_fresh(&input)?;
    common::no_foreign(snapshot, ledger)?;
    if let Some((_, other)) = ledger.stopped.iter().find(|(uid, _)| **uid != first.uid) {
        let text = format!("`{}` was stopped and has not returned yet", other.pod);
        return Err(GuardRefusal::new(GuardId::Stop, text));
    }
    let class = class(snapshot, ledger, first)?;
    common::allowed(class, &[], &input)?;
    Ok(class)
}

/// Returns true if nothing can be lost with a Pod: it never answered and its container does not run now.
/// Nothing is in memory then, and its volume stays.
fn never_served(stop: &PodStoppedByCall, ledger: &Ledger) -> bool {
    let is_known = ledger.nodes.values().any(|known| known.pod_uid == stop.uid);
    !(stop.drops_volume || is_known || stop.runs)
}

fn class(
    snapshot: &Snapshot,
    ledger: &Ledger,
    stop: &PodStoppedByCall,
) -> Result<LossClass, GuardRefusal> {
    let pod = &stop.pod;
    let member = snapshot.members.iter().find(|member| member.pod_uid == stop.uid);
    let recorded = ledger.nodes.iter().find(|(_, known)| known.pod_uid == stop.uid);
    let node = member.and_then(Member::node).or_else(|| recorded.map(|(node, _)| *node));
    let Some(node) = node else {
        let text =
            format!("`{pod}` does not report its data, so it may have some; wait until it answers");
        return Err(GuardRefusal::new(GuardId::Stop, text));
    };
    let owned = rows(snapshot, node).find(|row| !row.slots.is_empty()).map(|row| &row.slots);
    let known = recorded.map(|(_, known)| &known.slots).filter(|slots| !slots.is_empty());
    if let Some(slots) = owned.or(known) {
        // Redis refuses a graceful failover of a primary that its replica reports as failed.
        if is_given_up(snapshot, node) {
            return Ok(LossClass::TailLoss);
        }
        if let Some(replica) = in_sync_replica(snapshot, node) {
            let text = format!("`{pod}` serves slots {slots}; let `{replica}` take over first");
            return Err(GuardRefusal::new(GuardId::Stop, text));
        }
        return Ok(LossClass::DataLoss);
    }
    let row = rows(snapshot, node).next();
    let primary = row.filter(|row| row.role == Role::Replica).and_then(|row| row.primary);
    if let Some(primary) = primary {
        let copy = snapshot.member_of(primary).filter(|member| member.has_loaded());
        return Ok(if copy.is_some() { LossClass::Safe } else { LossClass::DataLoss });
    }
    let keys = member.and_then(Member::facts).and_then(|facts| facts.keys);
    Ok(if keys == Some(0) { LossClass::Safe } else { LossClass::DataLoss })
}

/// Returns true if the majority reports a primary as failed while a replica is still linked to it. Stopping
/// the primary then loses no more than the failover that the majority is about to vote for.
fn is_given_up(snapshot: &Snapshot, node: NodeId) -> bool {
    // Redis sets this flag only when the majority of the primaries agrees.
    let is_failed = |replica: &Member| {
        let row = snapshot.row_seen_by(replica, node);
        row.is_some_and(|row| row.flags.contains(&NodeFlag::Fail))
    };
    let is_linked = |facts: &MemberFacts| {
        let upstream = facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
        upstream.is_some_and(|upstream| upstream.link_up && !upstream.sync_in_progress)
    };
    let is_linked_replica = |other: &Member| {
        let own = other.node().and_then(|node| snapshot.row_seen_by(other, node));
        own.is_some_and(|row| row.primary == Some(node))
            && is_failed(other)
            && other.has_loaded()
            && other.facts().is_some_and(|facts| is_linked(facts) && !facts.has_never_synced())
    };
    snapshot.quorum().is_majority() && snapshot.members.iter().any(is_linked_replica)
}

/// Returns a replica that would lose nothing if it took over.
fn in_sync_replica(snapshot: &Snapshot, primary: NodeId) -> Option<&str> {
    let replicas = snapshot.members.iter().filter(|member| {
        let own = member.node().and_then(|node| snapshot.row_seen_by(member, node));
        own.is_some_and(|row| row.primary == Some(primary))
    });
    let mut in_sync =
        replicas.filter(|member| snapshot.check_in_sync(&member.pod, u64::MAX).is_ok());
    in_sync.next().map(|member| member.pod.as_str())
}

/// Returns the rows in which members report a node, the majority's first.
fn rows(snapshot: &Snapshot, node: NodeId) -> impl Iterator<Item = &ClusterNodesRow> {
    let each = snapshot.members.iter().filter_map(move |member| snapshot.row_seen_by(member, node));
    snapshot.view.get(&node).into_iter().chain(each)
}

/// Records that these Pods are about to be stopped. The ledger must be written before the stop is sent.
pub(crate) fn record_stops(ledger: &mut Ledger, stops: &[PodStoppedByCall], now_ms: u64) {
    let before = ledger.clone();
    for stop in stops.iter().filter(|stop| !never_served(stop, &before)) {
        let node = before.nodes.iter().find(|(_, known)| known.pod_uid == stop.uid);
        let stopped = MemberStoppedByHost {
            pod: stop.pod.clone(),
            node: node.map(|(node, _)| *node),
            at_ms: now_ms,
            unknown: BTreeMap::new(),
        };
        ledger.stopped.insert(stop.uid.clone(), stopped);
    }
}
