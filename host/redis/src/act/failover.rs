//! Failover as one operation: it ends when the roles have changed, or says why they have not.
//!
//! `OK` to `CLUSTER FAILOVER` means only that it is scheduled; Redis gives up in silence after five
//! seconds, during which a graceful one may hold the primary's writes.

use tholepin_core::{CallError, port::Members};
use tholepin_schema::{
    action::FailoverMode,
    snapshot::NodeRow,
    word::{NodeId, Role},
};
use tokio::time::{Instant, sleep};

use super::step::{Failed, Step, look, own_row, send};
use crate::{
    observe::as_redis_writes,
    pool::{Pool, Target},
};

pub(super) async fn failover(
    pool: &Pool,
    members: &Members,
    target: Target<'_>,
    primary: NodeId,
    mode: FailoverMode,
) -> Step {
    let pod = &target.member.pod;
    let nodes = look(pool, target).await.map_err(Failed::before)?;
    let Some(row) = nodes.own() else { return Err(conflict(pod, "it has no row of itself")) };
    if has_replaced(row, primary, nodes.rows.get(&primary)) {
        return Ok(format!("it has replaced {} already", primary.short()));
    }
    if row.role != Role::Replica || row.primary != Some(primary) {
        return Err(conflict(pod, &format!("it is no replica of {}", primary.short())));
    }
    // The old primary is one of the members, or it is not asked.
    let address = nodes.rows.get(&primary).and_then(|row| row.address.clone());
    let old = Target::all(members).find(|old| {
        old.member.address.is_some_and(|there| Some(as_redis_writes(there)) == address)
    });
    let until = Instant::now() + pool.limits().failover;
    match mode {
        FailoverMode::Graceful => send(pool, target, &["CLUSTER", "FAILOVER"]).await?,
        FailoverMode::Force => send(pool, target, &["CLUSTER", "FAILOVER", "FORCE"]).await?,
        FailoverMode::Takeover => send(pool, target, &["CLUSTER", "FAILOVER", "TAKEOVER"]).await?,
    };
    wait_for_role(pool, target, Role::Primary, until).await?;
    if let (FailoverMode::Graceful, Some(old)) = (mode, old) {
        wait_for_role(pool, old, Role::Replica, until).await?;
    }
    Ok(format!("it has replaced {}", primary.short()))
}

/// Whether the failover has happened before: the node serves slots, and the old primary does not.
fn has_replaced(row: &NodeRow, primary: NodeId, old: Option<&NodeRow>) -> bool {
    row.role == Role::Primary
        && !row.slots.is_empty()
        && old.is_some_and(|old| old.slots.is_empty())
        && row.primary != Some(primary)
}

/// Looks at a node until it has this role in its own view.
async fn wait_for_role(
    pool: &Pool,
    target: Target<'_>,
    role: Role,
    until: Instant,
) -> Result<(), Failed> {
    let pod = &target.member.pod;
    loop {
        let row = own_row(pool, target).await.map_err(|failed| Failed::after(failed.error))?;
        let has_slots = role == Role::Replica || !row.slots.is_empty();
        if row.role == role && has_slots {
            return Ok(());
        }
        if until < Instant::now() {
            let text = format!(
                "`{pod}` is still {} after {} ms: its primary did not hold writes, or the voters refused",
                row.role,
                pool.limits().failover.as_millis(),
            );
            return Err(Failed::after(CallError::Timeout(text)));
        }
        sleep(pool.limits().failover_poll).await;
    }
}

fn conflict(pod: &str, why: &str) -> Failed {
    Failed::before(CallError::Conflict(format!("`{pod}`: {why}")))
}
