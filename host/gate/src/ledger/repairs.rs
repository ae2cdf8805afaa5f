//! Records repairs in the ledger: when each was tried, and how often in a row it failed.

use tholepin_core::port::PerformedAction;
use tholepin_schema::action::ActionOutcome;

use crate::ledger_document::{Ledger, LedgerRepairAttempts};

/// How long a repair counts, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 600_000;
/// How many repairs of an object are kept; the oldest are dropped first.
const REPAIRS_MAX: usize = 256;

/// Records the result of a repair. An action that had nothing to do is not a try.
pub(crate) fn record_repair_try(
    ledger: &mut Ledger,
    key: &str,
    result: &PerformedAction,
    now_ms: u64,
) {
    let has_failed = match &result.outcome {
        ActionOutcome::Done { .. } if result.commands.is_empty() => return,
        ActionOutcome::Done { .. } => false,
        ActionOutcome::Failed { .. } => true,
        ActionOutcome::Refused { .. } | ActionOutcome::Skipped { .. } | _ => return,
    };
    let repair = ledger.repairs.entry(key.to_owned()).or_default();
    repair.tries_at_ms.retain(|at_ms| now_ms < at_ms.saturating_add(WINDOW_MS));
    repair.tries_at_ms.push(now_ms);
    repair.failed = if has_failed { repair.failed.saturating_add(1) } else { 0 };
}

/// Drops the repairs that no longer count, and the oldest beyond the limit.
pub(crate) fn drop_old(ledger: &mut Ledger, now_ms: u64) {
    ledger.repairs.retain(|_, repair| !recent(repair, now_ms).is_empty());
    while REPAIRS_MAX < ledger.repairs.len() {
        let last = |repair: &LedgerRepairAttempts| repair.tries_at_ms.last().copied();
        let oldest = ledger.repairs.iter().min_by_key(|(_, repair)| last(repair));
        let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
        ledger.repairs.remove(&oldest);
    }
}

/// Returns the tries that count, the oldest first.
pub(crate) fn recent(repair: &LedgerRepairAttempts, now_ms: u64) -> Vec<u64> {
    let counts = |at_ms: &&u64| now_ms < at_ms.saturating_add(WINDOW_MS);
    let mut recent: Vec<u64> = repair.tries_at_ms.iter().filter(counts).copied().collect();
    recent.sort_unstable();
    recent
}
