//! The ledger document: what the host remembers of an instance across restarts of the host and of the
//! instance's processes.
//!
//! It is stored as JSON under the key `ledger.json` in one reserved ConfigMap per reconciled object
//! (`tholepin-ledger-KIND-UID`, see `tholepin_schema::reserved`). Only the host writes it (`ledger_store`),
//! on change and before a risky step; no grant lets a plugin read or write it. Redis does not record
//! in which Pod a node ran, and Kubernetes does not know which Redis node ran in a Pod. Only both together can
//! prove the death of a node.
//!
//! Invariants:
//! - A plugin never reads or writes it.
//! - Times are from the host's clock, in milliseconds since 1970.
//! - Fields that this version does not know are kept, because a newer host wrote them and may run again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_schema::primitives::{NodeId, Role, RunId, SlotSet};

/// How many forgotten nodes are kept.
pub(crate) const FORGOTTEN_MAX: usize = 256;

/// The ledger of one object's instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ledger {
    /// When all members had answered and agreed for the first time; absent before. Until then, only safe
    /// verbs are allowed on an instance that existed before its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adopted_at_ms: Option<u64>,
    /// Every node that was seen in a Pod of the instance and is not forgotten.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) nodes: BTreeMap<NodeId, KnownNode>,
    /// Nodes that were forgotten, and when. A member that returns with an old `nodes.conf` still names them,
    /// and they are not foreign. At most [`FORGOTTEN_MAX`]; the oldest are dropped first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) forgotten: BTreeMap<NodeId, u64>,
    /// Settings that an action changed temporarily and that the host has yet to restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) suspensions: Vec<TemporaryRedisSetting>,
    /// The container and the port of each group of processes, fixed at its first use. A plugin that names
    /// others later is refused: the guards would check the wrong process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) groups: BTreeMap<String, LedgerProcessGroup>,
    /// Members that were stopped through the host and whose successors have not taken their places yet, by
    /// the uid of the Pod. While there is one, no other member is stopped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stopped: BTreeMap<String, MemberStoppedByHost>,
    /// When all members first answered and agreed while [`held_keys`](Self::held_keys) was recorded; absent
    /// before: any slot may have held keys then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys_known_since_ms: Option<u64>,
    /// Slots whose owner once reported keys: their data can be lost. Other slots never held keys.
    #[serde(default, skip_serializing_if = "SlotSet::is_empty")]
    pub(crate) held_keys: SlotSet,
    /// Repairs of the last minutes, by verb, process and purpose. They limit repairs that fail or recur.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) repairs: BTreeMap<String, LedgerRepairAttempts>,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

impl Ledger {
    /// Returns those of these slots that may have held keys: all of them as long as that was not recorded.
    #[must_use]
    pub(crate) fn may_hold_keys(&self, slots: &SlotSet) -> SlotSet {
        if self.keys_known_since_ms.is_some() {
            slots.intersection(&self.held_keys)
        } else {
            slots.clone()
        }
    }
}

/// Where the processes of a group run and listen.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedgerProcessGroup {
    /// The container that runs the process.
    pub(crate) container: String,
    /// The port that it listens on.
    pub(crate) port: u16,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

/// A member that was stopped through the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberStoppedByHost {
    /// Its Pod's name.
    pub(crate) pod: String,
    /// The node that answered in it; absent if none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeId>,
    /// When the stop was sent.
    pub(crate) at_ms: u64,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

