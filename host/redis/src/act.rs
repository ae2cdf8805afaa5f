//! Performs verbs, each as one step, and only on members of the instance.
//!
//! The gate has evaluated the guards before. Each verb then reads the node that it changes again, and decides its
//! commands as data ([`decide`]) before it sends them ([`send`]). A plan stops between the two.

mod decide;
mod send;
mod send_failure;

use std::collections::BTreeMap;

use futures::future::join_all;
use tholepin_core::port::{InstanceMembers, PerformedAction};
use tholepin_schema::action::{Action, ActionOutcome, Verb};
use tokio::time::Instant;

use crate::pool::ConnectionPool;

/// The point at which a verb stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedisVerbStopPoint {
    /// The commands are decided, and no command that changes something is sent.
    Decided,
    /// The commands were sent and their effect was observed.
    Done,
}

/// Performs a wave up to the stop condition. The actions of different members run concurrently, those of one
/// member in the order of the wave.
pub(crate) async fn act(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    wave: &[Action],
    until: RedisVerbStopPoint,
) -> Vec<PerformedAction> {
    let mut queues: BTreeMap<Option<&str>, Vec<(usize, &Verb)>> = BTreeMap::new();
    for (index, action) in wave.iter().enumerate() {
        queues.entry(action.verb.pod()).or_default().push((index, &action.verb));
    }
    let queues = queues.into_values().map(|queue| perform_in_order(pool, members, queue, until));
    let mut results: BTreeMap<usize, PerformedAction> =
        join_all(queues).await.into_iter().flatten().collect();
    // Each index is in exactly one queue.
    (0..wave.len()).filter_map(|index| results.remove(&index)).collect()
}

async fn perform_in_order(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    queue: Vec<(usize, &Verb)>,
    until: RedisVerbStopPoint,
) -> Vec<(usize, PerformedAction)> {
    let mut results = Vec::with_capacity(queue.len());
    for (index, verb) in queue {
        results.push((index, perform(pool, members, verb, until).await));
    }
    results
}

async fn perform(
    pool: &ConnectionPool,
    members: &InstanceMembers,
    verb: &Verb,
    until: RedisVerbStopPoint,
) -> PerformedAction {
    let start = Instant::now();
    let decision = match decide::decide(pool, members, verb).await {
        Ok(decision) => decision,
        Err(failure) => return PerformedAction { outcome: failure.into(), commands: Vec::new() },
    };
    let commands = decision.commands.iter().map(decide::MemberCommand::shown).collect();
    let sent = match until {
        RedisVerbStopPoint::Decided => Ok(()),
        RedisVerbStopPoint::Done => send::send(pool, &decision).await,
    };
    let outcome = match sent {
        Ok(()) => {
            let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            ActionOutcome::Done { took_ms, note: decision.note }
        }
        Err(failure) => failure.into(),
    };
    PerformedAction { outcome, commands }
}
