//! Limits how often the same repair is made. A repair that fails, or has to be made again and again, needs a
//! person.
//!
//! A repair is a verb on one process for one purpose. It does not count while the process is young, because a
//! new member needs several actions until it has joined. Temporary settings, failovers (which the guard
//! `quiet` limits), forgetting and starts without data never count.
//!
//! Limits: three failures in a row, or five repairs within ten minutes, with a pause that doubles after each
//! try. Without them the host would repeat, without end, a repair that something outside the host undoes.

use tholepin_schema::{
    action::{Action, Verb},
    guard_id::GuardId,
    snapshot::Snapshot,
};

use crate::{
    guard::GuardRefusal,
    ledger::repairs::{WINDOW_MS, recent},
    ledger_document::Ledger,
};

/// How many tries of one repair are allowed within [`WINDOW_MS`].
const TRIES_MAX: usize = 5;
/// How many failures in a row are allowed within [`WINDOW_MS`].
const FAILURES_MAX: u32 = 3;
/// The pause after the first try, in milliseconds. It doubles with each further try.
const PAUSE_MS: u64 = 1_000;
/// Up to this age, in seconds, a process counts as new.
const YOUNG_S_MAX: u64 = 120;

/// Returns the key of a repair: the verb, the process and the purpose. `None` if the action does not count as
/// a repair.
pub(crate) fn repair_key(action: &Action, snapshot: &Snapshot) -> Option<String> {
    let (pod, what) = match &action.verb {
        Verb::Meet { pod, with } => (pod, run_of(snapshot, with)?),
        Verb::SetConfigEpoch { pod, epoch } => (pod, epoch.to_string()),
        Verb::AssignSlots { pod, slots } => (pod, slots.to_string()),
        Verb::Replicate { pod, primary } => (pod, primary.to_string()),
        Verb::Configure { pod, settings, temporary: false } => {
            let pairs = settings.iter().map(|(name, value)| format!("{name}={value}"));
            (pod, pairs.collect::<Vec<_>>().join(" "))
        }
        Verb::Configure { temporary: true, .. }
        | Verb::Failover { .. }
        | Verb::Forget { .. }
        | Verb::AllowStart { .. } => return None,
    };
    let run = run_of(snapshot, pod)?;
    Some(format!("{} {run} {what}", action.verb.name()))
}

/// Returns the run id of the process in a Pod, if it answers and is not new.
fn run_of(snapshot: &Snapshot, pod: &str) -> Option<String> {
    let facts = snapshot.member(pod)?.facts()?;
    let is_old = facts.uptime_s.is_some_and(|uptime_s| YOUNG_S_MAX < uptime_s);
    facts.run_id.filter(|_| is_old).map(|run_id| run_id.to_string())
}

