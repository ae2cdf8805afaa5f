//! Finds objects that were not reconciled for too long, and writes a condition on each: their status may be wrong.

use std::time::Duration;

use tholepin_core::condition::Reason;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    conditions::{HostConditionUpdate, ObjectReconcilerPresence},
    controller::Controller,
    queue::{KeyCompletion, OverdueKey},
    reconcile::write_finding_of,
    shared_state::ControllerSharedState,
};

/// The shortest and the longest time between two searches.
const SEARCH_INTERVAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

impl Controller {
    /// Searches for overdue objects and writes `ReconcileOverdue` on each, once; never ends.
    pub(crate) async fn report_overdue(&self) {
        let (shortest, longest) = SEARCH_INTERVAL;
        let resync = self.shared.settings.resync;
        let mut ticks = interval((resync / 4).clamp(shortest, longest));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let overdue = self.shared.queue.inspect(|queue| queue.overdue(resync, Instant::now()));
            for overdue in overdue {
                report(&self.shared, &overdue).await;
            }
        }
    }
}

async fn report(shared: &ControllerSharedState, overdue: &OverdueKey) {
    let OverdueKey { key, not_reconciled_for, is_running } = overdue;
    let why = if *is_running { "its reconcile has not ended" } else { "it waits in the queue" };
    let message = format!(
        "it was not reconciled for {} s: {why}; its status may be wrong by now",
        not_reconciled_for.as_secs()
    );
    let (reason, presence) = (Reason::ReconcileOverdue, ObjectReconcilerPresence::Absent);
    let update = HostConditionUpdate { reason, message, presence };
    // A write that fails with a transient error is tried again by the next search.
    if write_finding_of(shared, key, update).await != KeyCompletion::Retry {
        shared.queue.mark_reported(key);
    }
}
