//! Determines when the stop of a member is over, so that the next member may be stopped.

use tholepin_schema::{
    primitives::Role,
    snapshot::{Member, Snapshot},
};

use crate::ledger_document::Ledger;

/// How long, in milliseconds, a Pod may still answer after its stop was sent. After that the stop counts as
/// not performed.
const STOP_MS_MAX: u64 = 60_000;

/// Drops the stops that are over: the Pod has a successor that has taken its place, the stop was not
/// performed, or the node was forgotten.
pub(super) fn drop_finished(ledger: &mut Ledger, snapshot: &Snapshot, now_ms: u64) {
    let nodes = &ledger.nodes;
    ledger.stopped.retain(|uid, stopped| {
        let successor = snapshot.members.iter().find(|member| member.pod == stopped.pod);
        match successor {
            Some(member) if member.pod_uid == *uid => {
                let is_late = stopped.at_ms.saturating_add(STOP_MS_MAX) <= now_ms;
                member.deleting || member.node().is_none() || !is_late
            }
            Some(member) => !has_its_place(snapshot, member),
            None => stopped.node.is_none_or(|node| nodes.contains_key(&node)),
        }
    });
}

/// Returns true if a member has loaded its data and owns slots, or is in sync with its primary.
fn has_its_place(snapshot: &Snapshot, member: &Member) -> bool {
    let own = member.node().and_then(|node| snapshot.row_seen_by(member, node));
    member.has_loaded()
        && own.is_some_and(|row| match row.role {
            Role::Primary => !row.slots.is_empty(),
            Role::Replica => snapshot.check_in_sync(&member.pod, u64::MAX).is_ok(),
            Role::Other => false,
        })
}