/// Checks that a repair may be made now.
///
/// # Errors
///
/// Fails if it was tried just before, or was made or has failed too often.
pub(crate) fn check(
    ledger: &Ledger,
    key: &str,
    action: &Action,
    now_ms: u64,
) -> Result<(), GuardRefusal> {
    let Some(repair) = ledger.repairs.get(key) else { return Ok(()) };
    let recent = recent(repair, now_ms);
    let (Some(first), Some(last)) = (recent.first(), recent.last()) else { return Ok(()) };
    let what = match action.verb.pod() {
        Some(pod) => format!("`{}` of `{pod}`", action.verb.name()),
        None => format!("`{}`", action.verb.name()),
    };
    let refused = |why: String, from_ms: u64| {
        let text = format!(
            "{what} {why}: find out what undoes or prevents it; it is tried again from {} on, or immediately \
             in a new Pod",
            time(from_ms)
        );
        Err(GuardRefusal::new(GuardId::RepairBudget, text))
    };
    if FAILURES_MAX <= repair.failed {
        return refused(format!("failed {} times in a row", repair.failed), last + WINDOW_MS);
    }
    if TRIES_MAX <= recent.len() {
        let why = format!("was made {} times in ten minutes", recent.len());
        return refused(why, first + WINDOW_MS);
    }
    let doublings = u32::try_from(recent.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let pause_ms = PAUSE_MS.saturating_mul(2_u64.saturating_pow(doublings));
    if now_ms < last + pause_ms {
        let text =
            format!("{what} was tried just before; the next try is at {}", time(last + pause_ms));
        return Err(GuardRefusal::new(GuardId::BackOff, text));
    }
    Ok(())
}

/// Formats a time for people.
fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| format!("{at_ms} ms"), |at| at.strftime("%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tholepin_core::{port::PerformedAction, step::RedisCliCommand};
    use tholepin_schema::action::{ActionOutcome, Preconditions};

    use super::*;
    use crate::ledger::repairs::{drop_old, record_repair_try};

    fn snapshot(uptime_s: u64) -> Snapshot {
        let members = ["a", "b"].map(|pod| {
            json!({"pod": pod, "podUid": pod, "kubeNode": "n", "running": true, "containerId": "c",
                "kubernetes": {}, "answer": {"answered": {"answeredAtMs": 1, "runId": pod.repeat(40),
                    "uptimeS": uptime_s}}})
        });
        serde_json::from_value(json!({"observedAtMs": 1, "view": {}, "members": members})).unwrap()
    }

    fn action(verb: Verb) -> Action {
        Action { id: None, verb, presume: Preconditions::default(), after: Vec::new() }
    }

    fn meet() -> Action {
        action(Verb::Meet { pod: "a".into(), with: "b".into() })
    }

    fn performed(outcome: ActionOutcome, sent: bool) -> PerformedAction {
        let command = RedisCliCommand { pod: "a".into(), command: "CLUSTER MEET".into() };
        PerformedAction { outcome, commands: if sent { vec![command] } else { Vec::new() } }
    }

    fn done() -> PerformedAction {
        performed(ActionOutcome::Done { took_ms: 1, note: String::new() }, true)
    }

    fn failed() -> PerformedAction {
        let (reason, message) = ("Timeout".to_owned(), String::new());
        performed(ActionOutcome::Failed { reason, message, may_have_run: false }, true)
    }

    fn refused_by(ledger: &Ledger, key: &str, now_ms: u64) -> Option<GuardId> {
        check(ledger, key, &meet(), now_ms).err().map(|refusal| refusal.guard)
    }

    #[test]
    fn actions_on_a_new_process_and_after_a_proof_of_death_are_not_counted() {
        assert_eq!(repair_key(&meet(), &snapshot(YOUNG_S_MAX)), None);
        let old = snapshot(YOUNG_S_MAX + 1);
        assert!(repair_key(&meet(), &old).is_some());
        let node = "ab".repeat(20).parse().unwrap();
        assert_eq!(repair_key(&action(Verb::Forget { node }), &old), None);
        assert_eq!(repair_key(&action(Verb::AllowStart { pod: "a".into(), node }), &old), None);
        let set = |value: &str, temporary| {
            let settings = [("hz".to_owned(), value.to_owned())].into();
            action(Verb::Configure { pod: "a".into(), settings, temporary })
        };
        assert_eq!(repair_key(&set("10", true), &old), None);
        assert_ne!(repair_key(&set("10", false), &old), repair_key(&set("20", false), &old));
    }

    #[test]
    fn the_same_repair_is_made_five_times_in_ten_minutes_with_growing_pauses() {
        let mut ledger = Ledger::default();
        let mut now_ms = 1_000_000;
        let first_ms = now_ms;
        for pause_ms in [1_000, 2_000, 4_000, 8_000] {
            record_repair_try(&mut ledger, "s", &done(), now_ms);
            assert_eq!(refused_by(&ledger, "s", now_ms + pause_ms - 1), Some(GuardId::BackOff));
            now_ms += pause_ms;
            assert_eq!(refused_by(&ledger, "s", now_ms), None);
        }
        record_repair_try(&mut ledger, "s", &done(), now_ms);
        assert_eq!(refused_by(&ledger, "s", now_ms + 100_000), Some(GuardId::RepairBudget));
        assert_eq!(refused_by(&ledger, "other", now_ms), None);
        assert_eq!(refused_by(&ledger, "s", first_ms + WINDOW_MS), None);
    }

    #[test]
    fn three_failures_in_a_row_stop_a_repair_and_an_action_without_effect_is_no_try() {
        let mut ledger = Ledger::default();
        let already = performed(ActionOutcome::Done { took_ms: 0, note: String::new() }, false);
        record_repair_try(&mut ledger, "s", &already, 1);
        assert!(ledger.repairs.is_empty());
        for (index, result) in [failed(), failed(), done(), failed(), failed()].iter().enumerate() {
            record_repair_try(&mut ledger, "s", result, index as u64 * 150_000);
        }
        assert_eq!(refused_by(&ledger, "s", 700_000), None, "two failures in a row are allowed");
        record_repair_try(&mut ledger, "s", &failed(), 700_000);
        assert_eq!(refused_by(&ledger, "s", 1_290_000), Some(GuardId::RepairBudget));
        drop_old(&mut ledger, 700_000 + WINDOW_MS);
        assert!(ledger.repairs.is_empty());
    }
}
