//! Temporary settings: records the values that they replace, and makes the actions that restore them.

use std::collections::BTreeMap;

use tholepin_schema::{
    action::{Action, Preconditions, Verb},
    snapshot::{Member, MemberFacts, Snapshot},
};

use crate::ledger_document::{Ledger, TemporaryRedisSetting};

/// Records the value that a temporary setting is about to replace, and returns what it recorded. A second
/// temporary value of the same setting is not recorded, so that the original value is the one to restore. The
/// ledger must be written before the setting is sent.
pub(crate) fn suspend(
    ledger: &mut Ledger,
    action: &Action,
    snapshot: &Snapshot,
    now_ms: u64,
) -> Vec<TemporaryRedisSetting> {
    let mut new = Vec::new();
    let Verb::Configure { pod, settings, temporary: true } = &action.verb else { return new };
    let Some(facts) = snapshot.member(pod).and_then(Member::facts) else { return new };
    let Some(run_id) = facts.run_id else { return new };
    for (setting, value) in settings {
        let is_known = ledger.suspensions.iter().any(|suspension| {
            suspension.pod == *pod && suspension.run_id == run_id && suspension.setting == *setting
        });
        let old = facts.settings.get(setting).filter(|old| *old != value);
        if let (false, Some(old)) = (is_known, old) {
            new.push(TemporaryRedisSetting {
                pod: pod.clone(),
                run_id,
                setting: setting.clone(),
                value: old.clone(),
                since_ms: now_ms,
                unknown: BTreeMap::new(),
            });
        }
    }
    ledger.suspensions.extend(new.iter().cloned());
    new
}

/// Records that a lasting setting was sent: it stays, so the temporary values that it replaces are not
/// restored.
pub(crate) fn drop_replaced(suspensions: &mut Vec<TemporaryRedisSetting>, action: &Action) {
    let Verb::Configure { pod, settings, temporary: false } = &action.verb else { return };
    suspensions
        .retain(|suspension| suspension.pod != *pod || !settings.contains_key(&suspension.setting));
}

/// Returns the actions that restore the suspended settings, one per suspension, in the ledger's order. Each
/// requires the process that received the temporary value: another process has read its configuration at its
/// start.
#[must_use]
pub(crate) fn restore_actions(ledger: &Ledger) -> Vec<Action> {
    let lift = |suspension: &TemporaryRedisSetting| {
        let TemporaryRedisSetting { pod, run_id, setting, value, since_ms: _, unknown: _ } =
            suspension;
        let settings = [(setting.clone(), value.clone())].into();
        let verb = Verb::Configure { pod: pod.clone(), settings, temporary: false };
        let presume = Preconditions { run_id: Some(*run_id), ..Preconditions::default() };
        Action { presume, ..verb.into() }
    };
    ledger.suspensions.iter().map(lift).collect()
}

/// Drops the suspensions that are over: the snapshot shows the original value, or another process in the Pod.
/// If the member does not answer, its suspensions stay.
pub(crate) fn drop_restored(ledger: &mut Ledger, snapshot: &Snapshot) {
    ledger.suspensions.retain(|suspension| {
        let Some(member) = snapshot.member(&suspension.pod) else { return false };
        let Some(MemberFacts { run_id: Some(run_id), settings, .. }) = member.facts() else {
            return true;
        };
        *run_id == suspension.run_id && settings.get(&suspension.setting) != Some(&suspension.value)
    });
}
