//! Sends what was decided, and waits until what was promised is visible.

use futures::future::join_all;
use tholepin_core::CallError;
use tholepin_schema::primitives::Role;
use tokio::time::{Instant, sleep};

use super::{
    decide::{MemberCommand, VerbDecision, own_row},
    send_failure::SendFailure,
};
use crate::{
    error,
    observe::command,
    pool::{CallTarget, ConnectionPool},
};

/// Sends the commands of a decision, all at once, and waits for the roles that it must bring.
///
/// # Errors
///
/// Fails with the first command that did not work, or if a role was not seen in time.
pub(super) async fn send(
    pool: &ConnectionPool,
    decision: &VerbDecision<'_>,
) -> Result<(), SendFailure> {
    let VerbDecision { orders, roles, note: _ } = decision;
    let until = Instant::now() + pool.limits().failover;
    let told = join_all(orders.iter().map(|order| send_command(pool, order))).await;
    for result in told {
        // Of several that were told at once the others may have obeyed.
        result.map_err(|failed| SendFailure {
            may_have_run: failed.may_have_run || 1 < orders.len(),
            ..failed
        })?;
    }
    for (target, role) in roles {
        wait_for_role(pool, *target, *role, until).await?;
    }
    Ok(())
}

/// Sends one command that changes something, and wants no error for a reply.
async fn send_command(pool: &ConnectionPool, order: &MemberCommand<'_>) -> Result<(), SendFailure> {
    let MemberCommand { target, words } = order;
    let pod = &target.member.pod;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let replies = pool.call(*target, &[command(&words)], pool.limits().step).await;
    let replies = replies.map_err(|failure| {
        let may_have_run = failure.may_have_run();
        SendFailure { error: failure.into_call_error(pod), may_have_run }
    })?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        let what =
            format!("`{pod}`: {}", words.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        return Err(SendFailure::before(error::call_error(&what, text)));
    }
    Ok(())
}

/// Looks at a node until it has this role in its own view.
async fn wait_for_role(
    pool: &ConnectionPool,
    target: CallTarget<'_>,
    role: Role,
    until: Instant,
) -> Result<(), SendFailure> {
    let pod = &target.member.pod;
    loop {
        let row = own_row(pool, target).await.map_err(|failed| SendFailure::after(failed.error))?;
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
            return Err(SendFailure::after(CallError::Timeout(text)));
        }
        sleep(pool.limits().failover_poll).await;
    }
}
