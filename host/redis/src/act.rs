//! Performs verbs: one step each, on the members and on nobody else.
//!
//! Guards were evaluated before; here each verb looks once more at the node it changes, so that what
//! is already so is done without a word, and waits until what it promises is visible.

mod failover;
mod forget;
mod step;

use std::collections::BTreeMap;

use futures::future::join_all;
use tholepin_core::port::Members;
use tholepin_schema::action::{Action, Outcome, Verb};
use tokio::time::Instant;

use crate::pool::Pool;
use step::Step;

/// Performs a wave: members at once, on each in the order of the list.
pub(crate) async fn act(pool: &Pool, members: &Members, wave: &[Action]) -> Vec<Outcome> {
    let mut queues: BTreeMap<Option<&str>, Vec<(usize, &Verb)>> = BTreeMap::new();
    for (index, action) in wave.iter().enumerate() {
        queues.entry(action.verb.pod()).or_default().push((index, &action.verb));
    }
    let queues = queues.into_values().map(|queue| in_order(pool, members, queue));
    let mut outcomes: BTreeMap<usize, Outcome> =
        join_all(queues).await.into_iter().flatten().collect();
    // Each index was in one queue.
    (0..wave.len()).filter_map(|index| outcomes.remove(&index)).collect()
}

async fn in_order(
    pool: &Pool,
    members: &Members,
    queue: Vec<(usize, &Verb)>,
) -> Vec<(usize, Outcome)> {
    let mut outcomes = Vec::with_capacity(queue.len());
    for (index, verb) in queue {
        let since = Instant::now();
        let step = perform(pool, members, verb).await;
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        outcomes.push((index, step::outcome(step, took_ms)));
    }
    outcomes
}

async fn perform(pool: &Pool, members: &Members, verb: &Verb) -> Step {
    let at = |pod: &str| step::target(members, pod);
    match verb {
        Verb::Meet { pod, with } => step::meet(pool, at(pod)?, at(with)?).await,
        Verb::SetConfigEpoch { pod, epoch } => step::set_epoch(pool, at(pod)?, *epoch).await,
        Verb::AssignSlots { pod, slots } => step::assign(pool, at(pod)?, slots).await,
        Verb::Replicate { pod, primary } => step::replicate(pool, at(pod)?, *primary).await,
        Verb::Failover { pod, primary, mode } => {
            failover::failover(pool, members, at(pod)?, *primary, *mode).await
        }
        Verb::Forget { node } => forget::forget(pool, members, *node).await,
        // Putting back what is temporary is the gate's work.
        Verb::Configure { pod, settings, temporary: _ } => {
            step::configure(pool, at(pod)?, settings).await
        }
    }
}
