//! A small in-memory model of a Redis Cluster for tests. It performs actions, gossips, loses and restarts
//! processes, and returns snapshots as the host does.
//!
//! It models what plans depend on (which nodes know each other, claim which slots, and follow which primary)
//! but not time. An action that a real node would refuse panics, because no plan may contain it.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use tholepin_redis_types::redis_cluster::{
    MemberStatus, RedisClusterSpec, RedisClusterStatus, ShardStatus,
};
use tholepin_schema::{
    action::{Action, FailoverMode, Verb, waves},
    primitives::{ConfigEpoch, NodeId, Role, SlotSet},
    snapshot::{ClusterNodesRow, NodeFlag, UnreachableReason},
};

use crate::{
    ObservedRedisCluster, Plan, PodSilence, RedisClusterObjectNames, ShardAndReplicaCounts,
    ShardPlan,
};

mod view;

pub(crate) const CLUSTER: &str = "demo";

/// A node's table of known nodes, like its `nodes.conf`.
type Table = BTreeMap<NodeId, ClusterNodesRow>;

#[derive(Clone, Debug)]
pub(crate) struct TestRedisProcess {
    pub id: NodeId,
    pub table: Table,
    pub banned: BTreeSet<NodeId>,
    pub node_timeout_ms: u32,
    pub keys: u64,
    pub offset_bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub address: String,
    pub deleting: bool,
    /// `None` while its server does not run.
    pub process: Option<TestRedisProcess>,
    pub silent: Option<UnreachableReason>,
    /// Whether its container runs and waits before it starts the server.
    pub waits: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct TestClusterModel {
    pub spec: RedisClusterSpec,
    pub pods: BTreeMap<String, Pod>,
    pub previous: RedisClusterStatus,
    /// For how long the Pods that do not answer in time have not answered, the same for all of them.
    pub silence: PodSilence,
    /// Pods that did not answer in time until recently.
    pub answer_again: Vec<String>,
    /// Processes that have stopped while their data (a volume, or the same Pod) still exists.
    stopped: BTreeMap<String, TestRedisProcess>,
    next: u32,
}

pub(crate) fn spec(shards: u16, replicas: u16) -> RedisClusterSpec {
    serde_json::from_value(serde_json::json!({"shards": shards, "replicasPerShard": replicas}))
        .unwrap()
}

impl TestClusterModel {
    /// Returns a model with a fresh server at every position.
    pub(crate) fn new(spec: RedisClusterSpec) -> Self {
        let mut model = Self {
            spec,
            pods: BTreeMap::new(),
            previous: RedisClusterStatus::default(),
            silence: PodSilence::default(),
            answer_again: Vec::new(),
            stopped: BTreeMap::new(),
            next: 1,
        };
        for position in ShardAndReplicaCounts::of(&model.spec).positions() {
            model.create(&RedisClusterObjectNames { cluster: CLUSTER }.pod(position));
        }
        model
    }

    /// Returns a cluster in the desired state.
    pub(crate) fn formed(spec: RedisClusterSpec) -> Self {
        let mut model = Self::new(spec);
        model.converge();
        model
    }

    /// Plans and performs until nothing is left to do.
    pub(crate) fn converge(&mut self) {
        const ROUNDS_MAX: usize = 30;
        for _ in 0..ROUNDS_MAX {
            let plan = self.plan();
            self.perform(&plan, |_| true);
            if plan.stage == crate::ClusterStage::Steady {
                return;
            }
            self.gossip();
        }
        panic!("not steady after {ROUNDS_MAX} rounds: {:#?}", self.plan());
    }

    pub(crate) fn create(&mut self, pod: &str) {
        let number = self.next;
        self.next += 1;
        let address = format!("10.0.{}.{}:6379", number / 250, number % 250 + 1);
        let process = fresh(number, &address, &self.spec);
        let made =
            Pod { address, deleting: false, process: Some(process), silent: None, waits: false };
        self.pods.insert(pod.to_string(), made);
    }

