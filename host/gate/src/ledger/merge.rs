//! Merges two ledgers with a common base: what this host recorded, and what another host wrote meanwhile.
//!
//! Works entry by entry. A change on one side only is taken from that side, and a change wins over a removal.
//! If both sides changed an entry, the rule for that kind of entry decides.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger_document::{
    KnownNode, Ledger, LedgerProcessGroup, LedgerRepairAttempts, MemberStoppedByHost,
    TemporaryRedisSetting,
};

/// Merges `ours` and `theirs`, which both began as `base`.
pub(crate) fn merge(base: &Ledger, ours: &Ledger, theirs: &Ledger) -> Ledger {
    let Ledger {
        adopted_at_ms,
        nodes,
        forgotten,
        suspensions,
        groups,
        stopped,
        keys_known_since_ms,
        held_keys,
        repairs,
        unknown,
    } = ours;
    let suspensions = entries(
        &by_process(&base.suspensions),
        &by_process(suspensions),
        &by_process(&theirs.suspensions),
        // The value that was suspended first is the one to restore.
        |ours, theirs| if theirs.since_ms < ours.since_ms { theirs.clone() } else { ours.clone() },
    );
    Ledger {
        adopted_at_ms: earlier(*adopted_at_ms, theirs.adopted_at_ms),
        keys_known_since_ms: earlier(*keys_known_since_ms, theirs.keys_known_since_ms),
        nodes: entries(&base.nodes, nodes, &theirs.nodes, newer_node),
        forgotten: entries(&base.forgotten, forgotten, &theirs.forgotten, |ours, theirs| {
            *ours.max(theirs)
        }),
        suspensions: suspensions.into_values().collect(),
        // The first use of a group defines it, and the other host has written its definition first.
        groups: entries(&base.groups, groups, &theirs.groups, |_: &LedgerProcessGroup, theirs| {
            theirs.clone()
        }),
        stopped: entries(&base.stopped, stopped, &theirs.stopped, newer_stop),
        held_keys: held_keys.union(&theirs.held_keys),
        repairs: entries(&base.repairs, repairs, &theirs.repairs, both_repairs),
        unknown: entries(&base.unknown, unknown, &theirs.unknown, |_, theirs| theirs.clone()),
    }
}

fn earlier(ours: Option<u64>, theirs: Option<u64>) -> Option<u64> {
    [ours, theirs].into_iter().flatten().min()
}

/// Merges two maps entry by entry. `both` decides about an entry that both sides changed.
fn entries<K: Ord + Clone, V: Clone + PartialEq>(
    base: &BTreeMap<K, V>,
    ours: &BTreeMap<K, V>,
    theirs: &BTreeMap<K, V>,
    both: impl Fn(&V, &V) -> V,
) -> BTreeMap<K, V> {
    let keys: BTreeSet<&K> = ours.keys().chain(theirs.keys()).collect();
    let merged = keys.into_iter().filter_map(|key| {
        let (before, our, their) = (base.get(key), ours.get(key), theirs.get(key));
        let value = match (our, their) {
            (our, their) if our == before => their.cloned(),
            (our, their) if their == before => our.cloned(),
            (Some(our), Some(their)) => Some(both(our, their)),
            (our, their) => our.or(their).cloned(),
        };
        Some((key.clone(), value?))
    });
    merged.collect()
}

/// Returns the entry that was changed later, with the latest times of both: a guard that waits for a quiet
/// shard must not wait too short.
fn newer_node(ours: &KnownNode, theirs: &KnownNode) -> KnownNode {
    let newer = if theirs.changed_at_ms < ours.changed_at_ms { ours } else { theirs };
    KnownNode {
        role_changed_at_ms: ours.role_changed_at_ms.max(theirs.role_changed_at_ms),
        failover_tried_at_ms: ours.failover_tried_at_ms.max(theirs.failover_tried_at_ms),
        ..newer.clone()
    }
}

/// Returns the tries of both hosts: each made its own.
fn both_repairs(
    ours: &LedgerRepairAttempts,
    theirs: &LedgerRepairAttempts,
) -> LedgerRepairAttempts {
    let tries: BTreeSet<u64> =
        ours.tries_at_ms.iter().chain(&theirs.tries_at_ms).copied().collect();
    LedgerRepairAttempts {
        tries_at_ms: tries.into_iter().collect(),
        failed: ours.failed.max(theirs.failed),
        unknown: theirs.unknown.clone(),
    }
}

fn newer_stop(ours: &MemberStoppedByHost, theirs: &MemberStoppedByHost) -> MemberStoppedByHost {
    if theirs.at_ms < ours.at_ms { ours.clone() } else { theirs.clone() }
}

/// Returns the suspensions by Pod, process and setting.
fn by_process(
    suspensions: &[TemporaryRedisSetting],
) -> BTreeMap<(String, String, String), TemporaryRedisSetting> {
    let key = |suspension: &TemporaryRedisSetting| {
        (suspension.pod.clone(), suspension.run_id.to_string(), suspension.setting.clone())
    };
    suspensions.iter().map(|suspension| (key(suspension), suspension.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ledger(value: Value) -> Ledger {
        serde_json::from_value(value).unwrap()
    }

    fn node(pod: &str, changed_at_ms: u64, role_changed_at_ms: Option<u64>) -> Value {
        json!({"pod": pod, "podUid": "u", "runId": "b".repeat(40), "kubeNode": "n",
            "role": "replica", "changedAtMs": changed_at_ms, "roleChangedAtMs": role_changed_at_ms})
    }

    #[test]
    fn a_change_on_one_side_is_kept_and_wins_over_a_removal() {
        let id = |digit: &str| digit.repeat(40);
        let base = ledger(json!({"nodes": {
            id("a"): node("same", 1, None), id("b"): node("ours", 1, None),
            id("c"): node("theirs", 1, None), id("d"): node("gone", 1, None),
            id("e"): node("both", 1, None),
        }}));
        let ours = ledger(json!({"adoptedAtMs": 9, "nodes": {
            id("a"): node("same", 1, None), id("b"): node("ours", 5, None),
            id("c"): node("theirs", 1, None), id("e"): node("both by us", 6, Some(4)),
        }}));
        let theirs = ledger(json!({"adoptedAtMs": 8, "turn": 1, "nodes": {
            id("a"): node("same", 1, None), id("c"): node("theirs", 7, None),
            id("d"): node("gone", 1, None), id("e"): node("both by them", 5, Some(5)),
            id("f"): node("new", 3, None),
        }}));
        let merged = merge(&base, &ours, &theirs);
        assert_eq!(merged.adopted_at_ms, Some(8));
        assert_eq!(merged.unknown.get("turn"), Some(&json!(1)));
        let merged_nodes: Vec<_> = merged
            .nodes
            .values()
            .map(|node| (node.pod.as_str(), node.changed_at_ms, node.role_changed_at_ms))
            .collect();
        assert_eq!(
            merged_nodes,
            [
                ("same", 1, None),
                ("ours", 5, None),
                ("theirs", 7, None),
                ("both by us", 6, Some(5)),
                ("new", 3, None),
            ]
        );
        assert_eq!(
            merge(&base, &base, &theirs),
            theirs,
            "without a change of ours, theirs is the result"
        );
        assert_eq!(merge(&base, &ours, &base), ours);
    }
}
