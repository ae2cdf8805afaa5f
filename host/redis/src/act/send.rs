//! Sends the commands of a decision, and waits until their effect is observed.

use futures::future::join_all;
use tholepin_core::CallError;
use tholepin_schema::primitives::Role;
use tokio::time::{Instant, sleep};

use super::{
    decide::{MemberCommand, RedisVerbCommands, own_row},
    send_failure::RedisVerbSendFailure,
};
use crate::{
    error,
    observe::command,
    pool::{ConnectionPool, RedisCallTarget},
};

/// Sends the commands of a decision concurrently, and waits for its roles.
///
/// # Errors
///
/// Fails with the first command that failed, or if a role was not observed in time.
pub(super) async fn send(
    pool: &ConnectionPool,
    decision: &RedisVerbCommands<'_>,
) -> Result<(), RedisVerbSendFailure> {
    let RedisVerbCommands { commands, roles, note: _ } = decision;
    let until = Instant::now() + pool.limits().failover;
    let results = join_all(commands.iter().map(|command| send_command(pool, command))).await;
    for result in results {
        // If one of several concurrent commands failed, the others may have run.
        result.map_err(|failure| RedisVerbSendFailure {
            may_have_run: failure.may_have_run || 1 < commands.len(),
            ..failure
        })?;
    }
    for (target, role) in roles {
        wait_for_role(pool, *target, *role, until).await?;
    }
    Ok(())
}

/// Sends one command. An error reply means that it did not run.
async fn send_command(
    pool: &ConnectionPool,
    member_command: &MemberCommand<'_>,
) -> Result<(), RedisVerbSendFailure> {
    let MemberCommand { target, arguments } = member_command;
    let pod = &target.member.pod;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let replies = pool.call(*target, &[command(&arguments)], pool.limits().step).await;
    let replies = replies.map_err(|failure| {
        let may_have_run = failure.may_have_run();
        RedisVerbSendFailure { error: failure.into_call_error(pod), may_have_run }
    })?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        let what =
            format!("`{pod}`: {}", arguments.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        return Err(RedisVerbSendFailure::before(error::call_error(&what, text)));
    }
    Ok(())
}

/// Reads a node until it has this role in its own view.
async fn wait_for_role(
    pool: &ConnectionPool,
    target: RedisCallTarget<'_>,
    role: Role,
    until: Instant,
) -> Result<(), RedisVerbSendFailure> {
    let pod = &target.member.pod;
    loop {
        let row = own_row(pool, target)
            .await
            .map_err(|failure| RedisVerbSendFailure::after(failure.error))?;
        let has_slots = role == Role::Replica || !row.slots.is_empty();
        if row.role == role && has_slots {
            return Ok(());
        }
        if until < Instant::now() {
            let text = format!(
                "`{pod}` is still {} after {} ms: its primary did not pause writes, or the voters refused",
                row.role,
                pool.limits().failover.as_millis(),
            );
            return Err(RedisVerbSendFailure::after(CallError::Timeout(text)));
        }
        sleep(pool.limits().failover_poll).await;
    }
}