    /// Ends the server's process; its Pod and its data stay.
    pub(crate) fn kill(&mut self, pod: &str) {
        let slot = self.pods.get_mut(pod).unwrap();
        slot.silent = Some(UnreachableReason::Refused);
        if let Some(process) = slot.process.take() {
            self.stopped.insert(pod.to_string(), process);
        }
    }

    /// Replaces the Pod by one with a new address, with or without the old data.
    pub(crate) fn recreate(&mut self, pod: &str, keeps_volume: bool) {
        self.kill(pod);
        let kept = self.stopped.remove(pod);
        self.create(pod);
        let made = self.pods.get_mut(pod).unwrap();
        if let (true, Some(mut process)) = (keeps_volume, kept) {
            let own = process.table.get_mut(&process.id).unwrap();
            own.address = Some(made.address.clone());
            made.process = Some(process);
        }
    }

    /// Starts the server in its Pod again, with its data.
    pub(crate) fn restart(&mut self, pod: &str) {
        let slot = self.pods.get_mut(pod).unwrap();
        if let Some(process) = self.stopped.remove(pod) {
            slot.process = Some(process);
            slot.silent = None;
        }
    }

    pub(crate) fn observed(&self) -> ObservedRedisCluster {
        let is_silent = |(name, pod): &(&String, &Pod)| {
            pod.silent == Some(UnreachableReason::Timeout) || self.answer_again.contains(name)
        };
        let silent = self.pods.iter().filter(is_silent).map(|(_, pod)| pod);
        ObservedRedisCluster {
            snapshot: self.snapshot(),
            previous: self.previous.clone(),
            templates: Vec::new(),
            obstacles: BTreeMap::new(),
            silent: silent.map(|pod| (pod.address.clone(), self.silence)).collect(),
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        let observed = self.observed();
        let plan = crate::plan(CLUSTER, &self.spec, &observed);
        assert_eq!(plan.check(&observed), [], "{plan:#?}");
        plan
    }

    /// Performs those actions of a plan that `chosen` selects, wave by wave, and keeps the status.
    pub(crate) fn perform(&mut self, plan: &Plan, mut chosen: impl FnMut(&Action) -> bool) {
        let actions = plan.actions();
        let mut missed: BTreeSet<String> = BTreeSet::new();
        for wave in waves(&actions).unwrap() {
            for index in wave {
                let action = &actions[index];
                let blocked = action.after.iter().any(|id| missed.contains(id));
                if blocked || !chosen(action) {
                    missed.extend(action.id.clone());
                } else {
                    self.perform_action(action);
                }
            }
        }
        self.previous.shards = plan.shards.iter().map(report).collect();
        self.previous.formed |= plan.stage == crate::ClusterStage::Steady;
    }

    pub(crate) fn process(&mut self, pod: &str) -> &mut TestRedisProcess {
        self.pods.get_mut(pod).unwrap().process.as_mut().unwrap()
    }

    pub(crate) fn id(&self, pod: &str) -> NodeId {
        self.pods[pod].process.as_ref().unwrap().id
    }

    fn perform_action(&mut self, action: &Action) {
        match &action.verb {
            Verb::Meet { pod, with } => {
                let rows = [pod, with].map(|pod| {
                    let process = self.process(pod);
                    process.table[&process.id].clone()
                });
                let ids = [self.id(pod), self.id(with)];
                // `CLUSTER MEET` works in spite of the ban on forgotten nodes.
                self.process(pod).table.insert(ids[1], rows[1].clone());
                self.process(with).table.insert(ids[0], rows[0].clone());
            }
            Verb::SetConfigEpoch { pod, epoch } => {
                let process = self.process(pod);
                assert_eq!(process.table.len(), 1, "{pod} must be alone");
                let own = process.table.get_mut(&process.id).unwrap();
                assert_eq!(own.epoch, ConfigEpoch(0), "{pod}");
                own.epoch = *epoch;
            }
            Verb::AssignSlots { pod, slots } => {
                self.assert_free(pod, slots);
                let process = self.process(pod);
                let own = process.table.get_mut(&process.id).unwrap();
                own.slots = own.slots.union(slots);
            }
            Verb::Replicate { pod, primary } => {
                let process = self.process(pod);
                assert!(process.table.contains_key(primary), "{pod} must know {primary}");
                let epoch = process.table[primary].epoch;
                let own = process.table.get_mut(&process.id).unwrap();
                assert!(own.slots.is_empty(), "{pod} has slots");
                (own.role, own.primary, own.epoch) = (Role::Replica, Some(*primary), epoch);
            }
            Verb::Failover { pod, primary, mode } => self.fail_over(pod, *primary, *mode),
            Verb::Forget { node } => {
                for pod in self.pods.values_mut() {
                    if let Some(process) = &mut pod.process {
                        assert_ne!(process.id, *node, "a member is forgotten");
                        process.table.remove(node);
                        process.banned.insert(*node);
                    }
                }
            }
            Verb::AllowStart { pod, node } => {
                let process = self.stopped.get_mut(pod).unwrap();
                assert_eq!(process.id, *node, "{pod}");
                process.keys = 0;
                self.restart(pod);
            }
            Verb::Configure { pod, settings, .. } => {
                if let Some(timeout) = settings.get("cluster-node-timeout") {
                    self.process(pod).node_timeout_ms = timeout.parse().unwrap();
                }
            }
        }
    }

    /// Checks that no process claims these slots.
    fn assert_free(&self, to: &str, slots: &SlotSet) {
        for (name, pod) in self.pods.iter().filter(|(name, _)| *name != to) {
            let Some(process) = &pod.process else { continue };
            let claimed = process.table[&process.id].slots.intersection(slots);
            assert!(claimed.is_empty(), "{claimed} given to {to} belong to {name}");
        }
    }

    fn fail_over(&mut self, pod: &str, primary: NodeId, mode: FailoverMode) {
        let old = self.process(pod).table.get(&primary).cloned();
        let epochs = self.pods.values().filter_map(|pod| pod.process.as_ref());
        let highest =
            epochs.flat_map(|process| process.table.values().map(|row| row.epoch.0)).max();
        let alive =
            self.pods.values().any(|pod| pod.process.as_ref().is_some_and(|p| p.id == primary));
        assert_eq!(alive, mode == FailoverMode::Graceful, "{mode:?}");
        let process = self.process(pod);
        let id = process.id;
        let own = process.table.get_mut(&id).unwrap();
        assert_eq!(own.primary, Some(primary), "{pod}");
        own.slots = old.unwrap().slots;
        (own.role, own.primary) = (Role::Primary, None);
        own.epoch = ConfigEpoch(highest.unwrap() + 1);
        process.table.get_mut(&primary).unwrap().slots = SlotSet::EMPTY;
    }

    /// Every node learns what all nodes that know it report.
    pub(crate) fn gossip(&mut self) {
        for _ in 0..3 {
            let before = self.pods.clone();
            let running = || before.values().filter(|pod| pod.silent.is_none());
            for pod in self.pods.values_mut().filter(|pod| pod.silent.is_none()) {
                let Some(receiver) = &mut pod.process else { continue };
                for sender in running().filter_map(|pod| pod.process.as_ref()) {
                    let knows = sender.table.contains_key(&receiver.id);
                    if sender.id != receiver.id && receiver.table.contains_key(&sender.id) && knows
                    {
                        receive_gossip(receiver, sender);
                    }
                }
            }
        }
        self.update_links();
        self.replicate();
    }

    /// Every node updates which of the known nodes do not answer at their address.
    fn update_links(&mut self) {
        let here = self.pods.values().filter(|pod| pod.silent.is_none());
        let here: BTreeMap<NodeId, String> =
            here.filter_map(|pod| Some((pod.process.as_ref()?.id, pod.address.clone()))).collect();
        for process in self.pods.values_mut().filter_map(|pod| pod.process.as_mut()) {
            for (id, row) in &mut process.table {
                let answers = here.get(id) == row.address.as_ref();
                row.connected = answers;
                if answers {
                    row.flags.remove(&NodeFlag::Fail);
                } else {
                    row.flags.insert(NodeFlag::Fail);
                }
            }
        }
    }

    fn replicate(&mut self) {
        let primaries: BTreeMap<NodeId, (u64, u64)> = self
            .pods
            .values()
            .filter_map(|pod| pod.process.as_ref())
            .map(|process| (process.id, (process.keys, process.offset_bytes)))
            .collect();
        for process in self.pods.values_mut().filter_map(|pod| pod.process.as_mut()) {
            let primary = process.table[&process.id].primary;
            if let Some((keys, offset)) = primary.and_then(|id| primaries.get(&id)) {
                (process.keys, process.offset_bytes) = (*keys, *offset);
            }
        }
    }
}

fn fresh(number: u32, address: &str, spec: &RedisClusterSpec) -> TestRedisProcess {
    let id: NodeId = format!("{number:040x}").parse().unwrap();
    let own = ClusterNodesRow {
        role: Role::Primary,
        address: Some(address.into()),
        primary: None,
        epoch: ConfigEpoch(0),
        slots: SlotSet::EMPTY,
        flags: BTreeSet::new(),
        connected: true,
    };
    TestRedisProcess {
        id,
        table: Table::from([(id, own)]),
        banned: BTreeSet::new(),
        node_timeout_ms: spec.failover.node_timeout_ms,
        keys: 0,
        offset_bytes: 0,
    }
}

/// One node learns what another reports about itself and about nodes that the first does not know.
fn receive_gossip(receiver: &mut TestRedisProcess, sender: &TestRedisProcess) {
    let sender_row = &sender.table[&sender.id];
    // If two primaries have the same epoch, the one with the lower id takes a new one.
    let highest = receiver.table.values().map(|row| row.epoch.0).max().unwrap_or_default();
    let own = receiver.table.get_mut(&receiver.id).unwrap();
    let both = own.role == Role::Primary && sender_row.role == Role::Primary;
    if both && own.epoch == sender_row.epoch && receiver.id < sender.id {
        own.epoch = ConfigEpoch(highest + 1);
    }
    // Slots go to the node with the higher epoch.
    for (id, row) in &mut receiver.table {
        if *id != sender.id && row.epoch < sender_row.epoch {
            let lost = row.slots.intersection(&sender_row.slots);
            row.slots = row.slots.difference(&lost);
            let emptied = !lost.is_empty() && row.slots.is_empty();
            if emptied && *id == receiver.id {
                (row.role, row.primary) = (Role::Replica, Some(sender.id));
            }
        }
    }
    let own_primary = receiver.table[&receiver.id].primary;
    let followed_loser = own_primary.is_some_and(|primary| {
        primary != sender.id
            && receiver.table.get(&primary).is_none_or(|row| row.slots.is_empty())
            && !sender_row.slots.is_empty()
            && sender.table.get(&primary).is_some_and(|row| row.slots.is_empty())
            && receiver.table.get(&sender.id).is_some_and(|row| row.primary == Some(primary))
    });
    if followed_loser && let Some(own) = receiver.table.get_mut(&receiver.id) {
        own.primary = Some(sender.id);
    }
    let others = receiver.table.iter().filter(|(id, _)| **id != sender.id);
    let claimed = others.filter(|(_, row)| sender_row.epoch <= row.epoch);
    let claimed = claimed.fold(SlotSet::EMPTY, |all, (_, row)| all.union(&row.slots));
    let mut row = sender_row.clone();
    row.slots = row.slots.difference(&claimed);
    receiver.table.insert(sender.id, row);
    for (id, row) in &sender.table {
        if !receiver.table.contains_key(id) && !receiver.banned.contains(id) && *id != receiver.id {
            let slots = SlotSet::EMPTY;
            receiver.table.insert(*id, ClusterNodesRow { slots, ..row.clone() });
        }
    }
}

fn report(shard: &ShardPlan) -> ShardStatus {
    let members = shard.members.iter().map(|(pod, view)| MemberStatus {
        pod: pod.clone(),
        node: view.node.map(|id| id.to_string()),
        role: view.role,
        in_sync: view.reports_sync().then_some(view.in_sync),
    });
    ShardStatus { name: shard.name.clone(), members: members.collect(), ..ShardStatus::default() }
}
