//! Sends what was decided, and waits until what was promised is visible.

use futures::future::join_all;
use tholepin_core::CallError;
use tholepin_schema::{action::Outcome, word::Role};
use tokio::time::{Instant, sleep};

use super::decide::{Decision, Order, own_row};
use crate::{
    error,
    observe::command,
    pool::{Pool, Target},
};

/// How a verb failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: CallError,
    pub(super) may_have_run: bool,
}

impl Failed {
    /// Nothing was changed.
    pub(super) const fn before(error: CallError) -> Self {
        Self { error, may_have_run: false }
    }

    /// Something may have been changed.
    const fn after(error: CallError) -> Self {
        Self { error, may_have_run: true }
    }
}

impl From<Failed> for Outcome {
    fn from(Failed { error, may_have_run }: Failed) -> Self {
        Self::Failed { reason: error.reason().to_owned(), message: error.to_string(), may_have_run }
    }
}

/// Sends the commands of a decision, all at once, and waits for the roles that it must bring.
///
/// # Errors
///
/// Fails with the first command that did not work, or if a role was not seen in time.
pub(super) async fn send(pool: &Pool, decision: &Decision<'_>) -> Result<(), Failed> {
    let Decision { orders, roles, note: _ } = decision;
    let until = Instant::now() + pool.limits().failover;
    let told = join_all(orders.iter().map(|order| tell(pool, order))).await;
    for result in told {
        // Of several that were told at once the others may have obeyed.
        result.map_err(|failed| Failed {
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
async fn tell(pool: &Pool, order: &Order<'_>) -> Result<(), Failed> {
    let Order { target, words } = order;
    let pod = &target.member.pod;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let replies = pool.call(*target, &[command(&words)], pool.limits().step).await;
    let replies = replies.map_err(|failure| {
        let may_have_run = failure.may_have_run();
        Failed { error: failure.into_call_error(pod), may_have_run }
    })?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        let what =
            format!("`{pod}`: {}", words.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        return Err(Failed::before(error::call_error(&what, text)));
    }
    Ok(())
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
