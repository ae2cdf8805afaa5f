//! Performs verbs: one step each, on the members and on nobody else.
//!
//! Guards were evaluated before; here each verb looks once more at the node it changes. What it comes
//! down to is decided as data ([`decide`]) before anything is sent ([`send`]); a plan ends in between.

mod decide;
mod send;
mod send_failure;

use std::collections::BTreeMap;

use futures::future::join_all;
use tholepin_core::port::{InstanceMembers, PerformedAction};
use tholepin_schema::action::{Action, ActionOutcome, Verb};
use tokio::time::Instant;

use crate::pool::ConnectionPool;

/// How far a decision goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCondition {
    /// Commands are decided; nothing that changes anything is sent.
    Decided,
    /// They are sent, and what they promise is seen.
    Done,
}

/// Takes a wave as far as that: members at once, on each in the order of the list.
pub(crate) async fn act(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    wave: &[Action],
    until: StopCondition,
) -> Vec<PerformedAction> {
    let mut queues: BTreeMap<Option<&str>, Vec<(usize, &Verb)>> = BTreeMap::new();
    for (index, action) in wave.iter().enumerate() {
        queues.entry(action.verb.pod()).or_default().push((index, &action.verb));
    }
    let queues = queues.into_values().map(|queue| in_order(pool, members, queue, until));
    let mut deeds: BTreeMap<usize, PerformedAction> =
        join_all(queues).await.into_iter().flatten().collect();
    // Each index was in one queue.
    (0..wave.len()).filter_map(|index| deeds.remove(&index)).collect()
}

async fn in_order(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    queue: Vec<(usize, &Verb)>,
    until: StopCondition,
) -> Vec<(usize, PerformedAction)> {
    let mut deeds = Vec::with_capacity(queue.len());
    for (index, verb) in queue {
        deeds.push((index, perform(pool, members, verb, until).await));
    }
    deeds
}

async fn perform(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    verb: &Verb,
    until: StopCondition,
) -> PerformedAction {
    let since = Instant::now();
    let decision = match decide::decide(pool, members, verb).await {
        Ok(decision) => decision,
        Err(failed) => return PerformedAction { outcome: failed.into(), commands: Vec::new() },
    };
    let commands = decision.orders.iter().map(decide::MemberCommand::shown).collect();
    let sent = match until {
        StopCondition::Decided => Ok(()),
        StopCondition::Done => send::send(pool, &decision).await,
    };
    let outcome = match sent {
        Ok(()) => {
            let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            ActionOutcome::Done { took_ms, note: decision.note }
        }
        Err(failed) => failed.into(),
    };
    PerformedAction { outcome, commands }
}