/// A node as it was when it last answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KnownNode {
    /// Its Pod's name.
    pub(crate) pod: String,
    /// Its Pod's uid.
    pub(crate) pod_uid: String,
    /// The container in which its process runs or ran. Empty while that is not certain; an empty one proves
    /// nothing.
    #[serde(default)]
    pub(crate) container_id: String,
    /// A container that the Pod's status still named when another process answered already. The end of that
    /// container proves nothing about this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stale_container_id: Option<String>,
    /// When Kubernetes was first seen to report that container as terminated while no member answered with
    /// this node's id; absent again as soon as one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at_ms: Option<u64>,
    /// Its process.
    pub(crate) run_id: RunId,
    /// The Kubernetes node its Pod was on.
    pub(crate) kube_node: String,
    /// `ip:port`; absent if it never had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// The role that it reported.
    pub(crate) role: Role,
    /// The primary that it replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) primary: Option<NodeId>,
    /// How often the container of its Pod had been restarted when it was recorded. A higher number for the
    /// same Pod proves that the recorded process has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restart_count: Option<u64>,
    /// Whether it keeps its data on disk; absent if it did not report its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) persistent: Option<bool>,
    /// How many seconds its Pod has to stop (`terminationGracePeriodSeconds`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace_s: Option<u64>,
    /// Since when its Pod is gone; absent while the Pod exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gone_at_ms: Option<u64>,
    /// The slots that it owned in the majority's view.
    #[serde(default, skip_serializing_if = "SlotSet::is_empty")]
    pub(crate) slots: SlotSet,
    /// When this entry last changed. This is not when the node last answered, because the ledger is written
    /// on change only.
    pub(crate) changed_at_ms: u64,
    /// When it last became primary of slots that another node had owned, or lost its slots to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role_changed_at_ms: Option<u64>,
    /// When a failover that would replace or promote it was last tried, whatever the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failover_tried_at_ms: Option<u64>,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

/// The tries of one repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedgerRepairAttempts {
    /// When it was tried.
    #[serde(default)]
    pub(crate) tries_at_ms: Vec<u64>,
    /// How often in a row it has failed.
    #[serde(default)]
    pub(crate) failed: u32,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

/// A temporary setting that the host must restore.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TemporaryRedisSetting {
    /// The Pod.
    pub(crate) pod: String,
    /// The process that received it. Another process has read its configuration at its start.
    pub(crate) run_id: RunId,
    /// The setting.
    pub(crate) setting: String,
    /// The value before.
    pub(crate) value: String,
    /// When it was replaced.
    pub(crate) since_ms: u64,
    /// Fields of a newer host that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_round_trips_and_an_unknown_field_is_kept() {
        let run_id: RunId = "ab".repeat(20).parse().unwrap();
        let known = KnownNode {
            pod: "demo-0-0".into(),
            pod_uid: "u".into(),
            container_id: "c".into(),
            stale_container_id: None,
            ended_at_ms: Some(5),
            run_id,
            kube_node: "n".into(),
            address: Some("127.26.0.1:7000".into()),
            role: Role::Primary,
            primary: None,
            restart_count: Some(0),
            persistent: Some(false),
            grace_s: Some(45),
            gone_at_ms: None,
            slots: tholepin_schema::primitives::SlotRange::ALL.into(),
            changed_at_ms: 1,
            role_changed_at_ms: None,
            failover_tried_at_ms: Some(2),
            unknown: BTreeMap::new(),
        };
        let suspension = TemporaryRedisSetting {
            pod: "demo-0-0".into(),
            run_id,
            setting: "cluster-node-timeout".into(),
            value: "5000".into(),
            since_ms: 3,
            unknown: BTreeMap::new(),
        };
        let ledger = Ledger {
            adopted_at_ms: Some(1),
            nodes: [("cd".repeat(20).parse().unwrap(), known)].into(),
            forgotten: [("ef".repeat(20).parse().unwrap(), 4)].into(),
            suspensions: [suspension].into(),
            ..Ledger::default()
        };
        let mut json = serde_json::to_value(&ledger).unwrap();
        assert_eq!(serde_json::from_value::<Ledger>(json.clone()).unwrap(), ledger);
        assert_eq!(serde_json::from_str::<Ledger>("{}").unwrap(), Ledger::default());
        json["turn"] = 1.into();
        json["nodes"]["cd".repeat(20)]["shard"] = "0".into();
        let read: Ledger = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read.unknown.get("turn"), Some(&Value::from(1)));
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            json,
            "the fields of a newer host are kept"
        );
    }
}
