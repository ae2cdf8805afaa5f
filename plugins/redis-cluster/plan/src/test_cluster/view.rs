//! The snapshot of the model: the majority's view, and where each member differs.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::ToString,
    vec::Vec,
};

use tholepin_schema::{
    primitives::{NodeId, SlotRange, SlotSet},
    snapshot::{
        AttachedReplica, ClusterInfo, ClusterNodesRow, Member, MemberAnswer, MemberFacts,
        Replication, Snapshot, UnreachableReason, Upstream,
    },
};

use super::{Pod, Table, TestClusterModel, TestRedisProcess};

impl TestClusterModel {
    pub(super) fn snapshot(&self) -> Snapshot {
        let running = || self.pods.values().filter(|pod| pod.silent.is_none());
        let tables: Vec<(&TestRedisProcess, Table)> = running()
            .filter_map(|pod| pod.process.as_ref())
            .map(|process| (process, process.table.clone()))
            .collect();
        // The voters are the processes that know most: those that serve, else those that know an owner of
        // slots, else those that know other nodes.
        let knowledge = |(process, table): &(&TestRedisProcess, Table)| {
            let serves = !table[&process.id].slots.is_empty();
            (serves, table.values().any(|row| !row.slots.is_empty()), 1 < table.len())
        };
        let most = tables.iter().map(knowledge).max();
        let voters: Vec<&Table> = tables
            .iter()
            .filter(|table| Some(knowledge(table)) == most)
            .map(|(_, table)| table)
            .collect();
        let ids: BTreeSet<NodeId> = voters.iter().flat_map(|table| table.keys()).copied().collect();
        let mut view = Table::new();
        for id in ids {
            let mut counts: BTreeMap<&ClusterNodesRow, usize> = BTreeMap::new();
            voters
                .iter()
                .filter_map(|table| table.get(&id))
                .for_each(|row| *counts.entry(row).or_default() += 1);
            if voters.len() < counts.values().sum::<usize>() * 2 {
                let most = counts.into_iter().max_by_key(|(_, count)| *count).unwrap().0;
                view.insert(id, most.clone());
            }
        }
        let members = self.pods.iter().map(|(name, pod)| self.member(name, pod, &view)).collect();
        Snapshot { view, members, ..Snapshot::default() }
    }

    fn member(&self, name: &str, pod: &Pod, view: &Table) -> Member {
        let answer = match (&pod.process, pod.silent) {
            (Some(process), None) => MemberAnswer::Answered(self.facts(process, view)),
            (_, reason) => MemberAnswer::Unreachable {
                reason: reason.unwrap_or(UnreachableReason::Refused),
                message: "refused".into(),
            },
        };
        Member {
            pod: name.into(),
            pod_uid: pod.address.clone(),
            kube_node: "n".into(),
            container_id: "c".into(),
            running: pod.process.is_some() || pod.waits,
            ready: true,
            deleting: pod.deleting,
            address: Some(pod.address.clone()),
            kubernetes: serde_json::Value::Null,
            answer,
        }
    }

    fn facts(&self, process: &TestRedisProcess, view: &Table) -> MemberFacts {
        let own = &process.table[&process.id];
        let owned = process.table.values().fold(SlotSet::EMPTY, |all, row| all.union(&row.slots));
        let well = process.table.values().filter(|row| !row.is_failing());
        let served = well.fold(SlotSet::EMPTY, |all, row| all.union(&row.slots));
        let differs = process.table.iter().filter(|(id, row)| view.get(id) != Some(row));
        MemberFacts {
            node: Some(process.id),
            // Any text of the right form: the model starts a process once.
            run_id: process.id.to_string().parse().ok(),
            keys: Some(process.keys),
            role: Some(own.role),
            replication: Some(self.replication(process)),
            cluster: Some(ClusterInfo {
                ok: served == SlotSet::from(SlotRange::ALL),
                known_nodes: process.table.len() as u64,
                size: 0,
                current_epoch: 0,
                epoch: own.epoch,
                slots_assigned: owned.slot_count().into(),
                slots_ok: served.slot_count().into(),
            }),
            settings: BTreeMap::from([(
                "cluster-node-timeout".into(),
                process.node_timeout_ms.to_string(),
            )]),
            differs: differs.map(|(id, row)| (*id, row.clone())).collect(),
            lacks: view.keys().filter(|id| !process.table.contains_key(id)).copied().collect(),
            ..MemberFacts::default()
        }
    }

    fn replication(&self, process: &TestRedisProcess) -> Replication {
        let own = &process.table[&process.id];
        // The link to a process that hangs stays up.
        let is_linked = |id: NodeId| {
            let hangs = |pod: &Pod| pod.silent == Some(UnreachableReason::Timeout);
            self.pods.values().any(|pod| {
                let is_it = pod.process.as_ref().is_some_and(|process| process.id == id);
                is_it && (pod.silent.is_none() || hangs(pod))
            })
        };
        let upstream = own.primary.map(|primary| Upstream {
            address: process
                .table
                .get(&primary)
                .and_then(|row| row.address.clone())
                .unwrap_or_default(),
            link_up: is_linked(primary),
            sync_in_progress: false,
            sync_read_bytes: None,
            last_io_s: Some(0),
            down_since_s: None,
        });
        let followers = self.pods.values().filter(|pod| {
            pod.silent.is_none()
                && pod
                    .process
                    .as_ref()
                    .is_some_and(|other| other.table[&other.id].primary == Some(process.id))
        });
        Replication {
            id: own.primary.unwrap_or(process.id).to_string().parse().unwrap(),
            previous_id: None,
            offset_bytes: process.offset_bytes,
            upstream,
            replicas: followers
                .map(|pod| AttachedReplica {
                    address: pod.address.clone(),
                    state: "online".into(),
                    offset_bytes: pod.process.as_ref().unwrap().offset_bytes,
                    lag_s: Some(0),
                })
                .collect(),
        }
    }
}
